// Element types of tensors, stored and loaded.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "core/base/error.h"

namespace sluice {

// Plain types first, then GGUF's block formats. The numbers cross to JS; append only.
enum class DType : uint8_t {
  boolean,
  u8,
  i8,
  u16,
  i16,
  u32,
  i32,
  u64,
  i64,
  f16,
  bf16,
  f32,
  f64,
  f8_e4m3fn,
  f8_e4m3fnuz,
  f8_e5m2,
  f8_e5m2fnuz,
  f8_e8m0fnu,
  f4_e2m1fn,
  i4,
  u4,
  c64,
  // GGUF blocks, named as ggml names them
  q4_0,
  q4_1,
  q5_0,
  q5_1,
  q8_0,
  q8_1,
  q2_k,
  q3_k,
  q4_k,
  q5_k,
  q6_k,
  q8_k,
  iq2_xxs,
  iq2_xs,
  iq3_xxs,
  iq1_s,
  iq4_nl,
  iq3_s,
  iq2_s,
  iq4_xs,
  iq1_m,
  tq1_0,
  tq2_0,
  mxfp4,
  nvfp4,
  q1_0,
  q2_0,
};
inline constexpr uint32_t kDTypeCount = static_cast<uint32_t>(DType::q2_0) + 1;

struct DTypeInfo {
  std::string_view
      name;  // TVM's and numpy's name: "float32", "bfloat16"; ggml's for blocks: "q4_1"
  uint32_t
      block_elements;    // elements that share one block; 1 for whole-byte types, 2 for 4-bit ones
  uint32_t block_bytes;  // bytes of one block
  bool is_float;         // a plain floating-point type
  bool is_quantized;     // a GGUF block format
};

const DTypeInfo& dtype_info(DType dtype);
inline std::string_view dtype_name(DType dtype) { return dtype_info(dtype).name; }

// By DTypeInfo::name. Names that only one format uses ("BF16", "e4m3_float8") are that format's
// affair.
std::optional<DType> dtype_from_name(std::string_view name);

// Bytes that `elements` elements take when packed: whole blocks, the last one rounded up.
// Nothing when that overflows 64 bits.
std::optional<uint64_t> storage_bytes(DType dtype, uint64_t elements);

}  // namespace sluice
