// Typed fields of the JSON objects that manifests are made of, with errors that name their place.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/error.h"
#include "core/base/json.h"

namespace sluice {

// Where an object stands, for messages: "record 'lm_head' of tensor-cache.json".
struct Place {
  std::string_view file;
  std::string_view kind;    // "record", "tensor", "shard"
  std::string_view name;    // its name in the file
  std::string_view tensor;  // the name once more where the object is a tensor, else empty
};

// A manifest_invalid at `place`: "<what> of <kind> '<name>' in <file> <fault>".
Error place_error(const Place& place, std::string_view what, std::string_view fault);

// The field `key` of `object`; an error of manifest_invalid where it is absent or of another kind.
Result<uint64_t> uint_field(const JsonValue& object, std::string_view key, const Place& place);
Result<std::string_view> string_field(const JsonValue& object, std::string_view key,
                                      const Place& place);
Result<const JsonValue::Array*> array_field(const JsonValue& object, std::string_view key,
                                            const Place& place);

// An array of non-negative integers, such as a shape.
Result<std::vector<uint64_t>> uints_field(const JsonValue& object, std::string_view key,
                                          const Place& place);

// The JSON text of the object `value`; "{}" where it is absent or null. `key` is its name, for the
// message.
Result<std::string> object_text(const JsonValue* value, std::string_view key,
                                std::string_view file);

}  // namespace sluice
