// The compiled fixture `control` with kernels in C++: the same bytecode as in wasm.
#include <map>

#include "core/vm/test_support.h"

namespace sluice::vm {
namespace {

using ffi::Any;
using ffi::of_text;

// The kernels of control_cpu.vm; the last argument is the result's tensor
const DLTensor& tensor_at(const TVMFFIAny* args, int32_t i) {
  return reinterpret_cast<ffi::TensorObject*>(args[i].v_obj)->tensor;
}
template <class T = float>
T* data_at(const TVMFFIAny* args, int32_t i) {
  const DLTensor& tensor = tensor_at(args, i);
  return reinterpret_cast<T*>(static_cast<char*>(tensor.data) + tensor.byte_offset);
}

template <class Operation>
int elementwise(const TVMFFIAny* args, Operation operation) {
  const uint64_t count = runtime::element_count(tensor_at(args, 2));
  for (uint64_t i = 0; i < count; ++i)
    data_at(args, 2)[i] = operation(data_at(args, 0)[i], data_at(args, 1)[i]);
  return 0;
}
int add(void*, const TVMFFIAny* args, int32_t, TVMFFIAny*) {
  return elementwise(args, std::plus<float>());
}
int subtract(void*, const TVMFFIAny* args, int32_t, TVMFFIAny*) {
  return elementwise(args, std::minus<float>());
}
int same_elements(void*, const TVMFFIAny* args, int32_t, TVMFFIAny*) {
  std::memcpy(data_at(args, 1), data_at(args, 0), runtime::element_count(tensor_at(args, 1)) * 4);
  return 0;
}
int is_not_positive(void*, const TVMFFIAny* args, int32_t, TVMFFIAny*) {
  *data_at<uint8_t>(args, 1) = *data_at<int32_t>(args, 0) <= 0 ? 1 : 0;
  return 0;
}
int decrement(void*, const TVMFFIAny* args, int32_t, TVMFFIAny*) {
  *data_at<int32_t>(args, 1) = *data_at<int32_t>(args, 0) - 1;
  return 0;
}
// Of flatten: n, m, then bytes and elements
int flat_shape(void*, const TVMFFIAny* args, int32_t, TVMFFIAny*) {
  auto* heap = data_at<int64_t>(args, 0);
  heap[2] = heap[0] * heap[1] * 4;
  heap[3] = heap[0] * heap[1];
  return 0;
}
// Of reshape_as: a, b, then bytes
int two_shape(void*, const TVMFFIAny* args, int32_t, TVMFFIAny*) {
  auto* heap = data_at<int64_t>(args, 0);
  heap[2] = heap[0] * heap[1] * 4;
  return 0;
}
// Of shapes: n, m, then n * 2 + m and n * m
int sum_shape(void*, const TVMFFIAny* args, int32_t, TVMFFIAny*) {
  auto* heap = data_at<int64_t>(args, 0);
  heap[2] = heap[0] * 2 + heap[1];
  heap[3] = heap[0] * heap[1];
  return 0;
}
// Of tuples: n, then bytes
int vector_shape(void*, const TVMFFIAny* args, int32_t, TVMFFIAny*) {
  auto* heap = data_at<int64_t>(args, 0);
  heap[1] = heap[0] * 4;
  return 0;
}
int twice(void*, const TVMFFIAny* args, int32_t, TVMFFIAny* result) {
  std::vector<float> out;
  for (uint64_t i = 0; i < runtime::element_count(tensor_at(args, 0)); ++i)
    out.push_back(data_at(args, 0)[i] * 2);
  *result = floats({static_cast<int64_t>(out.size())}, out).take();
  return 0;
}

// A library of kernels, in the place of the linked one
int get_kernel(ffi::ModuleObject*, std::string_view name, TVMFFIAny* out) {
  static const std::map<std::string_view, TVMFFISafeCallType> kKernels = {
      {"add", add},
      {"add1", add},
      {"add2", add},
      {"subtract", subtract},
      {"subtract1", decrement},
      {"less_equal", is_not_positive},
      {"reshape", same_elements},
      {"reshape1", same_elements},
      {"shape_func", flat_shape},
      {"shape_func1", two_shape},
      {"shape_func2", sum_shape},
      {"shape_func3", vector_shape},
      {"sluice.test.twice", twice}};
  *out = ffi::none();
  const auto kernel = kKernels.find(name);
  if (kernel != kKernels.end())
    *out = ffi::of_object(ffi::make_function(nullptr, kernel->second, nullptr));
  return 0;
}
constexpr ffi::ModuleKind kLibrary = {.name = "library",
                                      .property_mask = 0,
                                      .get_function = get_kernel,
                                      .get_metadata = nullptr,
                                      .get_doc = nullptr,
                                      .destroy = nullptr};

class Control : public testing::Test {
 protected:
  void SetUp() override {
    initialize();
    executable = make_executable_module(fixture("control_cpu.vm"));
    ASSERT_TRUE(executable);
    const auto library = ffi::make_module(kLibrary, 0);
    ASSERT_EQ(ffi::import_module(executable.get(), library.get()), 0);
    machine = make_machine(executable.get());
    call("vm_initialization", {ffi::of_int(1), ffi::of_int(0), ffi::of_int(2)});
  }
  Any call(std::string_view name, std::vector<TVMFFIAny> args) {
    Any function, result;
    EXPECT_EQ(ffi::get_function(machine.get(), name, true, &function), 0);
    EXPECT_EQ(TVMFFIFunctionCall(function.view().v_obj, args.data(),
                                 static_cast<int32_t>(args.size()), result.receive()),
              0)
        << ffi::take_raised().message;
    return result;
  }

