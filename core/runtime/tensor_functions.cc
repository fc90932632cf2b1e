// The functions for tensors that tvmjs's JS, hosts and compiled models call by name.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "core/base/checked.h"
#include "core/ffi/registry.h"
#include "core/runtime/runtime.h"
#include "core/runtime/tensor.h"

namespace sluice::runtime {
namespace {

using ffi::Any;
using ffi::Args;
using ffi::ArrayObject;
using ffi::raise_type;
using ffi::raise_value;

// The tensor object of argument `i`: not a bare DLTensor, which cannot be kept
TensorObject* object_argument(const Args& args, int32_t i) {
  return args.object<TensorObject>(i, kTVMFFITensor);
}

int give(Ref<TensorObject> tensor, TVMFFIAny* result) {
  if (!tensor) return -1;
  *result = ffi::of_object(std::move(tensor));
  return 0;
}

// (shape, dtype, device, scope): the memory scopes of native GPUs are refused
int allocate(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  std::vector<int64_t> storage;
  std::span<const int64_t> shape;
  DLDataType dtype{};
  DLDevice device{};
  if (!args.expect(4) || !args.shape(0, &storage, &shape) || !args.dtype(1, &dtype) ||
      !args.device(2, &device))
    return -1;
  if (args.at(3).type_index != kTVMFFINone) {
    std::string_view scope;
    if (!args.string(3, &scope)) return -1;
    if (!scope.empty() && scope != "global")
      return raise_value(concat(args.name(), ": ", device_name(device), " has no memory scope ",
                                quote(scope), ", only 'global'"));
  }
  return give(empty(shape, dtype, device, args.name()), result);
}

int copy_from_to(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny*) {
  const Args args(handle, values, count);
  if (!args.expect(2)) return -1;
  const DLTensor* from = args.tensor(0);
  const DLTensor* to = from == nullptr ? nullptr : args.tensor(1);
  return to == nullptr ? -1 : copy(*from, *to, args.name());
}

// (tensor, shape, dtype, relative byte offset)
int create_view(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  std::vector<int64_t> storage;
  std::span<const int64_t> shape;
  DLDataType dtype{};
  int64_t offset = 0;
  if (!args.expect(4)) return -1;
  TensorObject* source = object_argument(args, 0);
  if (source == nullptr || !args.shape(1, &storage, &shape) || !args.dtype(2, &dtype) ||
      !args.integer(3, &offset))
    return -1;
  if (offset < 0) return raise_value(concat(args.name(), ": the byte offset is ", offset));
  return give(view(source, shape, dtype, static_cast<uint64_t>(offset), args.name()), result);
}

int is_storage_shared(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  if (!args.expect(2)) return -1;
  const TensorObject* a = object_argument(args, 0);
  const TensorObject* b = a == nullptr ? nullptr : object_argument(args, 1);
  uint64_t a_bytes = 0;
  uint64_t b_bytes = 0;
  if (b == nullptr || !ffi::tensor_bytes(a->tensor, args.name(), &a_bytes) ||
      !ffi::tensor_bytes(b->tensor, args.name(), &b_bytes))
    return -1;
  *result = ffi::of_bool(same_device(a->tensor.device, b->tensor.device) &&
                         a->tensor.data == b->tensor.data &&
                         a->tensor.byte_offset == b->tensor.byte_offset && a_bytes == b_bytes);
  return 0;
}

// (handle, shape, dtype, device): takes memory over that exists already
int tensor_from_handle(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  std::vector<int64_t> storage;
  std::span<const int64_t> shape;
  DLDataType dtype{};
  DLDevice device{};
  if (!args.expect(4)) return -1;
  const TVMFFIAny value = args.at(0);
  void* data = value.v_ptr;
  if (value.type_index != kTVMFFIOpaquePtr) {
    int64_t address = 0;
    if (!args.integer(0, &address)) return -1;
    if (address < 0 || static_cast<uint64_t>(address) > UINTPTR_MAX)
      return raise_value(concat(args.name(), ": no memory has the handle ", address));
    data = reinterpret_cast<void*>(static_cast<uintptr_t>(address));
  }
  if (!args.shape(1, &storage, &shape) || !args.dtype(2, &dtype) || !args.device(3, &device))
    return -1;
  return give(from_handle(data, shape, dtype, device, args.name()), result);
}

int from_bytes(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny*) {
  const Args args(handle, values, count);
  std::string_view bytes;
  if (!args.expect(2)) return -1;
  const DLTensor* to = args.tensor(0);
  if (to == nullptr || !args.bytes(1, &bytes)) return -1;
  return copy_from_bytes(as_bytes(bytes), *to, args.name());
}

int to_bytes(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  if (!args.expect(1)) return -1;
  const DLTensor* from = args.tensor(0);
  MutableBytes bytes;
  if (from == nullptr || !cpu_bytes(*from, args.name(), &bytes)) return -1;
  return ffi::make_bytes(as_text(bytes), result);
}

// Makes float32 i of its upper half; both may stand at any byte.
void expand(const char* halves, char* out, size_t i) {
  uint16_t half = 0;
  std::memcpy(&half, halves + 2 * i, sizeof(half));
  const uint32_t full = static_cast<uint32_t>(half) << 16;
  std::memcpy(out + 4 * i, &full, sizeof(full));
}

// (tensor, bytes, format, dtype): a record of a tensor cache. Where format is f32-to-bf16 and dtype
// is float32, two bytes an element are the upper half of a float32, and four are the float32
// itself, as published caches have both. Everything else is copied as it is.
int decode_storage(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny*) {
  const Args args(handle, values, count);
  std::string_view bytes;
  std::string_view format;
  std::string_view dtype;
  if (!args.expect(4)) return -1;
  const DLTensor* to = args.tensor(0);
  if (to == nullptr || !args.bytes(1, &bytes) || !args.string(2, &format) ||
      !args.string(3, &dtype))
    return -1;
  uint64_t nbytes = 0;
  if (!ffi::tensor_bytes(*to, args.name(), &nbytes)) return -1;
  if (format != "f32-to-bf16" || dtype != "float32" || bytes.size() == nbytes)
    return copy_from_bytes(as_bytes(bytes), *to, args.name());
  auto* out = cpu_elements<char>(*to, kFloat32, args.name(), "a tensor to decode to");
  if (out == nullptr) return -1;
  if (bytes.size() != nbytes / 2)
    return raise_value(concat(args.name(), ": ", describe(*to), " is ", nbytes / 2,
                              " bytes as bfloat16 or ", nbytes, " as float32, not ", bytes.size()));
  for (size_t i = 0; i < bytes.size() / 2; ++i) expand(bytes.data(), out, i);
  return 0;
}

// (tensor, bytes): the first `bytes` of a float32 tensor are the upper halves of all its elements,
// which are expanded where they stand. With this, tvmjs's JS has one copy of a record fewer.
int decode_in_place(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny*) {
  const Args args(handle, values, count);
  int64_t nbytes = 0;
  if (!args.expect(2)) return -1;
  const DLTensor* tensor = args.tensor(0);
  if (tensor == nullptr || !args.integer(1, &nbytes)) return -1;
  auto* data = cpu_elements<char>(*tensor, kFloat32, args.name(), "a tensor to decode");
  if (data == nullptr) return -1;
  const uint64_t elements = element_count(*tensor);
  if (nbytes < 0 || static_cast<uint64_t>(nbytes) != 2 * elements)
    return raise_value(concat(args.name(), ": ", describe(*tensor), " is ", 2 * elements,
                              " bytes as bfloat16, not ", nbytes));
  // From the back, where nothing stands that is yet to be read
  for (size_t i = static_cast<size_t>(elements); i-- > 0;) expand(data, data, i);
  return 0;
}

// The elements of all arrays, one array after the other
int concatenate_arrays(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  uint64_t size = 0;
  for (int32_t i = 0; i < count; ++i) {
    const auto* array = args.object<ArrayObject>(i, kTVMFFIArray);
    if (array == nullptr) return -1;
    size += static_cast<uint64_t>(array->cell.size);
  }
  struct Free {
    void operator()(TVMFFIAny* items) const { std::free(items); }
  };
  // One more, so that none is not null
  const auto nbytes = checked_mul(size + 1, sizeof(TVMFFIAny));
  const std::unique_ptr<TVMFFIAny, Free> items(static_cast<TVMFFIAny*>(
      nbytes && *nbytes <= SIZE_MAX ? std::malloc(static_cast<size_t>(*nbytes)) : nullptr));
  if (items == nullptr)
    return ffi::raise("MemoryError",
                      concat(args.name(), ": no memory for an array of ", size, " elements"));
  TVMFFIAny* next = items.get();
  for (int32_t i = 0; i < count; ++i) {
    const auto* array = args.object<ArrayObject>(i, kTVMFFIArray);
    next = std::copy_n(array->items(), array->cell.size, next);
  }
  auto made = ffi::make_array(items.get(), static_cast<size_t>(size));
  if (!made) return -1;
  *result = ffi::of_object(std::move(made));
  return 0;
}

// Tensors of [n_i, hidden] to one of [sum of n_i, hidden]
int concatenate_embeddings(void* handle, const TVMFFIAny* values, int32_t count,
                           TVMFFIAny* result) {
  const Args args(handle, values, count);
  if (count == 0) return raise_type(concat(args.name(), " takes at least one tensor"));
  const DLTensor* first = args.tensor(0);
  if (first == nullptr) return -1;
  int64_t rows = 0;
  for (int32_t i = 0; i < count; ++i) {
    const DLTensor* part = args.tensor(i);
    uint64_t nbytes = 0;
    if (part == nullptr || !ffi::tensor_bytes(*part, args.name(), &nbytes)) return -1;
    if (part->ndim != 2 || first->ndim != 2 || part->shape[1] != first->shape[1] ||
        !same_dtype(part->dtype, first->dtype) || !same_device(part->device, first->device))
      return raise_value(concat(args.name(), ": argument ", i, " is ", describe(*part),
                                " where argument 0 is ", describe(*first),
                                "; only the first of two extents may differ"));
    if (__builtin_add_overflow(rows, part->shape[0], &rows))
      return raise_value(concat(args.name(), ": more rows than 63 bits count"));
  }
  const int64_t shape[] = {rows, first->shape[1]};
  auto made = empty(shape, first->dtype, first->device, args.name());
  uint64_t offset = 0;
  for (int32_t i = 0; i < count && made; ++i) {
    const DLTensor* part = args.tensor(i);
    uint64_t nbytes = 0;
    if (!ffi::tensor_bytes(*part, args.name(), &nbytes)) return -1;
    // Rows of elements of less than a byte may end within one
    if (part->dtype.bits % 8 != 0 &&
        element_count(*part) * part->dtype.bits * part->dtype.lanes % 8 != 0)
      return raise_value(concat(args.name(), ": the rows of argument ", i, ", ", describe(*part),
                                ", are no whole number of bytes"));
    DLTensor place = made->tensor;
    place.shape = part->shape;
    place.strides = nullptr;
    place.byte_offset = offset;
    if (copy(*part, place, args.name()) != 0) return -1;
    offset += nbytes;
  }
  return give(std::move(made), result);
}

constexpr ffi::Builtin kBuiltins[] = {
    {"runtime.TVMTensorAllocWithScope", allocate},
    {"runtime.TVMTensorCopyFromTo", copy_from_to},
    {"runtime.TVMTensorCreateView", create_view},
    {"runtime.TVMTensorIsStorageShared", is_storage_shared},
    {"sluice.runtime.TensorFromHandle", tensor_from_handle},
    {"tvmjs.array.decode_bf16_to_f32_inplace", decode_in_place},
    {"tvmjs.array.decode_storage", decode_storage},
    {"tvmjs.runtime.ArrayConcat", concatenate_arrays},
    {"tvmjs.runtime.ConcatEmbeddings", concatenate_embeddings},
    {"tvmjs.runtime.TensorCopyFromBytes", from_bytes},
    {"tvmjs.runtime.TensorCopyToBytes", to_bytes},
};

}  // namespace

std::span<const ffi::Builtin> tensor_builtins() { return kBuiltins; }

}  // namespace sluice::runtime
