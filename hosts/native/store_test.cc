#include "hosts/native/store.h"

#include "core/base/expect_error.h"
#include "core/store/block_digest.h"
#include "hosts/native/test_support.h"

namespace sluice {
namespace {

using testing::CommandResult;
using testing::get;
using testing::Json;
using testing::names_in;
using testing::put;
using testing::random_bytes;
using testing::run_command;
using testing::TempFolder;

constexpr std::string_view kKey = "https://host/model";
constexpr uint64_t kBytes = 5'000'000;  // of file 0, in five extents

std::string md5(std::string_view bytes) {
  Digest digest(Digest::Kind::md5);
  digest.update(as_bytes(bytes));
  return digest.finish();
}

std::string model_path(const TempFolder& folder, std::string_view key = kKey) {
  return folder / ("models/" + store_folder_name(key));
}

// Stores a model of two files: one whole and checked, one of which bytes [3, 10) are stored.
void put_model(const TempFolder& folder, std::string_view key = kKey) {
  const std::string bytes = random_bytes(kBytes, 1);
  auto model = StoredModel::create(key, 1'700'000'000'000);
  ASSERT_TRUE(model && model->set_file("sub/a.bin", kBytes, "\"e\"", ""));
  ASSERT_TRUE(model->set_file("b.bin", std::nullopt, "", ""));
  for (uint64_t at = 0; at < kBytes; at += 1'000'000)
    ASSERT_TRUE(model->add(0, at, at + 1'000'000,
                           xxh3_64(as_bytes(std::string_view(bytes).substr(at, 1'000'000)))));
  ASSERT_TRUE(model->set_checked(0, "md5", md5(bytes)));
  ASSERT_TRUE(model->add(1, 3, 10, xxh3_64(as_bytes("3456789"))));
  ASSERT_TRUE(model->set_loaded(1'700'000'060'000));
  put(model_path(folder, key) + "/journal", model->take_journal());
  put(model_path(folder, key) + "/0", bytes);
  put(model_path(folder, key) + "/1", std::string("\0\0\0", 3) + "3456789");
}

void flip(const std::string& path, size_t at) {
  std::string bytes = get(path);
  bytes[at] = static_cast<char>(bytes[at] ^ 1);
  put(path, bytes);
}

TEST(Store, ListsWhatIsThere) {
  const TempFolder folder;
  put_model(folder);
  const CommandResult text = run_command({"store", "list", folder.path()});
  EXPECT_EQ(text.status, 0) << text.err;
  EXPECT_TRUE(
      text.out.contains("https://host/model  5000007          1 of 2  2023-11-14 22:14  "
                        "2023-11-14 22:13"))
      << text.out;
  const CommandResult json = run_command({"store", "list", folder.path(), "--json"});
  const Json model = Json::parse(json.out)["models"][0];
  EXPECT_EQ(model["key"], kKey);
  EXPECT_EQ(model["folder"], store_folder_name(kKey));
  EXPECT_EQ(model["stored_bytes"], kBytes + 7);
  EXPECT_EQ(model["files"][0]["checked"][0]["algorithm"], "md5");
  EXPECT_EQ(model["ignored_journal_bytes"], 0);
}

TEST(Store, ListsAFolderThatCannotBeReadAndSaysWhy) {
  const TempFolder folder;
  put_model(folder);
  put(folder / "models/0123/journal", "GGUF");
  std::filesystem::create_directories(folder / "models/4567");
  const CommandResult result = run_command({"store", "list", folder.path(), "--json"});
  EXPECT_EQ(result.status, 1);
  const Json models = Json::parse(result.out)["models"];
  ASSERT_EQ(models.size(), 3u);
  EXPECT_EQ(models[0]["folder"], "0123");
  EXPECT_EQ(models[0]["error"]["code"], "store_corrupt");
  EXPECT_EQ(models[2]["error"]["code"], "not_found");
  EXPECT_TRUE(result.err.contains("0123/journal")) << result.err;
}

TEST(Store, VerifiesEveryExtentAndTheWholeFile) {
  const TempFolder folder;
  put_model(folder);
  const CommandResult result = run_command({"store", "verify", folder.path(), "--json"});
  EXPECT_EQ(result.status, 0) << result.err;
  const Json report = Json::parse(result.out);
  EXPECT_EQ(report["ok"], true);
  EXPECT_EQ(report["models"][0]["extents"], 6);
  EXPECT_EQ(report["models"][0]["bytes_read"], kBytes + 7);
  EXPECT_EQ(report["models"][0]["checksums"], 1);
  const CommandResult text = run_command({"store", "verify", folder.path(), std::string(kKey)});
  EXPECT_EQ(text.status, 0) << text.err;
  EXPECT_TRUE(text.out.contains("6 extents, 5000007 bytes")) << text.out;
  EXPECT_TRUE(text.out.contains("nothing is wrong")) << text.out;
}

TEST(Store, FindsAFlippedBitInEveryExtent) {
  for (const auto& [file, at, range] : {std::tuple("0", 0, "bytes 0 to 1000000"),
                                        {"0", 4'999'999, "bytes 4000000 to 5000000"},
                                        {"0", 2'500'000, "bytes 2000000 to 3000000"},
                                        {"1", 9, "bytes 3 to 10"}}) {
    const TempFolder folder;
    put_model(folder);
    flip(model_path(folder) + "/" + file, at);
    const std::string journal = get(model_path(folder) + "/journal");
    const CommandResult result = run_command({"store", "verify", folder.path()});
    EXPECT_EQ(result.status, 1);
    EXPECT_TRUE(result.err.starts_with("sluice: checksum_mismatch: ")) << result.err;
    EXPECT_TRUE(result.err.contains(range)) << result.err;
    EXPECT_TRUE(result.err.contains(*file == '0' ? "sub/a.bin" : "b.bin")) << result.err;
    EXPECT_TRUE(result.out.contains("1 problem\n")) << result.out;
    EXPECT_EQ(get(model_path(folder) + "/journal"), journal);
  }
  // A byte of a gap is no one's
  const TempFolder folder;
  put_model(folder);
  flip(model_path(folder) + "/1", 0);
  EXPECT_EQ(run_command({"store", "verify", folder.path()}).status, 0);
}

TEST(Store, FindsFilesThatAreShortOrGone) {
  const TempFolder folder;
  put_model(folder);
  std::filesystem::resize_file(model_path(folder) + "/0", 4'500'000);
  std::filesystem::remove(model_path(folder) + "/1");
  const auto entry = find_in_store(folder.path(), kKey);
  ASSERT_TRUE(entry);
  const auto report = verify_stored(folder.path(), *entry);
  ASSERT_TRUE(report);
  ASSERT_EQ(report->problems.size(), 2u);
  EXPECT_EQ(report->problems[0].code, ErrorCode::truncated);
  EXPECT_TRUE(report->problems[0].message.contains("4000000 to 5000000"));
  EXPECT_EQ(report->problems[0].actual, 4'500'000u);
  EXPECT_EQ(report->problems[1].code, ErrorCode::not_found);
  EXPECT_EQ(report->extents, 4u);
}

TEST(Store, FindsAWholeFileThatIsNotWhatWasChecked) {
  // The extents are good in themselves, so only the digest of the whole tells
  const TempFolder folder;
  auto model = StoredModel::create(kKey, 1);
  ASSERT_TRUE(model && model->set_file("a", 3, "", ""));
  ASSERT_TRUE(model->add(0, 0, 3, xxh3_64(as_bytes("abc"))));
  ASSERT_TRUE(model->set_checked(0, "sha256", testing::sha256("abd")));
  put(model_path(folder) + "/journal", model->take_journal());
  put(model_path(folder) + "/0", "abc");
  const CommandResult result = run_command({"store", "verify", folder.path()});
  EXPECT_EQ(result.status, 1);
  EXPECT_TRUE(result.err.contains("sha256")) << result.err;
  EXPECT_TRUE(result.err.contains(testing::sha256("abc"))) << result.err;
}

TEST(Store, BelievesAJournalUpToItsDamage) {
  const TempFolder folder;
  put_model(folder);
  const std::string journal = model_path(folder) + "/journal";
  put(journal, get(journal) + "torn");
  const auto entry = find_in_store(folder.path(), kKey);
  ASSERT_TRUE(entry && entry->model);
  EXPECT_EQ(entry->ignored_bytes, 4u);
  EXPECT_EQ(run_command({"store", "verify", folder.path()}).status, 0);
  // In another model's folder it is believed in nothing
  put(folder / "models/0123/journal", get(journal));
  const auto moved = find_in_store(folder.path(), "0123");
  ASSERT_TRUE(moved && moved->error);
  EXPECT_EQ(moved->error->code, ErrorCode::store_corrupt);
  EXPECT_TRUE(moved->error->message.contains(store_folder_name(kKey))) << moved->error->message;
}

TEST(Store, BelievesTheJournalThatWasCompactedLastOnceItIsWhole) {
  const TempFolder folder;
  put_model(folder);
  const std::string first = model_path(folder) + "/journal";
  const std::string second = first + ".1";
  auto replayed = StoredModel::replay(as_bytes(get(first)));
  ASSERT_TRUE(replayed && replayed->model.drop(1, 0, 10));
  const std::string compacted = replayed->model.compact();
  const auto generation = [&] { return find_in_store(folder.path(), kKey)->model->generation(); };
  put(second, compacted.substr(0, compacted.size() - 1));
  EXPECT_EQ(generation(), 0u);
  put(second, compacted);
  EXPECT_EQ(generation(), 1u);
  put(first, "no longer");
  EXPECT_EQ(generation(), 1u);
  put(first, replayed->model.compact());
  EXPECT_EQ(generation(), 2u);
  EXPECT_EQ(run_command({"store", "verify", folder.path()}).status, 0);
}

TEST(Store, DeletesAModelAndNothingElse) {
  const TempFolder folder;
  put_model(folder);
  put_model(folder, "other");
  // A lock whose process is gone counts for nothing
  put(folder / "locks/abc.shared.999999999.1", "");
  const CommandResult result =
      run_command({"store", "delete", folder.path(), std::string(kKey), "--json"});
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_EQ(Json::parse(result.out)["stored_bytes"], kBytes + 7);
  EXPECT_EQ(names_in(folder / "models"), (std::set<std::string>{store_folder_name("other")}));
  // By its folder, also where it cannot be read
  put(folder / "models/0123/journal", "GGUF");
  EXPECT_EQ(run_command({"store", "delete", folder.path(), "0123"}).status, 0);
  EXPECT_EQ(run_command({"store", "verify", folder.path()}).status, 0);
}

TEST(Store, DeletesNothingWhileTheStoreIsUsed) {
  const TempFolder folder;
  put_model(folder);
  put(folder / concat("locks/abc.shared.", ::getpid(), ".1"), "");
  const CommandResult result = run_command({"store", "delete", folder.path(), std::string(kKey)});
  EXPECT_EQ(result.status, 3);
  EXPECT_TRUE(result.err.contains(concat("process ", ::getpid()))) << result.err;
  EXPECT_EQ(run_command({"store", "verify", folder.path(), std::string(kKey)}).status, 0);
}

TEST(Store, NamesWhatIsNotThere) {
  const TempFolder folder;
  expect_error(list_store(folder.path()), ErrorCode::not_found, {folder.path(), "models"});
  put_model(folder);
  for (const char* name : {"nothing", ".", "..", "../models", ""})
    expect_error(find_in_store(folder.path(), name), ErrorCode::not_found,
                 {folder.path(), "1 models", concat("'", name, "'")});
  EXPECT_EQ(run_command({"store", "delete", folder.path(), ".."}).status, 1);
  EXPECT_EQ(run_command({"store", "delete", folder.path()}).status, 2);
  EXPECT_EQ(run_command({"store"}).status, 2);
  EXPECT_EQ(names_in(folder / "models").size(), 1u);
}

}  // namespace
}  // namespace sluice
