// The codecs, written once over sixteen lanes. An instruction set is a struct `Isa` with the type
// `Floats` (sixteen f32) and the functions
//   load_f32, load_f16, load_bf16     sixteen elements from memory, any alignment
//   store_f32, store_f16, store_bf16  sixteen elements to memory, any alignment; see half.h
//   scaled(q, d)                      d * q, where q are sixteen signed bytes
//   affine(q, d, m)                   d * q + m, rounded twice; of every block the product is
//                                     exact, so that a fused multiply-add gives the same
//   scale_at                          one f16 from memory, as scaled() and affine() take it; they
//                                     take a float, too
//   bytes(n)                          sixteen bytes n
// and, where a factor is spread over a register faster from an f32 in memory than from an f16,
// kFactorsAhead; where narrowing within a block's loop is the fastest, kNarrowsInBlock; where a
// table of the sixteen values that 4-bit quants take is faster yet,
//   halves_of_bytes(in)               32 quants of type Quants: the lower four bits of 16 bytes,
//                                     then the upper ones
//   halves_of_bytes<shift>(in)        of 32 bytes the lower four bits (shift 0) or the upper (4)
//   put_from_table<to>(out, v, q)     writes v[q[0]] .. v[q[31]] as 16-bit floats
// and, where f32 is narrowed faster many at a time,
//   f16_from_f32(out, in, n)          n times sixteen elements
//   f16_from_bf16(out, in, n)         the same for bf16
//   put_from_halves(out, t, a, b)     writes t[a[0]] .. t[a[15]], t[b[0]] .. t[b[15]], where t are
//                                     sixteen f16 in memory
//   f16_from_q4_0(out, in, n)         as many of n blocks as it can, which it returns
// and, where a large output should go past the caches,
//   stream(out, in, n)                copies n bytes, a multiple of 64; both aligned to 16
//   end_stream()                      makes them visible to other threads
//
// Included by the one file of each Isa and nowhere else, because that file may compile what stands
// here for more than the baseline's instructions (functions that are no templates over Isa, in
// half.h, must be included before).
#pragma once

#include <utility>

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

// Of each byte, shifted right by `shift` (left where negative), the bits of `mask`, which must be
// such that no neighbour's bits come to stand there: machines shift words, not bytes.
template <class Isa, int shift, uint8_t mask>
SLUICE_INLINE Bytes16 field(Bytes16 bytes) {
  using Words = uint16_t __attribute__((vector_size(16)));
  const auto words = reinterpret_cast<Words>(bytes);
  const Words shifted =
      shift < 0 ? words << (shift < 0 ? -shift : 0) : words >> (shift < 0 ? 0 : shift);
  return reinterpret_cast<Bytes16>(shifted) & Isa::bytes(mask);
}

