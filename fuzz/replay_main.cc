// Feeds each file of the folders and files named on the command line to a fuzz target once, so that
// the kept corpus is a test and ordinary builds keep the targets compiling.
#include <sys/resource.h>

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

// Too large an allocation fails, as it does for the fuzzer, instead of filling the machine. Under a
// sanitizer, which takes terabytes of addresses, the target's own options say how large.
void limit_memory() {
#if !__has_feature(address_sanitizer)
  constexpr rlim_t kBytes = rlim_t{1} << 30;
  const rlimit limit{.rlim_cur = kBytes, .rlim_max = kBytes};
  if (setrlimit(RLIMIT_AS, &limit) != 0) std::perror("setrlimit");
#endif
}

void replay(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(in), {}};
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
}

}  // namespace

int main(int argc, char** argv) {
  limit_memory();
  size_t count = 0;
  for (int i = 1; i < argc; ++i) {
    if (std::filesystem::is_directory(argv[i])) {
      for (const auto& entry : std::filesystem::recursive_directory_iterator(argv[i]))
        if (entry.is_regular_file()) replay(entry.path()), ++count;
    } else {
      replay(argv[i]), ++count;
    }
  }
  std::printf("replayed %zu inputs\n", count);
  return count == 0;  // an empty corpus tests nothing
}
