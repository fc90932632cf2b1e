// Feeds the same bytes to every implementation of a codec, to the reference, and, cut at places
// that the input chooses, to StreamDecoder; aborts where they differ.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "core/load/codec.h"
#include "core/load/codec_reference.h"

namespace {

using namespace sluice;

void expect_equal(const CodecVariant& variant, const char* what, bool equal) {
  if (equal) return;
  std::fprintf(stderr, "%s of %s, %s to %s, differs from the reference\n", what,
               variant.implementation.data(), dtype_name(variant.codec.from).data(),
               dtype_name(variant.codec.to).data());
  std::abort();
}

}  // namespace

// Input: a byte that chooses the pair of types, a byte that seeds the cuts, then what to decode.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const auto variants = codec_variants();
  const Codec& chosen = variants[data[0] % variants.size()].codec;
  // Copied, so that AddressSanitizer sees a read past the end.
  const std::vector<std::byte> in(reinterpret_cast<const std::byte*>(data) + 2,
                                  reinterpret_cast<const std::byte*>(data) + size);
  const size_t units = in.size() / chosen.in_bytes;
  const Bytes whole = Bytes(in).first(units * chosen.in_bytes);
  const std::vector<std::byte> expected = reference::decode(chosen.from, chosen.to, whole);

  for (const CodecVariant& variant : variants) {
    const Codec& codec = variant.codec;
    if (codec.from != chosen.from || codec.to != chosen.to) continue;
    std::vector<std::byte> out(units * codec.out_bytes);
    codec.decode(in.data(), out.data(), units);
    expect_equal(variant, "decode()", out == expected);

    StreamDecoder decoder(&codec);
    std::vector<std::byte> streamed;
    std::minstd_rand random(data[1] + 1u);
    for (Bytes rest = in; !rest.empty();) {
      const size_t room = random() % (size_t{3} * codec.out_bytes);
      const uint64_t most = decoder.input_for(room);
      const Bytes piece = rest.first(std::min<uint64_t>(rest.size(), random() % (most + 2)));
      std::vector<std::byte> part(decoder.output_bytes(piece.size()));
      expect_equal(variant, "input_for()", (part.size() <= room) == (piece.size() <= most));
      expect_equal(variant, "feed()", decoder.feed(piece, part.data()) == part.size());
      streamed.insert(streamed.end(), part.begin(), part.end());
      rest = rest.subspan(piece.size());
    }
    expect_equal(variant, "StreamDecoder", streamed == expected);
    expect_equal(variant, "carried()", decoder.carried() == in.size() - whole.size());
  }
  return 0;
}
