#include "core/formats/gguf/split.h"

#include <utility>

#include "core/base/json.h"

namespace sluice {
namespace {

constexpr std::string_view kEnding = "-00000-of-00000.gguf";  // with the places of two numbers
constexpr size_t kNumberAt = 1, kCountAt = 10, kDigits = 5;

std::optional<uint32_t> parse_digits(std::string_view text) {
  uint32_t value = 0;
  for (const char c : text) {
    if (c < '0' || c > '9') return std::nullopt;
    value = value * 10 + static_cast<uint32_t>(c - '0');
  }
  return value;
}

// "00012"; a number of more digits as it is, which no name of a part holds.
std::string padded(uint64_t number) {
  std::string digits = concat(number);
  return digits.size() < kDigits ? std::string(kDigits - digits.size(), '0') + digits : digits;
}

std::string ending(uint64_t number, uint64_t count) {
  return concat("-", padded(number), "-of-", padded(count), ".gguf");
}

Error split_error(const std::string& path, std::string message) {
  return Error{.code = ErrorCode::manifest_invalid, .message = std::move(message), .file = path};
}

struct Split {
  uint64_t no = 0, count = 0;
  std::optional<uint64_t> tensors = {};
};

Result<Split> read_split(const Manifest& part) {
  const std::string& path = part.files[0].path;
  SLUICE_ASSIGN(const JsonValue metadata, parse_json(part.metadata_json, path));
  const auto number = [&](std::string_view key) -> Result<std::optional<uint64_t>> {
    const JsonValue* value = metadata.find(key);
    if (value == nullptr) return std::nullopt;
    if (value->as_uint() != nullptr) return *value->as_uint();
    return std::unexpected(split_error(
        path, concat(key, " of ", path, " is ", value->describe(), "; expected a count")));
  };
  SLUICE_ASSIGN(const auto no, number("split.no"));
  SLUICE_ASSIGN(const auto count, number("split.count"));
  SLUICE_ASSIGN(const auto tensors, number("split.tensors.count"));
  return Split{.no = no.value_or(0), .count = count.value_or(0), .tensors = tensors};
}

}  // namespace

std::optional<GgufPartName> parse_gguf_part_name(std::string_view path) {
  if (path.size() < kEnding.size()) return std::nullopt;
  const size_t stem = path.size() - kEnding.size();
  const std::string_view end = path.substr(stem);
  const auto number = parse_digits(end.substr(kNumberAt, kDigits));
  const auto count = parse_digits(end.substr(kCountAt, kDigits));
  if (!number || !count || end != ending(*number, *count)) return std::nullopt;
  if (*number == 0 || *number > *count) return std::nullopt;
  return GgufPartName{.stem = path.substr(0, stem), .number = *number, .count = *count};
}

std::string gguf_part_path(const GgufPartName& part) {
  return concat(part.stem, ending(part.number, part.count));
}

Result<uint64_t> gguf_part_count(const Manifest& part) {
  SLUICE_ASSIGN(const Split split, read_split(part));
  if (split.count <= 1) return 1;
  const std::string& path = part.files[0].path;
  const auto name = parse_gguf_part_name(path);
  if (name && name->count == split.count && name->number - 1 == split.no) return split.count;
  Error error =
      split_error(path, concat(path, " is part ", split.no + 1, " of ", split.count,
                               " of a split model by its metadata, so its name must end in ",
                               ending(split.no + 1, split.count)));
  error.hint = "the other parts are found by the name: give every part its published name again";
  return std::unexpected(std::move(error));
}

Result<Manifest> join_gguf(std::vector<Manifest> parts) {
  std::vector<Split> splits;
  for (const Manifest& part : parts) {
    SLUICE_ASSIGN(const Split split, read_split(part));
    splits.push_back(split);
  }
  Manifest joined{.format = "gguf", .metadata_json = parts[0].metadata_json};
  SLUICE_ASSIGN(Manifest out, join_files(std::move(joined), std::move(parts)));
  const uint64_t total = out.tensors.size();
  for (size_t i = 0; i < splits.size(); ++i) {
    const uint64_t claimed = splits[i].tensors.value_or(total);
    if (claimed == total) continue;
    const std::string& path = out.files[i].path;
    Error error = split_error(path, concat(path, " says that the model has ", claimed,
                                           " tensors (split.tensors.count), but its ",
                                           splits.size(), " parts together have ", total));
    error.expected = claimed;
    error.actual = total;
    error.hint = "the parts are of different models or versions: download all of them again";
    return std::unexpected(std::move(error));
  }
  return out;
}

}  // namespace sluice
