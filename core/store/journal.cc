#include "core/store/journal.h"

#include <cstring>
#include <utility>

#include "core/store/block_digest.h"

namespace sluice {
namespace {

constexpr std::string_view kMagic = "SLUICEJ";
constexpr size_t kMagicBytes = 8;
constexpr size_t kHeadBytes = 8;  // length and checksum
constexpr uint64_t kUnknown = UINT64_MAX;

// Each record's fields, in the order of the file, given to `field`: one list for both directions.
template <class Record, class Field>
bool each_field(Record& record, Field field) {
  using Kind = std::remove_const_t<Record>;
  if constexpr (std::is_same_v<Kind, ModelRecord>) {
    return field(record.key) && field(record.created_ms);
  } else if constexpr (std::is_same_v<Kind, FileRecord>) {
    return field(record.file) && field(record.path) && field(record.nbytes) && field(record.etag) &&
           field(record.last_modified);
  } else if constexpr (std::is_same_v<Kind, ExtentRecord>) {
    return field(record.file) && field(record.begin) && field(record.end) && field(record.digest);
  } else if constexpr (std::is_same_v<Kind, DropRecord>) {
    return field(record.file) && field(record.begin) && field(record.end);
  } else if constexpr (std::is_same_v<Kind, CheckedRecord>) {
    return field(record.file) && field(record.algorithm) && field(record.digest);
  } else if constexpr (std::is_same_v<Kind, CompactedRecord>) {
    return field(record.generation);
  } else {
    return field(record.ms);
  }
}

class Encoder {
 public:
  explicit Encoder(std::string& out) : out_(out) {}

  template <std::integral T>
  bool operator()(T value) {
    char raw[sizeof(T)];
    std::memcpy(raw, &value, sizeof(T));
    out_.append(raw, sizeof(T));
    return true;
  }
  bool operator()(const std::optional<uint64_t>& value) {
    return (*this)(value.value_or(kUnknown));
  }
  bool operator()(std::string_view text) {
    (*this)(static_cast<uint32_t>(text.size()));
    out_.append(text);
    return true;
  }

 private:
  std::string& out_;
};

class Decoder {
 public:
  explicit Decoder(ByteReader& in) : in_(in) {}

  template <std::integral T>
  bool operator()(T& value) {
    const auto read = in_.read<T>();
    if (!read) return false;
    value = *read;
    return true;
  }
  bool operator()(std::optional<uint64_t>& value) {
    const auto read = in_.read<uint64_t>();
    if (!read) return false;
    value = *read == kUnknown ? std::nullopt : read;
    return true;
  }
  bool operator()(std::string_view& text) {
    const auto length = in_.read<uint32_t>();
    if (!length || *length > kMaxJournalText) return false;
    const auto bytes = in_.take(*length);
    if (!bytes) return false;
    text = as_text(*bytes);
    return true;
  }

 private:
  ByteReader& in_;
};

template <size_t kind = 0>
std::optional<JournalRecord> decode(size_t wanted, Bytes fields) {
  if constexpr (kind < std::variant_size_v<JournalRecord>) {
    if (kind != wanted) return decode<kind + 1>(wanted, fields);
    std::variant_alternative_t<kind, JournalRecord> record;
    ByteReader in(fields);
    if (!each_field(record, Decoder(in)) || in.position() != fields.size()) return std::nullopt;
    return record;
  } else {
    return std::nullopt;
  }
}

JournalPosition behind_magic() {
  std::string magic(kMagic);
  magic += static_cast<char>(kJournalVersion);
  return {.nbytes = kMagicBytes, .chain = xxh3_64(as_bytes(magic))};
}

}  // namespace

JournalWriter::JournalWriter() : position_(behind_magic()), pending_(kMagic) {
  pending_ += static_cast<char>(kJournalVersion);
}

void JournalWriter::append(const JournalRecord& record) {
  const size_t head = pending_.size();
  pending_.append(kHeadBytes, '\0');
  pending_ += static_cast<char>(record.index() + 1);
  std::visit([this](const auto& fields) { each_field(fields, Encoder(pending_)); }, record);
  const std::string_view payload = std::string_view(pending_).substr(head + kHeadBytes);
  position_.nbytes += kHeadBytes + payload.size();
  position_.chain = xxh3_64(as_bytes(payload), position_.chain);
  const uint32_t words[] = {static_cast<uint32_t>(payload.size()),
                            static_cast<uint32_t>(position_.chain)};
  std::memcpy(pending_.data() + head, words, sizeof(words));
}

std::string JournalWriter::take() { return std::exchange(pending_, std::string()); }

Result<JournalReader> JournalReader::open(Bytes journal) {
  const auto corrupt = [](std::string message) {
    return std::unexpected(Error{
        .code = ErrorCode::store_corrupt,
        .message = std::move(message),
        .file = "journal",
        .hint = "delete the stored model; it is fetched again",
    });
  };
  if (journal.size() < kMagicBytes || as_text(journal.first(kMagic.size())) != kMagic)
    return corrupt(concat("the journal of ", journal.size(),
                          " bytes is none: it does not begin with ", quote(kMagic)));
  const auto version = static_cast<uint8_t>(journal[kMagic.size()]);
  if (version != kJournalVersion)
    return corrupt(concat("the journal has format version ", version, "; this release reads ",
                          kJournalVersion));
  JournalReader reader(journal);
  reader.position_ = behind_magic();
  return reader;
}

std::optional<JournalRecord> JournalReader::next() {
  ByteReader in(journal_.subspan(static_cast<size_t>(position_.nbytes)));
  const auto length = in.read<uint32_t>();
  const auto checksum = in.read<uint32_t>();
  if (!length || !checksum || *length == 0 || *length > kMaxJournalPayload) return std::nullopt;
  const auto payload = in.take(*length);
  if (!payload) return std::nullopt;
  const uint64_t chain = xxh3_64(*payload, position_.chain);
  if (static_cast<uint32_t>(chain) != *checksum) return std::nullopt;
  const auto kind = static_cast<uint8_t>(payload->front());
  // Kind 0 becomes a number that is no index
  auto record = decode(static_cast<size_t>(kind) - 1, payload->subspan(1));
  if (record) position_ = {position_.nbytes + kHeadBytes + *length, chain};
  return record;
}

}  // namespace sluice
