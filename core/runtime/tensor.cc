#include "core/runtime/tensor.h"

#include "core/base/checked.h"

namespace sluice::runtime {
namespace {

using ffi::Any;
using ffi::raise_value;

// The bits that elements of a code can have; a code that is not here is none
bool has_bits(uint8_t code, uint8_t bits) {
  const bool is_power = bits != 0 && (bits & (bits - 1)) == 0;
  switch (code) {
    case kDLInt:
    case kDLUInt:
      return is_power;
    case kDLFloat:
      return is_power && bits >= 8;
    case kDLOpaqueHandle:
      return bits == 32 || bits == 64;
    case kDLBfloat:
      return bits == 16;
    case kDLComplex:
      return is_power && bits >= 16;
    case kDLBool:
      return is_power && bits <= 64;
    case kDLFloat8_e3m4:
    case kDLFloat8_e4m3:
    case kDLFloat8_e4m3b11fnuz:
    case kDLFloat8_e4m3fn:
    case kDLFloat8_e4m3fnuz:
    case kDLFloat8_e5m2:
    case kDLFloat8_e5m2fnuz:
    case kDLFloat8_e8m0fnu:
      return bits == 8;
    case kDLFloat6_e2m3fn:
    case kDLFloat6_e3m2fn:
      return bits == 6;
    case kDLFloat4_e2m1fn:
      return bits == 4;
    default:
      return false;
  }
}

// The first byte of a tensor of CPU memory, which may be null where it has none
void* cpu_data(const DLTensor& tensor) {
  return reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(tensor.data) +
                                 static_cast<uintptr_t>(tensor.byte_offset));
}

DLTensor prototype_of(void* data, std::span<const int64_t> shape, DLDataType dtype,
                      DLDevice device) {
  return {.data = data,
          .device = device,
          .ndim = static_cast<int32_t>(shape.size()),
          .dtype = dtype,
          .shape = const_cast<int64_t*>(shape.data()),
          .strides = nullptr,
          .byte_offset = 0};
}

// Bytes of a tensor that is copied; false after raising where it cannot be
bool copied_bytes(const DLTensor& tensor, std::string_view function, uint64_t* nbytes) {
  if (!check_dtype(tensor.dtype, function) || !ffi::tensor_bytes(tensor, function, nbytes))
    return false;
  if (!ffi::is_contiguous(tensor)) {
    raise_value(concat(function, ": ", describe(tensor),
                       " is not contiguous, and only whole rows after each other are copied"));
    return false;
  }
  if (*nbytes != 0 && tensor.data == nullptr) {
    raise_value(concat(function, ": ", describe(tensor), " has no memory"));
    return false;
  }
  if (!is_cpu(tensor.device)) return true;
  uintptr_t end = 0;
  if (tensor.byte_offset > UINTPTR_MAX || *nbytes > UINTPTR_MAX ||
      __builtin_add_overflow(reinterpret_cast<uintptr_t>(tensor.data),
                             static_cast<uintptr_t>(tensor.byte_offset), &end) ||
      __builtin_add_overflow(end, static_cast<uintptr_t>(*nbytes), &end)) {
    raise_value(concat(function, ": ", describe(tensor), " of ", *nbytes, " bytes, at byte ",
                       tensor.byte_offset, ", ends behind the memory"));
    return false;
  }
  return true;
}

bool same_size(uint64_t from, std::string_view from_name, uint64_t to, std::string_view to_name,
               std::string_view function) {
  if (from == to) return true;
  raise_value(concat(function, ": ", from_name, ", ", from, " bytes, does not fit ", to_name, ", ",
                     to, " bytes"));
  return false;
}

}  // namespace

std::string dtype_name(DLDataType dtype) {
  Any name;
  if (TVMFFIDataTypeToString(&dtype, name.receive()) == 0)
    return std::string(ffi::text(name.view()));
  TVMFFIObjectHandle raised = nullptr;
  TVMFFIErrorMoveFromRaised(&raised);
  if (raised != nullptr) ffi::release(static_cast<TVMFFIObject*>(raised));
  return concat("a dtype of code ", dtype.code);
}

std::string describe(const DLTensor& tensor) {
  std::string out = concat(dtype_name(tensor.dtype), "[");
  for (int32_t i = 0; i < tensor.ndim && tensor.shape != nullptr; ++i) {
    if (i == 16) {
      out += ", …";
      break;
    }
    out += concat(i == 0 ? "" : ", ", tensor.shape[i]);
  }
  return out + concat("] on ", device_name(tensor.device));
}

bool check_dtype(DLDataType dtype, std::string_view function) {
  const auto lanes = static_cast<int16_t>(dtype.lanes);
  if (has_bits(dtype.code, dtype.bits) && lanes >= 1) return true;
  raise_value(concat(function, ": no tensor can hold the dtype of code ", dtype.code, ", ",
                     dtype.bits, " bits and ", lanes, " lanes"));
  return false;
}

bool shape_bytes(std::span<const int64_t> shape, DLDataType dtype, std::string_view function,
                 uint64_t* out) {
  if (shape.size() > INT32_MAX) {
    raise_value(concat(function, ": a shape of ", shape.size(), " dimensions"));
    return false;
  }
  return check_dtype(dtype, function) &&
         ffi::tensor_bytes(prototype_of(nullptr, shape, dtype, kCpu), function, out);
}

