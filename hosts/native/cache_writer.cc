#include "hosts/native/cache_writer.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <set>
#include <utility>

#include <nlohmann/json.hpp>

#include "core/formats/open.h"
#include "core/formats/tensor_cache/tensor_cache.h"
#include "hosts/native/digest.h"
#include "hosts/native/file.h"

namespace sluice {
namespace {

using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

// Names that a loader would find: they go before another model comes
constexpr const char* kManifestNames[] = {kCacheManifestName, "ndarray-cache.json"};
constexpr std::string_view kShardPrefix = "params_shard_";

// The manifest, in TVM's order of fields; without checksums where these are not known yet.
Json describe(const CacheLayout& layout) {
  Json root;
  root["metadata"] = Json::parse(layout.metadata_json);
  Json& list = root["records"] = Json::array();
  for (size_t s = 0; s < layout.shards.size(); ++s) {
    Json shard;
    shard["dataPath"] = CacheShard::name(s);
    shard["format"] = "raw-shard";
    shard["nbytes"] = layout.shards[s].nbytes;
    Json& records = shard["records"] = Json::array();
    for (const CacheRecord& record : layout.shards[s].records) {
      const CacheTensor& tensor = layout.tensors[record.tensor];
      Json entry;
      entry["name"] = tensor.name;
      entry["shape"] = tensor.shape;
      entry["dtype"] = dtype_name(tensor.dtype);
      entry["format"] = tensor.bf16_encoded ? "f32-to-bf16" : "raw";
      entry["nbytes"] = tensor.nbytes;
      entry["byteOffset"] = record.offset;
      records.push_back(std::move(entry));
    }
    if (!layout.shards[s].md5.empty()) shard["md5sum"] = layout.shards[s].md5;
    list.push_back(std::move(shard));
  }
  return root;
}

std::string text_of(const Json& manifest) { return manifest.dump(2) + "\n"; }

// What stands at the output already.
struct Existing {
  bool anything = false;         // a manifest, or a shard under a name that would be written
  Json manifest;                 // tensor-cache.json; null where there is none that can be read
  std::set<std::string> shards;  // of our naming, as the manifest names them
};

bool exists(const std::string& path) {
  struct stat status{};
  return ::lstat(path.c_str(), &status) == 0;
}

Existing look_at(const std::string& folder, size_t shard_count) {
  Existing existing;
  for (const char* name : kManifestNames) existing.anything |= exists(folder + name);
  for (size_t s = 0; s < shard_count && !existing.anything; ++s)
    existing.anything = exists(folder + CacheShard::name(s));
  const std::string path = folder + kCacheManifestName;
  const auto file = open_input(path);
  if (!file || file->nbytes > kMaxJsonManifest) return existing;
  std::string text(file->nbytes, '\0');
  if (!read_at(file->descriptor, 0, std::as_writable_bytes(std::span(text)), path)) return existing;
  // Only what a reader would accept is a model; its paths are inside the folder then
  const auto manifest = parse_tensor_cache(text, kCacheManifestName);
  if (!manifest) return existing;
  existing.manifest = Json::parse(text, nullptr, false);
  for (const FileEntry& entry : manifest->files)
    if (entry.path.starts_with(kShardPrefix) && !entry.path.contains('/'))
      existing.shards.insert(entry.path);
  return existing;
}

Error occupied(const std::string& folder) {
  return {.code = ErrorCode::invalid_argument,
          .message = concat("another model stands in ", quote(folder)),
          .file = folder,
          .hint = "choose another folder, or replace the model with --force"};
}

// The output folder, and inside it the temporary one; whatever was made goes again unless keep()
// is called.
class Workplace {
 public:
  explicit Workplace(const std::string& output)
      : output_(output.ends_with('/') ? output : output + '/') {}
  Workplace(const Workplace&) = delete;
  Workplace& operator=(const Workplace&) = delete;
  ~Workplace() {
    std::error_code ignored;
    for (const std::string& path : written_) fs::remove(path, ignored);
    if (!temporary_.empty()) fs::remove_all(temporary_, ignored);
    // Only ever an empty folder of our own making
    for (const std::string& path : made_) ::rmdir(path.c_str());
  }

  Status make() {
    SLUICE_TRY(make_folders());
    std::string pattern = output_ + ".sluice-write-XXXXXX";
    if (::mkdtemp(pattern.data()) == nullptr) return failure("write to", output_);
    temporary_ = pattern + '/';
    return {};
  }

  const std::string& output() const { return output_; }
  const std::string& temporary() const { return temporary_; }

  // Moves a finished file to its final name. It goes again after an error if it is `new_there`.
  Status publish(const std::string& name, bool new_there) {
    SLUICE_TRY(rename_file(temporary_ + name, output_ + name));
    if (new_there) written_.push_back(output_ + name);
    return {};
  }

  void keep() {
    written_.clear();
    made_.clear();
  }

 private:
  static std::unexpected<Error> failure(std::string_view what, const std::string& path) {
    Error error = system_error(what, path, errno);
    error.code = ErrorCode::io;
    return std::unexpected(std::move(error));
  }

  // Every folder on the way to the output that is not there yet.
  Status make_folders() {
    for (size_t slash = output_.find('/', 1); slash != std::string::npos;
         slash = output_.find('/', slash + 1)) {
      const std::string folder = output_.substr(0, slash);
      if (::mkdir(folder.c_str(), 0777) == 0)
        made_.insert(made_.begin(), folder);
      else if (errno != EEXIST)
        return failure("make the folder", folder);
    }
    return {};
  }

