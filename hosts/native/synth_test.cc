#include "hosts/native/synth.h"

#include <cmath>
#include <map>
#include <set>

#include "core/base/expect_error.h"
#include "core/formats/tensor_cache/tensor_cache.h"
#include "hosts/native/test_support.h"
#include "hosts/native/verify.h"

namespace sluice {
namespace {

using enum ErrorCode;
using testing::get;
using testing::Json;
using testing::names_in;
using testing::put;
using testing::run_command;
using testing::TempFolder;

std::string bytes_of(const SynthBytes& bytes, uint32_t shard, uint64_t begin, uint64_t nbytes) {
  std::string out(nbytes, '\0');
  bytes.fill(shard, begin, std::as_writable_bytes(std::span(out)));
  return out;
}

std::map<std::string, CacheTensor> tensors_of(const std::string& shape) {
  const auto tensors = synth_shape(shape);
  if (!tensors) return {};
  const auto model = SynthModel::make(shape, *tensors, {});
  if (!model) return {};
  std::map<std::string, CacheTensor> out;
  for (const CacheTensor& tensor : model->layout().tensors) out[tensor.name] = tensor;
  return out;
}

TEST(SynthShape, Gemma4E2b) {
  const auto tensors = tensors_of("gemma-4-e2b");
  const auto expect = [&](const char* name, DType dtype, std::vector<uint64_t> shape) {
    ASSERT_TRUE(tensors.contains(name)) << name;
    EXPECT_EQ(tensors.at(name).dtype, dtype) << name;
    EXPECT_EQ(tensors.at(name).shape, shape) << name;
  };
  expect("model.embed_tokens_per_layer.q_weight", DType::u32, {262144, 1120});
  expect("model.embed_tokens_per_layer.q_scale", DType::f16, {262144, 280});
  EXPECT_EQ(tensors.at("model.embed_tokens_per_layer.q_weight").nbytes, 1120ull << 20);
  expect("model.embed_tokens.q_weight", DType::u32, {262144, 192});
  expect("model.layers.0.self_attn.q_proj.q_weight", DType::u32, {2048, 192});
  expect("model.layers.4.self_attn.q_proj.q_weight", DType::u32, {4096, 192});  // full attention
  expect("model.layers.4.self_attn.o_proj.q_weight", DType::u32, {1536, 512});
  expect("model.layers.14.mlp.gate_up_proj.q_weight", DType::u32, {12288, 192});
  expect("model.layers.15.mlp.gate_up_proj.q_weight", DType::u32, {24576, 192});  // double-wide
  expect("model.layers.34.mlp.down_proj.q_scale", DType::f16, {1536, 384});
  EXPECT_FALSE(tensors.contains("model.layers.35.layer_scalar"));
  uint64_t total = 0;
  for (const auto& [name, tensor] : tensors) total += tensor.nbytes;
  EXPECT_EQ(total, 2'614'610'572u);
  EXPECT_EQ(tensors.size(), 848u);
}

TEST(SynthShape, Smollm2HasTheCheckpointsParameters) {
  uint64_t elements = 0;
  for (const auto& [name, tensor] : tensors_of("smollm2")) elements += tensor.nbytes / 2;
  EXPECT_EQ(elements, 134'515'008u);  // as published for SmolLM2-135M
}

TEST(SynthShape, JsonFiles) {
  const TempFolder folder;
  const std::string path = folder / "s.json";
  put(path,
      R"([{"name": "a", "dtype": "float32", "shape": [2, 3]}, {"name": "b", "dtype": "int8", "shape": []}])");
  const auto list = synth_shape(path);
  ASSERT_TRUE(list) << to_string(list.error());
  ASSERT_EQ(list->size(), 2u);
  EXPECT_EQ((*list)[0].shape, (std::vector<uint64_t>{2, 3}));
  EXPECT_EQ((*list)[1].dtype, DType::i8);

  testing::put_tensor_cache(folder / "cache");
  put(path, run_command({"inspect", folder / "cache", "--json"}).out);
  const auto twin = synth_shape(path);
  ASSERT_TRUE(twin) << to_string(twin.error());
  EXPECT_EQ(twin->size(), 3u);

  put(path, "{");
  expect_error(synth_shape(path), manifest_invalid, {"s.json"});
  put(path, "{}");
  expect_error(synth_shape(path), manifest_invalid, {"s.json", "tensors"});
  put(path, R"([{"dtype": "int8", "shape": []}])");
  expect_error(synth_shape(path), manifest_invalid, {"entry 0", "name"});
  put(path, R"([{"name": "a", "shape": []}])");
  expect_error(synth_shape(path), manifest_invalid, {"'a'", "dtype"});
  put(path, R"([{"name": "a", "dtype": "float7", "shape": []}])");
  expect_error(synth_shape(path), unsupported_dtype, {"'a'", "'float7'"});
  put(path, R"([{"name": "a", "dtype": "int8"}])");
  expect_error(synth_shape(path), manifest_invalid, {"'a'", "shape"});
  put(path, R"([{"name": "a", "dtype": "int8", "shape": [-1]}])");
  expect_error(synth_shape(path), manifest_invalid, {"'a'", "-1"});
  expect_error(synth_shape(folder / "none.json"), not_found, {"none.json"});
  expect_error(synth_shape("gemma-5"), invalid_argument, {"'gemma-5'"});
}

TEST(SynthTensor, FromText) {
  const auto tensor = parse_synth_tensor("a:b.w:bfloat16:4096x1x3");
  ASSERT_TRUE(tensor) << to_string(tensor.error());
  EXPECT_EQ(tensor->name, "a:b.w");
  EXPECT_EQ(tensor->dtype, DType::bf16);
  EXPECT_EQ(tensor->shape, (std::vector<uint64_t>{4096, 1, 3}));
  const auto scalar = parse_synth_tensor("s:int64:");
  ASSERT_TRUE(scalar);
  EXPECT_TRUE(scalar->shape.empty());
  for (const char* wrong :
       {"", "w", "w:float32", ":float32:3", "w:float33:3", "w:float32:3x", "w:float32:x3",
        "w:float32:-3", "w:float32:3 x 4", "w:float32:3,4", "w:float32:99999999999999999999"})
    expect_error(parse_synth_tensor(wrong), invalid_argument, {concat("'", wrong, "'")});
}

TEST(SynthModel, RefusesWhatCannotBe) {
  const auto make = [](const std::vector<SynthTensor>& tensors, const SynthOptions& options = {}) {
    return SynthModel::make("x", tensors, options);
  };
  expect_error(make({}), invalid_argument, {"needs a tensor"});
  expect_error(make({{"a", DType::u8, {1}}, {"a", DType::u8, {1}}}), invalid_argument,
               {"'a'", "twice"});
  expect_error(make({{"a", DType::q4_0, {32}}}), invalid_argument, {"'a'", "q4_0"});
  expect_error(make({{"a\xff", DType::u8, {1}}}), invalid_argument, {"UTF-8"});
  expect_error(make({{"a", DType::f32, {1ull << 40, 1ull << 40}}}), invalid_argument,
               {"'a'", "1099511627776"});
  expect_error(make({{"a", DType::u8, {1ull << 62}}}, {.repeat = 3}), invalid_argument,
               {"copy.2.a"});
  expect_error(make({{"a", DType::u8, {1}}}, {.repeat = 300'001}), invalid_argument, {"300001"});
  expect_error(make({{"a", DType::u8, {1}}}, {.repeat = 0}), invalid_argument, {"0 times"});
  expect_error(make({{"a", DType::u8, {1}}}, {.shard_bytes = 0}), invalid_argument, {"shard size"});
}

TEST(SynthModel, AsManyTensorsAsAManifestCanHold) {
  const auto model = SynthModel::make("x", {{"a", DType::u8, {1, 1, 1, 1}}}, {.repeat = 300'000});
  ASSERT_TRUE(model) << to_string(model.error());
  EXPECT_EQ(model->layout().tensors.size(), 300'000u);
}

TEST(SynthModel, RepeatsAndConverts) {
  const auto model = SynthModel::make("x", {{"w", DType::f16, {10}}, {"i", DType::i32, {10}}},
                                      {.dtype = DType::f32, .shard_bytes = 100, .repeat = 3});
  ASSERT_TRUE(model) << to_string(model.error());
  EXPECT_EQ(model->nbytes(), 3u * 80);
  EXPECT_EQ(model->layout().shards.size(), 3u);
  const auto manifest = parse_tensor_cache(model->manifest(), "tensor-cache.json");
  ASSERT_TRUE(manifest) << to_string(manifest.error());
  ASSERT_EQ(manifest->tensors.size(), 6u);
  EXPECT_EQ(manifest->tensors[0].dtype, DType::f32);
  EXPECT_EQ(manifest->tensors[1].dtype, DType::i32);
  EXPECT_EQ(manifest->tensors[5].name, "copy.2.i");
}

TEST(SynthBytes, AnyRangeIsThatOfTheWhole) {
  const SynthBytes bytes(7);
  constexpr uint64_t kUnit = SynthBytes::kUnit;
  const std::string whole = bytes_of(bytes, 3, 0, 4 * kUnit + 100);
  std::mt19937_64 random(1);
  std::vector<std::pair<uint64_t, uint64_t>> ranges = {{0, 0},
                                                       {0, 1},
                                                       {7, 8},
                                                       {7, 9},
                                                       {8, 9},
                                                       {kUnit - 1, kUnit},
                                                       {kUnit - 1, kUnit + 1},
                                                       {kUnit, kUnit + 8},
                                                       {kUnit + 3, 3 * kUnit + 5},
                                                       {0, whole.size()}};
  for (int i = 0; i < 1000; ++i) {
    const uint64_t begin = random() % whole.size();
    ranges.emplace_back(begin, begin + random() % (whole.size() - begin + 1));
  }
  for (const auto& [begin, end] : ranges)
    ASSERT_EQ(bytes_of(bytes, 3, begin, end - begin), whole.substr(begin, end - begin))
        << begin << " to " << end;
  // Far behind everything: nothing before it is made
  EXPECT_EQ(bytes_of(bytes, 3, (1ull << 62) + 5, 100),
            bytes_of(bytes, 3, 1ull << 62, 200).substr(5, 100));
}

TEST(SynthBytes, TellSeedsShardsAndPlacesApart) {
  std::set<std::string> units;
  for (const uint64_t seed : {0, 1, 2})
    for (const uint32_t shard : {0, 1, 2})
      for (const uint64_t unit : {0, 1, 2, 16, 1 << 20})
        units.insert(bytes_of(SynthBytes(seed), shard, unit * SynthBytes::kUnit, 16));
  EXPECT_EQ(units.size(), 3u * 3 * 5);
  EXPECT_EQ(bytes_of(SynthBytes(9), 4, 1000, 1000), bytes_of(SynthBytes(9), 4, 1000, 1000));
}

TEST(SynthBytes, AreWeightsOfSmallSize) {
  const std::string bytes = bytes_of(SynthBytes(0), 0, 0, 3 * SynthBytes::kUnit);
  int negative = 0;
  for (size_t i = 0; i < bytes.size(); i += 2) {
    uint16_t half;
    std::memcpy(&half, bytes.data() + i, 2);
    const int exponent = (half >> 10 & 31) - 15;
    ASSERT_GE(exponent, -7);
    ASSERT_LE(exponent, -4);
    negative += half >> 15;
  }
  EXPECT_NEAR(negative, static_cast<int>(bytes.size() / 4), static_cast<int>(bytes.size() / 100));
  for (size_t i = 0; i < bytes.size(); i += 4) {
    float number;
    std::memcpy(&number, bytes.data() + i, 4);
    ASSERT_TRUE(std::isnormal(number));
  }
}

TEST(SynthCommand, WritesWhatLoadsAndVerifies) {
  const TempFolder folder;
  const std::vector<std::string> shape = {"synth",        "--tensor",   "a:float16:700x300",
                                          "--tensor",     "b:uint32:5", "--tensor",
                                          "c:bfloat16:",  "--seed",     "5",
                                          "--shard-size", "100kB"};
  auto write = shape;
  write.insert(write.end(), {"--output", folder / "m", "--json"});
  const auto written = run_command(write);
  ASSERT_EQ(written.status, 0) << written.err;
  EXPECT_EQ(Json::parse(written.out)["output_bytes"], 420'022);
  EXPECT_EQ(
      names_in(folder / "m"),
      (std::set<std::string>{"tensor-cache.json", "params_shard_0.bin", "params_shard_1.bin"}));
  const auto report = verify_model(folder / "m");
  ASSERT_TRUE(report) << to_string(report.error());
  EXPECT_TRUE(report->problems.empty());
  EXPECT_EQ(report->checksums, 2u);

  // Loaded, each tensor is the range of its shard
  ASSERT_EQ(run_command({"load", folder / "m", "--discard", "--digests", folder / "d.json"}).status,
            0);
  const Json digests = Json::parse(get(folder / "d.json"));
  const SynthBytes bytes(5);
  EXPECT_EQ(digests["tensors"]["a"]["sha256"], testing::sha256(bytes_of(bytes, 0, 0, 420'000)));
  EXPECT_EQ(digests["tensors"]["b"]["sha256"], testing::sha256(bytes_of(bytes, 1, 0, 20)));
  EXPECT_EQ(digests["tensors"]["c"]["sha256"], testing::sha256(bytes_of(bytes, 1, 20, 2)));

  // The manifest alone is the same but for its checksums
  auto print = shape;
  print.emplace_back("--manifest-only");
  const auto printed = run_command(print);
  Json on_disk = Json::parse(get(folder / "m/tensor-cache.json"));
  for (Json& shard : on_disk["records"]) EXPECT_EQ(shard.erase("md5sum"), 1u);
  EXPECT_EQ(Json::parse(printed.out), on_disk);

  // Again: the same. Another seed: refused, unless forced
  EXPECT_EQ(run_command(write).status, 0);
  write[8] = "6";
  const auto refused = run_command(write);
  EXPECT_EQ(refused.status, 2);
  EXPECT_TRUE(refused.err.contains("--force")) << refused.err;
  write.emplace_back("--force");
  EXPECT_EQ(run_command(write).status, 0);
  EXPECT_EQ(get(folder / "m/params_shard_1.bin"), bytes_of(SynthBytes(6), 1, 0, 22));
}

TEST(SynthCommand, WrongUseIsStatus2) {
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"synth"},
        {"synth", "smollm2"},
        {"synth", "gpt-2", "--manifest-only"},
        {"synth", "--tensor", "w:float32", "--manifest-only"},
        {"synth", "--tensor", "w:q4_0:32", "--manifest-only"},
        {"synth", "smollm2", "--dtype", "float8", "--manifest-only"},
        {"synth", "smollm2", "--seed", "many", "--manifest-only"},
        {"synth", "smollm2", "--repeat", "0", "--manifest-only"},
        {"synth", "smollm2", "--shard-size", "0", "--manifest-only"},
        {"synth", "smollm2", "--output", ""}}) {
    const auto result = run_command(arguments);
    EXPECT_EQ(result.status, 2) << ::testing::PrintToString(arguments) << result.err;
    EXPECT_NE(result.err, "");
    EXPECT_EQ(result.out, "");
  }
}

TEST(SynthCommand, InterruptedItTidiesUp) {
  const TempFolder folder;
  std::filesystem::create_directory(folder / "out");
  const auto result =
      run_command({"synth", "gemma-4-e2b", "--repeat", "31", "--output", folder / "out"},
                  {.signal = SIGINT, .when = [&] { return !names_in(folder / "out").empty(); }});
  EXPECT_EQ(result.status, 130) << result.err;
  EXPECT_EQ(names_in(folder / "out"), std::set<std::string>());
}

}  // namespace
}  // namespace sluice
