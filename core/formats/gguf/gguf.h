// GGUF versions 2 and 3: magic, counts, key-value metadata, tensor directory, aligned tensor data.
// Source: ggml-org/ggml, docs/gguf.md; block sizes in src/ggml-common.h.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "core/base/bytes.h"
#include "core/base/error.h"
#include "core/formats/manifest.h"

namespace sluice {

// The longest header that is read, in bytes: vocabularies of some MB are normal.
inline constexpr uint64_t kGgufMaxHeader = 256ull << 20;

// Reads the header from the file's first bytes. `nbytes` is the whole file's size where known. The
// result has one file, `path`; shapes are reversed from GGUF's order (innermost first), so that the
// last dimension is the contiguous one. Scalars and strings of the metadata go to metadata_json; of
// an array only its element type and length, since vocabularies are long. Errors: manifest_invalid,
// unsupported_dtype, size_mismatch, range_out_of_bounds, truncated.
Result<Prefix<Manifest>> parse_gguf(Bytes prefix, std::optional<uint64_t> nbytes,
                                    std::string_view path);

}  // namespace sluice
