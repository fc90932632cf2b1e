// Scalar conversions between 16-bit and 32-bit floats, as bit patterns.
//
// All round to nearest, ties to even; what is too large becomes infinity. A NaN stays a NaN of the
// same sign, keeps the upper bits of its payload and becomes quiet, which is what F16C does; only
// bf16 to f32 leaves it as it is.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/base/dtype.h"

namespace sluice::codecs {

constexpr uint32_t f32_from_f16(uint16_t half) {
  const uint32_t sign = (half & 0x8000u) << 16;
  const uint32_t magnitude = half & 0x7fffu;
  if (magnitude - 0x0400 < 0x7800) [[likely]]          // normal
    return sign | ((magnitude << 13) + (112u << 23));  // bias 15 to 127
  if (magnitude > 0x7c00) return sign | 0x7fc00000 | magnitude << 13;
  if (magnitude == 0x7c00) return sign | 0x7f800000;
  return sign | std::bit_cast<uint32_t>(static_cast<float>(magnitude) * 0x1p-24f);
}

constexpr uint16_t f16_from_f32(uint32_t bits) {
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  const uint32_t magnitude = bits & 0x7fffffff;
  uint32_t half = 0;
  if (magnitude > 0x7f800000) {
    half = 0x7e00 | (magnitude >> 13 & 0x03ff);
  } else if (magnitude >= 0x47800000) {  // 2^16: no rounding brings it back
    half = 0x7c00;
  } else if (magnitude < 0x38800000) {  // below 2^-14: 0.5 has the unit of f16's subnormals, 2^-24
    half = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000;
  } else {
    half = (magnitude - (112u << 23) + 0x0fff + (magnitude >> 13 & 1)) >> 13;
  }
  return static_cast<uint16_t>(sign | half);
}

constexpr uint16_t bf16_from_f32(uint32_t bits) {
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>(bits >> 16 | 0x0040);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

template <class T>
T load_as(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

// Whether the f16 at `from` (the two f16 there, by Word) are neither infinite nor a NaN.
template <class Word>
bool f16_are_finite(const std::byte* from) {
  constexpr Word kOnes = static_cast<Word>(~Word{0}) / 0xffff;  // 1 for each f16
  const Word exponents = load_as<Word>(from) & static_cast<Word>(kOnes * 0x7c00);
  return (static_cast<Word>(exponents + kOnes * 0x0400) & static_cast<Word>(kOnes * 0x8000)) == 0;
}

// Gives every NaN among `elements` elements at `out` the bits of the positive quiet NaN without
// payload (0x7fc00000, 0x7e00, 0x7fc0). Which NaN arithmetic yields differs from machine to
// machine, and only a block with an infinite or NaN factor can yield one.
template <DType dtype>
[[gnu::noinline]] void settle_nans(std::byte* out, size_t elements) {
  using Word = std::conditional_t<dtype == DType::f32, uint32_t, uint16_t>;
  constexpr Word kInfinity = dtype == DType::f32   ? 0x7f800000
                             : dtype == DType::f16 ? 0x7c00
                                                   : 0x7f80;
  constexpr Word kQuiet = dtype == DType::f32 ? 0x7fc00000 : dtype == DType::f16 ? 0x7e00 : 0x7fc0;
  for (; elements > 0; --elements, out += sizeof(Word)) {
    const auto word = load_as<Word>(out);
    constexpr Word kSign = static_cast<Word>(~Word{0}) / 2 + 1;
    if (static_cast<Word>(word & static_cast<Word>(~kSign)) > kInfinity)
      std::memcpy(out, &kQuiet, sizeof(Word));
  }
}

}  // namespace sluice::codecs
