// DLPack, for the functions of this folder.
#pragma once

#include <cstdint>
#include <string_view>

#include "core/ffi/object.h"

namespace sluice::ffi {

// Makes a tensor that takes `from` over. Raises and returns -1, with `from` still the caller's,
// where it is no tensor or not as required. Messages name `function`.
[[nodiscard]] int take_dlpack(std::string_view function, DLManagedTensorVersioned* from,
                              int32_t alignment, bool contiguous, TVMFFIObjectHandle* out);

}  // namespace sluice::ffi
