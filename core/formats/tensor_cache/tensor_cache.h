// TVM's tensor cache: `tensor-cache.json`, in older artifacts `ndarray-cache.json`.
// Layout: {metadata, records: [{dataPath, format: "raw-shard", nbytes, md5sum?,
//   records: [{name, shape, dtype, format, nbytes, byteOffset}]}]}
// Source: apache/tvm, web/src/tensor.ts and python/tvm/contrib/tvmjs.py.
#pragma once

#include <string_view>

#include "core/base/error.h"
#include "core/base/json.h"
#include "core/formats/manifest.h"

namespace sluice {

// Reads a whole manifest. `path` is its place in the model's folder: a `dataPath` is relative to
// it. A record's format "f32-to-bf16" means Encoding::f32_to_bf16 for dtype float32 and 2n bytes;
// with 4n bytes it is stored raw; any other size is an error. With any other dtype it is stored
// raw. Besides TVM's dtype names, DTypeInfo's own are known, GGUF blocks included. Errors:
// manifest_invalid, unsupported_dtype, size_mismatch, range_out_of_bounds.
Result<Manifest> parse_tensor_cache(std::string_view json, std::string_view path);

// The same from JSON that is parsed already.
Result<Manifest> read_tensor_cache(const JsonValue& root, std::string_view path);

}  // namespace sluice
