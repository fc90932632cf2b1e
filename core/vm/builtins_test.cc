// vm.builtin.*: what they give, and what they say of wrong arguments.
#include "core/vm/test_support.h"

namespace sluice::vm {
namespace {

using ffi::Any;
using ffi::call;
using ffi::expect_call_raises;
using ffi::none;
using ffi::of_int;
using ffi::of_text;

constexpr DLDataType kInt64 = {kDLInt, 64, 1};

TVMFFIAny of_dtype(DLDataType dtype) {
  TVMFFIAny out{};
  out.type_index = kTVMFFIDataType;
  out.v_dtype = dtype;
  return out;
}

class Builtins : public testing::Test {
 protected:
  Machine machine{Assembler().bytes()};
  TVMFFIAny vm = machine.vm().as_argument();

  Any heap(int64_t size) { return call("vm.builtin.alloc_shape_heap", {vm, of_int(size)}); }
  Any storage(const std::vector<int64_t>& shape, DLDataType dtype = {kDLUInt, 8, 1}) {
    const Any extents = shape_of(shape);
    return call("vm.builtin.alloc_storage",
                {vm, extents.view(), of_int(0), of_dtype(dtype), of_text("global")});
  }
};

TEST_F(Builtins, ShapesAreMatchedAndStored) {
  const Any variables = heap(2), tensor = floats({3, 4, 5}, std::vector<float>(60));
  const auto match = [&](const TVMFFIAny& value, int64_t expected) {
    return std::vector<TVMFFIAny>{
        value,     variables.view(), of_int(3), of_int(0),        of_int(3),
        of_int(1), of_int(1),        of_int(2), of_int(expected), of_text("ctx")};
  };
  call("vm.builtin.match_shape", match(tensor.view(), 99));
  const Any made = call("vm.builtin.make_shape",
                        {variables.view(), of_int(2), of_int(1), of_int(1), of_int(0), of_int(-7)});
  EXPECT_EQ(shape_in(made), (std::vector<int64_t>{4, -7}));
  EXPECT_EQ(
      call("vm.builtin.make_prim_value", {variables.view(), of_int(1), of_int(1)}).view().v_int64,
      4);
  EXPECT_EQ(call("vm.builtin.make_prim_value", {none(), of_int(0), of_int(9)}).view().v_int64, 9);
  // Of a shape as of a tensor, and against what is stored
  const Any same = shape_of({4});
  call("vm.builtin.match_shape",
       {same.view(), variables.view(), of_int(1), of_int(3), of_int(1), of_text("")});
  const Any other = shape_of({5});
  expect_call_raises(
      "vm.builtin.match_shape",
      {other.view(), variables.view(), of_int(1), of_int(3), of_int(1), of_text("ctx")},
      "ValueError", {"vm.builtin.match_shape: ctx shape[0] is 5, and must be 4"});
  expect_call_raises("vm.builtin.match_shape",
                     {other.view(), none(), of_int(1), of_int(0), of_int(6), of_text("ctx")},
                     "ValueError", {"shape[0] is 5, and must be 6"});
  expect_call_raises("vm.builtin.match_shape", {other.view(), none(), of_int(0), of_text("ctx")},
                     "ValueError", {"there are 1 dimensions, and must be 0"});
}

TEST_F(Builtins, TheHeapIsNotLeft) {
  const Any variables = heap(2), shape = shape_of({1});
  for (const int64_t at : {int64_t{2}, int64_t{-1}, INT64_MAX}) {
    expect_call_raises(
        "vm.builtin.match_shape",
        {shape.view(), variables.view(), of_int(1), of_int(1), of_int(at), of_text("")},
        "IndexError", {"of 2 elements"});
    expect_call_raises("vm.builtin.make_shape",
                       {variables.view(), of_int(1), of_int(1), of_int(at)}, "IndexError",
                       {"of 2 elements"});
    expect_call_raises("vm.builtin.match_prim_value",
                       {of_int(1), variables.view(), of_int(3), of_int(at), of_text("")},
                       "IndexError", {"of 2 elements"});
  }
  expect_call_raises("vm.builtin.make_shape", {none(), of_int(1), of_int(1), of_int(0)},
                     "IndexError", {"index 0 of 0 elements"});
  expect_call_raises("vm.builtin.make_shape", {none(), of_int(1), of_int(2), of_int(0)},
                     "ValueError", {"the unknown code 2"});
  expect_call_raises("vm.builtin.make_shape", {none(), of_int(2), of_int(0), of_int(0)},
                     "TypeError", {"4 arguments, for 2 extents"});
  expect_call_raises("vm.builtin.make_shape", {none(), of_int(INT64_MAX)}, "TypeError",
                     {"2 arguments, for 9223372036854775807 extents"});
  expect_call_raises("vm.builtin.match_shape", {shape.view(), none(), of_int(9), of_text("")},
                     "TypeError", {"4 arguments are too few for 9 extents"});
  expect_call_raises("vm.builtin.match_shape",
                     {shape.view(), none(), of_int(1), of_int(4), of_int(0), of_text("")},
                     "ValueError", {"the unknown code 4"});
  const Any wrong = floats({2}, {1, 2});
  expect_call_raises("vm.builtin.make_prim_value", {wrong.view(), of_int(1), of_int(0)},
                     "TypeError", {"the heap of shapes must be int64", "float32[2]"});
  expect_call_raises("vm.builtin.alloc_shape_heap", {vm, of_int(-1)}, "ValueError", {"-1"});
}

TEST_F(Builtins, ChecksOfArguments) {
  const Any tensor = floats({2, 3}, std::vector<float>(6)), shape = shape_of({1, 2});
  const TVMFFIAny f32 = of_dtype(runtime::kFloat32), ctx = of_text("ctx");
  call("vm.builtin.check_tensor_info", {tensor.view(), of_int(2), f32, ctx});
  call("vm.builtin.check_tensor_info", {tensor.view(), of_int(-1), ctx});
  call("vm.builtin.check_tensor_info", {tensor.view(), of_int(2), none(), ctx});
  expect_call_raises("vm.builtin.check_tensor_info", {tensor.view(), of_int(1), f32, ctx},
                     "ValueError", {"ctx it has 2 dimensions, and must have 1"});
  expect_call_raises("vm.builtin.check_tensor_info",
                     {tensor.view(), of_int(2), of_dtype(kInt64), ctx}, "ValueError",
                     {"it is of float32, and must be of int64"});
  expect_call_raises("vm.builtin.check_tensor_info", {shape.view(), of_int(2), f32, ctx},
                     "TypeError", {"it must be a tensor, not ffi.Shape"});
  call("vm.builtin.check_shape_info", {shape.view(), of_int(2), ctx});
  call("vm.builtin.check_shape_info", {shape.view(), of_int(-1), ctx});
  expect_call_raises("vm.builtin.check_shape_info", {shape.view(), of_int(3), ctx}, "ValueError",
                     {"it is a shape of 2, and must be of 3"});
  expect_call_raises("vm.builtin.check_shape_info", {none(), of_int(3), ctx}, "TypeError",
                     {"it must be a shape, not None"});
  const Any tuple = call("vm.builtin.make_tuple", {of_int(1)});
  call("vm.builtin.check_tuple_info", {tuple.view(), of_int(1), ctx});
  expect_call_raises("vm.builtin.check_tuple_info", {tuple.view(), of_int(2), ctx}, "ValueError",
                     {"it is a tuple of 1, and must be of 2"});
  call("vm.builtin.check_prim_value_info", {of_int(1), of_dtype(kInt64), ctx});
  call("vm.builtin.check_prim_value_info", {ffi::of_float(1), f32, ctx});
  expect_call_raises("vm.builtin.check_prim_value_info", {ffi::of_float(1), of_dtype(kInt64), ctx},
                     "TypeError", {"it must be of int64, not float"});
  expect_call_raises("vm.builtin.check_prim_value_info", {tensor.view(), f32, ctx}, "TypeError",
                     {"not ffi.Tensor"});
  const ffi::Handle function = ffi::global("vm.builtin.copy");
  call("vm.builtin.check_func_info", {function.any(), ctx});
  expect_call_raises("vm.builtin.check_func_info", {tensor.view(), ctx}, "TypeError",
                     {"it must be a function, not ffi.Tensor"});
}

TEST_F(Builtins, StorageIsUsedAgain) {
  Allocator* allocator = machine.vm().allocators()[0];
  allocator->clear();
  const uint64_t before = allocator->held_bytes();
  const void* first = nullptr;
  for (int i = 0; i < 100; ++i) {
    const Any place = storage({1000, 10});
    const Any shape = shape_of({10});
    const Any tensor = call("vm.builtin.alloc_tensor",
                            {place.view(), of_int(0), shape.view(), of_dtype(runtime::kFloat32)});
    if (i == 0) first = tensor_in(tensor.view()).data;
    EXPECT_EQ(tensor_in(tensor.view()).data, first);
  }
  // Rounded up to pages of 4096 bytes
  EXPECT_EQ(allocator->held_bytes() - before, 12288U);
  EXPECT_EQ(allocator->unused_bytes(), 12288U);
  // One that is somewhat smaller takes it, one that is much smaller does not
  const Any close = storage({9800});
  EXPECT_EQ(tensor_in(close.view()).data, first);
  const Any small = storage({100});
  EXPECT_EQ(allocator->held_bytes() - before, 16384U);
  call("vm.builtin.memory_manager.clear", {});
  EXPECT_EQ(allocator->held_bytes() - before, 16384U);  // both are in use
}

TEST_F(Builtins, MemoryMayBeLimited) {
  Allocator* allocator = machine.vm().allocators()[0];
  allocator->clear();
  allocator->set_limit(allocator->held_bytes() + 8192);
  const Any half = storage({4000});
  const Any shape = shape_of({4097});
  expect_call_raises("vm.builtin.alloc_storage",
                     {vm, shape.view(), of_int(0), of_dtype({kDLUInt, 8, 1}), of_text("")},
                     "MemoryError", {"vm.builtin.alloc_storage: 8192 bytes beside the ", "in use"});
  const Any rest = storage({4096});
  allocator->set_limit(UINT64_MAX);
}

TEST_F(Builtins, ATensorKeepsItsStorage) {
  Any tensor;
  {
    const Any place = storage({64});
    const Any shape = shape_of({2, 2});
    tensor = call("vm.builtin.alloc_tensor", {place.view(), of_int(16), shape.view(),
                                              of_dtype(runtime::kFloat32), of_text("global")});
  }
  const Any other = storage({64});
  EXPECT_NE(tensor_in(other.view()).data, tensor_in(tensor.view()).data);
  EXPECT_EQ(tensor_in(tensor.view()).byte_offset, 16U);
  const Any moved = call("vm.builtin.ensure_zero_offset", {tensor.view()});
  EXPECT_EQ(tensor_in(moved.view()).byte_offset, 0U);
  const Any same = call("vm.builtin.ensure_zero_offset", {moved.view()});
  EXPECT_EQ(same.view().v_obj, moved.view().v_obj);
}

TEST_F(Builtins, StorageIsNotLeft) {
  const Any place = storage({64}), shape = shape_of({2, 2});
  const auto alloc = [&](int64_t offset, DLDataType dtype) {
    return std::vector<TVMFFIAny>{place.view(), of_int(offset), shape.view(), of_dtype(dtype)};
  };
  expect_call_raises("vm.builtin.alloc_tensor", alloc(52, runtime::kFloat32), "ValueError",
                     {"vm.builtin.alloc_tensor", "16 bytes at byte 52", "which has 64"});
  expect_call_raises("vm.builtin.alloc_tensor", alloc(-16, runtime::kFloat32), "ValueError",
                     {"the offset is -16"});
  expect_call_raises("vm.builtin.alloc_tensor", alloc(INT64_MAX, runtime::kFloat32), "ValueError",
                     {"9223372036854775807"});
  expect_call_raises("vm.builtin.alloc_tensor", alloc(2, runtime::kFloat32), "ValueError",
                     {"byte 2 is no place for float32"});
  expect_call_raises("vm.builtin.alloc_tensor", alloc(0, {99, 7, 1}), "ValueError", {"code 99"});
  const Any huge = shape_of({INT64_MAX, INT64_MAX});
  expect_call_raises("vm.builtin.alloc_storage",
                     {vm, huge.view(), of_int(0), of_dtype(kInt64), of_text("global")},
                     "ValueError", {"vm.builtin.alloc_storage"});
  expect_call_raises("vm.builtin.alloc_storage",
                     {vm, shape.view(), of_int(1), of_dtype(kInt64), of_text("global")},
                     "ValueError", {"device 1 of the VM's 1"});
  expect_call_raises("vm.builtin.alloc_storage",
                     {vm, shape.view(), of_int(0), of_dtype(kInt64), of_text("texture")},
                     "ValueError", {"the memory scope 'texture', known is 'global'"});
  expect_call_raises("vm.builtin.alloc_tensor", {place.view()}, "TypeError",
                     {"takes 4 to 5 arguments, not 1"});
}

TEST_F(Builtins, TensorsAsAWhole) {
  const Any tensor = floats({2, 3}, {1, 2, 3, 4, 5, 6}), six = shape_of({6});
  const Any flat = call("vm.builtin.reshape", {tensor.view(), six.view()});
  EXPECT_EQ(shape_in(flat), (std::vector<int64_t>{6}));
  EXPECT_EQ(elements(flat), (std::vector<float>{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(shape_in(call("vm.builtin.shape_of", {tensor.view()})), (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(call("vm.builtin.copy", {tensor.view()}).view().v_obj, tensor.view().v_obj);
  EXPECT_EQ(call("vm.builtin.null_value", {}).view().type_index, kTVMFFINone);
  const Any copied = call("vm.builtin.to_device", {tensor.view(), of_int(1), of_int(0)});
  EXPECT_NE(tensor_in(copied.view()).data, tensor_in(tensor.view()).data);
  EXPECT_EQ(elements(copied), elements(tensor));
  const Any seven = shape_of({7});
  expect_call_raises("vm.builtin.reshape", {tensor.view(), seven.view()}, "ValueError",
                     {"28 bytes"});
  expect_call_raises("vm.builtin.to_device", {tensor.view(), of_int(99), of_int(0)}, "ValueError",
                     {"99"});
}

TEST_F(Builtins, IntegersOfTensors) {
  const Any shape = call("vm.builtin.tensor_to_shape",
                         {tensor_of<int32_t>({kDLInt, 32, 1}, {3}, {-1, 2, INT32_MAX}).view()});
  EXPECT_EQ(shape_in(shape), (std::vector<int64_t>{-1, 2, INT32_MAX}));
  const Any wide = tensor_of<int64_t>(kInt64, {1}, {INT64_MIN});
  EXPECT_EQ(shape_in(call("vm.builtin.tensor_to_shape", {wide.view()})),
            (std::vector<int64_t>{INT64_MIN}));
  const Any matrix = tensor_of<int64_t>(kInt64, {1, 1}, {1}), real = floats({1}, {1});
  expect_call_raises("vm.builtin.tensor_to_shape", {matrix.view()}, "ValueError",
                     {"int64[1, 1] on cpu:0 is no list"});
  expect_call_raises("vm.builtin.tensor_to_shape", {real.view()}, "TypeError",
                     {"of float32, not of integers"});

  const auto truth = [](const Any& value) {
    return call("vm.builtin.read_if_cond", {value.view()}).view().v_int64;
  };
  EXPECT_EQ(truth(tensor_of<uint8_t>({kDLBool, 8, 1}, {}, {1})), 1);
  EXPECT_EQ(truth(tensor_of<uint8_t>({kDLBool, 8, 1}, {}, {0})), 0);
  EXPECT_EQ(truth(tensor_of<int16_t>({kDLInt, 16, 1}, {1}, {256})), 1);
  EXPECT_EQ(truth(wide), 1);
  EXPECT_EQ(call("vm.builtin.read_if_cond", {of_int(0)}).view().v_int64, 0);
  const Any two = tensor_of<int64_t>(kInt64, {2}, {1, 1});
  expect_call_raises("vm.builtin.read_if_cond", {two.view()}, "ValueError",
                     {"int64[2] on cpu:0 is no single value"});
}

TEST_F(Builtins, Tuples) {
  const Any text = call("vm.builtin.copy", {of_text("a text of some length")});
  const Any tuple = call("vm.builtin.make_tuple", {text.view(), of_int(5)});
  EXPECT_EQ(call("vm.builtin.tuple_getitem", {tuple.view(), of_int(1)}).view().v_int64, 5);
  EXPECT_EQ(ffi::strong_count(text.view().v_obj), 2U);
  call("vm.builtin.tuple_reset_item", {tuple.view(), of_int(0)});
  EXPECT_EQ(ffi::strong_count(text.view().v_obj), 1U);
  EXPECT_EQ(call("vm.builtin.tuple_getitem", {tuple.view(), of_int(0)}).view().type_index,
            kTVMFFINone);
  expect_call_raises("vm.builtin.tuple_getitem", {tuple.view(), of_int(2)}, "IndexError",
                     {"index 2 of 2"});
  expect_call_raises("vm.builtin.tuple_reset_item", {tuple.view(), of_int(-1)}, "IndexError",
                     {"index -1"});
}

int last_argument(void*, const TVMFFIAny* args, int32_t count, TVMFFIAny* result) {
  *result = of_int(count * 1000 + (count == 0 ? 0 : args[count - 1].v_int64));
  return 0;
}

TEST_F(Builtins, CallsOfOtherFunctions) {
  const auto function = ffi::make_function(nullptr, last_argument, nullptr);
  const TVMFFIAny callee = ffi::of_object(&function->header);
  const Any shape = shape_of({7, 8});
  EXPECT_EQ(call("vm.builtin.call_tir_dyn", {callee, of_int(1), shape.view()}).view().v_int64,
            3008);
  EXPECT_EQ(call("vm.builtin.invoke_closure", {vm, callee, of_int(5)}).view().v_int64, 1005);
  static constexpr ffi::Builtin kDebug[] = {{"test.debug", last_argument}};
  if (!ffi::find_function("test.debug")) ASSERT_EQ(ffi::register_functions(kDebug), 0);
  EXPECT_EQ(call("vm.builtin.invoke_debug_func",
                 {none(), of_text("test.debug"), of_text("line"), of_int(1)})
                .view()
                .type_index,
            kTVMFFINone);
  expect_call_raises("vm.builtin.invoke_debug_func", {none(), of_text("test.no"), of_text("line")},
                     "ValueError", {"no global function 'test.no'"});
  expect_call_raises("vm.builtin.call_py_func", {none()}, "RuntimeError", {"cannot call Python"});
  expect_call_raises("vm.builtin.make_closure", {callee}, "TypeError", {"a closure"});
  // Each call takes the first and the last argument off, and the next one stands in it
  const ffi::Handle dynamic = ffi::global("vm.builtin.call_tir_dyn");
  const Any nothing = shape_of({});
  std::vector<TVMFFIAny> nested(1000, dynamic.any());
  nested.resize(2000, nothing.view());
  expect_call_raises("vm.builtin.call_tir_dyn", nested, "RecursionError", {"more than 128 calls"});
  expect_call_raises("vm.builtin.call_tir_dyn", {callee}, "TypeError", {"at least 2"});
  expect_call_raises("vm.builtin.invoke_closure", {vm}, "TypeError", {"at least 2"});
}

}  // namespace
}  // namespace sluice::vm
