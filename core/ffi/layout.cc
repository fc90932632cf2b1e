// Holds the layouts of c_api.h to those of tvm-ffi, on wasm32 and on 64-bit.
#include <cstddef>
#include <type_traits>

#include "core/ffi/c_api.h"
#include "core/ffi/object.h"

namespace sluice::ffi {
namespace {

template <class T>
constexpr bool is_layout(size_t size32, size_t size64, size_t align32, size_t align64) {
  static_assert(std::is_standard_layout_v<T>);
  return sizeof(T) == (sizeof(void*) == 4 ? size32 : size64) &&
         alignof(T) == (sizeof(void*) == 4 ? align32 : align64);
}

// An offset that differs by the size of a pointer
constexpr size_t on(size_t offset32, size_t offset64) {
  return sizeof(void*) == 4 ? offset32 : offset64;
}

static_assert(sizeof(void*) == 4 || sizeof(void*) == 8);
static_assert(alignof(int64_t) == 8 && alignof(double) == 8);

static_assert(is_layout<TVMFFIAny>(16, 16, 8, 8));
static_assert(offsetof(TVMFFIAny, type_index) == 0);
static_assert(offsetof(TVMFFIAny, zero_padding) == 4);
static_assert(offsetof(TVMFFIAny, small_str_len) == 4);
static_assert(offsetof(TVMFFIAny, v_int64) == 8);
static_assert(offsetof(TVMFFIAny, v_bytes) == 8);

static_assert(is_layout<TVMFFIObject>(24, 24, 8, 8));
static_assert(offsetof(TVMFFIObject, combined_ref_count) == 0);
static_assert(offsetof(TVMFFIObject, type_index) == 8);
static_assert(offsetof(TVMFFIObject, __padding) == 12);
static_assert(offsetof(TVMFFIObject, deleter) == 16);

static_assert(is_layout<TVMFFIByteArray>(8, 16, 4, 8));
static_assert(offsetof(TVMFFIByteArray, size) == on(4, 8));
static_assert(is_layout<TVMFFIShapeCell>(8, 16, 4, 8));
static_assert(is_layout<TVMFFISeqCell>(32, 32, 8, 8));
static_assert(offsetof(TVMFFISeqCell, size) == 8);
static_assert(offsetof(TVMFFISeqCell, capacity) == 16);
static_assert(offsetof(TVMFFISeqCell, data_deleter) == 24);
static_assert(is_layout<TVMFFIErrorCell>(36, 72, 4, 8));
static_assert(offsetof(TVMFFIErrorCell, message) == on(8, 16));
static_assert(offsetof(TVMFFIErrorCell, backtrace) == on(16, 32));
static_assert(offsetof(TVMFFIErrorCell, update_backtrace) == on(24, 48));
static_assert(offsetof(TVMFFIErrorCell, cause_chain) == on(28, 56));
static_assert(offsetof(TVMFFIErrorCell, extra_context) == on(32, 64));
static_assert(is_layout<TVMFFIFunctionCell>(8, 16, 4, 8));
static_assert(is_layout<TVMFFIOpaqueObjectCell>(4, 8, 4, 8));
static_assert(is_layout<TVMFFICustomAllocator>(8, 16, 4, 8));

static_assert(is_layout<DLDevice>(8, 8, 4, 4));
static_assert(is_layout<DLDataType>(4, 4, 2, 2));
static_assert(offsetof(DLDataType, bits) == 1);
static_assert(offsetof(DLDataType, lanes) == 2);
static_assert(is_layout<DLTensor>(40, 48, 8, 8));
static_assert(offsetof(DLTensor, device) == on(4, 8));
static_assert(offsetof(DLTensor, ndim) == on(12, 16));
static_assert(offsetof(DLTensor, dtype) == on(16, 20));
static_assert(offsetof(DLTensor, shape) == on(20, 24));
static_assert(offsetof(DLTensor, strides) == on(24, 32));
static_assert(offsetof(DLTensor, byte_offset) == on(32, 40));
static_assert(is_layout<DLManagedTensor>(48, 64, 8, 8));
static_assert(offsetof(DLManagedTensor, manager_ctx) == on(40, 48));
static_assert(offsetof(DLManagedTensor, deleter) == on(44, 56));
static_assert(is_layout<DLManagedTensorVersioned>(64, 80, 8, 8));
static_assert(offsetof(DLManagedTensorVersioned, manager_ctx) == 8);
static_assert(offsetof(DLManagedTensorVersioned, deleter) == on(12, 16));
static_assert(offsetof(DLManagedTensorVersioned, flags) == on(16, 24));
static_assert(offsetof(DLManagedTensorVersioned, dl_tensor) == on(24, 32));

static_assert(is_layout<TVMFFITypeInfo>(56, 72, 8, 8));
static_assert(offsetof(TVMFFITypeInfo, type_key) == 8);
static_assert(offsetof(TVMFFITypeInfo, type_ancestors) == on(16, 24));
static_assert(offsetof(TVMFFITypeInfo, type_key_hash) == on(24, 32));
static_assert(offsetof(TVMFFITypeInfo, num_fields) == on(32, 40));
static_assert(offsetof(TVMFFITypeInfo, num_methods) == on(36, 44));
static_assert(offsetof(TVMFFITypeInfo, fields) == on(40, 48));
static_assert(offsetof(TVMFFITypeInfo, methods) == on(44, 56));
static_assert(offsetof(TVMFFITypeInfo, metadata) == on(48, 64));
static_assert(is_layout<TVMFFIFieldInfo>(88, 120, 8, 8));
static_assert(offsetof(TVMFFIFieldInfo, flags) == on(24, 48));
static_assert(offsetof(TVMFFIFieldInfo, getter) == on(56, 80));
static_assert(offsetof(TVMFFIFieldInfo, setter) == on(60, 88));
static_assert(offsetof(TVMFFIFieldInfo, default_value_or_factory) == on(64, 96));
static_assert(offsetof(TVMFFIFieldInfo, field_static_type_index) == on(80, 112));
static_assert(is_layout<TVMFFIMethodInfo>(48, 72, 8, 8));
static_assert(offsetof(TVMFFIMethodInfo, flags) == on(24, 48));
static_assert(offsetof(TVMFFIMethodInfo, method) == on(32, 56));
static_assert(is_layout<TVMFFITypeMetadata>(20, 32, 4, 8));
static_assert(offsetof(TVMFFITypeMetadata, creator) == on(8, 16));
static_assert(offsetof(TVMFFITypeMetadata, total_size) == on(12, 24));
static_assert(offsetof(TVMFFITypeMetadata, structural_eq_hash_kind) == on(16, 28));
static_assert(is_layout<TVMFFITypeAttrColumn>(12, 16, 4, 8));

// Objects begin with their header and, right behind it, the cell that bindings read
static_assert(offsetof(StringObject, bytes) == 24);
static_assert(offsetof(ErrorObject, cell) == 24);
static_assert(offsetof(FunctionObject, cell) == 24);
static_assert(offsetof(ShapeObject, cell) == 24);
static_assert(offsetof(TensorObject, tensor) == 24);
static_assert(offsetof(ArrayObject, cell) == 24);

static_assert(kTVMFFIStaticObjectEnd == 79);

}  // namespace
}  // namespace sluice::ffi
