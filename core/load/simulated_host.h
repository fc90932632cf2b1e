// A host made of dice, for tests: it runs a Loader over bytes in memory, and from a seed cuts
// chunks anywhere, reorders completions, fails, repeats and delays them, and ignores ranges. After
// every step it checks that budget, slots, transfers and buffers add up, and at the end that every
// byte is right.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "core/load/loader.h"

namespace sluice::testing {

struct SimulatedFaults {
  double cut = 0;            // a chunk is followed by a failed transfer
  double early_end = 0;      // a transfer ends before its time
  double refuse_open = 0;    // open fails, retryable
  double fatal = 0;          // open fails for good
  double fail_upload = 0;    // an upload fails
  double fail_allocate = 0;  // an allocation fails
  double stale_event = 0;    // an event of a transfer that is over is reported again
  double abort = 0;          // at any step, the caller aborts
  bool no_ranges = false;    // the server sends whole files
  bool knows_size = true;    // the server tells the file's size
  uint64_t longer_by = 0;    // whole files have so many bytes more than they should
  double ignore_range = 0;   // one server of several sends the whole file for a range
};

struct SimulatedOutcome {
  std::optional<Error> error;
  std::vector<std::vector<std::byte>> buffers;  // as the device holds them; empty when freed
  std::string violation;                        // what did not add up; empty when all did
  uint64_t steps = 0;
  uint64_t received = 0;  // bytes that transfers gave
  Progress progress;
};

class SimulatedHost {
 public:
  // `files` are the model's bytes, one for each file of the manifest.
  SimulatedHost(Loader& loader, const std::vector<std::vector<std::byte>>& files, bool staged,
                uint64_t seed, SimulatedFaults faults = {})
      : loader_(loader), files_(files), staged_(staged), random_(seed), faults_(faults) {
    slots_.resize(loader.plan().shares.slots,
                  std::vector<std::byte>(loader.plan().shares.slot_bytes, std::byte{0xEE}));
    busy_.resize(slots_.size());
    out_.buffers.resize(loader.plan().buffers.size());
  }

  // The caller aborts before completion number `step`.
  void abort_at(uint64_t step) { abort_at_ = step; }
  // The first transfer to give byte `position` of its file breaks just before it, once.
  void cut_at(uint64_t position) { cut_at_ = position; }
  // The same at every multiple of `step`, once each.
  void cut_every(uint64_t step) { cut_at_ = cut_step_ = step; }

  SimulatedOutcome run() {
    if (auto started = loader_.start(); !started) {
      out_.error = started.error();
      return std::move(out_);
    }
    for (;; ++out_.steps) {
      Command command;
      while (out_.violation.empty() && loader_.poll(command)) execute(command);
      if (!out_.violation.empty() || loader_.finished()) break;
      if (chance(faults_.abort) || out_.steps == abort_at_) {
        loader_.abort();
        continue;
      }
      if (pending_.empty()) {
        violate("the loader waits for nothing, yet is not finished");
        break;
      }
      if (out_.steps > 10'000'000) {
        violate("the loader does not come to an end");
        break;
      }
      complete_one();
      const Progress progress = loader_.progress();
      if (progress.budget_used > progress.budget_limit) violate("the budget is exceeded");
      if (progress.output_bytes_done > progress.output_bytes) violate("more bytes than there are");
    }
    finish();
    return std::move(out_);
  }

 private:
  struct Transfer {
    uint32_t file = 0;
    uint64_t position = 0;
    uint64_t end = 0;
    std::vector<std::byte> chunk;
  };
  enum class Kind { allocate, open, read, upload, wait, flush };
  struct Pending {
    Kind kind;
    uint32_t id;
    uint64_t begin = 0, end = 0;
    uint32_t file = 0;
  };

  bool chance(double p) { return p > 0 && std::uniform_real_distribution<>(0, 1)(random_) < p; }
  uint64_t dice(uint64_t n) { return n == 0 ? 0 : random_() % n; }
  void violate(std::string what) {
    if (out_.violation.empty()) out_.violation = std::move(what);
  }

  uint64_t served_bytes(uint32_t file) const { return files_[file].size() + faults_.longer_by; }

  std::byte* target(const Command& c, uint64_t nbytes) {
    if (staged_) {
      if (c.target >= slots_.size() || busy_[c.target]) {
        violate("bytes are written to a slot that an upload holds");
        return nullptr;
      }
      if (c.offset > slots_[c.target].size() || nbytes > slots_[c.target].size() - c.offset) {
        violate("bytes are written past a slot's end");
        return nullptr;
      }
      return slots_[c.target].data() + c.offset;
    }
    if (c.target >= out_.buffers.size() || c.offset > out_.buffers[c.target].size() ||
        nbytes > out_.buffers[c.target].size() - c.offset) {
      violate("bytes are written past a buffer's end");
      return nullptr;
    }
    return out_.buffers[c.target].data() + c.offset;
  }

