// Functions by which a host tries the boundary, under the names that tvmjs and tvm-ffi give them.
#include <cstdint>

#include "core/ffi/registry.h"
#include "core/runtime/runtime.h"

namespace sluice::runtime {
namespace {

using ffi::Any;
using ffi::Args;
using ffi::FunctionObject;

int nop(void*, const TVMFFIAny*, int32_t, TVMFFIAny*) { return 0; }

int echo(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  Any value;
  if (!args.expect(1) || !args.owned(0, &value)) return -1;
  *result = value.take();
  return 0;
}

int add_one(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  int64_t value = 0;
  if (!args.expect(1) || !args.integer(0, &value)) return -1;
  if (value == INT64_MAX)
    return ffi::raise("OverflowError",
                      concat(args.name(), ": ", value, " + 1 needs more than 64 bits"));
  *result = ffi::of_int(value + 1);
  return 0;
}

// (f, arguments…) -> f(arguments…)
int call(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  if (count == 0)
    return ffi::raise_type(concat(args.name(), " takes a function and its arguments"));
  auto* function = args.object<FunctionObject>(0, kTVMFFIFunction);
  if (function == nullptr) return -1;
  Any returned;
  if (ffi::call(function, {values + 1, static_cast<size_t>(count) - 1}, &returned) != 0) return -1;
  *result = returned.take();
  return 0;
}

int call_wrapped(void* self, const TVMFFIAny*, int32_t, TVMFFIAny*) {
  Any returned;
  return ffi::call(static_cast<FunctionObject*>(self), {}, &returned);
}

// (f) -> a function that calls f() and returns nothing
int wrap_callback(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  if (!args.expect(1)) return -1;
  auto* function = args.object<FunctionObject>(0, kTVMFFIFunction);
  if (function == nullptr) return -1;
  ffi::retain(&function->header);
  auto wrapped = ffi::make_function(function, call_wrapped, [](void* self) {
    ffi::release_nested(&static_cast<FunctionObject*>(self)->header);
  });
  if (!wrapped) return -1;
  *result = ffi::of_object(std::move(wrapped));
  return 0;
}

// Strong references to an object, those of the argument itself not counted
int use_count(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  if (!args.expect(1)) return -1;
  const TVMFFIAny value = args.at(0);
  if (!ffi::is_object(value.type_index) || value.v_obj == nullptr)
    return args.wrong(0, "an object");
  *result = ffi::of_int(ffi::strong_count(value.v_obj));
  return 0;
}

// (kind, message): fails with that error
int raise_error(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny*) {
  const Args args(handle, values, count);
  std::string_view kind;
  std::string_view message;
  if (!args.expect(2) || !args.string(0, &kind) || !args.string(1, &message)) return -1;
  return ffi::raise(kind, message);
}

// Goes to the host's function sluice.log(text), where it has registered one
int log_text(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny*) {
  const Args args(handle, values, count);
  std::string_view text;
  if (!args.expect(1) || !args.string(0, &text)) return -1;
  const auto log = ffi::find_function("sluice.log");
  Any returned;
  return log ? ffi::call(log.get(), {values, 1}, &returned) : 0;
}

constexpr ffi::Builtin kBuiltins[] = {
    {"testing.add_one", add_one},
    {"testing.echo", echo},
    {"testing.nop", nop},
    {"testing.object_use_count", use_count},
    {"testing.test_raise_error", raise_error},
    {"tvmjs.testing.add_one", add_one},
    {"tvmjs.testing.call", call},
    {"tvmjs.testing.log_info_str", log_text},
    {"tvmjs.testing.wrap_callback", wrap_callback},
};

}  // namespace

std::span<const ffi::Builtin> testing_builtins() { return kBuiltins; }

}  // namespace sluice::runtime
