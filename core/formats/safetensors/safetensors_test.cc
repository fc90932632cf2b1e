#include "core/formats/safetensors/safetensors.h"

#include "core/base/expect_error.h"
#include "core/formats/test_files.h"

namespace sluice {
namespace {

using enum ErrorCode;

Result<Prefix<Manifest>> parse_whole(std::string_view file) {
  return parse_safetensors(as_bytes(file), file.size(), "m.safetensors");
}

const std::string kHeader =
    R"({"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[2,2],"data_offsets":[24,32]},)"
    R"("a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
    R"("none":{"dtype":"I8","shape":[0],"data_offsets":[24,24]}}  )";

TEST(Safetensors, ReadsTheHeader) {
  const std::string file = safetensors_file(kHeader, 32);
  const uint64_t data = 8 + kHeader.size();
  const auto result = parse_whole(file);
  ASSERT_TRUE(result) << to_string(result.error());
  const Manifest& manifest = result->value.value();
  EXPECT_EQ(manifest.format, "safetensors");
  EXPECT_EQ(manifest.metadata_json, R"({"format":"pt"})");
  ASSERT_EQ(manifest.files.size(), 1u);
  EXPECT_EQ(manifest.files[0].path, "m.safetensors");
  EXPECT_EQ(manifest.files[0].nbytes, file.size());
  ASSERT_EQ(manifest.tensors.size(), 3u);
  EXPECT_EQ(manifest.tensors[0].name, "b");
  EXPECT_EQ(manifest.tensors[0].dtype, DType::bf16);
  EXPECT_EQ(manifest.tensors[0].shape, (std::vector<uint64_t>{2, 2}));
  EXPECT_EQ(manifest.tensors[0].offset, data + 24);
  EXPECT_EQ(manifest.tensors[0].nbytes, 8u);
  EXPECT_EQ(manifest.tensors[1].offset, data);
}

TEST(Safetensors, KnowsTheReferenceReadersDtypes) {
  const std::vector<std::pair<std::string_view, DType>> names = {
      {"BOOL", DType::boolean},
      {"U8", DType::u8},
      {"I8", DType::i8},
      {"F8_E5M2", DType::f8_e5m2},
      {"F8_E4M3", DType::f8_e4m3fn},
      {"F8_E8M0", DType::f8_e8m0fnu},
      {"F4", DType::f4_e2m1fn},
      {"I16", DType::i16},
      {"U16", DType::u16},
      {"F16", DType::f16},
      {"BF16", DType::bf16},
      {"I32", DType::i32},
      {"U32", DType::u32},
      {"F32", DType::f32},
      {"C64", DType::c64},
      {"F64", DType::f64},
      {"I64", DType::i64},
      {"U64", DType::u64},
  };
  for (const auto& [name, dtype] : names) {
    const uint64_t nbytes = *dense_bytes({8}, dtype);
    const auto result = parse_whole(safetensors_file(
        concat(R"({"x":{"dtype":")", name, R"(","shape":[8],"data_offsets":[0,)", nbytes, "]}}"),
        nbytes));
    ASSERT_TRUE(result) << to_string(result.error());
    EXPECT_EQ(result->value->tensors[0].dtype, dtype) << name;
  }
}

// Cut anywhere, the parser asks for exactly what is missing, and ends with the same result.
TEST(Safetensors, EveryPrefixAsksForMore) {
  const std::string file = safetensors_file(kHeader, 32);
  const uint64_t header_end = 8 + kHeader.size();
  for (const bool size_known : {true, false}) {
    for (size_t length = 0; length <= file.size(); ++length) {
      const auto result = parse_safetensors(
          as_bytes(std::string_view(file).substr(0, length)),
          size_known ? std::optional<uint64_t>(file.size()) : std::nullopt, "m.safetensors");
      ASSERT_TRUE(result) << length << ": " << to_string(result.error());
      if (length < header_end) {
        ASSERT_FALSE(result->value) << length;
        EXPECT_EQ(result->needs, length < 8 ? 8 : header_end);
      } else {
        ASSERT_TRUE(result->value) << length;
        EXPECT_EQ(result->value->tensors.size(), 3u);
        EXPECT_EQ(result->value->files[0].nbytes, file.size());
        EXPECT_EQ(result->value->tensors[0].offset, header_end + 24);
      }
    }
  }
}

TEST(Safetensors, EveryTruncatedFileIsAnError) {
  const std::string file = safetensors_file(kHeader, 32);
  for (size_t length = 0; length < file.size(); ++length) {
    const auto result = parse_whole(std::string_view(file).substr(0, length));
    // The first 7 bytes do not tell a header's length.
    expect_error(result, truncated, {"m.safetensors", concat(length)});
    if (!result) EXPECT_EQ(result.error().actual, length);
  }
}

