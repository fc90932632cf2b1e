// Any bytes give an error or a sound manifest, the same however the file is cut; and so does any
// index.
#include "core/formats/fuzz_check.h"
#include "core/formats/safetensors/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const sluice::Bytes bytes(reinterpret_cast<const std::byte*>(data), size);
  sluice::check_prefix_parser(bytes, [](sluice::Bytes prefix, std::optional<uint64_t> nbytes) {
    return sluice::parse_safetensors(prefix, nbytes, "input.safetensors");
  });
  const auto index = sluice::parse_safetensors_index(sluice::as_text(bytes), "index.json");
  if (!index) {
    sluice::require_sound(index.error());
    return 0;
  }
  for (const auto& file : index->files)
    sluice::require(sluice::check_relative_path(file, "input").has_value());
  for (const auto& [name, file] : index->weight_map) sluice::require(file < index->files.size());
  return 0;
}
