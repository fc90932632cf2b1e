#include "core/store/journal.h"

#include <gtest/gtest.h>

#include <vector>

#include "core/base/expect_error.h"
#include "core/store/block_digest.h"

namespace sluice {
namespace {

constexpr size_t kMagicBytes = 8;

std::vector<JournalRecord> one_of_each() {
  return {
      ModelRecord{.key = "https://host/model", .created_ms = 1'700'000'000'000},
      FileRecord{
          .file = 0, .path = "a.bin", .nbytes = 100, .etag = "\"x\"", .last_modified = "Mon"},
      FileRecord{.file = 1, .path = "", .nbytes = std::nullopt, .etag = "", .last_modified = ""},
      ExtentRecord{.file = 0, .begin = 3, .end = 100, .digest = 0x0123456789abcdef},
      DropRecord{.file = 0, .begin = 50, .end = 51},
      CheckedRecord{.file = 0, .algorithm = "md5", .digest = "00112233445566778899aabbccddeeff"},
      LoadedRecord{.ms = 1},
      UsedRecord{.ms = UINT64_MAX},
      CompactedRecord{.generation = 3},
  };
}

std::string write(const std::vector<JournalRecord>& records) {
  JournalWriter writer;
  for (const JournalRecord& record : records) writer.append(record);
  return writer.take();
}

// What can be read, and how many bytes of the journal that is.
struct Read {
  std::vector<JournalRecord> records;
  uint64_t nbytes = 0;
};
Read read(std::string_view journal) {
  auto reader = JournalReader::open(as_bytes(journal));
  if (!reader) return {};
  Read read;
  while (const auto record = reader->next()) read.records.push_back(*record);
  read.nbytes = reader->position().nbytes;
  return read;
}

// The checksum that the journal's format asks for, made apart from the writer.
std::string framed(std::string_view payload, uint64_t chain) {
  const uint64_t digest = xxh3_64(as_bytes(payload), chain);
  std::string out;
  for (const uint64_t word : {uint64_t{payload.size()}, digest})
    for (int i = 0; i < 4; ++i) out += static_cast<char>(word >> (8 * i));
  return out.append(payload);
}

TEST(Journal, GivesBackEveryKindOfRecord) {
  const std::string journal = write(one_of_each());
  const Read all = read(journal);
  EXPECT_EQ(all.records, one_of_each());
  EXPECT_EQ(all.nbytes, journal.size());
}

TEST(Journal, HasTheDocumentedLayout) {
  const std::string magic("SLUICEJ\x01", kMagicBytes);
  EXPECT_EQ(write({}), magic);
  const std::string payload("\x03\x02\0\0\0\x05\0\0\0\0\0\0\0\x06\0\0\0\0\0\0\0\x08\7\6\5\4\3\2\1",
                            29);
  EXPECT_EQ(write({ExtentRecord{.file = 2, .begin = 5, .end = 6, .digest = 0x0102030405060708}}),
            magic + framed(payload, xxh3_64(as_bytes(magic))));
}

TEST(Journal, CutAnywhereGivesTheWholeRecordsBeforeTheCut) {
  const auto records = one_of_each();
  std::vector<size_t> ends = {kMagicBytes};
  for (size_t i = 1; i <= records.size(); ++i)
    ends.push_back(write({records.begin(), records.begin() + static_cast<ptrdiff_t>(i)}).size());
  const std::string journal = write(records);
  for (size_t cut = 0; cut <= journal.size(); ++cut) {
    const Read some = read(std::string_view(journal).substr(0, cut));
    size_t whole = 0;
    while (whole < records.size() && ends[whole + 1] <= cut) ++whole;
    EXPECT_EQ(some.records.size(), cut < kMagicBytes ? 0 : whole) << cut;
    EXPECT_EQ(some.nbytes, cut < kMagicBytes ? 0 : ends[whole]) << cut;
  }
}

TEST(Journal, FlippedBitEndsItBeforeItsRecord) {
  const auto records = one_of_each();
  const std::string journal = write(records);
  size_t record = 0;
  size_t end = kMagicBytes;
  for (size_t i = 0; i < journal.size(); ++i) {
    if (i == end)
      end = write({records.begin(), records.begin() + static_cast<ptrdiff_t>(++record)}).size();
    for (int bit = 0; bit < 8; ++bit) {
      std::string damaged = journal;
      damaged[i] = static_cast<char>(damaged[i] ^ (1 << bit));
      const Read some = read(damaged);
      const size_t good = i < kMagicBytes ? 0 : record - 1;
      ASSERT_EQ(some.records.size(), good) << "byte " << i << " bit " << bit;
      EXPECT_TRUE(std::equal(some.records.begin(), some.records.end(), records.begin()));
    }
  }
}

TEST(Journal, RefusesARecordFromElsewhere) {
  const std::string first = write({UsedRecord{.ms = 1}});
  const std::string both = write({UsedRecord{.ms = 1}, UsedRecord{.ms = 2}});
  const std::string second = both.substr(first.size());
  EXPECT_EQ(read(first + second).records.size(), 2u);
  // At another place, behind another record of the same length, and twice
  EXPECT_EQ(read(first.substr(0, kMagicBytes) + second).records.size(), 0u);
  EXPECT_EQ(read(write({UsedRecord{.ms = 3}}) + second).records.size(), 1u);
  EXPECT_EQ(read(first + second + second).records.size(), 2u);
}

TEST(Journal, GoesOnBehindWhatWasRead) {
  JournalWriter writer;
  writer.append(UsedRecord{.ms = 1});
  std::string journal = writer.take();
  EXPECT_EQ(writer.take(), "");
  auto reader = JournalReader::open(as_bytes(journal));
  ASSERT_TRUE(reader && reader->next());
  EXPECT_EQ(reader->position(), writer.position());
  JournalWriter later(reader->position());
  later.append(UsedRecord{.ms = 2});
  journal += later.take();
  EXPECT_EQ(later.position().nbytes, journal.size());
  EXPECT_EQ(read(journal).records,
            (std::vector<JournalRecord>{UsedRecord{.ms = 1}, UsedRecord{.ms = 2}}));
}

TEST(Journal, StopsAtARecordWhoseFieldsAreWrongThoughItsChecksumIsRight) {
  const std::string magic = write({});
  const uint64_t chain = xxh3_64(as_bytes(magic));
  const std::string used("\x07\1\0\0\0\0\0\0\0", 9);
  const auto records = [&](std::string_view payload) {
    return read(magic + framed(payload, chain)).records.size();
  };
  EXPECT_EQ(records(used), 1u);
  EXPECT_EQ(records(used + '\0'), 0u);              // bytes behind the fields
  EXPECT_EQ(records(used.substr(0, 8)), 0u);        // a field is cut
  EXPECT_EQ(records("\x09" + used.substr(1)), 0u);  // kinds that are none
  EXPECT_EQ(records(std::string(1, '\0') + used.substr(1)), 0u);
  EXPECT_EQ(records("\xff"), 0u);
  EXPECT_EQ(records(""), 0u);
  EXPECT_EQ(records(std::string("\x01\xff\xff\xff\xff", 5)), 0u);  // a text beyond the end
  // The longest text, and one that is longer
  const auto model = [](uint32_t length) {
    std::string payload("\x01");
    payload.append(reinterpret_cast<const char*>(&length), 4);
    return payload + std::string(length, 'k') + std::string(8, '\0');
  };
  EXPECT_EQ(records(model(kMaxJournalText)), 1u);
  EXPECT_EQ(records(model(kMaxJournalText + 1)), 0u);
}

TEST(Journal, RefusesAnotherFileAndAnotherVersion) {
  std::string journal = write(one_of_each());
  journal[7] = 9;
  expect_error(JournalReader::open(as_bytes(journal)), ErrorCode::store_corrupt,
               {"journal", "version 9", "reads 1"});
  journal[0] = 'X';
  expect_error(JournalReader::open(as_bytes(journal)), ErrorCode::store_corrupt,
               {"journal", "SLUICEJ", concat(journal.size())});
  expect_error(JournalReader::open({}), ErrorCode::store_corrupt, {"0 bytes"});
}

TEST(BlockDigest, IsXxh3) {
  // Of libxxhash 0.8.1
  EXPECT_EQ(xxh3_64({}), 0x2d06800538d394c2u);
  BlockDigest digest;
  EXPECT_EQ(digest.digest(), 0x2d06800538d394c2u);
}

TEST(BlockDigest, DoesNotDependOnThePieces) {
  std::string bytes;
  for (uint32_t i = 0; i < 5000; ++i) bytes += static_cast<char>(i * 2654435761u >> 13);
  const uint64_t whole = xxh3_64(as_bytes(bytes));
  EXPECT_EQ(whole, 0x853377ef13cec7bdu);  // of libxxhash 0.8.1
  BlockDigest digest;
  for (const size_t piece : {1u, 7u, 63u, 64u, 65u, 256u, 1024u, 1025u, 4999u, 5000u}) {
    digest.reset();
    for (size_t at = 0; at < bytes.size(); at += piece)
      digest.update(as_bytes(std::string_view(bytes).substr(at, piece)));
    EXPECT_EQ(digest.digest(), whole) << piece;
  }
  digest.update({});
  EXPECT_EQ(digest.digest(), whole);
  bytes[2500] = static_cast<char>(bytes[2500] ^ 1);
  EXPECT_NE(xxh3_64(as_bytes(bytes)), whole);
  EXPECT_NE(xxh3_64(as_bytes(bytes), 1), xxh3_64(as_bytes(bytes)));
}

TEST(StoreFolderName, IsThirtyTwoDigitsOfTheKey) {
  const std::string name = store_folder_name("https://host/a");
  EXPECT_EQ(name.size(), 32u);
  EXPECT_EQ(name.find_first_not_of("0123456789abcdef"), std::string::npos);
  EXPECT_EQ(name, store_folder_name("https://host/a"));
  EXPECT_NE(name, store_folder_name("https://host/b"));
  EXPECT_NE(name.substr(0, 16), name.substr(16));
  // Stored on disks out there: it must never become another
  EXPECT_EQ(name, "18b40301924ea75e4f626a2fdb14dd47");
  EXPECT_EQ(store_folder_name(std::string(3000, 'k')), "5f7a2ef938740eb6a1ffacc0d0a96e76");
  EXPECT_EQ(store_folder_name(""), "2d06800538d394c24dc5b0cc826f6703");
}

}  // namespace
}  // namespace sluice
