#include "core/ffi/object.h"

#include <cstdlib>

#include "core/ffi/types.h"

namespace sluice::ffi {
namespace {

// Objects that wait for the outermost release_nested() of this thread
struct Waiting {
  TVMFFIObject** items;
  size_t count;
  size_t capacity;
  uint32_t depth;
};
constinit thread_local Waiting waiting{};
constexpr uint32_t kMaxDepth = 64;

bool wait(TVMFFIObject* object) {
  if (waiting.count == waiting.capacity) {
    const size_t capacity = waiting.capacity == 0 ? 64 : waiting.capacity * 2;
    void* items = std::realloc(waiting.items, capacity * sizeof(TVMFFIObject*));
    if (items == nullptr) return false;
    waiting.items = static_cast<TVMFFIObject**>(items);
    waiting.capacity = capacity;
  }
  waiting.items[waiting.count++] = object;
  return true;
}

// The bits that make a value what it is: a pointer has only its own on a 32-bit platform.
uint64_t payload(const TVMFFIAny& value) {
  switch (value.type_index) {
    case kTVMFFINone:
      return 0;
    case kTVMFFIOpaquePtr:
    case kTVMFFIDLTensorPtr:
      return reinterpret_cast<uintptr_t>(value.v_ptr);
    case kTVMFFIDataType: {
      uint32_t bits = 0;
      std::memcpy(&bits, &value.v_dtype, sizeof(bits));
      return bits;
    }
    default:
      return is_object(value.type_index) ? reinterpret_cast<uintptr_t>(value.v_obj)
                                         : value.v_uint64;
  }
}

// Str or Bytes for every form of them, otherwise the type index itself
int32_t key_kind(int32_t type_index) {
  switch (type_index) {
    case kTVMFFISmallStr:
    case kTVMFFIRawStr:
      return kTVMFFIStr;
    case kTVMFFISmallBytes:
    case kTVMFFIByteArrayPtr:
      return kTVMFFIBytes;
    default:
      return type_index;
  }
}

std::string_view big_int_bytes(const TVMFFIAny& value) {
  const auto* integer = reinterpret_cast<const BigIntObject*>(value.v_obj);
  return {reinterpret_cast<const char*>(integer->words()), integer->size * sizeof(int64_t)};
}

std::string_view key_bytes(const TVMFFIAny& value, int32_t kind) {
  return kind == kTVMFFIBigInt ? big_int_bytes(value) : text(value);
}

bool is_key_by_content(int32_t kind) {
  return kind == kTVMFFIStr || kind == kTVMFFIBytes || kind == kTVMFFIBigInt;
}

}  // namespace

void release(TVMFFIObject* object) {
  const uint64_t before =
      __atomic_fetch_sub(&object->combined_ref_count, kStrongOne, __ATOMIC_RELEASE);
  if (before == (kStrongOne | kWeakOne)) {
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    if (object->deleter != nullptr) object->deleter(object, kTVMFFIObjectDeleterFlagBitMaskBoth);
  } else if ((before & kStrongMask) == kStrongOne) {
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    if (object->deleter != nullptr) object->deleter(object, kTVMFFIObjectDeleterFlagBitMaskStrong);
    release_weak(object);
  }
}

void release_weak(TVMFFIObject* object) {
  const uint64_t before =
      __atomic_fetch_sub(&object->combined_ref_count, kWeakOne, __ATOMIC_RELEASE);
  if (before != kWeakOne) return;
  __atomic_thread_fence(__ATOMIC_ACQUIRE);
  if (object->deleter != nullptr) object->deleter(object, kTVMFFIObjectDeleterFlagBitMaskWeak);
}

bool promote(TVMFFIObject* object) {
  uint64_t count = __atomic_load_n(&object->combined_ref_count, __ATOMIC_RELAXED);
  while ((count & kStrongMask) != 0) {
    if (__atomic_compare_exchange_n(&object->combined_ref_count, &count, count + kStrongOne, true,
                                    __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
      return true;
  }
  return false;
}

void release_nested(TVMFFIObject* object) {
  // Where there is no memory to wait in, the stack has to do
  if (waiting.depth >= kMaxDepth && wait(object)) return;
  ++waiting.depth;
  release(object);
  if (waiting.depth == 1) {
    while (waiting.count != 0) release(waiting.items[--waiting.count]);
    std::free(waiting.items);
    waiting = {};
    return;
  }
  --waiting.depth;
}

TVMFFIObject* allocate_object(size_t bytes, int32_t type_index, void (*deleter)(void*, int)) {
  auto* object = static_cast<TVMFFIObject*>(std::calloc(1, bytes));
  if (object == nullptr) {
    raise_no_memory();
    return nullptr;
  }
  object->combined_ref_count = kStrongOne | kWeakOne;
  object->type_index = type_index;
  object->deleter = deleter;
  return object;
}

void free_object(void* object) { std::free(object); }

int own(const TVMFFIAny& view, TVMFFIAny* out) {
  // `out` may be `view`, so nothing of it is written before the end
  TVMFFIAny owned{};
  owned.type_index = view.type_index;
  switch (view.type_index) {
    case kTVMFFINone:
    case kTVMFFIUnchanged:
      break;
    case kTVMFFIInt:
    case kTVMFFIBool:
    case kTVMFFIFloat:
    case kTVMFFIDevice:
      owned.v_uint64 = view.v_uint64;
      break;
    case kTVMFFIDataType:
      owned.v_dtype = view.v_dtype;
      break;
    case kTVMFFIOpaquePtr:
    case kTVMFFIDLTensorPtr:
      owned.v_ptr = view.v_ptr;
      break;
    case kTVMFFISmallStr:
    case kTVMFFISmallBytes:
      if (view.small_str_len > 7)
        return raise_value(concat("a small string of ", view.small_str_len, " bytes; it holds 7"));
      owned.small_str_len = view.small_str_len;
      std::memcpy(owned.v_bytes, view.v_bytes, view.small_str_len);
      break;
    case kTVMFFIRawStr:
      if (view.v_c_str == nullptr) return raise_value("a null C string");
      if (make_string(view.v_c_str, &owned) != 0) return -1;
      break;
    case kTVMFFIByteArrayPtr: {
      const auto* bytes = static_cast<const TVMFFIByteArray*>(view.v_ptr);
      if (bytes == nullptr || (bytes->data == nullptr && bytes->size != 0))
        return raise_value("a null byte array");
      if (make_bytes(text(*bytes), &owned) != 0) return -1;
      break;
    }
    case kTVMFFIObjectRValueRef: {
      auto* source = static_cast<TVMFFIObject**>(view.v_ptr);
      if (source == nullptr) return raise_value("a null reference to an object");
      owned = of_object(std::exchange(*source, nullptr));
      break;
    }
    default:
      if (!is_object(view.type_index))
        return raise_type(concat("a value of the unknown type index ", view.type_index));
      if (view.v_obj == nullptr)
        return raise_value(concat("a null object of type ", type_key(view.type_index)));
      if (view.v_obj->type_index != view.type_index)
        return raise_type(concat("a value says that it is ", type_key(view.type_index),
                                 ", its object that it is ", type_key(view.v_obj->type_index)));
      owned.v_obj = view.v_obj;
      retain(owned.v_obj);
  }
  *out = owned;
  return 0;
}

bool same(const TVMFFIAny& a, const TVMFFIAny& b) {
  const int32_t kind = key_kind(a.type_index);
  if (kind != key_kind(b.type_index)) return false;
  return is_key_by_content(kind) ? key_bytes(a, kind) == key_bytes(b, kind)
                                 : payload(a) == payload(b);
}

uint64_t hash(const TVMFFIAny& value) {
  const int32_t kind = key_kind(value.type_index);
  // FNV-1a of the content or of the payload's bytes, from the kind on
  uint64_t state = 0xcbf29ce484222325 ^ static_cast<uint64_t>(kind);
  const auto add = [&state](std::string_view bytes) {
    for (const char byte : bytes) state = (state ^ static_cast<uint8_t>(byte)) * 0x100000001b3;
  };
  if (is_key_by_content(kind)) {
    add(key_bytes(value, kind));
  } else {
    const uint64_t bits = payload(value);
    add({reinterpret_cast<const char*>(&bits), sizeof(bits)});
  }
  return state ^ (state >> 32);
}

std::string_view text(const TVMFFIAny& value) {
  switch (value.type_index) {
    case kTVMFFISmallStr:
    case kTVMFFISmallBytes:
      return value.small_str_len > 7 ? std::string_view()
                                     : std::string_view(value.v_bytes, value.small_str_len);
    case kTVMFFIRawStr:
      return value.v_c_str == nullptr ? std::string_view() : std::string_view(value.v_c_str);
    case kTVMFFIByteArrayPtr: {
      const auto* bytes = static_cast<const TVMFFIByteArray*>(value.v_ptr);
      if (bytes == nullptr || (bytes->data == nullptr && bytes->size != 0)) return {};
      return bytes->data == nullptr ? std::string_view("") : text(*bytes);
    }
    case kTVMFFIStr:
    case kTVMFFIBytes:
      if (value.v_obj == nullptr || value.v_obj->type_index != value.type_index) return {};
      return text(reinterpret_cast<const StringObject*>(value.v_obj)->bytes);
    default:
      return {};
  }
}

std::string_view type_key(int32_t type_index) {
  const TVMFFITypeInfo* info = find_type(type_index);
  return info == nullptr ? std::string_view("an unknown type") : text(info->type_key);
}

std::string_view type_key_of(const TVMFFIAny& value) { return type_key(value.type_index); }

TVMFFIObject* checked_object(TVMFFIObjectHandle handle, int32_t type_index,
                             std::string_view function, std::string_view argument) {
  auto* object = static_cast<TVMFFIObject*>(handle);
  if (object == nullptr) {
    raise_null(function, argument);
    return nullptr;
  }
  if (object->type_index != type_index) {
    raise_type(concat(function, ": ", argument, " must be ", type_key(type_index), ", not ",
                      type_key(object->type_index)));
    return nullptr;
  }
  return object;
}

}  // namespace sluice::ffi

extern "C" {

int TVMFFIObjectIncRef(TVMFFIObjectHandle obj) {
  if (obj == nullptr) return sluice::ffi::raise_null("TVMFFIObjectIncRef", "obj");
  sluice::ffi::retain(static_cast<TVMFFIObject*>(obj));
  return 0;
}

int TVMFFIObjectDecRef(TVMFFIObjectHandle obj) {
  if (obj == nullptr) return sluice::ffi::raise_null("TVMFFIObjectDecRef", "obj");
  sluice::ffi::release(static_cast<TVMFFIObject*>(obj));
  return 0;
}

int TVMFFIAnyViewToOwnedAny(const TVMFFIAny* any_view, TVMFFIAny* out) {
  if (any_view == nullptr) return sluice::ffi::raise_null("TVMFFIAnyViewToOwnedAny", "any_view");
  if (out == nullptr) return sluice::ffi::raise_null("TVMFFIAnyViewToOwnedAny", "out");
  return sluice::ffi::own(*any_view, out);
}

}  // extern "C"

namespace {

struct OpaqueObject {
  TVMFFIObject header;
  TVMFFIOpaqueObjectCell cell;
  void (*deleter)(void* handle);
};
static_assert(offsetof(OpaqueObject, cell) == 24);

void delete_opaque(void* self, int flags) {
  auto* object = static_cast<OpaqueObject*>(self);
  if ((flags & kTVMFFIObjectDeleterFlagBitMaskStrong) != 0 && object->deleter != nullptr)
    object->deleter(object->cell.handle);
  if ((flags & kTVMFFIObjectDeleterFlagBitMaskWeak) != 0) sluice::ffi::free_object(self);
}

}  // namespace

extern "C" int TVMFFIObjectCreateOpaque(void* handle, int32_t type_index,
                                        void (*deleter)(void* handle), TVMFFIObjectHandle* out) {
  if (out == nullptr) return sluice::ffi::raise_null("TVMFFIObjectCreateOpaque", "out");
  if (type_index != kTVMFFIOpaquePyObject)
    return sluice::ffi::raise_value(sluice::concat("TVMFFIObjectCreateOpaque: type_index is ",
                                                   type_index, ", only ", +kTVMFFIOpaquePyObject,
                                                   " (ffi.OpaquePyObject) can be opaque"));
  auto* object = reinterpret_cast<OpaqueObject*>(
      sluice::ffi::allocate_object(sizeof(OpaqueObject), type_index, delete_opaque));
  if (object == nullptr) return -1;
  object->cell.handle = handle;
  object->deleter = deleter;
  *out = object;
  return 0;
}
