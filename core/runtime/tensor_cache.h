// Tensors by name, which all of the program shares: a host fills the cache from a model's files,
// and a compiled model takes its parameters from it.
#pragma once

#include <string_view>

#include "core/ffi/object.h"

namespace sluice::runtime {

// Null where the cache has no tensor of this name; raises nothing.
ffi::Ref<ffi::TensorObject> cached_tensor(std::string_view name);

}  // namespace sluice::runtime
