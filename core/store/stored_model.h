// What a local store holds of one model: which bytes of which files, and how to know them again.
//
// A stored model is a folder with a file `journal`, or `journal.1` to which it was compacted (see
// compact()), and data files `0`, `1`, …: data file i holds bytes of the model's file i at that
// file's own offsets. The host does all I/O. It writes bytes, then says so here, then appends what
// take_journal() gives; and it reads bytes, digests them, and only then trusts them. So a journal
// that reached the disk before its bytes did does no harm, and nor does one whose end was lost.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/bytes.h"
#include "core/base/error.h"
#include "core/store/journal.h"

namespace sluice {

// No extent crosses a multiple of this: what is read, digested and, when damaged, fetched again.
inline constexpr uint64_t kStoreBlockBytes = 16u << 20;
inline constexpr uint32_t kMaxStoredFiles = 1'000'000;
// Offsets and times are exact as JavaScript's numbers.
inline constexpr uint64_t kMaxStoredNumber = uint64_t{1} << 53;

// What is known around one byte of a file: the extent that holds it, or the gap.
struct StoredRun {
  bool stored = false;
  uint64_t begin = 0;
  uint64_t end = 0;     // 2^64-1 for a gap to the end of a file whose size is not known
  uint64_t digest = 0;  // XXH3-64 of [begin, end), where stored
};

struct FileChange {
  uint32_t file = 0;     // its index
  bool changed = false;  // it is another file than the one before; what was stored of it is dropped
};

// Every operation that fails changes nothing; every one that changes something adds to the journal.
class StoredModel {
 public:
  struct Replayed;

  // A model of which nothing is stored. `key` names it in the store. Error: invalid_argument (an
  // empty or overlong key, a time above 2^53).
  static Result<StoredModel> create(std::string_view key, uint64_t now_ms);

  // The state after the last good record of a journal; nothing of `journal` is kept. Stops at a
  // record that is cut or damaged, or that contradicts those before it. Memory and time are bounded
  // by the journal's length (n log n). Error: store_corrupt where the journal does not begin with
  // the magic, has another version, or does not name its model.
  static Result<Replayed> replay(Bytes journal);

  const std::string& key() const { return key_; }
  // How many times the journal was compacted.
  uint64_t generation() const { return generation_; }
  uint32_t file_count() const { return static_cast<uint32_t>(files_.size()); }

  // Says what a server says of a file now; a path that is new gets the next index. A file whose
  // size, ETag or Last-Modified is known and was another is another file: what was stored of it and
  // its digests are dropped. So is one that turns out shorter than what is stored of it. Empty
  // texts and no size mean: not known, and then what was known stays.
  // Error: invalid_argument (an overlong text, a size above 2^53, too many files).
  Result<FileChange> set_file(std::string_view path, std::optional<uint64_t> nbytes,
                              std::string_view etag, std::string_view last_modified);

  // The bytes [begin, end) of a file were written, and have this XXH3-64.
  // Errors: invalid_argument (no such file, an empty range, one across a multiple of
  // kStoreBlockBytes, or one that overlaps what is stored), range_out_of_bounds.
  Status add(uint32_t file, uint64_t begin, uint64_t end, uint64_t digest);

  // Forgets every extent that shares a byte with [begin, end), such as one that was found damaged.
  // Where there is one, that also undoes set_checked() for the file and set_loaded().
  // Errors: invalid_argument.
  Status drop(uint32_t file, uint64_t begin, uint64_t end);

  // Errors: invalid_argument (no such file), range_out_of_bounds (at or behind its end).
  Result<StoredRun> find(uint32_t file, uint64_t offset) const;

  // The stored file as a whole has a digest that its publisher gave: md5, sha1, sha256 or sha512,
  // in lower-case hexadecimal. Replaces an earlier one of the same algorithm. Errors:
  // invalid_argument (also for a file that is not complete).
  Status set_checked(uint32_t file, std::string_view algorithm, std::string_view digest);

  // A load of this model ended well; the model is in use. Error: invalid_argument (above 2^53).
  Status set_loaded(uint64_t now_ms);
  Status set_used(uint64_t now_ms);

  // What to append to the journal; then it is no longer pending.
  std::string take_journal() { return journal_.take(); }

  // A whole journal of the present state, in place of the old one and of what was pending, of the
  // next generation. What is journalled from here on fits behind the new journal alone. The host
  // writes it beside the old one, which counts until the new one is whole: of several journals of a
  // model, the one of the highest generation counts.
  std::string compact();

  // Everything but the extents, as JSON: {key, created_ms, used_ms, loaded_ms or null,
  // stored_bytes, journal_bytes (with what is pending), generation, files: [{index, path, nbytes or
  // null, etag, last_modified, stored_bytes, complete, checked: [{algorithm, digest}]}]}.
  std::string snapshot() const;

 private:
  struct Extent {
    uint64_t end = 0;
    uint64_t digest = 0;
  };
  using Extents = std::map<uint64_t, Extent>;  // by begin; they share no byte
  struct Check {
    std::string algorithm;
    std::string digest;
  };
  struct File {
    std::string path;
    std::optional<uint64_t> nbytes;
    std::string etag;
    std::string last_modified;
    Extents extents;
    uint64_t stored_bytes = 0;  // sum of the extents
    std::vector<Check> checked;

    bool complete() const { return nbytes && stored_bytes == *nbytes; }
    void clear();
  };

  StoredModel() = default;

  // The record's change, checked; true when it made the state another one.
  Result<bool> apply(const JournalRecord& record);
  Result<bool> apply(const ModelRecord& record);
  Result<bool> apply(const FileRecord& record);
  Result<bool> apply(const ExtentRecord& record);
  Result<bool> apply(const DropRecord& record);
  Result<bool> apply(const CheckedRecord& record);
  Result<bool> apply(const LoadedRecord& record);
  Result<bool> apply(const UsedRecord& record);
  Result<bool> apply(const CompactedRecord& record);
  Status commit(const JournalRecord& record);
  Status check_file(uint32_t file) const;
  Status check_range(uint32_t file, uint64_t begin, uint64_t end) const;
  std::unexpected<Error> fail(ErrorCode code, const File& file, std::string_view message) const;

  std::string key_;
  uint64_t created_ms_ = 0;
  uint64_t used_ms_ = 0;
  std::optional<uint64_t> loaded_ms_;
  uint64_t generation_ = 0;  // how many times the journal was compacted
  std::vector<File> files_;
  std::map<std::string, uint32_t, std::less<>> index_;  // of files_, by path
  JournalWriter journal_;
};

struct StoredModel::Replayed {
  StoredModel model;
  uint64_t valid_bytes = 0;  // of the journal; the host cuts it to that, and appends there
};

}  // namespace sluice
