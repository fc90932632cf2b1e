// Functions of a VM as values: what relax calls closures.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "core/ffi/object.h"

namespace sluice::vm {

// Calls that take stack may stand in each other this deep: those of the VM by closures or the host,
// and those that builtins make.
inline constexpr uint32_t kMaxNested = 128;

// One of them, while it lasts. Raises a RecursionError that names `function` where it is one too
// many; then it is false.
class NestedCall {
 public:
  explicit NestedCall(std::string_view function);
  NestedCall(const NestedCall&) = delete;
  NestedCall& operator=(const NestedCall&) = delete;
  ~NestedCall();
  explicit operator bool() const { return allowed_; }

 private:
  bool allowed_;
};

// Arguments that closures of closures capture, together
inline constexpr size_t kMaxCaptured = 4096;

// An object of type "relax.vm.Closure": a function that takes the VM (an opaque pointer), then the
// arguments, then what was captured.
struct ClosureObject {
  TVMFFIObject header;
  ffi::Any name;  // a string
  ffi::Ref<ffi::FunctionObject> function;
  std::vector<ffi::Any> captured;
};

// Raises and returns null where there is no memory.
ffi::Ref<ClosureObject> make_closure(std::string_view name, ffi::Ref<ffi::FunctionObject> function,
                                     std::vector<ffi::Any> captured = {});

// A closure that captures `more` as well, before what `closure` has captured. Raises and returns
// null where that is too much, or a value of `more` is none.
ffi::Ref<ClosureObject> capture(const ClosureObject& closure, std::string_view name,
                                std::span<const TVMFFIAny> more);

// The closure behind a value, or null where it is none; raises nothing.
ClosureObject* as_closure(const TVMFFIAny& value);

}  // namespace sluice::vm