// Sixteen bits, the lowest first, to sixteen bytes that are 16 where the bit is set, else 0.
template <class Isa>
SLUICE_INLINE Bytes16 fifth_bits(const std::byte* from) {
  const auto low = static_cast<uint8_t>(from[0]), high = static_cast<uint8_t>(from[1]);
  const Bytes16 spread = {low,  low,  low,  low,  low,  low,  low,  low,
                          high, high, high, high, high, high, high, high};
  const Bytes16 bit = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
  return reinterpret_cast<Bytes16>((spread & bit) == bit) & Isa::bytes(16);
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

// Converts sixteen elements of a plain type.
template <class Isa, DType from, DType to>
SLUICE_INLINE void convert(const std::byte* in, std::byte* out) {
  put<Isa, to>(out, 0, load<Isa, from>(in));
}

// Whether `to` of 4-bit quants comes out of Isa::put_from_table().
template <class Isa, DType to>
inline constexpr bool kTable =
    to != DType::f32 && requires(typename Isa::Floats values, typename Isa::Quants quants) {
      Isa::template put_from_table<to>(nullptr, values, quants);
    };
constexpr bool is_4_bit(DType dtype) {
  return dtype == DType::q4_0 || dtype == DType::q4_1 || dtype == DType::q4_k;
}
inline constexpr Bytes16 kEveryQuant = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

// q4_0, q4_1, q5_0, q5_1: the low halves of 16 bytes are elements 0..15, the high halves 16..31.
template <class Isa, DType from, DType to>
SLUICE_INLINE void decode_nibbles(const std::byte* in, std::byte* out, auto scale, auto min) {
  constexpr bool kFive = from == DType::q5_0 || from == DType::q5_1;
  constexpr bool kHasMin = unit_of(from).min_at >= 0;
  constexpr uint8_t kZero = kHasMin ? 0 : kFive ? 16 : 8;
  const std::byte* quants = in + unit_of(from).bytes - 16;
  const auto value = [&](Bytes16 every) {
    if constexpr (kHasMin)
      return Isa::affine(every, scale, min);
    else
      return Isa::scaled(every, scale);
  };
  if constexpr (!kFive && kTable<Isa, to>) {
    Isa::template put_from_table<to>(out, value(kEveryQuant - kZero), Isa::halves_of_bytes(quants));
  } else {
    const Bytes16 packed = load16(quants);
    Bytes16 low = field<Isa, 0, 15>(packed);
    Bytes16 high = field<Isa, 4, 15>(packed);
    if constexpr (kFive) {
      low |= fifth_bits<Isa>(quants - 4);
      high |= fifth_bits<Isa>(quants - 2);
    }
    if constexpr (!kHasMin) {
      low -= Isa::bytes(kZero);
      high -= Isa::bytes(kZero);
    }
    put<Isa, to>(out, 0, value(low));
    put<Isa, to>(out, 1, value(high));
  }
}

template <class Isa, DType to>
SLUICE_INLINE void decode_q8_0(const std::byte* in, std::byte* out, auto scale) {
  put<Isa, to>(out, 0, Isa::scaled(load16(in + 2), scale));
  put<Isa, to>(out, 1, Isa::scaled(load16(in + 18), scale));
}

// q4_k and q5_k: eight groups of 32 elements, each with a 6-bit factor for scale and min. Bytes
// 0..3 and 4..7 of `packed` hold the factors of groups 0..3 in their low six bits; the factors of
// groups 4..7 have their low half in bytes 8..11 and their upper two bits atop bytes 0..7.
struct KFactors {
  float scales[16];  // of eight groups; the rest means nothing
  float mins[16];    // negative; the last eight
};
template <class Isa>
SLUICE_INLINE void convert_k_factors(const std::byte* in, KFactors& to) {
  const std::byte* packed = in + 4;
  const auto first = load_as<uint32_t>(packed);
  const auto second = load_as<uint32_t>(packed + 4);
  const auto third = load_as<uint32_t>(packed + 8);
  uint32_t words[4] = {first & 0x3f3f3f3f, (third & 0x0f0f0f0f) | (first >> 2 & 0x30303030),
                       second & 0x3f3f3f3f, (third >> 4 & 0x0f0f0f0f) | (second >> 2 & 0x30303030)};
  Bytes16 factors;  // eight for the scale, eight for the min
  __builtin_memcpy(&factors, words, sizeof(factors));
  Isa::store_f32(reinterpret_cast<std::byte*>(to.scales), Isa::scaled(factors, Isa::scale_at(in)));
  Isa::store_f32(reinterpret_cast<std::byte*>(to.mins),
                 Isa::scaled(factors, -Isa::scale_at(in + 2)));
}

template <class Isa, DType from, DType to>
SLUICE_INLINE void decode_k_nibbles(const std::byte* in, std::byte* out, KFactors& factors) {
  constexpr bool kFive = from == DType::q5_k;
  const std::byte* fifths = in + 16;
  const std::byte* quants = in + (kFive ? 48 : 16);
  // Narrowing is short of shuffles, which LLVM would take to spread a float that it knows to lie in
  // a register; from memory it is spread without one.
  if constexpr (to != DType::f32) asm("" : "+m"(factors));

  const auto decode_group = [&]<int group> {  // two groups share 32 bytes of quants
    const float scale = factors.scales[group], min = factors.mins[group + 8];
    if constexpr (!kFive && kTable<Isa, to>) {
      Isa::template put_from_table<to>(
          out + size_t{64} * group, Isa::affine(kEveryQuant, scale, min),
          Isa::template halves_of_bytes<group % 2 * 4>(quants + size_t{32} * (group / 2)));
      return;
    }
    for (unsigned half = 0; half < 2; ++half) {
      const Bytes16 packed_quants = load16(quants + size_t{32} * (group / 2) + size_t{16} * half);
      Bytes16 quant = field<Isa, group % 2 * 4, 15>(packed_quants);
      if constexpr (kFive) quant |= field<Isa, group - 4, 16>(load16(fifths + size_t{16} * half));
      put<Isa, to>(out, 2 * group + half, Isa::affine(quant, scale, min));
    }
  };
  [&]<int... groups>(std::integer_sequence<int, groups...>) {
    (decode_group.template operator()<groups>(), ...);
  }(std::make_integer_sequence<int, 8>());
}

// q6_k: two halves of 128 elements; 16 bytes of high bits serve four groups of 16, 32 apart.
template <class Isa, DType to>
SLUICE_INLINE void decode_q6_k(const std::byte* in, std::byte* out) {
  float scales[16];
  Isa::store_f32(reinterpret_cast<std::byte*>(scales),
                 Isa::scaled(load16(in + 192), Isa::scale_at(in + 208)));
  if constexpr (to != DType::f32) asm("" : "+m"(scales));  // see decode_k_nibbles()
  for (unsigned half = 0; half < 2; ++half) {
    const auto decode_quarter = [&]<int quarter> {
      for (unsigned side = 0; side < 2; ++side) {
        const Bytes16 low =
            load16(in + size_t{64} * half + size_t{32} * (quarter % 2) + size_t{16} * side);
        const Bytes16 upper = load16(in + 128 + size_t{32} * half + size_t{16} * side);
        const Bytes16 quant =
            field<Isa, quarter / 2 * 4, 15>(low) | field<Isa, 2 * quarter - 4, 48>(upper);
        const unsigned group = 8 * half + 2 * quarter + side;
        put<Isa, to>(out, group, Isa::scaled(quant - Isa::bytes(32), scales[group]));
      }
    };
    decode_quarter.template operator()<0>();
    decode_quarter.template operator()<1>();
    decode_quarter.template operator()<2>();
    decode_quarter.template operator()<3>();
  }
}

// A block of 32 elements; its factors are f32 or as Isa::scale_at() gives them.
template <class Isa, DType from, DType to>
SLUICE_INLINE void decode_block(const std::byte* in, std::byte* out, auto scale, auto min) {
  if constexpr (from == DType::q8_0)
    decode_q8_0<Isa, to>(in, out, scale);
  else
    decode_nibbles<Isa, from, to>(in, out, scale, min);
}

template <class Isa, DType from, DType to>
SLUICE_INLINE void decode_block(const std::byte* in, std::byte* out) {
  if constexpr (from == DType::q4_k || from == DType::q5_k) {
    KFactors factors;
    convert_k_factors<Isa>(in, factors);
    decode_k_nibbles<Isa, from, to>(in, out, factors);
  } else if constexpr (from == DType::q6_k) {
    decode_q6_k<Isa, to>(in, out);
  } else {
    const auto scale = Isa::scale_at(in);
    if constexpr (unit_of(from).min_at >= 0)
      decode_block<Isa, from, to>(in, out, scale, Isa::scale_at(in + unit_of(from).min_at));
    else
      decode_block<Isa, from, to>(in, out, scale, scale);
  }
}

// Blocks to 16 bits by way of f32, some at a time; one function for all blocks, for its size.
template <class Isa, DType to>
[[gnu::noinline]] void decode_by_f32(const std::byte* in, std::byte* out, size_t units,
                                     size_t in_bytes, size_t elements,
                                     void (*widen)(const std::byte*, std::byte*, size_t)) {
  constexpr size_t kElements = 512;
  alignas(64) std::byte wide[kElements * 4];
  while (units > 0) {
    const size_t at_once = kElements / elements, some = units < at_once ? units : at_once;
    widen(in, wide, some);
    decode<Isa, DType::f32, to>(wide, out, some * elements);
    units -= some;
    in += some * in_bytes;
    out += some * elements * unit_of(to).bytes;
  }
}

// q4_1 to f16 by tables of the values of its quants, which are narrowed many at a time.
template <class Isa>
SLUICE_INLINE void q4_1_by_tables(const std::byte* in, std::byte* out, size_t units) {
  constexpr uint32_t kBytes = unit_of(DType::q4_1).bytes;
  constexpr size_t kUnits = 32;
  alignas(16) std::byte wide[kUnits * 64], narrow[kUnits * 32];
  while (units > 0) {
    const size_t some = units < kUnits ? units : kUnits;
    bool finite = true;
    for (size_t i = 0; i < some; ++i) {
      const std::byte* const block = in + i * kBytes;
      finite &= f16_are_finite<uint32_t>(block);
      Isa::store_f32(wide + 64 * i,
                     Isa::affine(kEveryQuant, Isa::scale_at(block), Isa::scale_at(block + 2)));
    }
    Isa::f16_from_f32(narrow, wide, some);
    for (size_t i = 0; i < some; ++i, in += kBytes, out += 64) {
      const Bytes16 packed = load16(in + 4);
      Isa::put_from_halves(out, narrow + 32 * i, field<Isa, 0, 15>(packed),
                           field<Isa, 4, 15>(packed));
    }
    if (!finite) [[unlikely]]
      settle_nans<DType::f16>(out - some * 64, some * 32);
    units -= some;
  }
}

template <class Isa, DType from, DType to>
SLUICE_INLINE void decode_units(const std::byte* in, std::byte* out, size_t units) {
  constexpr Unit kFrom = unit_of(from);
  constexpr uint32_t kToBytes = unit_of(to).bytes;
  constexpr bool kInBlock =
      requires { Isa::kNarrowsInBlock; } || (is_4_bit(from) && kTable<Isa, to>);
  if constexpr (from == DType::q4_0 && to == DType::f16 &&
                requires { Isa::f16_from_q4_0(out, in, units); }) {
    while (true) {
      const size_t done = Isa::f16_from_q4_0(out, in, units);
      units -= done;
      in += done * kFrom.bytes;
      out += done * kFrom.elements * kToBytes;
      if (units == 0) break;
      decode_block<Isa, from, to>(in, out);
      if (!f16_are_finite<uint16_t>(in)) settle_nans<to>(out, kFrom.elements);
      --units;
      in += kFrom.bytes;
      out += size_t{kFrom.elements} * kToBytes;
    }
  } else if constexpr (from == DType::q4_1 && to == DType::f16 && requires(Bytes16 quants) {
                         Isa::put_from_halves(out, in, quants, quants);
                       }) {
    q4_1_by_tables<Isa>(in, out, units);
  } else if constexpr (kFrom.elements > 1 && to != DType::f32 && !kInBlock) {
    // Faster than narrowing in the block's own loop, which then wants more registers than there
    // are.
    void (*widen)(const std::byte*, std::byte*, size_t) = decode<Isa, from, DType::f32>;
    size_t elements = kFrom.elements;
    asm("" : "+r"(widen), "+r"(elements));  // else LLVM makes one function for each block again
    decode_by_f32<Isa, to>(in, out, units, kFrom.bytes, elements, widen);
  } else if constexpr (kFrom.elements > 1) {
    constexpr bool kHasMin = kFrom.min_at >= 0;
    static_assert(!kHasMin || kFrom.min_at == kFrom.scale_at + 2);
    using Factors = std::conditional_t<kHasMin, uint32_t, uint16_t>;
    constexpr size_t kBlockOut = size_t{kFrom.elements} * kToBytes;
    if constexpr (kFrom.elements == 32 && requires { Isa::kFactorsAhead; }) {
      constexpr size_t kHalves = sizeof(Factors) / 2, kAhead = 32 / kHalves;
      alignas(64) float factors[kAhead][kHalves];
      Factors halves[kAhead] = {};
      // Collected one by one, or LLVM would use shuffles, and a round before they are read: a
      // vector made of several stores must wait until all of these have left for the cache.
      const auto collect = [&](const std::byte* from_block, size_t some) {
#pragma clang loop vectorize(disable) unroll(disable)
        for (size_t i = 0; i < some; ++i)
          halves[i] = load_as<Factors>(from_block + i * kFrom.bytes);
        return some;
      };
      for (size_t some = collect(in, units < kAhead ? units : kAhead); some > 0;) {
        for (size_t i = 0; i < 2; ++i)
          Isa::store_f32(reinterpret_cast<std::byte*>(factors) + 64 * i,
                         Isa::load_f16(reinterpret_cast<const std::byte*>(halves) + 32 * i));
        bool finite = true;
        for (size_t i = 0; i < sizeof(halves); i += 8)
          finite &= f16_are_finite<uint64_t>(reinterpret_cast<const std::byte*>(halves) + i);
        units -= some;
        const size_t next = collect(in + some * kFrom.bytes, units < kAhead ? units : kAhead);
        for (size_t i = 0; i < some; ++i, in += kFrom.bytes, out += kBlockOut)
          decode_block<Isa, from, to>(in, out, factors[i][0], factors[i][kHalves - 1]);
        if (!finite) [[unlikely]]
          settle_nans<to>(out - some * kBlockOut, some * kFrom.elements);
        some = next;
      }
    } else if constexpr (kFrom.elements == 256 && kHasMin && requires { Isa::kFactorsAhead; }) {
      KFactors factors[2];  // of a block and of the next
      if (units > 0) convert_k_factors<Isa>(in, factors[0]);
      for (size_t i = 0; i < units; ++i, in += kFrom.bytes, out += kBlockOut) {
        if (i + 1 < units) convert_k_factors<Isa>(in + kFrom.bytes, factors[(i + 1) % 2]);
        decode_k_nibbles<Isa, from, to>(in, out, factors[i % 2]);
        if (!f16_are_finite<Factors>(in + kFrom.scale_at)) [[unlikely]]
          settle_nans<to>(out, kFrom.elements);
      }
    } else {
      for (; units > 0; --units, in += kFrom.bytes, out += kBlockOut) {
        decode_block<Isa, from, to>(in, out);
        if (!f16_are_finite<Factors>(in + kFrom.scale_at)) [[unlikely]]
          settle_nans<to>(out, kFrom.elements);
      }
    }
  } else {
    if constexpr ((from == DType::f32 || from == DType::bf16) && to == DType::f16 &&
                  requires { Isa::f16_from_f32(out, in, units); }) {
      const size_t whole = units / 16 * 16;
      if constexpr (from == DType::f32)
        Isa::f16_from_f32(out, in, whole / 16);
      else
        Isa::f16_from_bf16(out, in, whole / 16);
      in += whole * kFrom.bytes;
      out += whole * kToBytes;
      units -= whole;
    }
    for (; units >= 16; units -= 16, in += size_t{16} * kFrom.bytes, out += size_t{16} * kToBytes)
      convert<Isa, from, to>(in, out);
    if (units > 0) {
      std::byte last_in[16 * kFrom.bytes] = {}, last_out[16 * kToBytes];
      __builtin_memcpy(last_in, in, units * kFrom.bytes);
      convert<Isa, from, to>(last_in, last_out);
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
