#include "core/vm/backend.h"

#include "core/runtime/device.h"
#include "core/vm/virtual_machine.h"

namespace {

using sluice::concat;
using sluice::ffi::Any;
using sluice::vm::AnyList;

// Null, after raising an error, where the list has no such element
Any* element(void* anylist, int index, const char* function) {
  auto* list = static_cast<AnyList*>(anylist);
  if (list == nullptr) {
    sluice::ffi::raise_null(function, "anylist");
    return nullptr;
  }
  if (index < 0 || static_cast<size_t>(index) >= list->size) {
    sluice::ffi::raise("IndexError", concat(function, ": element ", index, " of ", list->size));
    return nullptr;
  }
  return list->items + index;
}

const sluice::runtime::DeviceApi* device(int type, int id, const char* function) {
  return sluice::runtime::find_device({static_cast<DLDeviceType>(type), id}, function);
}

}  // namespace

extern "C" {

void* TVMBackendAllocWorkspace(int device_type, int device_id, uint64_t nbytes, int, int) {
  const auto* api = device(device_type, device_id, "TVMBackendAllocWorkspace");
  void* data = nullptr;
  if (api == nullptr || api->allocate(nbytes, &data) != 0) return nullptr;
  return data;
}

int TVMBackendFreeWorkspace(int device_type, int device_id, void* ptr) {
  const auto* api = device(device_type, device_id, "TVMBackendFreeWorkspace");
  if (api == nullptr) return -1;
  api->free(ptr);
  return 0;
}

int TVMBackendParallelLaunch(FTVMParallelLambda lambda, void* cdata, int) {
  TVMParallelGroupEnv env = {.sync_handle = nullptr, .num_task = 1};
  return lambda(0, &env, cdata);
}

int TVMBackendParallelBarrier(int, TVMParallelGroupEnv*) { return 0; }

int TVMBackendAnyListSetPackedArg(void* anylist, int index, TVMFFIAny* args, int arg_offset) {
  const Any* from = element(anylist, index, "TVMBackendAnyListSetPackedArg");
  if (from == nullptr) return -1;
  args[arg_offset] = from->view();
  return 0;
}

int TVMBackendAnyListResetItem(void* anylist, int index) {
  Any* item = element(anylist, index, "TVMBackendAnyListResetItem");
  if (item == nullptr) return -1;
  *item = Any();
  return 0;
}

int TVMBackendAnyListMoveFromPackedReturn(void* anylist, int index, TVMFFIAny* args,
                                          int ret_offset) {
  Any* item = element(anylist, index, "TVMBackendAnyListMoveFromPackedReturn");
  if (item == nullptr) return -1;
  *item = Any::adopt(std::exchange(args[ret_offset], TVMFFIAny{}));
  return 0;
}

}  // extern "C"
