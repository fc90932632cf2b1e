// The plan of a load: where each tensor goes, which byte ranges are fetched, and how the memory
// budget is spent. Made once, from a validated Manifest, before anything is allocated.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "core/base/dtype.h"
#include "core/base/error.h"
#include "core/formats/manifest.h"
#include "core/load/codec.h"

namespace sluice {

struct PlanOptions {
  // Bytes that staging slots, received chunks and decoding may hold together on the CPU.
  uint64_t budget_bytes = 64ull << 20;
  // Transfers at a time, at most; fewer where the budget is small.
  uint32_t connections = 4;
  // Bytes of buffers that are asked for at a time, or a single larger one, before they are needed.
  uint64_t allocating_bytes = 64ull << 20;
  // With `staged`, buffers are asked for shortly before their first bytes come, and for each byte
  // that has come so many bytes of buffers that come later. A device carries out what it is told in
  // order, and making all of a model's buffers took an H100's driver 55 ms a gigabyte, which
  // uploads behind them would wait for; yet one that is too small should say so before most is
  // fetched.
  uint32_t allocate_ahead = 3;
  // Through staging slots to a device; otherwise straight into memory.
  bool staged = true;
  // How many times the host holds a slot's bytes (2 where a block is copied into a second buffer).
  uint32_t slot_copies = 1;
  // Slots of which so many copies exist at once, at most; the bytes of the others exist once.
  uint32_t copied_slots = UINT32_MAX;
  // The largest slot. 4 to 16 MiB are fastest on the GPUs measured (docs/benchmarks.md).
  uint64_t max_slot_bytes = 4ull << 20;
  // Convert floating-point and quantised tensors to this type; nothing: keep every stored type.
  std::optional<DType> dtype;
  // The same for single tensors, by index, whatever `dtype` says; empty for none.
  std::vector<std::optional<DType>> tensor_dtypes;
  // Tensors smaller than this share a buffer, each at a multiple of 256 bytes (WebGPU's
  // minStorageBufferOffsetAlignment at its largest). 0 gives every tensor a buffer of its own.
  uint64_t share_below_bytes = 64ull << 10;
  // The largest range that one request fetches.
  uint64_t max_segment_bytes = 32ull << 20;
  // False keeps each tensor within one transfer, so that its bytes arrive in order.
  bool split_tensors = true;
  // Which tensors to load, by index; empty for all.
  std::vector<bool> selected;
  // Upload the stored bytes of tensors that are converted, for the device to expand them. Only with
  // `staged`; the device must know every codec.
  bool expand_on_device = false;
};

// Where one tensor ends up. `buffer` is kNoBuffer for a tensor that is not selected.
struct Placement {
  uint32_t buffer = 0;
  uint64_t offset = 0;  // bytes; a multiple of 256
  uint64_t nbytes = 0;  // bytes once loaded
  DType dtype = DType::u8;
  const Codec* codec = nullptr;  // null: the stored bytes are copied
  bool on_device = false;        // the stored bytes are uploaded, and `codec` runs on the device
};
inline constexpr uint32_t kNoBuffer = UINT32_MAX;

struct BufferSpec {
  uint64_t nbytes = 0;  // a multiple of 4, at least 4
  uint32_t tensor = 0;  // the first tensor in it
};

// One range of a file, fetched by one transfer. Ranges of one file ascend and do not overlap; a cut
// inside a tensor falls on a whole pair of its codec's units, which is a multiple of 4 bytes of
// input and of output, or without a codec on a multiple of 4 bytes.
struct Segment {
  uint32_t file = 0;
  uint64_t begin = 0;
  uint64_t end = 0;
  bool whole_file = false;  // the file is fetched without a Range
  uint32_t first_tensor =
      0;  // index into Plan::order: the first tensor that reaches into the range
};

// What the budget is spent on. All sizes in bytes.
struct BudgetShares {
  uint32_t connections = 0;
  uint64_t chunk_bytes = 0;    // reserved for what one transfer has received and not yet passed on
  uint32_t slots = 0;          // 0 when not staged
  uint64_t slot_bytes = 0;     // a multiple of 4
  uint64_t scratch_bytes = 0;  // input and output of one decoding step; 0 where nothing is decoded
  uint64_t total(uint32_t slot_copies, uint32_t copied_slots = UINT32_MAX) const {
    const uint64_t copies =
        uint64_t{std::min(slots, copied_slots)} * (std::max(slot_copies, 1u) - 1);
    return connections * chunk_bytes + (slots + copies) * slot_bytes + scratch_bytes;
  }
};

// Output of one decoding step at most, and the input that it may need: no codec shrinks by more
// than 2.
inline constexpr uint64_t kDecodeOutputBytes = 256ull << 10;
inline constexpr uint64_t kDecodeInputBytes = 2 * kDecodeOutputBytes + kCodecMaxUnit;

struct Plan {
  std::vector<Placement> placements;  // one for each tensor of the manifest
  std::vector<BufferSpec> buffers;    // in the order in which bytes for them come
  std::vector<Segment> segments;
  std::vector<uint32_t> order;  // selected, non-empty tensors by file and offset
  BudgetShares shares;
  uint64_t source_bytes = 0;  // tensor bytes to be fetched
  uint64_t output_bytes = 0;  // tensor bytes once loaded
  uint64_t largest_buffer = 0;
};

// Errors: unsupported_dtype (no codec for a conversion), budget_too_small (with the least that
// would do), range_out_of_bounds (sizes beyond 2^53 bytes, which hosts cannot count).
Result<Plan> make_plan(const Manifest& manifest, const PlanOptions& options);

}  // namespace sluice
