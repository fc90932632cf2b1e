// JSON as the manifests need it: a bounded tree over nlohmann's lexer, and a small writer.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "core/base/error.h"

namespace sluice {

class JsonWriter;

// One JSON value. Objects keep the order of the text. Integers keep all 64 bits.
class JsonValue {
 public:
  using Array = std::vector<JsonValue>;
  using Object = std::vector<std::pair<std::string, JsonValue>>;

  JsonValue() : value_(nullptr) {}
  explicit JsonValue(bool value) : value_(value) {}
  explicit JsonValue(uint64_t value) : value_(value) {}
  explicit JsonValue(int64_t value) : value_(value) {}
  explicit JsonValue(double value) : value_(value) {}
  explicit JsonValue(std::string value) : value_(std::move(value)) {}
  explicit JsonValue(Array value) : value_(std::move(value)) {}
  explicit JsonValue(Object value) : value_(std::move(value)) {}

  // The pointers are null when the value is of another kind.
  bool is_null() const { return std::holds_alternative<std::nullptr_t>(value_); }
  const bool* as_bool() const { return std::get_if<bool>(&value_); }
  const uint64_t* as_uint() const { return std::get_if<uint64_t>(&value_); }
  const std::string* as_string() const { return std::get_if<std::string>(&value_); }
  const Array* as_array() const { return std::get_if<Array>(&value_); }
  const Object* as_object() const { return std::get_if<Object>(&value_); }
  Array* as_array() { return std::get_if<Array>(&value_); }
  Object* as_object() { return std::get_if<Object>(&value_); }

  // The member `key` of an object, or null.
  const JsonValue* find(std::string_view key) const;

  // The kind and, for a number, the value, as an error message shows it: "the number -3", "a
  // string".
  std::string describe() const;

  // The value as compact JSON text.
  std::string dump() const;

 private:
  void write(JsonWriter& out) const;

  std::variant<std::nullptr_t, bool, uint64_t, int64_t, double, std::string, Array, Object> value_;
};

// Parses one document. Errors are `manifest_invalid` and name `file`: a syntax error (with its byte
// offset), nesting deeper than 64, a key that stands twice in one object, bytes behind the value,
// or more than 4,194,304 values (a manifest has about twelve a tensor). Memory is bounded by a
// constant times the length of `text`, and by that limit.
Result<JsonValue> parse_json(std::string_view text, std::string_view file);

// Writes JSON text. Calls must follow JSON's grammar; strings are escaped, and bytes that are not
// UTF-8 become U+FFFD.
class JsonWriter {
 public:
  JsonWriter& begin_object();
  JsonWriter& end_object();
  JsonWriter& begin_array();
  JsonWriter& end_array();
  JsonWriter& key(std::string_view name);
  JsonWriter& string(std::string_view value);
  JsonWriter& number(uint64_t value);
  JsonWriter& number(int64_t value);
  JsonWriter& number(double value);  // null where it is not finite
  JsonWriter& boolean(bool value);
  JsonWriter& null();
  // `text` is JSON already, as JsonValue::dump() gives it.
  JsonWriter& raw(std::string_view text);

  std::string take() && { return std::move(text_); }

 private:
  void separate();

  std::string text_;
  bool needs_comma_ = false;
};

}  // namespace sluice
