// Functions of a VM as values: what relax calls closures.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "core/ffi/object.h"

namespace sluice::vm {

// An object of type "relax.vm.Closure". Its function takes the VM (an opaque pointer) and then the
// arguments.
struct ClosureObject {
  TVMFFIObject header;
  ffi::Any name;  // a string
  ffi::Ref<ffi::FunctionObject> function;
};

// Raises and returns null where there is no memory.
ffi::Ref<ClosureObject> make_closure(std::string_view name, ffi::Ref<ffi::FunctionObject> function);

// The closure behind a value, or null where it is none; raises nothing.
ClosureObject* as_closure(const TVMFFIAny& value);

// A function that calls `function` with its arguments and `last` behind them. Raises and returns
// null where there is no memory or a value of `last` is none.
ffi::Ref<ffi::FunctionObject> bind_last(ffi::Ref<ffi::FunctionObject> function,
                                        std::span<const TVMFFIAny> last);

}  // namespace sluice::vm
