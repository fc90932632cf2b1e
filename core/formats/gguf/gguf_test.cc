#include "core/formats/gguf/gguf.h"

#include "core/base/expect_error.h"
#include "core/formats/test_files.h"

namespace sluice {
namespace {

using enum ErrorCode;

enum ValueType : uint32_t {
  kUint8,
  kInt8,
  kUint16,
  kInt16,
  kUint32,
  kInt32,
  kFloat32,
  kBool,
  kString,
  kArray,
  kUint64,
  kInt64,
  kFloat64,
};

Result<Prefix<Manifest>> parse_whole(std::string_view file) {
  return parse_gguf(as_bytes(file), file.size(), "m.gguf");
}

std::string array(uint32_t type, uint64_t length, std::string_view payload) {
  return little_endian(type) + little_endian(length) + std::string(payload);
}

// One pair of each type, and two tensors.
GgufBuilder sample() {
  const auto text = GgufBuilder::text;
  GgufBuilder out;
  out.pair("general.architecture", kString, text("llama"))
      .pair("u8", kUint8, "\xff")
      .pair("i8", kInt8, "\xff")
      .pair("u16", kUint16, "\xff\xff")
      .pair("i16", kInt16, "\xff\xff")
      .pair("u32", kUint32, "\xff\xff\xff\xff")
      .pair("i32", kInt32, "\xff\xff\xff\xff")
      .pair("u64", kUint64, little_endian(UINT64_MAX))
      .pair("i64", kInt64, little_endian(INT64_MIN))
      .pair("f32", kFloat32, little_endian(0.5f))
      .pair("f64", kFloat64, little_endian(0.1))
      .pair("yes", kBool, "\x01")
      .pair("words", kArray, array(kString, 3, text("a") + text("") + text("ccc")))
      .pair("nested", kArray,
            array(kArray, 2, array(kUint16, 2, "abcd") + array(kString, 1, text("x"))))
      .tensor("a", {64, 3}, 3, 0)
      .tensor("b", {5}, 0, 128);
  return out;
}

TEST(Gguf, ReadsMetadataAndTensors) {
  const GgufBuilder builder = sample();
  const std::string file = builder.file(148);
  const auto result = parse_whole(file);
  ASSERT_TRUE(result) << to_string(result.error());
  const Manifest& manifest = result->value.value();
  EXPECT_EQ(manifest.format, "gguf");
  EXPECT_EQ(manifest.metadata_json,
            R"({"general.architecture":"llama","u8":255,"i8":-1,"u16":65535,"i16":-1,)"
            R"("u32":4294967295,"i32":-1,"u64":18446744073709551615,"i64":-9223372036854775808,)"
            R"("f32":0.5,"f64":0.1,"yes":true,"words":{"type":"string","length":3},)"
            R"("nested":{"type":"array","length":2}})");
  ASSERT_EQ(manifest.files.size(), 1u);
  EXPECT_EQ(manifest.files[0].path, "m.gguf");
  EXPECT_EQ(manifest.files[0].nbytes, file.size());
  ASSERT_EQ(manifest.tensors.size(), 2u);
  EXPECT_EQ(manifest.tensors[0].name, "a");
  EXPECT_EQ(manifest.tensors[0].shape, (std::vector<uint64_t>{3, 64})) << "innermost last";
  EXPECT_EQ(manifest.tensors[0].dtype, DType::q4_1);
  EXPECT_EQ(manifest.tensors[0].offset, builder.data_start());
  EXPECT_EQ(manifest.tensors[0].nbytes, 120u);
  EXPECT_EQ(manifest.tensors[1].offset, builder.data_start() + 128);
  EXPECT_EQ(manifest.tensors[1].nbytes, 20u);
}

TEST(Gguf, ReadsVersion2AndEmptyFiles) {
  GgufBuilder builder = sample();
  builder.version = 2;
  EXPECT_TRUE(parse_whole(builder.file(148)));
  const GgufBuilder empty;
  const auto result = parse_whole(empty.header());
  ASSERT_TRUE(result) << to_string(result.error());
  EXPECT_EQ(result->value->tensors.size(), 0u);
  EXPECT_EQ(result->value->metadata_json, "{}");
}

// Cut anywhere, the parser asks for more than it has and not for more than the file.
TEST(Gguf, EveryPrefixAsksForMore) {
  const GgufBuilder builder = sample();
  const std::string file = builder.file(148);
  const uint64_t header = builder.header().size();
  for (const bool size_known : {true, false}) {
    const auto nbytes = size_known ? std::optional<uint64_t>(file.size()) : std::nullopt;
    for (size_t length = 0; length <= file.size(); ++length) {
      const auto result =
          parse_gguf(as_bytes(std::string_view(file).substr(0, length)), nbytes, "m.gguf");
      ASSERT_TRUE(result) << length << ": " << to_string(result.error());
      if (length < header) {
        ASSERT_FALSE(result->value) << length;
        EXPECT_GT(result->needs, length);
        EXPECT_GE(result->needs,
                  std::min<uint64_t>(2 * length, size_known ? file.size() : SIZE_MAX))
            << "grows by half of what is asked, so that parsing again costs a constant factor";
        if (size_known) EXPECT_LE(result->needs, file.size());
      } else {
        ASSERT_TRUE(result->value) << length;
        EXPECT_EQ(result->value->tensors.size(), 2u);
        EXPECT_EQ(result->value->tensors[1].offset, builder.data_start() + 128);
        EXPECT_EQ(result->value->files[0].nbytes, nbytes);
      }
    }
  }
}

TEST(Gguf, EveryTruncatedFileIsAnError) {
  const std::string file = sample().file(148);
  for (size_t length = 0; length < file.size(); ++length) {
    const auto result = parse_whole(std::string_view(file).substr(0, length));
    ASSERT_FALSE(result) << length;
    // Counts that cannot fit show before the end is reached.
    if (length < 24 || result.error().code != manifest_invalid)
      expect_error(result, truncated, {"m.gguf", concat(length, " bytes")});
    else
      expect_error(result, manifest_invalid, {"m.gguf", "cannot fit", concat(length, " bytes")});
  }
}

TEST(Gguf, KnowsEveryType) {
  const std::vector<std::pair<uint32_t, DType>> types = {
      {0, DType::f32},      {1, DType::f16},     {2, DType::q4_0},     {3, DType::q4_1},
      {6, DType::q5_0},     {7, DType::q5_1},    {8, DType::q8_0},     {9, DType::q8_1},
      {10, DType::q2_k},    {11, DType::q3_k},   {12, DType::q4_k},    {13, DType::q5_k},
      {14, DType::q6_k},    {15, DType::q8_k},   {16, DType::iq2_xxs}, {17, DType::iq2_xs},
      {18, DType::iq3_xxs}, {19, DType::iq1_s},  {20, DType::iq4_nl},  {21, DType::iq3_s},
      {22, DType::iq2_s},   {23, DType::iq4_xs}, {24, DType::i8},      {25, DType::i16},
      {26, DType::i32},     {27, DType::i64},    {28, DType::f64},     {29, DType::iq1_m},
      {30, DType::bf16},    {34, DType::tq1_0},  {35, DType::tq2_0},   {39, DType::mxfp4},
      {40, DType::nvfp4},   {41, DType::q1_0},   {42, DType::q2_0},
  };
  for (const auto& [type, dtype] : types) {
    GgufBuilder builder;
    builder.tensor("x", {256, 2}, type, 0);
    const auto result = parse_whole(builder.file(*dense_bytes({512}, dtype)));
    ASSERT_TRUE(result) << type << ": " << to_string(result.error());
    EXPECT_EQ(result->value->tensors[0].dtype, dtype) << type;
  }
  for (const uint32_t type : {4u, 5u, 31u, 32u, 33u, 36u, 37u, 38u, 43u, 1000u, UINT32_MAX}) {
    GgufBuilder builder;
    builder.tensor("x", {256}, type, 0);
    expect_error(parse_whole(builder.file(1024)), unsupported_dtype,
                 {"'x'", "m.gguf", concat("ggml type ", type)});
  }
}

TEST(Gguf, HonoursTheAlignment) {
  for (const uint32_t alignment : {8u, 24u, 64u, 4096u, 1u}) {
    GgufBuilder builder;
    builder.alignment = alignment;
    builder.pair("general.alignment", kUint32, little_endian(alignment))
        .tensor("x", {alignment}, 24, 0)
        .tensor("y", {1}, 24, alignment);
    const auto result = parse_whole(builder.file(alignment + 1));
    ASSERT_TRUE(result) << to_string(result.error());
    EXPECT_EQ(result->value->tensors[1].offset, builder.data_start() + alignment);
  }
}

TEST(Gguf, RefusesBadHeaders) {
  struct Case {
    std::string file;
    ErrorCode code;
    std::vector<std::string> named;
  };
  const auto pair = [](std::string_view key, uint32_t type, std::string_view payload) {
    return GgufBuilder().pair(key, type, payload).file(64);
  };
  const auto tensor = [](const std::vector<uint64_t>& dims, uint32_t type, uint64_t offset,
                         size_t data = 1024) {
    return GgufBuilder().tensor("x", dims, type, offset).file(data);
  };
  const auto version = [](uint32_t number) {
    GgufBuilder out = sample();
    out.version = number;
    return out.file(148);
  };
  const auto counts = [](uint64_t tensors, uint64_t pairs) {
    GgufBuilder out = sample();
    out.extra_tensors = tensors;
    out.extra_pairs = pairs;
    return out.file(148);
  };
  std::string deep = array(kUint8, 1, "x");
  for (int i = 0; i < 8; ++i) deep = array(kArray, 1, deep);
  const uint64_t big = 1ull << 40;

  const std::vector<Case> cases = {
      {"GGML" + std::string(60, '\0'), manifest_invalid, {"GGUF"}},
      {"<!DOCTYPE html>", manifest_invalid, {"GGUF"}},
      {version(0), manifest_invalid, {"version 0"}},
      {version(1), manifest_invalid, {"version 1"}},
      {version(4), manifest_invalid, {"version 4"}},
      {version(0x03000000), manifest_invalid, {"big-endian", "version 3"}},
      {version(0x02000000), manifest_invalid, {"big-endian", "version 2"}},
      // counts
      {counts(1'000'000, 0), manifest_invalid, {"1000002 tensors", "cannot fit"}},
      {counts(0, 1'000'000), manifest_invalid, {"1000014 metadata pairs", "cannot fit"}},
      {counts(UINT64_MAX - 2, 0), manifest_invalid, {"18446744073709551615", "cannot fit"}},
      {counts(1ull << 60, 1ull << 60), manifest_invalid, {"cannot fit"}},
      // metadata
      {little_endian('G') + "GUF" + little_endian(3u) + little_endian<uint64_t>(0) +
           little_endian<uint64_t>(1) + little_endian<uint64_t>(65536) + std::string(70000, 'k'),
       manifest_invalid,
       {"65536", "65535"}},
      {pair("k", 13, ""), manifest_invalid, {"'k'", "type 13"}},
      {pair("k", kBool, "\x02"), manifest_invalid, {"'k'", "2"}},
      {pair("k", kString, little_endian(UINT64_MAX)), truncated, {"18446744073709551615"}},
      {pair("k", kString, little_endian(big)), truncated, {"1099511627"}},
      {pair("k", kArray, array(13, 1, "")), manifest_invalid, {"'k'", "type 13"}},
      {pair("k", kArray, array(kUint8, big, "")), manifest_invalid, {"'k'", concat(big)}},
      {pair("k", kArray, array(kUint64, UINT64_MAX, "")), manifest_invalid, {"'k'", "uint64"}},
      {pair("k", kArray, array(kString, UINT64_MAX / 8, "")), manifest_invalid, {"'k'", "string"}},
      {pair("k", kArray, array(kString, 1'000'000, "")), truncated, {"8000"}},
      {pair("k", kArray, array(kArray, big, "")), manifest_invalid, {"'k'", "array"}},
      {pair("k", kArray, deep), manifest_invalid, {"'k'", "deeper than 8"}},
      {GgufBuilder().pair("k", kBool, "\x01").pair("k", kBool, "\x01").file(64),
       manifest_invalid,
       {"'k'", "twice"}},
      {pair("general.alignment", kUint32, little_endian(0u)), manifest_invalid, {"is 0"}},
      {pair("general.alignment", kUint32, little_endian(12u)), manifest_invalid, {"is 12"}},
      {pair("general.alignment", kUint64, little_endian<uint64_t>(32)),
       manifest_invalid,
       {"general.alignment", "uint32"}},
      // tensors
      {tensor({1, 1, 1, 1, 1}, 0, 0), manifest_invalid, {"'x'", "5 dimensions", "4"}},
      {tensor({big, big}, 0, 0), manifest_invalid, {"'x'", concat(big), "overflows"}},
      {tensor({1ull << 62}, 0, 0), manifest_invalid, {"'x'", "overflows"}},
      {tensor({UINT64_MAX, UINT64_MAX, UINT64_MAX, 2}, 24, 0), manifest_invalid, {"overflows"}},
      {tensor({33}, 3, 0), manifest_invalid, {"'x'", "[33]", "q4_1", "32"}},
      {tensor({8, 32}, 3, 0), manifest_invalid, {"'x'", "[32, 8]", "32"}},
      {tensor({128}, 14, 0), manifest_invalid, {"'x'", "q6_k", "256"}},
      {tensor({}, 3, 0), manifest_invalid, {"'x'", "[]"}},
      {tensor({8}, 0, 16), manifest_invalid, {"'x'", "offset 16", "32"}},
      {tensor({8}, 0, 1024), range_out_of_bounds, {"'x'", "32 bytes", "ends at"}},
      {tensor({8}, 0, 0 - 32ull), range_out_of_bounds, {"'x'", "overflows"}},
      {tensor({1ull << 61}, 0, 0), truncated, {"'x'", "9223372036854775872"}},
      {tensor({257}, 0, 0), truncated, {"'x'", "ends at byte"}},
      {GgufBuilder().tensor("x", {16}, 0, 0).tensor("y", {16}, 0, 32).file(128),
       manifest_invalid,
       {"'y'", "'x'", "inside"}},
      {GgufBuilder().tensor("x", {16}, 0, 0).tensor("x", {16}, 0, 64).file(128),
       manifest_invalid,
       {"'x'", "twice"}},
  };
  for (size_t i = 0; i < cases.size(); ++i) {
    SCOPED_TRACE(i);
    const auto result = parse_whole(cases[i].file);
    expect_error(result, cases[i].code, {"m.gguf"});
    for (const std::string& piece : cases[i].named) expect_error(result, cases[i].code, {piece});
    if (!result) EXPECT_EQ(result.error().file, "m.gguf");
  }
}

TEST(Gguf, HeadersAreBoundedWhereTheSizeIsUnknown) {
  const auto unknown = [](std::string_view file) {
    return parse_gguf(as_bytes(file), std::nullopt, "m.gguf");
  };
  GgufBuilder many;
  many.extra_tensors = 1ull << 40;
  expect_error(unknown(many.header()), manifest_invalid, {"m.gguf", concat(1ull << 40), "tensors"});
  const std::string text = GgufBuilder().pair("k", kString, little_endian(kGgufMaxHeader)).header();
  expect_error(unknown(text), manifest_invalid, {"m.gguf", concat(kGgufMaxHeader)});
}

TEST(Gguf, AsksAtOnceForWhatCountsPromise) {
  GgufBuilder builder;
  builder.extra_tensors = 10'000;
  const auto result = parse_gguf(as_bytes(builder.header()), std::nullopt, "m.gguf");
  ASSERT_TRUE(result) << to_string(result.error());
  EXPECT_GE(result->needs, 240'000u);
}

}  // namespace
}  // namespace sluice
