// int32 arrays for kernels, brought to a device together.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>
#include <string_view>
#include <vector>

#include "core/runtime/tensor.h"

namespace sluice::vm {

// Arrays are gathered one behind the other and uploaded with one copy; kernels get views of the one
// buffer, by byte offset. The first array is at offset 0.
class DeviceArrays {
 public:
  using TensorRef = ffi::Ref<ffi::TensorObject>;

  explicit DeviceArrays(DLDevice device) : device_(device) {}

  // *out becomes the tensor with upload(): [elements], or [elements / columns, columns].
  void add(std::span<const int32_t> array, TensorRef* out);
  void add_columns(std::span<const int32_t> array, int64_t columns, TensorRef* out);
  // [rows, elements]; the rows are of one length.
  void add_rows(std::initializer_list<std::span<const int32_t>> rows, TensorRef* out);

  // Copies what was added since the last call to the device, over what was there.
  [[nodiscard]] int upload(std::string_view function);

 private:
  struct Added {
    TensorRef* out;
    size_t place;
    int64_t shape[2];
    size_t ndim;
  };
  size_t begin_array();

  DLDevice device_;
  std::vector<int32_t> host_;
  std::vector<Added> added_;
  TensorRef buffer_;
  size_t capacity_ = 0;  // elements
};

}  // namespace sluice::vm
