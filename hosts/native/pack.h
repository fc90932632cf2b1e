// From any model to a tensor cache, as TVM writes it: params_shard_N.bin and tensor-cache.json.
// Source of the layout: apache/tvm, python/tvm/contrib/tvmjs.py (dump_tensor_cache).
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "core/base/error.h"
#include "hosts/native/file_host.h"

namespace sluice {

struct PackOptions {
  // Convert floating-point and quantised tensors to this type; nothing: keep every stored type.
  std::optional<DType> dtype;
  // Store float32 as its upper halves, rounded (record format f32-to-bf16). Loses precision.
  bool bf16_encode = false;
  // A shard is closed before it would exceed this; a larger tensor has a shard of its own. Bytes.
  uint64_t shard_bytes = 32ull << 20;
  uint64_t budget_bytes = 64ull << 20;
  // Replace another model at the same place.
  bool force = false;
};

struct PackReport {
  uint32_t tensors = 0;
  uint32_t shards = 0;
  uint64_t source_bytes = 0;  // tensor bytes read
  uint64_t output_bytes = 0;  // bytes of all shards
};

// Writes `model` to the folder `output`, which is made if need be. Tensors stand in the order of
// the source's files. Memory is bounded by the budget, whatever a tensor's size.
//
// Everything is written to a temporary folder inside `output` and synced, then renamed, the
// manifest last; after an error nothing of it remains, and without `force` what was there stands
// as it was. A model that is there already and equal is written again.
//
// Errors: unsupported_dtype for a tensor that a tensor cache cannot express; invalid_argument
// where another model stands at `output`; manifest_invalid for a name that JSON cannot hold; those
// of make_plan() and run_load(); io.
Result<PackReport> pack_model(const Model& model, const std::string& output,
                              const PackOptions& options, const LoadControl& control = {});

}  // namespace sluice
