// The functions of this folder by name.
#pragma once

#include <span>

#include "core/ffi/registry.h"

namespace sluice::vm {

std::span<const ffi::Builtin> kv_state_builtins();
std::span<const ffi::Builtin> kv_cache_builtins();
std::span<const ffi::Builtin> rnn_state_builtins();

}  // namespace sluice::vm
