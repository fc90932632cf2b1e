// For tests: a plain reference of every codec, written from the formats' definitions and not from
// core/load/codecs, and the comparison of an implementation with it. Free of GoogleTest, so that it
// also runs in wasm (codec_check.cc).
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "core/load/codec.h"

namespace sluice::reference {

#pragma STDC FP_CONTRACT OFF

inline uint16_t word_at(const std::byte* at) {
  return static_cast<uint16_t>(static_cast<unsigned>(at[0]) | static_cast<unsigned>(at[1]) << 8);
}

// IEEE 754 binary16, sign 1, exponent 5, fraction 10.
inline uint32_t f32_from_f16(uint16_t half) {
  const unsigned exponent = half >> 10 & 31, fraction = half & 1023;
  const uint32_t sign = half >> 15 ? 0x80000000 : 0;
  if (exponent == 31 && fraction != 0) return sign | 0x7fc00000 | fraction << 13;
  if (exponent == 31) return sign | 0x7f800000;
  const double value = exponent == 0 ? std::ldexp(fraction, -24)
                                     : std::ldexp(1024 + fraction, static_cast<int>(exponent) - 25);
  return sign | std::bit_cast<uint32_t>(static_cast<float>(value));
}

// Rounds a finite value to a format of `digits` binary digits and least exponent `least`.
inline double rounded(double value, int digits, int least) {
  if (value == 0) return 0;
  const int unit = std::max(std::ilogb(value), least) - digits + 1;
  return std::ldexp(std::nearbyint(std::ldexp(value, -unit)), unit);
}

inline uint16_t f16_from_f32(uint32_t bits) {
  const auto sign = static_cast<uint16_t>(bits >> 31 ? 0x8000 : 0);
  const double magnitude = std::fabs(static_cast<double>(std::bit_cast<float>(bits)));
  if (std::isnan(magnitude)) return static_cast<uint16_t>(sign | 0x7e00 | (bits >> 13 & 0x3ff));
  if (std::isinf(magnitude)) return sign | 0x7c00;
  const double value = rounded(magnitude, 11, -14);
  if (value > 65504) return sign | 0x7c00;
  if (value < 0x1p-14) return static_cast<uint16_t>(sign | static_cast<int>(value * 0x1p24));
  const int exponent = std::ilogb(value);
  const int fraction = static_cast<int>(std::ldexp(value, 10 - exponent)) - 1024;
  return static_cast<uint16_t>(sign | (exponent + 15) << 10 | fraction);
}

// bfloat16: the upper half of an f32.
inline uint16_t bf16_from_f32(uint32_t bits) {
  const float value = std::bit_cast<float>(bits);
  if (std::isnan(value)) return static_cast<uint16_t>(bits >> 16 | 0x40);
  const uint32_t low = bits & 0xffff0000;  // towards zero
  const uint32_t high = low + 0x10000;     // away from zero; infinity is 2^128 to the rounding
  const uint32_t below = bits - low, above = high - bits;
  const bool up = above < below || (above == below && (low >> 16) % 2 == 1);
  return static_cast<uint16_t>((up ? high : low) >> 16);
}

// Element `i` of a block, in f32. Layouts: ggml-common.h and dequantize_row_* of ggml.
inline float block_element(DType from, const std::byte* block, unsigned i) {
  const auto byte = [block](unsigned at) { return static_cast<int>(block[at]); };
  const auto half = [block](unsigned at) {
    return std::bit_cast<float>(f32_from_f16(word_at(block + at)));
  };
  // Element i of 32 whose 4 bits stand in 16 bytes from `at`; its fifth bit in 4 bytes from `bits`.
  const auto nibble = [&](unsigned at) {
    return i < 16 ? byte(at + i) % 16 : byte(at + i - 16) / 16;
  };
  const auto fifth = [&](unsigned at) { return byte(at + i / 8) >> i % 8 & 1; };
  switch (from) {
    case DType::q4_0:
      return half(0) * static_cast<float>(nibble(2) - 8);
    case DType::q4_1: {
      const float product = half(0) * static_cast<float>(nibble(4));
      return product + half(2);
    }
    case DType::q5_0:
      return half(0) * static_cast<float>(nibble(6) + 16 * fifth(2) - 16);
    case DType::q5_1: {
      const float product = half(0) * static_cast<float>(nibble(8) + 16 * fifth(4));
      return product + half(2);
    }
    case DType::q8_0:
      return half(0) * static_cast<float>(static_cast<int8_t>(byte(2 + i)));
    case DType::q4_k:
    case DType::q5_k: {
      const unsigned group = i / 32, in_group = i % 32;
      int scale, min;
      if (group < 4) {
        scale = byte(4 + group) % 64;
        min = byte(8 + group) % 64;
      } else {
        scale = byte(8 + group) % 16 + 16 * (byte(group) / 64);
        min = byte(8 + group) / 16 + 16 * (byte(4 + group) / 64);
      }
      const unsigned quants = from == DType::q4_k ? 16 : 48;
      const int packed = byte(quants + 32 * (group / 2) + in_group);
      int quant = group % 2 == 0 ? packed % 16 : packed / 16;
      if (from == DType::q5_k) quant += 16 * (byte(16 + in_group) >> group & 1);
      const float group_scale = half(0) * static_cast<float>(scale);
      const float group_min = half(2) * static_cast<float>(min);
      const float product = group_scale * static_cast<float>(quant);
      return product - group_min;
    }
    case DType::q6_k: {
      const unsigned part = i / 128, quarter = i % 128 / 32, l = i % 32;
      const int packed = byte(64 * part + 32 * (quarter % 2) + l);
      const int low = quarter < 2 ? packed % 16 : packed / 16;
      const int high = byte(128 + 32 * part + l) >> 2 * quarter & 3;
      const float scale = half(208) * static_cast<float>(static_cast<int8_t>(byte(192 + i / 16)));
      return scale * static_cast<float>(low + 16 * high - 32);
    }
    default:
      std::abort();
  }
}

// Decodes whole units.
inline std::vector<std::byte> decode(DType from, DType to, Bytes in) {
  const DTypeInfo& info = dtype_info(from);
  std::vector<std::byte> out;
  for (size_t at = 0; at < in.size(); at += info.block_bytes) {
    for (unsigned i = 0; i < info.block_elements; ++i) {
      uint32_t bits = 0;
      if (from == DType::f32) {
        std::memcpy(&bits, &in[at], 4);
      } else if (from == DType::bf16) {
        bits = static_cast<uint32_t>(word_at(&in[at])) << 16;
      } else if (from == DType::f16) {
        bits = f32_from_f16(word_at(&in[at]));
      } else {
        bits = std::bit_cast<uint32_t>(block_element(from, &in[at], i));
        if ((bits & 0x7fffffff) > 0x7f800000) bits = 0x7fc00000;
      }
      if (to == DType::f16) bits = f16_from_f32(bits);
      if (to == DType::bf16) bits = bf16_from_f32(bits);
      for (unsigned byte = 0; byte < dtype_info(to).block_bytes; ++byte)
        out.push_back(static_cast<std::byte>(bits >> 8 * byte & 255));
    }
  }
  return out;
}

// Whole units of every kind that matters: for 16-bit types all values, for f32 the edges of f16 and
// bf16 (and their neighbours) and random patterns, for blocks random ones, with factors as models
// have them and with any bits (infinite and NaN among them), for q4_0 and q8_0 also all scales.
inline std::vector<std::byte> sample_units(DType from) {
  std::mt19937 random(static_cast<unsigned>(from));
  std::vector<std::byte> units;
  const auto add = [&units](uint32_t value, unsigned bytes) {
    for (unsigned i = 0; i < bytes; ++i) units.push_back(static_cast<std::byte>(value >> 8 * i));
  };
  if (from == DType::f16 || from == DType::bf16) {
    for (uint32_t value = 0; value < 65536; ++value) add(value, 2);
  } else if (from == DType::f32) {
    for (uint32_t half = 0; half < 65536; ++half) {
      // Each f16 and bf16, the midpoint behind it, and the neighbours of both.
      for (const uint32_t around : {f32_from_f16(static_cast<uint16_t>(half)), half << 16})
        for (const uint32_t middle : {0u, 0x1000u, 0x8000u})
          for (const uint32_t step : {~0u, 0u, 1u}) add(around + middle + step, 4);
      // Midpoints of f16's subnormals.
      const float middle = (static_cast<float>(half % 2048) + 0.5f) * 0x1p-24f;
      for (const uint32_t step : {~0u, 0u, 1u}) add(std::bit_cast<uint32_t>(middle) + step, 4);
    }
    for (const uint32_t nan : {0x7f800001u, 0x7fbfffffu, 0x7fc00000u, 0x7fffffffu, 0x7f801fffu,
                               0x7f802000u, 0xff800001u, 0xffffffffu})
      add(nan, 4);
    for (unsigned i = 0; i < 200'000; ++i) add(static_cast<uint32_t>(random()), 4);
  } else {
    const DTypeInfo& info = dtype_info(from);
    // Every scale, with every quant of 4 bits, with some of 8.
    if (from == DType::q4_0 || from == DType::q8_0)
      for (uint32_t scale = 0; scale < 65536; ++scale) {
        add(scale, 2);
        for (unsigned i = 0; i + 2 < info.block_bytes; ++i)
          add(from == DType::q4_0 ? i | (15 - i) << 4 : 32 * scale + i, 1);
      }
    for (unsigned block = 0; block < 3000; ++block) {
      const size_t start = units.size();
      for (unsigned i = 0; i < info.block_bytes; ++i) add(static_cast<uint32_t>(random()), 1);
      // Finite factors below 2 in all but every third block; some zero, some infinite.
      const unsigned factor = from == DType::q6_k ? 208 : 0;
      if (block % 3 != 0) {
        units[start + factor + 1] &= std::byte{0xbf};
        if (factor == 0) units[start + 3] &= std::byte{0xbf};
      } else if (block % 9 == 0) {
        units[start + factor] = std::byte{0};
        units[start + factor + 1] = std::byte{block % 2 == 0 ? uint8_t{0x7c} : uint8_t{0x80}};
      }
    }
  }
  return units;
}

// Holds `variant` byte-exact against the reference: all of sample_units() at once, 20 MiB at once,
// then 0, 1, 2, … units from every alignment to every alignment, with bytes around the output that
// must survive. Returns what went wrong, or nothing.
inline std::string check(const CodecVariant& variant) {
  constexpr std::byte kCanary{0xa5};
  const Codec& codec = variant.codec;
  const std::string name = concat(variant.implementation, " ", dtype_name(codec.from), " to ",
                                  dtype_name(codec.to), ": ");
  const std::vector<std::byte> in = sample_units(codec.from);
  const std::vector<std::byte> expected = decode(codec.from, codec.to, in);
  const size_t all = in.size() / codec.in_bytes;
  if (expected.size() != all * codec.out_bytes) return name + "out_bytes is wrong";

  const auto run = [&](size_t first, size_t units, size_t in_shift, size_t out_shift) {
    // The input ends with its allocation, so that a read past it is seen by AddressSanitizer.
    std::vector<std::byte> from(in_shift + units * codec.in_bytes);
    std::copy_n(in.data() + first * codec.in_bytes, units * codec.in_bytes, from.data() + in_shift);
    const size_t size = units * codec.out_bytes;
    std::vector<std::byte> out(64 + out_shift + size + 64, kCanary);
    std::byte* const start = out.data() + 64 + out_shift;
    codec.decode(from.data() + in_shift, start, units);
    const std::byte* const want = expected.data() + first * codec.out_bytes;
    for (size_t i = 0; i < size; ++i)
      if (start[i] != want[i])
        return concat(name, "byte ", i, " of ", size, " is ", static_cast<unsigned>(start[i]),
                      ", not ", static_cast<unsigned>(want[i]), " (units from ", first, ")");
    for (size_t i = 0; i < out.size(); ++i)
      if ((i < 64 + out_shift || i >= 64 + out_shift + size) && out[i] != kCanary)
        return concat(name, units, " units write outside their ", size, " bytes");
    return std::string();
  };

  if (std::string wrong = run(0, all, 0, 0); !wrong.empty()) return wrong;

  // Large calls may take another path: some 20 MiB of output, the samples over and over, the last
  // time in part.
  const size_t units = 20 * 1024 * 1024 / codec.out_bytes + 3;
  std::vector<std::byte> large_in(units * codec.in_bytes);
  for (size_t at = 0; at < large_in.size(); at += in.size())
    std::copy_n(in.data(), std::min(in.size(), large_in.size() - at), large_in.data() + at);
  for (const size_t shift : {0, 1}) {
    std::vector<std::byte> out(shift + units * codec.out_bytes + 64, kCanary);
    codec.decode(large_in.data(), out.data() + shift, units);
    const Bytes written = Bytes(out).subspan(shift, units * codec.out_bytes);
    for (size_t at = 0; at < written.size(); at += expected.size()) {
      const size_t some = std::min(expected.size(), written.size() - at);
      if (std::memcmp(written.data() + at, expected.data(), some) != 0)
        return concat(name, "of ", units, " units at once, some after byte ", at, " differ");
    }
    if ((shift > 0 && out[0] != kCanary) ||
        std::any_of(out.end() - 64, out.end(), [](std::byte byte) { return byte != kCanary; }))
      return concat(name, units, " units write outside their output");
  }
  for (size_t some = 0; some < 70; ++some)
    for (size_t shift = 0; shift < 16; ++shift)
      if (std::string wrong = run(some * 7 + shift, some, shift, shift * 5 % 16); !wrong.empty())
        return wrong;
  return {};
}

}  // namespace sluice::reference
