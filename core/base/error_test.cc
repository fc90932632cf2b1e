#include "core/base/error.h"

#include <gtest/gtest.h>

#include "core/base/json.h"

namespace sluice {
namespace {

TEST(Error, NamesAreStable) {
  EXPECT_EQ(error_code_name(ErrorCode::manifest_invalid), "manifest_invalid");
  EXPECT_EQ(error_code_name(ErrorCode::out_of_device_memory), "out_of_device_memory");
  EXPECT_EQ(error_code_name(ErrorCode::internal), "internal");
  EXPECT_EQ(error_code_name(static_cast<ErrorCode>(0)), "internal");
  EXPECT_EQ(error_code_name(static_cast<ErrorCode>(999)), "internal");
  EXPECT_TRUE(is_error_code(1));
  EXPECT_TRUE(is_error_code(20));
  EXPECT_FALSE(is_error_code(0));
  EXPECT_FALSE(is_error_code(21));
}

TEST(Error, TextCarriesCodeMessageAndHint) {
  Error error{.code = ErrorCode::truncated, .message = "a.bin ends at 3"};
  EXPECT_EQ(to_string(error), "truncated: a.bin ends at 3");
  error.hint = "download it again";
  EXPECT_EQ(to_string(error), "truncated: a.bin ends at 3 (download it again)");
}

TEST(Error, JsonLeavesOutWhatIsAbsent) {
  const Error bare{.code = ErrorCode::aborted, .message = "stopped"};
  EXPECT_EQ(to_json(bare), R"({"code":"aborted","message":"stopped"})");
  const Error full{.code = ErrorCode::size_mismatch,
                   .message = "\"m\"",
                   .file = "a.bin",
                   .tensor = "x",
                   .expected = UINT64_MAX,
                   .actual = 0,
                   .hint = "h"};
  EXPECT_EQ(to_json(full),
            R"({"code":"size_mismatch","message":"\"m\"","file":"a.bin","tensor":"x",)"
            R"("expected":18446744073709551615,"actual":0,"hint":"h"})");
}

TEST(Error, ConcatJoinsTextAndIntegers) {
  EXPECT_EQ(concat("a", std::string("b"), std::string_view("c"), -1, uint8_t{7}, UINT64_MAX),
            "abc-1718446744073709551615");
}

TEST(Error, QuoteShortensLongText) {
  EXPECT_EQ(quote("x"), "'x'");
  const std::string text = quote(std::string(100'000, 'y'));
  EXPECT_LT(text.size(), 300u);
  EXPECT_TRUE(text.contains("100000 bytes"));
}

Result<int> half(int value) {
  if (value % 2 != 0) return std::unexpected(Error{.code = ErrorCode::io, .message = "odd"});
  return value / 2;
}

Result<int> quarter(int value) {
  SLUICE_ASSIGN(const int once, half(value));
  SLUICE_TRY(half(once));
  return once / 2;
}

TEST(Error, MacrosPassErrorsOn) {
  EXPECT_EQ(*quarter(8), 2);
  EXPECT_EQ(quarter(7).error().message, "odd");
  EXPECT_EQ(quarter(6).error().message, "odd");
}

}  // namespace
}  // namespace sluice
