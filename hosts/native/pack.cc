#include "hosts/native/pack.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <numeric>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "core/formats/open.h"
#include "core/formats/tensor_cache/tensor_cache.h"
#include "hosts/native/digest.h"
#include "hosts/native/file.h"

namespace sluice {
namespace {

using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

constexpr const char* kManifestName = "tensor-cache.json";
// Names that a loader would find: they go before another model comes
constexpr const char* kManifestNames[] = {kManifestName, "ndarray-cache.json"};
constexpr std::string_view kShardPrefix = "params_shard_";

struct Record {
  uint32_t tensor = 0;
  uint64_t offset = 0;  // bytes from the shard's start
};

struct Shard {
  uint64_t nbytes = 0;
  std::vector<Record> records;
  std::string md5;

  static std::string name(size_t index) { return concat(kShardPrefix, index, ".bin"); }
};

// What each record says of itself.
struct RecordType {
  DType dtype;
  bool bf16_encoded;
};

bool expressible(DType dtype) { return !dtype_info(dtype).is_quantized && dtype != DType::c64; }

// Which type each tensor has in the cache; sets PlanOptions::tensor_dtypes where its bytes have
// another one.
Result<std::vector<RecordType>> choose_types(const Manifest& manifest, bool bf16_encode,
                                             PlanOptions& plan_options) {
  SLUICE_ASSIGN(const Plan plan, make_plan(manifest, plan_options));
  std::vector<RecordType> types;
  types.reserve(manifest.tensors.size());
  for (uint32_t t = 0; t < manifest.tensors.size(); ++t) {
    const TensorEntry& tensor = manifest.tensors[t];
    const DType dtype = plan.placements[t].dtype;
    if (!expressible(dtype))
      return std::unexpected(Error{
          .code = ErrorCode::unsupported_dtype,
          .message = concat("tensor ", quote(tensor.name), " of ", manifest.files[tensor.file].path,
                            " is ", dtype_name(dtype), ", which a tensor cache has no type for"),
          .file = manifest.files[tensor.file].path,
          .tensor = tensor.name,
          .hint = dtype_info(dtype).is_quantized
                      ? "convert it with --dtype float16, bfloat16 or float32"
                      : "",
      });
    types.push_back({.dtype = dtype, .bf16_encoded = bf16_encode && dtype == DType::f32});
  }
  if (bf16_encode) {
    plan_options.tensor_dtypes.resize(types.size());
    for (size_t t = 0; t < types.size(); ++t)
      if (types[t].bf16_encoded) plan_options.tensor_dtypes[t] = DType::bf16;
  }
  return types;
}

// Tensors in the order in which a load gives them, cut into shards.
std::vector<Shard> lay_out(const Manifest& manifest, const Plan& plan, uint64_t shard_bytes) {
  std::vector<uint32_t> order(manifest.tensors.size());
  std::iota(order.begin(), order.end(), 0u);
  std::ranges::sort(order, {}, [&](uint32_t t) {
    return std::tuple(manifest.tensors[t].file, manifest.tensors[t].offset, t);
  });
  std::vector<Shard> shards;
  for (const uint32_t t : order) {
    const uint64_t nbytes = plan.placements[t].nbytes;
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

// The manifest, in TVM's order of fields; without checksums where these are not known yet.
Json describe(const Manifest& manifest, const Plan& plan, const std::vector<RecordType>& types,
              const std::vector<Shard>& shards) {
  Json root;
  root["metadata"] = Json::parse(manifest.metadata_json);
  Json& list = root["records"] = Json::array();
  for (size_t s = 0; s < shards.size(); ++s) {
    Json shard;
    shard["dataPath"] = Shard::name(s);
    shard["format"] = "raw-shard";
    shard["nbytes"] = shards[s].nbytes;
    Json& records = shard["records"] = Json::array();
    for (const Record& record : shards[s].records) {
      const RecordType type = types[record.tensor];
      Json entry;
      entry["name"] = manifest.tensors[record.tensor].name;
      entry["shape"] = manifest.tensors[record.tensor].shape;
      entry["dtype"] = dtype_name(type.dtype);
      entry["format"] = type.bf16_encoded ? "f32-to-bf16" : "raw";
      entry["nbytes"] = plan.placements[record.tensor].nbytes;
      entry["byteOffset"] = record.offset;
      records.push_back(std::move(entry));
    }
    if (!shards[s].md5.empty()) shard["md5sum"] = shards[s].md5;
    list.push_back(std::move(shard));
  }
  return root;
}

Status check_names(const Manifest& manifest) {
  for (const TensorEntry& tensor : manifest.tensors) {
    try {
      (void)Json(tensor.name).dump();
    } catch (const Json::exception&) {
      return std::unexpected(Error{
          .code = ErrorCode::manifest_invalid,
          .message =
              concat("the tensor name ", quote(tensor.name), " of ",
                     manifest.files[tensor.file].path, " is not UTF-8, which JSON cannot hold"),
          .file = manifest.files[tensor.file].path,
          .tensor = tensor.name,
      });
    }
  }
  return {};
}

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
    existing.anything = exists(folder + Shard::name(s));
  const std::string path = folder + kManifestName;
  const auto file = open_input(path);
  if (!file || file->nbytes > kMaxJsonManifest) return existing;
  std::string text(file->nbytes, '\0');
  if (!read_at(file->descriptor, 0, std::as_writable_bytes(std::span(text)), path)) return existing;
  // Only what a reader would accept is a model; its paths are inside the folder then
  const auto manifest = parse_tensor_cache(text, kManifestName);
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
    std::string pattern = output_ + ".sluice-pack-XXXXXX";
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

// Writes the tensors' bytes to shards, one after another.
class ShardSink : public Sink {
 public:
  ShardSink(std::vector<Shard>& shards, size_t tensors, std::string folder)
      : shards_(shards), shard_of_(tensors), folder_(std::move(folder)), md5_(Digest::Kind::md5) {
    for (uint32_t s = 0; s < shards.size(); ++s)
      for (const Record& record : shards[s].records) shard_of_[record.tensor] = s;
  }

  Status write(uint32_t tensor, Bytes bytes) override {
    SLUICE_TRY(go_to(shard_of_[tensor]));
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
      path_ = folder_ + Shard::name(current_);
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

  std::vector<Shard>& shards_;
  std::vector<uint32_t> shard_of_;
  std::string folder_;
  uint32_t current_ = 0;
  FileDescriptor file_;
  std::string path_;
  uint64_t written_ = 0;
  Digest md5_;
};

// Puts everything under its final name: the manifest last, so that what a reader finds is whole.
Status publish(Workplace& workplace, const std::vector<Shard>& shards, const Existing& existing,
               bool same) {
  const std::string& folder = workplace.output();
  if (!same)
    for (const char* name : kManifestNames)
      if (::unlink((folder + name).c_str()) != 0 && errno != ENOENT)
        return std::unexpected(system_error("replace", folder + name, errno));
  for (size_t s = 0; s < shards.size(); ++s) SLUICE_TRY(workplace.publish(Shard::name(s), !same));
  SLUICE_TRY(sync_folder(folder));
  SLUICE_TRY(workplace.publish(kManifestName, !same));
  SLUICE_TRY(sync_folder(folder));
  workplace.keep();
  // What the model before this one had beyond it belongs to nobody now
  std::set<std::string> left = existing.shards;
  for (size_t s = 0; s < shards.size(); ++s) left.erase(Shard::name(s));
  for (const std::string& name : left) (void)::unlink((folder + name).c_str());
  return {};
}

}  // namespace

Result<PackReport> pack_model(const Model& model, const std::string& output,
                              const PackOptions& options, const LoadControl& control) {
  if (output.empty() || options.shard_bytes == 0)
    return std::unexpected(Error{
        .code = ErrorCode::invalid_argument,
        .message = output.empty() ? "the output folder's name is empty" : "the shard size is 0"});
  const Manifest& manifest = model.manifest;
  SLUICE_TRY(check_names(manifest));
  PlanOptions plan_options = native_plan_options(options.budget_bytes, options.dtype);
  SLUICE_ASSIGN(const std::vector<RecordType> types,
                choose_types(manifest, options.bf16_encode, plan_options));
  SLUICE_ASSIGN(const Plan plan, make_plan(manifest, plan_options));
  std::vector<Shard> shards = lay_out(manifest, plan, options.shard_bytes);

  Workplace workplace(output);
  const Existing existing = look_at(workplace.output(), shards.size());
  if (existing.anything && !options.force) {
    // What differs in its shape is refused before the work, what differs in its bytes behind it
    Json before = existing.manifest;
    if (before.is_object())
      for (Json& shard : before["records"]) shard.erase("md5sum");
    if (before != describe(manifest, plan, types, shards)) return std::unexpected(occupied(output));
  }
  SLUICE_TRY(workplace.make());
  ShardSink sink(shards, manifest.tensors.size(), workplace.temporary());
  SLUICE_ASSIGN(const Progress progress, run_load(model, plan, plan_options, sink, control));
  SLUICE_TRY(sink.finish());

  const Json document = describe(manifest, plan, types, shards);
  const bool same = document == existing.manifest;
  if (existing.anything && !same && !options.force) return std::unexpected(occupied(output));
  const std::string path = workplace.temporary() + kManifestName;
  SLUICE_ASSIGN(const FileDescriptor file, create_file(path));
  SLUICE_TRY(write_all(file, as_bytes(document.dump(2) + "\n"), path));
  SLUICE_TRY(sync_file(file, path));
  if (control.stop != nullptr && control.stop->load(std::memory_order_relaxed))
    return std::unexpected(Error{.code = ErrorCode::aborted, .message = "interrupted"});
  SLUICE_TRY(publish(workplace, shards, existing, same));

  PackReport report{.tensors = static_cast<uint32_t>(manifest.tensors.size()),
                    .shards = static_cast<uint32_t>(shards.size()),
                    .source_bytes = progress.source_bytes};
  for (const Shard& shard : shards) report.output_bytes += shard.nbytes;
  return report;
}

}  // namespace sluice
