// The exports of sluice_runtime.wasm that are not the C ABI's own, and how the module starts. The
// names and meanings that begin with TVM are those that tvmjs's JS calls, so that it runs on this
// module as on its own.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "core/ffi/object.h"
#include "hosts/wasm/rooms.h"

#define SLUICE_ENV_IMPORT(name) __attribute__((import_module("env"), import_name(#name)))

extern "C" {

// Everything that the module asks of its host: functions of the host by its own index of them.
// Calls function `self`: 0, or -1 after raising an error.
SLUICE_ENV_IMPORT(TVMFFIWasmSafeCall)
int TVMFFIWasmSafeCall(void* self, const TVMFFIAny* args, int32_t num_args, TVMFFIAny* result);
// No reference to function `self` is left.
SLUICE_ENV_IMPORT(TVMFFIWasmFunctionDeleter) void TVMFFIWasmFunctionDeleter(void* self);

// The linker's: calls the static constructors, of which only a linked model has any.
void __wasm_call_ctors();

}  // extern "C"

namespace {

constinit bool started = false;

// The text of the last error that TVMFFIWasmGetLastError() gave; from malloc
constinit char* last_error = nullptr;

}  // namespace

extern "C" {

// Starts the module where it is not started; called at the first use of the table of functions and
// by every export here, so that no host has to. A linked model's constructors may register before
// or after the runtime does.
void sluice_first_use() {
  if (started) return;
  started = true;
  __wasm_call_ctors();
  sluice::wasm::initialize_rooms();
}

// Of the reactor convention; may be called never, once or often.
__attribute__((export_name("_initialize"))) void _initialize() { sluice_first_use(); }

// `size` bytes aligned to 8, for the host to write to; null where there is no memory.
void* TVMWasmAllocSpace(uint32_t size) {
  sluice_first_use();
  return std::malloc(size == 0 ? 1 : size);
}

// Null does nothing.
void TVMWasmFreeSpace(void* space) { std::free(space); }

// A function object that calls the host's function `self`; -1 after raising an error.
int TVMFFIWasmFunctionCreate(void* self, TVMFFIObjectHandle* out) {
  sluice_first_use();
  return TVMFFIFunctionCreate(self, TVMFFIWasmSafeCall, TVMFFIWasmFunctionDeleter, out);
}

// The raised error as "Kind: message", which is then raised no more. The text lives until the next
// call; it is empty where nothing was raised.
const char* TVMFFIWasmGetLastError() {
  TVMFFIObjectHandle raised = nullptr;
  TVMFFIErrorMoveFromRaised(&raised);
  if (raised == nullptr) return "";
  const auto error = sluice::ffi::Ref<sluice::ffi::ErrorObject>::adopt(
      static_cast<sluice::ffi::ErrorObject*>(raised));
  const std::string_view kind = sluice::ffi::text(error->cell.kind);
  const std::string_view message = sluice::ffi::text(error->cell.message);
  std::free(last_error);
  last_error = static_cast<char*>(std::malloc(kind.size() + message.size() + 3));
  if (last_error == nullptr) return "MemoryError: no memory is left";
  char* at = last_error;
  for (const std::string_view part : {kind, std::string_view(": "), message}) {
    if (!part.empty()) std::memcpy(at, part.data(), part.size());
    at += part.size();
  }
  *at = 0;
  return last_error;
}

}  // extern "C"
