// Codecs for every machine: plain loops over sixteen lanes.
#include "core/load/codecs/kernels.h"

namespace sluice::codecs {

#pragma STDC FP_CONTRACT OFF

struct Scalar {
  struct Floats {
    uint32_t bits[16];  // not float: a signalling NaN of f32 passes unchanged
  };

  static Bytes16 bytes(uint8_t value) { return Bytes16{} + value; }

  static Floats load_f32(const std::byte* in) { return load_as<Floats>(in); }
  static Floats load_f16(const std::byte* in) {
    Floats values;
    for (unsigned i = 0; i < 16; ++i)
      values.bits[i] = f32_from_f16(load_as<uint16_t>(in + size_t{2} * i));
    return values;
  }
  static Floats load_bf16(const std::byte* in) {
    Floats values;
    for (unsigned i = 0; i < 16; ++i)
      values.bits[i] = static_cast<uint32_t>(load_as<uint16_t>(in + size_t{2} * i)) << 16;
    return values;
  }

  static void store_f32(std::byte* out, const Floats& values) {
    std::memcpy(out, &values, sizeof(values));
  }
  static void store_f16(std::byte* out, const Floats& values) {
    uint16_t halves[16];
    for (unsigned i = 0; i < 16; ++i) halves[i] = f16_from_f32(values.bits[i]);
    std::memcpy(out, halves, sizeof(halves));
  }
  static void store_bf16(std::byte* out, const Floats& values) {
    uint16_t halves[16];
    for (unsigned i = 0; i < 16; ++i) halves[i] = bf16_from_f32(values.bits[i]);
    std::memcpy(out, halves, sizeof(halves));
  }

  static float scale_at(const std::byte* in) {
    return std::bit_cast<float>(f32_from_f16(load_as<uint16_t>(in)));
  }
  static Floats scaled(Bytes16 quants, float scale) {
    Floats values;
    for (unsigned i = 0; i < 16; ++i)
      values.bits[i] =
          std::bit_cast<uint32_t>(scale * static_cast<float>(static_cast<int8_t>(quants[i])));
    return values;
  }
  static Floats affine(Bytes16 quants, float scale, float min) {
    Floats values;
    for (unsigned i = 0; i < 16; ++i) {
      const float product = scale * static_cast<float>(static_cast<int8_t>(quants[i]));
      values.bits[i] = std::bit_cast<uint32_t>(product + min);
    }
    return values;
  }
};

SLUICE_CODECS(SLUICE_INSTANTIATE_CODEC, Scalar)

}  // namespace sluice::codecs
