// xxHash 0.8.1 has no loop for wasm's SIMD128, but one for SSE2 that needs eleven operations. These
// are they: included before <xxhash.h>, they make XXH3 a third faster than its portable loop (V8 on
// x86-64). The digests stay the same, to which a test of the wasm module holds it.
#pragma once

#include <wasm_simd128.h>

#define XXH_VECTOR 1  // XXH_SSE2, which is defined later

using __m128i = v128_t;

inline v128_t _mm_load_si128(const v128_t* at) { return wasm_v128_load(at); }
inline v128_t _mm_loadu_si128(const v128_t* at) { return wasm_v128_load(at); }
inline v128_t _mm_xor_si128(v128_t a, v128_t b) { return wasm_v128_xor(a, b); }
inline v128_t _mm_add_epi64(v128_t a, v128_t b) { return wasm_i64x2_add(a, b); }
inline v128_t _mm_srli_epi64(v128_t a, int bits) { return wasm_u64x2_shr(a, bits); }
inline v128_t _mm_slli_epi64(v128_t a, int bits) { return wasm_i64x2_shl(a, bits); }
inline v128_t _mm_set1_epi32(int value) { return wasm_i32x4_splat(value); }
inline v128_t _mm_set_epi64x(long long high, long long low) { return wasm_i64x2_make(low, high); }
// The low halves of each 64 bits, multiplied
inline v128_t _mm_mul_epu32(v128_t a, v128_t b) {
  return wasm_u64x2_extmul_low_u32x4(wasm_i32x4_shuffle(a, a, 0, 2, 0, 2),
                                     wasm_i32x4_shuffle(b, b, 0, 2, 0, 2));
}
// Lanes as the instruction's immediate byte has them, which must be a constant
#define _MM_SHUFFLE(d, c, b, a) ((d) << 6 | (c) << 4 | (b) << 2 | (a))
#define _mm_shuffle_epi32(v, m) \
  wasm_i32x4_shuffle(v, v, (m) & 3, (m) >> 2 & 3, (m) >> 4 & 3, (m) >> 6 & 3)
