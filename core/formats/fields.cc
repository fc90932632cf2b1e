#include "core/formats/fields.h"

namespace sluice {
namespace {

Error wrong_kind(const JsonValue* value, std::string_view what, std::string_view expected,
                 const Place& place) {
  return place_error(place, what,
                     value == nullptr ? concat("is missing; expected ", expected)
                                      : concat("is ", value->describe(), "; expected ", expected));
}

constexpr std::string_view kInteger = "a non-negative integer";

}  // namespace

Error place_error(const Place& place, std::string_view what, std::string_view fault) {
  return Error{.code = ErrorCode::manifest_invalid,
               .message = concat(what, " of ", place.kind, " ", quote(place.name), " in ",
                                 place.file, " ", fault),
               .file = std::string(place.file),
               .tensor = std::string(place.tensor)};
}

Result<uint64_t> uint_field(const JsonValue& object, std::string_view key, const Place& place) {
  const JsonValue* value = object.find(key);
  if (value == nullptr || value->as_uint() == nullptr)
    return std::unexpected(wrong_kind(value, key, kInteger, place));
  return *value->as_uint();
}

Result<std::string_view> string_field(const JsonValue& object, std::string_view key,
                                      const Place& place) {
  const JsonValue* value = object.find(key);
  if (value == nullptr || value->as_string() == nullptr)
    return std::unexpected(wrong_kind(value, key, "a string", place));
  return *value->as_string();
}

Result<const JsonValue::Array*> array_field(const JsonValue& object, std::string_view key,
                                            const Place& place) {
  const JsonValue* value = object.find(key);
  if (value == nullptr || value->as_array() == nullptr)
    return std::unexpected(wrong_kind(value, key, "an array", place));
  return value->as_array();
}

Result<std::vector<uint64_t>> uints_field(const JsonValue& object, std::string_view key,
                                          const Place& place) {
  SLUICE_ASSIGN(const JsonValue::Array* array, array_field(object, key, place));
  std::vector<uint64_t> out;
  out.reserve(array->size());
  for (size_t i = 0; i < array->size(); ++i) {
    const JsonValue& value = (*array)[i];
    if (value.as_uint() == nullptr)
      return std::unexpected(wrong_kind(&value, concat(key, "[", i, "]"), kInteger, place));
    out.push_back(*value.as_uint());
  }
  return out;
}

Result<std::string> object_text(const JsonValue* value, std::string_view key,
                                std::string_view file) {
  if (value == nullptr || value->is_null()) return "{}";
  if (value->as_object() != nullptr) return value->dump();
  return std::unexpected(
      Error{.code = ErrorCode::manifest_invalid,
            .message = concat(key, " in ", file, " is ", value->describe(), "; expected an object"),
            .file = std::string(file)});
}

}  // namespace sluice
