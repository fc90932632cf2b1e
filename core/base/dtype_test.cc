#include "core/base/dtype.h"

#include <gtest/gtest.h>

#include <set>

namespace sluice {
namespace {

TEST(DType, NamesAreUniqueAndLeadBack) {
  std::set<std::string_view> names;
  for (uint32_t i = 0; i < kDTypeCount; ++i) {
    const auto dtype = static_cast<DType>(i);
    const DTypeInfo& info = dtype_info(dtype);
    EXPECT_FALSE(info.name.empty()) << i;
    EXPECT_TRUE(names.insert(info.name).second) << info.name;
    EXPECT_EQ(dtype_from_name(info.name), dtype);
    EXPECT_GT(info.block_elements, 0u);
    EXPECT_GT(info.block_bytes, 0u);
    EXPECT_FALSE(info.is_float && info.is_quantized);
  }
  EXPECT_FALSE(dtype_from_name("float33"));
  EXPECT_FALSE(dtype_from_name(""));
}

// The numbers cross to JS.
TEST(DType, NumbersAreStable) {
  EXPECT_EQ(static_cast<uint32_t>(DType::boolean), 0u);
  EXPECT_EQ(static_cast<uint32_t>(DType::f32), 11u);
  EXPECT_EQ(static_cast<uint32_t>(DType::q4_0), 22u);
  EXPECT_EQ(static_cast<uint32_t>(DType::q4_1), 23u);
  EXPECT_EQ(static_cast<uint32_t>(DType::q1_0), 47u);
}

TEST(DType, StorageIsWholeBlocks) {
  EXPECT_EQ(storage_bytes(DType::f32, 3), 12u);
  EXPECT_EQ(storage_bytes(DType::u4, 3), 2u);
  EXPECT_EQ(storage_bytes(DType::q4_1, 32), 20u);
  EXPECT_EQ(storage_bytes(DType::q4_1, 33), 40u);
  EXPECT_EQ(storage_bytes(DType::q6_k, 256), 210u);
  EXPECT_EQ(storage_bytes(DType::f32, 0), 0u);
  EXPECT_EQ(storage_bytes(DType::u8, UINT64_MAX), UINT64_MAX);
  EXPECT_FALSE(storage_bytes(DType::f32, 1ull << 62));
}

}  // namespace
}  // namespace sluice
