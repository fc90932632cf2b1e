// The list of codecs, and what each file of implementations defines.
#pragma once

#include <cstddef>

#include "core/base/dtype.h"

// Calls X(isa, from, to) for each pair of types that has a codec.
#define SLUICE_CODECS_OF_BLOCK_(X, isa, from) X(isa, from, f32) X(isa, from, f16) X(isa, from, bf16)
#define SLUICE_CODECS(X, isa)           \
  X(isa, bf16, f32)                     \
  X(isa, bf16, f16)                     \
  X(isa, f16, f32)                      \
  X(isa, f16, bf16)                     \
  X(isa, f32, f16)                      \
  X(isa, f32, bf16)                     \
  SLUICE_CODECS_OF_BLOCK_(X, isa, q4_0) \
  SLUICE_CODECS_OF_BLOCK_(X, isa, q4_1) \
  SLUICE_CODECS_OF_BLOCK_(X, isa, q5_0) \
  SLUICE_CODECS_OF_BLOCK_(X, isa, q5_1) \
  SLUICE_CODECS_OF_BLOCK_(X, isa, q8_0) \
  SLUICE_CODECS_OF_BLOCK_(X, isa, q4_k) \
  SLUICE_CODECS_OF_BLOCK_(X, isa, q5_k) \
  SLUICE_CODECS_OF_BLOCK_(X, isa, q6_k)

namespace sluice::codecs {

struct Scalar;   // scalar.cc, every machine
struct Avx2;     // avx2.cc, x86-64 with AVX2, FMA and F16C
struct Avx512;   // avx512.cc, x86-64 with AVX-512
struct Simd128;  // simd128.cc, wasm

// Codec::decode of one pair with the instructions of `Isa`; instantiated in that one's file.
template <class Isa, DType from, DType to>
void decode(const std::byte* in, std::byte* out, size_t units);

}  // namespace sluice::codecs
