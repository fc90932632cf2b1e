// The runtime's functions by name.
#pragma once

#include <span>

#include "core/ffi/registry.h"

namespace sluice::runtime {

// Registers what this folder brings. Idempotent; a name that is taken already, for instance by a
// linked model that brings a function of its own, stays as it is.
void initialize();

// As ffi::register_functions, but leaves names that are taken. For the rooms above as well.
void register_missing(std::span<const ffi::Builtin> builtins);

// The builtins of this folder's files
std::span<const ffi::Builtin> device_builtins();
std::span<const ffi::Builtin> tensor_builtins();
std::span<const ffi::Builtin> tensor_cache_builtins();
std::span<const ffi::Builtin> sampling_builtins();
std::span<const ffi::Builtin> testing_builtins();

}  // namespace sluice::runtime
