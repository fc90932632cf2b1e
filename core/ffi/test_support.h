// For the tests of this folder: values as arguments, calls of global functions, raised errors.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "core/ffi/object.h"

namespace sluice::ffi {

inline TVMFFIByteArray bytes_of(std::string_view content) {
  return {content.data(), content.size()};
}

inline TVMFFIAny of_text(const char* content) {
  TVMFFIAny out{};
  out.type_index = kTVMFFIRawStr;
  out.v_c_str = content;
  return out;
}

inline TVMFFIAny of_float(double value) {
  TVMFFIAny out{};
  out.type_index = kTVMFFIFloat;
  out.v_float64 = value;
  return out;
}

inline TVMFFIAny of_pointer(int32_t type_index, void* pointer) {
  TVMFFIAny out{};
  out.type_index = type_index;
  out.v_ptr = pointer;
  return out;
}

// A handle that is released at the end.
class Handle {
 public:
  Handle() = default;
  explicit Handle(TVMFFIObjectHandle handle) : handle_(handle) {}
  Handle(Handle&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Handle() { reset(); }
  void reset() {
    if (handle_ != nullptr) TVMFFIObjectDecRef(std::exchange(handle_, nullptr));
  }
  TVMFFIObjectHandle get() const { return handle_; }
  TVMFFIObject* object() const { return static_cast<TVMFFIObject*>(handle_); }
  TVMFFIObjectHandle* receive() {
    reset();
    return &handle_;
  }
  TVMFFIAny any() const { return of_object(object()); }

 private:
  TVMFFIObjectHandle handle_ = nullptr;
};

struct Raised {
  std::string kind;
  std::string message;
};

// Takes the raised error; empty where there is none.
inline Raised take_raised() {
  Handle error;
  TVMFFIErrorMoveFromRaised(error.receive());
  if (error.get() == nullptr) return {};
  const auto& cell = reinterpret_cast<ErrorObject*>(error.get())->cell;
  return {std::string(text(cell.kind)), std::string(text(cell.message))};
}

// The call failed with an error of this kind whose message has all these pieces.
inline void expect_raised(int status, std::string_view kind,
                          std::initializer_list<std::string_view> named) {
  EXPECT_NE(status, 0);
  const Raised raised = take_raised();
  EXPECT_EQ(raised.kind, kind) << raised.message;
  for (const std::string_view piece : named)
    EXPECT_TRUE(raised.message.contains(piece)) << "'" << piece << "' not in: " << raised.message;
}

inline Handle global(std::string_view name) {
  Handle function;
  const TVMFFIByteArray bytes = bytes_of(name);
  EXPECT_EQ(TVMFFIFunctionGetGlobal(&bytes, function.receive()), 0);
  EXPECT_NE(function.get(), nullptr) << name;
  return function;
}

inline int try_call(std::string_view name, std::vector<TVMFFIAny> args, Any* result) {
  const Handle function = global(name);
  return TVMFFIFunctionCall(function.get(), args.data(), static_cast<int32_t>(args.size()),
                            result->receive());
}

// The result of a call that must not fail.
inline Any call(std::string_view name, std::vector<TVMFFIAny> args) {
  Any result;
  EXPECT_EQ(try_call(name, std::move(args), &result), 0) << name << ": " << take_raised().message;
  return result;
}

inline void expect_call_raises(std::string_view name, std::vector<TVMFFIAny> args,
                               std::string_view kind,
                               std::initializer_list<std::string_view> named) {
  Any result;
  const int status = try_call(name, std::move(args), &result);
  expect_raised(status, kind, named);
}

}  // namespace sluice::ffi
