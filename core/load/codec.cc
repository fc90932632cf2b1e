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

constexpr auto kScalar = variants_of<codecs::Scalar>("scalar");

// kFast: what this build has beyond the scalar codecs; machine_is_fast(): whether it runs here.
#if defined(__x86_64__)
constexpr auto kFast = variants_of<codecs::Avx2>("avx2");
bool machine_is_fast() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c");
}
#elif defined(__wasm_simd128__)
constexpr auto kFast = variants_of<codecs::Simd128>("simd128");
constexpr bool machine_is_fast() { return true; }
#else
constexpr std::array<CodecVariant, 0> kFast;
constexpr bool machine_is_fast() { return false; }
#endif

constexpr auto kEvery = [] {
  std::array<CodecVariant, kFast.size() + kScalar.size()> every{};
  std::ranges::copy(kScalar, std::ranges::copy(kFast, every.begin()).out);
  return every;
}();

static_assert(std::ranges::all_of(kEvery, [](const CodecVariant& variant) {
  return variant.codec.in_bytes <= kCodecMaxUnit;
}));

}  // namespace

const Codec* find_codec(DType from, DType to) {
  // Two tables, so that a build that is always fast carries no scalar codec.
  const std::span<const CodecVariant> usable =
      machine_is_fast() ? std::span<const CodecVariant>(kFast) : kScalar;
  for (const CodecVariant& variant : usable)
    if (variant.codec.from == from && variant.codec.to == to) return &variant.codec;
  return nullptr;
}

std::span<const CodecVariant> codec_variants() {
  return std::span<const CodecVariant>(kEvery).subspan(machine_is_fast() ? 0 : kFast.size());
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
