// docs/abi.md is true: every function that it says works is linked here, and it leaves none out.
#include <fstream>
#include <iterator>
#include <map>
#include <regex>
#include <string>

#include "core/ffi/registry.h"
#include "core/ffi/test_support.h"

namespace sluice::ffi {
namespace {

struct Function {
  std::string_view name;
  void* address;
};

#define SLUICE_LINKED(name) {#name, reinterpret_cast<void*>(&name)}
const Function kLinked[] = {
    SLUICE_LINKED(TVMFFIAnyViewToOwnedAny),
    SLUICE_LINKED(TVMFFIBacktrace),
    SLUICE_LINKED(TVMFFIBigIntFromByteArray),
    SLUICE_LINKED(TVMFFIBigIntGetContentByteArray),
    SLUICE_LINKED(TVMFFIBytesFromByteArray),
    SLUICE_LINKED(TVMFFIDataTypeFromString),
    SLUICE_LINKED(TVMFFIDataTypeToString),
    SLUICE_LINKED(TVMFFIEnvCheckSignals),
    SLUICE_LINKED(TVMFFIEnvGetDLPackManagedTensorAllocator),
    SLUICE_LINKED(TVMFFIEnvGetStream),
    SLUICE_LINKED(TVMFFIEnvModLookupFromImports),
    SLUICE_LINKED(TVMFFIEnvModRegisterContextSymbol),
    SLUICE_LINKED(TVMFFIEnvModRegisterSystemLibSymbol),
    SLUICE_LINKED(TVMFFIEnvRegisterCAPI),
    SLUICE_LINKED(TVMFFIEnvSetDLPackManagedTensorAllocator),
    SLUICE_LINKED(TVMFFIEnvSetStream),
    SLUICE_LINKED(TVMFFIEnvTensorAlloc),
    SLUICE_LINKED(TVMFFIErrorCreate),
    SLUICE_LINKED(TVMFFIErrorCreateWithCauseAndExtraContext),
    SLUICE_LINKED(TVMFFIErrorMoveFromRaised),
    SLUICE_LINKED(TVMFFIErrorSetRaised),
    SLUICE_LINKED(TVMFFIErrorSetRaisedFromCStr),
    SLUICE_LINKED(TVMFFIErrorSetRaisedFromCStrParts),
    SLUICE_LINKED(TVMFFIFunctionCall),
    SLUICE_LINKED(TVMFFIFunctionCreate),
    SLUICE_LINKED(TVMFFIFunctionGetGlobal),
    SLUICE_LINKED(TVMFFIFunctionSetGlobal),
    SLUICE_LINKED(TVMFFIFunctionSetGlobalFromMethodInfo),
    SLUICE_LINKED(TVMFFIGetCustomAllocator),
    SLUICE_LINKED(TVMFFIGetTypeAttrColumn),
    SLUICE_LINKED(TVMFFIGetTypeInfo),
    SLUICE_LINKED(TVMFFIGetVersion),
    SLUICE_LINKED(TVMFFIHandleDeinitOnce),
    SLUICE_LINKED(TVMFFIHandleInitOnce),
    SLUICE_LINKED(TVMFFIObjectCreateOpaque),
    SLUICE_LINKED(TVMFFIObjectDecRef),
    SLUICE_LINKED(TVMFFIObjectIncRef),
    SLUICE_LINKED(TVMFFISetCustomAllocator),
    SLUICE_LINKED(TVMFFIStringFromByteArray),
    SLUICE_LINKED(TVMFFITensorCreateUnsafeView),
    SLUICE_LINKED(TVMFFITensorFromDLPack),
    SLUICE_LINKED(TVMFFITensorFromDLPackVersioned),
    SLUICE_LINKED(TVMFFITensorToDLPack),
    SLUICE_LINKED(TVMFFITensorToDLPackVersioned),
    SLUICE_LINKED(TVMFFITypeGetOrAllocIndex),
    SLUICE_LINKED(TVMFFITypeKeyToIndex),
    SLUICE_LINKED(TVMFFITypeRegisterAttr),
    SLUICE_LINKED(TVMFFITypeRegisterField),
    SLUICE_LINKED(TVMFFITypeRegisterMetadata),
    SLUICE_LINKED(TVMFFITypeRegisterMethod),
};
#undef SLUICE_LINKED

std::string read(const std::string& path) {
  std::ifstream in(std::string(SLUICE_SOURCE_DIR "/") + path);
  EXPECT_TRUE(in) << path;
  return {std::istreambuf_iterator<char>(in), {}};
}

// The rows `| \`name\` | state |` of docs/abi.md, by name
std::map<std::string, std::string> documented() {
  const std::string page = read("docs/abi.md");
  const std::regex row(R"re(\n\| `([\w.]+)` \| (works|not yet)\b)re");
  std::map<std::string, std::string> out;
  for (std::sregex_iterator it(page.begin(), page.end(), row), end; it != end; ++it)
    EXPECT_TRUE(out.emplace((*it)[1], (*it)[2]).second) << (*it)[1] << " stands twice";
  return out;
}

TEST(AbiPage, SaysWorksOfExactlyWhatIsLinked) {
  auto rows = documented();
  for (const Function& function : kLinked) {
    EXPECT_NE(function.address, nullptr);
    EXPECT_EQ(rows[std::string(function.name)], "works") << function.name;
  }
  size_t works = 0;
  for (const auto& [name, state] : rows) works += name.starts_with("TVMFFI") && state == "works";
  EXPECT_EQ(works, std::size(kLinked));
}

TEST(AbiPage, LeavesOutNoFunctionOfTheHeader) {
  const auto rows = documented();
  const std::string header = read("core/ffi/c_api.h");
  const std::regex declaration(R"(TVM_FFI_DLL [^;(]*\b(TVMFFI\w+)\()");
  size_t count = 0;
  for (std::sregex_iterator it(header.begin(), header.end(), declaration), end; it != end; ++it) {
    EXPECT_TRUE(rows.contains((*it)[1])) << (*it)[1];
    ++count;
  }
  EXPECT_EQ(count, std::size(kLinked));
}

TEST(AbiPage, SaysWorksOfExactlyTheRegisteredBuiltins) {
  auto rows = documented();
  size_t count = 0;
  for (const auto builtins : {function_builtins(), container_builtins(), module_builtins()}) {
    for (const Builtin& builtin : builtins) EXPECT_EQ(rows[builtin.name], "works") << builtin.name;
    count += builtins.size();
  }
  size_t works = 0;
  for (const auto& [name, state] : rows) works += name.starts_with("ffi.") && state == "works";
  EXPECT_EQ(works, count);
}

}  // namespace
}  // namespace sluice::ffi
