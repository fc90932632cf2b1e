// Random models for the simulated host: files of bytes, a manifest over them, and what must come
// out.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "core/formats/manifest.h"
#include "core/load/loader.h"
#include "core/load/simulated_host.h"

namespace sluice::testing {

struct SimulatedModel {
  Manifest manifest;
  std::vector<std::vector<std::byte>> files;
};

// One to four files of up to a dozen tensors each: odd sizes, gaps, zero-size and 0-d tensors,
// every kind of codec. Sizes are small, so that budgets and slots of a few KiB make many rounds.
// A tensor in four has up to `large` elements, the others up to 700 and no more than that.
inline SimulatedModel make_model(uint64_t seed, uint64_t large = 20'000) {
  std::mt19937_64 random(seed);
  const auto dice = [&](uint64_t n) { return random() % n; };
  SimulatedModel model;
  model.manifest.format = "tensor-cache";
  const uint64_t file_count = 1 + dice(4);
  for (uint32_t f = 0; f < file_count; ++f) {
    uint64_t position = dice(3) == 0 ? dice(5000) : 0;
    const uint64_t tensor_count = 1 + dice(12);
    for (uint64_t i = 0; i < tensor_count; ++i) {
      static constexpr DType kDTypes[] = {DType::u8,   DType::u8,  DType::f32,  DType::f16,
                                          DType::bf16, DType::u32, DType::q8_0, DType::q4_1,
                                          DType::i64,  DType::q6_k};
      TensorEntry tensor{
          .name = concat("file", f, ".tensor", i), .dtype = kDTypes[dice(10)], .file = f};
      uint64_t elements = dice(4) == 0 ? dice(large) : dice(std::min<uint64_t>(700, large));
      if (dice(12) == 0) elements = 0;
      const DTypeInfo& info = dtype_info(tensor.dtype);
      elements -= elements % info.block_elements;
      tensor.shape = {elements};
      if (elements > 0 && dice(10) == 0 && !info.is_quantized) tensor.shape = {}, elements = 1;
      tensor.encoding =
          tensor.dtype == DType::f32 && dice(2) ? Encoding::f32_to_bf16 : Encoding::raw;
      tensor.nbytes = tensor.encoding == Encoding::f32_to_bf16
                          ? elements * 2
                          : *storage_bytes(tensor.dtype, elements);
      if (dice(4) == 0) position += dice(100);
      tensor.offset = position;
      position += tensor.nbytes;
      model.manifest.tensors.push_back(tensor);
    }
    position += dice(4) == 0 ? dice(3000) : 0;
    std::vector<std::byte> bytes(position);
    for (size_t i = 0; i < bytes.size(); i += sizeof(uint64_t)) {
      const uint64_t word = random();
      std::memcpy(bytes.data() + i, &word, std::min(sizeof(word), bytes.size() - i));
    }
    FileEntry entry{.path = concat("shard_", f, ".bin")};
    if (dice(4) != 0) entry.nbytes = bytes.size();
    model.manifest.files.push_back(entry);
    model.files.push_back(std::move(bytes));
  }
  return model;
}

// Options that a model of make_model() can be loaded with, drawn from a seed.
inline PlanOptions make_options(uint64_t seed) {
  std::mt19937_64 random(seed * 7919 + 1);
  const auto dice = [&](uint64_t n) { return random() % n; };
  static constexpr uint64_t kBudgets[] = {900ull << 10, 1ull << 20, 4ull << 20};
  static constexpr uint64_t kSlots[] = {4096, 4096 + 4, 10'000, 64 << 10};
  static constexpr uint64_t kSegments[] = {1, 3000, 10'007, 1 << 20};
  PlanOptions options;
  options.budget_bytes = kBudgets[dice(3)];
  options.connections = static_cast<uint32_t>(1 + dice(6));
  options.staged = dice(3) != 0;
  options.slot_copies = static_cast<uint32_t>(1 + dice(2));
  options.max_slot_bytes = kSlots[dice(4)];
  options.max_segment_bytes = kSegments[dice(4)];
  options.share_below_bytes = dice(2) ? 0 : 2048;
  options.split_tensors = dice(4) != 0;
  if (dice(3) == 0) options.dtype = dice(2) ? DType::f32 : DType::f16;
  if (dice(3) == 0) options.copied_slots = static_cast<uint32_t>(1 + dice(6));
  options.expand_on_device = dice(2) == 0;
  options.allocating_bytes = dice(2) ? 1 + dice(20'000) : 64 << 20;
  options.allocate_ahead = static_cast<uint32_t>(dice(5));
  return options;
}

// Faults drawn from a seed: most loads meet some, few meet all, and some none.
inline SimulatedFaults make_faults(uint64_t seed) {
  std::mt19937_64 random(seed * 104'729 + 3);
  const auto maybe = [&](uint64_t one_in, double p) { return random() % one_in == 0 ? p : 0.0; };
  return {
      .cut = maybe(2, 0.02),
      .early_end = maybe(3, 0.02),
      .refuse_open = maybe(2, 0.1),
      .fatal = maybe(20, 0.05),
      .fail_upload = maybe(20, 0.02),
      .fail_allocate = maybe(20, 0.1),
      .stale_event = maybe(2, 0.2),
      .abort = maybe(10, 0.002),
      .no_ranges = random() % 5 == 0,
      .knows_size = random() % 3 != 0,
      .longer_by = random() % 30 == 0 ? 1 + random() % 2000 : 0,
      .ignore_range = maybe(6, 0.2),
  };
}

// How much may be received again, drawn from a seed: mostly as by default, sometimes little.
inline RetryPolicy make_retry(uint64_t seed) {
  std::mt19937_64 random(seed * 15'485'863 + 5);
  return {.max_repeated_bytes = random() % 3 == 0 ? 1 + random() % 100'000 : 0};
}

// Tensor `t` as it must come out, decoded in one go.
inline std::vector<std::byte> expected_bytes(const SimulatedModel& model, const Plan& plan,
                                             uint32_t t) {
  const TensorEntry& tensor = model.manifest.tensors[t];
  const Placement& placement = plan.placements[t];
  const std::byte* source = model.files[tensor.file].data() + tensor.offset;
  std::vector<std::byte> out(placement.nbytes);
  if (out.empty()) return out;
  if (placement.codec == nullptr) {
    std::memcpy(out.data(), source, tensor.nbytes);
  } else {
    placement.codec->decode(source, out.data(), tensor.nbytes / placement.codec->in_bytes);
  }
  return out;
}

// What is wrong with a finished load's buffers; empty when every byte is right and no byte beside
// the tensors and their padding was touched (buffers start as 0xDD).
inline std::string check_buffers(const SimulatedModel& model, const Plan& plan,
                                 const std::vector<std::vector<std::byte>>& buffers, bool staged) {
  std::vector<std::vector<std::byte>> right;
  right.reserve(buffers.size());
  for (const auto& buffer : buffers) right.emplace_back(buffer.size(), std::byte{0xDD});
  const auto right_at = [&](const Placement& placement) {
    return right[placement.buffer].begin() + static_cast<ptrdiff_t>(placement.offset);
  };
  const auto padded = [&](uint64_t nbytes) { return staged ? (nbytes + 3) / 4 * 4 : nbytes; };
  for (uint32_t t = 0; t < plan.placements.size(); ++t) {
    const Placement& placement = plan.placements[t];
    if (placement.buffer == kNoBuffer) continue;
    auto expected = expected_bytes(model, plan, t);
    expected.resize(padded(expected.size()));
    std::ranges::copy(expected, right_at(placement));
  }
  // Only what is wrong is looked at byte by byte
  if (right == buffers) return {};
  for (uint32_t t = 0; t < plan.placements.size(); ++t) {
    const Placement& placement = plan.placements[t];
    if (placement.buffer == kNoBuffer) continue;
    const std::byte* actual = buffers[placement.buffer].data() + placement.offset;
    const auto expected = right_at(placement);
    for (uint64_t i = 0; i < padded(placement.nbytes); ++i) {
      if (actual[i] == expected[static_cast<ptrdiff_t>(i)]) continue;
      return i < placement.nbytes
                 ? concat("tensor ", t, " differs at byte ", i, " of ", placement.nbytes)
                 : concat("padding of tensor ", t, " is not 0");
    }
  }
  for (size_t b = 0; b < buffers.size(); ++b)
    for (size_t i = 0; i < buffers[b].size(); ++i)
      if (buffers[b][i] != right[b][i])
        return concat("byte ", i, " of buffer ", b, " was touched but belongs to no tensor");
  return "a buffer has another size than planned";
}

}  // namespace sluice::testing
