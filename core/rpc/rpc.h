// RPC's functions by name.
#pragma once

#include <span>

#include "core/ffi/registry.h"

namespace sluice::rpc {

// Registers what this folder brings, and what it stands on. Idempotent; names that are taken stay
// as they are.
//   rpc.CreateEventDrivenServer(send, name, remote key) -> handler(bytes, flags) -> int
//     a Server: flags with bit 1 set let it send; the int is a Status
//   rpc.LocalSession(), wasm.LocalSession() -> module: a session
//   tvm.rpc.server.{ModuleGetFunction, ImportModule}: ffi's, by the names that clients ask for
//   tvm.rpc.server.GetCRTMaxPacketSize() -> int: kTransferBytes
void initialize();

}  // namespace sluice::rpc
