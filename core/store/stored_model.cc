#include "core/store/stored_model.h"

#include <algorithm>
#include <utility>

#include "core/base/json.h"

namespace sluice {
namespace {

struct Algorithm {
  std::string_view name;
  size_t digits;
};
constexpr Algorithm kAlgorithms[] = {{"md5", 32}, {"sha1", 40}, {"sha256", 64}, {"sha512", 128}};

std::unexpected<Error> invalid(std::string message) {
  return std::unexpected(Error{ErrorCode::invalid_argument, std::move(message)});
}

Status check_text(std::string_view what, std::string_view text) {
  if (text.size() <= kMaxJournalText) return {};
  return invalid(concat("the ", what, " ", quote(text), " has ", text.size(), " bytes; at most ",
                        kMaxJournalText, " are stored"));
}

Status check_number(std::string_view what, uint64_t number) {
  if (number <= kMaxStoredNumber) return {};
  return invalid(concat("the ", what, " ", number, " is above 2^53"));
}

// Both are known, and they differ.
bool differ(std::string_view a, std::string_view b) { return !a.empty() && !b.empty() && a != b; }

}  // namespace

void StoredModel::File::clear() {
  extents.clear();
  stored_bytes = 0;
  checked.clear();
}

std::unexpected<Error> StoredModel::fail(ErrorCode code, const File& file,
                                         std::string_view message) const {
  return std::unexpected(Error{.code = code,
                               .message = concat("stored file ", quote(file.path), ": ", message),
                               .file = file.path});
}

Status StoredModel::check_file(uint32_t file) const {
  if (file < files_.size()) return {};
  return invalid(concat("the stored model ", quote(key_), " has ", files_.size(),
                        " files; there is none of index ", file));
}

Status StoredModel::check_range(uint32_t file, uint64_t begin, uint64_t end) const {
  SLUICE_TRY(check_file(file));
  if (begin < end && end <= kMaxStoredNumber) return {};
  return fail(ErrorCode::invalid_argument, files_[file],
              concat("bytes ", begin, " to ", end, " are no range"));
}

Result<bool> StoredModel::apply(const ModelRecord& record) {
  if (!key_.empty()) return invalid(concat("the model has the key ", quote(key_), " already"));
  if (record.key.empty()) return invalid("the key of a stored model must not be empty");
  SLUICE_TRY(check_text("key", record.key));
  SLUICE_TRY(check_number("time", record.created_ms));
  key_ = record.key;
  created_ms_ = used_ms_ = record.created_ms;
  return true;
}

Result<bool> StoredModel::apply(const FileRecord& record) {
  SLUICE_TRY(check_text("path", record.path));
  SLUICE_TRY(check_text("ETag", record.etag));
  SLUICE_TRY(check_text("Last-Modified", record.last_modified));
  if (record.nbytes) SLUICE_TRY(check_number("file size", *record.nbytes));
  const auto known = index_.find(record.path);
  if (record.file == files_.size() && known == index_.end()) {
    if (record.file >= kMaxStoredFiles)
      return invalid(concat("the stored model ", quote(key_), " has ", files_.size(),
                            " files, and ", quote(record.path), " would be one too many"));
    index_.emplace(record.path, record.file);
    files_.push_back({.path = std::string(record.path),
                      .nbytes = record.nbytes,
                      .etag = std::string(record.etag),
                      .last_modified = std::string(record.last_modified)});
    return true;
  }
  if (known == index_.end() || known->second != record.file)
    return invalid(concat("file ", record.file, " is not ", quote(record.path)));

  File& file = files_[record.file];
  const uint64_t stored_end = file.extents.empty() ? 0 : file.extents.rbegin()->second.end;
  const bool other = (file.nbytes && record.nbytes && *file.nbytes != *record.nbytes) ||
                     (record.nbytes && *record.nbytes < stored_end) ||
                     differ(file.etag, record.etag) ||
                     differ(file.last_modified, record.last_modified);
  if (other) {
    file.clear();
    loaded_ms_.reset();
    file.nbytes = record.nbytes;
    file.etag = record.etag;
    file.last_modified = record.last_modified;
    return true;
  }
  bool learned = false;
  if (record.nbytes && !file.nbytes) file.nbytes = record.nbytes, learned = true;
  if (file.etag.empty() && !record.etag.empty()) file.etag = record.etag, learned = true;
  if (file.last_modified.empty() && !record.last_modified.empty())
    file.last_modified = record.last_modified, learned = true;
  return learned;
}

Result<bool> StoredModel::apply(const ExtentRecord& record) {
  SLUICE_TRY(check_range(record.file, record.begin, record.end));
  File& file = files_[record.file];
  if (file.nbytes && record.end > *file.nbytes) {
    auto error = fail(ErrorCode::range_out_of_bounds, file,
                      concat("bytes ", record.begin, " to ", record.end, " are outside its ",
                             *file.nbytes, " bytes"));
    error.error().expected = file.nbytes;
    error.error().actual = record.end;
    return error;
  }
  if (record.begin / kStoreBlockBytes != (record.end - 1) / kStoreBlockBytes)
    return fail(ErrorCode::invalid_argument, file,
                concat("bytes ", record.begin, " to ", record.end, " cross a multiple of ",
                       kStoreBlockBytes));
  const auto next = file.extents.lower_bound(record.begin);
  const auto overlapped =
      next != file.extents.end() && next->first < record.end ? next
      : next != file.extents.begin() && std::prev(next)->second.end > record.begin
          ? std::prev(next)
          : file.extents.end();
  if (overlapped != file.extents.end())
    return fail(ErrorCode::invalid_argument, file,
                concat("bytes ", record.begin, " to ", record.end, " overlap the stored bytes ",
                       overlapped->first, " to ", overlapped->second.end));
  file.extents.emplace_hint(next, record.begin, Extent{.end = record.end, .digest = record.digest});
  file.stored_bytes += record.end - record.begin;
  return true;
}

Result<bool> StoredModel::apply(const DropRecord& record) {
  SLUICE_TRY(check_range(record.file, record.begin, record.end));
  File& file = files_[record.file];
  auto first = file.extents.lower_bound(record.begin);
  if (first != file.extents.begin() && std::prev(first)->second.end > record.begin) --first;
  auto last = first;
  for (; last != file.extents.end() && last->first < record.end; ++last)
    file.stored_bytes -= last->second.end - last->first;
  if (first == last) return false;
  file.extents.erase(first, last);
  file.checked.clear();
  loaded_ms_.reset();
  return true;
}

Result<bool> StoredModel::apply(const CheckedRecord& record) {
  SLUICE_TRY(check_file(record.file));
  File& file = files_[record.file];
  const auto* const algorithm = std::ranges::find(kAlgorithms, record.algorithm, &Algorithm::name);
  if (algorithm == std::end(kAlgorithms))
    return fail(ErrorCode::invalid_argument, file,
                concat("the digest algorithm ", quote(record.algorithm),
                       " is not md5, sha1, sha256 or sha512"));
  if (record.digest.size() != algorithm->digits ||
      record.digest.find_first_not_of("0123456789abcdef") != std::string_view::npos)
    return fail(ErrorCode::invalid_argument, file,
                concat("the ", algorithm->name, " digest ", quote(record.digest), " is not ",
                       algorithm->digits, " lower-case hexadecimal digits"));
  if (!file.complete())
    return fail(ErrorCode::invalid_argument, file,
                concat("it cannot be checked as a whole: ", file.stored_bytes, " of ",
                       file.nbytes ? concat(*file.nbytes) : std::string("an unknown number of"),
                       " bytes are stored"));
  const auto check = std::ranges::find(file.checked, record.algorithm, &Check::algorithm);
  if (check == file.checked.end()) {
    file.checked.push_back({std::string(record.algorithm), std::string(record.digest)});
    return true;
  }
  if (check->digest == record.digest) return false;
  check->digest = record.digest;
  return true;
}

Result<bool> StoredModel::apply(const LoadedRecord& record) {
  SLUICE_TRY(check_number("time", record.ms));
  loaded_ms_ = record.ms;
  return true;
}

Result<bool> StoredModel::apply(const UsedRecord& record) {
  SLUICE_TRY(check_number("time", record.ms));
  used_ms_ = record.ms;
  return true;
}

Result<bool> StoredModel::apply(const CompactedRecord& record) {
  SLUICE_TRY(check_number("generation", record.generation));
  if (record.generation <= generation_)
    return invalid(concat("generation ", record.generation, " of the journal of ", quote(key_),
                          " cannot follow ", generation_));
  generation_ = record.generation;
  return true;
}

Result<bool> StoredModel::apply(const JournalRecord& record) {
  return std::visit([this](const auto& fields) { return apply(fields); }, record);
}

Status StoredModel::commit(const JournalRecord& record) {
  SLUICE_ASSIGN(const bool different, apply(record));
  if (different) journal_.append(record);
  return {};
}

Result<StoredModel> StoredModel::create(std::string_view key, uint64_t now_ms) {
  StoredModel model;
  SLUICE_TRY(model.commit(ModelRecord{.key = key, .created_ms = now_ms}));
  return model;
}

Result<StoredModel::Replayed> StoredModel::replay(Bytes journal) {
  SLUICE_ASSIGN(JournalReader reader, JournalReader::open(journal));
  StoredModel model;
  JournalPosition good;
  while (const auto record = reader.next()) {
    // Only the first record names the model
    if (std::holds_alternative<ModelRecord>(*record) != model.key_.empty()) break;
    if (!model.apply(*record)) break;
    good = reader.position();
  }
  if (model.key_.empty())
    return std::unexpected(Error{
        .code = ErrorCode::store_corrupt,
        .message = concat("the journal of ", journal.size(), " bytes does not name its model"),
        .file = "journal",
        .hint = "delete the stored model; it is fetched again",
    });
  model.journal_ = JournalWriter(good);
  return Replayed{.model = std::move(model), .valid_bytes = good.nbytes};
}

Result<FileChange> StoredModel::set_file(std::string_view path, std::optional<uint64_t> nbytes,
                                         std::string_view etag, std::string_view last_modified) {
  const auto known = index_.find(path);
  const uint32_t file = known == index_.end() ? file_count() : known->second;
  const uint64_t stored = known == index_.end() ? 0 : files_[file].stored_bytes;
  SLUICE_TRY(commit(FileRecord{
      .file = file, .path = path, .nbytes = nbytes, .etag = etag, .last_modified = last_modified}));
  return FileChange{.file = file, .changed = stored > files_[file].stored_bytes};
}

Status StoredModel::add(uint32_t file, uint64_t begin, uint64_t end, uint64_t digest) {
  return commit(ExtentRecord{.file = file, .begin = begin, .end = end, .digest = digest});
}

Status StoredModel::drop(uint32_t file, uint64_t begin, uint64_t end) {
  return commit(DropRecord{.file = file, .begin = begin, .end = end});
}

Result<StoredRun> StoredModel::find(uint32_t file, uint64_t offset) const {
  SLUICE_TRY(check_file(file));
  const File& at = files_[file];
  if (offset >= at.nbytes.value_or(kMaxStoredNumber)) {
    auto error = fail(ErrorCode::range_out_of_bounds, at,
                      concat("offset ", offset, " is outside its ",
                             at.nbytes.value_or(kMaxStoredNumber), " bytes"));
    error.error().expected = at.nbytes;
    error.error().actual = offset;
    return error;
  }
  const auto next = at.extents.upper_bound(offset);
  StoredRun run{.end = next != at.extents.end() ? next->first : at.nbytes.value_or(UINT64_MAX)};
  if (next == at.extents.begin()) return run;
  const auto& [begin, extent] = *std::prev(next);
  if (extent.end > offset)
    return StoredRun{.stored = true, .begin = begin, .end = extent.end, .digest = extent.digest};
  run.begin = extent.end;
  return run;
}

Status StoredModel::set_checked(uint32_t file, std::string_view algorithm,
                                std::string_view digest) {
  return commit(CheckedRecord{.file = file, .algorithm = algorithm, .digest = digest});
}

Status StoredModel::set_loaded(uint64_t now_ms) { return commit(LoadedRecord{.ms = now_ms}); }
Status StoredModel::set_used(uint64_t now_ms) { return commit(UsedRecord{.ms = now_ms}); }

std::string StoredModel::compact() {
  JournalWriter fresh;
  fresh.append(ModelRecord{.key = key_, .created_ms = created_ms_});
  for (uint32_t i = 0; i < files_.size(); ++i) {
    const File& file = files_[i];
    fresh.append(FileRecord{.file = i,
                            .path = file.path,
                            .nbytes = file.nbytes,
                            .etag = file.etag,
                            .last_modified = file.last_modified});
    for (const auto& [begin, extent] : file.extents)
      fresh.append(
          ExtentRecord{.file = i, .begin = begin, .end = extent.end, .digest = extent.digest});
    for (const Check& check : file.checked)
      fresh.append(CheckedRecord{.file = i, .algorithm = check.algorithm, .digest = check.digest});
  }
  if (loaded_ms_) fresh.append(LoadedRecord{.ms = *loaded_ms_});
  if (used_ms_ != created_ms_) fresh.append(UsedRecord{.ms = used_ms_});
  generation_ = std::min(generation_ + 1, kMaxStoredNumber);
  fresh.append(CompactedRecord{.generation = generation_});
  std::string bytes = fresh.take();
  journal_ = std::move(fresh);
  return bytes;
}

std::string StoredModel::snapshot() const {
  uint64_t stored_bytes = 0;
  for (const File& file : files_) stored_bytes += file.stored_bytes;
  JsonWriter json;
  json.begin_object();
  json.key("key").string(key_);
  json.key("created_ms").number(created_ms_);
  json.key("used_ms").number(used_ms_);
  json.key("loaded_ms");
  loaded_ms_ ? json.number(*loaded_ms_) : json.null();
  json.key("stored_bytes").number(stored_bytes);
  json.key("journal_bytes").number(journal_.position().nbytes);
  json.key("generation").number(generation_);
  json.key("files").begin_array();
  for (uint32_t i = 0; i < files_.size(); ++i) {
    const File& file = files_[i];
    json.begin_object();
    json.key("index").number(uint64_t{i});
    json.key("path").string(file.path);
    json.key("nbytes");
    file.nbytes ? json.number(*file.nbytes) : json.null();
    json.key("etag").string(file.etag);
    json.key("last_modified").string(file.last_modified);
    json.key("stored_bytes").number(file.stored_bytes);
    json.key("complete").boolean(file.complete());
    json.key("checked").begin_array();
    for (const Check& check : file.checked) {
      json.begin_object();
      json.key("algorithm").string(check.algorithm);
      json.key("digest").string(check.digest);
      json.end_object();
    }
    json.end_array();
    json.end_object();
  }
  json.end_array();
  json.end_object();
  return std::move(json).take();
}

}  // namespace sluice
