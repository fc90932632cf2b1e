// Little-endian reads from bytes that came from outside.
#pragma once

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string_view>

namespace sluice {

static_assert(std::endian::native == std::endian::little, "formats here are little-endian");

using Bytes = std::span<const std::byte>;
using MutableBytes = std::span<std::byte>;

inline Bytes as_bytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

inline std::string_view as_text(Bytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// Reads forward through a prefix of a file and never past its end. When a read does not fit, it
// returns nothing and `missing()` tells how long the prefix must be for that read to succeed.
class ByteReader {
 public:
  explicit ByteReader(Bytes bytes) : bytes_(bytes) {}

  uint64_t position() const { return position_; }

  // Bytes of prefix that the failed read would have needed; 0 while every read succeeded.
  // Saturates at 2^64-1 where position + length overflows.
  uint64_t missing() const { return missing_; }

  template <class T>
    requires std::integral<T> || std::floating_point<T>
  std::optional<T> read() {
    T value;
    const auto raw = take(sizeof(T));
    if (!raw) return std::nullopt;
    std::memcpy(&value, raw->data(), sizeof(T));
    return value;
  }

  // The next `length` bytes, not copied.
  std::optional<Bytes> take(uint64_t length) {
    if (length > bytes_.size() - position_) {
      uint64_t end = 0;
      missing_ = __builtin_add_overflow(position_, length, &end) ? UINT64_MAX : end;
      return std::nullopt;
    }
    const Bytes out = bytes_.subspan(static_cast<size_t>(position_), static_cast<size_t>(length));
    position_ += length;
    return out;
  }

 private:
  Bytes bytes_;
  uint64_t position_ = 0;
  uint64_t missing_ = 0;
};

}  // namespace sluice
