#include "core/formats/tensor_cache/tensor_cache.h"

#include <map>

#include "core/base/path.h"
#include "core/formats/fields.h"

namespace sluice {
namespace {

// Names that TVM writes, besides those of DTypeInfo: the float8 types were renamed in 2024.
std::optional<DType> tvm_dtype(std::string_view name) {
  if (name == "e4m3_float8") return DType::f8_e4m3fn;
  if (name == "e5m2_float8") return DType::f8_e5m2;
  if (name == "uint1") return DType::boolean;
  return dtype_from_name(name);
}

Result<std::string> read_md5(const JsonValue& shard, const Place& place) {
  if (shard.find("md5sum") == nullptr) return std::string();
  SLUICE_ASSIGN(const std::string_view text, string_field(shard, "md5sum", place));
  std::string out(text);
  for (char& c : out) {
    if (c >= 'A' && c <= 'F') c = static_cast<char>(c - 'A' + 'a');
    const bool hex = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
    if (!hex) out.clear();
    if (!hex) break;
  }
  if (out.size() != 32)
    return std::unexpected(place_error(
        place, "md5sum", concat("is ", quote(text), "; expected 32 hexadecimal digits")));
  return out;
}

Result<TensorEntry> read_record(const JsonValue& record, uint32_t file, std::string_view path,
                                const Place& shard) {
  SLUICE_ASSIGN(const std::string_view name, string_field(record, "name", shard));
  const Place place{.file = path, .kind = "record", .name = name, .tensor = name};
  TensorEntry out{.name = std::string(name), .file = file};
  SLUICE_ASSIGN(out.shape, uints_field(record, "shape", place));
  SLUICE_ASSIGN(out.offset, uint_field(record, "byteOffset", place));
  SLUICE_ASSIGN(out.nbytes, uint_field(record, "nbytes", place));

  SLUICE_ASSIGN(const std::string_view dtype_text, string_field(record, "dtype", place));
  const auto dtype = tvm_dtype(dtype_text);
  if (!dtype) {
    Error error =
        place_error(place, "dtype", concat("is ", quote(dtype_text), ", which is not known here"));
    error.code = ErrorCode::unsupported_dtype;
    return std::unexpected(std::move(error));
  }
  out.dtype = *dtype;

  std::string_view format = "raw";
  if (record.find("format") != nullptr) {
    SLUICE_ASSIGN(format, string_field(record, "format", place));
  }
  if (format != "raw" && format != "f32-to-bf16")
    return std::unexpected(place_error(
        place, "format", concat("is ", quote(format), "; expected 'raw' or 'f32-to-bf16'")));
  // TVM writes "f32-to-bf16" on every record of such a cache; it means something only for float32,
  // and published artifacts carry it on float32 records that were never packed.
  if (format == "f32-to-bf16" && out.dtype == DType::f32) {
    const auto packed = dense_bytes(out.shape, DType::bf16);
    const auto native = dense_bytes(out.shape, DType::f32);
    if (packed == out.nbytes) {
      out.encoding = Encoding::f32_to_bf16;
    } else if (packed && native && native != out.nbytes) {
      Error error = place_error(place, "nbytes",
                                concat("is ", out.nbytes, "; ", shape_text(out.shape),
                                       " of float32 as f32-to-bf16 takes ", *packed,
                                       " bytes packed or ", *native, " unpacked"));
      error.code = ErrorCode::size_mismatch;
      error.expected = packed;
      error.actual = out.nbytes;
      return std::unexpected(std::move(error));
    }
  }
  return out;
}

}  // namespace

Result<Manifest> parse_tensor_cache(std::string_view json, std::string_view path) {
  SLUICE_ASSIGN(const JsonValue root, parse_json(json, path));
  return read_tensor_cache(root, path);
}

Result<Manifest> read_tensor_cache(const JsonValue& root, std::string_view path) {
  const Place top{.file = path, .kind = "manifest", .name = file_name_of(path), .tensor = {}};
  SLUICE_ASSIGN(const JsonValue::Array* shards, array_field(root, "records", top));
  Manifest out{.format = "tensor-cache"};
  SLUICE_ASSIGN(out.metadata_json, object_text(root.find("metadata"), "metadata", path));

  std::map<std::string_view, uint32_t> paths;
  for (const JsonValue& shard : *shards) {
    SLUICE_ASSIGN(const std::string_view data_path, string_field(shard, "dataPath", top));
    SLUICE_TRY(check_relative_path(data_path, path));
    const Place place{.file = path, .kind = "shard", .name = data_path, .tensor = {}};
    if (!paths.emplace(data_path, 0).second)
      return std::unexpected(place_error(place, "dataPath", "stands in two shards"));
    SLUICE_ASSIGN(const std::string_view format, string_field(shard, "format", place));
    if (format != "raw-shard")
      return std::unexpected(
          place_error(place, "format", concat("is ", quote(format), "; expected 'raw-shard'")));

    const auto file = static_cast<uint32_t>(out.files.size());
    FileEntry entry{.path = concat(folder_of(path), data_path)};
    SLUICE_ASSIGN(entry.nbytes, uint_field(shard, "nbytes", place));
    SLUICE_ASSIGN(entry.md5, read_md5(shard, place));
    out.files.push_back(std::move(entry));

    SLUICE_ASSIGN(const JsonValue::Array* records, array_field(shard, "records", place));
    for (const JsonValue& record : *records) {
      SLUICE_ASSIGN(TensorEntry tensor, read_record(record, file, path, place));
      out.tensors.push_back(std::move(tensor));
    }
  }
  SLUICE_TRY(validate(out, path));
  return out;
}

}  // namespace sluice
