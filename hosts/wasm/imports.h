// Everything a wasm module of ours asks of its host. There is nothing else: no WASI, no clock, no
// I/O.
#pragma once

#include <cstdint>

#define SLUICE_IMPORT(name) __attribute__((import_module("sluice"), import_name(#name)))

extern "C" {

// The module cannot go on (out of memory, or a fault of ours). `text` of `length` bytes says why.
// The host throws; it must not return, and must not call into the instance again.
[[noreturn]] SLUICE_IMPORT(panic) void sluice_panic(const char* text, uint32_t length);

}  // extern "C"
