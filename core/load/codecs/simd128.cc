// Codecs for WebAssembly with SIMD128; other machines compile nothing here.
#if defined(__wasm_simd128__)

#include <wasm_simd128.h>

#include "core/load/codecs/kernels.h"

namespace sluice::codecs {

struct Simd128 {
  struct Floats {
    v128_t lanes[4];
  };

  SLUICE_INLINE Floats load_f32(const std::byte* in) {
    return {{wasm_v128_load(in), wasm_v128_load(in + 16), wasm_v128_load(in + 32),
             wasm_v128_load(in + 48)}};
  }
  SLUICE_INLINE Floats load_f16(const std::byte* in) {
    return {{f32_of_f16(wasm_u32x4_load16x4(in)), f32_of_f16(wasm_u32x4_load16x4(in + 8)),
             f32_of_f16(wasm_u32x4_load16x4(in + 16)), f32_of_f16(wasm_u32x4_load16x4(in + 24))}};
  }
  SLUICE_INLINE Floats load_bf16(const std::byte* in) {
    return {{f32_of_bf16(in), f32_of_bf16(in + 8), f32_of_bf16(in + 16), f32_of_bf16(in + 24)}};
  }

  SLUICE_INLINE void store_f32(std::byte* out, Floats values) {
    for (unsigned i = 0; i < 4; ++i) wasm_v128_store(out + 16 * i, values.lanes[i]);
  }
  SLUICE_INLINE void store_f16(std::byte* out, Floats values) {
    for (unsigned i = 0; i < 2; ++i)
      wasm_v128_store(out + 16 * i, wasm_u16x8_narrow_i32x4(f16_of(values.lanes[2 * i]),
                                                            f16_of(values.lanes[2 * i + 1])));
  }
  SLUICE_INLINE void store_bf16(std::byte* out, Floats values) {
    for (unsigned i = 0; i < 2; ++i)
      wasm_v128_store(out + 16 * i, wasm_u16x8_narrow_i32x4(bf16_of(values.lanes[2 * i]),
                                                            bf16_of(values.lanes[2 * i + 1])));
  }

  SLUICE_INLINE v128_t f32_of_bf16(const std::byte* in) {
    return wasm_i32x4_shl(wasm_u32x4_load16x4(in), 16);
  }

  // f32_from_f16() in half.h, for four halves in the low bits of their lanes.
  SLUICE_INLINE v128_t f32_of_f16(v128_t half) {
    const v128_t magnitude = wasm_v128_and(half, wasm_i32x4_const_splat(0x7fff));
    const v128_t sign = wasm_i32x4_shl(wasm_v128_xor(half, magnitude), 16);
    const v128_t shifted = wasm_i32x4_shl(magnitude, 13);
    const v128_t normal = wasm_i32x4_add(shifted, wasm_i32x4_const_splat(112 << 23));
    const v128_t subnormal =
        wasm_f32x4_mul(wasm_f32x4_convert_i32x4(magnitude), wasm_f32x4_const_splat(0x1p-24f));
    const v128_t small = wasm_i32x4_lt(magnitude, wasm_i32x4_const_splat(0x0400));
    v128_t result = wasm_v128_bitselect(subnormal, normal, small);
    const v128_t special = wasm_i32x4_gt(magnitude, wasm_i32x4_const_splat(0x7bff));
    result = wasm_v128_or(result, wasm_v128_and(special, wasm_i32x4_const_splat(0x7f800000)));
    const v128_t nan = wasm_i32x4_gt(magnitude, wasm_i32x4_const_splat(0x7c00));
    result = wasm_v128_or(result, wasm_v128_and(nan, wasm_i32x4_const_splat(0x00400000)));
    return wasm_v128_or(result, sign);
  }

  // f16_from_f32() in half.h; the halves come in the low bits of their lanes.
  SLUICE_INLINE v128_t f16_of(v128_t bits) {
    const v128_t magnitude = wasm_v128_and(bits, wasm_i32x4_const_splat(0x7fffffff));
    const v128_t sign = wasm_u32x4_shr(wasm_v128_xor(bits, magnitude), 16);
    // 2^16 and above are taken for 2^16, which the normal path turns into infinity.
    const v128_t bounded = wasm_i32x4_min(magnitude, wasm_i32x4_const_splat(0x47800000));
    const v128_t odd = wasm_v128_and(wasm_u32x4_shr(bounded, 13), wasm_i32x4_const_splat(1));
    const v128_t rounding = wasm_i32x4_add(odd, wasm_i32x4_const_splat(0x0fff - (112 << 23)));
    const v128_t normal = wasm_u32x4_shr(wasm_i32x4_add(bounded, rounding), 13);
    const v128_t subnormal = wasm_i32x4_sub(wasm_f32x4_add(bounded, wasm_f32x4_const_splat(0.5f)),
                                            wasm_i32x4_const_splat(0x3f000000));
    const v128_t small = wasm_i32x4_lt(magnitude, wasm_i32x4_const_splat(0x38800000));
    v128_t result = wasm_v128_bitselect(subnormal, normal, small);
    const v128_t nan = wasm_i32x4_gt(magnitude, wasm_i32x4_const_splat(0x7f800000));
    const v128_t payload =
        wasm_v128_and(wasm_u32x4_shr(magnitude, 13), wasm_i32x4_const_splat(0x03ff));
    const v128_t quieted = wasm_v128_or(payload, wasm_i32x4_const_splat(0x7e00));
    result = wasm_v128_bitselect(quieted, result, nan);
    return wasm_v128_or(result, sign);
  }

  // bf16_from_f32() in half.h; the halves come in the low bits of their lanes.
  SLUICE_INLINE v128_t bf16_of(v128_t bits) {
    const v128_t upper = wasm_u32x4_shr(bits, 16);
    const v128_t odd = wasm_v128_and(upper, wasm_i32x4_const_splat(1));
    const v128_t half = wasm_i32x4_add(odd, wasm_i32x4_const_splat(0x7fff));
    const v128_t rounded = wasm_u32x4_shr(wasm_i32x4_add(bits, half), 16);
    const v128_t quieted = wasm_v128_or(upper, wasm_i32x4_const_splat(0x40));
    return wasm_v128_bitselect(quieted, rounded, wasm_f32x4_ne(bits, bits));
  }

  SLUICE_INLINE float scale_at(const std::byte* in) {
    return wasm_f32x4_extract_lane(f32_of_f16(wasm_i32x4_splat(load_as<uint16_t>(in))), 0);
  }
  SLUICE_INLINE Floats scaled(Bytes16 quants, float scale) {
    const auto bytes = reinterpret_cast<v128_t>(quants);
    const v128_t low = wasm_i16x8_extend_low_i8x16(bytes);
    const v128_t high = wasm_i16x8_extend_high_i8x16(bytes);
    const v128_t words[4] = {wasm_i32x4_extend_low_i16x8(low), wasm_i32x4_extend_high_i16x8(low),
                             wasm_i32x4_extend_low_i16x8(high), wasm_i32x4_extend_high_i16x8(high)};
    const v128_t factor = wasm_f32x4_splat(scale);
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
};

SLUICE_CODECS(SLUICE_INSTANTIATE_CODEC, Simd128)

}  // namespace sluice::codecs

#endif
