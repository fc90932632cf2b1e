// The journal of one stored model: what is known of its files, record by record, in a file that is
// only appended to.
//
//   journal  magic, record…
//   magic    8 bytes: "SLUICEJ" and the format's version
//   record   u32 length of the payload, u32 checksum, payload
//   payload  u8 kind, then the kind's fields in the order in which they are declared below;
//            integers are little-endian, a text is a u32 length and its bytes
//
// The checksum is the low half of XXH3-64 of the payload, seeded with the whole XXH3-64 of the
// record before it. So a record passes only behind the very records behind which it was written:
// not where it was moved to, and not as the rest of an older journal.
//
// Nothing here decides whether a record makes sense; StoredModel does.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "core/base/bytes.h"
#include "core/base/error.h"

namespace sluice {

inline constexpr uint8_t kJournalVersion = 1;
inline constexpr uint64_t kMaxJournalText = 64u << 10;    // bytes
inline constexpr uint64_t kMaxJournalPayload = 1u << 20;  // bytes

// Texts are views: of the journal that is read, or of the writer's caller.
struct ModelRecord {
  std::string_view key;
  uint64_t created_ms = 0;  // since 1970, as every time here
  bool operator==(const ModelRecord&) const = default;
};
// A file's first record gives it its index; a later one says what was learned of it since.
struct FileRecord {
  uint32_t file = 0;
  std::string_view path;
  std::optional<uint64_t> nbytes;  // written as 2^64-1 where it is not known
  std::string_view etag;
  std::string_view last_modified;
  bool operator==(const FileRecord&) const = default;
};
// The bytes [begin, end) of a file are stored, and their XXH3-64 is `digest`.
struct ExtentRecord {
  uint32_t file = 0;
  uint64_t begin = 0;
  uint64_t end = 0;
  uint64_t digest = 0;
  bool operator==(const ExtentRecord&) const = default;
};
// Every extent that shares a byte with [begin, end) is no more.
struct DropRecord {
  uint32_t file = 0;
  uint64_t begin = 0;
  uint64_t end = 0;
  bool operator==(const DropRecord&) const = default;
};
// The whole file, as stored, has this digest, which its publisher gave.
struct CheckedRecord {
  uint32_t file = 0;
  std::string_view algorithm;
  std::string_view digest;  // lower-case hexadecimal
  bool operator==(const CheckedRecord&) const = default;
};
// A load ended well with what is stored.
struct LoadedRecord {
  uint64_t ms = 0;
  bool operator==(const LoadedRecord&) const = default;
};
struct UsedRecord {
  uint64_t ms = 0;
  bool operator==(const UsedRecord&) const = default;
};
// What stands before it replaces a journal that was this many times compacted, less one: the last
// record of a compaction, so that one which was interrupted has none. A journal without has 0.
struct CompactedRecord {
  uint64_t generation = 0;
  bool operator==(const CompactedRecord&) const = default;
};

// The kind in the file is the index here and one.
using JournalRecord = std::variant<ModelRecord, FileRecord, ExtentRecord, DropRecord, CheckedRecord,
                                   LoadedRecord, UsedRecord, CompactedRecord>;

// Where the next record goes.
struct JournalPosition {
  uint64_t nbytes = 0;  // of the journal before it
  uint64_t chain = 0;   // seeds its checksum
  bool operator==(const JournalPosition&) const = default;
};

// Encodes records; what was written is taken from it piece by piece.
class JournalWriter {
 public:
  // A new journal: begins with the magic.
  JournalWriter();
  // Behind what a reader read.
  explicit JournalWriter(JournalPosition position) : position_(position) {}

  // Texts must not be longer than kMaxJournalText.
  void append(const JournalRecord& record);

  // The end of the journal, with what is pending.
  const JournalPosition& position() const { return position_; }

  // The bytes that were not taken yet; then there are none.
  std::string take();

 private:
  JournalPosition position_;
  std::string pending_;
};

class JournalReader {
 public:
  // Error: store_corrupt where `journal`, which must outlive the reader, does not begin with the
  // magic or has another version.
  static Result<JournalReader> open(Bytes journal);

  // The next record; nothing at the end, and where a record is cut, damaged or of no known kind.
  // There the reader stays.
  std::optional<JournalRecord> next();

  // Behind the last record that next() returned.
  const JournalPosition& position() const { return position_; }

 private:
  explicit JournalReader(Bytes journal) : journal_(journal) {}

  Bytes journal_;
  JournalPosition position_;
};

}  // namespace sluice