  Bytes chunk_bytes(const Command& c) {
    const auto it = transfers_.find(c.stream);
    if (it == transfers_.end() || c.begin > it->second.chunk.size() ||
        c.nbytes > it->second.chunk.size() - c.begin) {
      violate("bytes are taken that no chunk holds");
      return {};
    }
    return Bytes(it->second.chunk).subspan(c.begin, c.nbytes);
  }

  void execute(const Command& c) {
    switch (c.op) {
      case Op::allocate:
        pending_.push_back({Kind::allocate, c.target});
        break;
      case Op::open:
        if (transfers_.size() > loader_.plan().shares.connections) violate("too many transfers");
        pending_.push_back({Kind::open, c.stream, c.begin, c.end, c.target});
        break;
      case Op::read:
        if (!transfers_.contains(c.stream)) violate("a transfer is read that is not open");
        transfers_[c.stream].chunk.clear();
        pending_.push_back({Kind::read, c.stream});
        break;
      case Op::copy: {
        const Bytes in = chunk_bytes(c);
        if (std::byte* out = target(c, c.nbytes); out && in.size())
          std::memcpy(out, in.data(), in.size());
        break;
      }
      case Op::decode: {
        const Bytes in = chunk_bytes(c);
        if (c.nbytes > kDecodeInputBytes || c.output > kDecodeOutputBytes)
          violate("a decoding step too large");
        if (std::byte* out = target(c, c.output)) loader_.decode(c, in, out);
        break;
      }
      case Op::zero:
        if (std::byte* out = target(c, c.nbytes)) std::memset(out, 0, c.nbytes);
        break;
      case Op::upload:
        if (busy_[c.target]) violate("a slot is uploaded twice at a time");
        busy_[c.target] = true;
        pending_.push_back({Kind::upload, c.target});
        break;
      case Op::wait:
        pending_.push_back({Kind::wait, c.stream});
        break;
      case Op::cancel:
        transfers_.erase(c.stream);
        cancelled_.insert(c.stream);
        // Some hosts still report an event that was under way; the loader must not mind
        if (!chance(faults_.stale_event))
          std::erase_if(pending_, [&](const Pending& p) {
            return p.id == c.stream &&
                   (p.kind == Kind::open || p.kind == Kind::read || p.kind == Kind::wait);
          });
        break;
      case Op::tensor_ready:
        ++ready_[c.target];
        break;
      case Op::flush:
        pending_.push_back({Kind::flush, 0});
        break;
      case Op::free:
        out_.buffers[c.target].clear();
        break;
    }
  }

  void complete_one() {
    const size_t index = dice(pending_.size());
    const Pending p = pending_[index];
    pending_.erase(pending_.begin() + static_cast<ptrdiff_t>(index));
    switch (p.kind) {
      case Kind::allocate:
        if (chance(faults_.fail_allocate)) {
          loader_.allocation_failed(
              p.id, {.code = ErrorCode::out_of_device_memory, .message = "no room"});
        } else {
          out_.buffers[p.id].assign(loader_.plan().buffers[p.id].nbytes, std::byte{0xDD});
          loader_.allocated(p.id);
        }
        break;
      case Kind::open:
        open(p);
        break;
      case Kind::read:
        read(p);
        break;
      case Kind::upload:
        upload(p.id);
        break;
      case Kind::wait:
        loader_.waited(p.id);
        break;
      case Kind::flush:
        loader_.flushed();
        break;
    }
    if (chance(faults_.stale_event)) loader_.chunk(p.id + 1'000'000, 1);
  }

  void open(const Pending& p) {
    if (chance(faults_.fatal))
      return loader_.failed(p.id, {.code = ErrorCode::http_status, .message = "403"}, false);
    if (chance(faults_.refuse_open))
      return loader_.failed(p.id, {.code = ErrorCode::network, .message = "refused"}, true,
                            dice(3));
    const bool ranged = p.end > 0 && !faults_.no_ranges && !chance(faults_.ignore_range);
    Transfer transfer{.file = p.file, .position = ranged ? p.begin : 0};
    if (ranged && p.begin >= served_bytes(p.file))
      return loader_.failed(p.id, {.code = ErrorCode::range_out_of_bounds, .message = "416"},
                            false);
    transfer.end = ranged ? std::min(p.end, served_bytes(p.file)) : served_bytes(p.file);
    if (!cancelled_.contains(p.id)) transfers_[p.id] = transfer;
    loader_.opened(p.id, transfer.position, ranged,
                   faults_.knows_size ? std::optional(served_bytes(p.file)) : std::nullopt);
  }

