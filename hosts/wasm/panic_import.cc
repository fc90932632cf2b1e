#include <cstdint>
#include <cstring>

#include "hosts/wasm/imports.h"
#include "hosts/wasm/panic.h"

namespace sluice::wasm {

void panic(const char* text) { sluice_panic(text, static_cast<uint32_t>(std::strlen(text))); }

}  // namespace sluice::wasm
