// The environment: version, allocators, streams, signals, handles that are made once, backtraces.
#include <cstdlib>
#include <string>

#ifndef __wasm__
#include <mutex>
#endif

#include "core/ffi/ordered_map.h"
#include "core/ffi/tensor.h"

namespace sluice::ffi {
namespace {

// ---- The default allocator ----

// The header stands right before the object, in a block that keeps malloc's alignment
constexpr size_t kHeaderRoom = alignof(std::max_align_t);
static_assert(kHeaderRoom >= sizeof(TVMFFIObjectAllocHeader));

void delete_space(void* object) { std::free(static_cast<char*>(object) - kHeaderRoom); }

void* allocate(size_t size, size_t alignment, int32_t, void*) {
  size_t bytes = 0;
  void* block = alignment > kHeaderRoom || __builtin_add_overflow(size, kHeaderRoom, &bytes)
                    ? nullptr
                    : std::malloc(bytes);
  if (block == nullptr) {
    raise_no_memory();
    return nullptr;
  }
  char* object = static_cast<char*>(block) + kHeaderRoom;
  reinterpret_cast<TVMFFIObjectAllocHeader*>(object)[-1].delete_space = delete_space;
  return object;
}

constinit TVMFFICustomAllocator default_allocator = {allocate, nullptr};
constinit TVMFFICustomAllocator* allocator = &default_allocator;

// ---- Streams and tensor allocators ----

constinit thread_local OrderedMap* streams = nullptr;  // pointers, by device

TVMFFIAny device_key(int32_t device_type, int32_t device_id) {
  TVMFFIAny key{};
  key.type_index = kTVMFFIDevice;
  key.v_device = {static_cast<DLDeviceType>(device_type), device_id};
  return key;
}

constinit thread_local DLPackManagedTensorAllocator thread_tensor_allocator = nullptr;
constinit DLPackManagedTensorAllocator global_tensor_allocator = nullptr;

void set_allocation_error(void*, const char* kind, const char* message) {
  TVMFFIErrorSetRaisedFromCStr(kind, message);
}

// ---- The host's functions ----

constinit int (*check_signals)() = nullptr;
constinit void* (*lock_host)() = nullptr;
constinit void (*unlock_host)(void*) = nullptr;

}  // namespace
}  // namespace sluice::ffi

using namespace sluice::ffi;  // NOLINT(google-build-using-namespace): the C functions below
using sluice::concat;

