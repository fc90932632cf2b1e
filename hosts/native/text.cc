#include "hosts/native/text.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "core/base/checked.h"
#include "core/base/error.h"

namespace sluice {
namespace {

constexpr auto kRedraw = std::chrono::milliseconds(100);

struct Unit {
  std::string_view suffix;
  uint64_t bytes;
};
constexpr Unit kUnits[] = {
    {"", 1},
    {"B", 1},
    {"kB", 1000},
    {"MB", 1'000'000},
    {"GB", 1'000'000'000},
    {"KiB", 1ull << 10},
    {"MiB", 1ull << 20},
    {"GiB", 1ull << 30},
};

std::string duration_text(double seconds) {
  const auto whole = static_cast<uint64_t>(std::lround(std::clamp(seconds, 0.0, 359999.0)));
  const uint64_t s = whole % 60;
  const uint64_t m = whole / 60 % 60;
  const auto two = [](uint64_t n) { return concat(n < 10 ? "0" : "", n); };
  if (whole >= 3600) return concat(whole / 3600, ":", two(m), ":", two(s));
  return concat(m, ":", two(s));
}

}  // namespace

std::optional<uint64_t> parse_size(std::string_view text) {
  uint64_t number = 0;
  const char* const end = text.data() + text.size();
  const auto parsed = std::from_chars(text.data(), end, number);
  if (parsed.ec != std::errc()) return std::nullopt;
  const std::string_view suffix(parsed.ptr, static_cast<size_t>(end - parsed.ptr));
  for (const Unit& unit : kUnits)
    if (suffix == unit.suffix) return checked_mul(number, unit.bytes);
  return std::nullopt;
}

std::string format_number(double value, int digits) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

std::string format_bytes(uint64_t bytes) {
  if (bytes < 1024) return concat(bytes, " B");
  auto value = static_cast<double>(bytes);
  size_t unit = 0;
  constexpr std::string_view kNames[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  while (value >= 1024 && unit + 1 < std::size(kNames)) value /= 1024, ++unit;
  return concat(format_number(value, 1), " ", kNames[unit]);
}

std::string printable(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte != 0x7F) {
      out += c;
    } else {
      out += "\\x";
      out += "0123456789abcdef"[byte >> 4];
      out += "0123456789abcdef"[byte & 15];
    }
  }
  return out;
}

ProgressBar::ProgressBar(bool quiet) : terminal_(!quiet && ::isatty(STDERR_FILENO) == 1) {}

std::string ProgressBar::line(uint64_t done, uint64_t total, double seconds, uint32_t columns) {
  const double part =
      total > 0 ? std::min(1.0, static_cast<double>(done) / static_cast<double>(total)) : 1.0;
  const double rate = seconds > 0 ? static_cast<double>(done) / seconds : 0;
  std::string percent = format_number(100 * part, 1);
  percent.insert(0, 5 - std::min<size_t>(5, percent.size()), ' ');
  std::string numbers = concat("  ", format_bytes(done), " of ", format_bytes(total), "  ",
                               format_number(rate / 1e9, 2), " GB/s");
  if (rate > 0)
    numbers += concat(
        "  ", duration_text(static_cast<double>(total - std::min(total, done)) / rate), " left");
  std::string out = percent + "%";
  constexpr size_t kLeastBar = 10;
  const size_t fixed = out.size() + numbers.size() + 3;
  if (fixed + kLeastBar <= columns) {
    const size_t width = std::min<size_t>(40, columns - fixed);
    const auto filled = static_cast<size_t>(part * static_cast<double>(width));
    out += concat(" [", std::string(filled, '#'), std::string(width - filled, '.'), "]");
  }
  out += numbers;
  if (out.size() > columns) out.resize(columns);
  return out;
}

void ProgressBar::update(const Progress& progress) {
  if (!terminal_) return;
  const auto now = Clock::now();
  if (now - last_ < kRedraw) return;
  last_ = now;
  winsize size{};
  const bool known = ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  const std::string text =
      "\r" +
      line(progress.source_bytes_done, progress.source_bytes,
           std::chrono::duration<double>(now - start_).count(), known ? size.ws_col - 1u : 79u) +
      "\x1b[K";
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
  shown_ = true;
}

void ProgressBar::clear() {
  if (!shown_) return;
  std::fputs("\r\x1b[K", stderr);
  std::fflush(stderr);
  shown_ = false;
}

}  // namespace sluice
