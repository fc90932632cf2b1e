// Codecs for x86-64 with AVX-512 (F, BW, DQ, VL); other machines compile nothing here.
#if defined(__x86_64__)

#include <immintrin.h>

#include <utility>

#include "core/load/codecs/half.h"
#include "core/load/codecs/layout.h"
#include "core/load/codecs/pairs.h"

// The rest of the build keeps to the baseline; codec.cc asks the machine before it calls these.
#pragma clang attribute push(                                                            \
    __attribute__((target("avx2,f16c,fma,avx512f,avx512bw,avx512dq,avx512vl,evex512"))), \
    apply_to = function)

#include "core/load/codecs/kernels.h"

namespace sluice::codecs {

#pragma STDC FP_CONTRACT OFF

struct Avx512 {
  using Floats = __m512;

  static constexpr bool kNarrowsInBlock = true;
  static constexpr bool kFactorsAhead = true;

  SLUICE_INLINE Bytes16 bytes(uint8_t value) { return Bytes16{} + value; }

  SLUICE_INLINE __m256i load256(const std::byte* in) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in));
  }
  SLUICE_INLINE Floats load_f32(const std::byte* in) {
    return _mm512_castsi512_ps(_mm512_loadu_si512(in));
  }
  SLUICE_INLINE Floats load_f16(const std::byte* in) { return _mm512_cvtph_ps(load256(in)); }
  SLUICE_INLINE Floats load_bf16(const std::byte* in) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load256(in)), 16));
  }

  SLUICE_INLINE void store_f32(std::byte* out, Floats values) {
    _mm512_storeu_si512(out, _mm512_castps_si512(values));
  }
  SLUICE_INLINE void store_f16(std::byte* out, Floats values) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), f16_of(values));
  }
  SLUICE_INLINE void store_bf16(std::byte* out, Floats values) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), bf16_of(values));
  }

  SLUICE_INLINE void stream(std::byte* out, const std::byte* in, size_t bytes) {
    for (size_t i = 0; i < bytes; i += 16)
      _mm_stream_si128(reinterpret_cast<__m128i*>(out + i),
                       _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + i)));
  }
  SLUICE_INLINE void end_stream() { _mm_sfence(); }

  SLUICE_INLINE __m256i f16_of(Floats values) {
    return _mm512_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  // See bf16_from_f32() in half.h.
  SLUICE_INLINE __m256i bf16_of(Floats values) {
    const __m512i bits = _mm512_castps_si512(values);
    const __m512i upper = _mm512_srli_epi32(bits, 16);
    const __m512i odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
    const __m512i half = _mm512_add_epi32(_mm512_set1_epi32(0x7fff), odd);
    const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, half), 16);
    const __m512i magnitude = _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff));
    const __mmask16 nan = _mm512_cmpgt_epi32_mask(magnitude, _mm512_set1_epi32(0x7f800000));
    return _mm512_cvtepi32_epi16(
        _mm512_mask_or_epi32(rounded, nan, upper, _mm512_set1_epi32(0x40)));
  }

  SLUICE_INLINE Floats scale_at(const std::byte* in) {
    return _mm512_cvtph_ps(_mm256_set1_epi16(load_as<int16_t>(in)));
  }
  SLUICE_INLINE Floats factor(Floats every) { return every; }
  SLUICE_INLINE Floats factor(float every) { return _mm512_set1_ps(every); }
  SLUICE_INLINE Floats scaled(Bytes16 quants, auto scale) {
    const __m512i words = _mm512_cvtepi8_epi32(reinterpret_cast<__m128i>(quants));
    return _mm512_mul_ps(factor(scale), _mm512_cvtepi32_ps(words));
  }
  SLUICE_INLINE Floats affine(Bytes16 quants, auto scale, auto min) {
    const __m512i words = _mm512_cvtepi8_epi32(reinterpret_cast<__m128i>(quants));
    return _mm512_fmadd_ps(factor(scale), _mm512_cvtepi32_ps(words), factor(min));
  }

  // A word for each quant.
  using Quants = __m512i;
  SLUICE_INLINE Quants halves_of_bytes(const std::byte* in) {
    const __m512i twice = _mm512_cvtepu8_epi16(
        _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(in))));
    const __m512i shifts = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(4), 1);
    return _mm512_and_si512(_mm512_srlv_epi16(twice, shifts), _mm512_set1_epi16(15));
  }
  template <int shift>
  SLUICE_INLINE Quants halves_of_bytes(const std::byte* in) {
    return _mm512_and_si512(_mm512_srli_epi16(_mm512_cvtepu8_epi16(load256(in)), shift),
                            _mm512_set1_epi16(15));
  }

  template <DType to>
  SLUICE_INLINE void put_from_table(std::byte* out, Floats values, Quants quants) {
    __m256i table;
    if constexpr (to == DType::f16) table = f16_of(values);
    if constexpr (to == DType::bf16) table = bf16_of(values);
    _mm512_storeu_si512(out, _mm512_permutexvar_epi16(quants, _mm512_zextsi256_si512(table)));
  }
};

SLUICE_CODECS(SLUICE_INSTANTIATE_CODEC, Avx512)

}  // namespace sluice::codecs

#pragma clang attribute pop

#endif
