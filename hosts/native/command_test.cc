// The command as a process: what it prints, what it returns, what it holds.

#include "core/base/expect_error.h"
#include "hosts/native/test_support.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SLUICE_ASAN 1
#endif
#endif

namespace sluice {
namespace {

using testing::CommandResult;
using testing::get;
using testing::Json;
using testing::make_safetensors;
using testing::names_in;
using testing::put;
using testing::run_command;
using testing::sample_tensors;
using testing::TempFolder;

// A file of zeros that takes no room on the disk: one uint8 tensor "w".
void put_sparse_model(const std::string& path, uint64_t nbytes) {
  const std::string header =
      Json{{"w", {{"dtype", "U8"}, {"shape", {nbytes}}, {"data_offsets", {0, nbytes}}}}}.dump();
  put(path, safetensors_file(header));
  std::filesystem::resize_file(path, 8 + header.size() + nbytes);
}

TEST(Command, SaysWhatItIs) {
  const CommandResult version = run_command({"--version"});
  EXPECT_EQ(version.status, 0);
  EXPECT_TRUE(version.out.starts_with("sluice 0.")) << version.out;
  for (const char* subcommand : {"inspect", "pack", "load", "verify", "serve"}) {
    const CommandResult help = run_command({subcommand, "--help"});
    EXPECT_EQ(help.status, 0);
    EXPECT_TRUE(help.out.contains("PATH")) << help.out;
  }
  EXPECT_TRUE(run_command({"--help"}).out.contains("Exit status"));
  EXPECT_TRUE(run_command({"pack", "--help"}).out.contains("Lossy"));
  EXPECT_TRUE(run_command({"synth", "--help"}).out.contains("gemma-4-e2b"));
}

TEST(Command, WrongUseIsStatus2) {
  const TempFolder folder;
  testing::put_tensor_cache(folder.path());
  for (const std::vector<std::string>& arguments : {std::vector<std::string>{},
                                                    {"frobnicate"},
                                                    {"inspect"},
                                                    {"inspect", folder.path(), "--frobnicate"},
                                                    {"pack", folder.path()},
                                                    {"load", folder.path(), "--budget", "many"},
                                                    {"load", folder.path(), "--budget", "1.5MiB"},
                                                    {"load", folder.path(), "--budget", "0"},
                                                    {"load", folder.path(), "--dtype", "float8"},
                                                    {"load", folder.path(), "--budget", "1KiB"},
                                                    {"load", ""}}) {
    const CommandResult result = run_command(arguments);
    EXPECT_EQ(result.status, 2) << ::testing::PrintToString(arguments) << result.err;
    EXPECT_NE(result.err, "");
    EXPECT_EQ(result.out, "");
  }
}

TEST(Command, InspectPrintsATable) {
  const TempFolder folder;
  put(folder / "m.gguf", testing::make_gguf());
  const CommandResult result = run_command({"inspect", folder / "m.gguf"});
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_EQ(result.err, "");
  EXPECT_TRUE(result.out.starts_with("m.gguf: gguf, 3 tensors, 38405 elements, 32420 bytes"))
      << result.out;
  EXPECT_TRUE(result.out.contains("general.architecture: \"llama\"")) << result.out;
  EXPECT_TRUE(result.out.contains("q8    q8_0     raw       [300, 64]  20400")) << result.out;
}

TEST(Command, InspectAsJson) {
  const TempFolder folder;
  testing::put_tensor_cache(folder.path());
  const CommandResult result = run_command({"inspect", folder.path(), "--json"});
  ASSERT_EQ(result.status, 0) << result.err;
  const Json json = Json::parse(result.out);
  EXPECT_EQ(json["format"], "tensor-cache");
  EXPECT_EQ(json["manifest"], "tensor-cache.json");
  EXPECT_EQ(json["metadata"], (Json{{"model", "sample"}}));
  EXPECT_EQ(json["totals"],
            (Json{{"tensors", 3}, {"elements", 1753}, {"nbytes", 7006}, {"files", 2}}));
  EXPECT_EQ(json["files"][1]["path"], "params_shard_1.bin");
  EXPECT_EQ(json["tensors"][1], (Json{{"name", "b"},
                                      {"dtype", "float32"},
                                      {"encoding", "f32-to-bf16"},
                                      {"shape", {3}},
                                      {"nbytes", 6},
                                      {"file", "params_shard_0.bin"},
                                      {"offset", 4000}}));
  EXPECT_EQ(run_command({"inspect", folder.path(), "--json"}).out, result.out);
}

TEST(Command, NamesCannotTalkToTheTerminal) {
  const TempFolder folder;
  put(folder / "m.safetensors", make_safetensors({{"evil\x1b[2J", "U8", {1}, "x"}}));
  const CommandResult result = run_command({"inspect", folder / "m.safetensors"});
  EXPECT_FALSE(result.out.contains('\x1b'));
  EXPECT_TRUE(result.out.contains("evil\\x1b[2J")) << result.out;
}

TEST(Command, ModelsAtFaultAreStatus1) {
  const TempFolder folder;
  struct Case {
    const char* what;
    const char* code;
    std::vector<std::string> named;
    std::function<void()> prepare;
  };
  const std::string shard = folder / "params_shard_1.bin";
  const std::vector<Case> cases = {
      {"missing model", "not_found", {"tensor-cache.json"}, [] {}},
      {"truncated shard",
       "truncated",
       {"params_shard_1.bin", "2900", "3000"},
       [&] {
         testing::put_tensor_cache(folder.path());
         std::filesystem::resize_file(shard, 2900);
       }},
      {"longer shard",
       "size_mismatch",
       {"params_shard_1.bin", "3100", "3000"},
       [&] {
         testing::put_tensor_cache(folder.path());
         std::filesystem::resize_file(shard, 3100);
       }},
      {"wrong nbytes",
       "size_mismatch",
       {"'c'", "2999", "3000"},
       [&] {
         testing::put_tensor_cache(folder.path(), [](Json& manifest) {
           manifest["records"][1]["records"][0]["nbytes"] = 2999;
         });
       }},
      {"missing file",
       "not_found",
       {"params_shard_1.bin"},
       [&] {
         testing::put_tensor_cache(folder.path());
         std::filesystem::remove(shard);
       }},
      {"a path that leaves the folder",
       "manifest_invalid",
       {"../x"},
       [&] {
         testing::put_tensor_cache(
             folder.path(), [](Json& manifest) { manifest["records"][1]["dataPath"] = "../x"; });
       }},
  };
  for (const Case& c : cases) {
    c.prepare();
    for (std::vector<std::string> arguments :
         {std::vector<std::string>{"inspect", folder.path()},
          {"load", folder.path()},
          {"load", folder.path(), "--discard"},
          {"pack", folder.path(), "--output", folder / "out"}}) {
      const CommandResult result = run_command(arguments);
      EXPECT_EQ(result.status, 1) << c.what;
      EXPECT_TRUE(result.err.starts_with(concat("sluice: ", c.code, ": "))) << result.err;
      for (const std::string& name : c.named)
        EXPECT_TRUE(result.err.contains(name)) << name << " is not in: " << result.err;
      EXPECT_EQ(result.out, "");
      EXPECT_FALSE(std::filesystem::exists(folder / "out")) << c.what;

      arguments.push_back("--json");
      const CommandResult as_json = run_command(arguments);
      EXPECT_EQ(as_json.status, 1) << c.what;
      EXPECT_EQ(as_json.err, result.err);
      EXPECT_EQ(Json::parse(as_json.out)["error"]["code"], c.code);
    }
  }
}

TEST(Command, LoadVerifiesChecksumsWhenAsked) {
  const TempFolder folder;
  testing::put_tensor_cache(folder.path());
  EXPECT_EQ(run_command({"load", folder.path(), "--verify"}).status, 0);
  std::string bytes = get(folder / "params_shard_0.bin");
  bytes[0] ^= 1;
  put(folder / "params_shard_0.bin", bytes);
  const CommandResult result = run_command({"load", folder.path(), "--verify"});
  EXPECT_EQ(result.status, 1);
  EXPECT_TRUE(result.err.starts_with("sluice: checksum_mismatch: ")) << result.err;
  EXPECT_TRUE(result.err.contains("params_shard_0.bin")) << result.err;
}

TEST(Command, LoadWritesDigests) {
  const TempFolder folder;
  const auto tensors = sample_tensors();
  put(folder / "m.safetensors", make_safetensors(tensors));
  std::map<std::string, std::string> lines;
  for (const auto& tensor : tensors) lines[tensor.name] = testing::sha256(tensor.bytes);
  std::string all;
  for (const auto& [name, digest] : lines) all += concat(name, " ", digest, "\n");
  for (const bool discard : {false, true}) {
    std::vector<std::string> arguments = {"load",      folder / "m.safetensors", "--json",
                                          "--digests", folder / "d.json",        "--budget",
                                          "100kB"};
    if (discard) arguments.push_back("--discard");
    const CommandResult result = run_command(arguments);
    ASSERT_EQ(result.status, 0) << result.err;
    const Json digests = Json::parse(get(folder / "d.json"));
    EXPECT_EQ(digests["tensors"].size(), tensors.size());
    for (const auto& tensor : tensors) {
      const Json& entry = digests["tensors"][tensor.name];
      EXPECT_EQ(entry["sha256"], lines[tensor.name]) << tensor.name;
      EXPECT_EQ(entry["nbytes"], tensor.bytes.size());
      EXPECT_EQ(entry["shape"], Json(tensor.shape));
    }
    EXPECT_EQ(digests["tensors"]["half"]["dtype"], "bfloat16");
    EXPECT_EQ(digests["sha256"], testing::sha256(all));
    const Json report = Json::parse(result.out);
    EXPECT_EQ(report["sha256"], digests["sha256"]);
    EXPECT_EQ(report["tensors"], tensors.size());
    EXPECT_LE(report["budget_peak_bytes"], 100'000);
    EXPECT_GT(report["peak_rss_bytes"], 1 << 20);
    std::filesystem::remove(folder / "d.json");
  }
}

TEST(Command, PackedModelsLoadAsTheOriginals) {
  const TempFolder folder;
  put(folder / "m.gguf", testing::make_gguf());
  for (const char* dtype : {"float32", "float16", "bfloat16"}) {
    const std::string out = folder / dtype;
    const CommandResult packed = run_command({"pack", folder / "m.gguf", "--output", out, "--dtype",
                                              dtype, "--shard-size", "8KiB", "--json"});
    ASSERT_EQ(packed.status, 0) << packed.err;
    EXPECT_EQ(Json::parse(packed.out)["tensors"], 3);
    ASSERT_EQ(run_command({"load", folder / "m.gguf", "--dtype", dtype, "--discard", "--digests",
                           folder / "a.json"})
                  .status,
              0);
    ASSERT_EQ(run_command({"load", out, "--discard", "--digests", folder / "b.json"}).status, 0);
    EXPECT_EQ(get(folder / "a.json"), get(folder / "b.json")) << dtype;
    EXPECT_TRUE(Json::parse(get(folder / "a.json"))["tensors"].contains("q4"));
  }
  const CommandResult stored =
      run_command({"pack", folder / "m.gguf", "--output", folder / "stored"});
  EXPECT_EQ(stored.status, 1);
  EXPECT_TRUE(stored.err.contains("'q8'") && stored.err.contains("--dtype float16")) << stored.err;
}

TEST(Command, PackRefusesToReplace) {
  const TempFolder folder;
  testing::put_tensor_cache(folder / "a");
  put(folder / "m.safetensors", make_safetensors(sample_tensors()));
  const CommandResult refused =
      run_command({"pack", folder / "m.safetensors", "--output", folder / "a"});
  EXPECT_EQ(refused.status, 2);
  EXPECT_TRUE(refused.err.contains("--force")) << refused.err;
  EXPECT_EQ(
      run_command({"pack", folder / "m.safetensors", "--output", folder / "a", "--force"}).status,
      0);
}

TEST(Command, QuietInAPipe) {
  const TempFolder folder;
  put(folder / "m.safetensors", make_safetensors(sample_tensors()));
  const CommandResult piped = run_command({"load", folder / "m.safetensors", "--discard"});
  EXPECT_EQ(piped.status, 0);
  EXPECT_EQ(piped.err, "");
  EXPECT_TRUE(piped.out.contains("8 tensors, 28")) << piped.out;
}

TEST(Command, ProgressOnATerminal) {
  const TempFolder folder;
  // Long enough to be shown at any speed
  put_sparse_model(folder / "m.safetensors", 400 << 20);
  const CommandResult terminal =
      run_command({"load", folder / "m.safetensors", "--discard"}, {.terminal = true});
  EXPECT_EQ(terminal.status, 0);
  EXPECT_TRUE(terminal.err.contains("% [") && terminal.err.contains("of 400.0 MiB") &&
              terminal.err.contains("GB/s") && terminal.err.contains("left"))
      << terminal.err;
  EXPECT_TRUE(terminal.err.ends_with("\r\x1b[K")) << "the line is removed at the end";
  const CommandResult quiet =
      run_command({"load", folder / "m.safetensors", "--discard", "--quiet"}, {.terminal = true});
  EXPECT_EQ(quiet.err, "");
  EXPECT_EQ(quiet.out, "");
}

TEST(Command, RefusalsOfTheSystemAreStatus3) {
  const TempFolder folder;
  put(folder / "m.safetensors", make_safetensors(sample_tensors()));
  put(folder / "file", "");
  const CommandResult unwritable =
      run_command({"pack", folder / "m.safetensors", "--output", folder / "file/out"});
  EXPECT_EQ(unwritable.status, 3);
  EXPECT_TRUE(unwritable.err.starts_with("sluice: io: ")) << unwritable.err;
  EXPECT_TRUE(unwritable.err.contains(folder / "file")) << unwritable.err;

  // A file size limit stands in for a full disk: write() fails in the middle of a shard
  std::filesystem::create_directory(folder / "out");
  const CommandResult full =
      run_command({"pack", folder / "m.safetensors", "--output", folder / "out"},
                  {.limits = {{RLIMIT_FSIZE, 1 << 20}}});
  EXPECT_EQ(full.status, 3);
  EXPECT_TRUE(full.err.contains("params_shard_0.bin") && full.err.contains("free some space"))
      << full.err;
  EXPECT_EQ(names_in(folder / "out"), std::set<std::string>());

  EXPECT_EQ(
      run_command({"load", folder / "m.safetensors", "--digests", folder / "no/d.json"}).status, 3);
}

#ifndef SLUICE_ASAN  // reserves more address space than any limit that makes sense here
TEST(Command, MemoryThatIsNotThereIsAnErrorNamingTheTensor) {
  const TempFolder folder;
  put_sparse_model(folder / "m.safetensors", 2ull << 30);
  const CommandResult result =
      run_command({"load", folder / "m.safetensors"}, {.limits = {{RLIMIT_AS, 1ull << 30}}});
  EXPECT_EQ(result.status, 3);
  EXPECT_TRUE(result.err.starts_with("sluice: out_of_device_memory: ")) << result.err;
  EXPECT_TRUE(result.err.contains("'w'") && result.err.contains("2147483648")) << result.err;
}
#endif

TEST(Command, InterruptedItTidiesUp) {
  const TempFolder folder;
  // Long enough at any speed, and killed long before it takes that much of the disk
  put_sparse_model(folder / "m.safetensors", 64ull << 30);
  for (const auto& [number, status] : {std::pair{SIGINT, 130}, {SIGTERM, 143}}) {
    std::filesystem::create_directory(folder / "out");
    const CommandResult result =
        run_command({"pack", folder / "m.safetensors", "--output", folder / "out", "--json"},
                    {.signal = number, .when = [&] { return !names_in(folder / "out").empty(); }});
    EXPECT_EQ(result.status, status);
    EXPECT_TRUE(result.err.starts_with("sluice: aborted: ")) << result.err;
    EXPECT_EQ(Json::parse(result.out)["error"]["code"], "aborted");
    EXPECT_EQ(names_in(folder / "out"), std::set<std::string>());
  }
}

#ifndef SLUICE_ASAN  // shadow memory is no measure
// A record of 1,120 MiB (uint32 [262144, 1120], as Gemma 4 E2B has one) under a budget of 64 MiB.
TEST(Command, MemoryStaysWithinTheBudget) {
  constexpr uint64_t kMiB = 1 << 20;
  constexpr uint64_t kBytes = 262144ull * 1120 * 4;
  const TempFolder folder;
  Digest whole(Digest::Kind::sha256);
  {
    std::ofstream shard(folder / "params_shard_0.bin", std::ios::binary);
    std::string block = testing::random_bytes(kMiB, 1);
    for (uint64_t i = 0; i < kBytes / kMiB; ++i) {
      block.replace(0, 8, little_endian(~i));  // no two are alike
      shard << block;
      whole.update(as_bytes(block));
    }
  }
  const Json record = {{"name", "model.embed_tokens_per_layer.q_weight"},
                       {"shape", {262144, 1120}},
                       {"dtype", "uint32"},
                       {"format", "raw"},
                       {"nbytes", kBytes},
                       {"byteOffset", 0}};
  put(folder / "tensor-cache.json", Json{{"metadata", Json::object()},
                                         {"records",
                                          {{{"dataPath", "params_shard_0.bin"},
                                            {"format", "raw-shard"},
                                            {"nbytes", kBytes},
                                            {"records", Json::array({record})}}}}}
                                        .dump());
  const uint64_t idle = run_command({"--version"}).peak_rss;
  const CommandResult result = run_command({"load", folder.path(), "--discard", "--budget", "64MiB",
                                            "--json", "--digests", folder / "d.json"});
  ASSERT_EQ(result.status, 0) << result.err;
  EXPECT_EQ(
      Json::parse(get(folder / "d.json"))["tensors"][record["name"].get<std::string>()]["sha256"],
      whole.finish());
  EXPECT_LE(result.peak_rss, idle + 128 * kMiB) << "idle: " << idle;
  const Json report = Json::parse(result.out);
  EXPECT_EQ(report["loaded_bytes"], kBytes);
  EXPECT_LE(report["budget_peak_bytes"], 64 * kMiB);
  // The command's own account of it: never more than the system's
  EXPECT_LE(report["peak_rss_bytes"], result.peak_rss + kMiB);
  RecordProperty("peak_rss_mib", static_cast<int>(result.peak_rss / kMiB));
  RecordProperty("idle_rss_mib", static_cast<int>(idle / kMiB));
}

TEST(Command, PackStaysWithinTheBudget) {
  constexpr uint64_t kMiB = 1 << 20;
  const TempFolder folder;
  put_sparse_model(folder / "m.safetensors", 200 * kMiB);
  const uint64_t idle = run_command({"--version"}).peak_rss;
  const CommandResult result = run_command(
      {"pack", folder / "m.safetensors", "--output", folder / "out", "--budget", "8MiB"});
  ASSERT_EQ(result.status, 0) << result.err;
  EXPECT_LE(result.peak_rss, idle + (8 + 64) * kMiB) << "idle: " << idle;
}
#endif

}  // namespace
}  // namespace sluice
