// For tests: an error has a code and a message that names things.
#pragma once

#include <gtest/gtest.h>

#include <initializer_list>
#include <string_view>

#include "core/base/error.h"

namespace sluice {

template <class T>
void expect_error(const std::expected<T, Error>& result, ErrorCode code,
                  std::initializer_list<std::string_view> named) {
  ASSERT_FALSE(result.has_value()) << "no error, expected " << error_code_name(code);
  const Error& error = result.error();
  EXPECT_EQ(error_code_name(error.code), error_code_name(code)) << error.message;
  for (const std::string_view piece : named)
    EXPECT_TRUE(error.message.contains(piece)) << "'" << piece << "' not in: " << error.message;
}

}  // namespace sluice
