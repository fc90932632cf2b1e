// Objects of the C ABI as C++ sees them: reference counts, values, and what each kind of object
// holds behind its header.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <utility>

#include "core/base/error.h"
#include "core/ffi/c_api.h"

namespace sluice::ffi {

// ---- Reference counts ----

inline constexpr uint64_t kStrongOne = 1;
inline constexpr uint64_t kWeakOne = uint64_t{1} << 32;
inline constexpr uint64_t kStrongMask = kWeakOne - 1;

inline void retain(TVMFFIObject* object) {
  __atomic_fetch_add(&object->combined_ref_count, kStrongOne, __ATOMIC_RELAXED);
}
void release(TVMFFIObject* object);
inline void retain_weak(TVMFFIObject* object) {
  __atomic_fetch_add(&object->combined_ref_count, kWeakOne, __ATOMIC_RELAXED);
}
void release_weak(TVMFFIObject* object);
// A strong reference out of a weak one; false when the object is gone.
bool promote(TVMFFIObject* object);

// release() for what a container holds: however deep containers stand in each other, the stack
// stays flat, since from a certain depth on the objects wait until the outermost release is done.
void release_nested(TVMFFIObject* object);

inline uint32_t strong_count(const TVMFFIObject* object) {
  return static_cast<uint32_t>(__atomic_load_n(&object->combined_ref_count, __ATOMIC_RELAXED));
}

// Memory for an object of `bytes` with its header filled in and one strong reference; the rest is
// zero. Raises MemoryError and returns null when there is none. `deleter` ends with free_object()
// when its flags have kTVMFFIObjectDeleterFlagBitMaskWeak.
TVMFFIObject* allocate_object(size_t bytes, int32_t type_index, void (*deleter)(void*, int));
void free_object(void* object);

// A strong reference to an object whose header is T's first member. May be null.
template <class T>
class Ref {
 public:
  Ref() = default;
  // Takes over a reference that the caller owns.
  static Ref adopt(T* object) {
    Ref out;
    out.object_ = object;
    return out;
  }
  // Adds a reference of its own.
  static Ref share(T* object) {
    if (object != nullptr) retain(&object->header);
    return adopt(object);
  }
  Ref(const Ref& other) : object_(other.object_) {
    if (object_ != nullptr) retain(&object_->header);
  }
  Ref(Ref&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  Ref& operator=(Ref other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  ~Ref() {
    if (object_ != nullptr) release(&object_->header);
  }

  T* get() const { return object_; }
  T* operator->() const { return object_; }
  T& operator*() const { return *object_; }
  explicit operator bool() const { return object_ != nullptr; }
  // Hands the reference over.
  T* take() { return std::exchange(object_, nullptr); }

 private:
  T* object_ = nullptr;
};

// Keeps an object's memory but not what it holds. May be null.
template <class T>
class WeakRef {
 public:
  WeakRef() = default;
  explicit WeakRef(T* object) : object_(object) {
    if (object_ != nullptr) retain_weak(&object_->header);
  }
  WeakRef(const WeakRef& other) : WeakRef(other.object_) {}
  WeakRef(WeakRef&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  WeakRef& operator=(WeakRef other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  ~WeakRef() {
    if (object_ != nullptr) release_weak(&object_->header);
  }

  // Null when the object is gone.
  Ref<T> lock() const {
    if (object_ == nullptr || !promote(&object_->header)) return {};
    return Ref<T>::adopt(object_);
  }

 private:
  T* object_ = nullptr;
};

// ---- Values ----

inline constexpr bool is_object(int32_t type_index) {
  return type_index >= kTVMFFIStaticObjectBegin;
}

inline TVMFFIAny none() { return {}; }
inline TVMFFIAny of_int(int64_t value) {
  TVMFFIAny out{.type_index = kTVMFFIInt};
  out.v_int64 = value;
  return out;
}
inline TVMFFIAny of_bool(bool value) {
  TVMFFIAny out{.type_index = kTVMFFIBool};
  out.v_int64 = value ? 1 : 0;
  return out;
}
// The object's reference goes along; nothing is counted. None where it is null.
inline TVMFFIAny of_object(TVMFFIObject* object) {
  TVMFFIAny out{};
  if (object == nullptr) return out;
  out.type_index = object->type_index;
  out.v_obj = object;
  return out;
}
template <class T>
TVMFFIAny of_object(Ref<T> object) {
  T* raw = object.take();
  return of_object(raw == nullptr ? nullptr : &raw->header);
}

// A value that owns what it refers to.
class Any {
 public:
  Any() = default;
  // Takes over what `value` owns.
  static Any adopt(TVMFFIAny value) {
    Any out;
    out.value_ = value;
    return out;
  }
  // A share of an owned value (not of a view: see own()).
  static Any share(const TVMFFIAny& value) {
    if (is_object(value.type_index)) retain(value.v_obj);
    return adopt(value);
  }
  Any(const Any& other) : value_(other.value_) {
    if (is_object(value_.type_index)) retain(value_.v_obj);
  }
  Any(Any&& other) noexcept : value_(std::exchange(other.value_, TVMFFIAny{})) {}
  Any& operator=(Any other) noexcept {
    std::swap(value_, other.value_);
    return *this;
  }
  ~Any() {
    if (is_object(value_.type_index)) release(value_.v_obj);
  }

  const TVMFFIAny& view() const { return value_; }
  TVMFFIAny take() { return std::exchange(value_, TVMFFIAny{}); }
  // For functions that write a result: releases what is held and gives the place.
  TVMFFIAny* receive() {
    *this = Any();
    return &value_;
  }

 private:
  TVMFFIAny value_{};
};

// An owned value out of a view: raw strings and byte arrays are copied, objects retained, an rvalue
// reference taken. Fills the padding with zeros. `out` may be `&view`. Raises and returns -1 when
// the view is none: a null object, an object of another type than the value says, an unknown kind.
[[nodiscard]] int own(const TVMFFIAny& view, TVMFFIAny* out);

// Whether two owned values are one key: strings and bytes by content, big integers by value,
// everything else by its bits (objects by identity, so that NaN is itself and 0.0 is not -0.0).
bool same(const TVMFFIAny& a, const TVMFFIAny& b);
uint64_t hash(const TVMFFIAny& value);

// The type key of a value, for messages: "int", "ffi.Array".
std::string_view type_key_of(const TVMFFIAny& value);
std::string_view type_key(int32_t type_index);

// ---- Errors ----

// Make the error the calling thread's raised one. All return -1.
int raise(std::string_view kind, std::string_view message);
int raise(const Error& error);
inline int raise_type(std::string_view message) { return raise("TypeError", message); }
inline int raise_value(std::string_view message) { return raise("ValueError", message); }
int raise_no_memory();
// -1 with a ValueError that `function` got a null `argument`.
int raise_null(std::string_view function, std::string_view argument);
bool has_raised();

// ---- Objects ----

struct StringObject {  // str and bytes
  TVMFFIObject header;
  TVMFFIByteArray bytes;  // followed by a 0
};

struct ErrorObject {
  TVMFFIObject header;
  TVMFFIErrorCell cell;
};

struct FunctionObject {
  TVMFFIObject header;
  TVMFFIFunctionCell cell;
};

struct ShapeObject {
  TVMFFIObject header;
  TVMFFIShapeCell cell;
};

struct TensorObject {
  TVMFFIObject header;
  DLTensor tensor;
};

struct ArrayObject {
  TVMFFIObject header;
  TVMFFISeqCell cell;

  const TVMFFIAny* items() const { return static_cast<const TVMFFIAny*>(cell.data); }
};

struct BigIntObject {
  TVMFFIObject header;
  size_t size;  // in 64-bit words, which follow at words()

  // Behind the size, at the alignment of a word
  int64_t* words() {
    return reinterpret_cast<int64_t*>(reinterpret_cast<char*>(this) + sizeof(BigIntObject));
  }
  const int64_t* words() const { return const_cast<BigIntObject*>(this)->words(); }
};

inline std::string_view text(const TVMFFIByteArray& bytes) { return {bytes.data, bytes.size}; }

// The content of a string or bytes value of any form, owned or view; data() is null for others. It
// points into `value` itself where that is a small string.
std::string_view text(const TVMFFIAny& value);

// All of these raise and return null or -1 where memory ends.

// A string or bytes value: in the value itself up to 7 bytes, otherwise an object.
[[nodiscard]] int make_string(std::string_view content, TVMFFIAny* out);
[[nodiscard]] int make_bytes(std::string_view content, TVMFFIAny* out);
Ref<ErrorObject> make_error(std::string_view kind, std::string_view message);
// `self` goes to `deleter` (both may be null) at the end, or when this fails.
Ref<FunctionObject> make_function(void* self, TVMFFISafeCallType call, void (*deleter)(void*));
// The elements are for the caller to fill.
Ref<ShapeObject> make_shape(size_t size, int64_t** elements);
// Owns what the views refer to. An error where one is not valid.
Ref<ArrayObject> make_array(const TVMFFIAny* views, size_t size);

// A tensor with a copy of `prototype`, its shape and strides (row-major where null), over memory
// that it does not own: at the end, `free` (may be null) is called with `owner`. Raises where the
// prototype is no tensor: a negative or null shape, more elements or bytes than 64 bits hold. Then
// `free` is not called.
Ref<TensorObject> make_tensor(const DLTensor& prototype, void* owner, void (*free)(void* owner));

// Gives a tensor of make_tensor(), made without an owner, one afterwards.
void own_memory(TensorObject* tensor, void* owner, void (*free)(void* owner));

// Bytes that the tensor's elements take when packed. Raises and returns false on a bad shape.
[[nodiscard]] bool tensor_bytes(const DLTensor& tensor, std::string_view function, uint64_t* out);

// Whether the elements stand packed in row-major order. For a tensor whose bytes are counted.
bool is_contiguous(const DLTensor& tensor);

// The object behind `handle` if its type is `type_index`; otherwise null, after raising an error
// that names `function` and `argument`.
TVMFFIObject* checked_object(TVMFFIObjectHandle handle, int32_t type_index,
                             std::string_view function, std::string_view argument);

}  // namespace sluice::ffi
