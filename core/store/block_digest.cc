#include "core/store/block_digest.h"

#include <cstdlib>

#ifdef __wasm_simd128__
#include "core/store/xxhash_simd128.h"
#endif
#define XXH_INLINE_ALL
#include <xxhash.h>

namespace sluice {
namespace {

XXH3_state_t* library_state(void* state) { return static_cast<XXH3_state_t*>(state); }

}  // namespace

BlockDigest::BlockDigest() : state_(XXH3_createState()) {
  if (state_ == nullptr) std::abort();  // 576 bytes were not to be had
  reset();
}

void BlockDigest::Free::operator()(void* state) const { XXH3_freeState(library_state(state)); }

void BlockDigest::reset() { XXH3_64bits_reset(library_state(state_.get())); }

void BlockDigest::update(Bytes bytes) {
  XXH3_64bits_update(library_state(state_.get()), bytes.data(), bytes.size());
}

uint64_t BlockDigest::digest() const { return XXH3_64bits_digest(library_state(state_.get())); }

uint64_t xxh3_64(Bytes bytes, uint64_t seed) {
  return XXH3_64bits_withSeed(bytes.data(), bytes.size(), seed);
}

std::string store_folder_name(std::string_view key) {
  std::string name;
  for (const uint64_t seed : {0u, 1u}) {
    const uint64_t digest = xxh3_64(as_bytes(key), seed);
    for (int shift = 60; shift >= 0; shift -= 4) name += "0123456789abcdef"[digest >> shift & 15];
  }
  return name;
}

}  // namespace sluice
