// Codecs: from a tensor's stored bytes to the bytes its user asked for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "core/base/bytes.h"
#include "core/base/dtype.h"

namespace sluice {

// A conversion in whole units: each `in_bytes` of input give `out_bytes` of output, independent of
// their neighbours.
struct Codec {
  DType from;
  DType to;
  uint32_t in_bytes;   // one unit of input, at most kCodecMaxUnit
  uint32_t out_bytes;  // one unit of output
  // Decodes `units` units. The ranges must not overlap; neither needs any alignment.
  void (*decode)(const std::byte* in, std::byte* out, size_t units);

  // Input of two units. Units are of an even number of bytes, in and out, so that a pair is a
  // multiple of 4 on either side.
  uint64_t pair_bytes() const { return 2 * uint64_t{in_bytes}; }
};

inline constexpr uint32_t kCodecMaxUnit = 512;

// The fastest codec for this machine; null when there is none for the pair (equal types need none).
//
// Every implementation gives the same bytes. Blocks decode as ggml's dequantize_row_* define it, in
// f32 with a rounding after each operation (scale * quant, then + min); a result in f16 or bf16 is
// that f32, rounded. Rounding is to nearest, ties to even; f16 overflows to infinity. A NaN stays a
// NaN: between plain types with its sign and the upper bits of its payload, and quiet (bf16 to f32:
// unchanged); out of a block, whose factors alone can cause it, always the positive quiet NaN
// without payload.
const Codec* find_codec(DType from, DType to);

// Every codec, and every implementation of it that this machine can run ("scalar", "avx512", …,
// with the one that find_codec() returns first), for tests and benchmarks.
struct CodecVariant {
  std::string_view implementation;
  Codec codec;
};
std::span<const CodecVariant> codec_variants();

// Decodes a stream that is cut anywhere: a unit that a cut divides is carried to the next feed.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Codec* codec) : codec_(codec) {}

  // Bytes of output that feeding `in_bytes` more would give; 2^64-1 where that overflows.
  uint64_t output_bytes(uint64_t in_bytes) const;

  // The most input that may be fed so that at most `out_bytes` come out; 2^64-1 less what is
  // carried where that overflows. 0 when the next byte alone would complete a unit that
  // `out_bytes` cannot hold.
  uint64_t input_for(uint64_t out_bytes) const;

  // Decodes `in` into `out`, which must hold output_bytes(in.size()). Returns the bytes written.
  size_t feed(Bytes in, std::byte* out);

  // Bytes of an unfinished unit that wait for their rest.
  uint32_t carried() const { return carried_; }
  const Codec& codec() const { return *codec_; }

 private:
  const Codec* codec_;
  uint32_t carried_ = 0;
  std::byte carry_[kCodecMaxUnit];
};

}  // namespace sluice
