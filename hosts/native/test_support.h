// For tests: folders that go away, small models of every format, and the command run as a process.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <random>
#include <set>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/formats/test_files.h"
#include "hosts/native/digest.h"

namespace sluice::testing {

using Json = nlohmann::ordered_json;

// A folder below the current one, which is the build's, removed with all that is in it.
class TempFolder {
 public:
  TempFolder() {
    std::string pattern = "native-test-XXXXXX";
    if (::mkdtemp(pattern.data()) == nullptr) std::abort();
    path_ = std::filesystem::absolute(pattern).string() + "/";
  }
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  std::string operator/(const std::string& name) const { return path_ + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

inline void put(const std::string& path, const std::string& bytes) {
  std::filesystem::create_directories(std::filesystem::path(path).parent_path());
  std::ofstream(path, std::ios::binary) << bytes;
}

inline std::string get(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline std::set<std::string> names_in(const std::string& folder) {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    names.insert(entry.path().filename().string());
  return names;
}

inline std::string sha256(std::string_view bytes) {
  Digest digest(Digest::Kind::sha256);
  digest.update(as_bytes(bytes));
  return digest.finish();
}

inline std::string random_bytes(size_t nbytes, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::string out(nbytes, '\0');
  for (char& c : out) c = static_cast<char>(random());
  return out;
}

// Finite floats of which the lower half is 0, so that bfloat16 holds them exactly.
inline std::string bf16_exact_floats(size_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::string out;
  for (size_t i = 0; i < count; ++i)
    out += little_endian<uint32_t>(static_cast<uint32_t>(0x3C00 + random() % 0x800) << 16);
  return out;
}

struct SafetensorsTensor {
  std::string name, dtype;  // dtype as safetensors writes it
  std::vector<uint64_t> shape;
  std::string bytes;
};

inline std::string make_safetensors(const std::vector<SafetensorsTensor>& tensors,
                                    const Json& metadata = {}) {
  Json header = Json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::string data;
  for (const auto& tensor : tensors) {
    header[tensor.name] = {{"dtype", tensor.dtype},
                           {"shape", tensor.shape},
                           {"data_offsets", {data.size(), data.size() + tensor.bytes.size()}}};
    data += tensor.bytes;
  }
  return safetensors_file(header.dump()) + data;
}

// One of each kind: floats, integers, odd sizes, a scalar, nothing at all.
inline std::vector<SafetensorsTensor> sample_tensors() {
  return {
      {"embed", "F32", {100, 33}, bf16_exact_floats(3300, 1)},
      {"norm", "F16", {7}, random_bytes(14, 2)},
      {"half", "BF16", {5, 3}, random_bytes(30, 3)},
      {"ids", "I64", {9}, random_bytes(72, 4)},
      {"mask", "U8", {13}, random_bytes(13, 5)},
      {"scalar", "F32", {}, bf16_exact_floats(1, 6)},
      {"empty", "F32", {0, 4}, ""},
      {"large", "F32", {700, 1000}, bf16_exact_floats(700'000, 7)},
  };
}

// A GGUF file with a q8_0 matrix, a q4_1 matrix and a float vector. The scales are small floats.
inline std::string make_gguf() {
  constexpr uint64_t kRows = 300;
  GgufBuilder builder;
  builder.pair("general.architecture", 8, GgufBuilder::text("llama"))
      .tensor("q8", {64, kRows}, 8, 0)
      .tensor("q4", {64, kRows}, 3, kRows * 2 * 34 + 16)
      .tensor("f32", {5}, 0, kRows * 2 * (34 + 20) + 16);
  std::string q8, q4;
  for (uint64_t block = 0; block < kRows * 2; ++block) {
    q8 += little_endian<uint16_t>(static_cast<uint16_t>(0x2000 + block)) + random_bytes(32, block);
    q4 += little_endian<uint16_t>(static_cast<uint16_t>(0x2100 + block)) +
          little_endian<uint16_t>(static_cast<uint16_t>(0xA000 + block)) +
          random_bytes(16, block + 1000);
  }
  std::string out = builder.header();
  out.resize(builder.data_start());
  return out + q8 + std::string(16, '\0') + q4 + bf16_exact_floats(5, 9);
}

// A folder with a tensor cache of two shards; `change` may falsify its manifest.
inline void put_tensor_cache(const std::string& folder,
                             const std::function<void(Json&)>& change = {}) {
  const std::string first = bf16_exact_floats(1000, 11) + random_bytes(6, 12);
  const std::string second = random_bytes(3000, 13);
  const auto md5 = [](const std::string& bytes) {
    Digest digest(Digest::Kind::md5);
    digest.update(as_bytes(bytes));
    return digest.finish();
  };
  const auto record = [](const char* name, Json shape, const char* dtype, const char* format,
                         uint64_t nbytes, uint64_t offset) {
    return Json{{"name", name},     {"shape", std::move(shape)}, {"dtype", dtype},
                {"format", format}, {"nbytes", nbytes},          {"byteOffset", offset}};
  };
  Json manifest = {{"metadata", {{"model", "sample"}}},
                   {"records",
                    {{{"dataPath", "params_shard_0.bin"},
                      {"format", "raw-shard"},
                      {"nbytes", first.size()},
                      {"records",
                       {record("a", {10, 100}, "float32", "f32-to-bf16", 4000, 0),
                        record("b", {3}, "float32", "f32-to-bf16", 6, 4000)}},
                      {"md5sum", md5(first)}},
                     {{"dataPath", "params_shard_1.bin"},
                      {"format", "raw-shard"},
                      {"nbytes", second.size()},
                      {"records", Json::array({record("c", {750}, "uint32", "raw", 3000, 0)})},
                      {"md5sum", md5(second)}}}}};
  if (change) change(manifest);
  put(folder + "/params_shard_0.bin", first);
  put(folder + "/params_shard_1.bin", second);
  put(folder + "/tensor-cache.json", manifest.dump());
}

struct CommandOptions {
  bool terminal = false;  // stderr is a terminal
  // Soft limits of the process, by RLIMIT_…
  std::vector<std::pair<int, uint64_t>> limits = {};
  // Sent once `when` returns true
  int signal = 0;
  std::function<bool()> when = {};
};

struct CommandResult {
  int status = -1;  // of the exit; 1000 + signal where one ended it
  std::string out, err;
  uint64_t peak_rss = 0;  // bytes
};

// Runs the command that the build made, SLUICE_COMMAND.
inline CommandResult run_command(const std::vector<std::string>& arguments,
                                 const CommandOptions& options = {}) {
  const TempFolder folder;
  int terminal = -1;
  std::string error_path = folder / "err";
  if (options.terminal) {
    terminal = ::posix_openpt(O_RDWR | O_NOCTTY);
    if (terminal < 0 || ::grantpt(terminal) != 0 || ::unlockpt(terminal) != 0) return {};
    error_path = ::ptsname(terminal);
  }
  std::vector<char*> argv = {const_cast<char*>("sluice")};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const std::string out_path = folder / "out";
  const pid_t child = ::fork();
  if (child == 0) {
    for (const auto& [resource, value] : options.limits) {
      rlimit limit{};
      ::getrlimit(static_cast<__rlimit_resource>(resource), &limit);
      limit.rlim_cur = value;
      ::setrlimit(static_cast<__rlimit_resource>(resource), &limit);
    }
    const int out = ::open(out_path.c_str(), O_WRONLY | O_CREAT, 0600);
    const int err = ::open(error_path.c_str(), O_WRONLY | O_CREAT | O_NOCTTY, 0600);
    ::dup2(out, STDOUT_FILENO);
    ::dup2(err, STDERR_FILENO);
    ::execv(SLUICE_COMMAND, argv.data());
    ::_exit(127);
  }
  int status = 0;
  rusage usage{};
  CommandResult result;
  const auto read_terminal = [&] {
    char text[4096];
    const ssize_t n = ::read(terminal, text, sizeof text);
    if (n > 0) result.err.append(text, static_cast<size_t>(n));
    return n > 0;
  };
  if (terminal >= 0) ::fcntl(terminal, F_SETFL, O_NONBLOCK);
  bool sent = options.signal == 0;
  for (;;) {
    const pid_t ended = ::wait4(child, &status, WNOHANG, &usage);
    if (ended == child) break;
    if (!sent && options.when()) {
      ::kill(child, options.signal);
      sent = true;
    }
    if (terminal < 0 || !read_terminal()) ::usleep(500);
  }
  if (terminal >= 0) {
    while (read_terminal()) {
    }
    ::close(terminal);
  } else {
    result.err = get(error_path);
  }
  result.out = get(out_path);
  result.status = WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
  result.peak_rss = static_cast<uint64_t>(usage.ru_maxrss) << 10;
  return result;
}

}  // namespace sluice::testing
