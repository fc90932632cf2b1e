// safetensors: 8 bytes of header length (u64, little-endian), a JSON header, then the tensors'
// bytes. Source: huggingface/safetensors, README.md ("Format") and safetensors/src/tensor.rs.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/base/bytes.h"
#include "core/base/error.h"
#include "core/base/json.h"
#include "core/formats/manifest.h"

namespace sluice {

// The reference reader's limit for the JSON header, in bytes.
inline constexpr uint64_t kSafetensorsMaxHeader = 100'000'000;

// Reads one file's header from the file's first bytes. `nbytes` is the whole file's size where
// known. The result has one file, `path`. As in the reference reader, tensors must cover the data
// without holes and, where the size is known, to its end. Errors: manifest_invalid,
// unsupported_dtype, size_mismatch, range_out_of_bounds, truncated.
Result<Prefix<Manifest>> parse_safetensors(Bytes prefix, std::optional<uint64_t> nbytes,
                                           std::string_view path);

// `model.safetensors.index.json`: which file holds which tensor.
struct SafetensorsIndex {
  std::vector<std::string> files;  // in order of first mention, relative to the model's folder
  std::vector<std::pair<std::string, uint32_t>> weight_map;  // tensor name, index into files
  std::string metadata_json = "{}";
};

// `path` is the index's own place; file names in it are relative to its folder.
Result<SafetensorsIndex> parse_safetensors_index(std::string_view json, std::string_view path);

// The same from JSON that is parsed already.
Result<SafetensorsIndex> read_safetensors_index(const JsonValue& root, std::string_view path);

// Joins the headers of an index's files, given in the order of `index.files`, into one manifest,
// and holds it against the index: every tensor of the map must stand in its file and in no other.
// Tensors that only a file knows are kept.
Result<Manifest> join_safetensors(const SafetensorsIndex& index, std::vector<Manifest> parts,
                                  std::string_view path);

}  // namespace sluice
