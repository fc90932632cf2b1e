#include "core/formats/gguf/split.h"

#include "core/base/expect_error.h"

namespace sluice {
namespace {

using enum ErrorCode;

TEST(GgufSplit, ReadsAndWritesTheNamesOfParts) {
  for (const std::string_view path :
       {"a-00001-of-00003.gguf", "b/c-00001-of-00002-00012-of-99999.gguf",
        "-00003-of-00003.gguf"}) {
    const auto name = parse_gguf_part_name(path);
    ASSERT_TRUE(name) << path;
    EXPECT_EQ(gguf_part_path(*name), path);
  }
  const auto name = parse_gguf_part_name("m-00002-of-00013.gguf");
  ASSERT_TRUE(name);
  EXPECT_EQ(name->stem, "m");
  EXPECT_EQ(name->number, 2u);
  EXPECT_EQ(name->count, 13u);
}

TEST(GgufSplit, OtherNamesAreNoParts) {
  for (const std::string_view path :
       {"", "a.gguf", "00001-of-00003.gguf", "a-0001-of-00003.gguf", "a-00001-of-0003.gguf",
        "a-000001-of-00003.gguf", "a-00000-of-00003.gguf", "a-00004-of-00003.gguf",
        "a-00001-of-00000.gguf", "a-0000x-of-00003.gguf", "a-00001-of-00003.GGUF",
        "a-00001_of-00003.gguf", "a-00001-of-00003.safetensors", "a-00001-of-00003.gguf.part"})
    EXPECT_FALSE(parse_gguf_part_name(path)) << path;
}

Manifest part(std::string path, std::string metadata_json) {
  return {.format = "gguf",
          .files = {{.path = std::move(path)}},
          .metadata_json = std::move(metadata_json)};
}

TEST(GgufSplit, AFileOfOnePartIsWhole) {
  for (const std::string_view metadata :
       {"{}", R"({"split.no":7})", R"({"split.count":0})", R"({"split.count":1})"})
    EXPECT_EQ(gguf_part_count(part("a-00002-of-00003.gguf", std::string(metadata))).value(), 1u);
}

TEST(GgufSplit, TheNameMustSayWhatTheMetadataSays) {
  const auto count = [](std::string_view path, std::string_view metadata) {
    return gguf_part_count(part(std::string(path), std::string(metadata)));
  };
  constexpr std::string_view kSecond = R"({"split.no":1,"split.count":3})";
  EXPECT_EQ(count("a-00002-of-00003.gguf", kSecond).value(), 3u);
  for (const std::string_view path :
       {"a.gguf", "a-00001-of-00003.gguf", "a-00002-of-00004.gguf", "00002-of-00003.gguf"})
    expect_error(count(path, kSecond), manifest_invalid,
                 {path, "part 2 of 3", "-00002-of-00003.gguf"});
  expect_error(count("a-00001-of-00003.gguf", R"({"split.no":3,"split.count":3})"),
               manifest_invalid, {"part 4 of 3"});
  expect_error(count("a-00001-of-00003.gguf", R"({"split.count":100003})"), manifest_invalid,
               {"a-00001-of-00003.gguf", "1 of 100003"});
  expect_error(
      count("a-00001-of-00003.gguf", R"({"split.no":18446744073709551615,"split.count":3})"),
      manifest_invalid, {"a-00001-of-00003.gguf", "of 3"});
  expect_error(count("a.gguf", R"({"split.count":-2})"), manifest_invalid,
               {"split.count", "a.gguf", "-2"});
  expect_error(count("a.gguf", R"({"split.count":3,"split.no":"x"})"), manifest_invalid,
               {"split.no", "a.gguf", "a string"});
}

}  // namespace
}  // namespace sluice
