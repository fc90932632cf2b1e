// What parses is written as text that parses to the same.
#include <cstdint>
#include <cstdlib>

#include "core/base/json.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto value = sluice::parse_json(text, "input");
  if (!value) {
    if (value.error().message.size() > 1000) std::abort();
    return 0;
  }
  const std::string written = value->dump();
  const auto again = sluice::parse_json(written, "written");
  if (!again || again->dump() != written) std::abort();
  return 0;
}
