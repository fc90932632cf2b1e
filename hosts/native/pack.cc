#include "hosts/native/pack.h"

#include <algorithm>
#include <numeric>
#include <tuple>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "hosts/native/cache_writer.h"

namespace sluice {
namespace {

using Json = nlohmann::ordered_json;

// Which type each tensor has in the cache; sets PlanOptions::tensor_dtypes where its bytes have
// another one.
Result<std::vector<CacheTensor>> choose_types(const Manifest& manifest, bool bf16_encode,
                                              PlanOptions& plan_options) {
  SLUICE_ASSIGN(const Plan plan, make_plan(manifest, plan_options));
  std::vector<CacheTensor> types;
  types.reserve(manifest.tensors.size());
  for (uint32_t t = 0; t < manifest.tensors.size(); ++t) {
    const TensorEntry& tensor = manifest.tensors[t];
    const DType dtype = plan.placements[t].dtype;
    if (!cache_can_hold(dtype))
      return std::unexpected(Error{
          .code = ErrorCode::unsupported_dtype,
          .message = concat("tensor ", quote(tensor.name), " of ", manifest.files[tensor.file].path,
                            " is ", dtype_name(dtype), ", which a tensor cache has no type for"),
          .file = manifest.files[tensor.file].path,
          .tensor = tensor.name,
          .hint = dtype_info(dtype).is_quantized
                      ? "convert it with --dtype float16, bfloat16 or float32"
                      : "",
      });
    types.push_back({.name = tensor.name,
                     .shape = tensor.shape,
                     .dtype = dtype,
                     .bf16_encoded = bf16_encode && dtype == DType::f32});
  }
  if (bf16_encode) {
    plan_options.tensor_dtypes.resize(types.size());
    for (size_t t = 0; t < types.size(); ++t)
      if (types[t].bf16_encoded) plan_options.tensor_dtypes[t] = DType::bf16;
  }
  return types;
}

// Tensors in the order in which a load gives them.
std::vector<uint32_t> load_order(const Manifest& manifest) {
  std::vector<uint32_t> order(manifest.tensors.size());
  std::iota(order.begin(), order.end(), 0u);
  std::ranges::sort(order, {}, [&](uint32_t t) {
    return std::tuple(manifest.tensors[t].file, manifest.tensors[t].offset, t);
  });
  return order;
}

Status check_names(const Manifest& manifest) {
  for (const TensorEntry& tensor : manifest.tensors) {
    try {
      (void)Json(tensor.name).dump();
    } catch (const Json::exception&) {
      return std::unexpected(Error{
          .code = ErrorCode::manifest_invalid,
          .message =
              concat("the tensor name ", quote(tensor.name), " of ",
                     manifest.files[tensor.file].path, " is not UTF-8, which JSON cannot hold"),
          .file = manifest.files[tensor.file].path,
          .tensor = tensor.name,
      });
    }
  }
  return {};
}

// Passes the tensors' bytes on to their shards.
class ShardSink : public Sink {
 public:
  ShardSink(const CacheLayout& layout, ShardWriter& writer)
      : shard_of_(layout.tensors.size()), writer_(writer) {
    for (uint32_t s = 0; s < layout.shards.size(); ++s)
      for (const CacheRecord& record : layout.shards[s].records) shard_of_[record.tensor] = s;
  }

  Status write(uint32_t tensor, Bytes bytes) override {
    return writer_.write(shard_of_[tensor], bytes);
  }

 private:
  std::vector<uint32_t> shard_of_;
  ShardWriter& writer_;
};

}  // namespace

Result<PackReport> pack_model(const Model& model, const std::string& output,
                              const PackOptions& options, const LoadControl& control) {
  if (options.shard_bytes == 0)
    return std::unexpected(
        Error{.code = ErrorCode::invalid_argument, .message = "the shard size is 0"});
  const Manifest& manifest = model.manifest;
  SLUICE_TRY(check_names(manifest));
  PlanOptions plan_options = native_plan_options(options.budget_bytes, options.dtype);
  CacheLayout layout{.metadata_json = manifest.metadata_json};
  SLUICE_ASSIGN(layout.tensors, choose_types(manifest, options.bf16_encode, plan_options));
  SLUICE_ASSIGN(const Plan plan, make_plan(manifest, plan_options));
  for (size_t t = 0; t < layout.tensors.size(); ++t)
    layout.tensors[t].nbytes = plan.placements[t].nbytes;
  layout.shards = cut_into_shards(layout.tensors, load_order(manifest), options.shard_bytes);

  Progress progress;
  const auto produce = [&](ShardWriter& writer) -> Status {
    ShardSink sink(layout, writer);
    SLUICE_ASSIGN(progress, run_load(model, plan, plan_options, sink, control));
    return {};
  };
  SLUICE_ASSIGN(const CacheLayout written,
                write_cache(layout, output, options.force, produce, control.stop));
  PackReport report{.tensors = static_cast<uint32_t>(written.tensors.size()),
                    .shards = static_cast<uint32_t>(written.shards.size()),
                    .source_bytes = progress.source_bytes};
  for (const CacheShard& shard : written.shards) report.output_bytes += shard.nbytes;
  return report;
}

}  // namespace sluice
