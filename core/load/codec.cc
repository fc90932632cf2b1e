#include "core/load/codec.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "core/base/checked.h"
#include "core/load/codecs/layout.h"
#include "core/load/codecs/pairs.h"

namespace sluice {
namespace {

template <class Isa>
constexpr auto variants_of(std::string_view implementation) {
#define SLUICE_VARIANT(isa, from, to)                                         \
  {implementation,                                                            \
   {DType::from, DType::to, codecs::unit_of(DType::from).bytes,               \
    codecs::unit_of(DType::from).elements * codecs::unit_of(DType::to).bytes, \
    &codecs::decode<isa, DType::from, DType::to>}},
  return std::to_array<CodecVariant>({SLUICE_CODECS(SLUICE_VARIANT, Isa)});
#undef SLUICE_VARIANT
}

template <size_t first, size_t second>
constexpr auto joined(const std::array<CodecVariant, first>& fast,
                      const std::array<CodecVariant, second>& slow) {
  std::array<CodecVariant, first + second> every{};
  std::ranges::copy(slow, std::ranges::copy(fast, every.begin()).out);
  return every;
}

constexpr auto kScalar = variants_of<codecs::Scalar>("scalar");

// kFast: what this build has beyond the scalar codecs, the fastest first; too_fast(): how many of
// these do not run here.
#if defined(__x86_64__)
constexpr auto kAvx512 = variants_of<codecs::Avx512>("avx512");
constexpr auto kAvx2 = variants_of<codecs::Avx2>("avx2");
constexpr auto kFast = joined(kAvx512, kAvx2);
size_t too_fast() {
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("f16c") ||
      !__builtin_cpu_supports("fma"))
    return kFast.size();
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return avx512 ? 0 : kAvx512.size();
}
#elif defined(__wasm_simd128__)
constexpr auto kFast = variants_of<codecs::Simd128>("simd128");
constexpr size_t too_fast() { return 0; }
#else
constexpr std::array<CodecVariant, 0> kFast;
constexpr size_t too_fast() { return 0; }
#endif

constexpr auto kEvery = joined(kFast, kScalar);

static_assert(std::ranges::all_of(kEvery, [](const CodecVariant& variant) {
  const Codec& codec = variant.codec;
  return codec.in_bytes <= kCodecMaxUnit && codec.in_bytes % 2 == 0 && codec.out_bytes % 2 == 0;
}));

}  // namespace

const Codec* find_codec(DType from, DType to) {
  // Two tables, so that a build that is always fast carries no scalar codec.
  const size_t skipped = too_fast();
  const std::span<const CodecVariant> usable =
      skipped < kFast.size() ? std::span<const CodecVariant>(kFast).subspan(skipped) : kScalar;
  for (const CodecVariant& variant : usable)
    if (variant.codec.from == from && variant.codec.to == to) return &variant.codec;
  return nullptr;
}

std::span<const CodecVariant> codec_variants() {
  return std::span<const CodecVariant>(kEvery).subspan(too_fast());
}

uint64_t StreamDecoder::output_bytes(uint64_t in_bytes) const {
  const auto total = checked_add(carried_, in_bytes);
  const uint64_t units = total.value_or(UINT64_MAX) / codec_->in_bytes;
  return checked_mul(units, codec_->out_bytes).value_or(UINT64_MAX);
}

uint64_t StreamDecoder::input_for(uint64_t out_bytes) const {
  // One byte short of one more unit than fits.
  const auto end = checked_mul(out_bytes / codec_->out_bytes + 1, codec_->in_bytes);
  return end.value_or(UINT64_MAX) - 1 - carried_;
}

size_t StreamDecoder::feed(Bytes in, std::byte* out) {
  const uint32_t unit = codec_->in_bytes;
  size_t written = 0;
  if (carried_ > 0) {
    const size_t taken = std::min<size_t>(unit - carried_, in.size());
    std::copy_n(in.data(), taken, carry_ + carried_);
    carried_ += static_cast<uint32_t>(taken);
    if (carried_ < unit) return 0;
    codec_->decode(carry_, out, 1);
    in = in.subspan(taken);
    written = codec_->out_bytes;
    carried_ = 0;
  }
  const size_t units = in.size() / unit;
  codec_->decode(in.data(), out + written, units);
  written += units * codec_->out_bytes;
  in = in.subspan(units * unit);
  std::ranges::copy(in, carry_);
  carried_ = static_cast<uint32_t>(in.size());
  return written;
}

}  // namespace sluice
