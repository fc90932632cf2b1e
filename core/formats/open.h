// From a location to a Manifest: which files to look at, in which order. Performs no I/O: it says
// what to read next and is given the bytes.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/bytes.h"
#include "core/base/error.h"
#include "core/formats/manifest.h"
#include "core/formats/safetensors/safetensors.h"

namespace sluice {

// The longest JSON manifest that is read, in bytes. A host may stop reading one byte behind it;
// Opener then refuses it.
inline constexpr uint64_t kMaxJsonManifest = 256ull << 20;

// Usage: while (auto r = opener.request()) { read it; opener.provide(…) or opener.missing() }
// then manifest(). After an error the opener stays failed.
class Opener {
 public:
  // `name` is the last segment of the model's location: a file ("model.gguf",
  // "model.safetensors.index.json", "tensor-cache.json", …) or nothing for a folder, where the
  // known manifest names are tried in turn. A name of no known ending is told apart by its first
  // bytes. Any part of a split GGUF model stands for the whole of it.
  explicit Opener(std::string_view name);

  struct Request {
    std::string path;  // relative to the model's folder
    uint64_t begin = 0;
    uint64_t end = 0;  // bytes [begin, end); UINT64_MAX for the rest of the file
  };

  // What to read next; nothing when the manifest is there or an error stands.
  const std::optional<Request>& request() const { return request_; }

  // Files that will be asked for later with this same request, which is one from a file's start, in
  // their order: a host may read some ahead. Empty where none are known.
  std::span<const std::string> upcoming() const;

  // Answers the current request with its bytes, which are copied; fewer than asked means that the
  // file ends there, and what exceeds the request is passed over. `file_nbytes` is the whole file's
  // size where the host knows it. Errors: the parsers' own, truncated, source_changed.
  Status provide(Bytes bytes, std::optional<uint64_t> file_nbytes);

  // Answers the current request with: there is no such file. not_found once nothing is left to try.
  Status missing();

  // The result, once request() is empty and no error was returned.
  Manifest take_manifest() { return *std::move(manifest_); }
  bool done() const { return manifest_.has_value(); }

  // The place of the manifest or single file that was found, relative to the model's folder.
  const std::string& manifest_path() const { return path_; }

 private:
  enum class Kind : uint8_t { unknown, json, safetensors, gguf, shard };

  void start_candidate();
  void start(std::string_view path);
  void ask_from_start(std::string_view path);
  Status accept(Bytes bytes, std::optional<uint64_t> file_nbytes);
  Status parse();
  Status parse_json_manifest();
  Status parse_header();
  Status next_shard();
  Status next_gguf_part();
  void finish(Manifest manifest);
  Status fail(Error error);

  std::vector<std::string> candidates_;  // a folder's manifest names still to try, last one next
  std::vector<std::string> tried_;
  std::string path_;  // the manifest or single file
  Kind kind_ = Kind::unknown;
  std::vector<std::byte> prefix_;        // what was read of the current file
  std::optional<uint64_t> file_nbytes_;  // its size, where known
  std::optional<Request> request_;
  std::optional<SafetensorsIndex> index_;
  // Headers of the index's first files; or of the GGUF part that was asked for, then of the others
  std::vector<Manifest> shards_;
  std::optional<Manifest> manifest_;
  std::optional<Error> failure_;
};

}  // namespace sluice
