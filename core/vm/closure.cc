#include "core/vm/closure.h"

#include <memory>
#include <new>
#include <vector>

#include "core/ffi/registry.h"

namespace sluice::vm {
namespace {

using ffi::Any;
using ffi::FunctionObject;
using ffi::Ref;

void delete_closure(void* self, int flags) {
  auto* closure = static_cast<ClosureObject*>(self);
  if ((flags & kTVMFFIObjectDeleterFlagBitMaskStrong) != 0) {
    // A bound argument may be a closure in turn, and so on
    if (FunctionObject* function = closure->function.take()) ffi::release_nested(&function->header);
    std::destroy_at(&closure->name);
    std::destroy_at(&closure->function);
  }
  if ((flags & kTVMFFIObjectDeleterFlagBitMaskWeak) != 0) ffi::free_object(self);
}

// -1 after raising an error where memory ends
int32_t closure_type() {
  static constinit int32_t index = -1;
  if (index < 0) {
    constexpr std::string_view kKey = "relax.vm.Closure";
    const TVMFFIByteArray key = {kKey.data(), kKey.size()};
    index = TVMFFITypeGetOrAllocIndex(&key, -1, 1, 0, 0, kTVMFFIObject);
  }
  return index;
}

struct Bound {
  Ref<FunctionObject> function;
  std::vector<Any> last;
};

int call_bound(void* self, const TVMFFIAny* args, int32_t count, TVMFFIAny* result) {
  const auto& bound = *static_cast<const Bound*>(self);
  std::vector<TVMFFIAny> all(args, args + count);
  for (const Any& each : bound.last) all.push_back(each.view());
  Any out;
  if (ffi::call(bound.function.get(), all, &out) != 0) return -1;
  *result = out.take();
  return 0;
}

void delete_bound(void* self) {
  auto* bound = static_cast<Bound*>(self);
  for (Any& each : bound->last) {
    const TVMFFIAny value = each.take();
    if (ffi::is_object(value.type_index)) ffi::release_nested(value.v_obj);
  }
  delete bound;
}

}  // namespace

Ref<ClosureObject> make_closure(std::string_view name, Ref<FunctionObject> function) {
  const int32_t type = closure_type();
  if (type < 0) return {};
  Any text;
  if (ffi::make_string(name, text.receive()) != 0) return {};
  auto* closure = reinterpret_cast<ClosureObject*>(
      ffi::allocate_object(sizeof(ClosureObject), type, delete_closure));
  if (closure == nullptr) return {};
  std::construct_at(&closure->name, std::move(text));
  std::construct_at(&closure->function, std::move(function));
  return Ref<ClosureObject>::adopt(closure);
}

ClosureObject* as_closure(const TVMFFIAny& value) {
  // Closures of another library are of the same type and another layout
  if (!ffi::is_object(value.type_index) || value.v_obj == nullptr ||
      value.v_obj->deleter != delete_closure)
    return nullptr;
  return reinterpret_cast<ClosureObject*>(value.v_obj);
}

Ref<FunctionObject> bind_last(Ref<FunctionObject> function, std::span<const TVMFFIAny> last) {
  auto bound = std::make_unique<Bound>();
  bound->function = std::move(function);
  for (const TVMFFIAny& each : last) {
    Any value;
    if (ffi::own(each, value.receive()) != 0) return {};
    bound->last.push_back(std::move(value));
  }
  return ffi::make_function(bound.release(), call_bound, delete_bound);
}

}  // namespace sluice::vm
