#include "core/base/error.h"

#include <array>
#include <charconv>

#include "core/base/json.h"

namespace sluice {
namespace {

constexpr std::array<std::string_view, 20> kNames = {
    "manifest_invalid",
    "range_out_of_bounds",
    "size_mismatch",
    "unsupported_dtype",
    "http_status",
    "network",
    "truncated",
    "checksum_mismatch",
    "source_changed",
    "quota_exceeded",
    "device_limit",
    "out_of_device_memory",
    "device_lost",
    "store_corrupt",
    "budget_too_small",
    "aborted",
    "not_found",
    "invalid_argument",
    "io",
    "internal",
};
static_assert(kNames.size() == static_cast<uint32_t>(ErrorCode::internal));

}  // namespace

bool is_error_code(uint32_t code) { return code >= 1 && code <= kNames.size(); }

std::string_view error_code_name(ErrorCode code) {
  const auto number = static_cast<uint32_t>(code);
  return is_error_code(number) ? kNames[number - 1] : kNames.back();
}

void Piece::append_to(std::string& out) const {
  char digits[24];
  if (length_ == kUnsigned)
    out.append(digits, std::to_chars(digits, digits + sizeof(digits), number_).ptr);
  else if (length_ == kSigned)
    out.append(digits,
               std::to_chars(digits, digits + sizeof(digits), static_cast<int64_t>(number_)).ptr);
  else
    out.append(text_, length_);
}

std::string concat_pieces(std::span<const Piece> pieces) {
  std::string out;
  for (const Piece& piece : pieces) piece.append_to(out);
  return out;
}

std::string quote(std::string_view text) {
  constexpr size_t kMax = 200;
  if (text.size() <= kMax) return concat("'", text, "'");
  return concat("'", text.substr(0, kMax), "…' (", text.size(), " bytes)");
}

std::string to_string(const Error& error) {
  std::string out = concat(error_code_name(error.code), ": ", error.message);
  if (!error.hint.empty()) out += concat(" (", error.hint, ")");
  return out;
}

std::string to_json(const Error& error) {
  JsonWriter json;
  json.begin_object();
  json.key("code").string(error_code_name(error.code));
  json.key("message").string(error.message);
  if (!error.file.empty()) json.key("file").string(error.file);
  if (!error.tensor.empty()) json.key("tensor").string(error.tensor);
  if (error.expected) json.key("expected").number(*error.expected);
  if (error.actual) json.key("actual").number(*error.actual);
  if (!error.hint.empty()) json.key("hint").string(error.hint);
  json.end_object();
  return std::move(json).take();
}

}  // namespace sluice
