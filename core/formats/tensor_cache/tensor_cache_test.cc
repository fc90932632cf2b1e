#include "core/formats/tensor_cache/tensor_cache.h"

#include "core/base/expect_error.h"

namespace sluice {
namespace {

using enum ErrorCode;

// A manifest of one shard of 100 bytes with these records.
std::string with_records(std::string_view records) {
  return concat(
      R"({"metadata":{"ParamSize":1},"records":[{"dataPath":"s0.bin","format":"raw-shard",)",
      R"("nbytes":100,"records":[)", records, "]}]}");
}

// One record "x"; `fields` stand for its other fields.
std::string with_record(std::string_view fields) {
  return with_records(concat(R"({"name":"x",)", fields, "}"));
}

std::string with_shard(std::string_view fields) {
  return concat(R"({"records":[{)", fields, "}]}");
}

TEST(TensorCache, ReadsEveryField) {
  const auto manifest = parse_tensor_cache(
      R"({"metadata":{"ParamSize":2,"BitsPerParam":4.5},"records":[
        {"dataPath":"params_shard_0.bin","format":"raw-shard","nbytes":36,
         "md5sum":"D41D8CD98F00B204E9800998ECF8427E","records":[
           {"name":"a","shape":[2,3],"dtype":"float32","format":"f32-to-bf16","nbytes":12,"byteOffset":0},
           {"name":"b","shape":[6],"dtype":"float32","format":"f32-to-bf16","nbytes":24,"byteOffset":12}]},
        {"dataPath":"sub/1.bin","format":"raw-shard","nbytes":8,"records":[
           {"name":"c","shape":[2,1],"dtype":"uint32","format":"f32-to-bf16","nbytes":8,"byteOffset":0}]}]})",
      "models/m/tensor-cache.json");
  ASSERT_TRUE(manifest) << to_string(manifest.error());
  EXPECT_EQ(manifest->format, "tensor-cache");
  EXPECT_EQ(manifest->metadata_json, R"({"ParamSize":2,"BitsPerParam":4.5})");
  ASSERT_EQ(manifest->files.size(), 2u);
  EXPECT_EQ(manifest->files[0].path, "models/m/params_shard_0.bin");
  EXPECT_EQ(manifest->files[0].nbytes, 36u);
  EXPECT_EQ(manifest->files[0].md5, "d41d8cd98f00b204e9800998ecf8427e");
  EXPECT_EQ(manifest->files[1].path, "models/m/sub/1.bin");
  EXPECT_EQ(manifest->files[1].md5, "");
  ASSERT_EQ(manifest->tensors.size(), 3u);
  const TensorEntry& a = manifest->tensors[0];
  EXPECT_EQ(a.name, "a");
  EXPECT_EQ(a.shape, (std::vector<uint64_t>{2, 3}));
  EXPECT_EQ(a.dtype, DType::f32);
  EXPECT_EQ(a.encoding, Encoding::f32_to_bf16);
  const TensorEntry& b = manifest->tensors[1];
  EXPECT_EQ(b.encoding, Encoding::raw) << "f32-to-bf16 of 4n bytes is native float32";
  EXPECT_EQ(b.offset, 12u);
  EXPECT_EQ(b.nbytes, 24u);
  const TensorEntry& c = manifest->tensors[2];
  EXPECT_EQ(c.encoding, Encoding::raw) << "f32-to-bf16 means nothing for uint32";
  EXPECT_EQ(c.file, 1u);
}

TEST(TensorCache, MetadataAndRecordFormatAreOptional) {
  const auto manifest = parse_tensor_cache(
      R"({"records":[{"dataPath":"s","format":"raw-shard","nbytes":4,"records":[
        {"name":"x","shape":[],"dtype":"float32","nbytes":4,"byteOffset":0}]}]})",
      "tensor-cache.json");
  ASSERT_TRUE(manifest) << to_string(manifest.error());
  EXPECT_EQ(manifest->metadata_json, "{}");
  EXPECT_EQ(manifest->tensors[0].encoding, Encoding::raw);
}

TEST(TensorCache, KnowsTvmsDtypeNames) {
  const std::vector<std::pair<std::string_view, DType>> names = {
      {"float64", DType::f64},
      {"float32", DType::f32},
      {"float16", DType::f16},
      {"bfloat16", DType::bf16},
      {"uint32", DType::u32},
      {"int64", DType::i64},
      {"int8", DType::i8},
      {"bool", DType::boolean},
      {"int4", DType::i4},
      {"uint4", DType::u4},
      {"e4m3_float8", DType::f8_e4m3fn},
      {"float8_e4m3fn", DType::f8_e4m3fn},
      {"e5m2_float8", DType::f8_e5m2},
      {"float8_e5m2", DType::f8_e5m2},
      {"float4_e2m1fn", DType::f4_e2m1fn},
  };
  for (const auto& [name, dtype] : names) {
    const auto manifest = parse_tensor_cache(
        with_record(concat(R"("shape":[8],"dtype":")", name, R"(","format":"raw","nbytes":)",
                           *dense_bytes({8}, dtype), R"(,"byteOffset":0)")),
        "m.json");
    ASSERT_TRUE(manifest) << to_string(manifest.error());
    EXPECT_EQ(manifest->tensors[0].dtype, dtype) << name;
  }
}

