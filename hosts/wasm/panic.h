// What a module does when it cannot go on: out of memory, or a fault of ours. Each module links one
// of two: panic_import.cc tells its host, panic_trap.cc keeps the text and traps.
#pragma once

namespace sluice::wasm {

// `text` is a constant.
[[noreturn]] void panic(const char* text);

}  // namespace sluice::wasm
