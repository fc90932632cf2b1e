// From a location to a Manifest: which files to look at, in which order. Performs no I/O: it says
// what to read next and is given the bytes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/bytes.h"
#include "core/base/error.h"
#include "core/formats/manifest.h"
#include "core/formats/safetensors/safetensors.h"

namespace sluice {

// Usage: while (auto r = opener.request()) { read it; opener.provide(…) or opener.missing() }
// then manifest(). After an error the opener stays failed.
class Opener {
 public:
  // `name` is the last segment of the model's location: a file ("model.gguf",
  // "model.safetensors.index.json", "tensor-cache.json", …) or nothing for a folder, where the
  // known manifest names are tried in turn. A name of no known ending is told apart by its first
  // bytes.
  explicit Opener(std::string_view name);

  struct Request {
    std::string path;  // relative to the model's folder
    uint64_t begin = 0;
    uint64_t end = 0;  // bytes [begin, end); UINT64_MAX for the rest of the file
  };

  // What to read next; nothing when the manifest is there or an error stands.
  const std::optional<Request>& request() const { return request_; }

  // Answers the current request with its bytes; fewer than asked means that the file ends there.
  // `file_nbytes` is the whole file's size where the host knows it.
  Status provide(Bytes bytes, std::optional<uint64_t> file_nbytes);

  // Answers the current request with: there is no such file. An error once nothing is left to try.
  Status missing();

  // The result, once request() is empty and no error was returned.
  Manifest take_manifest() { return *std::move(manifest_); }
  bool done() const { return manifest_.has_value(); }

  // The place of the manifest or single file that was found, relative to the model's folder.
  const std::string& manifest_path() const { return path_; }

 private:
  enum class Kind : uint8_t { unknown, json, safetensors, gguf, shard_header };

  Status start(std::string_view path, Kind kind);
  Status parse_json_manifest();
  Status parse_header();
  Status next_shard();
  Status finish(Manifest manifest);

  std::vector<std::string> candidates_;  // a folder's manifest names still to try, last one next
  std::vector<std::string> tried_;
  std::string path_;
  Kind kind_ = Kind::unknown;
  std::vector<std::byte> prefix_;  // what was read of the current file
  std::optional<uint64_t> file_nbytes_;
  std::optional<Request> request_;
  std::optional<SafetensorsIndex> index_;
  std::vector<Manifest> shards_;
  std::optional<Manifest> manifest_;
};

}  // namespace sluice
