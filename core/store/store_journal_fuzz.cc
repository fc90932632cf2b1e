// A journal of any bytes: replayed, used, compacted and replayed again. The first byte of the input
// says how: with 1 the rest is a journal as it stands; otherwise it is a script of records that are
// given right checksums, so that the fuzzer reaches what lies behind them.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "core/base/json.h"
#include "core/store/stored_model.h"

namespace {

using namespace sluice;

void require(bool holds) {
  if (!holds) std::abort();
}

// All that a model holds, and that it does not contradict itself.
std::string state(const StoredModel& model) {
  std::string out = model.snapshot();
  require(parse_json(out, "snapshot").has_value());
  // The journal's length and its generation differ after a compaction
  const size_t from = out.find(",\"journal_bytes\":");
  out.erase(from, out.find(",\"files\":") - from);
  for (uint32_t file = 0; file < model.file_count(); ++file)
    for (uint64_t at = 0; at < kMaxStoredNumber;) {
      const auto run = model.find(file, at);
      if (!run) break;
      require(run->begin <= at && at < run->end);
      if (run->stored) {
        require(run->begin == at && (run->end - 1) / kStoreBlockBytes == at / kStoreBlockBytes);
        out += concat(file, ":", run->begin, "-", run->end, "=", run->digest, ";");
      }
      at = run->end;
    }
  return out;
}

// A record for each few bytes, with numbers small enough to meet each other.
std::string write_journal(Bytes script) {
  JournalWriter writer;
  writer.append(ModelRecord{.key = "k", .created_ms = 1});
  ByteReader in(script);
  while (const auto kind = in.read<uint8_t>()) {
    const uint32_t file = in.read<uint8_t>().value_or(0);
    const uint64_t begin = in.read<uint16_t>().value_or(0);
    // Also beyond any file, and across multiples of the block
    const uint64_t high = uint64_t{*kind} >> 4 << 20;
    const uint64_t end = begin + in.read<uint8_t>().value_or(0);
    const std::string path(1, static_cast<char>('a' + file % 16));
    switch (*kind % 8) {
      case 0:
        writer.append(ModelRecord{.key = path, .created_ms = begin});
        break;
      case 1:
        writer.append(FileRecord{.file = file, .path = path, .nbytes = begin + high, .etag = "e"});
        break;
      case 2:
        writer.append(FileRecord{.file = file, .path = path, .etag = end % 2 ? "e" : "f"});
        break;
      case 3:
        writer.append(DropRecord{.file = file, .begin = begin, .end = end + high});
        break;
      case 4:
        writer.append(CheckedRecord{
            .file = file, .algorithm = "md5", .digest = "0123456789abcdef0123456789abcdef"});
        break;
      case 5:
        writer.append(LoadedRecord{.ms = begin});
        break;
      case 6:
        writer.append(CompactedRecord{.generation = end % 4});
        break;
      default:
        writer.append(
            ExtentRecord{.file = file, .begin = begin + high, .end = end + high, .digest = begin});
    }
  }
  return writer.take();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const Bytes rest = as_bytes({reinterpret_cast<const char*>(data) + 1, size - 1});
  std::string journal = data[0] == 1 ? std::string(as_text(rest)) : write_journal(rest);
  auto first = StoredModel::replay(as_bytes(journal));
  if (!first) {
    require(first.error().code == ErrorCode::store_corrupt && data[0] == 1);
    return 0;
  }
  StoredModel& model = first->model;
  require(first->valid_bytes <= journal.size());
  journal.resize(first->valid_bytes);
  const auto prefix = StoredModel::replay(as_bytes(journal));
  require(prefix && prefix->valid_bytes == journal.size());
  require(state(prefix->model) == state(model));

  // Goes on behind it, with what is accepted and what is not
  require(model.set_used(5).has_value());
  if (model.file_count() < 1000) require(model.set_file("new", 9, "", "").has_value());
  for (uint32_t file = 0; file < model.file_count() && file < 20; ++file) {
    const auto run = model.find(file, size % 50);
    if (run && run->stored) require(!model.add(file, run->begin, run->begin + 1, 1).has_value());
    if (run && run->stored && size % 3 == 0)
      require(model.drop(file, run->begin, run->begin + 1).has_value());
    if (run && !run->stored) require(model.add(file, size % 50, size % 50 + 1, 1).has_value());
  }
  journal += model.take_journal();
  const auto second = StoredModel::replay(as_bytes(journal));
  require(second && second->valid_bytes == journal.size());
  require(state(second->model) == state(model));

  const std::string compacted = model.compact();
  const auto third = StoredModel::replay(as_bytes(compacted));
  require(third && third->valid_bytes == compacted.size());
  require(state(third->model) == state(model));
  return 0;
}