TEST(Safetensors, RefusesBadHeaders) {
  struct Case {
    std::string file;
    ErrorCode code;
    std::vector<std::string_view> named;
  };
  const auto one = [](std::string_view fields, size_t data = 16) {
    return safetensors_file(concat(R"({"x":{)", fields, "}}"), data);
  };
  const std::vector<Case> cases = {
      {little_endian<uint64_t>(100'000'001), manifest_invalid, {"100000001", "100000000"}},
      {little_endian(UINT64_MAX), manifest_invalid, {"18446744073709551615"}},
      {"<!DOCTYPE html>", manifest_invalid, {"safetensors"}},
      {little_endian<uint64_t>(1000) + "{}", truncated, {"1008", "10"}},
      {safetensors_file(""), manifest_invalid, {"0 bytes", "'{'"}},
      {safetensors_file("[]"), manifest_invalid, {"'{'"}},
      {safetensors_file(" {}"), manifest_invalid, {"'{'"}},
      {safetensors_file("{"), manifest_invalid, {"JSON"}},
      {safetensors_file("{} x"), manifest_invalid, {"JSON"}},
      {safetensors_file(R"({"x":3})"), manifest_invalid, {"'x'", "the number 3"}},
      {safetensors_file(R"({"__metadata__":{"a":1}})"), manifest_invalid, {"'a'", "the number 1"}},
      {safetensors_file(R"({"__metadata__":"a"})"), manifest_invalid, {"a string"}},
      {safetensors_file(R"({"x":{"a":)" + std::string(500, '[')), manifest_invalid, {"64"}},
      {one(R"("dtype":"F33","shape":[4],"data_offsets":[0,16])"), unsupported_dtype, {"'F33'"}},
      {one(R"("dtype":"F6_E2M3","shape":[4],"data_offsets":[0,3])", 3),
       unsupported_dtype,
       {"'F6_E2M3'"}},
      {one(R"("dtype":5,"shape":[4],"data_offsets":[0,16])"), manifest_invalid, {"dtype", "5"}},
      {one(R"("shape":[4],"data_offsets":[0,16])"), manifest_invalid, {"dtype", "missing"}},
      {one(R"("dtype":"F32","data_offsets":[0,16])"), manifest_invalid, {"shape", "missing"}},
      {one(R"("dtype":"F32","shape":[4])"), manifest_invalid, {"data_offsets", "missing"}},
      {one(R"("dtype":"F32","shape":[-4],"data_offsets":[0,16])"),
       manifest_invalid,
       {"shape[0]", "-4"}},
      {one(R"("dtype":"F32","shape":[4.5],"data_offsets":[0,16])"), manifest_invalid, {"4.5"}},
      {one(R"("dtype":"F32","shape":[4],"data_offsets":[-1,16])"),
       manifest_invalid,
       {"data_offsets[0]", "-1"}},
      {one(R"("dtype":"F32","shape":[4],"data_offsets":[16,0])"), manifest_invalid, {"[16, 0]"}},
      {one(R"("dtype":"F32","shape":[4],"data_offsets":[0])"), manifest_invalid, {"[0]"}},
      {one(R"("dtype":"F32","shape":[4],"data_offsets":[0,8,16])"), manifest_invalid, {"[0, 8"}},
      {one(R"("dtype":"F32","shape":[4],"data_offsets":[0,12])"), size_mismatch, {"16", "12"}},
      {one(R"("dtype":"F4","shape":[3],"data_offsets":[0,2])", 2), manifest_invalid, {"4-bit"}},
      {one(R"("dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0])", 0),
       manifest_invalid,
       {"overflows"}},
      {one(R"("dtype":"U8","shape":[1],"data_offsets":[18446744073709551614,18446744073709551615])"),
       range_out_of_bounds,
       {"overflows"}},
      {one(R"("dtype":"F32","shape":[4],"data_offsets":[0,16])", 15), truncated, {"last tensor"}},
      {one(R"("dtype":"F32","shape":[4],"data_offsets":[0,16])", 17), size_mismatch, {"1 bytes"}},
      {one(R"("dtype":"F32","shape":[3],"data_offsets":[4,16])"),
       manifest_invalid,
       {"'x'", "byte 4", "ends at 0", "hole"}},
      {safetensors_file(R"({"x":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},)"
                        R"("y":{"dtype":"U8","shape":[8],"data_offsets":[4,12]}})",
                        12),
       manifest_invalid,
       {"'y'", "'x'", "inside"}},
      {safetensors_file(R"({"x":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},)"
                        R"("y":{"dtype":"U8","shape":[0],"data_offsets":[4,4]}})",
                        8),
       manifest_invalid,
       {"'y'", "byte 4", "overlap"}},
      {safetensors_file(R"({"x":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},)"
                        R"("x":{"dtype":"U8","shape":[8],"data_offsets":[8,16]}})",
                        16),
       manifest_invalid,
       {"'x'", "twice"}},
  };
  for (const Case& test : cases) {
    SCOPED_TRACE(std::string_view(test.file).substr(std::min<size_t>(8, test.file.size())));
    const auto result = parse_whole(test.file);
    expect_error(result, test.code, {"m.safetensors"});
    for (const std::string_view piece : test.named) expect_error(result, test.code, {piece});
    if (!result) EXPECT_EQ(result.error().file, "m.safetensors");
  }
  EXPECT_TRUE(parse_whole("<!DOCTYPE html>").error().hint.contains("web page"));
}

