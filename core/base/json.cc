#include "core/base/json.h"

#include <cmath>
#include <map>

// Neither exceptions nor streams reach the wasm build.
#define JSON_NOEXCEPTION 1
#define JSON_NO_IO 1
#include <nlohmann/json.hpp>

namespace sluice {
namespace {

constexpr size_t kMaxDepth = 64;
constexpr size_t kMaxValues = 4u << 20;
constexpr size_t kMaxReason = 200;  // bytes of the parser's own message that are passed on

void append_double(std::string& out, double value) {
  // The parser's library brings a shortest-digits printer of 3 kB; std::to_chars and printf would
  // each add more than that to the wasm.
  char digits[64];
  out.append(digits, nlohmann::detail::to_chars(digits, digits + sizeof(digits), value));
}

// The first key that an object holds twice, or null.
const std::string* duplicate_key(const JsonValue::Object& object) {
  if (object.size() <= 16) {
    for (size_t i = 1; i < object.size(); ++i)
      for (size_t j = 0; j < i; ++j)
        if (object[i].first == object[j].first) return &object[i].first;
    return nullptr;
  }
  std::map<std::string_view, uint32_t> seen;
  for (const auto& member : object)
    if (!seen.emplace(member.first, 0).second) return &member.first;
  return nullptr;
}

// Receives the parser's events and builds the tree. The parser itself does not recurse; the limit
// on depth is for those who walk the tree, its destructor first.
class TreeBuilder {
 public:
  explicit TreeBuilder(std::string_view file) : file_(file) {}

  bool null() { return add(JsonValue()); }
  bool boolean(bool value) { return add(JsonValue(value)); }
  bool number_integer(int64_t value) { return add(JsonValue(value)); }
  bool number_unsigned(uint64_t value) { return add(JsonValue(value)); }
  bool number_float(double value, const std::string&) { return add(JsonValue(value)); }
  bool string(std::string& value) { return add(JsonValue(std::move(value))); }
  bool binary(nlohmann::json::binary_t&) { return false; }  // not in JSON text
  bool start_object(size_t) { return open(JsonValue(JsonValue::Object())); }
  bool start_array(size_t) { return open(JsonValue(JsonValue::Array())); }

  bool key(std::string& name) {
    open_.back().key = std::move(name);
    return true;
  }

  bool end_object() {
    if (const std::string* twice = duplicate_key(*open_.back().value.as_object()))
      return fail(concat("the key ", quote(*twice), " stands twice in one object of ", file_));
    return close();
  }

  bool end_array() { return close(); }

  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception& e) {
    std::string_view reason = e.what();
    // "[json.exception.parse_error.101] parse error at line 1, column 2: …"
    if (const size_t end = reason.find("] "); end != std::string_view::npos)
      reason.remove_prefix(end + 2);
    const bool cut = reason.size() > kMaxReason;
    return fail(concat(file_, " is not valid JSON near byte ", position, ": ",
                       reason.substr(0, kMaxReason), cut ? "…" : ""));
  }

  Result<JsonValue> take() && {
    if (error_) return std::unexpected(*std::move(error_));
    return std::move(root_);
  }

 private:
  struct Open {
    JsonValue value;  // an array or an object
    std::string key;  // of the member that comes next, in an object
  };

  bool fail(std::string message) {
    error_ = Error{.code = ErrorCode::manifest_invalid,
                   .message = std::move(message),
                   .file = std::string(file_)};
    return false;
  }

  bool count() {
    if (++values_ <= kMaxValues) return true;
    return fail(concat(file_, " holds more than ", kMaxValues, " JSON values"));
  }

  bool open(JsonValue value) {
    if (!count()) return false;
    if (open_.size() == kMaxDepth)
      return fail(concat(file_, " nests deeper than ", kMaxDepth, " levels"));
    open_.push_back({std::move(value), {}});
    return true;
  }

  bool add(JsonValue value) {
    if (!count()) return false;
    place(std::move(value));
    return true;
  }

  bool close() {
    JsonValue value = std::move(open_.back().value);
    open_.pop_back();
    place(std::move(value));
    return true;
  }

  void place(JsonValue value) {
    if (open_.empty()) {
      root_ = std::move(value);
    } else if (auto* array = open_.back().value.as_array()) {
      array->push_back(std::move(value));
    } else {
      open_.back().value.as_object()->emplace_back(std::move(open_.back().key), std::move(value));
    }
  }

