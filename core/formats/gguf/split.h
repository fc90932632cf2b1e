// Split GGUF: a model in several files, `name-00001-of-00003.gguf` and so on, each a GGUF file with
// tensors of its own. The first holds the model's metadata; every one says split.no (from 0),
// split.count and split.tensors.count (of all parts together).
// Source: ggml-org/llama.cpp, tools/gguf-split and llama_split_path(); ggml, docs/gguf.md
// ("shards").
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/error.h"
#include "core/formats/manifest.h"

namespace sluice {

// What the name of a part says of it.
struct GgufPartName {
  std::string_view stem;  // what stands before "-00001-of-00003.gguf"
  uint32_t number = 0;    // from 1 to count
  uint32_t count = 0;
};

// Nothing where `path` is not the name of a part.
std::optional<GgufPartName> parse_gguf_part_name(std::string_view path);

std::string gguf_part_path(const GgufPartName& part);

// Of how many parts the model of this file consists by the file's metadata; 1 where it is not split
// (no split.count, or 0 as a merged file has it, or 1), whatever its name. Where it is, the name
// must say the same, since the other parts are found by it; manifest_invalid otherwise.
Result<uint64_t> gguf_part_count(const Manifest& part);

// Joins all parts, in their order, into one manifest with the first one's metadata. Errors:
// manifest_invalid for a tensor that stands twice and for a number of tensors that is not
// split.tensors.count.
Result<Manifest> join_gguf(std::vector<Manifest> parts);

}  // namespace sluice
