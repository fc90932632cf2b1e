// The codecs, written once over sixteen lanes. An instruction set is a struct `Isa` with the type
// `Floats` (sixteen f32) and the functions
//   load_f32, load_f16, load_bf16     sixteen elements from memory, any alignment
//   store_f32, store_f16, store_bf16  sixteen elements to memory, any alignment; see half.h
//   scaled(q, d)                      d * q, where q are sixteen signed bytes
//   affine(q, d, m)                   d * q + m, rounded twice
//   scale_at                          one f16 from memory
// and, where a large output should go past the caches,
//   stream(out, in, n)                copies n bytes, a multiple of 64; both aligned to 16
//   end_stream()                      makes them visible to other threads
//
// Included by the one file of each Isa and nowhere else, because that file may compile what stands
// here for more than the baseline's instructions (functions that are no templates over Isa, in
// half.h, must be included before).
#pragma once

#include "core/load/codecs/half.h"
#include "core/load/codecs/layout.h"
#include "core/load/codecs/pairs.h"

namespace sluice::codecs {

// Two roundings everywhere, so that every machine gives the same bytes.
#pragma STDC FP_CONTRACT OFF

using Bytes16 = uint8_t __attribute__((vector_size(16)));

// `static` gives each file its own copy, compiled for its own instructions.
#define SLUICE_INLINE [[gnu::always_inline]] static inline

SLUICE_INLINE Bytes16 load16(const std::byte* from) {
  Bytes16 bytes;
  __builtin_memcpy(&bytes, from, sizeof(bytes));
  return bytes;
}

// Sixteen bits, the lowest first, to sixteen bytes that are 16 where the bit is set, else 0.
SLUICE_INLINE Bytes16 fifth_bits(const std::byte* from) {
  const auto low = static_cast<uint8_t>(from[0]), high = static_cast<uint8_t>(from[1]);
  const Bytes16 spread = {low,  low,  low,  low,  low,  low,  low,  low,
                          high, high, high, high, high, high, high, high};
  const Bytes16 bit = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
  return reinterpret_cast<Bytes16>((spread & bit) == bit) & 16;
}

template <class Isa, DType from>
SLUICE_INLINE typename Isa::Floats load(const std::byte* in) {
  if constexpr (from == DType::f32) return Isa::load_f32(in);
  if constexpr (from == DType::f16) return Isa::load_f16(in);
  if constexpr (from == DType::bf16) return Isa::load_bf16(in);
}

// Stores sixteen elements as elements [16 * group, 16 * group + 16) of `out`.
template <class Isa, DType to>
SLUICE_INLINE void put(std::byte* out, size_t group, typename Isa::Floats values) {
  out += group * 16 * unit_of(to).bytes;
  if constexpr (to == DType::f32) Isa::store_f32(out, values);
  if constexpr (to == DType::f16) Isa::store_f16(out, values);
  if constexpr (to == DType::bf16) Isa::store_bf16(out, values);
}

// q4_0, q4_1, q5_0, q5_1: the low halves of 16 bytes are elements 0..15, the high halves 16..31.
template <class Isa, DType from, DType to>
SLUICE_INLINE void decode_nibbles(const std::byte* in, std::byte* out) {
  constexpr bool kFive = from == DType::q5_0 || from == DType::q5_1;
  constexpr bool kHasMin = unit_of(from).min_at >= 0;
  const std::byte* quants = in + unit_of(from).bytes - 16;
  const Bytes16 packed = load16(quants);
  Bytes16 low = packed & 15;
  Bytes16 high = packed >> 4;
  if constexpr (kFive) {
    low |= fifth_bits(quants - 4);
    high |= fifth_bits(quants - 2);
  }
  const float scale = Isa::scale_at(in);
  if constexpr (kHasMin) {
    const float min = Isa::scale_at(in + 2);
    put<Isa, to>(out, 0, Isa::affine(low, scale, min));
    put<Isa, to>(out, 1, Isa::affine(high, scale, min));
  } else {
    constexpr uint8_t kZero = kFive ? 16 : 8;
    put<Isa, to>(out, 0, Isa::scaled(low - kZero, scale));
    put<Isa, to>(out, 1, Isa::scaled(high - kZero, scale));
  }
}

template <class Isa, DType to>
SLUICE_INLINE void decode_q8_0(const std::byte* in, std::byte* out) {
  const float scale = Isa::scale_at(in);
  put<Isa, to>(out, 0, Isa::scaled(load16(in + 2), scale));
  put<Isa, to>(out, 1, Isa::scaled(load16(in + 18), scale));
}

// q4_k and q5_k: eight groups of 32 elements, each with a 6-bit factor for scale and min. Bytes
// 0..3 and 4..7 of `packed` hold the factors of groups 0..3 in their low six bits; the factors of
// groups 4..7 have their low half in bytes 8..11 and their upper two bits atop bytes 0..7.
template <class Isa, DType from, DType to>
SLUICE_INLINE void decode_k_nibbles(const std::byte* in, std::byte* out) {
  constexpr bool kFive = from == DType::q5_k;
  const std::byte* packed = in + 4;
  const std::byte* fifths = in + 16;
  const std::byte* quants = in + (kFive ? 48 : 16);
  const float block_scale = Isa::scale_at(in);
  const float block_min = Isa::scale_at(in + 2);

  const auto first = load_as<uint32_t>(packed);
  const auto second = load_as<uint32_t>(packed + 4);
  const auto third = load_as<uint32_t>(packed + 8);
  uint32_t words[4] = {first & 0x3f3f3f3f, (third & 0x0f0f0f0f) | (first >> 2 & 0x30303030),
                       second & 0x3f3f3f3f, (third >> 4 & 0x0f0f0f0f) | (second >> 2 & 0x30303030)};
  uint8_t factors[16];  // eight for the scale, eight for the min
  __builtin_memcpy(factors, words, sizeof(factors));

  for (size_t pair = 0; pair < 4; ++pair) {  // the two groups that share 32 bytes of quants
    const float scale_low = block_scale * static_cast<float>(factors[2 * pair]);
    const float scale_high = block_scale * static_cast<float>(factors[2 * pair + 1]);
    const float min_low = -(block_min * static_cast<float>(factors[2 * pair + 8]));
    const float min_high = -(block_min * static_cast<float>(factors[2 * pair + 9]));
    for (unsigned half = 0; half < 2; ++half) {
      const Bytes16 bytes = load16(quants + 32 * pair + size_t{16} * half);
      Bytes16 low = bytes & 15;
      Bytes16 high = bytes >> 4;
      if constexpr (kFive) {
        const Bytes16 bits = load16(fifths + size_t{16} * half) >> static_cast<uint8_t>(2 * pair);
        low |= bits << 4 & 16;
        high |= bits << 3 & 16;
      }
      put<Isa, to>(out, 4 * pair + half, Isa::affine(low, scale_low, min_low));
      put<Isa, to>(out, 4 * pair + half + 2, Isa::affine(high, scale_high, min_high));
    }
  }
}

// q6_k: two halves of 128 elements; 16 bytes of high bits serve four groups of 16, 32 apart.
template <class Isa, DType to>
SLUICE_INLINE void decode_q6_k(const std::byte* in, std::byte* out) {
  const float block_scale = Isa::scale_at(in + 208);
  for (unsigned part = 0; part < 4; ++part) {
    const unsigned half = part / 2, side = part % 2;
    const Bytes16 first = load16(in + size_t{64} * half + size_t{16} * side);
    const Bytes16 second = load16(in + size_t{64} * half + size_t{16} * side + 32);
    const Bytes16 upper = load16(in + 128 + size_t{32} * half + size_t{16} * side);
    const Bytes16 quants[4] = {
        (first & 15) | (upper << 4 & 48),
        (second & 15) | (upper << 2 & 48),
        first >> 4 | (upper & 48),
        second >> 4 | (upper >> 2 & 48),
    };
    for (unsigned quarter = 0; quarter < 4; ++quarter) {
      const unsigned group = 8 * half + 2 * quarter + side;
      const float scale = block_scale * static_cast<float>(load_as<int8_t>(in + 192 + group));
      put<Isa, to>(out, group, Isa::scaled(quants[quarter] - 32, scale));
    }
  }
}

template <class Isa, DType from, DType to>
SLUICE_INLINE void decode_block(const std::byte* in, std::byte* out) {
  if constexpr (from == DType::q8_0) {
    decode_q8_0<Isa, to>(in, out);
  } else if constexpr (from == DType::q4_k || from == DType::q5_k) {
    decode_k_nibbles<Isa, from, to>(in, out);
  } else if constexpr (from == DType::q6_k) {
    decode_q6_k<Isa, to>(in, out);
  } else {
    decode_nibbles<Isa, from, to>(in, out);
  }
}

template <class Isa, DType from, DType to>
SLUICE_INLINE void decode_units(const std::byte* in, std::byte* out, size_t units) {
  constexpr Unit kFrom = unit_of(from);
  constexpr uint32_t kToBytes = unit_of(to).bytes;
  if constexpr (kFrom.elements > 1 && to != DType::f32) {
    // By way of f32, some blocks at a time: faster than narrowing in the block's own loop, which
    // then wants more registers than there are.
    constexpr size_t kUnits = 512 / kFrom.elements;
    alignas(64) std::byte wide[kUnits * kFrom.elements * 4];
    while (units > 0) {
      const size_t some = units < kUnits ? units : kUnits;
      decode<Isa, from, DType::f32>(in, wide, some);
      decode<Isa, DType::f32, to>(wide, out, some * kFrom.elements);
      units -= some;
      in += some * kFrom.bytes;
      out += some * kFrom.elements * kToBytes;
    }
  } else if constexpr (kFrom.elements > 1) {
    for (; units > 0; --units, in += kFrom.bytes, out += size_t{kFrom.elements} * kToBytes) {
      decode_block<Isa, from, to>(in, out);
      bool finite = f16_is_finite(in + kFrom.scale_at);
      if constexpr (kFrom.min_at >= 0) finite &= f16_is_finite(in + kFrom.min_at);
      if (!finite) [[unlikely]]
        settle_nans<to>(out, kFrom.elements);
    }
  } else {
    for (; units >= 16; units -= 16, in += size_t{16} * kFrom.bytes, out += size_t{16} * kToBytes)
      put<Isa, to>(out, 0, load<Isa, from>(in));
    if (units > 0) {
      std::byte last_in[16 * kFrom.bytes] = {}, last_out[16 * kToBytes];
      __builtin_memcpy(last_in, in, units * kFrom.bytes);
      put<Isa, to>(last_out, 0, load<Isa, from>(last_in));
      __builtin_memcpy(out, last_out, units * kToBytes);
    }
  }
}

// Output of one call from which on Isa::stream() is used, where there is one: too large to be found
// in a cache by who reads it next.
inline constexpr size_t kStreamBytes = 8 << 20;

template <class Isa, DType from, DType to>
void decode(const std::byte* in, std::byte* out, size_t units) {
  if constexpr (requires { Isa::stream(out, in, size_t{}); }) {
    constexpr size_t kOutBytes = size_t{unit_of(from).elements} * unit_of(to).bytes;
    constexpr size_t kUnits = 4096 / kOutBytes;
    if (units >= kStreamBytes / kOutBytes && reinterpret_cast<uintptr_t>(out) % 16 == 0) {
      alignas(64) std::byte scratch[kUnits * kOutBytes];
      for (; units >= kUnits; units -= kUnits) {
        decode_units<Isa, from, to>(in, scratch, kUnits);
        Isa::stream(out, scratch, sizeof(scratch));
        in += kUnits * unit_of(from).bytes;
        out += sizeof(scratch);
      }
      Isa::end_stream();
    }
  }
  decode_units<Isa, from, to>(in, out, units);
}

// Instantiates decode() for every codec, in the file of an Isa.
#define SLUICE_INSTANTIATE_CODEC(isa, from, to) \
  template void decode<isa, DType::from, DType::to>(const std::byte*, std::byte*, size_t);

}  // namespace sluice::codecs
