// Paths inside a model's folder, as manifests name them.
#pragma once

#include <string>
#include <string_view>

#include "core/base/error.h"

namespace sluice {

// Accepts a relative, '/'-separated path that stays inside its folder under POSIX and under the URL
// standard alike; anything else is `manifest_invalid`: an empty path or segment, '.' and '..' (also
// percent-encoded), a leading '/', a backslash, a percent-encoded slash of either kind, a scheme or
// drive (':' in the first segment), control characters, a space at either end (URLs drop it), and
// '?' or '#'. `manifest` names the file that holds the path, for the
// message.
Status check_relative_path(std::string_view path, std::string_view manifest);

// The folder part of `path` with its '/', or nothing; and the part behind it.
std::string_view folder_of(std::string_view path);
std::string_view file_name_of(std::string_view path);

}  // namespace sluice
