#include "hosts/native/store.h"

#include <dirent.h>
#include <signal.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <filesystem>
#include <memory>
#include <utility>

#include <nlohmann/json.hpp>

#include "core/store/block_digest.h"
#include "hosts/native/digest.h"
#include "hosts/native/file.h"

namespace sluice {
namespace {

using Json = nlohmann::ordered_json;

constexpr uint64_t kBlock = 1ull << 20;
// Some 100 times that of the largest models; memory is a small multiple of it
constexpr uint64_t kMaxJournalBytes = 256ull << 20;
constexpr std::string_view kDeleteHint = "delete the stored model; it is fetched again";

std::string models_folder(const std::string& directory) { return directory + "/models"; }

std::string folder_path(const std::string& directory, const StoreEntry& entry) {
  return concat(models_folder(directory), "/", entry.folder);
}

Result<std::vector<std::string>> names_in_folder(const std::string& path) {
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(::opendir(path.c_str()), ::closedir);
  if (folder == nullptr) return std::unexpected(system_error("list", path, errno));
  std::vector<std::string> names;
  for (;;) {
    errno = 0;
    const dirent* const entry = ::readdir(folder.get());
    if (entry == nullptr) break;
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
  }
  if (errno != 0) return std::unexpected(system_error("list", path, errno));
  std::ranges::sort(names);
  return names;
}

Status read_journal(const std::string& path, StoreEntry& entry) {
  SLUICE_ASSIGN(const InputFile input, open_input(path));
  if (input.nbytes > kMaxJournalBytes)
    return std::unexpected(
        Error{.code = ErrorCode::store_corrupt,
              .message = concat(quote(path), " has ", input.nbytes,
                                " bytes; a journal has at most ", kMaxJournalBytes),
              .file = path,
              .hint = std::string(kDeleteHint)});
  const auto journal = std::make_unique_for_overwrite<std::byte[]>(input.nbytes);
  SLUICE_TRY(read_at(input.descriptor, 0, {journal.get(), input.nbytes}, path));
  auto replayed = StoredModel::replay({journal.get(), input.nbytes});
  if (!replayed) {
    Error error = std::move(replayed).error();
    error.message = concat(quote(path), ": ", error.message);
    error.file = path;
    return std::unexpected(std::move(error));
  }
  entry.ignored_bytes = input.nbytes - replayed->valid_bytes;
  entry.model = std::move(replayed->model);
  const std::string& key = entry.model->key();
  if (store_folder_name(key) == entry.folder) return {};
  return std::unexpected(Error{.code = ErrorCode::store_corrupt,
                               .message = concat(quote(path), " is that of ", quote(key),
                                                 ", whose folder is ", store_folder_name(key)),
                               .file = path,
                               .hint = std::string(kDeleteHint)});
}

StoreEntry read_entry(const std::string& directory, std::string folder) {
  StoreEntry entry{.folder = std::move(folder)};
  if (Status read = read_journal(folder_path(directory, entry) + "/journal", entry); !read) {
    entry.model.reset();
    entry.error = std::move(read).error();
  }
  // A compaction that was interrupted has no generation
  StoreEntry compacted{.folder = entry.folder};
  const std::string second = folder_path(directory, entry) + "/journal.1";
  if (read_journal(second, compacted) && compacted.model->generation() > 0 &&
      (!entry.model || compacted.model->generation() > entry.model->generation()))
    return compacted;
  return entry;
}

// Reads the extents of one file of a model.
class FileCheck {
 public:
  FileCheck(const StoreControl& control, StoreReport& report, uint64_t total, std::byte* block)
      : control_(control), report_(report), total_(total), block_(block) {}

  // `info` is the file's part of the model's snapshot. Error: aborted.
  Status check(const StoredModel& model, const Json& info, const std::string& path) {
    const auto file = info["index"].get<uint32_t>();
    const auto name = info["path"].get<std::string>();
    if (info["stored_bytes"].get<uint64_t>() > 0) {
      auto input = open_input(path);
      if (!input) {
        fail(std::move(input).error());
        return {};
      }
      input_ = std::move(*input);
    }
    path_ = path;
    start_digests(info);
    bool whole = true;
    for (uint64_t at = 0; at < kMaxStoredNumber;) {
      const auto run = model.find(file, at);
      if (!run) break;  // the end
      at = run->end;
      if (!run->stored) continue;
      SLUICE_ASSIGN(const bool good, read(*run, name));
      whole = whole && good;
    }
    if (whole) compare_digests(name);
    return {};
  }

 private:
  struct Running {
    Digest digest;
    std::string_view algorithm;
    std::string expected;
  };

  void fail(Error error) { report_.problems.push_back(std::move(error)); }

  void start_digests(const Json& info) {
    digests_.clear();
    if (!info["complete"].get<bool>()) return;
    for (const Json& checked : info["checked"])
      for (const auto& [algorithm, kind] :
           {std::pair("md5", Digest::Kind::md5), {"sha256", Digest::Kind::sha256}})
        if (checked["algorithm"] == algorithm)
          digests_.push_back({Digest(kind), algorithm, checked["digest"].get<std::string>()});
  }

  void compare_digests(const std::string& name) {
    report_.checked_files += digests_.empty() ? 0 : 1;
    for (Running& running : digests_) {
      const std::string actual = running.digest.finish();
      if (actual == running.expected) continue;
      fail({.code = ErrorCode::checksum_mismatch,
            .message =
                concat(quote(name), ": ", quote(path_), " has the ", running.algorithm, " digest ",
                       actual, "; it was ", running.expected, " when it was stored"),
            .file = path_,
            .hint = std::string(kDeleteHint)});
    }
  }

