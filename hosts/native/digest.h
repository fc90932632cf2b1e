// Digests of bytes that come in pieces, by OpenSSL.
#pragma once

#include <memory>
#include <string>

#include "core/base/bytes.h"

// OpenSSL's own type, so that its headers stay out of ours
struct evp_md_ctx_st;

namespace sluice {

class Digest {
 public:
  enum class Kind : uint8_t { md5, sha256 };

  // Throws std::runtime_error where OpenSSL refuses the algorithm.
  explicit Digest(Kind kind);

  void update(Bytes bytes);

  // The digest of everything since the last call, in lower-case hex; starts anew.
  std::string finish();

 private:
  void start();

  struct Free {
    void operator()(evp_md_ctx_st* context) const;
  };
  Kind kind_;
  std::unique_ptr<evp_md_ctx_st, Free> context_;
};

}  // namespace sluice
