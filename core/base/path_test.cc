#include "core/base/path.h"

#include "core/base/expect_error.h"

namespace sluice {
namespace {

TEST(Path, AcceptsWhatStaysInside) {
  for (const std::string_view path :
       {"params_shard_0.bin", "sub/dir/file", "...", "..a", "a..", ".hidden", "a b", "100%", "%41",
        "é/ü.bin", "a/b:c", "%2e%2e%2e", "model-00001-of-00002.safetensors"})
    EXPECT_TRUE(check_relative_path(path, "m.json")) << path;
}

TEST(Path, RefusesWhatLeaves) {
  for (const std::string_view path :
       {"",       "/",       "/etc/passwd", "//host/x", "..",     "../x",
        "a/../b", "a/..",    ".",           "./a",      "a/.",    "a//b",
        "a/",     "a\\b",    "..\\x",       "C:/x",     "C:x",    "http://host/x",
        "file:x", "data:,x", "a?b",         "a#b",      "%2e",    "%2E%2e/x",
        ".%2e/x", "%2e./x",  "a/%2e%2E",    "..%2fx",   "..%5Cx", "a\nb",
        "a\tb",   ".\t./x",  " /x",         " ../x",    "x/.. ",  "a\x7F"}) {
    const Status status = check_relative_path(path, "m.json");
    expect_error(status, ErrorCode::manifest_invalid, {"m.json", quote(path), "folder"});
    if (!status) EXPECT_EQ(status.error().file, "m.json");
  }
  expect_error(check_relative_path(std::string_view("a\0b", 3), "m.json"),
               ErrorCode::manifest_invalid, {"control character"});
}

TEST(Path, SplitsFolderAndName) {
  EXPECT_EQ(folder_of("a/b/c.json"), "a/b/");
  EXPECT_EQ(file_name_of("a/b/c.json"), "c.json");
  EXPECT_EQ(folder_of("c.json"), "");
  EXPECT_EQ(file_name_of("c.json"), "c.json");
}

}  // namespace
}  // namespace sluice
