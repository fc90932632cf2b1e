#include "core/runtime/tensor_cache.h"

#include "core/runtime/test_support.h"

namespace sluice::runtime {
namespace {

constexpr const char* kUpdate = "vm.builtin.tensor_cache.update";
constexpr const char* kGet = "vm.builtin.tensor_cache.get";

class TensorCacheTest : public RuntimeTest {
 protected:
  void TearDown() override { call("vm.builtin.tensor_cache.clear", {}); }

  static void put(const char* name, const Any& tensor) {
    call(kUpdate, {of_text(name), tensor.view(), of_int(0)});
  }
  static const void* object(const Any& value) { return value.view().v_obj; }
  static Any item(const Any& array, int64_t i) {
    return call("ffi.ArrayGetItem", {array.view(), of_int(i)});
  }
  static int64_t size(const Any& array) {
    return call("ffi.ArraySize", {array.view()}).view().v_int64;
  }
};

TEST_F(TensorCacheTest, KeepsTensorsByName) {
  const Any a = floats({1});
  const Any b = floats({2});
  put("a", a);
  EXPECT_EQ(object(call(kGet, {of_text("a")})), object(a));
  EXPECT_EQ(cached_tensor("a").get(), object(a));
  EXPECT_EQ(call(kGet, {of_text("b")}).view().type_index, kTVMFFINone);

  expect_call_raises(kUpdate, {of_text("a"), b.view()}, "ValueError", {kUpdate, "'a'", "already"});
  EXPECT_EQ(object(call(kGet, {of_text("a")})), object(a));
  call(kUpdate, {of_text("a"), b.view(), of_int(1)});
  EXPECT_EQ(object(call(kGet, {of_text("a")})), object(b));
  EXPECT_EQ(ffi::strong_count(a.view().v_obj), 1u);

  call("vm.builtin.tensor_cache.remove", {of_text("a")});
  call("vm.builtin.tensor_cache.remove", {of_text("never there")});
  EXPECT_EQ(call(kGet, {of_text("a")}).view().type_index, kTVMFFINone);
  put("a", a);
  put("b", b);
  call("vm.builtin.tensor_cache.clear", {});
  EXPECT_EQ(call(kGet, {of_text("b")}).view().type_index, kTVMFFINone);
  EXPECT_EQ(ffi::strong_count(b.view().v_obj), 1u);
}

TEST_F(TensorCacheTest, CopiesATensorThatItCannotKeep) {
  float content[] = {7, 8};
  int64_t extent = 2;
  DLTensor bare = {.data = content,
                   .device = kCpu,
                   .ndim = 1,
                   .dtype = kFloat32,
                   .shape = &extent,
                   .strides = nullptr,
                   .byte_offset = 0};
  call(kUpdate, {of_text("bare"), ffi::of_pointer(kTVMFFIDLTensorPtr, &bare)});
  content[0] = 0;
  EXPECT_EQ(elements<float>(call(kGet, {of_text("bare")})), (std::vector<float>{7, 8}));
}

TEST_F(TensorCacheTest, RefusesOtherThingsThanTensors) {
  expect_call_raises(kUpdate, {of_text("a"), of_int(1)}, "TypeError", {"argument 1", "a tensor"});
  expect_call_raises(kUpdate, {of_int(1), of_int(1)}, "TypeError", {"argument 0", "a string"});
  expect_call_raises(kUpdate, {of_text("a")}, "TypeError", {"2 or 3", "not 1"});
}

TEST_F(TensorCacheTest, GivesParametersByNumber) {
  constexpr const char* kNumbered = "vm.builtin.param_array_from_cache";
  const Any a = floats({1});
  const Any b = floats({2});
  put("param_0", a);
  put("param_1", b);
  const Any two = call(kNumbered, {of_text("param"), of_int(2)});
  ASSERT_EQ(size(two), 2);
  EXPECT_EQ(object(item(two, 1)), object(b));
  EXPECT_EQ(size(call(kNumbered, {of_text("param"), of_int(-1)})), 2);
  EXPECT_EQ(size(call(kNumbered, {of_text("none"), of_int(-1)})), 0);
  expect_call_raises(kNumbered, {of_text("param"), of_int(3)}, "KeyError",
                     {kNumbered, "'param_2'"});
  expect_call_raises(kNumbered, {of_text("param"), of_int(INT64_MAX)}, "KeyError", {"'param_2'"});
  expect_call_raises(kNumbered, {of_text("param"), of_int(-2)}, "ValueError", {"-2 parameters"});
}

TEST_F(TensorCacheTest, GivesParametersByName) {
  const Any a = floats({1});
  const Any b = floats({2});
  put("w", a);
  put("a name of more than seven bytes", b);
  const Any names =
      call("ffi.Array", {of_text("a name of more than seven bytes"), of_text("w"), of_text("w")});
  const Any found = call("vm.builtin.param_array_from_cache_by_name", {names.view()});
  ASSERT_EQ(size(found), 3);
  EXPECT_EQ(object(item(found, 0)), object(b));
  EXPECT_EQ(object(item(found, 2)), object(a));
  const Any listed = call("vm.builtin.param_array_from_cache_by_name_unpacked", {of_text("w")});
  EXPECT_EQ(object(item(listed, 0)), object(a));
  const Any wrong = call("ffi.Array", {of_text("w"), of_text("gone")});
  expect_call_raises("vm.builtin.param_array_from_cache_by_name", {wrong.view()}, "KeyError",
                     {"'gone'"});
  const Any numbers = call("ffi.Array", {of_int(1)});
  expect_call_raises("vm.builtin.param_array_from_cache_by_name", {numbers.view()}, "TypeError",
                     {"name 0", "a string", "int"});
  expect_call_raises("vm.builtin.param_array_from_cache_by_name_unpacked", {of_int(1)}, "TypeError",
                     {"argument 0"});
}

TEST_F(TensorCacheTest, AModuleGivesItsParameters) {
  const Any a = floats({1});
  put("p_0", a);
  const Any names = call("ffi.Array", {of_text("p_0")});
  for (Any module : {call("vm.builtin.param_module_from_cache", {of_text("p"), of_int(1)}),
                     call("vm.builtin.param_module_from_cache_by_name", {names.view()})}) {
    EXPECT_EQ(module.view().type_index, kTVMFFIModule);
    EXPECT_EQ(ffi::text(call("ffi.ModuleGetKind", {module.view()}).view()), "param_module");
    const Any none = call("ffi.ModuleGetFunction", {module.view(), of_text("other"), of_int(0)});
    EXPECT_EQ(none.view().type_index, kTVMFFINone);
    const Any get =
        call("ffi.ModuleGetFunction", {module.view(), of_text("get_params"), of_int(0)});
    module = Any();  // the function keeps what it gives
    const Any params = call("tvmjs.testing.call", {get.view()});
    EXPECT_EQ(object(item(params, 0)), object(a));
    expect_call_raises("tvmjs.testing.call", {get.view(), of_int(1)}, "TypeError",
                       {"get_params takes 0 arguments, not 1"});
  }
  EXPECT_EQ(ffi::strong_count(a.view().v_obj), 2u);  // ours and the cache's
}

}  // namespace
}  // namespace sluice::runtime
