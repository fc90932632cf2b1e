#include "hosts/native/verify.h"

#include "core/base/expect_error.h"
#include "hosts/native/test_support.h"

namespace sluice {
namespace {

using enum ErrorCode;
using testing::get;
using testing::Json;
using testing::make_safetensors;
using testing::put;
using testing::run_command;
using testing::TempFolder;

std::string problems_of(const VerifyReport& report) {
  std::string out;
  for (const Error& problem : report.problems) out += to_string(problem) + "\n";
  return out;
}

void flip_bit(const std::string& path, size_t byte) {
  std::string bytes = get(path);
  bytes.at(byte) = static_cast<char>(bytes[byte] ^ 0x10);
  put(path, bytes);
}

TEST(Verify, NothingIsWrongWithWholeModels) {
  const TempFolder folder;
  testing::put_tensor_cache(folder / "cache");
  put(folder / "m.safetensors", make_safetensors(testing::sample_tensors()));
  put(folder / "m.gguf", testing::make_gguf());
  const auto cache = verify_model(folder / "cache");
  ASSERT_TRUE(cache) << to_string(cache.error());
  EXPECT_EQ(problems_of(*cache), "");
  EXPECT_EQ(cache->checksums, 2u);
  EXPECT_EQ(cache->bytes_read, 7006u);
  for (const char* name : {"m.safetensors", "m.gguf"}) {
    const auto report = verify_model(folder / name);
    ASSERT_TRUE(report) << to_string(report.error());
    EXPECT_EQ(problems_of(*report), "");
    EXPECT_EQ(report->checksums, 0u);
    EXPECT_EQ(report->bytes_read, std::filesystem::file_size(folder / name));
  }
}

TEST(Verify, FindsOneBitInAnyPlace) {
  const TempFolder folder;
  for (const size_t byte : {0, 1999, 4005}) {
    testing::put_tensor_cache(folder.path());
    flip_bit(folder / "params_shard_0.bin", byte);
    const auto report = verify_model(folder.path());
    ASSERT_TRUE(report) << to_string(report.error());
    ASSERT_EQ(report->problems.size(), 1u) << problems_of(*report);
    expect_error(Status(std::unexpected(report->problems[0])), checksum_mismatch,
                 {"params_shard_0.bin", "MD5"});
  }
}

// Six shards of 100 bytes with two tensors each, all with checksums.
void put_six_shards(const std::string& folder) {
  Json shards = Json::array();
  for (int s = 0; s < 6; ++s) {
    const std::string bytes = testing::random_bytes(100, static_cast<uint64_t>(s));
    Digest md5(Digest::Kind::md5);
    md5.update(as_bytes(bytes));
    const std::string name = concat("params_shard_", s, ".bin");
    put(folder + name, bytes);
    Json records = Json::array();
    for (int t = 0; t < 2; ++t)
      records.push_back({{"name", concat("s", s, ".t", t)},
                         {"shape", {50}},
                         {"dtype", "uint8"},
                         {"format", "raw"},
                         {"nbytes", 50},
                         {"byteOffset", 50 * t}});
    shards.push_back({{"dataPath", name},
                      {"format", "raw-shard"},
                      {"nbytes", 100},
                      {"records", records},
                      {"md5sum", md5.finish()}});
  }
  put(folder + "tensor-cache.json", Json{{"metadata", Json::object()}, {"records", shards}}.dump());
}

TEST(Verify, TellsAllThatIsWrong) {
  const TempFolder folder;
  put_six_shards(folder.path());
  flip_bit(folder / "params_shard_0.bin", 99);
  std::filesystem::resize_file(folder / "params_shard_1.bin", 70);  // inside the second tensor
  std::filesystem::resize_file(folder / "params_shard_2.bin", 130);
  std::filesystem::remove(folder / "params_shard_3.bin");
  std::filesystem::remove(folder / "params_shard_4.bin");
  std::filesystem::create_directory(folder / "params_shard_4.bin");

  const auto report = verify_model(folder.path());
  ASSERT_TRUE(report) << to_string(report.error());
  const auto& problems = report->problems;
  ASSERT_EQ(problems.size(), 6u) << problems_of(*report);
  const auto problem = [&](size_t i) { return Status(std::unexpected(problems[i])); };
  expect_error(problem(0), checksum_mismatch, {"params_shard_0.bin"});
  expect_error(problem(1), truncated, {"params_shard_1.bin", "70", "100"});
  expect_error(problem(2), range_out_of_bounds,
               {"params_shard_1.bin", "'s1.t1'", "50 bytes from byte 50", "70"});
  EXPECT_EQ(problems[2].tensor, "s1.t1");
  expect_error(problem(3), size_mismatch, {"params_shard_2.bin", "130", "100"});
  expect_error(problem(4), not_found, {"params_shard_3.bin"});
  expect_error(problem(5), io, {"params_shard_4.bin", "not a regular file"});
  EXPECT_EQ(report->checksums, 2u);  // of shards 0 and 5
  EXPECT_EQ(report->bytes_read, 100u + 70 + 130 + 100);
}

TEST(Verify, AManifestThatCannotBeReadIsAnError) {
  const TempFolder folder;
  expect_error(verify_model(folder.path()), not_found, {"tensor-cache.json"});
  expect_error(verify_model(""), invalid_argument, {"empty"});
  put(folder / "tensor-cache.json", "{");
  expect_error(verify_model(folder.path()), manifest_invalid, {"tensor-cache.json"});
  const std::string whole = make_safetensors(testing::sample_tensors());
  put(folder / "m.safetensors", whole.substr(0, whole.size() - 1));
  EXPECT_FALSE(verify_model(folder / "m.safetensors"));
}

TEST(Verify, EndsWhenToldTo) {
  const TempFolder folder;
  testing::put_tensor_cache(folder.path());
  const std::atomic<bool> stop = true;
  expect_error(verify_model(folder.path(), {.stop = &stop}), aborted, {"interrupted"});
}

TEST(VerifyCommand, SaysSoInTextJsonAndStatus) {
  const TempFolder folder;
  put_six_shards(folder.path());
  const auto whole = run_command({"verify", folder.path()});
  EXPECT_EQ(whole.status, 0) << whole.err;
  EXPECT_EQ(whole.err, "");
  EXPECT_TRUE(whole.out.contains("12 tensors in 6 files, 6 of them with a checksum") &&
              whole.out.contains("nothing is wrong"))
      << whole.out;

  flip_bit(folder / "params_shard_5.bin", 3);
  std::filesystem::resize_file(folder / "params_shard_1.bin", 20);
  const auto text = run_command({"verify", folder.path()});
  EXPECT_EQ(text.status, 1);
  EXPECT_TRUE(text.err.contains("sluice: truncated: ") &&
              text.err.contains("sluice: checksum_mismatch: ") && text.err.contains("'s1.t0'"))
      << text.err;
  EXPECT_TRUE(text.out.contains(": 4 problems")) << text.out;
  const auto as_json = run_command({"verify", folder.path(), "--json"});
  EXPECT_EQ(as_json.status, 1);
  const Json json = Json::parse(as_json.out);
  EXPECT_EQ(json["ok"], false);
  EXPECT_EQ(json["tensors"], 12);
  ASSERT_EQ(json["problems"].size(), 4u) << as_json.out;
  EXPECT_EQ(json["problems"][0]["code"], "truncated");
  EXPECT_EQ(json["problems"][0]["expected"], 100);
  EXPECT_EQ(json["problems"][0]["actual"], 20);
  EXPECT_EQ(json["problems"][1]["tensor"], "s1.t0");
  EXPECT_EQ(run_command({"verify", folder.path(), "--quiet"}).out, "");
}

TEST(VerifyCommand, ShowsTwentyProblemsAndCountsTheRest) {
  const TempFolder folder;
  ASSERT_EQ(
      run_command({"synth", "smollm2", "--output", folder.path(), "--shard-size", "300MB"}).status,
      0);
  std::filesystem::resize_file(folder / "params_shard_0.bin", 100);
  const auto result = run_command({"verify", folder.path()});
  EXPECT_EQ(result.status, 1);
  EXPECT_EQ(std::ranges::count(result.err, '\n'), 21) << result.err;
  // The file's own and one for each of 272 tensors
  EXPECT_TRUE(result.err.contains("and 253 more problems")) << result.err;
}

#if !defined(__has_feature) || !__has_feature(address_sanitizer)  // shadow memory is no measure
TEST(VerifyCommand, MemoryIsBounded) {
  const TempFolder folder;
  ASSERT_EQ(run_command({"synth", "smollm2", "--output", folder.path()}).status, 0);
  const uint64_t idle = run_command({"--version"}).peak_rss;
  const auto result = run_command({"verify", folder.path()});
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_LE(result.peak_rss, idle + (16u << 20)) << "idle: " << idle;
}
#endif

}  // namespace
}  // namespace sluice
