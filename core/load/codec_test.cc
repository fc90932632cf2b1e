#include "core/load/codec.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <random>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "core/load/codec_reference.h"

namespace sluice {
namespace {

using Pair = std::pair<DType, DType>;

std::vector<Pair> wanted_pairs() {
  using enum DType;
  std::vector<Pair> pairs = {{bf16, f32}, {bf16, f16}, {f16, f32},
                             {f16, bf16}, {f32, f16},  {f32, bf16}};
  for (const DType from : {q4_0, q4_1, q5_0, q5_1, q8_0, q4_k, q5_k, q6_k})
    for (const DType to : {f32, f16, bf16}) pairs.emplace_back(from, to);
  return pairs;
}

std::string title(const CodecVariant& variant) {
  return concat(variant.implementation, "_", dtype_name(variant.codec.from), "_to_",
                dtype_name(variant.codec.to));
}

std::string hex(Bytes bytes) {
  std::string text;
  for (const std::byte byte : bytes) {
    text += "0123456789abcdef"[static_cast<unsigned>(byte) / 16];
    text += "0123456789abcdef"[static_cast<unsigned>(byte) % 16];
  }
  return text;
}

template <class To, class From>
To convert(DType from, DType to, From value) {
  To result{};
  const Codec* codec = find_codec(from, to);
  EXPECT_NE(codec, nullptr);
  codec->decode(reinterpret_cast<const std::byte*>(&value), reinterpret_cast<std::byte*>(&result),
                1);
  return result;
}

TEST(Codec, ThereIsOneForEachWantedPairAndForNoOther) {
  const std::vector<Pair> wanted = wanted_pairs();
  const std::set<Pair> set(wanted.begin(), wanted.end());
  for (uint32_t from = 0; from < kDTypeCount; ++from)
    for (uint32_t to = 0; to < kDTypeCount; ++to) {
      const Pair pair{static_cast<DType>(from), static_cast<DType>(to)};
      const Codec* codec = find_codec(pair.first, pair.second);
      ASSERT_EQ(codec != nullptr, set.contains(pair))
          << dtype_name(pair.first) << " to " << dtype_name(pair.second);
      if (codec == nullptr) continue;
      EXPECT_EQ(codec->from, pair.first);
      EXPECT_EQ(codec->to, pair.second);
    }
}

TEST(Codec, UnitsAreTheBlocksOfTheTypes) {
  for (const CodecVariant& variant : codec_variants()) {
    const DTypeInfo& from = dtype_info(variant.codec.from);
    EXPECT_EQ(variant.codec.in_bytes, from.block_bytes) << title(variant);
    EXPECT_EQ(variant.codec.out_bytes,
              from.block_elements * dtype_info(variant.codec.to).block_bytes)
        << title(variant);
    EXPECT_LE(variant.codec.in_bytes, kCodecMaxUnit);
    EXPECT_TRUE(variant.codec.out_bytes % 4 == 0 || 4 % variant.codec.out_bytes == 0);
  }
}

TEST(Codec, EveryImplementationHasEveryPair) {
  std::map<std::string_view, std::set<Pair>> pairs;
  for (const CodecVariant& variant : codec_variants())
    pairs[variant.implementation].emplace(variant.codec.from, variant.codec.to);
  ASSERT_TRUE(pairs.contains("scalar"));
  for (const auto& [implementation, has] : pairs)
    EXPECT_EQ(has.size(), wanted_pairs().size()) << implementation;
}

// What instructions this machine has is asked of the kernel here, not of the code under test.
TEST(Codec, FindCodecTakesTheFastestImplementation) {
  std::string expected = "scalar";
#if defined(__x86_64__) && defined(__linux__)
  std::ifstream cpuinfo("/proc/cpuinfo");
  std::set<std::string> flags;
  for (std::string line; std::getline(cpuinfo, line);) {
    if (!line.starts_with("flags")) continue;
    std::istringstream words(line);
    for (std::string word; words >> word;) flags.insert(word);
  }
  ASSERT_TRUE(flags.contains("sse2")) << "/proc/cpuinfo tells no flags";
  if (flags.contains("avx2") && flags.contains("f16c") && flags.contains("fma")) expected = "avx2";
  if (expected == "avx2" && flags.contains("avx512f") && flags.contains("avx512bw") &&
      flags.contains("avx512dq") && flags.contains("avx512vl"))
    expected = "avx512";
#endif
  for (const auto& [from, to] : wanted_pairs()) {
    const CodecVariant* first = nullptr;
    for (const CodecVariant& variant : codec_variants())
      if (first == nullptr && variant.codec.from == from && variant.codec.to == to)
        first = &variant;
    ASSERT_NE(first, nullptr);
    EXPECT_EQ(first->implementation, expected) << title(*first);
    EXPECT_EQ(find_codec(from, to)->decode, first->codec.decode) << title(*first);
  }
}

class EveryVariant : public testing::TestWithParam<CodecVariant> {};

TEST_P(EveryVariant, EqualsTheReference) { EXPECT_EQ(reference::check(GetParam()), ""); }

INSTANTIATE_TEST_SUITE_P(Codec, EveryVariant,
                         testing::ValuesIn(codec_variants().begin(), codec_variants().end()),
                         [](const auto& info) { return title(info.param); });

// Values a person can check by hand; the reference could be wrong in the same way as the codec.
TEST(Codec, KnownValuesOfPlainTypes) {
  using enum DType;
  const auto to_f16 = [](float value) { return convert<uint16_t>(f32, f16, value); };
  EXPECT_EQ(to_f16(1.0f), 0x3c00);
  EXPECT_EQ(to_f16(-2.0f), 0xc000);
  EXPECT_EQ(to_f16(-0.0f), 0x8000);
  EXPECT_EQ(to_f16(65504.0f), 0x7bff);
  EXPECT_EQ(to_f16(65519.0f), 0x7bff);
  EXPECT_EQ(to_f16(65520.0f), 0x7c00);  // a tie, to even
  EXPECT_EQ(to_f16(1e30f), 0x7c00);
  EXPECT_EQ(to_f16(2049.0f), 0x6800);  // ties to even: down,
  EXPECT_EQ(to_f16(2051.0f), 0x6802);  // and up
  EXPECT_EQ(to_f16(0x1p-24f), 0x0001);
  EXPECT_EQ(to_f16(0x1p-25f), 0x0000);  // a tie, to even
  EXPECT_EQ(to_f16(0x1.8p-24f), 0x0002);
  EXPECT_EQ((convert<float>(f16, f32, uint16_t{0x3555})), 0x1.554p-2f);
  EXPECT_EQ((convert<float>(f16, f32, uint16_t{0x0001})), 0x1p-24f);
  EXPECT_EQ((convert<float>(bf16, f32, uint16_t{0x4049})), 3.140625f);
  EXPECT_EQ((convert<uint16_t>(bf16, f16, uint16_t{0x4049})), 0x4248);
  EXPECT_EQ((convert<uint16_t>(f16, bf16, uint16_t{0x4248})), 0x4049);
  EXPECT_EQ((convert<uint16_t>(f32, bf16, 0x1.01p0f)), 0x3f80);  // a tie, to even
  EXPECT_EQ((convert<uint16_t>(f32, bf16, 0x1.03p0f)), 0x3f82);
  EXPECT_EQ((convert<uint16_t>(f32, bf16, 0x1.fffffep127f)), 0x7f80);
}

TEST(Codec, NansStayNansAndBecomeQuiet) {
  using enum DType;
  EXPECT_EQ((convert<uint16_t>(f32, f16, uint32_t{0x7f800001})), 0x7e00);
  EXPECT_EQ((convert<uint16_t>(f32, f16, uint32_t{0xffbfffff})), 0xffff);
  EXPECT_EQ((convert<uint16_t>(f32, bf16, uint32_t{0x7f800001})), 0x7fc0);
  EXPECT_EQ((convert<uint16_t>(f32, bf16, uint32_t{0xffffffff})), 0xffff);
  EXPECT_EQ((convert<uint32_t>(f16, f32, uint16_t{0x7c01})), 0x7fc02000);
  EXPECT_EQ((convert<uint32_t>(bf16, f32, uint16_t{0xff81})), 0xff810000);
  EXPECT_EQ((convert<uint16_t>(bf16, f16, uint16_t{0x7f81})), 0x7e08);
  EXPECT_EQ((convert<uint16_t>(f16, bf16, uint16_t{0x7c01})), 0x7fc0);
}

TEST(Codec, KnownValuesOfBlocks) {
  // q8_0: scale 0.5 (0x3800), then the quants -3, 7, 0, …
  std::vector<std::byte> block(34);
  block[1] = std::byte{0x38};
  block[2] = std::byte{0xfd};
  block[3] = std::byte{7};
  float out[32];
  find_codec(DType::q8_0, DType::f32)->decode(block.data(), reinterpret_cast<std::byte*>(out), 1);
  EXPECT_EQ(out[0], -1.5f);
  EXPECT_EQ(out[1], 3.5f);
  EXPECT_EQ(out[2], 0.0f);

  // q4_1: scale 2 (0x4000), min -1 (0xbc00), and a byte whose halves are 5 (low) and 15.
  block.assign(20, std::byte{0});
  block[1] = std::byte{0x40};
  block[3] = std::byte{0xbc};
  block[4] = std::byte{0xf5};
  find_codec(DType::q4_1, DType::f32)->decode(block.data(), reinterpret_cast<std::byte*>(out), 1);
  EXPECT_EQ(out[0], 9.0f);
  EXPECT_EQ(out[1], -1.0f);
  EXPECT_EQ(out[16], 29.0f);
}

// 0 * infinity: the sign of the machine's NaN must not show.
TEST(Codec, NansOutOfBlocksAreOnePattern) {
  std::vector<std::byte> block(34);
  block[1] = std::byte{0x7c};
  block[3] = std::byte{0xff};
  for (const CodecVariant& variant : codec_variants()) {
    if (variant.codec.from != DType::q8_0) continue;
    std::vector<std::byte> out(variant.codec.out_bytes);
    variant.codec.decode(block.data(), out.data(), 1);
    const size_t size = out.size() / 32;
    const std::string nan = variant.codec.to == DType::f32   ? "0000c07f"
                            : variant.codec.to == DType::f16 ? "007e"
                                                             : "c07f";
    const std::string infinity = variant.codec.to == DType::f32   ? "000080ff"
                                 : variant.codec.to == DType::f16 ? "00fc"
                                                                  : "80ff";
    EXPECT_EQ(hex(Bytes(out).first(size)), nan) << title(variant);
    EXPECT_EQ(hex(Bytes(out).subspan(size, size)), infinity) << title(variant);
  }
}

std::vector<std::byte> random_bytes(size_t size, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<std::byte> bytes(size);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

// Feeds `in` cut at `cuts` into buffers of exactly the promised size.
std::vector<std::byte> stream(const Codec& codec, Bytes in, const std::vector<size_t>& cuts) {
  StreamDecoder decoder(&codec);
  std::vector<std::byte> all;
  size_t at = 0;
  for (size_t i = 0; i <= cuts.size(); ++i) {
    const size_t end = i < cuts.size() ? cuts[i] : in.size();
    std::vector<std::byte> out(decoder.output_bytes(end - at));
    EXPECT_EQ(decoder.feed(in.subspan(at, end - at), out.data()), out.size());
    EXPECT_EQ(decoder.carried(), end % codec.in_bytes);
    all.insert(all.end(), out.begin(), out.end());
    at = end;
  }
  return all;
}

TEST(StreamDecoder, EverySplitPointGivesTheOneShotResult) {
  for (const CodecVariant& variant : codec_variants()) {
    const Codec& codec = variant.codec;
    const size_t units = codec.in_bytes <= 4 ? 40 : 3;
    const auto in = random_bytes(units * codec.in_bytes, 1);
    const auto expected = reference::decode(codec.from, codec.to, in);
    for (size_t cut = 0; cut <= in.size(); ++cut)
      ASSERT_EQ(stream(codec, in, {cut}), expected) << title(variant) << " cut at " << cut;
  }
}

TEST(StreamDecoder, EveryPieceLengthGivesTheOneShotResult) {
  for (const auto& [from, to] : wanted_pairs()) {
    const Codec& codec = *find_codec(from, to);
    const auto in = random_bytes((codec.in_bytes <= 4 ? 40 : 3) * codec.in_bytes, 2);
    const auto expected = reference::decode(from, to, in);
    for (size_t piece = 1; piece <= 2 * codec.in_bytes + 1; ++piece) {
      std::vector<size_t> cuts;
      for (size_t at = piece; at < in.size(); at += piece) cuts.push_back(at);
      ASSERT_EQ(stream(codec, in, cuts), expected) << dtype_name(from) << " by " << piece;
    }
  }
}

TEST(StreamDecoder, RandomSplitsOfALargeInputGiveTheOneShotResult) {
  std::mt19937 random(3);
  for (const CodecVariant& variant : codec_variants()) {
    const Codec& codec = variant.codec;
    const auto in = random_bytes(100'000 / codec.in_bytes * codec.in_bytes, 4);
    const auto expected = reference::decode(codec.from, codec.to, in);
    for (unsigned round = 0; round < 4; ++round) {
      std::vector<size_t> cuts;
      for (unsigned i = 0; i < 50; ++i) cuts.push_back(random() % in.size());
      std::ranges::sort(cuts);  // equal neighbours feed nothing
      ASSERT_EQ(stream(codec, in, cuts), expected) << title(variant);
    }
  }
}

TEST(StreamDecoder, InputForIsTheMostThatFits) {
  for (const auto& [from, to] : wanted_pairs()) {
    const Codec& codec = *find_codec(from, to);
    StreamDecoder decoder(&codec);
    const std::vector<std::byte> one(1);
    for (uint32_t carried = 0; carried < codec.in_bytes; ++carried) {
      ASSERT_EQ(decoder.carried(), carried);
      for (uint64_t room = 0; room <= 3 * codec.out_bytes + 1; ++room) {
        const uint64_t most = decoder.input_for(room);
        ASSERT_LE(decoder.output_bytes(most), room) << dtype_name(from) << ", room " << room;
        ASSERT_GT(decoder.output_bytes(most + 1), room) << dtype_name(from) << ", room " << room;
      }
      if (carried + 1 < codec.in_bytes) {
        ASSERT_EQ(decoder.feed(one, nullptr), 0u);
      }
    }
  }
}

TEST(StreamDecoder, CountsThatOverflowSaturate) {
  StreamDecoder widening(find_codec(DType::q4_k, DType::f32));
  EXPECT_EQ(widening.output_bytes(UINT64_MAX), UINT64_MAX);
  EXPECT_EQ(widening.output_bytes(uint64_t{1} << 61), (uint64_t{1} << 61) / 144 * 1024);
  StreamDecoder narrowing(find_codec(DType::f32, DType::f16));
  EXPECT_EQ(narrowing.output_bytes(UINT64_MAX), UINT64_MAX / 4 * 2);
  EXPECT_EQ(narrowing.input_for(UINT64_MAX), UINT64_MAX - 1);
  const std::byte three[3] = {};
  EXPECT_EQ(narrowing.feed(three, nullptr), 0u);
  EXPECT_EQ(narrowing.output_bytes(UINT64_MAX), UINT64_MAX / 4 * 2);
  EXPECT_EQ(narrowing.input_for(0), 0u);  // the next byte would complete a unit
}

}  // namespace
}  // namespace sluice