  void read(const Pending& p) {
    const auto it = transfers_.find(p.id);
    if (it == transfers_.end()) return loader_.ended(p.id);  // cancelled meanwhile: a stale event
    Transfer& t = it->second;
    if (chance(faults_.cut))
      return loader_.failed(p.id, {.code = ErrorCode::network, .message = "reset"}, true);
    if (t.position >= t.end || chance(faults_.early_end)) return loader_.ended(p.id);
    const uint64_t share = loader_.plan().shares.chunk_bytes;
    const uint64_t most = chance(0.5) ? 1 + dice(7) : 1 + dice(share);
    uint64_t n = std::min(t.end - t.position, most);
    if (cut_at_ && t.position <= *cut_at_ && t.position + n > *cut_at_) {
      n = *cut_at_ - t.position;
      if (n == 0) {
        *cut_at_ += cut_step_;
        if (cut_step_ == 0) cut_at_.reset();
        return loader_.failed(p.id, {.code = ErrorCode::network, .message = "reset"}, true);
      }
    }
    t.chunk.assign(n, std::byte{0});
    const auto& file = files_[t.file];
    if (t.position < file.size())
      std::memcpy(t.chunk.data(), file.data() + t.position,
                  std::min<uint64_t>(n, file.size() - t.position));
    t.position += n;
    out_.received += n;
    loader_.chunk(p.id, n, n % 7 != 0);  // some lie in a file of the host
  }

  void upload(uint32_t slot) {
    busy_[slot] = false;
    if (chance(faults_.fail_upload))
      return loader_.upload_failed(slot, {.code = ErrorCode::device_lost, .message = "lost"});
    for (const UploadPiece& piece : loader_.pieces(slot)) {
      auto& buffer = out_.buffers[piece.buffer];
      if (piece.slot_offset % 4 || piece.buffer_offset % 4 || piece.nbytes % 4)
        return violate("a piece is not aligned to 4 bytes");
      const uint64_t written = piece.codec ? (piece.tensor_nbytes + 3) / 4 * 4 : piece.nbytes;
      if (piece.buffer_offset > buffer.size() || written > buffer.size() - piece.buffer_offset)
        return violate("a piece reaches past its buffer");
      const std::byte* in = slots_[slot].data() + piece.slot_offset;
      std::byte* out = buffer.data() + piece.buffer_offset;
      if (piece.codec == nullptr) {
        std::memcpy(out, in, piece.nbytes);
        continue;
      }
      const uint64_t units = piece.tensor_nbytes / piece.codec->out_bytes;
      const uint64_t stored = units * piece.codec->in_bytes;
      if (units * piece.codec->out_bytes != piece.tensor_nbytes ||
          (stored + 3) / 4 * 4 != piece.nbytes)
        return violate("a piece holds a part of a unit");
      piece.codec->decode(in, out, units);
      std::memset(out + piece.tensor_nbytes, 0, written - piece.tensor_nbytes);
    }
    std::fill(slots_[slot].begin(), slots_[slot].end(), std::byte{0xEE});
    loader_.uploaded(slot);
  }

  void finish() {
    Command command;
    while (loader_.poll(command)) execute(command);
    out_.progress = loader_.progress();
    if (loader_.error()) out_.error = *loader_.error();
    if (!out_.violation.empty()) return;
    if (out_.progress.budget_used != 0) violate("the budget is not given back");
    for (const bool busy : busy_)
      if (busy) violate("a slot is still held");
    if (out_.error) {
      for (const auto& buffer : out_.buffers)
        if (!buffer.empty()) violate("a buffer was not freed after the failure");
      if (!transfers_.empty()) violate("a transfer is still open after the failure");
    } else {
      for (uint32_t t = 0; t < loader_.manifest().tensors.size(); ++t) {
        const int expected = loader_.plan().placements[t].buffer == kNoBuffer ? 0 : 1;
        if (ready_[t] != expected) violate("a tensor was not reported ready exactly once");
      }
    }
  }

  Loader& loader_;
  const std::vector<std::vector<std::byte>>& files_;
  bool staged_;
  std::mt19937_64 random_;
  SimulatedFaults faults_;
  std::vector<std::vector<std::byte>> slots_;
  std::vector<bool> busy_;
  std::map<uint32_t, Transfer> transfers_;
  std::set<uint32_t> cancelled_;
  std::vector<Pending> pending_;
  std::map<uint32_t, int> ready_;
  std::optional<uint64_t> abort_at_;
  std::optional<uint64_t> cut_at_;
  uint64_t cut_step_ = 0;
  SimulatedOutcome out_;
};

}  // namespace sluice::testing
