// Of sluice_runtime.wasm: tensors and devices, and RPC to them.
#include "core/rpc/rpc.h"
#include "hosts/wasm/rooms.h"

namespace sluice::wasm {

void initialize_rooms() { rpc::initialize(); }

}  // namespace sluice::wasm
