// XXH3-64, by which the local store knows its bytes again: fast, not cryptographic. It finds
// damage; whether a server gave the right bytes is for md5 and sha256 to say.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "core/base/bytes.h"

namespace sluice {

// XXH3-64 of bytes that come in pieces. (https://github.com/Cyan4973/xxHash, XXH3_64bits)
class BlockDigest {
 public:
  BlockDigest();

  // As new: what was added is forgotten.
  void reset();
  void update(Bytes bytes);
  // The digest of everything since the last reset(); more may be added behind it.
  uint64_t digest() const;

 private:
  struct Free {
    void operator()(void* state) const;
  };
  std::unique_ptr<void, Free> state_;  // the library's, which asks for an alignment of 64
};

// XXH3-64 of `bytes` with a seed; with seed 0 the same as BlockDigest.
uint64_t xxh3_64(Bytes bytes, uint64_t seed = 0);

// The folder of the model `key` (any text that names it, such as its URL) in a store: 32 lower-case
// hexadecimal digits, XXH3-64 of the key with seed 0 and with seed 1. Two keys may share a folder
// when somebody wants them to; who opens it compares the key in its journal.
std::string store_folder_name(std::string_view key);

}  // namespace sluice
