// Map objects. Their layout is this library's own: a map that code built with tvm-ffi's headers
// makes has the same type index and another layout, and is refused.
#pragma once

#include "core/ffi/object.h"
#include "core/ffi/ordered_map.h"

namespace sluice::ffi {

struct MapObject {
  TVMFFIObject header;
  OrderedMap map;
};

// Raises and returns null where there is no memory.
Ref<MapObject> make_map();

// Whether the object is a map of this library's layout.
bool is_own_map(const TVMFFIObject* object);

}  // namespace sluice::ffi
