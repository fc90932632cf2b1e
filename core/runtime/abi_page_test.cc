// docs/abi.md says what is there.
#include <fstream>
#include <regex>
#include <set>
#include <sstream>
#include <string>

#include "core/runtime/test_support.h"

namespace sluice::runtime {
namespace {

TEST(RuntimeAbiPage, HasARowForExactlyTheFunctionsOfThisFolder) {
  std::ifstream file(SLUICE_SOURCE_DIR "/docs/abi.md");
  std::stringstream content;
  content << file.rdbuf();
  const std::string page = content.str();
  const size_t begin = page.find("## Global functions of the runtime");
  ASSERT_NE(begin, std::string::npos);
  const std::string section = page.substr(begin, page.find("\n## ", begin) - begin);
  const std::regex row(R"(\n\| `([\w.]+)` \|)");
  std::set<std::string> rows;
  for (std::sregex_iterator it(section.begin(), section.end(), row), end; it != end; ++it)
    EXPECT_TRUE(rows.insert((*it)[1]).second) << "twice: " << (*it)[1];
  std::set<std::string> names;
  for (const auto builtins : {device_builtins(), tensor_builtins(), tensor_cache_builtins(),
                              sampling_builtins(), testing_builtins()})
    for (const ffi::Builtin& builtin : builtins) names.insert(builtin.name);
  EXPECT_EQ(rows, names);
}

}  // namespace
}  // namespace sluice::runtime
