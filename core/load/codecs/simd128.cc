// Codecs for WebAssembly with SIMD128; other machines compile nothing here.
#if defined(__wasm_simd128__)

#include <wasm_simd128.h>

#include "core/load/codecs/kernels.h"

namespace sluice::codecs {

struct Simd128 {
  struct Floats {
    v128_t lanes[4];
  };

  // A constant that stays in a local across a loop: written in the loop, as LLVM does by itself, V8
  // builds it anew each time.
  SLUICE_INLINE v128_t ints(int32_t value) {
    asm("" : "+r"(value));
    return wasm_i32x4_splat(value);
  }
  SLUICE_INLINE v128_t shorts(int32_t value) {
    asm("" : "+r"(value));
    return wasm_i16x8_splat(static_cast<int16_t>(value));
  }
  SLUICE_INLINE v128_t floats(float value) { return ints(std::bit_cast<int32_t>(value)); }

  SLUICE_INLINE Bytes16 bytes(uint8_t value) {
    return reinterpret_cast<Bytes16>(ints(value * 0x01010101));
  }

  SLUICE_INLINE Floats load_f32(const std::byte* in) {
    return {{wasm_v128_load(in), wasm_v128_load(in + 16), wasm_v128_load(in + 32),
             wasm_v128_load(in + 48)}};
  }
  // Four of eight f32 whose lower and upper halves are given.
  SLUICE_INLINE v128_t first_four(v128_t lower, v128_t upper) {
    return wasm_i16x8_shuffle(lower, upper, 0, 8, 1, 9, 2, 10, 3, 11);
  }
  SLUICE_INLINE v128_t last_four(v128_t lower, v128_t upper) {
    return wasm_i16x8_shuffle(lower, upper, 4, 12, 5, 13, 6, 14, 7, 15);
  }

  SLUICE_INLINE Floats load_f16(const std::byte* in) {
    const v128_t halves[2] = {wasm_v128_load(in), wasm_v128_load(in + 16)};
    Floats values;
    if (normal_f16(halves[0], halves[1])) [[likely]] {
      for (unsigned i = 0; i < 2; ++i) {
        // The fraction moves by 13 bits, the bias from 15 to 127.
        const v128_t moved = wasm_v128_and(wasm_i16x8_shr(halves[i], 3), shorts(-0x7001));
        const v128_t upper = wasm_i16x8_add(moved, shorts(112 << 7));
        const v128_t lower = wasm_i16x8_shl(halves[i], 13);
        values.lanes[2 * i] = first_four(lower, upper);
        values.lanes[2 * i + 1] = last_four(lower, upper);
      }
    } else {
      for (unsigned i = 0; i < 4; ++i)
        values.lanes[i] = f32_of_f16(wasm_u32x4_load16x4(in + size_t{8} * i));
    }
    return values;
  }
  // Whether sixteen f16 are normal numbers all: neither infinite, NaN, zero nor subnormal.
  SLUICE_INLINE bool normal_f16(v128_t first, v128_t second) {
    // Twice the magnitude, turned so that all others are below 0x1000.
    const v128_t turned =
        wasm_u16x8_min(wasm_i16x8_add(wasm_i16x8_add(first, first), shorts(0x0800)),
                       wasm_i16x8_add(wasm_i16x8_add(second, second), shorts(0x0800)));
    return wasm_i16x8_all_true(wasm_v128_and(turned, shorts(-0x1000)));
  }
  SLUICE_INLINE Floats load_bf16(const std::byte* in) {
    const v128_t first = wasm_v128_load(in), second = wasm_v128_load(in + 16), zero = shorts(0);
    return {{first_four(zero, first), last_four(zero, first), first_four(zero, second),
             last_four(zero, second)}};
  }

  // Stores stay in the order of their addresses: LLVM turns them round, and then an output that
  // does not begin with a cache line takes up to twice as long.
  SLUICE_INLINE void store(std::byte* out, v128_t value) {
    wasm_v128_store(out, value);
    asm volatile("" ::: "memory");
  }
  SLUICE_INLINE void store_f32(std::byte* out, Floats values) {
    for (unsigned i = 0; i < 4; ++i) store(out + size_t{16} * i, values.lanes[i]);
  }
  SLUICE_INLINE void store_bf16(std::byte* out, Floats values) {
    for (unsigned i = 0; i < 2; ++i)
      store(out + size_t{16} * i, wasm_u16x8_narrow_i32x4(bf16_of(values.lanes[2 * i]),
                                                          bf16_of(values.lanes[2 * i + 1])));
  }

