// Tensors on devices: making them, views of them, and copies. Messages begin with `function`, the
// name that the caller is known by. All raise, and return -1, false or null, where they fail.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "core/base/bytes.h"
#include "core/ffi/object.h"
#include "core/runtime/device.h"

namespace sluice::runtime {

using ffi::Ref;
using ffi::TensorObject;

inline constexpr DLDevice kCpu = {kDLCPU, 0};
inline constexpr DLDataType kFloat32 = {kDLFloat, 32, 1};
inline constexpr DLDataType kInt32 = {kDLInt, 32, 1};

inline bool same_dtype(DLDataType a, DLDataType b) {
  return a.code == b.code && a.bits == b.bits && a.lanes == b.lanes;
}

// Whether tensors may hold this type: a code of DLPack with bits that it can have, at least one
// lane. Elements of less than a byte are packed.
[[nodiscard]] bool check_dtype(DLDataType dtype, std::string_view function);

// "float32"; for messages, so "a dtype of code 77" where there is no name
std::string dtype_name(DLDataType dtype);
// "float32[2, 3] on cpu:0"
std::string describe(const DLTensor& tensor);

// Bytes that elements of `dtype` take in this shape, packed: ceil(bits * lanes * elements / 8).
[[nodiscard]] bool shape_bytes(std::span<const int64_t> shape, DLDataType dtype,
                               std::string_view function, uint64_t* out);

// A tensor with memory of its own, not initialised.
Ref<TensorObject> empty(std::span<const int64_t> shape, DLDataType dtype, DLDevice device,
                        std::string_view function);

// A tensor over memory that exists already, which it gives back to the device at the end. Where
// this fails, the memory stays the caller's.
Ref<TensorObject> from_handle(void* data, std::span<const int64_t> shape, DLDataType dtype,
                              DLDevice device, std::string_view function);

// A tensor over a part of `source`, which it keeps, from `offset` bytes behind its start on.
// `source` must be contiguous and hold all of it.
Ref<TensorObject> view(TensorObject* source, std::span<const int64_t> shape, DLDataType dtype,
                       uint64_t offset, std::string_view function);

// Copies all bytes. Both must be contiguous and of one size in bytes; shapes and dtypes may differ.
// Between two devices one must be the CPU. A copy from another device to the CPU may only begin
// here: DeviceApi::read.
[[nodiscard]] int copy(const DLTensor& from, const DLTensor& to, std::string_view function);
[[nodiscard]] int copy_from_bytes(Bytes from, const DLTensor& to, std::string_view function);

// The bytes of a contiguous tensor on the CPU.
[[nodiscard]] bool cpu_bytes(const DLTensor& tensor, std::string_view function, MutableBytes* out);

// The elements of a contiguous tensor of exactly this dtype on the CPU; `what` names it, as in
// "logits". They may stand at any byte. Null where it is something else, never where it is empty.
void* cpu_elements(const DLTensor& tensor, DLDataType dtype, std::string_view function,
                   std::string_view what);
template <class T>
T* cpu_elements(const DLTensor& tensor, DLDataType dtype, std::string_view function,
                std::string_view what) {
  return static_cast<T*>(cpu_elements(tensor, dtype, function, what));
}

// Elements of a tensor whose bytes are counted.
uint64_t element_count(const DLTensor& tensor);

}  // namespace sluice::runtime
