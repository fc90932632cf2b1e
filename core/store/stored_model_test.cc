#include "core/store/stored_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>

#include "core/base/expect_error.h"
#include "core/base/json.h"

namespace sluice {
namespace {

constexpr std::string_view kKey = "https://host/model";
constexpr uint64_t kBlock = kStoreBlockBytes;

StoredModel new_model() { return *StoredModel::create(kKey, 1000); }

// A model with one file of 100 bytes.
StoredModel with_file(std::optional<uint64_t> nbytes = 100) {
  StoredModel model = new_model();
  EXPECT_TRUE(model.set_file("a.bin", nbytes, "\"e1\"", ""));
  return model;
}

StoredModel replayed(std::string_view journal) {
  auto result = StoredModel::replay(as_bytes(journal));
  EXPECT_TRUE(result) << result.error().message;
  return std::move(result->model);
}

// Every extent and gap of a file of known size, as text.
std::string runs(const StoredModel& model, uint32_t file, uint64_t nbytes) {
  std::string out;
  for (uint64_t at = 0; at < nbytes;) {
    const auto run = model.find(file, at);
    if (!run || run->begin > at || run->end <= at) return out + " wrong at " + std::to_string(at);
    if (run->stored)
      out += concat("[", run->begin, ",", run->end, ")=", run->digest, " ");
    else
      out += concat("-", run->begin, ",", run->end, " ");
    at = run->end;
  }
  return out;
}

// All that a model holds, but for the journal's length and generation, which differ after a
// compaction.
std::string state(const StoredModel& model) {
  const std::string text = model.snapshot();
  const auto json = parse_json(text, "snapshot");
  std::string out;
  for (const auto& [key, value] : *json->as_object())
    if (key != "journal_bytes" && key != "generation") out += concat(key, "=", value.dump(), "\n");
  for (uint32_t file = 0; file < model.file_count(); ++file)
    for (uint64_t at = 0;;) {
      const auto run = model.find(file, at);
      if (!run) break;
      if (run->stored) out += concat(file, ":", run->begin, "-", run->end, "=", run->digest, "\n");
      if (run->end >= kMaxStoredNumber) break;
      at = run->end;
    }
  return out;
}

TEST(StoredModel, SaysWhatIsStoredAndWhatIsNot) {
  StoredModel model = with_file(100);
  EXPECT_EQ(runs(model, 0, 100), "-0,100 ");
  ASSERT_TRUE(model.add(0, 10, 20, 7));
  ASSERT_TRUE(model.add(0, 50, 100, 9));
  ASSERT_TRUE(model.add(0, 20, 30, 8));
  EXPECT_EQ(runs(model, 0, 100), "-0,10 [10,20)=7 [20,30)=8 -30,50 [50,100)=9 ");
  EXPECT_EQ(model.find(0, 40)->begin, 30u);
  EXPECT_EQ(model.find(0, 99)->end, 100u);
}

TEST(StoredModel, GapOfAFileOfUnknownSizeHasNoEnd) {
  StoredModel model = with_file(std::nullopt);
  ASSERT_TRUE(model.add(0, 0, 20, 7));
  const auto run = model.find(0, 20);
  ASSERT_TRUE(run);
  EXPECT_FALSE(run->stored);
  EXPECT_EQ(run->begin, 20u);
  EXPECT_EQ(run->end, UINT64_MAX);
}

TEST(StoredModel, DropForgetsEveryExtentItTouches) {
  StoredModel model = with_file(100);
  for (uint64_t at = 0; at < 100; at += 10) ASSERT_TRUE(model.add(0, at, at + 10, at));
  ASSERT_TRUE(model.drop(0, 19, 31));
  EXPECT_EQ(model.find(0, 15)->begin, 10u);
  EXPECT_EQ(model.find(0, 15)->end, 40u);
  EXPECT_FALSE(model.find(0, 15)->stored);
  EXPECT_TRUE(model.find(0, 40)->stored);
  ASSERT_TRUE(model.drop(0, 0, 1000));
  EXPECT_EQ(runs(model, 0, 100), "-0,100 ");
}

TEST(StoredModel, RefusesBadExtentsAndChangesNothing) {
  StoredModel model = with_file(3 * kBlock);
  ASSERT_TRUE(model.add(0, 100, 200, 1));
  model.take_journal();
  const std::string before = state(model);
  using enum ErrorCode;
  expect_error(model.add(1, 0, 1, 0), invalid_argument, {kKey, "1 files", "index 1"});
  expect_error(model.add(0, 5, 5, 0), invalid_argument, {"a.bin", "5 to 5"});
  expect_error(model.add(0, 6, 5, 0), invalid_argument, {"a.bin", "6 to 5"});
  expect_error(model.add(0, 0, UINT64_MAX, 0), invalid_argument, {"a.bin"});
  expect_error(model.add(0, 3 * kBlock - 1, 3 * kBlock + 1, 0), range_out_of_bounds,
               {"a.bin", "50331647 to 50331649", "50331648 bytes"});
  expect_error(model.add(0, kBlock - 1, kBlock + 1, 0), invalid_argument,
               {"a.bin", "16777215 to 16777217", "16777216"});
  for (const auto& [begin, end] :
       {std::pair(100, 200), {99, 101}, {199, 201}, {150, 160}, {0, 300}, {100, 101}})
    expect_error(model.add(0, begin, end, 0), invalid_argument, {"a.bin", "overlap", "100 to 200"});
  EXPECT_EQ(state(model), before);
  EXPECT_EQ(model.take_journal(), "");
  EXPECT_TRUE(model.add(0, 200, 300, 0));
  EXPECT_TRUE(model.add(0, 0, 100, 0));
  EXPECT_TRUE(model.add(0, kBlock, 2 * kBlock, 0));
}

TEST(StoredModel, RefusesBadArguments) {
  using enum ErrorCode;
  expect_error(StoredModel::create("", 0), invalid_argument, {"empty"});
  expect_error(StoredModel::create(std::string(65537, 'k'), 0), invalid_argument, {"key", "65537"});
  expect_error(StoredModel::create("k", (1ull << 53) + 1), invalid_argument, {"9007199254740993"});
  StoredModel model = with_file(100);
  model.take_journal();
  const std::string before = state(model);
  const std::string overlong(65537, 'x');
  expect_error(model.set_file(overlong, 1, "", ""), invalid_argument, {"path", "65537"});
  expect_error(model.set_file("b", 1, overlong, ""), invalid_argument, {"ETag", "65537"});
  expect_error(model.set_file("b", 1, "", overlong), invalid_argument, {"Last-Modified", "65537"});
  expect_error(model.set_file("b", UINT64_MAX, "", ""), invalid_argument, {"size"});
  expect_error(model.drop(0, 5, 5), invalid_argument, {"a.bin", "5 to 5"});
  expect_error(model.drop(9, 5, 6), invalid_argument, {"index 9"});
  expect_error(model.find(9, 0), invalid_argument, {"index 9"});
  expect_error(model.find(0, 100), range_out_of_bounds, {"a.bin", "offset 100", "100 bytes"});
  expect_error(model.find(0, UINT64_MAX), range_out_of_bounds, {"a.bin"});
  expect_error(model.set_used(UINT64_MAX), invalid_argument, {"time"});
  expect_error(model.set_loaded(UINT64_MAX), invalid_argument, {"time"});
  EXPECT_EQ(state(model), before);
  EXPECT_EQ(model.take_journal(), "");
}

TEST(StoredModel, FileThatIsAnotherStartsOver) {
  struct Case {
    std::optional<uint64_t> nbytes;
    std::string_view etag, last_modified;
    bool changed;
  };
  for (const Case& c : {Case{100, "\"e1\"", "Mon", false}, Case{std::nullopt, "", "", false},
                        Case{100, "", "Mon", false}, Case{100, "\"e2\"", "Mon", true},
                        Case{101, "\"e1\"", "Mon", true}, Case{100, "\"e1\"", "Tue", true},
                        Case{std::nullopt, "\"e2\"", "", true}}) {
    StoredModel model = new_model();
    ASSERT_TRUE(model.set_file("other", 10, "", ""));
    ASSERT_TRUE(model.add(0, 0, 10, 5));
    ASSERT_TRUE(model.set_file("a.bin", 100, "\"e1\"", "Mon"));
    ASSERT_TRUE(model.add(1, 0, 100, 1));
    ASSERT_TRUE(model.set_checked(1, "md5", std::string(32, 'a')));
    ASSERT_TRUE(model.set_loaded(5));
    std::string journal = model.take_journal();
    const std::string before = state(model);
    const auto change = model.set_file("a.bin", c.nbytes, c.etag, c.last_modified);
    ASSERT_TRUE(change);
    EXPECT_EQ(change->file, 1u);
    EXPECT_EQ(change->changed, c.changed);
    journal += model.take_journal();
    EXPECT_EQ(state(replayed(journal)), state(model));
    EXPECT_TRUE(model.find(0, 0)->stored);
    if (!c.changed) {
      EXPECT_EQ(state(model), before);
      continue;
    }
    EXPECT_FALSE(model.find(1, 0)->stored);
    const std::string snapshot = model.snapshot();
    EXPECT_TRUE(snapshot.contains("\"checked\":[]")) << snapshot;
    EXPECT_TRUE(snapshot.contains("\"loaded_ms\":null")) << snapshot;
    EXPECT_TRUE(snapshot.contains(concat("\"etag\":", JsonValue(std::string(c.etag)).dump())));
  }
}

TEST(StoredModel, LearnsWhatWasNotKnown) {
  StoredModel model = new_model();
  ASSERT_TRUE(model.set_file("a", std::nullopt, "", ""));
  ASSERT_TRUE(model.add(0, 0, 50, 1));
  EXPECT_FALSE(model.set_file("a", 50, "\"e\"", "Mon")->changed);
  const std::string snapshot = model.snapshot();
  EXPECT_TRUE(snapshot.contains(R"("nbytes":50,"etag":"\"e\"","last_modified":"Mon")")) << snapshot;
  EXPECT_TRUE(snapshot.contains(R"("complete":true)")) << snapshot;
  model.take_journal();
  // What is known already is not journalled again
  EXPECT_FALSE(model.set_file("a", 50, "\"e\"", "Mon")->changed);
  EXPECT_EQ(model.take_journal(), "");
}

TEST(StoredModel, FileShorterThanWhatIsStoredIsAnother) {
  StoredModel model = new_model();
  ASSERT_TRUE(model.set_file("a", std::nullopt, "", ""));
  ASSERT_TRUE(model.add(0, 0, 50, 1));
  EXPECT_TRUE(model.set_file("a", 49, "", "")->changed);
  EXPECT_EQ(runs(model, 0, 49), "-0,49 ");
}

TEST(StoredModel, ChecksOnlyWholeFiles) {
  using enum ErrorCode;
  StoredModel model = with_file(100);
  const std::string digest(32, 'a');
  expect_error(model.set_checked(0, "md5", digest), invalid_argument, {"a.bin", "0 of 100 bytes"});
  ASSERT_TRUE(model.add(0, 0, 100, 1));
  expect_error(model.set_checked(7, "md5", digest), invalid_argument, {"index 7"});
  expect_error(model.set_checked(0, "crc", digest), invalid_argument, {"a.bin", "'crc'", "sha256"});
  expect_error(model.set_checked(0, "sha256", digest), invalid_argument, {"a.bin", "64", digest});
  expect_error(model.set_checked(0, "md5", std::string(32, 'A')), invalid_argument, {"a.bin"});
  ASSERT_TRUE(model.set_checked(0, "md5", std::string(32, 'b')));
  ASSERT_TRUE(model.set_checked(0, "md5", digest));
  ASSERT_TRUE(model.set_checked(0, "sha256", std::string(64, '0')));
  EXPECT_TRUE(model.snapshot().contains(concat(R"("checked":[{"algorithm":"md5","digest":")",
                                               digest, R"("},{"algorithm":"sha256","digest":")",
                                               std::string(64, '0'), R"("}])")))
      << model.snapshot();
  // A drop of nothing leaves it; one of something does not
  ASSERT_TRUE(model.drop(0, 100, 200));
  EXPECT_TRUE(model.snapshot().contains("md5"));
  ASSERT_TRUE(model.drop(0, 99, 200));
  EXPECT_FALSE(model.snapshot().contains("md5"));
  StoredModel unknown = with_file(std::nullopt);
  expect_error(unknown.set_checked(0, "md5", digest), invalid_argument,
               {"a.bin", "0 of an unknown number of bytes"});
  StoredModel empty = with_file(0);
  EXPECT_TRUE(empty.set_checked(0, "md5", digest));
}

TEST(StoredModel, SnapshotHasEveryField) {
  StoredModel model = new_model();
  ASSERT_TRUE(model.set_file("a.bin", 30, "\"e\"", "Mon"));
  ASSERT_TRUE(model.set_file("b.bin", std::nullopt, "", ""));
  ASSERT_TRUE(model.add(0, 0, 10, 1));
  ASSERT_TRUE(model.add(1, 5, 10, 1));
  ASSERT_TRUE(model.set_used(3000));
  ASSERT_TRUE(model.set_loaded(2000));
  const size_t journal = model.take_journal().size();
  EXPECT_EQ(
      model.snapshot(),
      concat(R"({"key":"https://host/model","created_ms":1000,"used_ms":3000,)"
             R"("loaded_ms":2000,"stored_bytes":15,"journal_bytes":)",
             journal,
             R"(,"generation":0,"files":[{"index":0,"path":"a.bin","nbytes":30,"etag":"\"e\"",)"
             R"("last_modified":"Mon","stored_bytes":10,"complete":false,"checked":[]},)"
             R"({"index":1,"path":"b.bin","nbytes":null,"etag":"","last_modified":"",)"
             R"("stored_bytes":5,"complete":false,"checked":[]}]})"));
}

TEST(StoredModel, ReplayRefusesWhatIsNoJournalOfAModel) {
  using enum ErrorCode;
  const std::string journal = new_model().take_journal();
  expect_error(StoredModel::replay({}), store_corrupt, {"0 bytes"});
  expect_error(StoredModel::replay(as_bytes("GGUF\0\0\0\0\0\0")), store_corrupt, {"SLUICEJ"});
  for (size_t cut = 8; cut < journal.size(); ++cut)
    expect_error(StoredModel::replay(as_bytes(std::string_view(journal).substr(0, cut))),
                 store_corrupt, {"does not name its model", concat(cut, " bytes")});
  JournalWriter nameless;
  nameless.append(UsedRecord{.ms = 1});
  expect_error(StoredModel::replay(as_bytes(nameless.take())), store_corrupt, {"name its model"});
}

TEST(StoredModel, ReplayStopsAtARecordThatMakesNoSense) {
  const auto stops_at = [](const JournalRecord& record) {
    JournalWriter writer;
    writer.append(ModelRecord{.key = kKey, .created_ms = 1});
    writer.append(FileRecord{.file = 0, .path = "a", .nbytes = 100});
    writer.append(ExtentRecord{.file = 0, .begin = 0, .end = 10, .digest = 1});
    const uint64_t good = writer.position().nbytes;
    writer.append(record);
    writer.append(ExtentRecord{.file = 0, .begin = 90, .end = 100, .digest = 1});
    auto result = StoredModel::replay(as_bytes(writer.take()));
    EXPECT_TRUE(result);
    EXPECT_EQ(result->model.find(0, 95)->stored, result->valid_bytes > good);
    return result->valid_bytes == good;
  };
  EXPECT_FALSE(stops_at(UsedRecord{.ms = 1}));
  EXPECT_TRUE(stops_at(UsedRecord{.ms = UINT64_MAX}));
  EXPECT_TRUE(stops_at(ModelRecord{.key = "other", .created_ms = 1}));
  EXPECT_FALSE(stops_at(FileRecord{.file = 1, .path = "b"}));
  EXPECT_TRUE(stops_at(FileRecord{.file = 2, .path = "b"}));  // leaves an index out
  EXPECT_TRUE(stops_at(FileRecord{.file = 0, .path = "b"}));  // another path
  EXPECT_TRUE(stops_at(FileRecord{.file = 1, .path = "a"}));  // a path twice
  EXPECT_TRUE(stops_at(FileRecord{.file = 1, .path = "b", .nbytes = UINT64_MAX - 1}));
  EXPECT_FALSE(stops_at(ExtentRecord{.file = 0, .begin = 10, .end = 20}));
  EXPECT_TRUE(stops_at(ExtentRecord{.file = 0, .begin = 9, .end = 20}));
  EXPECT_TRUE(stops_at(ExtentRecord{.file = 0, .begin = 90, .end = 101}));
  EXPECT_TRUE(stops_at(ExtentRecord{.file = 0, .begin = 20, .end = 20}));
  EXPECT_TRUE(stops_at(ExtentRecord{.file = 1, .begin = 10, .end = 20}));
  EXPECT_TRUE(stops_at(DropRecord{.file = 1, .begin = 10, .end = 20}));
  EXPECT_TRUE(stops_at(DropRecord{.file = 0, .begin = 10, .end = 10}));
  EXPECT_TRUE(stops_at(CheckedRecord{.file = 0, .algorithm = "md5", .digest = "00"}));
}

TEST(StoredModel, GoesOnBehindAReplay) {
  StoredModel model = with_file(100);
  ASSERT_TRUE(model.add(0, 0, 10, 1));
  std::string journal = model.take_journal();
  const size_t good = journal.size();
  journal += "rest of a torn record";
  auto result = StoredModel::replay(as_bytes(journal));
  ASSERT_TRUE(result);
  EXPECT_EQ(result->valid_bytes, good);
  EXPECT_EQ(result->model.take_journal(), "");
  ASSERT_TRUE(result->model.add(0, 10, 20, 2));
  journal.resize(good);
  journal += result->model.take_journal();
  EXPECT_EQ(state(replayed(journal)), state(result->model));
}

TEST(StoredModel, CompactionKeepsTheStateAndGoesOn) {
  StoredModel model = with_file(100);
  for (int i = 0; i < 50; ++i) {
    ASSERT_TRUE(model.add(0, 0, 10, i));
    ASSERT_TRUE(model.drop(0, 0, 1));
  }
  ASSERT_TRUE(model.add(0, 0, 100, 1));
  ASSERT_TRUE(model.set_checked(0, "md5", std::string(32, 'a')));
  ASSERT_TRUE(model.set_loaded(7));
  ASSERT_TRUE(model.set_used(8));
  const size_t long_journal = model.take_journal().size();
  ASSERT_TRUE(model.set_used(9));  // pending, and part of the new journal
  const std::string before = state(model);
  std::string journal = model.compact();
  EXPECT_LT(journal.size(), long_journal / 10);
  EXPECT_EQ(model.take_journal(), "");
  EXPECT_EQ(state(model), before);
  EXPECT_EQ(state(replayed(journal)), before);
  EXPECT_TRUE(model.snapshot().contains(concat("\"journal_bytes\":", journal.size())));
  ASSERT_TRUE(model.set_used(10));
  journal += model.take_journal();
  EXPECT_EQ(state(replayed(journal)), state(model));
}

TEST(StoredModel, CompactionIsOfTheNextGenerationOnceItIsWhole) {
  const auto generation = [](const StoredModel& model) {
    const std::string text = model.snapshot();
    return parse_json(text, "snapshot")->find("generation")->as_uint()[0];
  };
  StoredModel model = with_file(100);
  ASSERT_TRUE(model.add(0, 0, 10, 1));
  EXPECT_EQ(generation(replayed(model.take_journal())), 0u);
  const std::string first = model.compact();
  EXPECT_EQ(generation(model), 1u);
  EXPECT_EQ(generation(replayed(first)), 1u);
  ASSERT_TRUE(model.add(0, 10, 20, 2));
  const std::string second = model.compact();
  EXPECT_EQ(generation(replayed(second)), 2u);
  EXPECT_EQ(generation(replayed(second + model.take_journal())), 2u);
  for (size_t cut = 0; cut < second.size(); ++cut) {
    const auto part = StoredModel::replay(as_bytes(second.substr(0, cut)));
    if (part) EXPECT_EQ(generation(part->model), 0u) << cut;
  }
}

TEST(StoredModel, GenerationsOnlyGrow) {
  const auto valid = [](std::initializer_list<uint64_t> generations) {
    JournalWriter writer;
    writer.append(ModelRecord{.key = "k", .created_ms = 1});
    for (const uint64_t generation : generations) writer.append(CompactedRecord{generation});
    const std::string journal = writer.take();
    return StoredModel::replay(as_bytes(journal))->valid_bytes == journal.size();
  };
  EXPECT_TRUE(valid({1, 2, 7}));
  EXPECT_TRUE(valid({kMaxStoredNumber}));
  EXPECT_FALSE(valid({0}));
  EXPECT_FALSE(valid({2, 2}));
  EXPECT_FALSE(valid({2, 1}));
  EXPECT_FALSE(valid({kMaxStoredNumber + 1}));
}

// The plainest thing that could be right: one entry a byte.
class Reference {
 public:
  static constexpr uint64_t kBytes = 64;
  struct Cell {
    uint64_t begin, end, digest;
  };
  bool add(uint64_t begin, uint64_t end, uint64_t digest) {
    if (begin >= end || end > kBytes) return false;
    for (uint64_t i = begin; i < end; ++i)
      if (cells_[i]) return false;
    for (uint64_t i = begin; i < end; ++i) cells_[i] = Cell{begin, end, digest};
    return true;
  }
  void drop(uint64_t begin, uint64_t end) {
    std::set<uint64_t> hit;
    for (uint64_t i = begin; i < std::min(end, kBytes); ++i)
      if (cells_[i]) hit.insert(cells_[i]->begin);
    for (auto& cell : cells_)
      if (cell && hit.contains(cell->begin)) cell.reset();
  }
  void clear() { drop(0, kBytes); }
  void check(const StoredModel& model, uint32_t file) const {
    uint64_t stored = 0;
    for (uint64_t i = 0; i < kBytes; ++i) {
      const auto run = model.find(file, i);
      ASSERT_TRUE(run);
      ASSERT_EQ(run->stored, cells_[i].has_value()) << i;
      uint64_t begin = i;
      uint64_t end = i + 1;
      if (cells_[i]) {
        begin = cells_[i]->begin, end = cells_[i]->end, ++stored;
        ASSERT_EQ(run->digest, cells_[i]->digest);
      } else {
        while (begin > 0 && !cells_[begin - 1]) --begin;
        while (end < kBytes && !cells_[end]) ++end;
      }
      ASSERT_EQ(run->begin, begin) << i;
      ASSERT_EQ(run->end, end) << i;
    }
    ASSERT_TRUE(model.snapshot().contains(concat(
        "\"stored_bytes\":", stored, ",\"complete\":", stored == kBytes ? "true" : "false")));
  }

