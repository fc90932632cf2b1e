#include "core/base/path.h"

namespace sluice {
namespace {

// Whether the URL standard reads `segment` as `dots` ("." or ".."): "%2e" is a dot there.
bool is_dots(std::string_view segment, size_t dots) {
  for (; dots > 0; --dots) {
    if (segment.starts_with('.'))
      segment.remove_prefix(1);
    else if (segment.starts_with("%2e") || segment.starts_with("%2E"))
      segment.remove_prefix(3);
    else
      return false;
  }
  return segment.empty();
}

// What is wrong with `path`, or nothing.
std::string_view fault_of(std::string_view path) {
  if (path.empty()) return "it is empty";
  if (path.front() == '/') return "it starts at the root";
  // A URL loses these before it is read, and "../" may come to light behind them.
  if (path.front() == ' ' || path.back() == ' ') return "it starts or ends with a space";
  for (size_t i = 0; i < path.size(); ++i) {
    const char c = path[i];
    if (c == '\\') return "it holds a backslash";
    if (c == '?' || c == '#') return "it holds a '?' or '#'";
    if (static_cast<uint8_t>(c) < 0x20 || c == 0x7F) return "it holds a control character";
    const std::string_view rest = path.substr(i);
    for (const std::string_view encoded : {"%2f", "%2F", "%5c", "%5C"})
      if (rest.starts_with(encoded)) return "it holds an encoded slash";
  }
  if (path.substr(0, path.find('/')).contains(':')) return "it names a scheme or a drive";
  for (std::string_view rest = path;;) {
    const size_t slash = rest.find('/');
    const std::string_view segment = rest.substr(0, slash);
    if (segment.empty()) return "it has an empty segment";
    if (is_dots(segment, 1)) return "it has a '.' segment";
    if (is_dots(segment, 2)) return "it has a '..' segment";
    if (slash == std::string_view::npos) return {};
    rest.remove_prefix(slash + 1);
  }
}

}  // namespace

Status check_relative_path(std::string_view path, std::string_view manifest) {
  const std::string_view fault = fault_of(path);
  if (fault.empty()) return {};
  return std::unexpected(Error{.code = ErrorCode::manifest_invalid,
                               .message = concat(manifest, " names the file ", quote(path),
                                                 ", which may leave the model's folder: ", fault),
                               .file = std::string(manifest)});
}

std::string_view folder_of(std::string_view path) {
  const size_t slash = path.rfind('/');
  return slash == std::string_view::npos ? std::string_view() : path.substr(0, slash + 1);
}

std::string_view file_name_of(std::string_view path) { return path.substr(folder_of(path).size()); }

}  // namespace sluice
