// An Opener against a host that serves two files, in any order and as truthfully as the input
// says, ends with an error or a sound manifest after a bounded number of requests.
//
// The input: a byte that chooses the name to open, a byte of host behaviour, the first file's
// length (u16), the first file, and the second one, which answers every other path.
#include <algorithm>

#include "core/formats/fuzz_check.h"
#include "core/formats/open.h"

namespace sluice {
namespace {

constexpr std::string_view kNames[] = {"",
                                       "a.gguf",
                                       "a.safetensors",
                                       "a.json",
                                       "a.bin",
                                       "tensor-cache.json",
                                       "a-00001-of-00002.gguf",
                                       "a-00002-of-00002.gguf"};

enum Behaviour : uint8_t {
  kTellsSize = 1,
  kIgnoresRanges = 2,
  kLiesAboutSize = 4,
  kAnswersHalf = 8,
  kSecondIsMissing = 16,
  kFirstTwoAreMissing = 32,
};

void run(Bytes input) {
  ByteReader reader(input);
  const auto name = reader.read<uint8_t>();
  const auto behaviour = reader.read<uint8_t>();
  const auto length = reader.read<uint16_t>();
  if (!length) return;
  const Bytes rest = input.subspan(4);
  const Bytes first = rest.first(std::min<size_t>(*length, rest.size()));
  const Bytes second = rest.subspan(first.size());

  Opener opener(kNames[*name % std::size(kNames)]);
  std::string first_path;
  int missing = (*behaviour & kFirstTwoAreMissing) != 0 ? 2 : 0;
  // Each request but a file's first gets the rest of what a header needs or the file's end, and
  // headers grow twofold; an index names at most one file for every few bytes.
  const size_t limit = 100 + 32 * input.size();
  for (size_t steps = 0; opener.request(); ++steps) {
    require(steps < limit);
    const Opener::Request request = *opener.request();
    require(request.begin < request.end);
    Status status;
    if (missing > 0) {
      --missing;
      status = opener.missing();
    } else {
      if (first_path.empty()) first_path = request.path;
      const bool is_first = request.path == first_path;
      const Bytes file = is_first ? first : second;
      if (!is_first && (*behaviour & kSecondIsMissing) != 0) {
        status = opener.missing();
      } else {
        const size_t begin = std::min<uint64_t>(request.begin, file.size());
        size_t end = std::min<uint64_t>(request.end, file.size());
        if ((*behaviour & kIgnoresRanges) != 0) end = file.size();
        if ((*behaviour & kAnswersHalf) != 0) end = begin + (end - begin) / 2;
        std::optional<uint64_t> nbytes;
        if ((*behaviour & kTellsSize) != 0) nbytes = file.size();
        if ((*behaviour & kLiesAboutSize) != 0) nbytes = file.size() + steps % 2;
        status = opener.provide(file.subspan(begin, end - begin), nbytes);
      }
    }
    if (!status) {
      require_sound(status.error());
      require(!opener.request() && !opener.done());
      return;
    }
  }
  require(opener.done());
  const Manifest manifest = opener.take_manifest();
  require_sound(manifest);
  for (const FileEntry& file : manifest.files)
    require(check_relative_path(file.path, "input").has_value());
}

}  // namespace
}  // namespace sluice

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  sluice::run({reinterpret_cast<const std::byte*>(data), size});
  return 0;
}