 private:
  std::optional<Cell> cells_[kBytes];
};

TEST(StoredModel, EqualsAPlainReferenceOverRandomOperations) {
  std::mt19937_64 random(1);
  const auto below = [&](uint64_t n) { return random() % n; };
  for (int round = 0; round < 300; ++round) {
    StoredModel model = new_model();
    Reference reference[2];
    ASSERT_TRUE(model.set_file("0", Reference::kBytes, "\"0\"", ""));
    ASSERT_TRUE(model.set_file("1", Reference::kBytes, "\"0\"", ""));
    std::string journal = model.take_journal();
    uint64_t versions[2] = {};
    for (int step = 0; step < 60; ++step) {
      const auto file = static_cast<uint32_t>(below(2));
      const uint64_t begin = below(Reference::kBytes);
      const uint64_t end = begin + below(step % 4 == 0 ? 40 : 6);
      switch (below(12)) {
        case 0:
        case 1:
          EXPECT_EQ(model.drop(file, begin, end).has_value(), begin < end);
          reference[file].drop(begin, end);
          break;
        case 2:
          if (below(4) == 0) ++versions[file], reference[file].clear();
          ASSERT_TRUE(model.set_file(concat(file), Reference::kBytes,
                                     concat("\"", versions[file], "\""), ""));
          break;
        case 3:
          journal = model.compact();
          break;
        case 4:
          journal += model.take_journal();
          model = replayed(journal);
          break;
        default:
          EXPECT_EQ(model.add(file, begin, end, step).has_value(),
                    reference[file].add(begin, end, step));
      }
    }
    for (uint32_t file = 0; file < 2; ++file)
      ASSERT_NO_FATAL_FAILURE(reference[file].check(model, file));
    journal += model.take_journal();
    ASSERT_EQ(state(replayed(journal)), state(model));
    ASSERT_EQ(state(replayed(model.compact())), state(model));
  }
}

// A journal of some fifty operations, and the state behind each of its records.
struct History {
  std::string journal;
  std::vector<std::pair<size_t, std::string>> states;  // journal bytes, state
};
History history() {
  History history;
  StoredModel model = new_model();
  const auto note = [&] {
    history.journal += model.take_journal();
    if (history.states.empty() || history.states.back().first != history.journal.size())
      history.states.emplace_back(history.journal.size(), state(model));
  };
  note();
  std::mt19937_64 random(7);
  const auto does = [&](bool done) {
    EXPECT_TRUE(done);
    note();
  };
  for (int i = 0; i < 3; ++i)
    does(model.set_file(concat("file", i), 40 + i, "\"e\"", "Mon").has_value());
  for (int step = 0; step < 60; ++step) {
    const auto file = static_cast<uint32_t>(random() % 3);
    const uint64_t begin = random() % 40;
    if (step % 7 == 6)
      does(model.drop(file, begin, begin + 8).has_value());
    else if (model.add(file, begin, begin + 1 + random() % 5, random()))
      note();
  }
  does(model.set_file("file1", 41, "\"f\"", "Tue").has_value());
  does(model.add(1, 0, 41, 99).has_value());
  does(model.set_checked(1, "md5", std::string(32, 'c')).has_value());
  does(model.set_loaded(5).has_value());
  does(model.set_used(6).has_value());
  return history;
}

TEST(StoredModel, JournalCutAtEveryByteIsTheStateOfItsLastWholeRecord) {
  const History all = history();
  ASSERT_GT(all.states.size(), 30u);
  for (size_t cut = 0; cut <= all.journal.size(); ++cut) {
    const auto result = StoredModel::replay(as_bytes(std::string_view(all.journal).substr(0, cut)));
    const auto behind =
        std::ranges::upper_bound(all.states, cut, {}, [](auto& s) { return s.first; });
    if (behind == all.states.begin()) {
      expect_error(result, ErrorCode::store_corrupt, {concat(cut, " bytes")});
      continue;
    }
    ASSERT_TRUE(result) << cut;
    EXPECT_EQ(result->valid_bytes, std::prev(behind)->first) << cut;
    EXPECT_EQ(state(result->model), std::prev(behind)->second) << cut;
  }
}

TEST(StoredModel, AFlippedBitNeverMakesAStateThatNeverWas) {
  const History all = history();
  std::set<std::string> states;
  for (const auto& [bytes, text] : all.states) states.insert(text);
  size_t refused = 0;
  for (size_t bit = 0; bit < 8 * all.journal.size(); ++bit) {
    std::string damaged = all.journal;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << bit % 8));
    const auto result = StoredModel::replay(as_bytes(damaged));
    if (!result) {
      ++refused;
      EXPECT_EQ(result.error().code, ErrorCode::store_corrupt);
      EXPECT_LT(bit / 8, all.states.front().first);
      continue;
    }
    ASSERT_TRUE(states.contains(state(result->model))) << "bit " << bit;
    // Nothing behind the damage is believed
    ASSERT_LE(result->valid_bytes, bit / 8);
  }
  EXPECT_EQ(refused, 8 * all.states.front().first);
}

TEST(StoredModel, ManyRecordsTakeTimeInProportion) {
  // Extents from the end to the start, the worst order for a sorted array, and files by the
  // thousand
  constexpr uint64_t kMany = 200'000;
  StoredModel model = new_model();
  for (uint64_t i = 0; i < kMany; ++i)
    ASSERT_TRUE(model.set_file(concat("file", i), std::nullopt, "", ""));
  for (uint64_t i = kMany; i-- > 0;) ASSERT_TRUE(model.add(0, 2 * i, 2 * i + 1, i));
  const std::string journal = model.take_journal();
  const StoredModel again = replayed(journal);
  EXPECT_EQ(again.file_count(), kMany);
  EXPECT_TRUE(again.find(0, 2 * kMany - 2)->stored);
}

}  // namespace
}  // namespace sluice