  std::string_view file_;
  std::vector<Open> open_;  // outermost first
  JsonValue root_;
  size_t values_ = 0;
  std::optional<Error> error_;
};

// The length in bytes of the well-formed UTF-8 sequence at the start of `text`, or 0 where there is
// none (Unicode 15, table 3-7).
size_t utf8_length(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const auto in = [&](size_t i, uint8_t low, uint8_t high) {
    return i < text.size() && byte(i) >= low && byte(i) <= high;
  };
  const uint8_t first = byte(0);
  if (first < 0x80) return 1;
  if (first >= 0xC2 && first <= 0xDF) return in(1, 0x80, 0xBF) ? 2 : 0;
  if (first >= 0xE0 && first <= 0xEF) {
    const uint8_t low = first == 0xE0 ? 0xA0 : 0x80;   // no overlong forms
    const uint8_t high = first == 0xED ? 0x9F : 0xBF;  // no surrogates
    return in(1, low, high) && in(2, 0x80, 0xBF) ? 3 : 0;
  }
  if (first >= 0xF0 && first <= 0xF4) {
    const uint8_t low = first == 0xF0 ? 0x90 : 0x80;
    const uint8_t high = first == 0xF4 ? 0x8F : 0xBF;
    return in(1, low, high) && in(2, 0x80, 0xBF) && in(3, 0x80, 0xBF) ? 4 : 0;
  }
  return 0;
}

void append_escaped(std::string& out, std::string_view text) {
  constexpr std::string_view kHex = "0123456789abcdef";
  out.push_back('"');
  while (!text.empty()) {
    const size_t length = utf8_length(text);
    const char c = text.front();
    if (length == 0) {
      out.append("\xEF\xBF\xBD");  // U+FFFD
    } else if (length > 1) {
      out.append(text.substr(0, length));
    } else if (c == '"' || c == '\\') {
      out.push_back('\\');
      out.push_back(c);
    } else if (c == '\n') {
      out.append("\\n");
    } else if (static_cast<uint8_t>(c) < 0x20) {
      out.append("\\u00");
      out.push_back(kHex[static_cast<uint8_t>(c) >> 4]);
      out.push_back(kHex[c & 15]);
    } else {
      out.push_back(c);
    }
    text.remove_prefix(length == 0 ? 1 : length);
  }
  out.push_back('"');
}

}  // namespace

const JsonValue* JsonValue::find(std::string_view key) const {
  if (const Object* object = as_object())
    for (const auto& member : *object)
      if (member.first == key) return &member.second;
  return nullptr;
}

std::string JsonValue::describe() const {
  if (as_object() != nullptr) return "an object";
  if (as_array() != nullptr) return "an array";
  if (as_string() != nullptr) return "a string";
  if (as_bool() != nullptr) return concat("the boolean ", dump());
  if (is_null()) return "null";
  return concat("the number ", dump());
}

void JsonValue::write(JsonWriter& out) const {
  if (const Object* object = as_object()) {
    out.begin_object();
    for (const auto& [name, value] : *object) value.write(out.key(name));
    out.end_object();
  } else if (const Array* array = as_array()) {
    out.begin_array();
    for (const JsonValue& value : *array) value.write(out);
    out.end_array();
  } else if (const std::string* text = as_string()) {
    out.string(*text);
  } else if (const bool* flag = as_bool()) {
    out.boolean(*flag);
  } else if (const uint64_t* natural = as_uint()) {
    out.number(*natural);
  } else if (const int64_t* integer = std::get_if<int64_t>(&value_)) {
    out.number(*integer);
  } else if (const double* real = std::get_if<double>(&value_)) {
    out.number(*real);
  } else {
    out.null();
  }
}

std::string JsonValue::dump() const {
  JsonWriter out;
  write(out);
  return std::move(out).take();
}

Result<JsonValue> parse_json(std::string_view text, std::string_view file) {
  // json::sax_parse() would compile the library's readers of binary formats in as well.
  auto input = nlohmann::detail::input_adapter(text.data(), text.data() + text.size());
  nlohmann::detail::parser<nlohmann::json, decltype(input)> parser(std::move(input));
  TreeBuilder builder(file);
  parser.sax_parse(&builder);
  return std::move(builder).take();
}

void JsonWriter::separate() {
  if (needs_comma_) text_.push_back(',');
  needs_comma_ = true;
}

JsonWriter& JsonWriter::begin_object() {
  separate();
  text_.push_back('{');
  needs_comma_ = false;
  return *this;
}

JsonWriter& JsonWriter::end_object() {
  text_.push_back('}');
  needs_comma_ = true;
  return *this;
}

JsonWriter& JsonWriter::begin_array() {
  separate();
  text_.push_back('[');
  needs_comma_ = false;
  return *this;
}

JsonWriter& JsonWriter::end_array() {
  text_.push_back(']');
  needs_comma_ = true;
  return *this;
}

JsonWriter& JsonWriter::key(std::string_view name) {
  separate();
  append_escaped(text_, name);
  text_.push_back(':');
  needs_comma_ = false;
  return *this;
}

JsonWriter& JsonWriter::string(std::string_view value) {
  separate();
  append_escaped(text_, value);
  return *this;
}

JsonWriter& JsonWriter::number(uint64_t value) {
  separate();
  detail::append_piece(text_, value);
  return *this;
}

JsonWriter& JsonWriter::number(int64_t value) {
  separate();
  detail::append_piece(text_, value);
  return *this;
}

JsonWriter& JsonWriter::number(double value) {
  if (!std::isfinite(value)) return null();
  separate();
  append_double(text_, value);
  return *this;
}

JsonWriter& JsonWriter::boolean(bool value) {
  separate();
  text_.append(value ? "true" : "false");
  return *this;
}

JsonWriter& JsonWriter::null() {
  separate();
  text_.append("null");
  return *this;
}

JsonWriter& JsonWriter::raw(std::string_view text) {
  separate();
  text_.append(text);
  return *this;
}

}  // namespace sluice
