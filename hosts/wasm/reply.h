// How an export answers: the one CallResult and what it points to. For the one source file of a
// module that holds its exports.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "core/base/error.h"
#include "hosts/wasm/abi.h"

namespace sluice::wasm {

struct Reply {
  CallResult result;
  std::string text;
};

// Made by sluice_initialize(), and by nothing before it.
inline constinit Reply* reply = nullptr;

inline uint32_t address(const void* pointer) {
  return static_cast<uint32_t>(reinterpret_cast<uintptr_t>(pointer));
}
inline std::string_view text_at(const char* text, uint32_t length) { return {text, length}; }

inline CallResult* succeed(std::string text, uint32_t value = 0) {
  reply->text = std::move(text);
  reply->result = {0, address(reply->text.data()), static_cast<uint32_t>(reply->text.size()),
                   value};
  return &reply->result;
}

inline CallResult* hand_out(const void* data, size_t nbytes, uint32_t value) {
  reply->result = {0, address(data), static_cast<uint32_t>(nbytes), value};
  return &reply->result;
}

inline CallResult* fail(const Error& error) {
  succeed(to_json(error));
  reply->result.status = static_cast<uint32_t>(error.code);
  return &reply->result;
}

inline CallResult* report(const Status& status) {
  return status ? succeed(std::string()) : fail(status.error());
}
inline CallResult* report_text(Result<std::string> result) {
  return result ? succeed(std::move(*result)) : fail(result.error());
}

// A count of bytes from JavaScript; nothing for a negative one, which stands for "unknown".
inline std::optional<uint64_t> bytes_or_unknown(double nbytes) {
  if (!(nbytes >= 0) || nbytes > 9007199254740992.0) return std::nullopt;
  return static_cast<uint64_t>(nbytes);
}

}  // namespace sluice::wasm
