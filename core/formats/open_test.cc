#include "core/formats/open.h"

#include <map>

#include "core/base/expect_error.h"
#include "core/formats/test_files.h"

namespace sluice {
namespace {

using enum ErrorCode;

// A folder of files in memory that answers an Opener's requests.
struct Folder {
  std::map<std::string, std::string> files = {};
  bool tells_size = true;
  bool ignores_ranges = false;  // answers each request with the whole file
  std::vector<std::string> log = {};

  Result<Manifest> open(std::string_view name, std::string* found = nullptr) {
    Opener opener(name);
    while (const auto request = opener.request()) {
      log.push_back(concat(request->path, " ", request->begin, "-",
                           request->end == UINT64_MAX ? "" : concat(request->end)));
      EXPECT_LT(request->begin, request->end);
      EXPECT_LT(log.size(), 100u) << "no end of requests";
      if (log.size() >= 100) break;
      SLUICE_TRY(answer(opener, *request));
    }
    EXPECT_TRUE(opener.done());
    if (found != nullptr) *found = opener.manifest_path();
    return opener.take_manifest();
  }

  Status answer(Opener& opener, const Opener::Request& request) {
    const auto file = files.find(request.path);
    if (file == files.end()) return opener.missing();
    const std::string_view all = file->second;
    const auto size = tells_size ? std::optional<uint64_t>(all.size()) : std::nullopt;
    if (ignores_ranges && request.begin == 0) return opener.provide(as_bytes(all), size);
    const size_t begin = std::min<size_t>(request.begin, all.size());
    return opener.provide(as_bytes(all.substr(begin, request.end - begin)), size);
  }
};

const std::string kCache =
    R"({"metadata":{},"records":[{"dataPath":"s0.bin","format":"raw-shard","nbytes":4,"records":[)"
    R"({"name":"x","shape":[4],"dtype":"uint8","format":"raw","nbytes":4,"byteOffset":0}]}]})";

std::string one_tensor(std::string_view name, size_t padding = 0) {
  return safetensors_file(
      concat(R"({")", name, R"(":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})",
             std::string(padding, ' ')),
      4);
}

std::string small_gguf(size_t text_bytes = 0) {
  GgufBuilder builder;
  builder.pair("k", 8, GgufBuilder::text(std::string(text_bytes, 'x')));
  builder.tensor("x", {4}, 24, 0);
  return builder.file(4);
}

TEST(Opener, TriesAFoldersManifestsInTurn) {
  const std::string index = R"({"weight_map":{"x":"a.safetensors"}})";
  Folder folder{.files = {{"model.safetensors", one_tensor("x")}}};
  std::string found;
  EXPECT_EQ(folder.open("", &found)->format, "safetensors");
  EXPECT_EQ(found, "model.safetensors");
  EXPECT_EQ(folder.log, (std::vector<std::string>{"tensor-cache.json 0-", "ndarray-cache.json 0-",
                                                  "model.safetensors.index.json 0-",
                                                  "model.safetensors 0-262144"}));
  folder.files["model.safetensors.index.json"] = index;
  folder.files["a.safetensors"] = one_tensor("x");
  EXPECT_EQ(folder.open("", &found)->files[0].path, "a.safetensors");
  EXPECT_EQ(found, "model.safetensors.index.json");
  folder.files["ndarray-cache.json"] = kCache;
  EXPECT_EQ(folder.open("", &found)->format, "tensor-cache");
  EXPECT_EQ(found, "ndarray-cache.json");
  folder.files["tensor-cache.json"] = kCache;
  EXPECT_TRUE(folder.open("", &found));
  EXPECT_EQ(found, "tensor-cache.json");
}

TEST(Opener, AFoundManifestThatIsBrokenIsNotPassedOver) {
  Folder folder{.files = {{"tensor-cache.json", "{"}, {"model.safetensors", one_tensor("x")}}};
  expect_error(folder.open(""), manifest_invalid, {"tensor-cache.json"});
}

TEST(Opener, NothingThereNamesWhatWasTried) {
  Folder folder;
  expect_error(folder.open(""), not_found,
               {"tensor-cache.json, ndarray-cache.json, model.safetensors.index.json, "
                "model.safetensors"});
  expect_error(folder.open("m.gguf"), not_found, {"m.gguf"});
}

TEST(Opener, ReadsByEndingAndByContent) {
  const std::string index = R"(  {"weight_map":{"x":"a.safetensors"}})";
  Folder folder{.files = {{"m.gguf", small_gguf()},
                          {"m.safetensors", one_tensor("x")},
                          {"cache.json", kCache},
                          {"index.json", index},
                          {"a.safetensors", one_tensor("x")},
                          {"1", small_gguf()},
                          {"2", one_tensor("x")},
                          {"3", kCache},
                          {"4", index},
                          {"5", one_tensor("x", 0x20 - one_tensor("x").size() % 256 + 12 + 256)},
                          {"6", "PK\x03\x04 something else"},
                          {"7", ""},
                          {"8", "<html>"}}};
  EXPECT_EQ(folder.open("m.gguf")->format, "gguf");
  EXPECT_EQ(folder.open("m.safetensors")->format, "safetensors");
  EXPECT_EQ(folder.open("cache.json")->format, "tensor-cache");
  EXPECT_EQ(folder.open("index.json")->files[0].path, "a.safetensors");
  EXPECT_EQ(folder.open("1")->format, "gguf");
  EXPECT_EQ(folder.open("2")->format, "safetensors");
  EXPECT_EQ(folder.open("3")->format, "tensor-cache");
  EXPECT_EQ(folder.open("4")->format, "safetensors");
  ASSERT_EQ(folder.files["5"][0], ' ') << "a length that begins like JSON text";
  EXPECT_EQ(folder.open("5")->format, "safetensors");
  for (const std::string_view name : {"6", "7", "8"})
    expect_error(folder.open(name), manifest_invalid, {name, "neither GGUF, safetensors"});
}

TEST(Opener, JsonOfNoKnownKindIsNamed) {
  Folder folder{.files = {{"config.json", R"({"model_type":"llama"})"}, {"a.json", "[1]"}}};
  expect_error(folder.open("config.json"), manifest_invalid, {"config.json", "records"});
  expect_error(folder.open("a.json"), manifest_invalid, {"a.json", "weight_map"});
}

TEST(Opener, AsksForExactlyWhatIsMissing) {
  for (const bool tells_size : {true, false}) {
    Folder folder{.files = {{"m.safetensors", one_tensor("x", 1'000'000)}},
                  .tells_size = tells_size};
    const uint64_t header = folder.files["m.safetensors"].size() - 4;
    EXPECT_TRUE(folder.open("m.safetensors"));
    EXPECT_EQ(folder.log, (std::vector<std::string>{"m.safetensors 0-262144",
                                                    concat("m.safetensors 262144-", header)}));
  }
}

TEST(Opener, ReadsALongGgufHeaderInAFewSteps) {
  for (const bool ignores_ranges : {true, false}) {
    for (const bool tells_size : {true, false}) {
      GgufBuilder builder;
      for (int i = 0; i < 200'000; ++i)
        builder.pair(concat("key.", i), 8, GgufBuilder::text("value"));
      builder.tensor("x", {4}, 24, 0);
      Folder folder{.files = {{"m.gguf", builder.file(4)}},
                    .tells_size = tells_size,
                    .ignores_ranges = ignores_ranges};
      const auto manifest = folder.open("m.gguf");
      ASSERT_TRUE(manifest) << to_string(manifest.error());
      EXPECT_LE(folder.log.size(), 6u);
    }
  }
}

TEST(Opener, TheSameManifestWhateverTheHostTells) {
  for (const bool ignores_ranges : {true, false}) {
    for (const bool tells_size : {true, false}) {
      Folder folder{.files = {{"m.gguf", small_gguf(300'000)},
                              {"m.safetensors", one_tensor("x", 300'000)},
                              {"tensor-cache.json", kCache}},
                    .tells_size = tells_size,
                    .ignores_ranges = ignores_ranges};
      for (const std::string_view name : {"m.gguf", "m.safetensors", ""}) {
        const auto manifest = folder.open(name);
        ASSERT_TRUE(manifest) << to_string(manifest.error());
        EXPECT_EQ(manifest->tensors.at(0).name, "x");
        EXPECT_EQ(manifest->tensors.at(0).nbytes, 4u);
      }
    }
  }
}

TEST(Opener, FilesThatEndTooSoonAreTruncated) {
  for (const std::string& whole : {small_gguf(300'000), one_tensor("x", 300'000)}) {
    const std::string name = whole.starts_with("GGUF") ? "m.gguf" : "m.safetensors";
    for (const bool tells_size : {true, false}) {
      for (const size_t length : {0u, 3u, 262'143u, 262'144u, 262'145u, 300'000u}) {
        Folder folder{.files = {{name, whole.substr(0, length)}}, .tells_size = tells_size};
        expect_error(folder.open(name), truncated, {name, concat(length, " bytes")});
      }
    }
  }
}

TEST(Opener, AHostThatContradictsItselfIsAnError) {
  Opener short_answer("m.gguf");
  expect_error(short_answer.provide(as_bytes("GGUF"), 1000), truncated, {"m.gguf", "1000", "4"});

  const std::string file = small_gguf(300'000);
  Opener changed("m.gguf");
  ASSERT_TRUE(changed.provide(as_bytes(std::string_view(file).substr(0, 262'144)), file.size()));
  const Status second =
      changed.provide(as_bytes(std::string_view(file).substr(262'144)), file.size() + 1);
  expect_error(second, source_changed, {"m.gguf", concat(file.size()), concat(file.size() + 1)});

  Opener gone("m.gguf");
  ASSERT_TRUE(gone.provide(as_bytes(std::string_view(file).substr(0, 262'144)), file.size()));
  expect_error(gone.missing(), source_changed, {"m.gguf"});
}

TEST(Opener, StaysFailed) {
  Opener opener("m.gguf");
  const Status first = opener.provide(as_bytes("nonsense"), 8);
  expect_error(first, manifest_invalid, {"m.gguf"});
  EXPECT_FALSE(opener.request());
  EXPECT_FALSE(opener.done());
  EXPECT_EQ(opener.provide(as_bytes("GGUF"), 4).error().message, first.error().message);
  EXPECT_EQ(opener.missing().error().message, first.error().message);
}

TEST(Opener, AnAnswerToNoRequestIsAnError) {
  Opener opener("tensor-cache.json");
  ASSERT_TRUE(opener.provide(as_bytes(kCache), std::nullopt));
  EXPECT_TRUE(opener.done());
  expect_error(opener.provide(as_bytes(kCache), std::nullopt), invalid_argument, {"request"});
  expect_error(opener.missing(), invalid_argument, {"request"});
}

TEST(Opener, SaysWhichShardsWillBeAskedFor) {
  Opener opener("model.safetensors.index.json");
  EXPECT_TRUE(opener.upcoming().empty());
  const std::string index =
      R"({"weight_map":{"a":"1.safetensors","b":"2.safetensors","c":"3.safetensors"}})";
  ASSERT_TRUE(opener.provide(as_bytes(index), std::nullopt));
  const auto upcoming = [&] {
    return std::vector<std::string>(opener.upcoming().begin(), opener.upcoming().end());
  };
  ASSERT_EQ(opener.request()->path, "1.safetensors");
  EXPECT_EQ(upcoming(), (std::vector<std::string>{"2.safetensors", "3.safetensors"}));
  const std::string large = one_tensor("a", 300'000);
  ASSERT_TRUE(opener.provide(as_bytes(large.substr(0, 262'144)), std::nullopt));
  // The rest of a long header is asked for of its own file alone
  ASSERT_GT(opener.request()->begin, 0u);
  EXPECT_EQ(upcoming(), std::vector<std::string>{});
  ASSERT_TRUE(opener.provide(as_bytes(large.substr(262'144)), std::nullopt));
  ASSERT_EQ(opener.request()->path, "2.safetensors");
  EXPECT_EQ(upcoming(), std::vector<std::string>{"3.safetensors"});
  const std::string small = one_tensor("b");
  ASSERT_TRUE(opener.provide(as_bytes(small), std::nullopt));
  EXPECT_EQ(upcoming(), std::vector<std::string>{});
  ASSERT_TRUE(opener.provide(as_bytes(one_tensor("c")), std::nullopt));
  EXPECT_TRUE(opener.done());
  EXPECT_TRUE(opener.upcoming().empty());
}

TEST(Opener, JoinsAnIndexsShards) {
  Folder folder{
      .files = {
          {"model.safetensors.index.json",
           R"({"metadata":{"total_size":8},"weight_map":{"a":"1.safetensors","b":"2.safetensors"}})"},
          {"1.safetensors", one_tensor("a", 300'000)},
          {"2.safetensors", one_tensor("b")}}};
  std::string found;
  const auto manifest = folder.open("model.safetensors.index.json", &found);
  ASSERT_TRUE(manifest) << to_string(manifest.error());
  EXPECT_EQ(found, "model.safetensors.index.json");
  ASSERT_EQ(manifest->files.size(), 2u);
  EXPECT_EQ(manifest->files[0].path, "1.safetensors");
  EXPECT_EQ(manifest->files[0].nbytes, folder.files["1.safetensors"].size());
  EXPECT_EQ(manifest->tensors[1].name, "b");
  EXPECT_EQ(manifest->tensors[1].file, 1u);
  EXPECT_EQ(manifest->metadata_json, R"({"total_size":8})");

  folder.files.erase("2.safetensors");
  expect_error(folder.open("model.safetensors.index.json"), not_found,
               {"model.safetensors.index.json", "'2.safetensors'"});
  folder.files["2.safetensors"] = one_tensor("c");
  expect_error(folder.open("model.safetensors.index.json"), manifest_invalid,
               {"model.safetensors.index.json", "'b'", "2.safetensors"});
  folder.files["2.safetensors"] = one_tensor("b").substr(0, 20);
  expect_error(folder.open("model.safetensors.index.json"), truncated, {"2.safetensors"});
}

std::string gguf_part(int no, int count, int tensors, std::string_view tensor,
                      size_t text_bytes = 0) {
  GgufBuilder builder;
  if (no == 0) builder.pair("general.name", 8, GgufBuilder::text("a model"));
  builder.pair("split.no", 2, little_endian(static_cast<uint16_t>(no)));
  builder.pair("split.count", 2, little_endian(static_cast<uint16_t>(count)));
  builder.pair("split.tensors.count", 5, little_endian(static_cast<int32_t>(tensors)));
  builder.pair("text", 8, GgufBuilder::text(std::string(text_bytes, 'x')));
  if (tensor.empty()) return builder.file(0);
  return builder.tensor(tensor, {4}, 24, 0).file(4);
}

Folder split_model() {
  return Folder{.files = {{"m-00001-of-00003.gguf", gguf_part(0, 3, 2, "", 300'000)},
                          {"m-00002-of-00003.gguf", gguf_part(1, 3, 2, "a")},
                          {"m-00003-of-00003.gguf", gguf_part(2, 3, 2, "b", 300'000)}}};
}

TEST(Opener, JoinsASplitGgufFromAnyPart) {
  for (const std::string_view name :
       {"m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"}) {
    Folder folder = split_model();
    std::string found;
    const auto manifest = folder.open(name, &found);
    ASSERT_TRUE(manifest) << to_string(manifest.error());
    EXPECT_EQ(found, name);
    EXPECT_EQ(manifest->format, "gguf");
    ASSERT_EQ(manifest->files.size(), 3u);
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_EQ(manifest->files[i].path, concat("m-0000", i + 1, "-of-00003.gguf"));
      EXPECT_EQ(manifest->files[i].nbytes, folder.files[manifest->files[i].path].size());
    }
    ASSERT_EQ(manifest->tensors.size(), 2u);
    EXPECT_EQ(manifest->tensors[0].name, "a");
    EXPECT_EQ(manifest->tensors[0].file, 1u);
    EXPECT_EQ(manifest->tensors[1].name, "b");
    EXPECT_EQ(manifest->tensors[1].file, 2u);
    EXPECT_EQ(manifest->tensors[1].offset + 4, *manifest->files[2].nbytes);
    EXPECT_TRUE(manifest->metadata_json.contains("a model")) << "the first part's metadata";
    EXPECT_EQ(folder.log.size(), 5u) << "each part once, and the rest of the two long headers";
  }
}

TEST(Opener, TheMetadataSaysWhetherAGgufIsSplit) {
  Folder folder{.files = {{"m-00002-of-00003.gguf", small_gguf()},
                          {"n-00001-of-00001.gguf", gguf_part(0, 1, 1, "x")},
                          {"merged.gguf", gguf_part(0, 0, 1, "x")}}};
  for (const auto& [name, content] : folder.files) {
    const auto manifest = folder.open(name);
    ASSERT_TRUE(manifest) << to_string(manifest.error());
    EXPECT_EQ(manifest->files.size(), 1u);
    EXPECT_EQ(manifest->tensors.size(), 1u);
  }
}

TEST(Opener, RefusesPartsOfASplitGgufThatDoNotFit) {
  const std::string first = "m-00001-of-00003.gguf", second = "m-00002-of-00003.gguf",
                    third = "m-00003-of-00003.gguf";
  Folder folder = split_model();
  folder.files.erase(second);
  expect_error(folder.open(first), not_found, {first, concat("'", second, "'")});
  folder.files.erase(first);
  expect_error(folder.open(third), not_found, {third, concat("'", first, "'")});
  expect_error(folder.open(first), not_found, {"no model", first});

  const auto with = [&](const std::string& name, const std::string& content) {
    Folder changed = split_model();
    changed.files[name] = content;
    return changed.open(first);
  };
  expect_error(with(first, gguf_part(0, 2, 2, "")), manifest_invalid,
               {first, "part 1 of 2", "-00001-of-00002.gguf"});
  expect_error(with(first, gguf_part(1, 3, 2, "")), manifest_invalid, {first, "part 2 of 3"});
  expect_error(with(second, gguf_part(2, 3, 2, "a")), manifest_invalid, {second, "part 3 of 3"});
  expect_error(with(second, gguf_part(1, 4, 2, "a")), manifest_invalid, {second, "part 2 of 4"});
  expect_error(with(second, small_gguf()), manifest_invalid, {second, "split.count", first});
  expect_error(with(third, gguf_part(2, 3, 2, "a")), manifest_invalid,
               {"'a'", concat("both ", second, " and ", third)});
  expect_error(with(first, gguf_part(0, 3, 7, "")), manifest_invalid,
               {first, "7 tensors", "3 parts", "have 2"});
  expect_error(with(third, gguf_part(2, 3, 2, "")), manifest_invalid, {first, "2 tensors", "1"});
  expect_error(with(third, split_model().files[third].substr(0, 1000)), truncated, {third, "1000"});

  Folder renamed{.files = {{"m.gguf", gguf_part(1, 3, 2, "a")}}};
  expect_error(renamed.open("m.gguf"), manifest_invalid,
               {"m.gguf", "part 2 of 3", "-00002-of-00003.gguf"});
  EXPECT_FALSE(renamed.open("m.gguf").error().hint.empty());
}

TEST(Opener, RefusesPathsThatLeaveTheFolder) {
  Folder folder{.files = {{"a.json", R"({"weight_map":{"x":"../secret"}})"}}};
  expect_error(folder.open("a.json"), manifest_invalid, {"a.json", "'../secret'"});
  EXPECT_EQ(folder.log.size(), 1u) << "nothing outside was asked for";
}

TEST(Opener, JsonManifestsAreBounded) {
  Opener opener("tensor-cache.json");
  expect_error(opener.provide(as_bytes("{}"), kMaxJsonManifest + 1), truncated,
               {"tensor-cache.json"});
  Opener told("x");
  const std::string text = "{" + std::string(300'000, ' ');
  ASSERT_TRUE(told.provide(as_bytes(std::string_view(text).substr(0, 262'144)), std::nullopt));
  ASSERT_TRUE(told.request());
  EXPECT_EQ(told.request()->begin, 262'144u);
  EXPECT_EQ(told.request()->end, UINT64_MAX);
  std::vector<std::byte> endless(kMaxJsonManifest, std::byte{' '});
  expect_error(told.provide(endless, std::nullopt), manifest_invalid,
               {"x", concat(kMaxJsonManifest)});
}

}  // namespace
}  // namespace sluice