TEST(TensorCache, RefusesBadRecords) {
  struct Case {
    std::string_view fields;
    ErrorCode code;
    std::vector<std::string_view> named;
  };
  const std::vector<Case> cases = {
      // sizes
      {R"("shape":[2,3],"dtype":"float32","format":"raw","nbytes":20,"byteOffset":0)",
       size_mismatch,
       {"24", "20"}},
      {R"("shape":[2,3],"dtype":"float32","format":"raw","nbytes":12,"byteOffset":0)",
       size_mismatch,
       {"24", "12"}},
      {R"("shape":[2,3],"dtype":"float32","format":"f32-to-bf16","nbytes":13,"byteOffset":0)",
       size_mismatch,
       {"13", "12", "24"}},
      {R"("shape":[2,3],"dtype":"float16","format":"f32-to-bf16","nbytes":6,"byteOffset":0)",
       size_mismatch,
       {"12", "6"}},
      {R"("shape":[25],"dtype":"float32","format":"raw","nbytes":100,"byteOffset":4)",
       range_out_of_bounds,
       {"s0.bin", "100", "offset 4"}},
      {R"("shape":[1],"dtype":"uint8","format":"raw","nbytes":1,"byteOffset":18446744073709551615)",
       range_out_of_bounds,
       {"s0.bin", "18446744073709551615", "overflows"}},
      {R"("shape":[4294967296,4294967296],"dtype":"uint8","format":"raw","nbytes":0,"byteOffset":0)",
       manifest_invalid,
       {"4294967296", "overflows"}},
      {R"("shape":[4611686018427387904],"dtype":"float32","format":"f32-to-bf16","nbytes":0,"byteOffset":0)",
       manifest_invalid,
       {"4611686018427387904", "overflows"}},
      // numbers
      {R"("shape":[4],"dtype":"uint8","format":"raw","nbytes":-3,"byteOffset":0)",
       manifest_invalid,
       {"nbytes of record 'x' in m.json is the number -3; expected a non-negative integer"}},
      {R"("shape":[4],"dtype":"uint8","format":"raw","nbytes":4.5,"byteOffset":0)",
       manifest_invalid,
       {"nbytes", "the number 4.5"}},
      {R"("shape":[4],"dtype":"uint8","format":"raw","nbytes":4,"byteOffset":-1)",
       manifest_invalid,
       {"byteOffset", "-1"}},
      {R"("shape":[4],"dtype":"uint8","format":"raw","nbytes":4,"byteOffset":1e400)",
       manifest_invalid,
       {"overflow"}},
      {R"("shape":[-4],"dtype":"uint8","format":"raw","nbytes":4,"byteOffset":0)",
       manifest_invalid,
       {"shape[0]", "the number -4"}},
      {R"("shape":[1,0.5],"dtype":"uint8","format":"raw","nbytes":4,"byteOffset":0)",
       manifest_invalid,
       {"shape[1]", "the number 0.5"}},
      {R"("shape":["4"],"dtype":"uint8","format":"raw","nbytes":4,"byteOffset":0)",
       manifest_invalid,
       {"shape[0]", "a string"}},
      {R"("shape":4,"dtype":"uint8","format":"raw","nbytes":4,"byteOffset":0)",
       manifest_invalid,
       {"shape", "the number 4", "an array"}},
      {R"("shape":[4],"dtype":"uint8","format":"raw","nbytes":"4","byteOffset":0)",
       manifest_invalid,
       {"nbytes", "a string"}},
      // absent fields
      {R"("dtype":"uint8","format":"raw","nbytes":4,"byteOffset":0)", manifest_invalid, {"shape"}},
      {R"("shape":[4],"format":"raw","nbytes":4,"byteOffset":0)", manifest_invalid, {"dtype"}},
      {R"("shape":[4],"dtype":"uint8","nbytes":4)", manifest_invalid, {"byteOffset", "missing"}},
      {R"("shape":[4],"dtype":"uint8","byteOffset":4)", manifest_invalid, {"nbytes", "missing"}},
      // names of types and formats
      {R"("shape":[4],"dtype":"float33","format":"raw","nbytes":4,"byteOffset":0)",
       unsupported_dtype,
       {"'float33'"}},
      {R"("shape":[4],"dtype":"float32x4","format":"raw","nbytes":4,"byteOffset":0)",
       unsupported_dtype,
       {"'float32x4'"}},
      {R"("shape":[4],"dtype":7,"format":"raw","nbytes":4,"byteOffset":0)",
       manifest_invalid,
       {"dtype", "the number 7"}},
      {R"("shape":[4],"dtype":"uint8","format":"zip","nbytes":4,"byteOffset":0)",
       manifest_invalid,
       {"'zip'", "f32-to-bf16"}},
  };
  for (const Case& test : cases) {
    SCOPED_TRACE(test.fields);
    const auto result = parse_tensor_cache(with_record(test.fields), "m.json");
    for (const std::string_view piece : test.named) expect_error(result, test.code, {piece});
    // The parser of JSON itself knows no tensors.
    if (!test.fields.contains("1e400")) expect_error(result, test.code, {"'x'"});
    if (!test.fields.contains("1e400") && !result) EXPECT_EQ(result.error().tensor, "x");
  }
}

