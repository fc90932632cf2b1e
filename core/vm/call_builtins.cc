// vm.builtin.*: closures, calls of other functions, and tuples.
#include <vector>

#include "core/ffi/container.h"
#include "core/ffi/registry.h"
#include "core/vm/virtual_machine.h"
#include "core/vm/vm.h"

namespace sluice::vm {
namespace {

using ffi::Any;
using ffi::Args;
using ffi::FunctionObject;
using ffi::Ref;

bool expect_at_least(const Args& args, int32_t count) {
  if (args.size() >= count) return true;
  ffi::raise_type(concat(args.name(), " takes at least ", count, " arguments, not ", args.size()));
  return false;
}

// Arguments [first, last)
std::vector<TVMFFIAny> some_of(const Args& args, int32_t first, int32_t last) {
  std::vector<TVMFFIAny> out;
  for (int32_t i = first; i < last; ++i) out.push_back(args.at(i));
  return out;
}

int give(Any value, TVMFFIAny* result) {
  *result = value.take();
  return 0;
}

// (closure, arguments…): a closure that takes the other arguments and passes these behind them
int make_closure_of(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  if (!expect_at_least(args, 1)) return -1;
  const ClosureObject* closure = as_closure(args.at(0));
  if (closure == nullptr) return args.wrong(0, "a closure");
  auto bound = capture(*closure, ffi::text(closure->name.view()), some_of(args, 1, args.size()));
  if (!bound) return -1;
  *result = ffi::of_object(std::move(bound));
  return 0;
}

// (VM, closure or function, arguments…)
int invoke_closure(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  VirtualMachine* machine =
      expect_at_least(args, 2) ? VirtualMachine::of(args.at(0), args.name()) : nullptr;
  const NestedCall nested(args.name());
  Any out;
  if (machine == nullptr || !nested ||
      machine->invoke(args.at(1), some_of(args, 2, args.size()), &out) != 0)
    return -1;
  return give(std::move(out), result);
}

// (function, arguments…, shape): the extents go behind the arguments
int call_tir_dyn(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  if (!expect_at_least(args, 2)) return -1;
  auto* function = args.object<FunctionObject>(0, kTVMFFIFunction);
  std::vector<int64_t> storage;
  std::span<const int64_t> extents;
  if (function == nullptr || !args.shape(args.size() - 1, &storage, &extents)) return -1;
  auto all = some_of(args, 1, args.size() - 1);
  for (const int64_t extent : extents) all.push_back(ffi::of_int(extent));
  const NestedCall nested(args.name());
  Any out;
  if (!nested || ffi::call(function, all, &out) != 0) return -1;
  return give(std::move(out), result);
}

// (none, name of a global function, where in the source, arguments…): calls it with the latter two
int invoke_debug_func(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  std::string_view name, line;
  if (!expect_at_least(args, 3) || !args.string(1, &name) || !args.string(2, &line)) return -1;
  if (args.at(0).type_index != kTVMFFINone) return args.wrong(0, "none");
  const auto function = ffi::find_function(name);
  if (!function)
    return ffi::raise_value(concat(args.name(), ": there is no global function ", quote(name)));
  *result = ffi::none();
  const NestedCall nested(args.name());
  Any nothing;
  return !nested ? -1 : ffi::call(function.get(), some_of(args, 2, args.size()), &nothing);
}

int call_py_func(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny*) {
  return ffi::raise("RuntimeError", concat(Args(handle, values, count).name(),
                                           ": a model for the web cannot call Python"));
}

// ---- Tuples ----

int make_tuple(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  const auto items = some_of(args, 0, args.size());
  auto tuple = ffi::make_array(items.data(), items.size());
  if (!tuple) return -1;
  *result = ffi::of_object(std::move(tuple));
  return 0;
}

// (tuple, index)
ffi::ArrayObject* item_arguments(const Args& args, size_t* index) {
  auto* tuple = args.expect(2) ? args.object<ffi::ArrayObject>(0, kTVMFFIArray) : nullptr;
  if (tuple == nullptr || !args.index(1, static_cast<size_t>(tuple->cell.size), index))
    return nullptr;
  return tuple;
}

int tuple_getitem(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  size_t index = 0;
  const auto* tuple = item_arguments(Args(handle, values, count), &index);
  return tuple == nullptr ? -1 : give(Any::share(tuple->items()[index]), result);
}

// Lets go of an element, so that its memory can be used again before the tuple ends
int tuple_reset_item(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  size_t index = 0;
  auto* tuple = item_arguments(Args(handle, values, count), &index);
  if (tuple == nullptr) return -1;
  *result = ffi::none();
  const Any ended =
      Any::adopt(std::exchange(static_cast<TVMFFIAny*>(tuple->cell.data)[index], ffi::none()));
  return 0;
}

constexpr ffi::Builtin kBuiltins[] = {
    {"vm.builtin.make_closure", make_closure_of},
    {"vm.builtin.invoke_closure", invoke_closure},
    {"vm.builtin.call_tir_dyn", call_tir_dyn},
    {"vm.builtin.invoke_debug_func", invoke_debug_func},
    {"vm.builtin.call_py_func", call_py_func},
    {"vm.builtin.make_tuple", make_tuple},
    {"vm.builtin.tuple_getitem", tuple_getitem},
    {"vm.builtin.tuple_reset_item", tuple_reset_item},
};

}  // namespace

std::span<const ffi::Builtin> call_builtins() { return kBuiltins; }

}  // namespace sluice::vm
