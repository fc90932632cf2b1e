#include "hosts/native/synth.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <memory>
#include <numeric>
#include <unordered_set>
#include <utility>

#include <nlohmann/json.hpp>

#include "core/base/checked.h"
#include "core/base/json.h"
#include "core/formats/open.h"
#include "core/formats/tensor_cache/tensor_cache.h"
#include "hosts/native/file.h"
#include "hosts/native/synth_shapes.h"

namespace sluice {
namespace {

constexpr uint64_t kWriteBlock = 1ull << 20;
// A manifest of more could not be read: parse_json() allows 4,194,304 values, and a tensor has 12
constexpr uint64_t kMaxTensors = 300'000;
// Of all tensors together: leaves room for sums of offsets
constexpr uint64_t kMaxBytes = 1ull << 63;

// In every 16 bits, keeps the sign, the 10 bits of a float16's significand and the lower 2 bits of
// its exponent, and sets the exponent's upper bits to 010. See SynthBytes.
constexpr uint64_t kFreeBits = 0x8FFF'8FFF'8FFF'8FFF;
constexpr uint64_t kSetBits = 0x2000'2000'2000'2000;

constexpr uint64_t weights(uint64_t random) { return (random & kFreeBits) | kSetBits; }

// The output function of SplitMix64 (Steele, Lea, Flood 2014): a bijection of 64 bits.
constexpr uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

constexpr uint64_t kGamma = 0x9E3779B97F4A7C15;

Error wrong_argument(std::string message, std::string hint = {}) {
  return {
      .code = ErrorCode::invalid_argument, .message = std::move(message), .hint = std::move(hint)};
}

// The list of tensors in a JSON document.
Result<std::vector<SynthTensor>> tensors_of(const JsonValue& root, const std::string& path) {
  const auto wrong = [&](const std::string& what) {
    return std::unexpected(Error{
        .code = ErrorCode::manifest_invalid, .message = concat(path, ": ", what), .file = path});
  };
  const JsonValue* list = &root;
  if (root.as_object() != nullptr) list = root.find("tensors");
  if (list == nullptr || list->as_array() == nullptr)
    return wrong(
        "neither a list of {name, dtype, shape} nor an object with such a list, `tensors`");
  std::vector<SynthTensor> out;
  for (const JsonValue& entry : *list->as_array()) {
    const auto text = [&](const char* key) {
      const JsonValue* value = entry.find(key);
      return value == nullptr ? nullptr : value->as_string();
    };
    const std::string at = concat("entry ", out.size());
    const std::string* const name = text("name");
    if (name == nullptr) return wrong(at + " has no name");
    const std::string* const dtype_text = text("dtype");
    if (dtype_text == nullptr) return wrong(concat(at, ", ", quote(*name), ", has no dtype"));
    const auto dtype = dtype_from_name(*dtype_text);
    if (!dtype)
      return std::unexpected(
          Error{.code = ErrorCode::unsupported_dtype,
                .message = concat(path, ": tensor ", quote(*name), " has the dtype ",
                                  quote(*dtype_text), ", which is not known"),
                .file = path,
                .tensor = *name});
    const JsonValue* const shape = entry.find("shape");
    if (shape == nullptr || shape->as_array() == nullptr)
      return wrong(concat("tensor ", quote(*name), " has no shape"));
    SynthTensor tensor{.name = *name, .dtype = *dtype};
    for (const JsonValue& extent : *shape->as_array()) {
      if (extent.as_uint() == nullptr)
        return wrong(concat("the shape of tensor ", quote(*name), " has ", extent.describe()));
      tensor.shape.push_back(*extent.as_uint());
    }
    out.push_back(std::move(tensor));
  }
  return out;
}

bool is_utf8(const std::string& text) {
  try {
    (void)nlohmann::json(text).dump();
    return true;
  } catch (const nlohmann::json::exception&) {
    return false;
  }
}

}  // namespace

std::string synth_shape_names() {
  std::string out;
  for (const NamedShape& shape : named_shapes()) out += concat(out.empty() ? "" : ", ", shape.name);
  return out;
}

Result<std::vector<SynthTensor>> synth_shape(const std::string& shape) {
  for (const NamedShape& named : named_shapes())
    if (named.name == shape) return named.make();
  if (!shape.ends_with(".json"))
    return std::unexpected(
        wrong_argument(concat("no shape is called ", quote(shape)),
                       concat("the shapes are ", synth_shape_names(),
                              "; or give the path of a JSON file, or --tensor")));
  SLUICE_ASSIGN(const InputFile file, open_input(shape));
  if (file.nbytes > kMaxJsonManifest)
    return std::unexpected(
        Error{.code = ErrorCode::manifest_invalid,
              .message = concat(quote(shape), " has ", file.nbytes, " bytes; at most ",
                                kMaxJsonManifest, " are read of such a file"),
              .file = shape,
              .expected = kMaxJsonManifest,
              .actual = file.nbytes});
  std::string text(file.nbytes, '\0');
  SLUICE_TRY(read_at(file.descriptor, 0, std::as_writable_bytes(std::span(text)), shape));
  SLUICE_ASSIGN(const JsonValue root, parse_json(text, shape));
  return tensors_of(root, shape);
}

Result<SynthTensor> parse_synth_tensor(const std::string& text) {
  const auto wrong = [&](const std::string& what) {
    return std::unexpected(wrong_argument(concat(quote(text), " is no tensor: ", what),
                                          "write name:dtype:shape, as in w:float16:4096x1024"));
  };
  const size_t second = text.rfind(':');
  const size_t first =
      second == std::string::npos || second == 0 ? std::string::npos : text.rfind(':', second - 1);
  if (first == std::string::npos) return wrong("it has not three parts with colons between");
  if (first == 0) return wrong("its name is empty");
  SynthTensor tensor{.name = text.substr(0, first)};
  const std::string dtype_text = text.substr(first + 1, second - first - 1);
  const auto dtype = dtype_from_name(dtype_text);
  if (!dtype) return wrong(concat("the dtype ", quote(dtype_text), " is not known"));
  tensor.dtype = *dtype;
  const std::string shape = text.substr(second + 1);
  for (size_t at = 0; !shape.empty();) {
    const size_t end = std::min(shape.find('x', at), shape.size());
    uint64_t extent = 0;
    const char* const last = shape.data() + end;
    const auto parsed = std::from_chars(shape.data() + at, last, extent);
    if (parsed.ec != std::errc() || parsed.ptr != last)
      return wrong(concat(quote(shape), " is no shape"));
    tensor.shape.push_back(extent);
    if (end == shape.size()) break;
    at = end + 1;
  }
  return tensor;
}

SynthBytes::SynthBytes(uint64_t seed) : seed_(mix(seed + kGamma)), table_(kWindows + kUnit) {
  for (uint64_t i = 0; i < table_.size() / 8; ++i) {
    const uint64_t value = weights(mix(seed_ + (i + 1) * kGamma));
    std::memcpy(table_.data() + i * 8, &value, 8);
  }
}

SynthBytes::Unit SynthBytes::unit(uint32_t shard, uint64_t index) const {
  const uint64_t place = mix(mix(seed_ ^ (shard + 1) * kGamma) + index * kGamma);
  // Windows begin at multiples of 64 bytes, a cache line
  return {.stamp = weights(mix(place)), .window = table_.data() + place % (kWindows / 64) * 64};
}

void SynthBytes::gather(uint32_t shard, uint64_t begin, uint64_t nbytes, ByteRuns& runs,
                        std::vector<uint64_t>& stamps) const {
  runs.clear();
  stamps.clear();
  // Growing would move what `runs` points at
  stamps.reserve(nbytes / kUnit + 2);
  for (const uint64_t end = begin + nbytes; begin < end;) {
    const uint64_t from = begin % kUnit;
    const uint64_t to = std::min(kUnit, from + (end - begin));
    const Unit current = unit(shard, begin / kUnit);
    if (from < 8) {
      stamps.push_back(current.stamp);
      const Bytes stamp = std::as_bytes(std::span(&stamps.back(), 1));
      runs.push_back(stamp.subspan(from, std::min<uint64_t>(to, 8) - from));
    }
    if (to > 8)
      runs.emplace_back(current.window + std::max<uint64_t>(from, 8), current.window + to);
    begin += to - from;
  }
}

void SynthBytes::fill(uint32_t shard, uint64_t begin, MutableBytes out) const {
  ByteRuns runs;
  std::vector<uint64_t> stamps;
  gather(shard, begin, out.size(), runs, stamps);
  for (const Bytes run : runs) {
    std::memcpy(out.data(), run.data(), run.size());
    out = out.subspan(run.size());
  }
}

Result<SynthModel> SynthModel::make(const std::string& name,
                                    const std::vector<SynthTensor>& tensors,
                                    const SynthOptions& options) {
  if (tensors.empty())
    return std::unexpected(wrong_argument(
        "a synthetic model needs a tensor at least",
        concat("choose one of ", synth_shape_names(), ", or give --tensor name:dtype:shape")));
  if (options.shard_bytes == 0 || options.repeat == 0)
    return std::unexpected(
        wrong_argument(options.repeat == 0 ? "0 times a model is none" : "the shard size is 0"));
  const auto count_of_all = checked_mul(tensors.size(), options.repeat);
  if (!count_of_all || *count_of_all > kMaxTensors)
    return std::unexpected(
        wrong_argument(concat(options.repeat, " times ", tensors.size(),
                              " tensors are more than a manifest can hold, ", kMaxTensors)));
  CacheLayout layout;
  std::unordered_set<std::string> names;
  uint64_t total = 0;
  uint64_t elements = 0;
  for (uint32_t copy = 0; copy < options.repeat; ++copy) {
    for (const SynthTensor& tensor : tensors) {
      const bool is_float = dtype_info(tensor.dtype).is_float;
      CacheTensor entry{
          .name = copy == 0 ? tensor.name : concat("copy.", copy, ".", tensor.name),
          .shape = tensor.shape,
          .dtype = is_float ? options.dtype.value_or(tensor.dtype) : tensor.dtype,
      };
      if (!is_utf8(entry.name))
        return std::unexpected(wrong_argument(concat("the tensor name ", quote(entry.name),
                                                     " is not UTF-8, which JSON cannot hold")));
      if (!names.insert(entry.name).second)
        return std::unexpected(
            wrong_argument(concat("tensor ", quote(entry.name), " stands twice")));
      if (!cache_can_hold(entry.dtype))
        return std::unexpected(
            wrong_argument(concat("tensor ", quote(entry.name), " is ", dtype_name(entry.dtype),
                                  ", which a tensor cache has no type for")));
      const auto count = checked_product(entry.shape);
      const auto nbytes = count ? storage_bytes(entry.dtype, *count) : std::nullopt;
      const auto sum = nbytes ? checked_add(total, *nbytes) : std::nullopt;
      const auto all = count ? checked_add(elements, *count) : std::nullopt;
      if (!sum || !all || *sum > kMaxBytes)
        return std::unexpected(wrong_argument(
            concat("with tensor ", quote(entry.name), ", ", dtype_name(entry.dtype), " ",
                   shape_text(entry.shape), ", the model exceeds ", kMaxBytes, " bytes")));
      entry.nbytes = *nbytes;
      total = *sum;
      elements = *all;
      layout.tensors.push_back(std::move(entry));
    }
  }
  std::vector<uint32_t> order(layout.tensors.size());
  std::iota(order.begin(), order.end(), 0u);
  layout.shards = cut_into_shards(layout.tensors, order, options.shard_bytes);
  // ParamSize and ParamBytes as MLC writes them
  layout.metadata_json = nlohmann::ordered_json{
      {"model", name},
      {"synthetic", true},
      {"seed", options.seed},
      {"ParamSize", layout.tensors.size()},
      {"ParamBytes", total}}.dump();
  std::string manifest = cache_manifest(layout);
  // What is written must be what every reader accepts, in its number of tensors above all
  if (const auto parsed = parse_tensor_cache(manifest, kCacheManifestName); !parsed)
    return std::unexpected(wrong_argument(parsed.error().message));
  return SynthModel(std::move(layout), std::move(manifest), total, options.seed);
}

Result<CacheLayout> write_synth(const SynthModel& model, const std::string& output, bool force,
                                const LoadControl& control) {
  const auto produce = [&](ShardWriter& writer) -> Status {
    const auto block = std::make_unique_for_overwrite<std::byte[]>(kWriteBlock);
    Progress progress{.source_bytes = model.nbytes(), .output_bytes = model.nbytes()};
    const auto& shards = model.layout().shards;
    for (uint32_t s = 0; s < shards.size(); ++s) {
      for (uint64_t offset = 0; offset < shards[s].nbytes;) {
        if (control.stop != nullptr && control.stop->load(std::memory_order_relaxed))
          return std::unexpected(Error{.code = ErrorCode::aborted, .message = "interrupted"});
        const MutableBytes bytes(block.get(), std::min(kWriteBlock, shards[s].nbytes - offset));
        model.bytes().fill(s, offset, bytes);
        SLUICE_TRY(writer.write(s, bytes));
        offset += bytes.size();
        progress.source_bytes_done += bytes.size();
        progress.output_bytes_done = progress.source_bytes_done;
        if (control.on_progress) control.on_progress(progress);
      }
    }
    return {};
  };
  return write_cache(model.layout(), output, force, produce, control.stop);
}

}  // namespace sluice
