// Of sluice_runtime.wasm: tensors and devices.
#include "core/runtime/runtime.h"
#include "hosts/wasm/rooms.h"

namespace sluice::wasm {

void initialize_rooms() { runtime::initialize(); }

}  // namespace sluice::wasm
