// Where tensors are: the memory of a device and copies from, to and within it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "core/ffi/c_api.h"

namespace sluice::runtime {

// Tensors begin at a multiple of this many bytes of CPU memory.
inline constexpr uint64_t kAlignment = 64;

// The functions of one type of device. `data` is what a DLTensor of it has as data: an address in
// CPU memory, or a handle of the host's; null is no memory. Offsets and sizes are in bytes. Each
// int is 0, or -1 after raising an error.
struct DeviceApi {
  const char* name;  // "cpu"
  // Memory for `nbytes`, also where that is 0; aligned to kAlignment where it has an address.
  int (*allocate)(uint64_t nbytes, void** data);
  // Gives memory back that allocate() or adopt() saw. Null does nothing; raises nothing.
  void (*free)(void* data);
  // Says that memory which the host made is a tensor's from now on, to be given back by free().
  int (*adopt)(void* data, uint64_t nbytes);
  // Between CPU memory and the device. What write() reads may change when it has returned. read()
  // of a device with a queue only begins: `to` holds the bytes once the host has waited.
  int (*write)(const void* from, void* to, uint64_t to_offset, uint64_t nbytes);
  int (*read)(const void* from, uint64_t from_offset, void* to, uint64_t nbytes);
  // Within the device; the ranges may overlap.
  int (*copy)(const void* from, uint64_t from_offset, void* to, uint64_t to_offset,
              uint64_t nbytes);
  // Waits until all that was begun is done.
  int (*synchronize)();
};

// The device of a type, CPU memory or WebGPU. Null, after raising an error that names `function`,
// where there is none of the type or id.
const DeviceApi* find_device(DLDevice device, std::string_view function);

// Null where there is none of the type; raises nothing.
const DeviceApi* find_device_type(int32_t type);

const DeviceApi& cpu_device();
const DeviceApi& webgpu_device();

// "cpu:0", "webgpu:0", "cuda:1", "device type 99:0"
std::string device_name(DLDevice device);

inline bool same_device(DLDevice a, DLDevice b) {
  return a.device_type == b.device_type && a.device_id == b.device_id;
}
inline bool is_cpu(DLDevice device) { return device.device_type == kDLCPU; }

}  // namespace sluice::runtime
