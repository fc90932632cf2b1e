// For a module that may import nothing of ours.
#include "hosts/wasm/panic.h"

namespace sluice::wasm {
namespace {

constinit const char* message = nullptr;

}  // namespace

void panic(const char* text) {
  message = text;
  __builtin_trap();
}

}  // namespace sluice::wasm

extern "C" const char* sluice_panic_message() { return sluice::wasm::message; }
