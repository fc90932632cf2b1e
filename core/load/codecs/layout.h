// Units of the types that codecs read and write.
#pragma once

#include <cstdint>

#include "core/base/dtype.h"

namespace sluice::codecs {

// One unit of input: a block, or one element of a plain type. Blocks are laid out as in ggml's
// ggml-common.h; `scale_at` and `min_at` are the offsets of their f16 factors, -1 for none.
struct Unit {
  uint32_t elements;
  uint32_t bytes;
  int scale_at = -1;
  int min_at = -1;
};

constexpr Unit unit_of(DType dtype) {
  switch (dtype) {
    case DType::f16:
    case DType::bf16:
      return {1, 2};
    case DType::f32:
      return {1, 4};
    case DType::q4_0:  // scale, 16 bytes of two 4-bit values
      return {32, 18, 0};
    case DType::q4_1:  // scale, min, 16 bytes of two 4-bit values
      return {32, 20, 0, 2};
    case DType::q5_0:  // scale, 32 fifth bits, 16 bytes of two low 4 bits
      return {32, 22, 0};
    case DType::q5_1:  // scale, min, 32 fifth bits, 16 bytes of two low 4 bits
      return {32, 24, 0, 2};
    case DType::q8_0:  // scale, 32 signed bytes
      return {32, 34, 0};
    case DType::q4_k:  // scale, min, 8 pairs of 6-bit factors in 12 bytes, 128 bytes of 4-bit
                       // values
      return {256, 144, 0, 2};
    case DType::q5_k:  // scale, min, factors as q4_k, 32 bytes of fifth bits, 128 of low 4 bits
      return {256, 176, 0, 2};
    case DType::q6_k:  // 128 bytes of low 4 bits, 64 of high 2 bits, 16 signed factors, scale
      return {256, 210, 208};
    default:
      return {0, 0};
  }
}

}  // namespace sluice::codecs
