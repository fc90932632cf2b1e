#include "hosts/native/file_host.h"

#include <algorithm>

#include "core/base/expect_error.h"
#include "hosts/native/test_support.h"
#include "hosts/native/verify.h"

namespace sluice {
namespace {

using enum ErrorCode;
using testing::make_safetensors;
using testing::put;
using testing::sample_tensors;
using testing::TempFolder;

std::string text_of(Bytes bytes) { return std::string(as_text(bytes)); }

uint32_t index_of(const Manifest& manifest, std::string_view name) {
  const auto it = std::ranges::find(manifest.tensors, name, &TensorEntry::name);
  return static_cast<uint32_t>(it - manifest.tensors.begin());
}

TEST(OpenModel, FindsEveryFormat) {
  const TempFolder folder;
  put(folder / "m.safetensors", make_safetensors(sample_tensors()));
  put(folder / "m.gguf", testing::make_gguf());
  put(folder / "weights", testing::make_gguf());
  testing::put_tensor_cache(folder / "cache");
  struct Case {
    const char *path, *format;
    size_t tensors;
  };
  for (const Case& c :
       {Case{"m.safetensors", "safetensors", 8}, Case{"m.gguf", "gguf", 3},
        Case{"weights", "gguf", 3}, Case{"cache", "tensor-cache", 3},
        Case{"cache/", "tensor-cache", 3}, Case{"cache/tensor-cache.json", "tensor-cache", 3}}) {
    const auto model = open_model(folder / c.path);
    ASSERT_TRUE(model) << c.path << ": " << to_string(model.error());
    EXPECT_EQ(model->manifest.format, c.format) << c.path;
    EXPECT_EQ(model->manifest.tensors.size(), c.tensors) << c.path;
    for (uint32_t f = 0; f < model->manifest.files.size(); ++f)
      EXPECT_EQ(model->manifest.files[f].nbytes, std::filesystem::file_size(model->file_path(f)));
  }
}

TEST(OpenModel, SaysWhatIsMissing) {
  const TempFolder folder;
  expect_error(open_model(folder / "no.gguf"), not_found, {"no.gguf", folder.path()});
  expect_error(open_model(folder.path()), not_found, {"tensor-cache.json", folder.path()});
  expect_error(open_model(""), invalid_argument, {"path"});
  put(folder / "x.gguf", "<html>");
  expect_error(open_model(folder / "x.gguf"), manifest_invalid, {"x.gguf"});
  expect_error(open_model(folder / "x.gguf/y.gguf"), not_found, {"y.gguf"});
}

TEST(OpenModel, HoldsFilesAgainstTheManifest) {
  const TempFolder folder;
  const std::string shard = folder / "params_shard_1.bin";
  testing::put_tensor_cache(folder.path());
  std::filesystem::resize_file(shard, 2999);
  const auto shorter = open_model(folder.path());
  expect_error(shorter, truncated, {"params_shard_1.bin", "2999", "3000", "tensor-cache.json"});
  EXPECT_EQ(shorter.error().file, shard);
  EXPECT_EQ(shorter.error().expected, 3000u);
  EXPECT_EQ(shorter.error().actual, 2999u);
  std::filesystem::resize_file(shard, 3001);
  expect_error(open_model(folder.path()), size_mismatch, {"params_shard_1.bin", "3001", "3000"});
  std::filesystem::remove(shard);
  expect_error(open_model(folder.path()), not_found, {"params_shard_1.bin", "tensor-cache.json"});
  // A pipe would block whoever opens it
  ASSERT_EQ(::mkfifo(shard.c_str(), 0600), 0);
  expect_error(open_model(folder.path()), io, {"params_shard_1.bin", "regular"});
}

TEST(OpenModel, RefusesWrongSizesInTheManifest) {
  const TempFolder folder;
  testing::put_tensor_cache(folder.path(), [](testing::Json& manifest) {
    manifest["records"][1]["records"][0]["nbytes"] = 2996;
  });
  expect_error(open_model(folder.path()), size_mismatch, {"'c'", "2996", "3000"});
}

TEST(RunLoad, KeepsEveryByteUnderAnyBudget) {
  const TempFolder folder;
  const auto tensors = sample_tensors();
  put(folder / "m.safetensors", make_safetensors(tensors));
  const auto model = open_model(folder / "m.safetensors");
  ASSERT_TRUE(model);
  for (const uint64_t budget : {16ull << 10, 100'000ull, 64ull << 20}) {
    const PlanOptions options = native_plan_options(budget, std::nullopt);
    const auto plan = make_plan(model->manifest, options);
    ASSERT_TRUE(plan) << to_string(plan.error());
    MemorySink sink(*plan);
    const auto progress = run_load(*model, *plan, options, sink);
    ASSERT_TRUE(progress) << to_string(progress.error());
    for (const auto& tensor : tensors)
      EXPECT_EQ(text_of(sink.tensor(index_of(model->manifest, tensor.name))), tensor.bytes)
          << tensor.name << " under " << budget;
    EXPECT_EQ(progress->tensors_done, tensors.size());
    EXPECT_EQ(progress->output_bytes_done, progress->output_bytes);
    EXPECT_EQ(progress->budget_used, 0u);
    EXPECT_LE(progress->budget_peak, budget);

    DigestSink digests(*plan);
    ASSERT_TRUE(run_load(*model, *plan, options, digests));
    for (const auto& tensor : tensors)
      EXPECT_EQ(digests.digests()[index_of(model->manifest, tensor.name)],
                testing::sha256(tensor.bytes))
          << tensor.name << " under " << budget;
  }
}

TEST(RunLoad, DecodesAsInOneGo) {
  const TempFolder folder;
  const std::string file = testing::make_gguf();
  put(folder / "m.gguf", file);
  const auto model = open_model(folder / "m.gguf");
  ASSERT_TRUE(model);
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    // The least budget of a load that decodes: a chunk of 16 KiB, and the scratch
    const uint64_t budget = (16ull << 10) + kDecodeInputBytes + kDecodeOutputBytes;
    const PlanOptions options = native_plan_options(budget, dtype);
    const auto plan = make_plan(model->manifest, options);
    ASSERT_TRUE(plan) << to_string(plan.error());
    MemorySink memory(*plan);
    DigestSink digests(*plan);
    ASSERT_TRUE(run_load(*model, *plan, options, memory));
    ASSERT_TRUE(run_load(*model, *plan, options, digests));
    for (uint32_t t = 0; t < plan->placements.size(); ++t) {
      const TensorEntry& tensor = model->manifest.tensors[t];
      const Placement& placement = plan->placements[t];
      std::string expected = file.substr(tensor.offset, tensor.nbytes);
      if (const Codec* codec = placement.codec) {
        std::string decoded(placement.nbytes, '\0');
        codec->decode(as_bytes(expected).data(), reinterpret_cast<std::byte*>(decoded.data()),
                      tensor.nbytes / codec->in_bytes);
        expected = decoded;
      }
      EXPECT_TRUE(text_of(memory.tensor(t)) == expected) << tensor.name;
      EXPECT_EQ(digests.digests()[t], testing::sha256(expected)) << tensor.name;
    }
  }
}

TEST(RunLoad, LoadsWhatIsSelected) {
  const TempFolder folder;
  const auto tensors = sample_tensors();
  put(folder / "m.safetensors", make_safetensors(tensors));
  const auto model = open_model(folder / "m.safetensors");
  ASSERT_TRUE(model);
  PlanOptions options = native_plan_options(1 << 20, std::nullopt);
  options.selected.resize(tensors.size());
  const uint32_t ids = index_of(model->manifest, "ids");
  options.selected[ids] = true;
  const auto plan = make_plan(model->manifest, options);
  ASSERT_TRUE(plan);
  MemorySink sink(*plan);
  ASSERT_TRUE(run_load(*model, *plan, options, sink));
  EXPECT_EQ(text_of(sink.tensor(ids)), tensors[3].bytes);
  EXPECT_TRUE(sink.tensor(index_of(model->manifest, "embed")).empty());
}

TEST(RunLoad, NoticesAFileThatShrinksMeanwhile) {
  const TempFolder folder;
  testing::put_tensor_cache(folder.path());
  const auto model = open_model(folder.path());
  ASSERT_TRUE(model);
  const PlanOptions options = native_plan_options(1 << 20, std::nullopt);
  const auto plan = make_plan(model->manifest, options);
  ASSERT_TRUE(plan);
  // Before its transfer opens it
  std::filesystem::resize_file(folder / "params_shard_1.bin", 10);
  DigestSink sink(*plan);
  const auto result = run_load(*model, *plan, options, sink);
  expect_error(result, truncated, {"params_shard_1.bin", "10", "3000"});
  EXPECT_EQ(result.error().file, folder / "params_shard_1.bin");
  std::filesystem::remove(folder / "params_shard_0.bin");
  DigestSink last(*plan);
  expect_error(run_load(*model, *plan, options, last), not_found, {"params_shard_0.bin"});
}

TEST(RunLoad, NoticesAFileThatShrinksWhileItIsRead) {
  const TempFolder folder;
  const std::string path = folder / "m.safetensors";
  put(path, make_safetensors(sample_tensors()));
  const auto model = open_model(path);
  ASSERT_TRUE(model);
  const PlanOptions options = native_plan_options(64 << 10, std::nullopt);
  const auto plan = make_plan(model->manifest, options);
  ASSERT_TRUE(plan);
  const LoadControl control{.on_progress = [&](const Progress& progress) {
    if (progress.source_bytes_done > 100'000) std::filesystem::resize_file(path, 50'000);
  }};
  MemorySink sink(*plan);
  expect_error(run_load(*model, *plan, options, sink, control), truncated, {path, "ends at byte"});
}

TEST(RunLoad, StopsWhenAsked) {
  const TempFolder folder;
  put(folder / "m.safetensors", make_safetensors(sample_tensors()));
  const auto model = open_model(folder / "m.safetensors");
  ASSERT_TRUE(model);
  const PlanOptions options = native_plan_options(64 << 10, std::nullopt);
  const auto plan = make_plan(model->manifest, options);
  ASSERT_TRUE(plan);
  std::atomic<bool> stop = false;
  uint64_t done = 0;
  const LoadControl control{.stop = &stop, .on_progress = [&](const Progress& progress) {
                              done = progress.source_bytes_done;
                              if (done > 100'000) stop = true;
                            }};
  MemorySink sink(*plan);
  expect_error(run_load(*model, *plan, options, sink, control), aborted, {"interrupted"});
  EXPECT_LT(done, 300'000u) << "it went on for long";
  for (uint32_t b = 0; b < plan->buffers.size(); ++b)
    EXPECT_EQ(sink.address(b, 0), nullptr) << "buffer " << b << " was not freed";
}

// A sink that fails at a given call, and counts its buffers.
struct FailingSink : Sink {
  uint32_t fail_at_buffer = UINT32_MAX, fail_at_tensor = UINT32_MAX;
  int held = 0;
  Status allocate(uint32_t buffer, uint64_t nbytes, const TensorEntry& first) override {
    if (buffer == fail_at_buffer)
      return std::unexpected(Error{.code = out_of_device_memory,
                                   .message = concat("no room for ", nbytes, " of ", first.name)});
    ++held;
    return {};
  }
  void free(uint32_t) override { --held; }
  Status write(uint32_t tensor, Bytes) override {
    if (tensor == fail_at_tensor) return std::unexpected(Error{.code = io, .message = "disk full"});
    return {};
  }
};

TEST(RunLoad, GivesEverythingBackWhenTheSinkFails) {
  const TempFolder folder;
  put(folder / "m.safetensors", make_safetensors(sample_tensors()));
  const auto model = open_model(folder / "m.safetensors");
  ASSERT_TRUE(model);
  PlanOptions options = native_plan_options(1 << 20, std::nullopt);
  options.share_below_bytes = 0;
  const auto plan = make_plan(model->manifest, options);
  ASSERT_TRUE(plan);
  for (uint32_t b = 0; b < plan->buffers.size(); ++b) {
    FailingSink sink;
    sink.fail_at_buffer = b;
    const std::string& first = model->manifest.tensors[plan->buffers[b].tensor].name;
    expect_error(run_load(*model, *plan, options, sink), out_of_device_memory, {first});
    EXPECT_EQ(sink.held, 0);
  }
  for (const uint32_t t : plan->order) {
    FailingSink sink;
    sink.fail_at_tensor = t;
    expect_error(run_load(*model, *plan, options, sink), io, {"disk full"});
    EXPECT_EQ(sink.held, 0);
  }
}

TEST(RunLoad, TakesOnlyItsOwnOptions) {
  const TempFolder folder;
  testing::put_tensor_cache(folder.path());
  const auto model = open_model(folder.path());
  ASSERT_TRUE(model);
  const PlanOptions options;
  const auto plan = make_plan(model->manifest, options);
  ASSERT_TRUE(plan);
  DigestSink sink(*plan);
  expect_error(run_load(*model, *plan, options, sink), invalid_argument, {"native_plan_options"});
}

TEST(VerifyChecksums, FindsAChangedByte) {
  const TempFolder folder;
  testing::put_tensor_cache(folder.path());
  const auto model = open_model(folder.path());
  ASSERT_TRUE(model);
  const auto verified = verify_checksums(*model);
  ASSERT_TRUE(verified) << to_string(verified.error());
  EXPECT_EQ(*verified, 2u);
  std::string bytes = testing::get(folder / "params_shard_1.bin");
  bytes[1234] ^= 1;
  put(folder / "params_shard_1.bin", bytes);
  expect_error(verify_checksums(*model), checksum_mismatch,
               {"params_shard_1.bin", model->manifest.files[1].md5});
  const std::atomic<bool> stop = true;
  expect_error(verify_checksums(*model, &stop), aborted, {"interrupted"});
}

TEST(Digest, KnownValues) {
  EXPECT_EQ(testing::sha256("abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  Digest md5(Digest::Kind::md5);
  md5.update(as_bytes("ab"));
  md5.update(as_bytes("c"));
  EXPECT_EQ(md5.finish(), "900150983cd24fb0d6963f7d28e17f72");
  EXPECT_EQ(md5.finish(), "d41d8cd98f00b204e9800998ecf8427e") << "it starts anew";
}

}  // namespace
}  // namespace sluice
