#include "core/base/dtype.h"

#include <array>

#include "core/base/checked.h"

namespace sluice {
namespace {

// Block sizes: ggml-common.h of ggml, as the GGUF specification names them.
constexpr std::array<DTypeInfo, kDTypeCount> kTable = {{
    {"bool", 1, 1, false, false},           {"uint8", 1, 1, false, false},
    {"int8", 1, 1, false, false},           {"uint16", 1, 2, false, false},
    {"int16", 1, 2, false, false},          {"uint32", 1, 4, false, false},
    {"int32", 1, 4, false, false},          {"uint64", 1, 8, false, false},
    {"int64", 1, 8, false, false},          {"float16", 1, 2, true, false},
    {"bfloat16", 1, 2, true, false},        {"float32", 1, 4, true, false},
    {"float64", 1, 8, true, false},         {"float8_e4m3fn", 1, 1, true, false},
    {"float8_e4m3fnuz", 1, 1, true, false}, {"float8_e5m2", 1, 1, true, false},
    {"float8_e5m2fnuz", 1, 1, true, false}, {"float8_e8m0fnu", 1, 1, true, false},
    {"float4_e2m1fn", 2, 1, true, false},   {"int4", 2, 1, false, false},
    {"uint4", 2, 1, false, false},          {"complex64", 1, 8, false, false},
    {"q4_0", 32, 18, false, true},          {"q4_1", 32, 20, false, true},
    {"q5_0", 32, 22, false, true},          {"q5_1", 32, 24, false, true},
    {"q8_0", 32, 34, false, true},          {"q8_1", 32, 36, false, true},
    {"q2_k", 256, 84, false, true},         {"q3_k", 256, 110, false, true},
    {"q4_k", 256, 144, false, true},        {"q5_k", 256, 176, false, true},
    {"q6_k", 256, 210, false, true},        {"q8_k", 256, 292, false, true},
    {"iq2_xxs", 256, 66, false, true},      {"iq2_xs", 256, 74, false, true},
    {"iq3_xxs", 256, 98, false, true},      {"iq1_s", 256, 50, false, true},
    {"iq4_nl", 32, 18, false, true},        {"iq3_s", 256, 110, false, true},
    {"iq2_s", 256, 82, false, true},        {"iq4_xs", 256, 136, false, true},
    {"iq1_m", 256, 56, false, true},        {"tq1_0", 256, 54, false, true},
    {"tq2_0", 256, 66, false, true},        {"mxfp4", 32, 17, false, true},
    {"nvfp4", 64, 36, false, true},         {"q1_0", 128, 18, false, true},
    {"q2_0", 64, 18, false, true},
}};

}  // namespace

const DTypeInfo& dtype_info(DType dtype) { return kTable[static_cast<uint32_t>(dtype)]; }

std::optional<DType> dtype_from_name(std::string_view name) {
  for (uint32_t i = 0; i < kDTypeCount; ++i)
    if (kTable[i].name == name) return static_cast<DType>(i);
  return std::nullopt;
}

std::optional<uint64_t> storage_bytes(DType dtype, uint64_t elements) {
  const DTypeInfo& info = dtype_info(dtype);
  const uint64_t blocks =
      elements / info.block_elements + (elements % info.block_elements != 0 ? 1 : 0);
  return checked_mul(blocks, info.block_bytes);
}

}  // namespace sluice
