// The table of types: keys, indices, ancestors, and what is registered for reflection.
#pragma once

#include <cstdint>
#include <string_view>

#include "core/ffi/c_api.h"
#include "core/ffi/object.h"

namespace sluice::ffi {

// Null where no type has this index.
const TVMFFITypeInfo* find_type(int32_t type_index);

// The keys of all types, in order of index. Raises and returns null where memory ends.
Ref<ArrayObject> registered_type_keys();

}  // namespace sluice::ffi
