#include "hosts/native/text.h"

#include <gtest/gtest.h>

namespace sluice {
namespace {

TEST(ParseSize, TakesBytesAndUnits) {
  EXPECT_EQ(parse_size("0"), 0u);
  EXPECT_EQ(parse_size("4096"), 4096u);
  EXPECT_EQ(parse_size("1B"), 1u);
  EXPECT_EQ(parse_size("3kB"), 3000u);
  EXPECT_EQ(parse_size("32MB"), 32'000'000u);
  EXPECT_EQ(parse_size("2GB"), 2'000'000'000u);
  EXPECT_EQ(parse_size("1KiB"), 1024u);
  EXPECT_EQ(parse_size("64MiB"), 64ull << 20);
  EXPECT_EQ(parse_size("3GiB"), 3ull << 30);
  EXPECT_EQ(parse_size("18446744073709551615"), UINT64_MAX);
}

TEST(ParseSize, RefusesEverythingElse) {
  for (const char* text : {"", "MiB", "-1", "+1", "1.5GiB", "1 MiB", "1mb", "1MiBx", "0x10", " 1",
                           "18446744073709551616", "18014398509481984KiB", "1TiB"})
    EXPECT_EQ(parse_size(text), std::nullopt) << text;
}

TEST(FormatBytes, ChoosesTheUnit) {
  EXPECT_EQ(format_bytes(1023), "1023 B");
  EXPECT_EQ(format_bytes(1024), "1.0 KiB");
  EXPECT_EQ(format_bytes(1120ull << 20), "1.1 GiB");
  EXPECT_EQ(format_bytes(64ull << 20), "64.0 MiB");
}

TEST(Printable, EscapesWhatATerminalWouldObey) {
  EXPECT_EQ(printable("a\x1b[2Jb\n\x7f"), "a\\x1b[2Jb\\x0a\\x7f");
  EXPECT_EQ(printable("größe 'x'"), "größe 'x'");
}

TEST(ProgressBar, ShowsPartRateAndTimeLeft) {
  const std::string line = ProgressBar::line(64ull << 20, 256ull << 20, 0.5, 100);
  EXPECT_TRUE(line.starts_with(" 25.0% [")) << line;
  EXPECT_TRUE(line.contains("64.0 MiB of 256.0 MiB  0.13 GB/s  0:02 left")) << line;
  EXPECT_LE(line.size(), 100u);
}

TEST(ProgressBar, FitsNarrowTerminalsAndStrangeNumbers) {
  for (const uint32_t columns : {0u, 1u, 5u, 20u, 60u, 500u})
    for (const uint64_t done : {uint64_t{0}, uint64_t{100}, UINT64_MAX})
      for (const uint64_t total : {uint64_t{0}, uint64_t{100}, UINT64_MAX})
        for (const double seconds : {0.0, 1e-9, 1e9})
          EXPECT_LE(ProgressBar::line(done, total, seconds, columns).size(), columns);
}

}  // namespace
}  // namespace sluice
