// vm.builtin.*: shapes and the heap of their variables, and what functions check of their
// arguments. Codes and orders of arguments are those of tvm/runtime/vm/builtin.h in apache-tvm
// 0.27.
#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "core/ffi/registry.h"
#include "core/runtime/tensor.h"
#include "core/vm/virtual_machine.h"
#include "core/vm/vm.h"

namespace sluice::vm {
namespace {

using ffi::Any;
using ffi::Args;
using ffi::raise;

constexpr DLDataType kInt64 = {kDLInt, 64, 1};

// The variables of shapes, as int64 in CPU memory: `%void` where a function has none.
struct Heap {
  int64_t* data = nullptr;
  uint64_t size = 0;
};

bool heap_argument(const Args& args, int32_t i, Heap* out) {
  if (args.at(i).type_index == kTVMFFINone) return true;
  const DLTensor* tensor = args.tensor(i);
  if (tensor == nullptr) return false;
  void* data = runtime::cpu_elements(*tensor, kInt64, args.name(), "the heap of shapes");
  if (data == nullptr) return false;
  if (reinterpret_cast<uintptr_t>(data) % alignof(int64_t) != 0) {
    ffi::raise_value(concat(args.name(), ": the heap of shapes is not aligned"));
    return false;
  }
  out->data = static_cast<int64_t*>(data);
  out->size = runtime::element_count(*tensor);
  return true;
}

// The place in the heap that argument `i` names
int64_t* heap_place(const Args& args, int32_t i, const Heap& heap) {
  size_t at = 0;
  return args.index(i, static_cast<size_t>(heap.size), &at) ? heap.data + at : nullptr;
}

int alloc_shape_heap(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  int64_t size = 0;
  VirtualMachine* machine = args.expect(2) ? VirtualMachine::of(args.at(0), args.name()) : nullptr;
  if (machine == nullptr || !args.integer(1, &size)) return -1;
  // The last device is the host's
  auto heap = machine->allocators().back()->empty({&size, 1}, kInt64, args.name());
  if (!heap) return -1;
  *result = ffi::of_object(std::move(heap));
  return 0;
}

// The text that the compiler gives for messages, or "" where there is none
bool context_argument(const Args& args, int32_t i, std::string_view* out) {
  *out = {};
  return i >= args.size() || args.at(i).type_index == kTVMFFINone || args.string(i, out);
}

int mismatch(const Args& args, std::string_view kind, std::string_view context,
             std::string_view what) {
  return raise(kind, concat(args.name(), ": ", context, context.empty() ? "" : " ", what));
}

enum class Match : int64_t { equal_number = 0, store = 1, anything = 2, equal_stored = 3 };

// Holds `value` to what arguments `code_at` and `code_at` + 1 say; it is extent `extent` of a
// shape, or the value itself where that is negative.
int match_one(const Args& args, int32_t code_at, int64_t value, const Heap& heap,
              std::string_view context, int32_t extent) {
  int64_t code = 0, expected = 0;
  if (!args.integer(code_at, &code)) return -1;
  switch (static_cast<Match>(code)) {
    case Match::equal_number:
      if (!args.integer(code_at + 1, &expected)) return -1;
      break;
    case Match::store: {
      int64_t* place = heap_place(args, code_at + 1, heap);
      if (place == nullptr) return -1;
      *place = value;
      return 0;
    }
    case Match::anything:
      return 0;
    case Match::equal_stored: {
      const int64_t* place = heap_place(args, code_at + 1, heap);
      if (place == nullptr) return -1;
      expected = *place;
      break;
    }
    default:
      return ffi::raise_value(concat(args.name(), ": the unknown code ", code));
  }
  if (value == expected) return 0;
  const std::string what = extent < 0 ? std::string("the value") : concat("shape[", extent, "]");
  return mismatch(args, "ValueError", context,
                  concat(what, " is ", value, ", and must be ", expected));
}

// (value, heap, code, number or place, context)
int match_prim_value(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  int64_t value = 0;
  Heap heap;
  std::string_view context;
  if (!args.expect(5) || !args.integer(0, &value) || !heap_argument(args, 1, &heap) ||
      !context_argument(args, 4, &context))
    return -1;
  *result = ffi::none();
  return match_one(args, 2, value, heap, context, -1);
}

// The extents of a tensor or shape
bool extents_argument(const Args& args, int32_t i, std::vector<int64_t>* storage,
                      std::span<const int64_t>* out) {
  const int32_t type = args.at(i).type_index;
  if (type != kTVMFFITensor && type != kTVMFFIDLTensorPtr) return args.shape(i, storage, out);
  const DLTensor* tensor = args.tensor(i);
  if (tensor == nullptr) return false;
  if (tensor->ndim < 0) return false;
  *out = {tensor->shape, static_cast<size_t>(tensor->ndim)};
  return true;
}

// (tensor or shape, heap, n, n times {code, number or place}, context)
int match_shape(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  constexpr int32_t kFirst = 3;
  const Args args(handle, values, count);
  *result = ffi::none();
  if (args.size() < kFirst)
    return ffi::raise_type(concat(args.name(),
                                  " takes a tensor or shape, a heap and a number, not ",
                                  args.size(), " arguments"));
  std::vector<int64_t> storage;
  std::span<const int64_t> extents;
  Heap heap;
  int64_t size = 0;
  std::string_view context;
  if (!extents_argument(args, 0, &storage, &extents) || !heap_argument(args, 1, &heap) ||
      !args.integer(2, &size))
    return -1;
  if (size < 0 || size > (args.size() - kFirst) / 2)
    return ffi::raise_type(
        concat(args.name(), ": ", args.size(), " arguments are too few for ", size, " extents"));
  if (!context_argument(args, kFirst + static_cast<int32_t>(size) * 2, &context)) return -1;
  if (static_cast<int64_t>(extents.size()) != size)
    return mismatch(args, "ValueError", context,
                    concat("there are ", extents.size(), " dimensions, and must be ", size));
  for (int32_t i = 0; i < size; ++i)
    if (match_one(args, kFirst + i * 2, extents[static_cast<size_t>(i)], heap, context, i) != 0)
      return -1;
  return 0;
}

enum class Make : int64_t { number = 0, stored = 1 };

bool make_one(const Args& args, int32_t code_at, const Heap& heap, int64_t* out) {
  int64_t code = 0;
  if (!args.integer(code_at, &code)) return false;
  if (code == static_cast<int64_t>(Make::number)) return args.integer(code_at + 1, out);
  if (code != static_cast<int64_t>(Make::stored)) {
    ffi::raise_value(concat(args.name(), ": the unknown code ", code));
    return false;
  }
  const int64_t* place = heap_place(args, code_at + 1, heap);
  if (place != nullptr) *out = *place;
  return place != nullptr;
}

// (heap, code, number or place)
int make_prim_value(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  Heap heap;
  int64_t value = 0;
  if (!args.expect(3) || !heap_argument(args, 0, &heap) || !make_one(args, 1, heap, &value))
    return -1;
  *result = ffi::of_int(value);
  return 0;
}

// (heap, n, n times {code, number or place})
int make_shape(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  constexpr int32_t kFirst = 2;
  const Args args(handle, values, count);
  if (args.size() < kFirst)
    return ffi::raise_type(
        concat(args.name(), " takes a heap and a number, not ", args.size(), " arguments"));
  Heap heap;
  int64_t size = 0;
  if (!heap_argument(args, 0, &heap) || !args.integer(1, &size)) return -1;
  if (size < 0 || size > args.size() || args.size() - kFirst != size * 2)
    return ffi::raise_type(concat(args.name(), ": ", args.size(), " arguments, for ", size,
                                  " extents there must be ", kFirst, " and two for each"));
  int64_t* extents = nullptr;
  auto shape = ffi::make_shape(static_cast<size_t>(size), &extents);
  if (!shape) return -1;
  for (int32_t i = 0; i < size; ++i)
    if (!make_one(args, kFirst + i * 2, heap, extents + i)) return -1;
  *result = ffi::of_object(std::move(shape));
  return 0;
}

int shape_of(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  const DLTensor* tensor = args.expect(1) ? args.tensor(0) : nullptr;
  if (tensor == nullptr) return -1;
  int64_t* extents = nullptr;
  auto shape = ffi::make_shape(static_cast<size_t>(tensor->ndim), &extents);
  if (!shape) return -1;
  std::copy_n(tensor->shape, tensor->ndim, extents);
  *result = ffi::of_object(std::move(shape));
  return 0;
}

// ---- Checks ----

// (value, ndim or -1, [dtype or none,] context)
int check_tensor_info(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  *result = ffi::none();
  if (args.size() != 3 && args.size() != 4)
    return ffi::raise_type(concat(args.name(), " takes 3 or 4 arguments, not ", args.size()));
  int64_t ndim = 0;
  std::string_view context;
  std::optional<DLDataType> dtype;
  if (!args.integer(1, &ndim) || !context_argument(args, args.size() - 1, &context)) return -1;
  if (args.size() == 4 && args.at(2).type_index != kTVMFFINone && !args.dtype(2, &dtype.emplace()))
    return -1;
  const TVMFFIAny value = args.at(0);
  if (value.type_index != kTVMFFITensor && value.type_index != kTVMFFIDLTensorPtr)
    return mismatch(args, "TypeError", context,
                    concat("it must be a tensor, not ", ffi::type_key_of(value)));
  const DLTensor* tensor = args.tensor(0);
  if (tensor == nullptr) return -1;
  if (ndim != -1 && tensor->ndim != ndim)
    return mismatch(args, "ValueError", context,
                    concat("it has ", tensor->ndim, " dimensions, and must have ", ndim));
  if (dtype && !runtime::same_dtype(*dtype, tensor->dtype))
    return mismatch(args, "ValueError", context,
                    concat("it is of ", runtime::dtype_name(tensor->dtype), ", and must be of ",
                           runtime::dtype_name(*dtype)));
  return 0;
}

// (value, size or -1, context)
int check_sizes(const Args& args, int32_t type, std::string_view what, TVMFFIAny* result) {
  *result = ffi::none();
  int64_t size = 0;
  std::string_view context;
  if (!args.expect(3) || !args.integer(1, &size) || !context_argument(args, 2, &context)) return -1;
  const TVMFFIAny value = args.at(0);
  if (value.type_index != type)
    return mismatch(args, "TypeError", context,
                    concat("it must be ", what, ", not ", ffi::type_key_of(value)));
  TVMFFIObject* object = args.object(0, type);
  if (object == nullptr) return -1;
  const int64_t have =
      type == kTVMFFIShape
          ? static_cast<int64_t>(reinterpret_cast<ffi::ShapeObject*>(object)->cell.size)
          : reinterpret_cast<ffi::ArrayObject*>(object)->cell.size;
  if (have == size || (type == kTVMFFIShape && size == -1)) return 0;
  return mismatch(args, "ValueError", context,
                  concat("it is ", what, " of ", have, ", and must be of ", size));
}

int check_shape_info(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  return check_sizes(Args(handle, values, count), kTVMFFIShape, "a shape", result);
}

int check_tuple_info(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  return check_sizes(Args(handle, values, count), kTVMFFIArray, "a tuple", result);
}

bool is_prim_value(int32_t type, uint8_t code) {
  const bool integer = type == kTVMFFIInt || type == kTVMFFIBool;
  switch (code) {
    case kDLBool:
    case kDLInt:
    case kDLUInt:
      return integer;
    case kDLFloat:
      return integer || type == kTVMFFIFloat;
    case kDLOpaqueHandle:
      return type == kTVMFFIOpaquePtr || type == kTVMFFINone;
    default:
      return false;
  }
}

// (value, dtype, context)
int check_prim_value_info(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  *result = ffi::none();
  DLDataType dtype{};
  std::string_view context;
  if (!args.expect(3) || !args.dtype(1, &dtype) || !context_argument(args, 2, &context)) return -1;
  if (is_prim_value(args.at(0).type_index, dtype.code)) return 0;
  return mismatch(
      args, "TypeError", context,
      concat("it must be of ", runtime::dtype_name(dtype), ", not ", ffi::type_key_of(args.at(0))));
}

// (value, context)
int check_func_info(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  *result = ffi::none();
  std::string_view context;
  if (!args.expect(2) || !context_argument(args, 1, &context)) return -1;
  const TVMFFIAny value = args.at(0);
  if (value.type_index == kTVMFFIFunction || as_closure(value) != nullptr) return 0;
  return mismatch(args, "TypeError", context,
                  concat("it must be a function, not ", ffi::type_key_of(value)));
}

constexpr ffi::Builtin kBuiltins[] = {
    {"vm.builtin.alloc_shape_heap", alloc_shape_heap},
    {"vm.builtin.match_prim_value", match_prim_value},
    {"vm.builtin.match_shape", match_shape},
    {"vm.builtin.make_prim_value", make_prim_value},
    {"vm.builtin.make_shape", make_shape},
    {"vm.builtin.shape_of", shape_of},
    {"vm.builtin.check_tensor_info", check_tensor_info},
    {"vm.builtin.check_shape_info", check_shape_info},
    {"vm.builtin.check_tuple_info", check_tuple_info},
    {"vm.builtin.check_prim_value_info", check_prim_value_info},
    {"vm.builtin.check_func_info", check_func_info},
};

}  // namespace

std::span<const ffi::Builtin> shape_builtins() { return kBuiltins; }

}  // namespace sluice::vm
