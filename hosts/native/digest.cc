#include "hosts/native/digest.h"

#include <openssl/evp.h>

#include <stdexcept>

namespace sluice {
namespace {

void check(int result) {
  if (result != 1) throw std::runtime_error("OpenSSL cannot compute this digest");
}

}  // namespace

void Digest::Free::operator()(evp_md_ctx_st* context) const { EVP_MD_CTX_free(context); }

Digest::Digest(Kind kind) : kind_(kind), context_(EVP_MD_CTX_new()) {
  check(context_ != nullptr ? 1 : 0);
  start();
}

void Digest::start() {
  check(EVP_DigestInit_ex(context_.get(), kind_ == Kind::md5 ? EVP_md5() : EVP_sha256(), nullptr));
}

void Digest::update(Bytes bytes) {
  check(EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()));
}

std::string Digest::finish() {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int length = 0;
  check(EVP_DigestFinal_ex(context_.get(), digest, &length));
  start();
  std::string hex;
  for (unsigned int i = 0; i < length; ++i) {
    hex += "0123456789abcdef"[digest[i] >> 4];
    hex += "0123456789abcdef"[digest[i] & 15];
  }
  return hex;
}

}  // namespace sluice
