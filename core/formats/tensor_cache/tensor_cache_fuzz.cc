// Any text gives an error or a sound manifest whose files stay inside the model's folder.
#include "core/formats/fuzz_check.h"
#include "core/formats/tensor_cache/tensor_cache.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto manifest = sluice::parse_tensor_cache(text, "tensor-cache.json");
  if (!manifest) {
    sluice::require_sound(manifest.error());
    return 0;
  }
  sluice::require_sound(*manifest);
  for (const auto& file : manifest->files)
    sluice::require(sluice::check_relative_path(file.path, "input").has_value());
  return 0;
}