  std::string output_, temporary_;    // with '/' at the end
  std::vector<std::string> made_;     // folders, innermost first
  std::vector<std::string> written_;  // files under their final names
};

// Writes the shards to a folder.
class FolderWriter : public ShardWriter {
 public:
  FolderWriter(std::vector<CacheShard>& shards, std::string folder)
      : shards_(shards), folder_(std::move(folder)), md5_(Digest::Kind::md5) {}

  Status write(uint32_t shard, Bytes bytes) override {
    SLUICE_TRY(go_to(shard));
    md5_.update(bytes);
    written_ += bytes.size();
    return write_all(file_, bytes, path_);
  }

  // Closes the last shard, and those that have no bytes.
  Status finish() {
    if (!shards_.empty()) SLUICE_TRY(go_to(static_cast<uint32_t>(shards_.size()) - 1));
    return close();
  }

 private:
  Status go_to(uint32_t shard) {
    while (!file_ || current_ < shard) {
      if (file_) {
        SLUICE_TRY(close());
        ++current_;
      }
      path_ = folder_ + CacheShard::name(current_);
      SLUICE_ASSIGN(file_, create_file(path_));
    }
    return {};
  }

  Status close() {
    if (!file_) return {};
    if (written_ != shards_[current_].nbytes)
      return std::unexpected(Error{.code = ErrorCode::internal,
                                   .message = concat(path_, " got ", written_, " bytes instead of ",
                                                     shards_[current_].nbytes)});
    shards_[current_].md5 = md5_.finish();
    SLUICE_TRY(sync_file(file_, path_));
    file_.close();
    written_ = 0;
    return {};
  }

  std::vector<CacheShard>& shards_;
  std::string folder_;
  uint32_t current_ = 0;
  FileDescriptor file_;
  std::string path_;
  uint64_t written_ = 0;
  Digest md5_;
};

// Puts everything under its final name: the manifest last, so that what a reader finds is whole.
Status publish(Workplace& workplace, const std::vector<CacheShard>& shards,
               const Existing& existing, bool same) {
  const std::string& folder = workplace.output();
  if (!same)
    for (const char* name : kManifestNames)
      if (::unlink((folder + name).c_str()) != 0 && errno != ENOENT)
        return std::unexpected(system_error("replace", folder + name, errno));
  for (size_t s = 0; s < shards.size(); ++s)
    SLUICE_TRY(workplace.publish(CacheShard::name(s), !same));
  SLUICE_TRY(sync_folder(folder));
  SLUICE_TRY(workplace.publish(kCacheManifestName, !same));
  SLUICE_TRY(sync_folder(folder));
  workplace.keep();
  // What the model before this one had beyond it belongs to nobody now
  std::set<std::string> left = existing.shards;
  for (size_t s = 0; s < shards.size(); ++s) left.erase(CacheShard::name(s));
  for (const std::string& name : left) (void)::unlink((folder + name).c_str());
  return {};
}

}  // namespace

std::string CacheShard::name(size_t index) { return concat(kShardPrefix, index, ".bin"); }

bool cache_can_hold(DType dtype) { return !dtype_info(dtype).is_quantized && dtype != DType::c64; }

std::vector<CacheShard> cut_into_shards(std::span<const CacheTensor> tensors,
                                        std::span<const uint32_t> order, uint64_t shard_bytes) {
  std::vector<CacheShard> shards;
  for (const uint32_t t : order) {
    const uint64_t nbytes = tensors[t].nbytes;
    const bool full =
        shards.empty() ||
        (nbytes > 0 && shards.back().nbytes > 0 &&
         (shards.back().nbytes > shard_bytes || nbytes > shard_bytes - shards.back().nbytes));
    if (full) shards.emplace_back();
    shards.back().records.push_back({.tensor = t, .offset = shards.back().nbytes});
    shards.back().nbytes += nbytes;
  }
  return shards;
}

std::string cache_manifest(const CacheLayout& layout) { return text_of(describe(layout)); }

Result<CacheLayout> write_cache(CacheLayout layout, const std::string& output, bool force,
                                const std::function<Status(ShardWriter&)>& produce,
                                const std::atomic<bool>* stop) {
  if (output.empty())
    return std::unexpected(
        Error{.code = ErrorCode::invalid_argument, .message = "the output folder's name is empty"});
  Workplace workplace(output);
  const Existing existing = look_at(workplace.output(), layout.shards.size());
  if (existing.anything && !force) {
    // What differs in its shape is refused before the work, what differs in its bytes behind it
    Json before = existing.manifest;
    if (before.is_object())
      for (Json& shard : before["records"]) shard.erase("md5sum");
    if (before != describe(layout)) return std::unexpected(occupied(output));
  }
  SLUICE_TRY(workplace.make());
  FolderWriter writer(layout.shards, workplace.temporary());
  SLUICE_TRY(produce(writer));
  SLUICE_TRY(writer.finish());

  const Json document = describe(layout);
  const bool same = document == existing.manifest;
  if (existing.anything && !same && !force) return std::unexpected(occupied(output));
  const std::string path = workplace.temporary() + kCacheManifestName;
  SLUICE_ASSIGN(const FileDescriptor file, create_file(path));
  SLUICE_TRY(write_all(file, as_bytes(text_of(document)), path));
  SLUICE_TRY(sync_file(file, path));
  if (stop != nullptr && stop->load(std::memory_order_relaxed))
    return std::unexpected(Error{.code = ErrorCode::aborted, .message = "interrupted"});
  SLUICE_TRY(publish(workplace, layout.shards, existing, same));
  return layout;
}

}  // namespace sluice
