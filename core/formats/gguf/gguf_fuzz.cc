// Any bytes give an error or a sound manifest, the same however the file is cut.
#include "core/formats/fuzz_check.h"
#include "core/formats/gguf/gguf.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const sluice::Bytes bytes(reinterpret_cast<const std::byte*>(data), size);
  sluice::check_prefix_parser(bytes, [](sluice::Bytes prefix, std::optional<uint64_t> nbytes) {
    return sluice::parse_gguf(prefix, nbytes, "input.gguf");
  });
  return 0;
}
