// The VM's functions by name.
#pragma once

#include <span>

#include "core/ffi/registry.h"

namespace sluice::vm {

// Registers what this folder brings, and what it stands on. Idempotent; names that are taken stay
// as they are.
void initialize();

// The builtins of this folder's files
std::span<const ffi::Builtin> module_builtins();
std::span<const ffi::Builtin> webgpu_module_builtins();
std::span<const ffi::Builtin> shape_builtins();
std::span<const ffi::Builtin> tensor_builtins();
std::span<const ffi::Builtin> call_builtins();

}  // namespace sluice::vm
