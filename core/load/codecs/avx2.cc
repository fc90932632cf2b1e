// Codecs for x86-64 with AVX2, FMA and F16C; other machines compile nothing here.
#if defined(__x86_64__)

#include <immintrin.h>

#include <utility>

#include "core/load/codecs/half.h"
#include "core/load/codecs/layout.h"
#include "core/load/codecs/pairs.h"

// The rest of the build keeps to the baseline; codec.cc asks the machine before it calls these.
#pragma clang attribute push(__attribute__((target("avx2,f16c,fma"))), apply_to = function)

#include "core/load/codecs/kernels.h"

namespace sluice::codecs {

#pragma STDC FP_CONTRACT OFF

struct Avx2 {
  static constexpr bool kNarrowsInBlock = true;
  static constexpr bool kFactorsAhead = true;
  struct Floats {
    __m256 low, high;
  };

  SLUICE_INLINE __m256i load256(const std::byte* in) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in));
  }
  SLUICE_INLINE __m128i load128(const std::byte* in) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(in));
  }

  SLUICE_INLINE Bytes16 bytes(uint8_t value) { return Bytes16{} + value; }

  SLUICE_INLINE Floats load_f32(const std::byte* in) {
    return {_mm256_castsi256_ps(load256(in)), _mm256_castsi256_ps(load256(in + 32))};
  }
  SLUICE_INLINE Floats load_f16(const std::byte* in) {
    return {_mm256_cvtph_ps(load128(in)), _mm256_cvtph_ps(load128(in + 16))};
  }
  SLUICE_INLINE Floats load_bf16(const std::byte* in) {
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load128(in)), 16)),
            _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load128(in + 16)), 16))};
  }

  SLUICE_INLINE void store_f32(std::byte* out, Floats values) {
    _mm256_storeu_ps(reinterpret_cast<float*>(out), values.low);
    _mm256_storeu_ps(reinterpret_cast<float*>(out) + 8, values.high);
  }
  SLUICE_INLINE void store_f16(std::byte* out, Floats values) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), f16_of(values.low));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 16), f16_of(values.high));
  }
  SLUICE_INLINE void store_bf16(std::byte* out, Floats values) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), bf16_of(values));
  }

  // A store of a whole line that bypasses the caches need not read the line first.
  SLUICE_INLINE void stream(std::byte* out, const std::byte* in, size_t bytes) {
    for (size_t i = 0; i < bytes; i += 16)
      _mm_stream_si128(reinterpret_cast<__m128i*>(out + i), load128(in + i));
  }
  SLUICE_INLINE void end_stream() { _mm_sfence(); }

  SLUICE_INLINE __m128i f16_of(__m256 values) {
    return _mm256_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  SLUICE_INLINE __m256i bf16_of(Floats values) {
    // packus works within 128-bit halves; the permutation puts the quarters in order.
    const __m256i packed = _mm256_packus_epi32(bf16_of(values.low), bf16_of(values.high));
    return _mm256_permute4x64_epi64(packed, 0xd8);
  }
  // See bf16_from_f32() in half.h.
  SLUICE_INLINE __m256i bf16_of(__m256 values) {
    const __m256i bits = _mm256_castps_si256(values);
    const __m256i upper = _mm256_srli_epi32(bits, 16);
    const __m256i odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
    const __m256i half = _mm256_add_epi32(_mm256_set1_epi32(0x7fff), odd);
    const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, half), 16);
    const __m256i quieted = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
    const __m256i magnitude = _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffffff));
    // Compared as integers: a comparison of floats would be moved ahead of f16's conversion by the
    // compiler, and done there one by one.
    const __m256i nan = _mm256_cmpgt_epi32(magnitude, _mm256_set1_epi32(0x7f800000));
    return _mm256_blendv_epi8(rounded, quieted, nan);
  }

  SLUICE_INLINE __m256 scale_at(const std::byte* in) {
    return _mm256_cvtph_ps(_mm_set1_epi16(load_as<int16_t>(in)));
  }
  SLUICE_INLINE __m256 factor(__m256 every) { return every; }
  SLUICE_INLINE __m256 factor(float every) { return _mm256_set1_ps(every); }
  SLUICE_INLINE __m256 floats_of(__m128i quants) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(quants));
  }
  SLUICE_INLINE Floats scaled(Bytes16 quants, auto scale) {
    const auto packed = reinterpret_cast<__m128i>(quants);
    return {_mm256_mul_ps(factor(scale), floats_of(packed)),
            _mm256_mul_ps(factor(scale), floats_of(_mm_unpackhi_epi64(packed, packed)))};
  }
  SLUICE_INLINE Floats affine(Bytes16 quants, auto scale, auto min) {
    const auto packed = reinterpret_cast<__m128i>(quants);
    return {
        _mm256_fmadd_ps(factor(scale), floats_of(packed), factor(min)),
        _mm256_fmadd_ps(factor(scale), floats_of(_mm_unpackhi_epi64(packed, packed)), factor(min))};
  }

  // Quants 0..15 in the lower half, 16..31 in the upper one.
  using Quants = __m256i;
  SLUICE_INLINE Quants halves_of_bytes(const std::byte* in) {
    const __m256i twice = _mm256_broadcastsi128_si256(load128(in));
    return _mm256_and_si256(_mm256_srlv_epi64(twice, _mm256_setr_epi64x(0, 0, 4, 4)),
                            _mm256_set1_epi8(15));
  }
  template <int shift>
  SLUICE_INLINE Quants halves_of_bytes(const std::byte* in) {
    return _mm256_and_si256(_mm256_srli_epi16(load256(in), shift), _mm256_set1_epi8(15));
  }

  template <DType to>
  SLUICE_INLINE void put_from_table(std::byte* out, Floats values, Quants quants) {
    __m256i table;
    if constexpr (to == DType::f16)
      table = _mm256_set_m128i(f16_of(values.high), f16_of(values.low));
    if constexpr (to == DType::bf16) table = bf16_of(values);
    // The lower bytes of all sixteen values, twice, and the upper ones.
    const __m128i even_odd = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    const __m256i parted = _mm256_shuffle_epi8(table, _mm256_set_m128i(even_odd, even_odd));
    const __m256i lower = _mm256_permute4x64_epi64(parted, 0x88);
    const __m256i upper = _mm256_permute4x64_epi64(parted, 0xdd);
    const __m256i lows = _mm256_shuffle_epi8(lower, quants);
    const __m256i highs = _mm256_shuffle_epi8(upper, quants);
    // unpack works within 128-bit halves; stores put the quarters in order, which costs no shuffle.
    const __m256i first = _mm256_unpacklo_epi8(lows, highs);
    const __m256i second = _mm256_unpackhi_epi8(lows, highs);
    const auto to128 = [out](size_t at) { return reinterpret_cast<__m128i*>(out + at); };
    // Apart, or LLVM joins the stores at the cost of two shuffles.
    _mm_storeu_si128(to128(0), _mm256_castsi256_si128(first));
    asm("" ::: "memory");
    _mm_storeu_si128(to128(16), _mm256_castsi256_si128(second));
    asm("" ::: "memory");
    _mm_storeu_si128(to128(32), _mm256_extracti128_si256(first, 1));
    asm("" ::: "memory");
    _mm_storeu_si128(to128(48), _mm256_extracti128_si256(second, 1));
  }
};

SLUICE_CODECS(SLUICE_INSTANTIATE_CODEC, Avx2)

}  // namespace sluice::codecs

#pragma clang attribute pop

#endif
