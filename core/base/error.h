// Errors as values: a stable code, a sentence, what it happened to, and the numbers.
#pragma once

#include <concepts>
#include <cstdint>
#include <expected>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace sluice {

// The codes a person can meet. Names and numbers are stable: JS receives the name as `error.code`.
enum class ErrorCode : uint32_t {
  manifest_invalid = 1,       // a manifest or header contradicts itself or its format
  range_out_of_bounds = 2,    // bytes outside their file or buffer are asked for
  size_mismatch = 3,          // a size differs from what the manifest promised
  unsupported_dtype = 4,      // an element type or a conversion that is not known here
  http_status = 5,            // the server answered with an error
  network = 6,                // no answer: refused, reset, or silent for too long
  truncated = 7,              // fewer bytes than promised
  checksum_mismatch = 8,      // bytes differ from their digest
  source_changed = 9,         // a file changed on the server while it was loaded
  quota_exceeded = 10,        // the store may not hold as much
  device_limit = 11,          // the device cannot hold a buffer of that size
  out_of_device_memory = 12,  // the device could, but has no room left
  device_lost = 13,           // the device went away
  store_corrupt = 14,         // the local store contradicts itself
  budget_too_small = 15,      // the memory budget is below what one step needs
  aborted = 16,               // the caller asked to stop
  not_found = 17,             // no model at this place
  invalid_argument = 18,      // the call itself is wrong
  io = 19,                    // the file system refused
  internal = 20,              // a fault of ours
};

// The stable name, as in `manifest_invalid`; "internal" for a number outside the list.
std::string_view error_code_name(ErrorCode code);

// Whether `code` is one of the list above.
bool is_error_code(uint32_t code);

struct Error {
  ErrorCode code = ErrorCode::internal;
  std::string message;      // one sentence that names the file, the tensor and the numbers
  std::string file = {};    // path or URL; empty when no file is at fault
  std::string tensor = {};  // name; empty when no tensor is at fault
  std::optional<uint64_t> expected = {};  // the number that should have been, in the message's unit
  std::optional<uint64_t> actual = {};    // the number that was
  std::string hint = {};                  // what the person can do; empty when the message says it
};

// `code: message (hint)`, for a terminal.
std::string to_string(const Error& error);

// The error as a JSON object with the fields above in camelCase; absent fields are left out.
std::string to_json(const Error& error);

template <class T>
using Result = std::expected<T, Error>;
using Status = std::expected<void, Error>;

// One text or integer for concat(): a view of what it is made of, in as few stores as possible.
class Piece {
 public:
  // NOLINTBEGIN(google-explicit-constructor): concat() takes texts and integers as they are
  Piece(std::string_view text) : text_(text.data()), length_(text.size()) {}
  Piece(const std::string& text) : text_(text.data()), length_(text.size()) {}
  Piece(const char* text) : Piece(std::string_view(text)) {}
  template <std::integral T>
    requires(!std::same_as<T, char> && !std::same_as<T, bool>)
  Piece(T number)
      : number_(static_cast<uint64_t>(number)),
        length_(std::signed_integral<T> ? kSigned : kUnsigned) {}
  // NOLINTEND(google-explicit-constructor)

  void append_to(std::string& out) const;

 private:
  static constexpr size_t kUnsigned = SIZE_MAX, kSigned = SIZE_MAX - 1;
  union {
    const char* text_;
    uint64_t number_;
  };
  size_t length_;  // of the text in bytes, or which kind of number it is
};

std::string concat_pieces(std::span<const Piece> pieces);

// Joins texts and integers into one string. (std::format costs 60 kB of wasm, and joining in a
// template costs half a kB for each message.)
template <class... Pieces>
std::string concat(const Pieces&... pieces) {
  const Piece list[] = {Piece(pieces)...};
  return concat_pieces(list);
}

// `text` in single quotes, shortened where it is longer than a message should be.
std::string quote(std::string_view text);

}  // namespace sluice

// Leaves the function with the error of `expression` when it has one. For Result and Status alike.
#define SLUICE_TRY(expression)                                  \
  do {                                                          \
    if (auto sluice_status = (expression); !sluice_status)      \
      return std::unexpected(std::move(sluice_status).error()); \
  } while (false)

#define SLUICE_CONCAT_(a, b) a##b
#define SLUICE_CONCAT(a, b) SLUICE_CONCAT_(a, b)
#define SLUICE_ASSIGN_(temporary, declaration, expression)              \
  auto temporary = (expression);                                        \
  if (!temporary) return std::unexpected(std::move(temporary).error()); \
  declaration = *std::move(temporary)

// `SLUICE_ASSIGN(auto x, f());` declares x from the value of f(), or leaves with its error.
#define SLUICE_ASSIGN(declaration, expression) \
  SLUICE_ASSIGN_(SLUICE_CONCAT(sluice_result_, __LINE__), declaration, expression)
