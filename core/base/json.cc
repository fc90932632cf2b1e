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

void append_double(std::string& out, double value) {
  // The library brings a shortest-digits printer of 3 kB; std::to_chars and printf would each add
  // more than that to the wasm.
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

// The grammar of JSON over the library's lexer. The library's own parser calls printf for its
// messages, which is 14 kB of wasm. Nothing here recurses; the limit on depth is for those who walk
// the tree, its destructor first.
class Parser {
 public:
  Parser(std::string_view text, std::string_view file)
      : lexer_(nlohmann::detail::input_adapter(text.data(), text.data() + text.size())),
        file_(file) {}

  Result<JsonValue> parse() {
    for (next();;) {
      // The token is where a value begins.
      if (token_ == Token::begin_object) {
        SLUICE_TRY(open(JsonValue(JsonValue::Object())));
        next();
        if (token_ != Token::end_object) {
          SLUICE_TRY(read_key());
          continue;
        }
        close();
      } else if (token_ == Token::begin_array) {
        SLUICE_TRY(open(JsonValue(JsonValue::Array())));
        next();
        if (token_ != Token::end_array) continue;
        close();
      } else {
        SLUICE_TRY(read_scalar());
      }
      // A value is complete: either its surroundings are too, or another one follows.
      SLUICE_ASSIGN(const bool all_closed, leave_value());
      if (all_closed) return std::move(root_);
    }
  }

 private:
  using Input = decltype(nlohmann::detail::input_adapter(static_cast<const char*>(nullptr),
                                                         static_cast<const char*>(nullptr)));
  using Lexer = nlohmann::detail::lexer<nlohmann::json, Input>;
  using Token = Lexer::token_type;

  struct Open {
    JsonValue value;  // an array or an object
    std::string key;  // of the member that comes next, in an object
  };

  void next() { token_ = lexer_.scan(); }

  Status fail(std::string message) const {
    return std::unexpected(Error{.code = ErrorCode::manifest_invalid,
                                 .message = std::move(message),
                                 .file = std::string(file_)});
  }

  Status fail_syntax(std::string_view expected) const {
    const std::string reason = token_ == Token::parse_error ? lexer_.get_error_message()
                               : token_ == Token::end_of_input
                                   ? concat("it ends; expected ", expected)
                                   : concat("expected ", expected);
    return fail(concat(file_, " is not valid JSON near byte ",
                       lexer_.get_position().chars_read_total, ": ", reason));
  }

  // At a key: passes it and its ':'.
  Status read_key() {
    if (token_ != Token::value_string) return fail_syntax("a key or '}'");
    open_.back().key = std::move(lexer_.get_string());
    next();
    if (token_ != Token::name_separator) return fail_syntax("':'");
    next();
    return {};
  }

  Status read_scalar() {
    SLUICE_TRY(count());
    switch (token_) {
      case Token::literal_null:
        place(JsonValue());
        return {};
      case Token::literal_true:
        place(JsonValue(true));
        return {};
      case Token::literal_false:
        place(JsonValue(false));
        return {};
      case Token::value_string:
        place(JsonValue(std::move(lexer_.get_string())));
        return {};
      case Token::value_unsigned:
        place(JsonValue(uint64_t{lexer_.get_number_unsigned()}));
        return {};
      case Token::value_integer:
        place(JsonValue(int64_t{lexer_.get_number_integer()}));
        return {};
      case Token::value_float:
        if (!std::isfinite(lexer_.get_number_float()))
          return fail_syntax("a number without overflow");
        place(JsonValue(double{lexer_.get_number_float()}));
        return {};
      default:
        return fail_syntax("a value");
    }
  }

  // Behind a value: closes what ends there. Returns true at the end of the text, else false with
  // the token at the next value.
  Result<bool> leave_value() {
    for (next(); !open_.empty(); next()) {
      const JsonValue::Object* object = open_.back().value.as_object();
      if (token_ == Token::value_separator) {
        next();
        if (object != nullptr) SLUICE_TRY(read_key());
        return false;
      }
      if (token_ != (object != nullptr ? Token::end_object : Token::end_array))
        SLUICE_TRY(fail_syntax(object != nullptr ? "',' or '}'" : "',' or ']'"));
      if (object != nullptr)
        if (const std::string* twice = duplicate_key(*object))
          SLUICE_TRY(
              fail(concat("the key ", quote(*twice), " stands twice in one object of ", file_)));
      close();
    }
    if (token_ != Token::end_of_input) SLUICE_TRY(fail_syntax("the end of the text"));
    return true;
  }

  Status count() {
    if (++values_ <= kMaxValues) return {};
    return fail(concat(file_, " holds more than ", kMaxValues, " JSON values"));
  }

  Status open(JsonValue value) {
    SLUICE_TRY(count());
    if (open_.size() == kMaxDepth)
      return fail(concat(file_, " nests deeper than ", kMaxDepth, " levels"));
    open_.push_back({std::move(value), {}});
    return {};
  }

  void close() {
    JsonValue value = std::move(open_.back().value);
    open_.pop_back();
    place(std::move(value));
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

  Lexer lexer_;
  Token token_ = Token::uninitialized;
  std::string_view file_;
  std::vector<Open> open_;  // outermost first
  JsonValue root_;
  size_t values_ = 0;
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
  return Parser(text, file).parse();
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
  Piece(value).append_to(text_);
  return *this;
}

JsonWriter& JsonWriter::number(int64_t value) {
  separate();
  Piece(value).append_to(text_);
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
