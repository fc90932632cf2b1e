// Holds every codec that this machine can run against the reference, and prints one line each; exit
// status 1 when one differs. A program without GoogleTest, so that it also runs as wasm.
#include <cstdio>

#include "core/load/codec_reference.h"

int main() {
  size_t failures = 0;
  const auto variants = sluice::codec_variants();
  for (const sluice::CodecVariant& variant : variants) {
    const std::string wrong = sluice::reference::check(variant);
    if (!wrong.empty()) std::printf("%s\n", wrong.c_str());
    failures += !wrong.empty();
  }
  const sluice::Codec* fastest = sluice::find_codec(sluice::DType::bf16, sluice::DType::f32);
  const bool agrees =
      !variants.empty() && fastest != nullptr && fastest->decode == variants.front().codec.decode;
#if defined(__wasm_simd128__)
  const bool expected = agrees && variants.front().implementation == "simd128";
#else
  const bool expected = agrees;
#endif
  if (!expected) std::printf("find_codec() does not return the fastest implementation\n");
  std::printf("%zu of %zu codecs equal the reference; find_codec() takes %s\n",
              variants.size() - failures, variants.size(),
              variants.empty() ? "none" : variants.front().implementation.data());
  return failures != 0 || !expected;
}
