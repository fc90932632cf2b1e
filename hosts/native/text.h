// What a person types and reads at a terminal.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "core/load/loader.h"

namespace sluice {

// "64MiB", "32MB", "4096": a whole number of bytes, kB, MB, GB (powers of 1000), KiB, MiB or GiB
// (of 1024). Nothing for anything else, and where it overflows 64 bits.
std::optional<uint64_t> parse_size(std::string_view text);

// "266.1 MiB"
std::string format_bytes(uint64_t bytes);

// With so many digits behind the point.
std::string format_number(double value, int digits);

// `text` with control characters written as \xNN, so that a file cannot talk to the terminal.
std::string printable(std::string_view text);

// One line on stderr that is written over as a load goes on. Only where stderr is a terminal.
class ProgressBar {
 public:
  explicit ProgressBar(bool quiet);
  ~ProgressBar() { clear(); }
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  void update(const Progress& progress);
  // Removes the line.
  void clear();

  // The line, at most `columns` wide.
  static std::string line(uint64_t done, uint64_t total, double seconds, uint32_t columns);

 private:
  using Clock = std::chrono::steady_clock;
  bool shown_ = false;
  bool terminal_;
  Clock::time_point start_ = Clock::now();
  Clock::time_point last_ = start_;
};

}  // namespace sluice
