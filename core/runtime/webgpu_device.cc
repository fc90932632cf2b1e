// WebGPU as a device: the host has the GPU, and its functions are called. What they are is the
// contract of tvmjs: the global function wasm.WebGPUDeviceAPI(name) gives
//   deviceAllocDataSpace(nbytes) -> handle, deviceFreeDataSpace(handle),
//   deviceCopyToGPU(from, to_handle, to_offset, nbytes),
//   deviceCopyFromGPU(from_handle, from_offset, to, nbytes),
//   deviceCopyWithinGPU(from_handle, from_offset, to_handle, to_offset, nbytes).
// Handles are positive integers. A host that gives a function deviceCopiesAnyByte as well copies
// any bytes from, to and within buffers that were allocated with their exact size. tvmjs's JS does
// not: WebGPU's own copies are of whole units of 4 bytes at multiples of 4, and it pads others,
// over what stands behind them. For such a host a copy is made to fit where nothing else's bytes
// are touched, and refused elsewhere.
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "core/base/checked.h"
#include "core/ffi/registry.h"
#include "core/runtime/device.h"

namespace sluice::runtime {
namespace {

using ffi::Any;
using ffi::FunctionObject;
using ffi::raise;
using ffi::raise_value;
using ffi::Ref;

constexpr uint64_t kUnit = 4;
// Handles are indices into the host's table; sizes are kept for those below this
constexpr uint64_t kMaxKnownHandle = uint64_t{1} << 20;
constexpr uint64_t kUnknown = UINT64_MAX;

struct Gpu {
  Ref<FunctionObject> factory;  // wasm.WebGPUDeviceAPI, which gave the others
  Ref<FunctionObject> allocate;
  Ref<FunctionObject> free;
  Ref<FunctionObject> copy_to;
  Ref<FunctionObject> copy_from;
  Ref<FunctionObject> copy_within;
  bool copies_any_byte = false;
  uint64_t live = 0;            // buffers not yet freed
  std::vector<uint64_t> sizes;  // bytes that were asked for, by handle; kUnknown for others
};

// Made at the first use and never destroyed: its functions belong to a host that may be gone when
// destructors run
constinit Gpu* gpu_state = nullptr;

bool get(FunctionObject* factory, const char* name, Ref<FunctionObject>* out) {
  TVMFFIAny argument = {.type_index = kTVMFFIRawStr};
  argument.v_c_str = name;
  Any result;
  if (ffi::call(factory, {&argument, 1}, &result) != 0) return false;
  if (result.view().type_index != kTVMFFIFunction) {
    ffi::raise_type(concat("wasm.WebGPUDeviceAPI('", name, "') gave ",
                           ffi::type_key_of(result.view()), ", not a function"));
    return false;
  }
  *out = Ref<FunctionObject>::adopt(reinterpret_cast<FunctionObject*>(result.take().v_obj));
  return true;
}

void forget_raised() {
  TVMFFIObjectHandle raised = nullptr;
  TVMFFIErrorMoveFromRaised(&raised);
  if (raised != nullptr) ffi::release(static_cast<TVMFFIObject*>(raised));
}

// The host's functions as they are registered now. Null after raising an error.
Gpu* gpu() {
  auto factory = ffi::find_function("wasm.WebGPUDeviceAPI");
  if (!factory) {
    raise("RuntimeError",
          "webgpu:0 is not there: the host has not registered wasm.WebGPUDeviceAPI (initWebGPU)");
    return nullptr;
  }
  if (gpu_state == nullptr) gpu_state = new Gpu;
  if (gpu_state->factory.get() == factory.get()) return gpu_state;
  if (gpu_state->live != 0) {
    raise("RuntimeError",
          concat("wasm.WebGPUDeviceAPI is another function now, and ", gpu_state->live,
                 " buffers of the device before are still alive; dispose of them first"));
    return nullptr;
  }
  Gpu fresh;
  if (!get(factory.get(), "deviceAllocDataSpace", &fresh.allocate) ||
      !get(factory.get(), "deviceFreeDataSpace", &fresh.free) ||
      !get(factory.get(), "deviceCopyToGPU", &fresh.copy_to) ||
      !get(factory.get(), "deviceCopyFromGPU", &fresh.copy_from) ||
      !get(factory.get(), "deviceCopyWithinGPU", &fresh.copy_within))
    return nullptr;
  Ref<FunctionObject> any_byte;
  fresh.copies_any_byte = get(factory.get(), "deviceCopiesAnyByte", &any_byte);
  if (!fresh.copies_any_byte) forget_raised();
  fresh.factory = std::move(factory);
  *gpu_state = std::move(fresh);
  return gpu_state;
}

uint64_t handle_of(const void* data) { return reinterpret_cast<uintptr_t>(data); }

uint64_t size_of(const Gpu& gpu, const void* data) {
  const uint64_t handle = handle_of(data);
  return handle < gpu.sizes.size() ? gpu.sizes[static_cast<size_t>(handle)] : kUnknown;
}

void set_size(Gpu& gpu, const void* data, uint64_t nbytes) {
  const uint64_t handle = handle_of(data);
  if (handle >= kMaxKnownHandle) return;
  if (handle >= gpu.sizes.size()) gpu.sizes.resize(static_cast<size_t>(handle) + 1, kUnknown);
  gpu.sizes[static_cast<size_t>(handle)] = nbytes;
}

TVMFFIAny pointer(const void* address) {
  TVMFFIAny out = {.type_index = kTVMFFIOpaquePtr};
  out.v_ptr = const_cast<void*>(address);
  return out;
}

TVMFFIAny integer(uint64_t value) { return ffi::of_int(static_cast<int64_t>(value)); }

int invoke(const Ref<FunctionObject>& function, std::span<const TVMFFIAny> args) {
  Any result;
  return ffi::call(function.get(), args, &result);
}

// The handle that deviceAllocDataSpace gave; 0 where it is none. Hosts give their numbers as ints
// or floats.
uint64_t to_handle(const TVMFFIAny& value) {
  switch (value.type_index) {
    case kTVMFFIInt:
      return value.v_int64 > 0 && static_cast<uint64_t>(value.v_int64) <= UINTPTR_MAX
                 ? value.v_uint64
                 : 0;
    case kTVMFFIFloat:
      return value.v_float64 >= 1 && value.v_float64 <= 4294967295.0 &&
                     std::trunc(value.v_float64) == value.v_float64
                 ? static_cast<uint64_t>(value.v_float64)
                 : 0;
    case kTVMFFIOpaquePtr:
      return reinterpret_cast<uintptr_t>(value.v_ptr);
    default:
      return 0;
  }
}

int allocate(uint64_t nbytes, void** data) {
  *data = nullptr;
  Gpu* now = gpu();
  if (now == nullptr) return -1;
  // Whole units, and no buffer of 0 bytes, which could not be bound; such a host sees to that
  // itself
  const auto size =
      now->copies_any_byte ? nbytes : checked_align_up(nbytes == 0 ? 1 : nbytes, kUnit);
  if (!size || *size > uint64_t{INT64_MAX})
    return raise("MemoryError", concat("no buffer of ", nbytes, " bytes on webgpu:0"));
  const TVMFFIAny argument = integer(*size);
  Any result;
  if (ffi::call(now->allocate.get(), {&argument, 1}, &result) != 0) return -1;
  const uint64_t handle = to_handle(result.view());
  if (handle == 0)
    return raise("MemoryError",
                 concat("no buffer of ", nbytes,
                        " bytes on webgpu:0: deviceAllocDataSpace gave no handle but ",
                        ffi::type_key_of(result.view())));
  *data = reinterpret_cast<void*>(static_cast<uintptr_t>(handle));
  set_size(*now, *data, nbytes);
  ++now->live;
  return 0;
}

void free_buffer(void* data) {
  if (data == nullptr || gpu_state == nullptr) return;
  set_size(*gpu_state, data, kUnknown);
  if (gpu_state->live != 0) --gpu_state->live;
  // A raised error on its way stays as it is, and one of the host's has no one to go to
  TVMFFIObjectHandle before = nullptr;
  TVMFFIErrorMoveFromRaised(&before);
  const TVMFFIAny argument = pointer(data);
  (void)invoke(gpu_state->free, {&argument, 1});
  TVMFFIErrorSetRaised(before);
  if (before != nullptr) ffi::release(static_cast<TVMFFIObject*>(before));
}

int adopt(void* data, uint64_t nbytes) {
  Gpu* now = gpu();
  if (now == nullptr) return -1;
  if (const uint64_t known = size_of(*now, data); known != kUnknown)
    return raise_value(concat("the WebGPU buffer of handle ", handle_of(data), " (", known,
                              " bytes) is a tensor's already"));
  set_size(*now, data, nbytes);
  ++now->live;
  return 0;
}

// Whether [offset, offset + nbytes) is within the buffer and begins at a unit; *padded is whether
// it ends between units with nothing behind it, so that the unit may be copied whole.
bool check(const Gpu& gpu, const char* what, const void* data, uint64_t offset, uint64_t nbytes,
           bool* whole) {
  const auto refuse = [&](std::string_view why) {
    raise_value(
        concat(what, " of ", nbytes, " bytes at byte ", offset, " of a WebGPU buffer: ", why));
    return false;
  };
  if (data == nullptr) return refuse("the tensor has no buffer");
  const uint64_t size = size_of(gpu, data);
  const auto end = checked_add(offset, nbytes);
  if (!end || *end > uint64_t{INT64_MAX}) return refuse("no buffer is that large");
  if (size != kUnknown && *end > size) return refuse(concat("it has ", size, " bytes"));
  if (offset % kUnit != 0 && !gpu.copies_any_byte)
    return refuse("WebGPU copies at multiples of 4 bytes only");
  *whole = gpu.copies_any_byte || nbytes % kUnit == 0 || *end == size;
  return true;
}

int refuse_unit(const char* what, uint64_t nbytes, uint64_t offset) {
  return raise_value(
      concat(what, " of ", nbytes, " bytes at byte ", offset,
             " of a WebGPU buffer: WebGPU copies multiples of 4 bytes only, unless they are the "
             "last of the buffer"));
}

int write(const void* from, void* to, uint64_t to_offset, uint64_t nbytes) {
  Gpu* now = gpu();
  bool whole = false;
  if (now == nullptr || !check(*now, "a write", to, to_offset, nbytes, &whole)) return -1;
  if (!whole) return refuse_unit("a write", nbytes, to_offset);
  const uint64_t tail = now->copies_any_byte ? 0 : nbytes % kUnit;
  const uint64_t body = nbytes - tail;
  if (body != 0) {
    const TVMFFIAny args[] = {pointer(from), pointer(to), integer(to_offset), integer(body)};
    if (invoke(now->copy_to, args) != 0) return -1;
  }
  if (tail != 0) {
    char unit[kUnit] = {};
    std::memcpy(unit, static_cast<const char*>(from) + body, static_cast<size_t>(tail));
    const TVMFFIAny args[] = {pointer(unit), pointer(to), integer(to_offset + body),
                              integer(kUnit)};
    if (invoke(now->copy_to, args) != 0) return -1;
  }
  return 0;
}

int read(const void* from, uint64_t from_offset, void* to, uint64_t nbytes) {
  Gpu* now = gpu();
  bool whole = false;
  if (now == nullptr || !check(*now, "a read", from, from_offset, nbytes, &whole)) return -1;
  if (nbytes == 0) return 0;
  // Every host copies whole units to a buffer of its own, of which it stores `nbytes`
  const TVMFFIAny args[] = {pointer(from), integer(from_offset), pointer(to), integer(nbytes)};
  return invoke(now->copy_from, args);
}

int invoke_copy(const Gpu& gpu, const void* from, uint64_t from_offset, const void* to,
                uint64_t to_offset, uint64_t nbytes) {
  const TVMFFIAny args[] = {pointer(from), integer(from_offset), pointer(to), integer(to_offset),
                            integer(nbytes)};
  return invoke(gpu.copy_within, args);
}

int copy_within(const void* from, uint64_t from_offset, void* to, uint64_t to_offset,
                uint64_t nbytes) {
  Gpu* now = gpu();
  bool whole = false;
  if (now == nullptr || !check(*now, "a copy", from, from_offset, nbytes, &whole) ||
      !check(*now, "a copy", to, to_offset, nbytes, &whole))
    return -1;
  if (nbytes == 0 || (from == to && from_offset == to_offset)) return 0;
  if (now->copies_any_byte) return invoke_copy(*now, from, from_offset, to, to_offset, nbytes);
  if (!whole) return refuse_unit("a copy", nbytes, to_offset);
  const uint64_t units = (nbytes + kUnit - 1) / kUnit * kUnit;
  if (from != to) return invoke_copy(*now, from, from_offset, to, to_offset, units);
  // WebGPU copies between two buffers only
  void* between = nullptr;
  if (allocate(units, &between) != 0) return -1;
  int status = invoke_copy(*now, from, from_offset, between, 0, units);
  if (status == 0) status = invoke_copy(*now, between, 0, to, to_offset, units);
  free_buffer(between);
  return status;
}

int synchronize() {
  return raise("RuntimeError",
               "webgpu:0 cannot be waited for inside a call: the host's thread runs it. Await the "
               "host's sync() instead");
}

constexpr DeviceApi kWebGpuDevice = {
    .name = "webgpu",
    .allocate = allocate,
    .free = free_buffer,
    .adopt = adopt,
    .write = write,
    .read = read,
    .copy = copy_within,
    .synchronize = synchronize,
};

}  // namespace

const DeviceApi& webgpu_device() { return kWebGpuDevice; }

}  // namespace sluice::runtime
