// For the tests of this folder: arguments, and tensors with their contents.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <string_view>
#include <vector>

#include "core/ffi/test_support.h"
#include "core/runtime/runtime.h"
#include "core/runtime/tensor.h"

namespace sluice::runtime {

using ffi::Any;
using ffi::call;
using ffi::expect_call_raises;
using ffi::Handle;
using ffi::of_float;
using ffi::of_int;
using ffi::of_text;
using ffi::try_call;

inline constexpr DLDevice kGpu = {kDLWebGPU, 0};

inline TVMFFIAny of_device(DLDevice device) {
  TVMFFIAny out = {.type_index = kTVMFFIDevice};
  out.v_device = device;
  return out;
}

inline TVMFFIAny of_dtype(DLDataType dtype) {
  TVMFFIAny out = {.type_index = kTVMFFIDataType};
  out.v_dtype = dtype;
  return out;
}

// A shape object.
inline Any shape_of(const std::vector<int64_t>& extents) {
  int64_t* elements = nullptr;
  auto made = ffi::make_shape(extents.size(), &elements);
  for (const int64_t extent : extents) *elements++ = extent;
  return Any::adopt(ffi::of_object(std::move(made)));
}

// Bytes as JS passes them. `array` lives as long as the argument.
inline TVMFFIAny of_bytes(const TVMFFIByteArray& array) {
  return ffi::of_pointer(kTVMFFIByteArrayPtr, const_cast<TVMFFIByteArray*>(&array));
}

inline Any new_tensor(const std::vector<int64_t>& extents, const char* dtype,
                      DLDevice device = kCpu) {
  const Any shape = shape_of(extents);
  return call("runtime.TVMTensorAllocWithScope",
              {shape.view(), of_text(dtype), of_device(device), ffi::none()});
}

inline const DLTensor& tensor_of(const Any& value) {
  EXPECT_EQ(value.view().type_index, kTVMFFITensor);
  return reinterpret_cast<const TensorObject*>(value.view().v_obj)->tensor;
}

// A tensor of the CPU's elements, wherever it begins.
template <class T>
std::vector<T> elements(const Any& value) {
  MutableBytes bytes;
  EXPECT_TRUE(cpu_bytes(tensor_of(value), "test", &bytes));
  std::vector<T> out(bytes.size() / sizeof(T));
  if (!out.empty()) std::memcpy(out.data(), bytes.data(), bytes.size());
  return out;
}

template <class T>
Any tensor_with(const std::vector<int64_t>& extents, const char* dtype,
                const std::vector<T>& content) {
  Any made = new_tensor(extents, dtype);
  MutableBytes bytes;
  EXPECT_TRUE(cpu_bytes(tensor_of(made), "test", &bytes));
  EXPECT_EQ(bytes.size(), content.size() * sizeof(T));
  if (!content.empty()) std::memcpy(bytes.data(), content.data(), bytes.size());
  return made;
}

inline Any floats(const std::vector<float>& content) {
  return tensor_with<float>({static_cast<int64_t>(content.size())}, "float32", content);
}

inline Any view_of(const Any& source, const std::vector<int64_t>& extents, const char* dtype,
                   int64_t offset) {
  const Any shape = shape_of(extents);
  return call("runtime.TVMTensorCreateView",
              {source.view(), shape.view(), of_text(dtype), of_int(offset)});
}

// Fixture whose tests find the runtime's functions.
class RuntimeTest : public testing::Test {
 protected:
  void SetUp() override { initialize(); }
};

}  // namespace sluice::runtime