  // Whether the extent's bytes are what they were.
  Result<bool> read(const StoredRun& run, const std::string& name) {
    if (run.end > input_.nbytes) {
      fail({.code = ErrorCode::truncated,
            .message = concat(quote(name), ": bytes ", run.begin, " to ", run.end,
                              " are not stored: ", quote(path_), " has ", input_.nbytes, " bytes"),
            .file = path_,
            .expected = run.end,
            .actual = input_.nbytes,
            .hint = "load the model again; what is missing is fetched"});
      return false;
    }
    BlockDigest digest;
    for (uint64_t at = run.begin; at < run.end;) {
      if (control_.stop != nullptr && control_.stop->load(std::memory_order_relaxed))
        return std::unexpected(Error{.code = ErrorCode::aborted, .message = "interrupted"});
      const MutableBytes bytes(block_, std::min(kBlock, run.end - at));
      if (Status got = read_at(input_.descriptor, at, bytes, path_); !got) {
        fail(std::move(got).error());
        return false;
      }
      digest.update(bytes);
      for (Running& running : digests_) running.digest.update(bytes);
      at += bytes.size();
      report_.bytes += bytes.size();
      if (control_.on_progress) control_.on_progress(report_.bytes, total_);
    }
    ++report_.extents;
    if (digest.digest() == run.digest) return true;
    fail({.code = ErrorCode::checksum_mismatch,
          .message = concat(quote(name), ": bytes ", run.begin, " to ", run.end, " of ",
                            quote(path_), " are damaged"),
          .file = path_,
          .hint = "load the model again; what is damaged is fetched anew"});
    return false;
  }

  const StoreControl& control_;
  StoreReport& report_;
  uint64_t total_;
  std::byte* block_;
  InputFile input_;
  std::string path_;
  std::vector<Running> digests_;
};

// The process that holds the lock of a file `<lock>.<mode>.<process id>.<number>`, if it runs.
std::optional<pid_t> holder_of(std::string_view lock) {
  const size_t end = lock.rfind('.');
  if (end == std::string_view::npos || end == 0) return std::nullopt;
  const size_t begin = lock.rfind('.', end - 1) + 1;
  pid_t process = 0;
  const char* const last = lock.data() + end;
  const auto parsed = std::from_chars(lock.data() + begin, last, process);
  if (parsed.ec != std::errc() || parsed.ptr != last || process <= 0) return std::nullopt;
  return ::kill(process, 0) == 0 || errno == EPERM ? std::optional(process) : std::nullopt;
}

}  // namespace

Result<std::vector<StoreEntry>> list_store(const std::string& directory) {
  auto folders = names_in_folder(models_folder(directory));
  if (!folders) {
    Error error = std::move(folders).error();
    if (error.code == ErrorCode::not_found)
      error.hint = "give the folder that the store was opened with";
    return std::unexpected(std::move(error));
  }
  std::vector<StoreEntry> entries;
  for (std::string& folder : *folders) entries.push_back(read_entry(directory, std::move(folder)));
  return entries;
}

Result<StoreEntry> find_in_store(const std::string& directory, std::string_view model) {
  SLUICE_ASSIGN(const auto folders, names_in_folder(models_folder(directory)));
  for (const std::string& folder : {store_folder_name(model), std::string(model)})
    if (std::ranges::binary_search(folders, folder)) return read_entry(directory, folder);
  return std::unexpected(
      Error{.code = ErrorCode::not_found,
            .message = concat("the store ", quote(directory), " of ", folders.size(),
                              " models has none named ", quote(model)),
            .file = directory,
            .hint = "`sluice store list` has their names"});
}

Result<StoreReport> verify_stored(const std::string& directory, const StoreEntry& entry,
                                  const StoreControl& control) {
  StoreReport report;
  if (!entry.model) {
    if (entry.error) report.problems.push_back(*entry.error);
    return report;
  }
  const Json snapshot = Json::parse(entry.model->snapshot());
  const auto block = std::make_unique_for_overwrite<std::byte[]>(kBlock);
  for (const Json& file : snapshot["files"]) {
    FileCheck check(control, report, snapshot["stored_bytes"].get<uint64_t>(), block.get());
    SLUICE_TRY(
        check.check(*entry.model, file,
                    concat(folder_path(directory, entry), "/", file["index"].get<uint32_t>())));
  }
  return report;
}

Status delete_stored(const std::string& directory, const StoreEntry& entry) {
  const std::string locks = directory + "/locks";
  const auto held = names_in_folder(locks);
  if (!held && held.error().code != ErrorCode::not_found) return std::unexpected(held.error());
  if (held) {
    for (const std::string& lock : *held) {
      if (const auto process = holder_of(lock))
        return std::unexpected(Error{
            .code = ErrorCode::io,
            .message = concat("the store ", quote(directory), " is used by process ", *process),
            .file = concat(locks, "/", lock),
            .hint = "end it first"});
    }
  }
  const std::string path = folder_path(directory, entry);
  std::error_code error;
  std::filesystem::remove_all(path, error);
  if (error) return std::unexpected(system_error("delete", path, error.value()));
  return sync_folder(models_folder(directory));
}

}  // namespace sluice
