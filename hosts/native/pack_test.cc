#include "hosts/native/pack.h"

#include <map>

#include "core/base/expect_error.h"
#include "core/formats/tensor_cache/tensor_cache.h"
#include "hosts/native/test_support.h"
#include "hosts/native/verify.h"

namespace sluice {
namespace {

using enum ErrorCode;
using testing::get;
using testing::Json;
using testing::make_safetensors;
using testing::names_in;
using testing::put;
using testing::sample_tensors;
using testing::TempFolder;

Result<PackReport> pack(const std::string& source, const std::string& output,
                        const PackOptions& options = {}, const LoadControl& control = {}) {
  SLUICE_ASSIGN(const Model model, open_model(source));
  return pack_model(model, output, options, control);
}

using Digests = std::map<std::string, std::string>;

// "dtype shape sha256" of each tensor, loaded as `dtype`.
Digests digests_of(const std::string& path, std::optional<DType> dtype = std::nullopt) {
  const auto model = open_model(path);
  if (!model) return {{"error", to_string(model.error())}};
  const PlanOptions options = native_plan_options(1 << 20, dtype);
  const auto plan = make_plan(model->manifest, options);
  if (!plan) return {{"error", to_string(plan.error())}};
  DigestSink sink(*plan);
  if (const auto loaded = run_load(*model, *plan, options, sink); !loaded)
    return {{"error", to_string(loaded.error())}};
  Digests out;
  for (uint32_t t = 0; t < plan->placements.size(); ++t)
    out[model->manifest.tensors[t].name] =
        concat(dtype_name(plan->placements[t].dtype), " ",
               shape_text(model->manifest.tensors[t].shape), " ", sink.digests()[t]);
  return out;
}

TEST(Pack, LoadsAsTheSourceDoes) {
  const TempFolder folder;
  put(folder / "m.safetensors", make_safetensors(sample_tensors()));
  put(folder / "m.gguf", testing::make_gguf());
  testing::put_tensor_cache(folder / "cache");
  int n = 0;
  for (const char* source : {"m.safetensors", "m.gguf", "cache"})
    for (const std::optional<DType> dtype :
         {std::optional<DType>(), std::optional(DType::f32), std::optional(DType::f16),
          std::optional(DType::bf16)}) {
      if (!dtype && std::string_view(source) == "m.gguf") continue;
      const std::string output = folder / concat("out", n++);
      const auto report = pack(folder / source, output,
                               {.dtype = dtype, .shard_bytes = 10'000, .budget_bytes = 1 << 20});
      ASSERT_TRUE(report) << to_string(report.error());
      EXPECT_EQ(digests_of(output), digests_of(folder / source, dtype)) << source;
      const auto packed = open_model(output);
      ASSERT_TRUE(packed) << to_string(packed.error());
      const auto verified = verify_checksums(*packed);
      ASSERT_TRUE(verified) << to_string(verified.error());
      EXPECT_EQ(*verified, report->shards);
    }
}

TEST(Pack, WritesWhatTvmReads) {
  const TempFolder folder;
  put(folder / "m.safetensors",
      make_safetensors({{"a", "F32", {2, 3}, testing::bf16_exact_floats(6, 1)},
                        {"b", "U8", {3}, "xyz"},
                        {"c", "F16", {2}, "1234"},
                        {"big", "I32", {10}, std::string(40, 'b')},
                        {"d", "BOOL", {1}, "\x01"}},
                       {{"format", "pt"}}));
  const auto report = pack(folder / "m.safetensors", folder / "out", {.shard_bytes = 28});
  ASSERT_TRUE(report) << to_string(report.error());
  EXPECT_EQ(report->shards, 4u);
  EXPECT_EQ(report->output_bytes, 72u);
  EXPECT_EQ(names_in(folder / "out"),
            (std::set<std::string>{"params_shard_0.bin", "params_shard_1.bin", "params_shard_2.bin",
                                   "params_shard_3.bin", "tensor-cache.json"}));
  const Json manifest = Json::parse(get(folder / "out/tensor-cache.json"));
  // 24 + 3 bytes; 4 more would not fit into 28; 40 stand alone; the rest follows
  EXPECT_EQ(manifest["metadata"], (Json{{"format", "pt"}}));
  EXPECT_EQ(manifest["records"].size(), 4u);
  Json first = manifest["records"][0];
  EXPECT_EQ(first["md5sum"].get<std::string>().size(), 32u);
  first.erase("md5sum");
  EXPECT_EQ(first, (Json{{"dataPath", "params_shard_0.bin"},
                         {"format", "raw-shard"},
                         {"nbytes", 27},
                         {"records",
                          {{{"name", "a"},
                            {"shape", {2, 3}},
                            {"dtype", "float32"},
                            {"format", "raw"},
                            {"nbytes", 24},
                            {"byteOffset", 0}},
                           {{"name", "b"},
                            {"shape", {3}},
                            {"dtype", "uint8"},
                            {"format", "raw"},
                            {"nbytes", 3},
                            {"byteOffset", 24}}}}}));
  EXPECT_EQ(manifest["records"][2]["nbytes"], 40);
  EXPECT_EQ(manifest["records"][2]["records"][0]["name"], "big");
  EXPECT_EQ(manifest["records"][3]["records"][0]["dtype"], "bool");
  EXPECT_EQ(get(folder / "out/params_shard_1.bin"), "1234");
}

TEST(Pack, EncodesFloat32AsBfloat16) {
  const TempFolder folder;
  put(folder / "m.safetensors", make_safetensors(sample_tensors()));
  const auto report =
      pack(folder / "m.safetensors", folder / "out", {.bf16_encode = true, .shard_bytes = 1 << 20});
  ASSERT_TRUE(report) << to_string(report.error());
  // The sample's float32 values are such that nothing is lost; other types stay as they are
  EXPECT_EQ(digests_of(folder / "out"), digests_of(folder / "m.safetensors"));
  const auto manifest = parse_tensor_cache(get(folder / "out/tensor-cache.json"), "m");
  ASSERT_TRUE(manifest);
  for (const TensorEntry& tensor : manifest->tensors)
    EXPECT_EQ(tensor.encoding == Encoding::f32_to_bf16, tensor.dtype == DType::f32) << tensor.name;
  // Packed again, encoded records stay encoded, byte for byte
  ASSERT_TRUE(
      pack(folder / "out", folder / "again", {.bf16_encode = true, .shard_bytes = 1 << 20}));
  EXPECT_EQ(get(folder / "again/tensor-cache.json"), get(folder / "out/tensor-cache.json"));
  // Not encoded, they are expanded
  ASSERT_TRUE(pack(folder / "out", folder / "expanded"));
  EXPECT_EQ(digests_of(folder / "expanded"), digests_of(folder / "m.safetensors"));
}

TEST(Pack, RoundsToNearestEvenWhenItEncodes) {
  const TempFolder folder;
  const auto f32 = [](uint32_t bits) { return little_endian(bits); };
  put(folder / "m.safetensors",
      make_safetensors({{"x",
                         "F32",
                         {4},
                         f32(0x3F808000) + f32(0x3F818000) + f32(0x3F808001) + f32(0x3F807FFF)}}));
  ASSERT_TRUE(pack(folder / "m.safetensors", folder / "out", {.bf16_encode = true}));
  EXPECT_EQ(get(folder / "out/params_shard_0.bin"),
            little_endian<uint16_t>(0x3F80) + little_endian<uint16_t>(0x3F82) +
                little_endian<uint16_t>(0x3F81) + little_endian<uint16_t>(0x3F80));
}

TEST(Pack, NamesTheTensorThatTvmHasNoTypeFor) {
  const TempFolder folder;
  put(folder / "m.gguf", testing::make_gguf());
  const auto result = pack(folder / "m.gguf", folder / "out");
  expect_error(result, unsupported_dtype, {"'q8'", "q8_0", "m.gguf"});
  EXPECT_EQ(result.error().tensor, "q8");
  EXPECT_TRUE(result.error().hint.contains("--dtype float16")) << result.error().hint;
  EXPECT_FALSE(std::filesystem::exists(folder / "out"));
}

TEST(Pack, WritesModelsWithoutBytes) {
  const TempFolder folder;
  put(folder / "none.safetensors", make_safetensors({}));
  put(folder / "empty.safetensors", make_safetensors({{"e", "F32", {0}, ""}}));
  const auto none = pack(folder / "none.safetensors", folder / "none");
  ASSERT_TRUE(none) << to_string(none.error());
  EXPECT_EQ(none->shards, 0u);
  const auto empty = pack(folder / "empty.safetensors", folder / "empty");
  ASSERT_TRUE(empty) << to_string(empty.error());
  EXPECT_EQ(digests_of(folder / "empty"), digests_of(folder / "empty.safetensors"));
  EXPECT_EQ(digests_of(folder / "none"), Digests());
}

TEST(Pack, ReplacesAnotherModelOnlyByForce) {
  const TempFolder folder;
  testing::put_tensor_cache(folder / "cache");
  put(folder / "m.safetensors", make_safetensors(sample_tensors()));
  const std::string output = folder / "out";
  ASSERT_TRUE(pack(folder / "m.safetensors", output, {.shard_bytes = 1000}));
  const std::set<std::string> names = names_in(output);
  EXPECT_EQ(names.size(), 4u);
  const Digests before = digests_of(output);

  ASSERT_TRUE(pack(folder / "m.safetensors", output, {.shard_bytes = 1000})) << "the same again";
  expect_error(pack(folder / "cache", output), invalid_argument, {"another model", output});
  // Of the same shape, with other bytes
  auto tensors = sample_tensors();
  tensors[3].bytes[5] ^= 1;
  put(folder / "other.safetensors", make_safetensors(tensors));
  expect_error(pack(folder / "other.safetensors", output, {.shard_bytes = 1000}), invalid_argument,
               {"another model", output});
  EXPECT_EQ(names_in(output), names);
  EXPECT_EQ(digests_of(output), before);

  put(output + "/mine.txt", "kept");
  ASSERT_TRUE(pack(folder / "cache", output, {.force = true}));
  EXPECT_EQ(digests_of(output), digests_of(folder / "cache"));
  EXPECT_EQ(names_in(output),
            (std::set<std::string>{"mine.txt", "params_shard_0.bin", "tensor-cache.json"}))
      << "shards of the old model are gone, other files are not";
}

TEST(Pack, LeavesForeignShardsAndOlderManifestsAlone) {
  const TempFolder folder;
  testing::put_tensor_cache(folder / "cache");
  put(folder / "a/params_shard_0.bin", "mine");
  expect_error(pack(folder / "cache", folder / "a"), invalid_argument, {"another model"});
  EXPECT_EQ(get(folder / "a/params_shard_0.bin"), "mine");
  put(folder / "b/ndarray-cache.json", "{");
  expect_error(pack(folder / "cache", folder / "b"), invalid_argument, {"another model"});
  ASSERT_TRUE(pack(folder / "cache", folder / "b", {.force = true}));
  EXPECT_FALSE(std::filesystem::exists(folder / "b/ndarray-cache.json"));
}

TEST(Pack, OntoItself) {
  const TempFolder folder;
  testing::put_tensor_cache(folder / "cache");
  const Digests before = digests_of(folder / "cache");
  ASSERT_TRUE(pack(folder / "cache", folder / "cache", {.force = true}));
  EXPECT_EQ(digests_of(folder / "cache"), before);
}

TEST(Pack, LeavesNothingBehindWhenItFails) {
  const TempFolder folder;
  put(folder / "m.safetensors", make_safetensors(sample_tensors()));
  // Stopped on the way
  std::atomic<bool> stop = false;
  const LoadControl control{.stop = &stop, .on_progress = [&](const Progress& progress) {
                              if (progress.source_bytes_done > 100'000) stop = true;
                            }};
  expect_error(pack(folder / "m.safetensors", folder / "deep/er/out",
                    {.shard_bytes = 1000, .budget_bytes = 64 << 10}, control),
               aborted, {"interrupted"});
  EXPECT_FALSE(std::filesystem::exists(folder / "deep")) << "folders it made go again";

  // A file where a folder should be
  put(folder / "file", "");
  expect_error(pack(folder / "m.safetensors", folder / "file/out"), io, {"file"});

  // Renaming fails at the second shard
  std::filesystem::create_directories(folder / "blocked/params_shard_1.bin/x");
  expect_error(
      pack(folder / "m.safetensors", folder / "blocked", {.shard_bytes = 1000, .force = true}), io,
      {"params_shard_1.bin"});
  EXPECT_EQ(names_in(folder / "blocked"), (std::set<std::string>{"params_shard_1.bin"}));
}

}  // namespace
}  // namespace sluice