uint64_t element_count(const DLTensor& tensor) {
  uint64_t count = 1;
  for (int32_t i = 0; i < tensor.ndim; ++i)
    if (tensor.shape[i] == 0) return 0;
  for (int32_t i = 0; i < tensor.ndim; ++i) count *= static_cast<uint64_t>(tensor.shape[i]);
  return count;
}

Ref<TensorObject> empty(std::span<const int64_t> shape, DLDataType dtype, DLDevice device,
                        std::string_view function) {
  uint64_t nbytes = 0;
  const DeviceApi* api = find_device(device, function);
  void* data = nullptr;
  if (api == nullptr || !shape_bytes(shape, dtype, function, &nbytes) ||
      api->allocate(nbytes, &data) != 0)
    return {};
  auto tensor = ffi::make_tensor(prototype_of(data, shape, dtype, device), data, api->free);
  if (!tensor) api->free(data);
  return tensor;
}

Ref<TensorObject> from_handle(void* data, std::span<const int64_t> shape, DLDataType dtype,
                              DLDevice device, std::string_view function) {
  uint64_t nbytes = 0;
  const DeviceApi* api = find_device(device, function);
  if (api == nullptr || !shape_bytes(shape, dtype, function, &nbytes)) return {};
  if (data == nullptr) {
    raise_value(concat(function, ": the handle is null"));
    return {};
  }
  // The object comes first: once adopted, the memory has to be freed by it
  auto tensor = ffi::make_tensor(prototype_of(data, shape, dtype, device), nullptr, nullptr);
  if (!tensor || api->adopt(data, nbytes) != 0) return {};
  ffi::own_memory(tensor.get(), data, api->free);
  return tensor;
}

Ref<TensorObject> view(TensorObject* source, std::span<const int64_t> shape, DLDataType dtype,
                       uint64_t offset, std::string_view function) {
  const DLTensor& whole = source->tensor;
  uint64_t held = 0;
  uint64_t wanted = 0;
  if (!ffi::tensor_bytes(whole, function, &held) || !shape_bytes(shape, dtype, function, &wanted))
    return {};
  if (!ffi::is_contiguous(whole)) {
    raise_value(concat(function, ": ", describe(whole), " is not contiguous"));
    return {};
  }
  DLTensor part = prototype_of(whole.data, shape, dtype, whole.device);
  const auto end = checked_add(offset, wanted);
  const auto start = checked_add(whole.byte_offset, offset);
  if (!end || *end > held || !start) {
    raise_value(concat(function, ": ", describe(part), " is ", wanted, " bytes at byte ", offset,
                       " of ", describe(whole), ", which has ", held));
    return {};
  }
  part.byte_offset = *start;
  auto made = ffi::make_tensor(part, source, [](void* kept) {
    ffi::release_nested(&static_cast<TensorObject*>(kept)->header);
  });
  if (made) ffi::retain(&source->header);
  return made;
}

int copy(const DLTensor& from, const DLTensor& to, std::string_view function) {
  uint64_t nbytes = 0;
  uint64_t room = 0;
  const DeviceApi* from_api = find_device(from.device, function);
  const DeviceApi* to_api = find_device(to.device, function);
  if (from_api == nullptr || to_api == nullptr || !copied_bytes(from, function, &nbytes) ||
      !copied_bytes(to, function, &room) ||
      !same_size(nbytes, describe(from), room, describe(to), function))
    return -1;
  if (is_cpu(from.device)) return to_api->write(cpu_data(from), to.data, to.byte_offset, nbytes);
  if (is_cpu(to.device)) return from_api->read(from.data, from.byte_offset, cpu_data(to), nbytes);
  if (!same_device(from.device, to.device))
    return raise_value(concat(function, ": no copy from ", device_name(from.device), " to ",
                              device_name(to.device), "; copy to cpu:0 first"));
  return from_api->copy(from.data, from.byte_offset, to.data, to.byte_offset, nbytes);
}

int copy_from_bytes(Bytes from, const DLTensor& to, std::string_view function) {
  uint64_t room = 0;
  const DeviceApi* api = find_device(to.device, function);
  if (api == nullptr || !copied_bytes(to, function, &room) ||
      !same_size(from.size(), "an array of bytes", room, describe(to), function))
    return -1;
  return api->write(from.data(), to.data, to.byte_offset, room);
}

bool cpu_bytes(const DLTensor& tensor, std::string_view function, MutableBytes* out) {
  uint64_t nbytes = 0;
  if (!is_cpu(tensor.device)) {
    raise_value(concat(function, ": ", describe(tensor),
                       " cannot be read at once; copy it to a tensor on cpu:0 and await the "
                       "device's sync()"));
    return false;
  }
  if (!copied_bytes(tensor, function, &nbytes)) return false;
  *out = {static_cast<std::byte*>(cpu_data(tensor)), static_cast<size_t>(nbytes)};
  return true;
}

void* cpu_elements(const DLTensor& tensor, DLDataType dtype, std::string_view function,
                   std::string_view what) {
  // For no elements of a tensor without memory
  alignas(kAlignment) static constinit char nothing[1] = {};
  MutableBytes bytes;
  if (!is_cpu(tensor.device) || !same_dtype(tensor.dtype, dtype)) {
    ffi::raise_type(concat(function, ": ", what, " must be ", dtype_name(dtype),
                           " on the CPU, not ", describe(tensor)));
    return nullptr;
  }
  if (!cpu_bytes(tensor, function, &bytes)) return nullptr;
  return bytes.empty() ? static_cast<void*>(nothing) : bytes.data();
}

}  // namespace sluice::runtime