  // f32_from_f16() in half.h, for four halves in the low bits of their lanes.
  SLUICE_INLINE v128_t f32_of_f16(v128_t half) {
    const v128_t magnitude = wasm_v128_and(half, ints(0x7fff));
    const v128_t sign = wasm_i32x4_shl(wasm_v128_xor(half, magnitude), 16);
    const v128_t shifted = wasm_i32x4_shl(magnitude, 13);
    const v128_t normal = wasm_i32x4_add(shifted, ints(112 << 23));
    const v128_t subnormal = wasm_f32x4_mul(wasm_f32x4_convert_i32x4(magnitude), floats(0x1p-24f));
    const v128_t small = wasm_i32x4_lt(magnitude, ints(0x0400));
    v128_t result = wasm_v128_bitselect(subnormal, normal, small);
    const v128_t special = wasm_i32x4_gt(magnitude, ints(0x7bff));
    result = wasm_v128_or(result, wasm_v128_and(special, ints(0x7f800000)));
    const v128_t nan = wasm_i32x4_gt(magnitude, ints(0x7c00));
    result = wasm_v128_or(result, wasm_v128_and(nan, ints(0x00400000)));
    return wasm_v128_or(result, sign);
  }

  // f16_from_f32() in half.h, for any eight floats.
  [[gnu::noinline]] static v128_t f16_of_any(v128_t low, v128_t high) {
    return wasm_u16x8_narrow_i32x4(f16_of_any(low), f16_of_any(high));
  }
  SLUICE_INLINE v128_t f16_of_any(v128_t bits) {
    const v128_t magnitude = wasm_v128_and(bits, ints(0x7fffffff));
    const v128_t sign = wasm_u32x4_shr(wasm_v128_xor(bits, magnitude), 16);
    // 2^16 and above become infinite.
    const v128_t bounded = wasm_i32x4_min(magnitude, ints(0x47800000));
    const v128_t nan = wasm_i32x4_gt(magnitude, ints(0x7f800000));
    const v128_t payload = wasm_v128_and(wasm_u32x4_shr(magnitude, 13), ints(0x03ff));
    const v128_t quieted = wasm_v128_or(payload, ints(0x7e00));
    return wasm_v128_or(wasm_v128_bitselect(quieted, rounded_to_f16(bounded), nan), sign);
  }

  // Exponent and fraction of the f16 nearest to each of four floats that are at most 2^16, whose
  // magnitudes are given. 2^13 times the power of two below a float (of 2^-14, for what becomes
  // subnormal) has the unit of the float's f16 as its own last digit: in the sum of both, rounded
  // to nearest, the fraction is the f16's, its leading 1 included.
  SLUICE_INLINE v128_t rounded_to_f16(v128_t magnitude) {
    const v128_t power = wasm_v128_and(magnitude, ints(0x7f800000));
    const v128_t addend = wasm_i32x4_add(wasm_i32x4_max(power, ints(113 << 23)), ints(13 << 23));
    const v128_t sum = wasm_f32x4_add(magnitude, addend);
    // The lower half of a sum is the fraction, the upper one 2^7 times the exponent.
    const v128_t joined = wasm_i32x4_dot_i16x8(sum, ints(8 << 16 | 1));
    return wasm_i32x4_sub(joined, ints(126 << 10));
  }

  // f16_from_f32() in half.h, for `groups` of sixteen. A loop without a branch or a call, so that
  // V8 keeps its constants in registers; what has numbers above 2^16 is done anew.
  [[gnu::noinline]] static void f16_from_f32(std::byte* out, const std::byte* in, size_t groups) {
    constexpr size_t kAtOnce = 32;
    while (groups > 0) {
      const size_t some = groups < kAtOnce ? groups : kAtOnce;
      groups -= some;
      const std::byte* const begin = in;
      const std::byte* const end = in + some * 64;
      v128_t largest = wasm_i32x4_splat(0);
      for (; in < end; in += 32, out += 16) {
        const v128_t low = wasm_v128_load(in), high = wasm_v128_load(in + 16);
        const v128_t magnitudes[2] = {wasm_v128_and(low, ints(0x7fffffff)),
                                      wasm_v128_and(high, ints(0x7fffffff))};
        largest = wasm_i32x4_max(largest, wasm_i32x4_max(magnitudes[0], magnitudes[1]));
        const v128_t magnitude =
            wasm_i16x8_narrow_i32x4(rounded_to_f16(magnitudes[0]), rounded_to_f16(magnitudes[1]));
        // narrow saturates: what is negative keeps its sign.
        const v128_t saturated = wasm_i16x8_narrow_i32x4(low, high);
        store(out, wasm_v128_or(magnitude, wasm_v128_and(saturated, shorts(-0x8000))));
      }
      if (wasm_v128_any_true(wasm_i32x4_gt(largest, ints(0x47800000)))) [[unlikely]] {
        out -= some * 32;
        for (in = begin; in < end; in += 32, out += 16)
          store(out, f16_of_any(wasm_v128_load(in), wasm_v128_load(in + 16)));
      }
    }
  }
  SLUICE_INLINE void store_f16(std::byte* out, const Floats& values) {
    store(out, f16_of_any(values.lanes[0], values.lanes[1]));
    store(out + 16, f16_of_any(values.lanes[2], values.lanes[3]));
  }

