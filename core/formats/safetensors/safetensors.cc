#include "core/formats/safetensors/safetensors.h"

#include <algorithm>
#include <array>
#include <map>

#include "core/base/checked.h"
#include "core/base/path.h"
#include "core/formats/fields.h"

namespace sluice {
namespace {

constexpr uint64_t kLengthField = 8;  // bytes before the header

struct NamedDType {
  std::string_view name;
  DType dtype;
};
constexpr std::array<NamedDType, 20> kDTypes = {{
    {"BOOL", DType::boolean},
    {"U8", DType::u8},
    {"I8", DType::i8},
    {"U16", DType::u16},
    {"I16", DType::i16},
    {"U32", DType::u32},
    {"I32", DType::i32},
    {"U64", DType::u64},
    {"I64", DType::i64},
    {"F16", DType::f16},
    {"BF16", DType::bf16},
    {"F32", DType::f32},
    {"F64", DType::f64},
    {"C64", DType::c64},
    {"F8_E4M3", DType::f8_e4m3fn},
    {"F8_E4M3FNUZ", DType::f8_e4m3fnuz},
    {"F8_E5M2", DType::f8_e5m2},
    {"F8_E5M2FNUZ", DType::f8_e5m2fnuz},
    {"F8_E8M0", DType::f8_e8m0fnu},
    {"F4", DType::f4_e2m1fn},
}};

Error file_error(ErrorCode code, std::string_view path, std::string message) {
  return Error{.code = code, .message = std::move(message), .file = std::string(path)};
}

Error truncated(std::string_view path, std::string_view what, uint64_t needs, uint64_t has) {
  Error error =
      file_error(ErrorCode::truncated, path,
                 concat(path, " has ", has, " bytes, but its ", what, " ends at byte ", needs));
  error.expected = needs;
  error.actual = has;
  error.hint = "download the file again";
  return error;
}

// `data_start` is where data_offsets count from, in bytes of the file.
Result<TensorEntry> read_tensor(std::string_view name, const JsonValue& value, uint64_t data_start,
                                std::string_view path) {
  const Place place{.file = path, .kind = "tensor", .name = name, .tensor = name};
  if (value.as_object() == nullptr)
    return std::unexpected(
        place_error(place, "the entry", concat("is ", value.describe(), "; expected an object")));
  TensorEntry out{.name = std::string(name)};
  SLUICE_ASSIGN(const std::string_view dtype_text, string_field(value, "dtype", place));
  const auto dtype = std::ranges::find(kDTypes, dtype_text, &NamedDType::name);
  if (dtype == kDTypes.end()) {
    Error error =
        place_error(place, "dtype", concat("is ", quote(dtype_text), ", which is not known here"));
    error.code = ErrorCode::unsupported_dtype;
    return std::unexpected(std::move(error));
  }
  out.dtype = dtype->dtype;
  SLUICE_ASSIGN(out.shape, uints_field(value, "shape", place));
  SLUICE_ASSIGN(const std::vector<uint64_t> range, uints_field(value, "data_offsets", place));
  if (range.size() != 2 || range[0] > range[1])
    return std::unexpected(place_error(
        place, "data_offsets",
        concat("is ", shape_text(range), "; expected two numbers [begin, end] in order")));
  if (out.dtype == DType::f4_e2m1fn && checked_product(out.shape).value_or(0) % 2 != 0)
    return std::unexpected(place_error(
        place, "shape", concat("is ", shape_text(out.shape), ", an odd number of 4-bit elements")));
  const auto offset = checked_add(data_start, range[0]);
  if (!offset || !checked_add(data_start, range[1])) {
    Error error = place_error(place, "data_offsets",
                              concat("is ", shape_text(range), ", which overflows 64 bits"));
    error.code = ErrorCode::range_out_of_bounds;
    return std::unexpected(std::move(error));
  }
  out.offset = *offset;
  out.nbytes = range[1] - range[0];
  return out;
}

Status check_metadata(const JsonValue& metadata, std::string_view path) {
  const Place place{.file = path, .kind = "entry", .name = "__metadata__", .tensor = {}};
  for (const auto& [key, value] : *metadata.as_object())
    if (value.as_string() == nullptr)
      return std::unexpected(
          place_error(place, quote(key), concat("is ", value.describe(), "; expected a string")));
  return {};
}

// Holds the tensors against the rule of the reference reader: sorted by offset, each begins where
// the one before ends. Returns the end of the last.
Result<uint64_t> check_coverage(const Manifest& manifest, uint64_t data_start,
                                std::string_view path) {
  uint64_t end = data_start;
  for (const TensorEntry* tensor : in_file_order(manifest)) {
    if (tensor->offset != end) {
      Error error = file_error(
          ErrorCode::manifest_invalid, path,
          concat("tensor ", quote(tensor->name), " of ", path, " begins at byte ",
                 tensor->offset - data_start, " of the data, but the one before ends at ",
                 end - data_start, tensor->offset > end ? " (a hole)" : " (an overlap)"));
      error.tensor = tensor->name;
      error.expected = end - data_start;
      error.actual = tensor->offset - data_start;
      return std::unexpected(std::move(error));
    }
    end = tensor->offset + tensor->nbytes;
  }
  return end;
}

}  // namespace

Result<Prefix<Manifest>> parse_safetensors(Bytes prefix, std::optional<uint64_t> nbytes,
                                           std::string_view path) {
  ByteReader reader(prefix);
  const auto header_length = reader.read<uint64_t>();
  if (!header_length) {
    if (nbytes && *nbytes < kLengthField)
      return std::unexpected(truncated(path, "length field", kLengthField, *nbytes));
    return Prefix<Manifest>::need(kLengthField);
  }
  if (*header_length > kSafetensorsMaxHeader) {
    Error error = file_error(ErrorCode::manifest_invalid, path,
                             concat(path, " claims a safetensors header of ", *header_length,
                                    " bytes; the limit is ", kSafetensorsMaxHeader));
    error.actual = header_length;
    error.expected = kSafetensorsMaxHeader;
    error.hint = foreign_file_hint(prefix);
    return std::unexpected(std::move(error));
  }
  const uint64_t data_start = kLengthField + *header_length;
  if (nbytes && data_start > *nbytes)
    return std::unexpected(truncated(path, "header", data_start, *nbytes));
  const auto header = reader.take(*header_length);
  if (!header) return Prefix<Manifest>::need(data_start);
  if (header->empty() || header->front() != std::byte{'{'})
    return std::unexpected(
        file_error(ErrorCode::manifest_invalid, path,
                   concat("the safetensors header of ", path, ", ", *header_length,
                          " bytes long, does not begin with '{'")));

  SLUICE_ASSIGN(const JsonValue root, parse_json(as_text(*header), path));
  Manifest out{.format = "safetensors"};
  out.tensors.reserve(root.as_object()->size());
  for (const auto& [name, value] : *root.as_object()) {
    if (name == "__metadata__") {
      SLUICE_ASSIGN(out.metadata_json, object_text(&value, name, path));
      if (!value.is_null()) SLUICE_TRY(check_metadata(value, path));
      continue;
    }
    SLUICE_ASSIGN(TensorEntry tensor, read_tensor(name, value, data_start, path));
    out.tensors.push_back(std::move(tensor));
  }
  out.files.push_back({.path = std::string(path)});
  SLUICE_TRY(validate(out, path));
  SLUICE_ASSIGN(const uint64_t end, check_coverage(out, data_start, path));
  if (nbytes && end > *nbytes) return std::unexpected(truncated(path, "last tensor", end, *nbytes));
  if (nbytes && end < *nbytes) {
    Error error = file_error(ErrorCode::size_mismatch, path,
                             concat(path, " has ", *nbytes, " bytes, but its last tensor ends at ",
                                    end, ": ", *nbytes - end, " bytes belong to no tensor"));
    error.expected = end;
    error.actual = nbytes;
    return std::unexpected(std::move(error));
  }
  out.files[0].nbytes = end;
  return Prefix<Manifest>::done(std::move(out));
}

Result<SafetensorsIndex> parse_safetensors_index(std::string_view json, std::string_view path) {
  SLUICE_ASSIGN(const JsonValue root, parse_json(json, path));
  return read_safetensors_index(root, path);
}

Result<SafetensorsIndex> read_safetensors_index(const JsonValue& root, std::string_view path) {
  const JsonValue* map = root.find("weight_map");
  if (map == nullptr || map->as_object() == nullptr)
    return std::unexpected(
        file_error(ErrorCode::manifest_invalid, path,
                   concat("weight_map in ", path, map == nullptr ? " is missing" : " is ",
                          map == nullptr ? "" : map->describe(), "; expected an object")));
  SafetensorsIndex out;
  SLUICE_ASSIGN(out.metadata_json, object_text(root.find("metadata"), "metadata", path));
  out.weight_map.reserve(map->as_object()->size());
  std::map<std::string_view, uint32_t> files;
  for (const auto& [tensor, value] : *map->as_object()) {
    const std::string* file = value.as_string();
    if (file == nullptr)
      return std::unexpected(
          place_error({.file = path, .kind = "tensor", .name = tensor, .tensor = tensor},
                      "the file", concat("is ", value.describe(), "; expected a string")));
    const auto [known, fresh] = files.emplace(*file, static_cast<uint32_t>(out.files.size()));
    if (fresh) {
      SLUICE_TRY(check_relative_path(*file, path));
      out.files.push_back(concat(folder_of(path), *file));
    }
    out.weight_map.emplace_back(tensor, known->second);
  }
  return out;
}

Result<Manifest> join_safetensors(const SafetensorsIndex& index, std::vector<Manifest> parts,
                                  std::string_view path) {
  if (parts.size() != index.files.size())
    return std::unexpected(file_error(ErrorCode::internal, path,
                                      concat(path, " names ", index.files.size(), " files; ",
                                             parts.size(), " headers were given")));
  for (size_t i = 0; i < parts.size(); ++i) parts[i].files[0].path = index.files[i];
  Manifest joined{.format = "safetensors", .metadata_json = index.metadata_json};
  SLUICE_ASSIGN(Manifest out, join_files(std::move(joined), std::move(parts)));
  std::map<std::string_view, uint32_t> homes;
  for (const TensorEntry& tensor : out.tensors) homes.emplace(tensor.name, tensor.file);
  for (const auto& [name, file] : index.weight_map) {
    const auto home = homes.find(name);
    if (home != homes.end() && home->second == file) continue;
    Error error = file_error(
        ErrorCode::manifest_invalid, path,
        concat(path, " places tensor ", quote(name), " in ", out.files[file].path,
               home == homes.end() ? std::string(", which does not hold it")
                                   : concat(", but it stands in ", out.files[home->second].path)));
    error.tensor = name;
    return std::unexpected(std::move(error));
  }
  SLUICE_TRY(validate(out, path));
  return out;
}

}  // namespace sluice
