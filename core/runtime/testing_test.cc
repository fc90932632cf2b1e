// The functions by which a host tries the boundary.
#include "core/runtime/test_support.h"

namespace sluice::runtime {
namespace {

using TestingTest = RuntimeTest;

// A function of the test's own: gives how many arguments it got and the first one
int count_arguments(void* self, const TVMFFIAny* args, int32_t count, TVMFFIAny* result) {
  *static_cast<int32_t*>(self) = count;
  if (count != 0) *result = args[0];
  return 0;
}

TEST_F(TestingTest, EchoGivesBackWhatItGot) {
  EXPECT_EQ(call("testing.echo", {of_int(-5)}).view().v_int64, -5);
  EXPECT_EQ(call("testing.echo", {of_float(0.5)}).view().v_float64, 0.5);
  EXPECT_EQ(call("testing.echo", {ffi::none()}).view().type_index, kTVMFFINone);
  EXPECT_EQ(ffi::text(call("testing.echo", {of_text("short")}).view()), "short");
  EXPECT_EQ(ffi::text(call("testing.echo", {of_text("longer than seven bytes")}).view()),
            "longer than seven bytes");
  const Any tensor = floats({1, 2});
  const Any same = call("testing.echo", {tensor.view()});
  EXPECT_EQ(same.view().v_obj, tensor.view().v_obj);
  EXPECT_EQ(call("testing.object_use_count", {tensor.view()}).view().v_int64, 2);
  expect_call_raises("testing.echo", {}, "TypeError", {"takes 1 arguments, not 0"});
  expect_call_raises("testing.object_use_count", {of_int(1)}, "TypeError", {"an object"});
}

TEST_F(TestingTest, AddsOne) {
  EXPECT_EQ(call("tvmjs.testing.add_one", {of_int(-1)}).view().v_int64, 0);
  expect_call_raises("tvmjs.testing.add_one", {of_int(INT64_MAX)}, "OverflowError",
                     {"9223372036854775807"});
  expect_call_raises("tvmjs.testing.add_one", {of_float(1)}, "TypeError", {"int", "float"});
}

TEST_F(TestingTest, CallsAndWrapsFunctions) {
  int32_t counted = -1;
  const Handle function(ffi::make_function(&counted, count_arguments, nullptr).take());
  EXPECT_EQ(call("tvmjs.testing.call", {function.any(), of_int(4), of_int(5)}).view().v_int64, 4);
  EXPECT_EQ(counted, 2);
  const Any wrapped = call("tvmjs.testing.wrap_callback", {function.any()});
  EXPECT_EQ(call("tvmjs.testing.call", {wrapped.view(), of_int(4)}).view().type_index, kTVMFFINone);
  EXPECT_EQ(counted, 0);
  expect_call_raises("tvmjs.testing.call", {}, "TypeError", {"a function"});
  expect_call_raises("tvmjs.testing.call", {of_int(1)}, "TypeError", {"ffi.Function"});
  expect_call_raises("tvmjs.testing.wrap_callback", {of_int(1)}, "TypeError", {"ffi.Function"});
}

TEST_F(TestingTest, AnErrorKeepsItsKindThroughCalls) {
  const Handle raises = ffi::global("testing.test_raise_error");
  expect_call_raises("tvmjs.testing.call",
                     {raises.any(), of_text("KeyError"), of_text("no such thing")}, "KeyError",
                     {"no such thing"});
  expect_call_raises("testing.test_raise_error", {of_text("KeyError")}, "TypeError", {"2"});
  EXPECT_EQ(call("testing.nop", {of_int(1), of_int(2)}).view().type_index, kTVMFFINone);
}

TEST_F(TestingTest, LogsToTheHost) {
  call("tvmjs.testing.log_info_str", {of_text("nobody listens")});
  int32_t counted = -1;
  const Handle function(ffi::make_function(&counted, count_arguments, nullptr).take());
  const TVMFFIByteArray name = ffi::bytes_of("sluice.log");
  ASSERT_EQ(TVMFFIFunctionSetGlobal(&name, function.get(), 0), 0);
  call("tvmjs.testing.log_info_str", {of_text("heard")});
  EXPECT_EQ(counted, 1);
  call("ffi.FunctionRemoveGlobal", {of_text("sluice.log")});
  expect_call_raises("tvmjs.testing.log_info_str", {of_int(1)}, "TypeError", {"a string"});
}

}  // namespace
}  // namespace sluice::runtime