  // `groups` of sixteen bf16 to f16. The eight digits of the one fit into the eleven of the other,
  // so that only the bias changes, as long as the results are normal numbers; groups with others
  // are done anew, by way of f32.
  SLUICE_INLINE void f16_from_bf16(std::byte* out, const std::byte* in, size_t groups) {
    constexpr size_t kAtOnce = 128;
    uint8_t beyond[kAtOnce];
    alignas(16) std::byte wide[kAtOnce * 64], narrow[kAtOnce * 32];
    for (size_t some; groups > 0; groups -= some, in += some * 32, out += some * 32) {
      some = groups < kAtOnce ? groups : kAtOnce;
      size_t count = 0;
      for (size_t i = 0; i < some; ++i) {
        v128_t turned[2];
        for (unsigned half = 0; half < 2; ++half) {
          const v128_t words = wasm_v128_load(in + 32 * i + size_t{16} * half);
          // Twice the magnitude, turned so that 2^-14 is the least number; 2^16 and above, and what
          // is below 2^-14, are beyond the limit.
          turned[half] = wasm_i16x8_add(wasm_i16x8_add(words, words), shorts(0x8000 - 2 * 0x3880));
          const v128_t magnitude = wasm_i16x8_add(wasm_i16x8_shl(words, 3), shorts(-(0x3800 << 3)));
          store(out + 32 * i + size_t{16} * half,
                wasm_v128_or(magnitude, wasm_v128_and(words, shorts(-0x8000))));
        }
        const v128_t largest = wasm_i16x8_max(turned[0], turned[1]);
        beyond[count] = static_cast<uint8_t>(i);
        count += wasm_v128_any_true(wasm_i16x8_gt(largest, shorts(2 * (0x477f - 0x3880) - 0x8000)));
      }
      for (size_t i = 0; i < count; ++i) store_f32(wide + 64 * i, load_bf16(in + 32 * beyond[i]));
      f16_from_f32(narrow, wide, count);
      for (size_t i = 0; i < count; ++i) std::memcpy(out + 32 * beyond[i], narrow + 32 * i, 32);
    }
  }

  // bf16_from_f32() in half.h; the halves come in the low bits of their lanes.
  SLUICE_INLINE v128_t bf16_of(v128_t bits) {
    const v128_t upper = wasm_u32x4_shr(bits, 16);
    const v128_t odd = wasm_v128_and(upper, ints(1));
    const v128_t half = wasm_i32x4_add(odd, ints(0x7fff));
    const v128_t rounded = wasm_u32x4_shr(wasm_i32x4_add(bits, half), 16);
    const v128_t quieted = wasm_v128_or(upper, ints(0x40));
    return wasm_v128_bitselect(quieted, rounded, wasm_f32x4_ne(bits, bits));
  }

