#include "core/formats/open.h"

#include <algorithm>
#include <utility>

#include "core/base/json.h"
#include "core/base/path.h"
#include "core/formats/gguf/gguf.h"
#include "core/formats/gguf/split.h"
#include "core/formats/tensor_cache/tensor_cache.h"

namespace sluice {
namespace {

// Enough for the header of most files, and little beside any model.
constexpr uint64_t kFirstPrefix = 256u << 10;

Error open_error(ErrorCode code, std::string_view file, std::string message) {
  return Error{.code = code, .message = std::move(message), .file = std::string(file)};
}

bool is_safetensors_length(Bytes prefix) {
  const auto length = ByteReader(prefix).read<uint64_t>();
  return length && *length <= kSafetensorsMaxHeader;
}

bool is_json(Bytes prefix) {
  const std::string_view text = as_text(prefix);
  const size_t first = text.find_first_not_of(" \t\r\n");
  return first != std::string_view::npos && text[first] == '{';
}

}  // namespace

Opener::Opener(std::string_view name) {
  if (name.empty()) {
    // Taken from the back: the current name of TVM's manifest first
    candidates_ = {"model.safetensors", "model.safetensors.index.json", "ndarray-cache.json",
                   "tensor-cache.json"};
    start_candidate();
  } else {
    start(name);
  }
}

void Opener::start_candidate() {
  const std::string name = std::move(candidates_.back());
  candidates_.pop_back();
  start(name);
}

void Opener::start(std::string_view path) {
  path_ = path;
  kind_ = path.ends_with(".json")          ? Kind::json
          : path.ends_with(".gguf")        ? Kind::gguf
          : path.ends_with(".safetensors") ? Kind::safetensors
                                           : Kind::unknown;
  ask_from_start(path_);
}

void Opener::ask_from_start(std::string_view path) {
  prefix_.clear();
  file_nbytes_.reset();
  request_ = Request{.path = std::string(path),
                     .begin = 0,
                     .end = kind_ == Kind::json ? UINT64_MAX : kFirstPrefix};
}

std::span<const std::string> Opener::upcoming() const {
  if (kind_ != Kind::shard || !request_ || request_->begin > 0) return {};
  return std::span(index_->files).subspan(shards_.size() + 1);
}

Status Opener::fail(Error error) {
  request_.reset();
  failure_ = std::move(error);
  return std::unexpected(*failure_);
}

Status Opener::provide(Bytes bytes, std::optional<uint64_t> file_nbytes) {
  if (failure_) return std::unexpected(*failure_);
  if (!request_)
    return std::unexpected(
        open_error(ErrorCode::invalid_argument, path_, "no request stands to be answered"));
  if (Status status = accept(bytes, file_nbytes); !status) return fail(std::move(status).error());
  if (Status status = parse(); !status) return fail(std::move(status).error());
  return {};
}

// Takes the answer into prefix_ and learns from it where the file ends.
Status Opener::accept(Bytes bytes, std::optional<uint64_t> file_nbytes) {
  const Request& request = *request_;
  if (file_nbytes_ && file_nbytes && file_nbytes_ != file_nbytes) {
    Error error = open_error(ErrorCode::source_changed, request.path,
                             concat(request.path, " had ", *file_nbytes_, " bytes and now has ",
                                    *file_nbytes, ": it changed while it was read"));
    error.expected = file_nbytes_;
    error.actual = file_nbytes;
    return std::unexpected(std::move(error));
  }
  if (file_nbytes) file_nbytes_ = file_nbytes;
  const uint64_t asked = request.end - request.begin;
  // A server that ignores ranges sends more than was asked.
  if (bytes.size() > asked) bytes = bytes.first(static_cast<size_t>(asked));
  const uint64_t end = request.begin + bytes.size();
  if (end < request.end) {
    if (file_nbytes_ && end < std::min(request.end, *file_nbytes_)) {
      Error error = open_error(ErrorCode::truncated, request.path,
                               concat(request.path, " has ", *file_nbytes_,
                                      " bytes by its server's account, but ends at byte ", end));
      error.expected = file_nbytes_;
      error.actual = end;
      return std::unexpected(std::move(error));
    }
    if (!file_nbytes_) file_nbytes_ = end;
  }
  if (kind_ == Kind::json && std::max(end, file_nbytes_.value_or(0)) > kMaxJsonManifest) {
    Error error = open_error(ErrorCode::manifest_invalid, request.path,
                             concat(request.path, " has more than ", kMaxJsonManifest,
                                    " bytes, the limit of a JSON manifest"));
    error.expected = kMaxJsonManifest;
    error.actual = std::max(end, file_nbytes_.value_or(0));
    return std::unexpected(std::move(error));
  }
  prefix_.insert(prefix_.end(), bytes.begin(), bytes.end());
  return {};
}

Status Opener::parse() {
  if (kind_ == Kind::unknown) {
    if (as_text(prefix_).starts_with("GGUF")) {
      kind_ = Kind::gguf;
    } else if (is_safetensors_length(prefix_)) {
      // Before JSON: a length may begin with the bytes of ' ' or '{', but its upper bytes are
      // zeros, which JSON text never holds.
      kind_ = Kind::safetensors;
    } else if (is_json(prefix_)) {
      kind_ = Kind::json;
      if (!file_nbytes_ || prefix_.size() < *file_nbytes_) {
        request_->begin = prefix_.size();
        request_->end = UINT64_MAX;
        return {};
      }
    } else {
      Error error = open_error(ErrorCode::manifest_invalid, path_,
                               concat(path_, " is neither GGUF, safetensors nor a JSON manifest"));
      error.hint = foreign_file_hint(prefix_);
      return std::unexpected(std::move(error));
    }
  }
  return kind_ == Kind::json ? parse_json_manifest() : parse_header();
}

Status Opener::parse_json_manifest() {
  const std::string_view text = as_text(prefix_);
  auto parsed = parse_json(text, path_);
  if (!parsed) {
    Error error = std::move(parsed).error();
    if (error.hint.empty()) error.hint = foreign_file_hint(prefix_);
    return std::unexpected(std::move(error));
  }
  if (parsed->find("records") != nullptr) {
    SLUICE_ASSIGN(Manifest manifest, read_tensor_cache(*parsed, path_));
    finish(std::move(manifest));
    return {};
  }
  if (parsed->find("weight_map") != nullptr) {
    SLUICE_ASSIGN(index_, read_safetensors_index(*parsed, path_));
    kind_ = Kind::shard;
    return next_shard();
  }
  return std::unexpected(
      open_error(ErrorCode::manifest_invalid, path_,
                 concat(path_,
                        " is neither a tensor cache (no 'records') nor a safetensors index (no "
                        "'weight_map')")));
}

Status Opener::parse_header() {
  const std::string path = request_->path;
  SLUICE_ASSIGN(auto result, kind_ == Kind::gguf ? parse_gguf(prefix_, file_nbytes_, path)
                                                 : parse_safetensors(prefix_, file_nbytes_, path));
  if (!result.value) {
    request_->begin = prefix_.size();
    request_->end = result.needs;
    return {};
  }
  if (kind_ == Kind::safetensors) {
    finish(*std::move(result.value));
    return {};
  }
  shards_.push_back(*std::move(result.value));
  return kind_ == Kind::gguf ? next_gguf_part() : next_shard();
}

Status Opener::next_shard() {
  if (shards_.size() < index_->files.size()) {
    ask_from_start(index_->files[shards_.size()]);
    return {};
  }
  SLUICE_ASSIGN(Manifest manifest, join_safetensors(*index_, std::exchange(shards_, {}), path_));
  finish(std::move(manifest));
  return {};
}

// Takes the file that was just read; asks for the others of a split model in their order.
Status Opener::next_gguf_part() {
  SLUICE_ASSIGN(const uint64_t count, gguf_part_count(shards_.back()));
  if (count == 1 && shards_.size() == 1) {
    finish(std::move(shards_.back()));
    return {};
  }
  GgufPartName name = *parse_gguf_part_name(path_);  // holds for the first, by gguf_part_count()
  if (count != name.count)
    return std::unexpected(
        open_error(ErrorCode::manifest_invalid, request_->path,
                   concat(request_->path, " is not split by its metadata (no split.count), but ",
                          path_, " is part ", name.number, " of ", name.count)));
  const auto given = static_cast<std::ptrdiff_t>(name.number) - 1;
  if (shards_.size() < count) {
    const auto next = static_cast<uint32_t>(shards_.size());
    name.number = next < name.number ? next : next + 1;
    ask_from_start(gguf_part_path(name));
    return {};
  }
  std::rotate(shards_.begin(), shards_.begin() + 1, shards_.begin() + 1 + given);
  SLUICE_ASSIGN(Manifest manifest, join_gguf(std::exchange(shards_, {})));
  finish(std::move(manifest));
  return {};
}

void Opener::finish(Manifest manifest) {
  manifest_ = std::move(manifest);
  request_.reset();
  prefix_ = {};
}

Status Opener::missing() {
  if (failure_) return std::unexpected(*failure_);
  if (!request_)
    return std::unexpected(
        open_error(ErrorCode::invalid_argument, path_, "no request stands to be answered"));
  if (request_->begin > 0)
    return fail(open_error(ErrorCode::source_changed, request_->path,
                           concat(request_->path, " went away while it was read")));
  if (kind_ == Kind::shard || !shards_.empty()) {
    Error error = open_error(
        ErrorCode::not_found, request_->path,
        concat(path_, " needs the file ", quote(request_->path), ", which does not exist"));
    error.hint = "all files of a model must lie beside each other";
    return fail(std::move(error));
  }
  tried_.push_back(path_);
  if (!candidates_.empty()) {
    start_candidate();
    return {};
  }
  std::string tried;
  for (const std::string& name : tried_) tried += concat(tried.empty() ? "" : ", ", name);
  Error error = open_error(ErrorCode::not_found, tried_.back(),
                           concat("no model at this place; tried ", tried));
  error.hint = tried_.size() > 1 ? "give the URL of the file itself" : "check the URL";
  return fail(std::move(error));
}

}  // namespace sluice
