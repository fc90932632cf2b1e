// Functions by name: the global registry, and how C++ adds to it.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "core/ffi/object.h"

namespace sluice::ffi {

// Fills the tables of types and functions with what this folder brings. The first use of any table
// does the same, so a linked model's constructors may come before this call or behind it; call it
// once before functions are called from several threads.
void initialize();

// A function of this library. Its `handle` is the Builtin, for the name in messages.
struct Builtin {
  const char* name;
  TVMFFISafeCallType call;
};

// Adds functions to the global registry; `builtins` must live as long as the program. Raises and
// returns -1 where a name is taken.
[[nodiscard]] int register_functions(std::span<const Builtin> builtins);

// Null where there is none of this name; raises nothing.
Ref<FunctionObject> find_function(std::string_view name);

// Calls a function with `args`, which stay the caller's.
[[nodiscard]] int call(FunctionObject* function, std::span<const TVMFFIAny> args, Any* result);

// The builtins of this folder's files
std::span<const Builtin> container_builtins();
std::span<const Builtin> function_builtins();
std::span<const Builtin> module_builtins();

// The checked arguments of a builtin. Each function raises a TypeError or ValueError that names the
// builtin and the argument's position, and returns false or null, where the argument is not there
// or of another kind.
class Args {
 public:
  Args(const void* handle, const TVMFFIAny* values, int32_t count)
      : name_(static_cast<const Builtin*>(handle)->name), values_(values), size_(count) {}

  std::string_view name() const { return name_; }
  int32_t size() const { return size_; }
  // What the caller passed; an rvalue reference is seen as the object that it refers to.
  TVMFFIAny at(int32_t i) const;

  bool expect(int32_t count) const;
  bool integer(int32_t i, int64_t* out) const;  // an int or bool
  bool boolean(int32_t i, bool* out) const;     // an int or bool
  bool number(int32_t i, double* out) const;    // a float, int or bool
  // The view ends with the call.
  bool string(int32_t i, std::string_view* out) const;
  bool bytes(int32_t i, std::string_view* out) const;  // as string()
  bool dtype(int32_t i, DLDataType* out) const;        // a dtype or its name
  bool device(int32_t i, DLDevice* out) const;
  // The tensor of an object, or a DLTensor that the caller keeps.
  const DLTensor* tensor(int32_t i) const;
  // A shape, or an array of int. The view is of the argument, or of `storage`.
  bool shape(int32_t i, std::vector<int64_t>* storage, std::span<const int64_t>* out) const;
  // An owned value; false where the view is not valid.
  bool owned(int32_t i, Any* out) const;
  // An index into something of `size` elements.
  bool index(int32_t i, size_t size, size_t* out) const;
  // An object of exactly this type.
  TVMFFIObject* object(int32_t i, int32_t type_index) const;
  template <class T>
  T* object(int32_t i, int32_t type_index) const {
    return reinterpret_cast<T*>(object(i, type_index));
  }
  // -1, after raising that argument `i` is no `expected`.
  int wrong(int32_t i, std::string_view expected) const;

 private:
  std::string_view name_;
  const TVMFFIAny* values_;
  int32_t size_;
};

}  // namespace sluice::ffi