  SLUICE_INLINE float scale_at(const std::byte* in) {
    return std::bit_cast<float>(f32_from_f16(load_as<uint16_t>(in)));
  }
  SLUICE_INLINE Floats scaled(Bytes16 quants, float scale) {
    // Each quant in the upper byte of a word, which costs less than its value there; the factor
    // makes up for it, exactly, because no product is small enough to be subnormal.
    const auto packed = reinterpret_cast<v128_t>(quants);
    const v128_t zero = ints(0);
    const v128_t low =
        wasm_i8x16_shuffle(zero, packed, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const v128_t high = wasm_i8x16_shuffle(zero, packed, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13,
                                           29, 14, 30, 15, 31);
    const v128_t words[4] = {first_four(zero, low), last_four(zero, low), first_four(zero, high),
                             last_four(zero, high)};
    const v128_t factor = wasm_f32x4_splat(scale * 0x1p-24f);
    Floats values;
    for (unsigned i = 0; i < 4; ++i)
      values.lanes[i] = wasm_f32x4_mul(factor, wasm_f32x4_convert_i32x4(words[i]));
    return values;
  }
  SLUICE_INLINE Floats affine(Bytes16 quants, float scale, float min) {
    Floats values = scaled(quants, scale);
    const v128_t addend = wasm_f32x4_splat(min);
    for (unsigned i = 0; i < 4; ++i) values.lanes[i] = wasm_f32x4_add(values.lanes[i], addend);
    return values;
  }

  SLUICE_INLINE void put_from_halves(std::byte* out, const std::byte* table, Bytes16 first,
                                     Bytes16 second) {
    const v128_t near = wasm_v128_load(table), far = wasm_v128_load(table + 16);
    const v128_t lows =
        wasm_u8x16_narrow_i16x8(wasm_v128_and(near, shorts(255)), wasm_v128_and(far, shorts(255)));
    const v128_t highs = wasm_u8x16_narrow_i16x8(wasm_u16x8_shr(near, 8), wasm_u16x8_shr(far, 8));
    put_looked_up(out, lows, highs, first);
    put_looked_up(out + 32, lows, highs, second);
  }
  SLUICE_INLINE void put_looked_up(std::byte* out, v128_t lows, v128_t highs, Bytes16 quants) {
    const auto indices = reinterpret_cast<v128_t>(quants);
    const v128_t low = wasm_i8x16_swizzle(lows, indices);
    const v128_t high = wasm_i8x16_swizzle(highs, indices);
    store(out,
          wasm_i8x16_shuffle(low, high, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23));
    store(out + 16, wasm_i8x16_shuffle(low, high, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14,
                                       30, 15, 31));
  }

  // q4_0 blocks to f16, up to one whose scale is not such that all its values are normal numbers or
  // zeros; returns how many. The scale by 1, 3, 5 and 7 is rounded, the rest follows: a power of
  // two goes to the exponent, a sign to the sign.
  SLUICE_INLINE size_t f16_from_q4_0(std::byte* out, const std::byte* in, size_t units) {
    size_t fit = 0;
    for (; fit < units; ++fit) {
      const unsigned magnitude = load_as<uint16_t>(in + 18 * fit) & 0x7fffu;
      if (magnitude - 0x0400 >= 0x6c00 - 0x0400) break;  // 8 times it might become infinite
    }
    // Apart from the loop above: without a branch, V8 keeps the constants in registers.
    for (const std::byte* const end = in + 18 * fit; in < end; in += 18, out += 64) {
      const v128_t head = wasm_v128_load(in);
      const v128_t scale = wasm_i8x16_swizzle(
          head, wasm_i8x16_const(0, 1, -1, -1, 0, 1, -1, -1, 0, 1, -1, -1, 0, 1, -1, -1));
      const v128_t wide = wasm_i32x4_shl(wasm_v128_and(scale, ints(0x7fff)), 13);
      const v128_t product =
          wasm_f32x4_mul(wide, wasm_f32x4_make(0x1p112f, 0x3p112f, 0x5p112f, 0x7p112f));
      // As in rounded_to_f16(), but for what is normal, and what it subtracts in the end is in the
      // sums below.
      const v128_t power = wasm_v128_and(product, ints(0x7f800000));
      const v128_t sum = wasm_f32x4_add(product, wasm_i32x4_add(power, ints(13 << 23)));
      const v128_t halves = wasm_i32x4_dot_i16x8(sum, ints(8 << 16 | 1));
      // Of the values of quants -8 .. 7: 8 is 1 with another exponent, 7, 6 is 3, 5, …
      const v128_t lows = wasm_i8x16_swizzle(
          halves, wasm_i8x16_const(0, 12, 4, 8, 0, 4, 0, 0, -1, 0, 0, 4, 0, 8, 4, 12));
      const v128_t tops = wasm_i8x16_swizzle(
          halves, wasm_i8x16_const(1, 13, 5, 9, 1, 5, 1, 1, -1, 1, 1, 5, 1, 9, 5, 13));
      const v128_t moved =
          wasm_i8x16_add(tops, wasm_i8x16_const(-108, -120, -116, -120, -112, -120, -116, -120, 0,
                                                8, 12, 8, 16, 8, 12, 8));
      const v128_t signs = wasm_i8x16_swizzle(head, wasm_i8x16_splat(1));
      const v128_t highs =
          wasm_v128_xor(moved, wasm_v128_and(signs, shorts(static_cast<int16_t>(0x8080))));
      const Bytes16 packed = load16(in + 2);
      put_looked_up(out, lows, highs, field<Simd128, 0, 15>(packed));
      put_looked_up(out + 32, lows, highs, field<Simd128, 4, 15>(packed));
    }
    return fit;
  }
};

SLUICE_CODECS(SLUICE_INSTANTIATE_CODEC, Simd128)

}  // namespace sluice::codecs

#endif