  ffi::Ref<ffi::ModuleObject> executable, machine;
};

TEST_F(Control, RunsAsInWasm) {
  const Any x = floats({3}, {1, -2, 0.5});
  const Any five = tensor_of<int32_t>(runtime::kInt32, {}, {5});
  EXPECT_EQ(elements(call("countdown", {five.view(), x.view()})),
            (std::vector<float>{32, -64, 16}));
  const Any a = floats({2, 3}, {0, 1, 2, 3, 4, 5}), b = floats({2, 3}, {1, 1, 1, 1, 1, 1});
  EXPECT_EQ(elements(call("captured", {a.view(), b.view()})),
            (std::vector<float>{-1, 0, 1, 2, 3, 4}));
  const Any adder = call("make_adder", {a.view()});
  EXPECT_EQ(elements(call("invoke_closure", {adder.view(), b.view()})),
            (std::vector<float>{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(shape_in(call("shapes", {a.view()})), (std::vector<int64_t>{7, 6, 7}));
  const Any flat = call("flatten", {a.view()});
  EXPECT_EQ(shape_in(flat), (std::vector<int64_t>{6}));
  EXPECT_EQ(elements(flat), elements(a));
  const Any three_two = tensor_of<int64_t>({kDLInt, 64, 1}, {2}, {3, 2});
  EXPECT_EQ(shape_in(call("reshape_as", {flat.view(), three_two.view()})),
            (std::vector<int64_t>{3, 2}));
  const Any two = floats({2}, {1.5, 4});
  EXPECT_EQ(elements(call("missing", {two.view()})), (std::vector<float>{3, 8}));
}

TEST_F(Control, ConstantsOfEveryDtype) {
  const Any all = call("constants", {});
  const auto item = [&](int64_t i) {
    return ffi::call("vm.builtin.tuple_getitem", {all.view(), ffi::of_int(i)});
  };
  EXPECT_EQ(elements(item(0)), (std::vector<float>{1.5, -2.25}));
  EXPECT_EQ(elements<uint16_t>(item(1)), (std::vector<uint16_t>{0x3800, 0xC800}));
  EXPECT_EQ(elements<int8_t>(item(2)), (std::vector<int8_t>{-128, 0, 127}));
  EXPECT_EQ(elements<uint8_t>(item(3)), (std::vector<uint8_t>{0, 255}));
  EXPECT_EQ(elements<int32_t>(item(4)), (std::vector<int32_t>{INT32_MIN, INT32_MAX}));
  EXPECT_EQ(elements<int64_t>(item(5)),
            (std::vector<int64_t>{-(int64_t{1} << 40), int64_t{1} << 40}));
  EXPECT_EQ(elements<uint8_t>(item(6)), (std::vector<uint8_t>{1, 0}));
  EXPECT_EQ(elements<double>(item(7)), (std::vector<double>{1e300, -0.5}));
  EXPECT_EQ(elements(item(8)), (std::vector<float>{7}));
  EXPECT_EQ(shape_in(item(9)), (std::vector<int64_t>{3, 4}));
}

// After a call, its storage is unused; the next call takes it
TEST_F(Control, MemoryDoesNotGrow) {
  Allocator* allocator = machine_of(machine.get())->allocators()[0];
  const Any a = floats({2, 3}, {0, 1, 2, 3, 4, 5});
  call("flatten", {a.view()});
  const uint64_t held = allocator->held_bytes();
  for (int i = 0; i < 1000; ++i) call("flatten", {a.view()});
  EXPECT_EQ(allocator->held_bytes(), held);
}

}  // namespace
}  // namespace sluice::vm
