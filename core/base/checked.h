// 64-bit arithmetic that says when it overflows. Every byte count from outside goes through here.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

namespace sluice {

constexpr std::optional<uint64_t> checked_add(uint64_t a, uint64_t b) {
  uint64_t sum = 0;
  if (__builtin_add_overflow(a, b, &sum)) return std::nullopt;
  return sum;
}

constexpr std::optional<uint64_t> checked_mul(uint64_t a, uint64_t b) {
  uint64_t product = 0;
  if (__builtin_mul_overflow(a, b, &product)) return std::nullopt;
  return product;
}

// The number of elements of `shape`; 1 for a 0-d shape, 0 when any extent is 0 (also where the
// other extents alone would overflow).
constexpr std::optional<uint64_t> checked_product(std::span<const uint64_t> shape) {
  for (const uint64_t extent : shape)
    if (extent == 0) return 0;
  uint64_t product = 1;
  for (const uint64_t extent : shape) {
    const auto next = checked_mul(product, extent);
    if (!next) return std::nullopt;
    product = *next;
  }
  return product;
}

// `value` rounded up to a multiple of `alignment`, a power of two.
constexpr std::optional<uint64_t> checked_align_up(uint64_t value, uint64_t alignment) {
  const auto padded = checked_add(value, alignment - 1);
  if (!padded) return std::nullopt;
  return *padded & ~(alignment - 1);
}

}  // namespace sluice
