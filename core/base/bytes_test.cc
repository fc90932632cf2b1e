#include "core/base/bytes.h"

#include <gtest/gtest.h>

#include <vector>

#include "core/base/checked.h"

namespace sluice {
namespace {

TEST(ByteReader, ReadsLittleEndian) {
  ByteReader reader(as_bytes(std::string_view("\x01\x02\x03\x04\xff\xff\x00\x00\x80\x3f", 10)));
  EXPECT_EQ(reader.read<uint32_t>(), 0x04030201u);
  EXPECT_EQ(reader.read<int16_t>(), -1);
  EXPECT_EQ(reader.read<float>(), 1.0f);
  EXPECT_EQ(reader.position(), 10u);
  EXPECT_EQ(reader.missing(), 0u);
}

TEST(ByteReader, SaysHowLongThePrefixMustBe) {
  ByteReader reader(as_bytes("abcdef"));
  ASSERT_TRUE(reader.take(4));
  EXPECT_FALSE(reader.read<uint32_t>());
  EXPECT_EQ(reader.missing(), 8u);
  EXPECT_EQ(reader.position(), 4u);
  EXPECT_EQ(as_text(*reader.take(2)), "ef");
  EXPECT_EQ(reader.take(0)->size(), 0u);
}

TEST(ByteReader, SaturatesWhereTheEndOverflows) {
  ByteReader reader(as_bytes("abcdef"));
  ASSERT_TRUE(reader.take(1));
  EXPECT_FALSE(reader.take(UINT64_MAX));
  EXPECT_EQ(reader.missing(), UINT64_MAX);
}

TEST(Checked, SaysWhenItOverflows) {
  EXPECT_EQ(checked_add(UINT64_MAX - 1, 1), UINT64_MAX);
  EXPECT_FALSE(checked_add(UINT64_MAX, 1));
  EXPECT_EQ(checked_mul(1ull << 32, (1ull << 32) - 1), UINT64_MAX - (1ull << 32) + 1);
  EXPECT_FALSE(checked_mul(1ull << 32, 1ull << 32));
  EXPECT_EQ(checked_align_up(0, 32), 0u);
  EXPECT_EQ(checked_align_up(33, 32), 64u);
  EXPECT_FALSE(checked_align_up(UINT64_MAX - 3, 32));
}

TEST(Checked, ProductOfShapes) {
  const uint64_t big = 1ull << 40;
  EXPECT_EQ(checked_product({}), 1u);
  EXPECT_EQ(checked_product(std::vector<uint64_t>{262144, 1120}), 293601280u);
  EXPECT_FALSE(checked_product(std::vector<uint64_t>{big, big}));
  EXPECT_EQ(checked_product(std::vector<uint64_t>{big, big, 0}), 0u);
}

}  // namespace
}  // namespace sluice