TEST(SafetensorsIndex, ReadsFilesInOrderOfFirstMention) {
  const auto index = parse_safetensors_index(
      R"({"metadata":{"total_size":7},"weight_map":{"z":"two.safetensors","a":"one.safetensors",)"
      R"("m":"two.safetensors"}})",
      "dir/model.safetensors.index.json");
  ASSERT_TRUE(index) << to_string(index.error());
  EXPECT_EQ(index->files, (std::vector<std::string>{"dir/two.safetensors", "dir/one.safetensors"}));
  EXPECT_EQ(index->weight_map,
            (std::vector<std::pair<std::string, uint32_t>>{{"z", 0}, {"a", 1}, {"m", 0}}));
  EXPECT_EQ(index->metadata_json, R"({"total_size":7})");
}

TEST(SafetensorsIndex, RefusesBadIndexes) {
  const std::vector<std::pair<std::string_view, std::vector<std::string_view>>> cases = {
      {"{}", {"weight_map", "missing"}},
      {R"({"weight_map":[]})", {"weight_map", "an array"}},
      {R"({"weight_map":{"x":1}})", {"'x'", "the number 1"}},
      {R"({"weight_map":{"x":"../y"}})", {"'../y'", "folder"}},
      {R"({"weight_map":{"x":"https://h/y"}})", {"https://h/y"}},
      {R"({"weight_map":{"x":"y","x":"z"}})", {"'x'", "twice"}},
      {R"({"metadata":3,"weight_map":{}})", {"metadata", "the number 3"}},
      {"nonsense", {"JSON"}},
  };
  for (const auto& [json, named] : cases) {
    const auto result = parse_safetensors_index(json, "i.json");
    expect_error(result, manifest_invalid, {"i.json"});
    for (const std::string_view piece : named) expect_error(result, manifest_invalid, {piece});
  }
}

Manifest part(std::string_view tensor, std::string_view file) {
  const std::string bytes = safetensors_file(
      concat(R"({")", tensor, R"(":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})"), 4);
  return *parse_safetensors(as_bytes(bytes), bytes.size(), file)->value;
}

TEST(SafetensorsIndex, JoinsItsFiles) {
  SafetensorsIndex index{.files = {"1.st", "2.st"},
                         .weight_map = {{"b", 1}, {"a", 0}},
                         .metadata_json = R"({"total_size":8})"};
  const auto joined = join_safetensors(index, {part("a", "1.st"), part("b", "2.st")}, "i.json");
  ASSERT_TRUE(joined) << to_string(joined.error());
  EXPECT_EQ(joined->files[1].path, "2.st");
  EXPECT_EQ(joined->tensors[1].name, "b");
  EXPECT_EQ(joined->tensors[1].file, 1u);
  EXPECT_EQ(joined->metadata_json, R"({"total_size":8})");

  index.weight_map = {{"a", 0}};
  EXPECT_EQ(
      join_safetensors(index, {part("a", "1.st"), part("b", "2.st")}, "i.json")->tensors.size(), 2u)
      << "tensors that only a file knows are kept";
}

TEST(SafetensorsIndex, RefusesFilesThatDiffer) {
  SafetensorsIndex index{.files = {"1.st", "2.st"}, .weight_map = {{"a", 0}, {"b", 1}}};
  const auto join = [&](std::vector<Manifest> parts) {
    return join_safetensors(index, std::move(parts), "i.json");
  };
  expect_error(join({part("a", "1.st"), part("c", "2.st")}), manifest_invalid,
               {"i.json", "'b'", "2.st", "does not hold"});
  expect_error(join({part("b", "1.st"), part("a", "2.st")}), manifest_invalid,
               {"i.json", "'a'", "1.st", "2.st"});
  expect_error(join({part("a", "1.st"), part("a", "2.st")}), manifest_invalid,
               {"'a'", "both 1.st and 2.st"});
  const auto none = join_safetensors({}, {}, "i.json");
  ASSERT_TRUE(none) << to_string(none.error());
  EXPECT_TRUE(none->files.empty());
}

}  // namespace
}  // namespace sluice
