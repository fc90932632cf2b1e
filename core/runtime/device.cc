// The devices by type, CPU memory, and the functions that compiled models call for devices.
#include "core/runtime/device.h"

#include <cstdlib>
#include <cstring>

#include "core/base/checked.h"
#include "core/ffi/registry.h"
#include "core/runtime/runtime.h"

namespace sluice::runtime {
namespace {

using ffi::Args;
using ffi::raise;
using ffi::raise_value;

// ---- CPU memory ----

int cpu_allocate(uint64_t nbytes, void** data) {
  const auto size = checked_align_up(nbytes == 0 ? 1 : nbytes, kAlignment);
  *data = size && *size <= SIZE_MAX ? std::aligned_alloc(kAlignment, static_cast<size_t>(*size))
                                    : nullptr;
  if (*data != nullptr) return 0;
  return raise("MemoryError", concat("no memory for ", nbytes, " bytes on cpu:0"));
}

void cpu_free(void* data) { std::free(data); }

// free() takes what malloc() and its like gave, as the host's own allocations are
int cpu_adopt(void*, uint64_t) { return 0; }

int cpu_move(const void* from, uint64_t from_offset, void* to, uint64_t to_offset,
             uint64_t nbytes) {
  if (nbytes != 0)
    std::memmove(static_cast<char*>(to) + to_offset, static_cast<const char*>(from) + from_offset,
                 static_cast<size_t>(nbytes));
  return 0;
}

int cpu_write(const void* from, void* to, uint64_t to_offset, uint64_t nbytes) {
  return cpu_move(from, 0, to, to_offset, nbytes);
}

int cpu_read(const void* from, uint64_t from_offset, void* to, uint64_t nbytes) {
  return cpu_move(from, from_offset, to, 0, nbytes);
}

constexpr DeviceApi kCpuDevice = {
    .name = "cpu",
    .allocate = cpu_allocate,
    .free = cpu_free,
    .adopt = cpu_adopt,
    .write = cpu_write,
    .read = cpu_read,
    .copy = cpu_move,
    .synchronize = [] { return 0; },
};

// ---- Devices by type ----

std::string_view type_name(int32_t type) {
  switch (type) {
    case kDLCPU:
      return "cpu";
    case kDLCUDA:
      return "cuda";
    case kDLOpenCL:
      return "opencl";
    case kDLVulkan:
      return "vulkan";
    case kDLMetal:
      return "metal";
    case kDLROCM:
      return "rocm";
    case kDLWebGPU:
      return "webgpu";
    default:
      return {};
  }
}

// ---- Builtins ----

// The device of arguments 0 and 1: type and id
bool device_of(const Args& args, DLDevice* out) {
  int64_t type = 0;
  int64_t id = 0;
  if (!args.integer(0, &type) || !args.integer(1, &id)) return false;
  if (type < 0 || type > INT32_MAX || id < 0 || id > INT32_MAX) {
    raise_value(concat(args.name(), ": no device has type ", type, " and id ", id));
    return false;
  }
  *out = {static_cast<DLDeviceType>(type), static_cast<int32_t>(id)};
  return true;
}

int set_device(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny*) {
  const Args args(handle, values, count);
  DLDevice device{};
  if (!args.expect(2) || !device_of(args, &device)) return -1;
  return find_device(device, args.name()) == nullptr ? -1 : 0;
}

// Attribute 0 is whether the device exists; the others, of native GPUs, are none
int get_device_attribute(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  DLDevice device{};
  int64_t attribute = 0;
  if (!args.expect(3) || !device_of(args, &device) || !args.integer(2, &attribute)) return -1;
  if (attribute == 0) {
    const bool exists = find_device_type(static_cast<int32_t>(device.device_type)) != nullptr;
    *result = ffi::of_int(exists ? 1 : 0);
    return 0;
  }
  return find_device(device, args.name()) == nullptr ? -1 : 0;
}

int set_stream(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny*) {
  const Args args(handle, values, count);
  DLDevice device{};
  if (!args.expect(3) || !device_of(args, &device)) return -1;
  const TVMFFIAny stream = args.at(2);
  if (stream.type_index != kTVMFFINone && stream.type_index != kTVMFFIOpaquePtr)
    return args.wrong(2, "a pointer");
  return TVMFFIEnvSetStream(static_cast<int32_t>(device.device_type), device.device_id,
                            stream.type_index == kTVMFFINone ? nullptr : stream.v_ptr, nullptr);
}

int synchronize_stream(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny*) {
  const Args args(handle, values, count);
  DLDevice device{};
  int64_t stream = 0;
  if (!args.expect(2) || !args.device(0, &device) || !args.integer(1, &stream)) return -1;
  const DeviceApi* api = find_device(device, args.name());
  return api == nullptr ? -1 : api->synchronize();
}

int runtime_enabled(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  std::string_view name;
  if (!args.expect(1) || !args.string(0, &name)) return -1;
  *result = ffi::of_bool(name == cpu_device().name || name == webgpu_device().name);
  return 0;
}

int give_api(const DeviceApi& api, void* handle, int32_t count, TVMFFIAny* result) {
  if (!Args(handle, nullptr, count).expect(0)) return -1;
  *result = {.type_index = kTVMFFIOpaquePtr};
  result->v_ptr = const_cast<DeviceApi*>(&api);
  return 0;
}

int give_cpu(void* handle, const TVMFFIAny*, int32_t count, TVMFFIAny* result) {
  return give_api(cpu_device(), handle, count, result);
}

int give_webgpu(void* handle, const TVMFFIAny*, int32_t count, TVMFFIAny* result) {
  return give_api(webgpu_device(), handle, count, result);
}

constexpr ffi::Builtin kBuiltins[] = {
    {"__tvm_set_device", set_device},
    {"device_api.cpu", give_cpu},
    {"device_api.webgpu", give_webgpu},
    {"runtime.Device_StreamSync", synchronize_stream},
    {"runtime.GetDeviceAttr", get_device_attribute},
    {"runtime.RuntimeEnabled", runtime_enabled},
    {"runtime.TVMSetStream", set_stream},
};

}  // namespace

const DeviceApi& cpu_device() { return kCpuDevice; }

const DeviceApi* find_device_type(int32_t type) {
  if (type == kDLCPU) return &cpu_device();
  if (type == kDLWebGPU) return &webgpu_device();
  return nullptr;
}

const DeviceApi* find_device(DLDevice device, std::string_view function) {
  const DeviceApi* api = find_device_type(static_cast<int32_t>(device.device_type));
  if (api == nullptr) {
    raise_value(concat(function, ": there is no device ", device_name(device), " here"));
  } else if (device.device_id != 0 && !is_cpu(device)) {
    raise_value(
        concat(function, ": ", device_name(device), " is asked for, and only id 0 is there"));
    return nullptr;
  }
  return api;
}

std::string device_name(DLDevice device) {
  const auto type = static_cast<int32_t>(device.device_type);
  const std::string_view name = type_name(type);
  if (!name.empty()) return concat(name, ":", device.device_id);
  return concat("device type ", type, ":", device.device_id);
}

std::span<const ffi::Builtin> device_builtins() { return kBuiltins; }

}  // namespace sluice::runtime