extern "C" {

void TVMFFIGetVersion(TVMFFIVersion* out_version) {
  if (out_version != nullptr)
    *out_version = {TVM_FFI_VERSION_MAJOR, TVM_FFI_VERSION_MINOR, TVM_FFI_VERSION_PATCH};
}

TVMFFICustomAllocator* TVMFFIGetCustomAllocator(void) { return allocator; }

int TVMFFISetCustomAllocator(TVMFFICustomAllocator* custom) {
  if (custom != nullptr && custom->allocate == nullptr)
    return raise_null("TVMFFISetCustomAllocator", "allocate");
  allocator = custom == nullptr ? &default_allocator : custom;
  return 0;
}

int TVMFFIHandleInitOnce(void** handle_addr, int (*init_func)(void** result)) {
  if (handle_addr == nullptr) return raise_null("TVMFFIHandleInitOnce", "handle_addr");
  if (init_func == nullptr) return raise_null("TVMFFIHandleInitOnce", "init_func");
  if (__atomic_load_n(handle_addr, __ATOMIC_ACQUIRE) != nullptr) return 0;
#ifndef __wasm__
  // Recursive: making one handle may ask for another
  static std::recursive_mutex mutex;
  const std::scoped_lock lock(mutex);
#endif
  if (__atomic_load_n(handle_addr, __ATOMIC_ACQUIRE) != nullptr) return 0;
  void* made = nullptr;
  const int status = init_func(&made);
  if (status != 0) return status;
  if (made == nullptr)
    return raise("RuntimeError", "TVMFFIHandleInitOnce: init_func made a null handle");
  __atomic_store_n(handle_addr, made, __ATOMIC_RELEASE);
  return 0;
}

int TVMFFIHandleDeinitOnce(void** handle_addr, int (*deinit_func)(void* handle)) {
  if (handle_addr == nullptr) return raise_null("TVMFFIHandleDeinitOnce", "handle_addr");
  if (deinit_func == nullptr) return raise_null("TVMFFIHandleDeinitOnce", "deinit_func");
  void* handle = __atomic_exchange_n(handle_addr, nullptr, __ATOMIC_ACQ_REL);
  return handle == nullptr ? 0 : deinit_func(handle);
}

const TVMFFIByteArray* TVMFFIBacktrace(const char* filename, int lineno, const char* func,
                                       int /*cross_ffi_boundary*/) {
  // One line, from malloc, of the last call in this thread
  static constinit thread_local char* line = nullptr;
  static constinit thread_local TVMFFIByteArray bytes = {"", 0};
  bytes = {"", 0};
  if (filename == nullptr || func == nullptr) return &bytes;
  const std::string made = concat("  File \"", filename, "\", line ", lineno, ", in ", func, "\n");
  std::free(line);
  line = static_cast<char*>(std::malloc(made.size() + 1));
  if (line == nullptr) return &bytes;
  std::memcpy(line, made.c_str(), made.size() + 1);
  bytes = {line, made.size()};
  return &bytes;
}

int TVMFFIEnvSetStream(int32_t device_type, int32_t device_id, TVMFFIStreamHandle stream,
                       TVMFFIStreamHandle* opt_out_original_stream) {
  if (device_type < 0 || device_id < 0)
    return raise_value(
        concat("TVMFFIEnvSetStream: device type ", device_type, ", device ", device_id));
  if (streams == nullptr) streams = new OrderedMap;
  const TVMFFIAny device = device_key(device_type, device_id);
  void* before = TVMFFIEnvGetStream(device_type, device_id);
  // Only what is set takes room
  if (stream == nullptr) {
    streams->erase(device);
  } else {
    TVMFFIAny value{};
    value.type_index = kTVMFFIOpaquePtr;
    value.v_ptr = stream;
    if (streams->set(Any::adopt(device), Any::adopt(value)) != 0) return -1;
  }
  if (opt_out_original_stream != nullptr) *opt_out_original_stream = before;
  return 0;
}

TVMFFIStreamHandle TVMFFIEnvGetStream(int32_t device_type, int32_t device_id) {
  if (streams == nullptr) return nullptr;
  const TVMFFIAny* found = streams->find(device_key(device_type, device_id));
  return found == nullptr ? nullptr : found->v_ptr;
}

int TVMFFIEnvSetDLPackManagedTensorAllocator(
    DLPackManagedTensorAllocator tensor_allocator, int write_to_global_context,
    DLPackManagedTensorAllocator* opt_out_original_allocator) {
  if (opt_out_original_allocator != nullptr) *opt_out_original_allocator = thread_tensor_allocator;
  if (write_to_global_context != 0)
    __atomic_store_n(&global_tensor_allocator, tensor_allocator, __ATOMIC_RELEASE);
  thread_tensor_allocator = tensor_allocator;
  return 0;
}

DLPackManagedTensorAllocator TVMFFIEnvGetDLPackManagedTensorAllocator(void) {
  return thread_tensor_allocator != nullptr
             ? thread_tensor_allocator
             : __atomic_load_n(&global_tensor_allocator, __ATOMIC_ACQUIRE);
}

int TVMFFIEnvTensorAlloc(DLTensor* prototype, TVMFFIObjectHandle* out) {
  constexpr std::string_view kName = "TVMFFIEnvTensorAlloc";
  if (prototype == nullptr) return raise_null(kName, "prototype");
  if (out == nullptr) return raise_null(kName, "out");
  uint64_t bytes = 0;
  if (!tensor_bytes(*prototype, kName, &bytes)) return -1;
  const auto tensor_allocator = TVMFFIEnvGetDLPackManagedTensorAllocator();
  if (tensor_allocator == nullptr)
    return raise("RuntimeError",
                 concat(kName, ": TVMFFIEnvSetDLPackManagedTensorAllocator was not called"));
  DLManagedTensorVersioned* made = nullptr;
  const int status = tensor_allocator(prototype, &made, nullptr, set_allocation_error);
  if (status != 0) {
    if (has_raised()) return status;
    return raise("RuntimeError",
                 concat(kName, ": the allocator returned ", status, " for ", bytes, " bytes"));
  }
  if (made == nullptr)
    return raise("RuntimeError", concat(kName, ": the allocator made a null tensor"));
  if (take_dlpack(kName, made, 0, false, out) == 0) return 0;
  if (made->deleter != nullptr) made->deleter(made);
  return -1;
}

int TVMFFIEnvCheckSignals(void) {
  if (check_signals == nullptr) return 0;
  void* lock = lock_host == nullptr ? nullptr : lock_host();
  const int status = check_signals();
  if (unlock_host != nullptr && lock != nullptr) unlock_host(lock);
  return status == 0 ? 0 : -1;
}

int TVMFFIEnvRegisterCAPI(const char* name, void* symbol) {
  if (name == nullptr) return raise_null("TVMFFIEnvRegisterCAPI", "name");
  const std::string_view wanted = name;
  if (wanted == "PyErr_CheckSignals") {
    check_signals = reinterpret_cast<int (*)()>(symbol);
  } else if (wanted == "PyGILState_Ensure") {
    lock_host = reinterpret_cast<void* (*)()>(symbol);
  } else if (wanted == "PyGILState_Release") {
    unlock_host = reinterpret_cast<void (*)(void*)>(symbol);
  } else {
    return raise_value(concat("TVMFFIEnvRegisterCAPI: no host function ", sluice::quote(wanted)));
  }
  return 0;
}

}  // extern "C"