TEST(TensorCache, RefusesOverlapsAndDuplicates) {
  constexpr std::string_view kFirst =
      R"({"name":"x","shape":[8],"dtype":"uint8","format":"raw","nbytes":8,"byteOffset":0},)";
  expect_error(
      parse_tensor_cache(
          with_records(concat(
              kFirst,
              R"({"name":"y","shape":[8],"dtype":"uint8","format":"raw","nbytes":8,"byteOffset":7})")),
          "m.json"),
      manifest_invalid, {"'y'", "byte 7", "'x'", "s0.bin"});
  expect_error(
      parse_tensor_cache(
          with_records(concat(
              kFirst,
              R"({"name":"x","shape":[8],"dtype":"uint8","format":"raw","nbytes":8,"byteOffset":8})")),
          "m.json"),
      manifest_invalid, {"'x'", "twice", "m.json"});
  expect_error(parse_tensor_cache(with_record(R"("name":"y")"), "m.json"), manifest_invalid,
               {"'name'", "twice"});
}

TEST(TensorCache, RefusesBadShards) {
  constexpr std::string_view kRest = R"("format":"raw-shard","nbytes":1,"records":[])";
  struct Case {
    std::string json;
    std::vector<std::string_view> named;
  };
  const std::vector<Case> cases = {
      {with_shard(concat(R"("dataPath":"../s.bin",)", kRest)), {"'../s.bin'", "folder"}},
      {with_shard(concat(R"("dataPath":"/etc/passwd",)", kRest)), {"'/etc/passwd'"}},
      {with_shard(concat(R"("dataPath":"https://evil.example/s",)", kRest)), {"evil.example"}},
      {with_shard(concat(R"("dataPath":"%2e%2E/s",)", kRest)), {"%2e%2E"}},
      {with_shard(concat(R"("dataPath":"..\\s",)", kRest)), {"backslash"}},
      {with_shard(concat(R"("dataPath":"",)", kRest)), {"empty"}},
      {with_shard(concat(R"("dataPath":5,)", kRest)), {"dataPath", "the number 5"}},
      {with_shard(kRest), {"dataPath", "missing"}},
      {with_shard(R"("dataPath":"s","format":"zip","nbytes":1,"records":[])"),
       {"'s'", "'zip'", "raw-shard"}},
      {with_shard(R"("dataPath":"s","nbytes":1,"records":[])"), {"format", "missing"}},
      {with_shard(R"("dataPath":"s","format":"raw-shard","nbytes":-1,"records":[])"),
       {"nbytes of shard 's'", "-1"}},
      {with_shard(R"("dataPath":"s","format":"raw-shard","records":[])"), {"nbytes", "missing"}},
      {with_shard(R"("dataPath":"s","format":"raw-shard","nbytes":1,"records":{})"),
       {"records", "an object"}},
      {with_shard(concat(R"("dataPath":"s","md5sum":"xyz",)", kRest)), {"'s'", "md5sum", "'xyz'"}},
      {with_shard(concat(R"("dataPath":"s","md5sum":"g41d8cd98f00b204e9800998ecf8427e",)", kRest)),
       {"md5sum"}},
      {with_shard(concat(R"("dataPath":"s","md5sum":"d41d8cd98f00b204e9800998ecf8427e0",)", kRest)),
       {"md5sum"}},
      {with_shard(concat(R"("dataPath":"s",)", kRest, R"(},{"dataPath":"s",)", kRest)),
       {"'s'", "two shards"}},
      {R"({"records":{}})", {"records", "an object"}},
      {R"({"records":[[]]})", {"dataPath"}},
      {R"({"records":[3]})", {"dataPath"}},
      {R"({"metadata":[],"records":[]})", {"metadata", "an array"}},
      {"[]", {"records"}},
      {"{}", {"records", "missing"}},
      {"{", {"JSON"}},
      {R"({"metadata":)" + std::string(1000, '['), {"64"}},
  };
  for (const Case& test : cases) {
    SCOPED_TRACE(test.json);
    const auto result = parse_tensor_cache(test.json, "m.json");
    expect_error(result, manifest_invalid, {"m.json"});
    for (const std::string_view piece : test.named) expect_error(result, manifest_invalid, {piece});
  }
}

}  // namespace
}  // namespace sluice
