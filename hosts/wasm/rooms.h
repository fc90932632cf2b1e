// What a module of the C ABI brings beside it.
#pragma once

namespace sluice::wasm {

// Registers the functions of the rooms that are linked: rooms_runtime.cc or rooms_model.cc.
void initialize_rooms();

}  // namespace sluice::wasm
