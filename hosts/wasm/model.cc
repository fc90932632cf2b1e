#include "hosts/wasm/model.h"

#include <utility>

#include "core/base/json.h"

namespace sluice::wasm {
namespace {

Error bad_option(std::string_view name, const JsonValue& value, std::string_view expected) {
  return {
      .code = ErrorCode::invalid_argument,
      .message = concat("option ", name, " is ",
                        value.as_string() != nullptr ? quote(*value.as_string()) : value.describe(),
                        "; expected ", expected)};
}

void write_manifest(JsonWriter& json, const Manifest& manifest) {
  json.begin_object();
  json.key("format").string(manifest.format);
  json.key("metadata").raw(manifest.metadata_json);
  json.key("files").begin_array();
  for (const FileEntry& file : manifest.files) {
    json.begin_object().key("path").string(file.path);
    if (file.nbytes) json.key("nbytes").number(*file.nbytes);
    if (!file.md5.empty()) json.key("md5").string(file.md5);
    json.end_object();
  }
  json.end_array();
  json.key("tensors").begin_array();
  for (const TensorEntry& tensor : manifest.tensors) {
    const bool packed = tensor.encoding == Encoding::f32_to_bf16;
    json.begin_object();
    json.key("name").string(tensor.name);
    json.key("dtype").string(dtype_name(tensor.dtype));
    json.key("storedDtype").string(dtype_name(packed ? DType::bf16 : tensor.dtype));
    json.key("shape").begin_array();
    for (const uint64_t extent : tensor.shape) json.number(extent);
    json.end_array();
    json.key("storedBytes").number(tensor.nbytes);
    json.key("file").number(uint64_t{tensor.file});
    json.key("offset").number(tensor.offset);
    json.end_object();
  }
  json.end_array();
  json.end_object();
}

void write_plan(JsonWriter& json, const Plan& plan) {
  json.begin_object();
  json.key("placements").begin_array();
  for (const Placement& placement : plan.placements) {
    if (placement.buffer == kNoBuffer) {
      json.null();
      continue;
    }
    json.begin_object();
    json.key("dtype").string(dtype_name(placement.dtype));
    json.key("nbytes").number(placement.nbytes);
    json.key("buffer").number(uint64_t{placement.buffer});
    json.key("offset").number(placement.offset);
    if (placement.on_device) json.key("onDevice").boolean(true);
    json.end_object();
  }
  json.end_array();
  json.key("buffers").begin_array();
  for (const BufferSpec& buffer : plan.buffers) {
    json.begin_object();
    json.key("nbytes").number(buffer.nbytes);
    json.key("tensor").number(uint64_t{buffer.tensor});
    json.end_object();
  }
  json.end_array();
  json.key("shares").begin_object();
  json.key("connections").number(uint64_t{plan.shares.connections});
  json.key("chunkBytes").number(plan.shares.chunk_bytes);
  json.key("slots").number(uint64_t{plan.shares.slots});
  json.key("slotBytes").number(plan.shares.slot_bytes);
  json.key("scratchBytes").number(plan.shares.scratch_bytes);
  json.end_object();
  json.key("sourceBytes").number(plan.source_bytes);
  json.key("outputBytes").number(plan.output_bytes);
  json.key("largestBuffer").number(plan.largest_buffer);
  json.end_object();
}

}  // namespace

Result<PlanOptions> parse_options(std::string_view text, size_t tensor_count) {
  SLUICE_ASSIGN(const JsonValue options, parse_json(text, "options"));
  if (options.as_object() == nullptr)
    return std::unexpected(bad_option("list", options, "an object"));
  PlanOptions out;
  for (const auto& [name, value] : *options.as_object()) {
    bool* flag = name == "staged"           ? &out.staged
                 : name == "splitTensors"   ? &out.split_tensors
                 : name == "expandOnDevice" ? &out.expand_on_device
                                            : nullptr;
    if (flag != nullptr) {
      if (value.as_bool() == nullptr)
        return std::unexpected(bad_option(name, value, "true or false"));
      *flag = *value.as_bool();
    } else if (name == "dtype") {
      const auto dtype = value.as_string() ? dtype_from_name(*value.as_string()) : std::nullopt;
      if (!dtype)
        return std::unexpected(bad_option(name, value, "the name of a dtype, like \"float16\""));
      out.dtype = dtype;
    } else if (name == "selected") {
      if (value.as_array() == nullptr)
        return std::unexpected(bad_option(name, value, "a list of indices"));
      out.selected.assign(tensor_count, false);
      for (const JsonValue& index : *value.as_array()) {
        if (index.as_uint() == nullptr || *index.as_uint() >= tensor_count)
          return std::unexpected(
              bad_option("selected", index, concat("an index below ", tensor_count)));
        out.selected[static_cast<size_t>(*index.as_uint())] = true;
      }
    } else {
      uint64_t* bytes = name == "budgetBytes"       ? &out.budget_bytes
                        : name == "maxSlotBytes"    ? &out.max_slot_bytes
                        : name == "maxSegmentBytes" ? &out.max_segment_bytes
                        : name == "shareBelowBytes" ? &out.share_below_bytes
                                                    : nullptr;
      uint32_t* count = name == "connections"     ? &out.connections
                        : name == "slotCopies"    ? &out.slot_copies
                        : name == "copiedSlots"   ? &out.copied_slots
                        : name == "allocateAhead" ? &out.allocate_ahead
                                                  : nullptr;
      const uint64_t least = count == &out.allocate_ahead ? 0 : 1;
      if (bytes == nullptr && count == nullptr)
        return std::unexpected(Error{.code = ErrorCode::invalid_argument,
                                     .message = concat("there is no option ", name)});
      if (value.as_uint() == nullptr || *value.as_uint() > (1ull << 53))
        return std::unexpected(bad_option(name, value, "a number of bytes"));
      if (bytes != nullptr) {
        *bytes = *value.as_uint();
      } else if (*value.as_uint() < least || *value.as_uint() > 64) {
        return std::unexpected(bad_option(name, value, concat("a number from ", least, " to 64")));
      } else {
        *count = static_cast<uint32_t>(*value.as_uint());
      }
    }
  }
  return out;
}

Result<const Manifest*> Model::manifest() {
  if (!manifest_) {
    if (!opener_.done())
      return std::unexpected(
          Error{.code = ErrorCode::invalid_argument, .message = "the model is not open yet"});
    manifest_ = opener_.take_manifest();
  }
  return &*manifest_;
}

Result<std::string> Model::describe() {
  SLUICE_ASSIGN(const Manifest* manifest, this->manifest());
  JsonWriter json;
  write_manifest(json, *manifest);
  return std::move(json).take();
}

Result<std::string> Model::plan(std::string_view options_json) {
  if (loader_)
    return std::unexpected(
        Error{.code = ErrorCode::invalid_argument, .message = "the model was planned already"});
  SLUICE_ASSIGN(const Manifest* manifest, this->manifest());
  SLUICE_ASSIGN(const PlanOptions options, parse_options(options_json, manifest->tensors.size()));
  SLUICE_ASSIGN(Plan plan, make_plan(*manifest, options));
  JsonWriter json;
  write_plan(json, plan);
  loader_.emplace(*std::exchange(manifest_, std::nullopt), std::move(plan), options);
  return std::move(json).take();
}

}  // namespace sluice::wasm
