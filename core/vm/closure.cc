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
    // What is captured may be a closure in turn, and so on
    for (Any& each : closure->captured) {
      const TVMFFIAny value = each.take();
      if (ffi::is_object(value.type_index)) ffi::release_nested(value.v_obj);
    }
    std::destroy_at(&closure->captured);
    std::destroy_at(&closure->function);
    std::destroy_at(&closure->name);
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

constinit thread_local uint32_t nested = 0;

}  // namespace

Ref<ClosureObject> make_closure(std::string_view name, Ref<FunctionObject> function,
                                std::vector<Any> captured) {
  const int32_t type = closure_type();
  if (type < 0) return {};
  Any text;
  if (ffi::make_string(name, text.receive()) != 0) return {};
  auto* closure = reinterpret_cast<ClosureObject*>(
      ffi::allocate_object(sizeof(ClosureObject), type, delete_closure));
  if (closure == nullptr) return {};
  std::construct_at(&closure->name, std::move(text));
  std::construct_at(&closure->function, std::move(function));
  std::construct_at(&closure->captured, std::move(captured));
  return Ref<ClosureObject>::adopt(closure);
}

ClosureObject* as_closure(const TVMFFIAny& value) {
  // Closures of another library are of the same type and another layout
  if (!ffi::is_object(value.type_index) || value.v_obj == nullptr ||
      value.v_obj->deleter != delete_closure)
    return nullptr;
  return reinterpret_cast<ClosureObject*>(value.v_obj);
}

Ref<ClosureObject> capture(const ClosureObject& closure, std::string_view name,
                           std::span<const TVMFFIAny> more) {
  if (more.size() + closure.captured.size() > kMaxCaptured) {
    ffi::raise_value(concat("the closure ", quote(name), " would capture ",
                            more.size() + closure.captured.size(), " values, at most ",
                            kMaxCaptured, " may be"));
    return {};
  }
  std::vector<Any> captured(more.size());
  for (size_t i = 0; i < more.size(); ++i)
    if (ffi::own(more[i], captured[i].receive()) != 0) return {};
  captured.insert(captured.end(), closure.captured.begin(), closure.captured.end());
  return make_closure(name, closure.function, std::move(captured));
}

NestedCall::NestedCall(std::string_view function) : allowed_(nested < kMaxNested) {
  if (allowed_)
    ++nested;
  else
    ffi::raise("RecursionError", concat(function, ": more than ", kMaxNested,
                                        " calls through closures or the host stand in each other"));
}

NestedCall::~NestedCall() {
  if (allowed_) --nested;
}

}  // namespace sluice::vm
