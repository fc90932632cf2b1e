#include "core/load/plan.h"

#include <algorithm>
#include <string>

#include "core/base/checked.h"

namespace sluice {
namespace {

constexpr uint64_t kMaxBytes = 1ull << 53;  // hosts count bytes in doubles
constexpr uint64_t kSharedAlignment = 256;
constexpr uint64_t kSharedBufferBytes = 4ull << 20;
constexpr uint64_t kMinSlotBytes = 4ull << 10;
constexpr uint64_t kDecentSlotBytes = 256ull << 10;
constexpr uint64_t kMinChunkBytes = 16ull << 10;
constexpr uint64_t kMaxChunkBytes = 1ull << 20;
// Gaps between wanted tensors that are cheaper to read than to skip with another request
constexpr uint64_t kReadThroughGap = 256ull << 10;
// Slots beyond one for each transfer: enough to keep the device busy while others fill
constexpr uint32_t kExtraSlots = 4;
// Of more transfers each fills its slot so slowly that none needs to be uploaded meanwhile.
constexpr uint32_t kBusyTransfers = 4;

Result<Placement> place(const TensorEntry& tensor, const PlanOptions& options, uint32_t t) {
  Placement placement{.dtype = tensor.dtype};
  const DType stored = tensor.encoding == Encoding::f32_to_bf16 ? DType::bf16 : tensor.dtype;
  const DTypeInfo& info = dtype_info(stored);
  DType target = tensor.dtype;
  // Scales and other floats below 16 bits mean nothing without the tensor they belong to: kept.
  const bool converts =
      info.is_quantized || stored == DType::f16 || stored == DType::bf16 || stored == DType::f32;
  if (options.dtype && converts) target = *options.dtype;
  if (t < options.tensor_dtypes.size() && options.tensor_dtypes[t])
    target = *options.tensor_dtypes[t];
  placement.dtype = target;
  if (target != stored) {
    placement.codec = find_codec(stored, target);
    placement.on_device = options.staged && options.expand_on_device;
    if (placement.codec == nullptr)
      return std::unexpected(Error{
          .code = ErrorCode::unsupported_dtype,
          .message = concat("tensor '", tensor.name, "' is stored as ", dtype_name(stored),
                            ", which cannot be converted to ", dtype_name(target)),
          .tensor = tensor.name,
          .hint = "load it as stored, or choose another dtype",
      });
  }
  const auto nbytes = dense_bytes(tensor.shape, target);
  if (!nbytes || *nbytes > kMaxBytes ||
      tensor.nbytes > kMaxBytes - std::min(kMaxBytes, tensor.offset))
    return std::unexpected(Error{
        .code = ErrorCode::range_out_of_bounds,
        .message = concat("tensor '", tensor.name, "' of shape ", shape_text(tensor.shape),
                          " and dtype ", dtype_name(target), " at offset ", tensor.offset,
                          " lies beyond the 2^53 bytes that can be counted"),
        .tensor = tensor.name,
    });
  placement.nbytes = *nbytes;
  return placement;
}

// Gives every selected tensor its buffer, in the order in which bytes come: large ones their own,
// small ones a shared one.
void assign_buffers(Plan& plan, const PlanOptions& options) {
  uint32_t shared = kNoBuffer;
  uint64_t shared_end = 0;
  for (const uint32_t t : plan.order) {
    Placement& placement = plan.placements[t];
    const uint64_t padded = std::max<uint64_t>((placement.nbytes + 3) & ~3ull, 4);
    if (placement.nbytes >= options.share_below_bytes) {
      placement.buffer = static_cast<uint32_t>(plan.buffers.size());
      plan.buffers.push_back({.nbytes = padded, .tensor = t});
    } else {
      if (shared == kNoBuffer || shared_end + padded > kSharedBufferBytes) {
        shared = static_cast<uint32_t>(plan.buffers.size());
        shared_end = 0;
        plan.buffers.push_back({.nbytes = 0, .tensor = t});
      }
      placement.buffer = shared;
      placement.offset = shared_end;
      plan.buffers[shared].nbytes = shared_end + padded;
      shared_end = (shared_end + padded + kSharedAlignment - 1) & ~(kSharedAlignment - 1);
    }
  }
  for (const BufferSpec& buffer : plan.buffers)
    plan.largest_buffer = std::max(plan.largest_buffer, buffer.nbytes);
}

// The last place at or before `at` where tensor `t` may be cut, or its beginning.
uint64_t cut_before(const TensorEntry& tensor, const Placement& placement, uint64_t at) {
  const uint64_t step = placement.codec ? placement.codec->pair_bytes() : 4;
  return tensor.offset + (at - tensor.offset) / step * step;
}

void cut_segments(const Manifest& manifest, const PlanOptions& options, Plan& plan) {
  const uint64_t limit = std::max<uint64_t>(options.max_segment_bytes, uint64_t{4} * kCodecMaxUnit);
  uint32_t i = 0;
  const auto count = static_cast<uint32_t>(plan.order.size());
  while (i < count) {
    const uint32_t file = manifest.tensors[plan.order[i]].file;
    Segment segment{
        .file = file, .begin = manifest.tensors[plan.order[i]].offset, .first_tensor = i};
    segment.end = segment.begin;
    const size_t first_segment = plan.segments.size();
    uint64_t wanted = 0;
    for (; i < count && manifest.tensors[plan.order[i]].file == file; ++i) {
      const TensorEntry& tensor = manifest.tensors[plan.order[i]];
      const Placement& placement = plan.placements[plan.order[i]];
      const uint64_t end = tensor.offset + tensor.nbytes;
      wanted += tensor.nbytes;
      const bool far = tensor.offset - segment.end > kReadThroughGap;
      const bool full = end - segment.begin > limit && segment.end > segment.begin;
      // A tensor that does not fit begins a new range, unless it can be cut to fill this one
      if (far || (full && !(options.split_tensors && tensor.offset - segment.begin < limit))) {
        plan.segments.push_back(segment);
        segment = {.file = file, .begin = tensor.offset, .end = tensor.offset, .first_tensor = i};
      }
      while (options.split_tensors && end - segment.begin > limit) {
        const uint64_t cut = cut_before(tensor, placement, segment.begin + limit);
        if (cut <= segment.begin) break;
        segment.end = cut;
        plan.segments.push_back(segment);
        segment = {.file = file, .begin = cut, .end = cut, .first_tensor = i};
      }
      segment.end = end;
    }
    plan.segments.push_back(segment);
    // One range that is nearly the whole file needs no Range: servers compress and cache that best
    const auto& nbytes = manifest.files[file].nbytes;
    if (plan.segments.size() == first_segment + 1 && nbytes && *nbytes <= limit &&
        *nbytes - wanted <= kReadThroughGap)
      plan.segments.back().whole_file = true;
  }
}

Result<BudgetShares> share_budget(const PlanOptions& options, bool decodes, size_t segments) {
  const uint64_t copies = std::max<uint32_t>(options.slot_copies, 1);
  const uint64_t scratch = decodes ? kDecodeInputBytes + kDecodeOutputBytes : 0;
  const auto wanted = static_cast<uint32_t>(
      std::clamp<uint64_t>(segments, 1, std::max<uint32_t>(options.connections, 1)));
  for (uint32_t connections = wanted; connections > 0; --connections) {
    BudgetShares shares{.connections = connections, .scratch_bytes = scratch};
    const uint64_t unspent = options.budget_bytes - std::min(options.budget_bytes, scratch);
    shares.chunk_bytes =
        std::clamp(unspent / (uint64_t{4} * connections), kMinChunkBytes, kMaxChunkBytes);
    if (!options.staged) {
      if (shares.total(1) <= options.budget_bytes) return shares;
      continue;
    }
    const uint64_t fixed = shares.total(1);
    if (fixed >= options.budget_bytes) continue;
    const uint64_t for_slots = options.budget_bytes - fixed;
    // Halving finds the largest slot that leaves every transfer one to fill and some to upload
    uint64_t slot = std::max<uint64_t>(options.max_slot_bytes & ~3ull, kMinSlotBytes);
    for (;; slot = std::max<uint64_t>(slot / 2 & ~3ull, kMinSlotBytes)) {
      uint64_t fit = for_slots / slot / copies;
      if (fit > options.copied_slots) fit = for_slots / slot - options.copied_slots * (copies - 1);
      const uint32_t least =
          connections == 1 ? 2 : std::max(connections, std::min(connections, kBusyTransfers) + 2);
      if (fit >= least) {
        shares.slot_bytes = slot;
        shares.slots = static_cast<uint32_t>(std::min<uint64_t>(fit, connections + kExtraSlots));
        return shares;
      }
      // Fewer transfers with slots of a decent size are worth more than many with tiny ones
      if (slot == kMinSlotBytes || (connections > 1 && slot / 2 < kDecentSlotBytes)) break;
    }
  }
  const uint64_t least =
      kMinChunkBytes + scratch +
      (options.staged
           ? kMinSlotBytes * (2 + std::min<uint64_t>(options.copied_slots, 2) * (copies - 1))
           : 0);
  return std::unexpected(Error{
      .code = ErrorCode::budget_too_small,
      .message = concat("a memory budget of ", options.budget_bytes,
                        " bytes is too small: this model needs at least ", least),
      .expected = least,
      .actual = options.budget_bytes,
      .hint = "raise the budget; 64 MiB is the default",
  });
}

}  // namespace

Result<Plan> make_plan(const Manifest& manifest, const PlanOptions& options) {
  Plan plan;
  plan.placements.reserve(manifest.tensors.size());
  bool decodes = false;
  for (uint32_t t = 0; t < manifest.tensors.size(); ++t) {
    const TensorEntry& tensor = manifest.tensors[t];
    if (!options.selected.empty() && (t >= options.selected.size() || !options.selected[t])) {
      plan.placements.push_back({.buffer = kNoBuffer, .dtype = tensor.dtype});
      continue;
    }
    SLUICE_ASSIGN(Placement placement, place(tensor, options, t));
    const auto source = checked_add(plan.source_bytes, tensor.nbytes);
    const auto output = checked_add(plan.output_bytes, placement.nbytes);
    if (!source || !output || *source > kMaxBytes || *output > kMaxBytes)
      return std::unexpected(Error{
          .code = ErrorCode::range_out_of_bounds,
          .message = concat("the tensors up to '", tensor.name,
                            "' take more than the 2^53 bytes that can be counted"),
          .tensor = tensor.name,
      });
    plan.source_bytes = *source;
    plan.output_bytes = *output;
    decodes |= placement.codec != nullptr && !placement.on_device;
    plan.order.push_back(t);
    plan.placements.push_back(placement);
  }
  std::sort(plan.order.begin(), plan.order.end(), [&](uint32_t a, uint32_t b) {
    const TensorEntry& x = manifest.tensors[a];
    const TensorEntry& y = manifest.tensors[b];
    return x.file != y.file ? x.file < y.file : x.offset < y.offset;
  });
  assign_buffers(plan, options);
  std::erase_if(plan.order, [&](uint32_t t) { return manifest.tensors[t].nbytes == 0; });
  cut_segments(manifest, options, plan);
  SLUICE_ASSIGN(plan.shares, share_budget(options, decodes, plan.segments.size()));
  return plan;
}

}  // namespace sluice
