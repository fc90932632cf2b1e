// Of a module that a compiled model is linked into: the VM as well.
#include "core/rpc/rpc.h"
#include "core/vm/vm.h"
#include "hosts/wasm/rooms.h"

namespace sluice::wasm {

void initialize_rooms() {
  vm::initialize();
  rpc::initialize();
}

}  // namespace sluice::wasm
