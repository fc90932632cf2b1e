// vm.builtin.*: storage, tensors in it, and what is done with tensors as a whole.
#include <algorithm>
#include <cstring>
#include <vector>

#include "core/ffi/registry.h"
#include "core/runtime/tensor.h"
#include "core/vm/virtual_machine.h"
#include "core/vm/vm.h"

namespace sluice::vm {
namespace {

using ffi::Any;
using ffi::Args;
using ffi::Ref;
using ffi::TensorObject;

std::span<const int64_t> shape_of(const DLTensor& tensor) {
  return {tensor.shape, static_cast<size_t>(tensor.ndim)};
}

// The only memory scope there is, also as "": an optional last argument
bool scope_argument(const Args& args, int32_t i) {
  std::string_view scope;
  if (i >= args.size()) return true;
  if (!args.string(i, &scope)) return false;
  if (scope.empty() || scope == "global") return true;
  ffi::raise_value(concat(args.name(), ": the memory scope ", quote(scope), ", known is 'global'"));
  return false;
}

bool expect_between(const Args& args, int32_t least, int32_t most) {
  if (args.size() >= least && args.size() <= most) return true;
  ffi::raise_type(
      concat(args.name(), " takes ", least, " to ", most, " arguments, not ", args.size()));
  return false;
}

// A tensor object; of a DLTensor that the caller keeps, a view without ownership
Ref<TensorObject> tensor_argument(const Args& args, int32_t i) {
  if (args.at(i).type_index != kTVMFFIDLTensorPtr)
    return Ref<TensorObject>::share(args.object<TensorObject>(i, kTVMFFITensor));
  const DLTensor* tensor = args.tensor(i);
  return tensor == nullptr ? Ref<TensorObject>() : ffi::make_tensor(*tensor, nullptr, nullptr);
}

// (VM, shape, index of the device, dtype, scope): a tensor of bytes. Index -1 is the host.
int alloc_storage(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  VirtualMachine* machine = args.expect(5) ? VirtualMachine::of(args.at(0), args.name()) : nullptr;
  std::vector<int64_t> storage;
  std::span<const int64_t> shape;
  int64_t device = 0;
  DLDataType dtype{};
  if (machine == nullptr || !args.shape(1, &storage, &shape) || !args.integer(2, &device) ||
      !args.dtype(3, &dtype) || !scope_argument(args, 4))
    return -1;
  const auto allocators = machine->allocators();
  if (device < -1 || device >= static_cast<int64_t>(allocators.size()))
    return ffi::raise_value(
        concat(args.name(), ": device ", device, " of the VM's ", allocators.size()));
  Allocator* allocator = device == -1 ? allocators.back() : allocators[static_cast<size_t>(device)];
  uint64_t nbytes = 0;
  if (!runtime::check_dtype(dtype, args.name()) ||
      !runtime::shape_bytes(shape, dtype, args.name(), &nbytes))
    return -1;
  auto tensor = allocator->allocate(nbytes, args.name());
  if (!tensor) return -1;
  *result = ffi::of_object(std::move(tensor));
  return 0;
}

// (storage, offset in bytes, shape, dtype[, scope]): a tensor within the storage
int alloc_tensor(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  if (!expect_between(args, 4, 5)) return -1;
  auto* source = args.object<TensorObject>(0, kTVMFFITensor);
  int64_t offset = 0;
  std::vector<int64_t> storage;
  std::span<const int64_t> shape;
  DLDataType dtype{};
  if (source == nullptr || !args.integer(1, &offset) || !args.shape(2, &storage, &shape) ||
      !args.dtype(3, &dtype) || !scope_argument(args, 4))
    return -1;
  if (offset < 0) return ffi::raise_value(concat(args.name(), ": the offset is ", offset));
  auto tensor = runtime::view(source, shape, dtype, static_cast<uint64_t>(offset), args.name());
  if (!tensor) return -1;
  // Bits are a power of 2 where an element is whole bytes
  const uint64_t alignment = dtype.bits / 8;
  if (alignment > 1 && tensor->tensor.byte_offset % alignment != 0)
    return ffi::raise_value(concat(args.name(), ": byte ", tensor->tensor.byte_offset,
                                   " is no place for ", runtime::dtype_name(dtype)));
  *result = ffi::of_object(std::move(tensor));
  return 0;
}

// (tensor, shape): the same elements
int reshape(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  if (!args.expect(2)) return -1;
  const auto source = tensor_argument(args, 0);
  std::vector<int64_t> storage;
  std::span<const int64_t> shape;
  if (!source || !args.shape(1, &storage, &shape)) return -1;
  auto tensor = runtime::view(source.get(), shape, source->tensor.dtype, 0, args.name());
  if (!tensor) return -1;
  *result = ffi::of_object(std::move(tensor));
  return 0;
}

// The value itself: values do not change
int copy(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  Any value;
  if (!args.expect(1) || !args.owned(0, &value)) return -1;
  *result = value.take();
  return 0;
}

int null_value(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  *result = ffi::none();
  return Args(handle, values, count).expect(0) ? 0 : -1;
}

// (tensor, device type, device id[, scope]): a copy
int to_device(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  int64_t type = 0, id = 0;
  if (!expect_between(args, 3, 4)) return -1;
  const DLTensor* from = args.tensor(0);
  if (from == nullptr || !args.integer(1, &type) || !args.integer(2, &id) ||
      !scope_argument(args, 3))
    return -1;
  if (type != static_cast<int32_t>(type) || id != static_cast<int32_t>(id))
    return ffi::raise_value(concat(args.name(), ": device type ", type, ", id ", id));
  const DLDevice device = {static_cast<DLDeviceType>(type), static_cast<int32_t>(id)};
  auto to = runtime::empty(shape_of(*from), from->dtype, device, args.name());
  if (!to || runtime::copy(*from, to->tensor, args.name()) != 0) return -1;
  *result = ffi::of_object(std::move(to));
  return 0;
}

// The tensor itself, or a copy, whose elements begin where its memory does
int ensure_zero_offset(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  if (!args.expect(1)) return -1;
  auto tensor = tensor_argument(args, 0);
  if (!tensor) return -1;
  if (tensor->tensor.byte_offset != 0) {
    auto to = runtime::empty(shape_of(tensor->tensor), tensor->tensor.dtype, tensor->tensor.device,
                             args.name());
    if (!to || runtime::copy(tensor->tensor, to->tensor, args.name()) != 0) return -1;
    tensor = std::move(to);
  }
  *result = ffi::of_object(std::move(tensor));
  return 0;
}

// The integers of a CPU tensor of `elements` elements
bool read_integers(const Args& args, const DLTensor& tensor, uint64_t elements,
                   std::vector<int64_t>* out) {
  const DLDataType& dtype = tensor.dtype;
  const bool integers = dtype.code == kDLInt || dtype.code == kDLUInt || dtype.code == kDLBool;
  const bool whole = dtype.bits == 8 || dtype.bits == 16 || dtype.bits == 32 || dtype.bits == 64;
  if (!integers || !whole || dtype.lanes != 1) {
    ffi::raise_type(concat(args.name(), ": the tensor is of ", runtime::dtype_name(dtype),
                           ", not of integers"));
    return false;
  }
  if (!runtime::is_cpu(tensor.device)) {
    ffi::raise_value(concat(args.name(), ": ", runtime::describe(tensor),
                            " is read while the VM runs, and must be on the CPU for that"));
    return false;
  }
  MutableBytes bytes;
  if (!runtime::cpu_bytes(tensor, args.name(), &bytes)) return false;
  for (uint64_t i = 0; i < elements; ++i) {
    const std::byte* at = bytes.data() + static_cast<size_t>(i * dtype.bits / 8);
    uint64_t word = 0;
    std::memcpy(&word, at, dtype.bits / 8);
    // The sign, where there is one
    const int unused = 64 - dtype.bits;
    out->push_back(dtype.code == kDLInt ? static_cast<int64_t>(word << unused) >> unused
                                        : static_cast<int64_t>(word));
  }
  return true;
}

int tensor_to_shape(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  const DLTensor* tensor = args.expect(1) ? args.tensor(0) : nullptr;
  if (tensor == nullptr) return -1;
  // DLPack's own tensors have few dimensions; a shape of more is no shape
  constexpr int64_t kMost = 1024;
  if (tensor->ndim != 1 || tensor->shape[0] > kMost)
    return ffi::raise_value(concat(args.name(), ": ", runtime::describe(*tensor),
                                   " is no list of at most ", kMost, " extents"));
  std::vector<int64_t> extents;
  if (!read_integers(args, *tensor, static_cast<uint64_t>(tensor->shape[0]), &extents)) return -1;
  int64_t* place = nullptr;
  auto shape = ffi::make_shape(extents.size(), &place);
  if (!shape) return -1;
  std::copy(extents.begin(), extents.end(), place);
  *result = ffi::of_object(std::move(shape));
  return 0;
}

// An int or bool, or a tensor with one: whether it is not 0
int read_if_cond(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  if (!args.expect(1)) return -1;
  const int32_t type = args.at(0).type_index;
  if (type == kTVMFFIInt || type == kTVMFFIBool) {
    *result = ffi::of_bool(args.at(0).v_int64 != 0);
    return 0;
  }
  const DLTensor* tensor = args.tensor(0);
  if (tensor == nullptr) return -1;
  uint64_t elements = 0;
  if (!runtime::shape_bytes(shape_of(*tensor), tensor->dtype, args.name(), &elements)) return -1;
  elements = runtime::element_count(*tensor);
  std::vector<int64_t> value;
  if (elements != 1)
    return ffi::raise_value(
        concat(args.name(), ": ", runtime::describe(*tensor), " is no single value"));
  if (!read_integers(args, *tensor, 1, &value)) return -1;
  *result = ffi::of_bool(value[0] != 0);
  return 0;
}

int clear_memory(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  *result = ffi::none();
  if (!Args(handle, values, count).expect(0)) return -1;
  Allocator::clear_all();
  return 0;
}

constexpr ffi::Builtin kBuiltins[] = {
    {"vm.builtin.alloc_storage", alloc_storage},
    {"vm.builtin.alloc_tensor", alloc_tensor},
    {"vm.builtin.reshape", reshape},
    {"vm.builtin.copy", copy},
    {"vm.builtin.null_value", null_value},
    {"vm.builtin.to_device", to_device},
    {"vm.builtin.ensure_zero_offset", ensure_zero_offset},
    {"vm.builtin.tensor_to_shape", tensor_to_shape},
    {"vm.builtin.read_if_cond", read_if_cond},
    {"vm.builtin.memory_manager.clear", clear_memory},
};

}  // namespace

std::span<const ffi::Builtin> tensor_builtins() { return kBuiltins; }

}  // namespace sluice::vm
