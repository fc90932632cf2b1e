// Memory of devices for what a VM makes while it runs: given back to a pool and taken from it
// again, since a model asks for the same sizes at every step.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "core/ffi/object.h"
#include "core/runtime/device.h"
#include "core/runtime/tensor.h"

namespace sluice::vm {

enum class AllocatorKind : uint8_t {
  naive = 1,   // memory goes back to the device at once
  pooled = 2,  // memory stays here until clear(), or until the device has no more
};

// The memory of one device; lives as long as the program, since tensors may outlive their VM.
class Allocator {
 public:
  // The allocator of a device and kind, made at the first call. Raises and returns null where there
  // is no such device or kind.
  static Allocator* get(DLDevice device, int64_t kind, std::string_view function);
  // Gives the unused memory of all allocators back.
  static void clear_all();

  DLDevice device() const { return device_; }

  // A tensor of bytes over memory for at least `nbytes`, which comes back here at its end. Not
  // initialised. Raises and returns null where the device has no more.
  ffi::Ref<ffi::TensorObject> allocate(uint64_t nbytes, std::string_view function);
  // The same as a tensor of this shape and type.
  ffi::Ref<ffi::TensorObject> empty(std::span<const int64_t> shape, DLDataType dtype,
                                    std::string_view function);

  // Gives unused memory back to the device.
  void clear();

  // allocate() fails where more than this would be in use.
  void set_limit(uint64_t nbytes) { limit_ = nbytes; }
  uint64_t held_bytes() const { return held_; }  // from the device: in use and unused
  uint64_t unused_bytes() const { return unused_; }

 private:
  struct Buffer {
    Allocator* owner;
    void* data;
    uint64_t nbytes;
  };

  Allocator(const runtime::DeviceApi* api, DLDevice device, AllocatorKind kind)
      : api_(api), device_(device), kind_(kind) {}
  Buffer* take(uint64_t nbytes, std::string_view function);
  static void give_back(void* buffer);
  void put_away(Buffer* buffer);
  void release(Buffer* buffer);
  ffi::Ref<ffi::TensorObject> make(std::span<const int64_t> shape, DLDataType dtype,
                                   uint64_t nbytes, std::string_view function);

  const runtime::DeviceApi* api_;
  DLDevice device_;
  AllocatorKind kind_;
  // Unused buffers of one size, the last used at the end
  struct SizeClass {
    uint64_t nbytes;
    std::vector<Buffer*> unused;
  };
  std::vector<SizeClass> classes_;  // by size
  uint64_t held_ = 0, unused_ = 0, limit_ = UINT64_MAX;
};

}  // namespace sluice::vm
