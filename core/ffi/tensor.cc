// Tensor objects and DLPack.
#include <cstdlib>

#include "core/ffi/tensor.h"

#include "core/base/checked.h"
#include "core/ffi/object.h"

namespace sluice::ffi {
namespace {

// A tensor over memory that something else owns. Shape and strides follow the object, where they
// are copied.
struct OwnedTensor {
  TensorObject base;
  void* owner;
  void (*free)(void* owner);
};

void delete_tensor(void* self, int flags) {
  auto* tensor = static_cast<OwnedTensor*>(self);
  if ((flags & kTVMFFIObjectDeleterFlagBitMaskStrong) != 0 && tensor->free != nullptr)
    tensor->free(tensor->owner);
  if ((flags & kTVMFFIObjectDeleterFlagBitMaskWeak) != 0) free_object(self);
}

// A shape that can be: it is there, no extent is negative, elements and bytes fit in 64 bits
bool check_shape(const DLTensor& tensor, std::string_view function, uint64_t* bytes) {
  const auto refuse = [function](std::string_view what) {
    raise_value(concat(function, ": ", what));
    return false;
  };
  if (tensor.ndim < 0) return refuse(concat("a tensor of ", tensor.ndim, " dimensions"));
  if (tensor.ndim != 0 && tensor.shape == nullptr)
    return refuse(concat("a tensor of ", tensor.ndim, " dimensions with a null shape"));
  uint64_t elements = 1;
  bool overflows = false;
  bool is_empty = false;
  for (int32_t i = 0; i < tensor.ndim; ++i) {
    const int64_t extent = tensor.shape[i];
    if (extent < 0) return refuse(concat("extent ", i, " of the shape is ", extent));
    is_empty = is_empty || extent == 0;
    overflows =
        overflows || __builtin_mul_overflow(elements, static_cast<uint64_t>(extent), &elements);
  }
  if (is_empty) {
    *bytes = 0;
    return true;
  }
  // Lanes of a scalable vector have no size; one lane of it stands for all
  const auto lanes = static_cast<int16_t>(tensor.dtype.lanes);
  const auto lane_count = static_cast<uint64_t>(lanes < 0 ? 1 : lanes);
  const auto bits = checked_mul(elements, tensor.dtype.bits * lane_count);
  if (overflows || !bits || elements > INT64_MAX || *bits > INT64_MAX)
    return refuse("the shape has more bytes than 63 bits count");
  *bytes = (*bits + 7) / 8;
  return true;
}

void fill_strides(const DLTensor& tensor, int64_t* strides) {
  // An extent of 0 leaves the strides of what stands before it at 0, without overflow; the product
  // of all the others may not fit, so it stops at the first 0 from the right
  int64_t stride = 1;
  for (int32_t i = tensor.ndim - 1; i >= 0; --i) {
    strides[i] = stride;
    if (__builtin_mul_overflow(stride, tensor.shape[i], &stride)) stride = 0;
  }
}

// Whether memory of this device has addresses that this process can read
bool has_addresses(DLDevice device) {
  switch (device.device_type) {
    case kDLCPU:
    case kDLCUDAHost:
    case kDLROCMHost:
    case kDLCUDA:
    case kDLROCM:
    case kDLCUDAManaged:
      return true;
    default:
      return false;
  }
}

// A tensor object with `prototype`'s fields. Room for shape and strides follows where `copies`.
OwnedTensor* new_tensor(const DLTensor& prototype, size_t copies) {
  size_t bytes = 0;
  if (__builtin_mul_overflow(copies * sizeof(int64_t), static_cast<size_t>(prototype.ndim),
                             &bytes) ||
      __builtin_add_overflow(bytes, sizeof(OwnedTensor), &bytes)) {
    raise_no_memory();
    return nullptr;
  }
  auto* tensor =
      reinterpret_cast<OwnedTensor*>(allocate_object(bytes, kTVMFFITensor, delete_tensor));
  if (tensor != nullptr) tensor->base.tensor = prototype;
  return tensor;
}

template <class Managed>
void free_managed(void* managed) {
  auto* from = static_cast<Managed*>(managed);
  if (from->deleter != nullptr) from->deleter(from);
}

template <class Managed>
int take_managed(std::string_view function, Managed* from, int32_t alignment, bool contiguous,
                 TVMFFIObjectHandle* out) {
  const DLTensor& source = from->dl_tensor;
  uint64_t bytes = 0;
  if (!check_shape(source, function, &bytes)) return -1;
  if (alignment < 0) return raise_value(concat(function, ": require_alignment is ", alignment));
  const bool is_cpu = source.device.device_type == kDLCPU;
  if (is_cpu && bytes != 0 && source.data == nullptr)
    return raise_value(concat(function, ": ", bytes, " bytes of CPU memory at a null pointer"));
  const uint64_t address =
      (has_addresses(source.device) ? reinterpret_cast<uintptr_t>(source.data) : 0) +
      source.byte_offset;
  if (alignment > 1 && address % static_cast<uint64_t>(alignment) != 0)
    return raise("RuntimeError", concat(function, ": the data is not aligned to ", alignment,
                                        " bytes (byte offset ", source.byte_offset, ")"));
  if (contiguous && !is_contiguous(source))
    return raise("RuntimeError", concat(function, ": the tensor is not contiguous"));
  const bool needs_strides = source.strides == nullptr && source.ndim != 0;
  OwnedTensor* tensor = new_tensor(source, needs_strides ? 1 : 0);
  if (tensor == nullptr) return -1;
  if (needs_strides) {
    tensor->base.tensor.strides = reinterpret_cast<int64_t*>(tensor + 1);
    fill_strides(source, tensor->base.tensor.strides);
  }
  tensor->owner = from;
  tensor->free = free_managed<Managed>;
  *out = tensor;
  return 0;
}

template <class Managed>
int give_managed(std::string_view function, TVMFFIObjectHandle from, Managed** out) {
  if (out == nullptr) return raise_null(function, "out");
  auto* tensor =
      reinterpret_cast<TensorObject*>(checked_object(from, kTVMFFITensor, function, "from"));
  if (tensor == nullptr) return -1;
  auto* managed = static_cast<Managed*>(std::calloc(1, sizeof(Managed)));
  if (managed == nullptr) return raise_no_memory();
  managed->dl_tensor = tensor->tensor;
  managed->manager_ctx = tensor;
  managed->deleter = [](Managed* self) {
    release(static_cast<TVMFFIObject*>(self->manager_ctx));
    std::free(self);
  };
  retain(&tensor->header);
  *out = managed;
  return 0;
}

}  // namespace

bool is_contiguous(const DLTensor& tensor) {
  if (tensor.strides == nullptr) return true;
  for (int32_t i = 0; i < tensor.ndim; ++i)
    if (tensor.shape[i] == 0) return true;
  int64_t expected = 1;
  for (int32_t i = tensor.ndim - 1; i >= 0; --i) {
    if (tensor.shape[i] == 1) continue;
    if (tensor.strides[i] != expected) return false;
    expected *= tensor.shape[i];  // no overflow: the elements were counted
  }
  return true;
}

bool tensor_bytes(const DLTensor& tensor, std::string_view function, uint64_t* out) {
  return check_shape(tensor, function, out);
}

Ref<TensorObject> make_tensor(const DLTensor& prototype, void* owner, void (*free)(void* owner)) {
  uint64_t bytes = 0;
  if (!check_shape(prototype, "a new tensor", &bytes)) return {};
  OwnedTensor* tensor = new_tensor(prototype, 2);
  if (tensor == nullptr) return {};
  auto* shape = reinterpret_cast<int64_t*>(tensor + 1);
  int64_t* strides = shape + prototype.ndim;
  for (int32_t i = 0; i < prototype.ndim; ++i) {
    shape[i] = prototype.shape[i];
    if (prototype.strides != nullptr) strides[i] = prototype.strides[i];
  }
  if (prototype.strides == nullptr) fill_strides(prototype, strides);
  tensor->base.tensor.shape = shape;
  tensor->base.tensor.strides = strides;
  tensor->owner = owner;
  tensor->free = free;
  return Ref<TensorObject>::adopt(&tensor->base);
}

void own_memory(TensorObject* tensor, void* owner, void (*free)(void* owner)) {
  auto* owned = reinterpret_cast<OwnedTensor*>(tensor);
  owned->owner = owner;
  owned->free = free;
}

int take_dlpack(std::string_view function, DLManagedTensorVersioned* from, int32_t alignment,
                bool contiguous, TVMFFIObjectHandle* out) {
  if (from->version.major != DLPACK_MAJOR_VERSION)
    return raise_value(concat(function, ": DLPack version ", from->version.major, ".",
                              from->version.minor, ", known is 1"));
  if ((from->flags & DLPACK_FLAG_BITMASK_IS_SUBBYTE_TYPE_PADDED) != 0)
    return raise_value(concat(function, ": padded elements of ", from->dl_tensor.dtype.bits,
                              " bits; they must be packed"));
  return take_managed(function, from, alignment, contiguous, out);
}

}  // namespace sluice::ffi

