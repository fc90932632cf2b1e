#include "core/vm/allocator.h"

#include <algorithm>
#include <memory>
#include <new>

#include "core/base/checked.h"

namespace sluice::vm {
namespace {

// Sizes are rounded up to this many bytes, so that nearly equal ones share buffers
constexpr uint64_t kPage = 4096;

// All allocators; made at the first use
constinit std::vector<Allocator*>* allocators = nullptr;

// Whether a buffer of `have` bytes is not too large for `want`: by a quarter at most, for what is
// wasted counts against the device.
bool fits(uint64_t have, uint64_t want) { return have <= want + want / 4; }

}  // namespace

Allocator* Allocator::get(DLDevice device, int64_t kind, std::string_view function) {
  if (kind != static_cast<int64_t>(AllocatorKind::naive) &&
      kind != static_cast<int64_t>(AllocatorKind::pooled)) {
    ffi::raise_value(
        concat(function, ": allocator ", kind, ", known are 1 (naive) and 2 (pooled)"));
    return nullptr;
  }
  const runtime::DeviceApi* api = runtime::find_device(device, function);
  if (api == nullptr) return nullptr;
  if (allocators == nullptr) allocators = new std::vector<Allocator*>;
  for (Allocator* known : *allocators)
    if (runtime::same_device(known->device_, device) && static_cast<int64_t>(known->kind_) == kind)
      return known;
  allocators->push_back(new Allocator(api, device, static_cast<AllocatorKind>(kind)));
  return allocators->back();
}

void Allocator::clear_all() {
  if (allocators == nullptr) return;
  for (Allocator* each : *allocators) each->clear();
}

void Allocator::release(Buffer* buffer) {
  api_->free(buffer->data);
  held_ -= buffer->nbytes;
  delete buffer;
}

void Allocator::clear() {
  for (const SizeClass& each : classes_)
    for (Buffer* buffer : each.unused) release(buffer);
  classes_.clear();
  unused_ = 0;
}

// A buffer of `nbytes`, a multiple of kPage, or somewhat more
Allocator::Buffer* Allocator::take(uint64_t nbytes, std::string_view function) {
  const uint64_t used = held_ - unused_;
  if (nbytes > limit_ - std::min(limit_, used)) {
    ffi::raise("MemoryError", concat(function, ": ", nbytes, " bytes beside the ", used,
                                     " in use are more than the limit of ", limit_));
    return nullptr;
  }
  for (auto at = std::ranges::lower_bound(classes_, nbytes, {}, &SizeClass::nbytes);
       at != classes_.end() && fits(at->nbytes, nbytes); ++at) {
    if (at->unused.empty()) continue;
    Buffer* buffer = at->unused.back();
    at->unused.pop_back();
    unused_ -= buffer->nbytes;
    return buffer;
  }
  void* data = nullptr;
  if (api_->allocate(nbytes, &data) != 0) {
    if (unused_ == 0) return nullptr;
    // The second try may do with what is unused here
    TVMFFIObjectHandle error = nullptr;
    TVMFFIErrorMoveFromRaised(&error);
    if (error != nullptr) (void)TVMFFIObjectDecRef(error);
    clear();
    if (api_->allocate(nbytes, &data) != 0) return nullptr;
  }
  held_ += nbytes;
  return new Buffer{this, data, nbytes};
}

void Allocator::put_away(Buffer* buffer) {
  auto at = std::ranges::lower_bound(classes_, buffer->nbytes, {}, &SizeClass::nbytes);
  if (at == classes_.end() || at->nbytes != buffer->nbytes)
    at = classes_.insert(at, {buffer->nbytes, {}});
  at->unused.push_back(buffer);
  unused_ += buffer->nbytes;
}

void Allocator::give_back(void* of) {
  auto* buffer = static_cast<Buffer*>(of);
  if (buffer->owner->kind_ == AllocatorKind::naive)
    buffer->owner->release(buffer);
  else
    buffer->owner->put_away(buffer);
}

ffi::Ref<ffi::TensorObject> Allocator::make(std::span<const int64_t> shape, DLDataType dtype,
                                            uint64_t nbytes, std::string_view function) {
  const auto rounded = checked_align_up(std::max<uint64_t>(nbytes, 1), kPage);
  if (!rounded) {
    ffi::raise_no_memory();
    return {};
  }
  Buffer* buffer = take(*rounded, function);
  if (buffer == nullptr) return {};
  // make_tensor() copies the shape
  const DLTensor prototype = {.data = buffer->data,
                              .device = device_,
                              .ndim = static_cast<int32_t>(shape.size()),
                              .dtype = dtype,
                              .shape = const_cast<int64_t*>(shape.data()),
                              .strides = nullptr,
                              .byte_offset = 0};
  auto tensor = ffi::make_tensor(prototype, buffer, give_back);
  if (!tensor) give_back(buffer);
  return tensor;
}

ffi::Ref<ffi::TensorObject> Allocator::allocate(uint64_t nbytes, std::string_view function) {
  constexpr DLDataType kByte = {kDLUInt, 8, 1};
  if (nbytes > INT64_MAX) {
    ffi::raise_value(concat(function, ": ", nbytes, " bytes"));
    return {};
  }
  const int64_t shape[] = {static_cast<int64_t>(nbytes)};
  return make(shape, kByte, nbytes, function);
}

ffi::Ref<ffi::TensorObject> Allocator::empty(std::span<const int64_t> shape, DLDataType dtype,
                                             std::string_view function) {
  uint64_t nbytes = 0;
  if (!runtime::check_dtype(dtype, function) ||
      !runtime::shape_bytes(shape, dtype, function, &nbytes))
    return {};
  return make(shape, dtype, nbytes, function);
}

}  // namespace sluice::vm