using namespace sluice::ffi;  // NOLINT(google-build-using-namespace): the C functions below

extern "C" {

int TVMFFITensorFromDLPack(DLManagedTensor* from, int32_t require_alignment,
                           int32_t require_contiguous, TVMFFIObjectHandle* out) {
  constexpr std::string_view kName = "TVMFFITensorFromDLPack";
  if (from == nullptr) return raise_null(kName, "from");
  if (out == nullptr) return raise_null(kName, "out");
  return take_managed(kName, from, require_alignment, require_contiguous != 0, out);
}

int TVMFFITensorFromDLPackVersioned(DLManagedTensorVersioned* from, int32_t require_alignment,
                                    int32_t require_contiguous, TVMFFIObjectHandle* out) {
  constexpr std::string_view kName = "TVMFFITensorFromDLPackVersioned";
  if (from == nullptr) return raise_null(kName, "from");
  if (out == nullptr) return raise_null(kName, "out");
  return take_dlpack(kName, from, require_alignment, require_contiguous != 0, out);
}

int TVMFFITensorToDLPack(TVMFFIObjectHandle from, DLManagedTensor** out) {
  return give_managed("TVMFFITensorToDLPack", from, out);
}

int TVMFFITensorToDLPackVersioned(TVMFFIObjectHandle from, DLManagedTensorVersioned** out) {
  if (give_managed("TVMFFITensorToDLPackVersioned", from, out) != 0) return -1;
  (*out)->version = {DLPACK_MAJOR_VERSION, DLPACK_MINOR_VERSION};
  return 0;
}

int TVMFFITensorCreateUnsafeView(TVMFFIObjectHandle source, const DLTensor* prototype,
                                 TVMFFIObjectHandle* out) {
  constexpr std::string_view kName = "TVMFFITensorCreateUnsafeView";
  if (prototype == nullptr) return raise_null(kName, "prototype");
  if (out == nullptr) return raise_null(kName, "out");
  TVMFFIObject* owner = checked_object(source, kTVMFFITensor, kName, "source");
  if (owner == nullptr) return -1;
  auto view = make_tensor(*prototype, owner,
                          [](void* kept) { release_nested(static_cast<TVMFFIObject*>(kept)); });
  if (!view) return -1;
  retain(owner);
  *out = view.take();
  return 0;
}

}  // extern "C"
