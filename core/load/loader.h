// The loader: a state machine that says what to do next and is told what happened. It performs no
// I/O, holds no weight bytes but an unfinished unit per transfer, and knows no host.
//
// A host runs it so:
//
//   loader.start();
//   for (;;) {
//     while (loader.poll(command)) execute(command);   // in order
//     if (loader.finished()) break;
//     wait for any completion and report it by the event of that name
//   }
//
// `copy`, `decode` and `zero` are done once execute() returns. Everything else completes later, in
// any order, by exactly one event; an event of a cancelled transfer is ignored, so a host need not
// sort out what was under way. The same commands under a simulated host are the tests
// (loader_test.cc).
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "core/formats/manifest.h"
#include "core/load/budget.h"
#include "core/load/codec.h"
#include "core/load/plan.h"

namespace sluice {

enum class Op : uint32_t {
  // Allocate buffer `target` of `nbytes` bytes. -> allocated() or allocation_failed()
  allocate = 1,
  // Open a transfer, known as `stream` from now on, of file `target`, bytes [begin, end); end 0
  // reads
  // the whole file without a Range. -> opened() or failed()
  open = 2,
  // Give the next chunk of the transfer. -> chunk(), ended() or failed()
  read = 3,
  // Copy `nbytes` bytes of the transfer's chunk, from `begin` on, to `target` at `offset`. The
  // target
  // is a slot when staged, a buffer otherwise; so too for decode and zero.
  copy = 4,
  // Feed `nbytes` bytes of the chunk, from `begin` on, to decode(), which gives `output` bytes for
  // `target` at `offset`. nbytes <= kDecodeInputBytes, output <= kDecodeOutputBytes.
  decode = 5,
  // Clear `nbytes` bytes of `target` at `offset`.
  zero = 6,
  // Bring the pieces of slot `target`, pieces(target), to their buffers. -> uploaded() or
  // upload_failed()
  upload = 7,
  // Report after `nbytes` milliseconds. -> waited()
  wait = 8,
  // Stop a transfer and forget its chunk. No event.
  cancel = 9,
  // Tensor `target` is in its buffer: written, or queued ahead of anything queued from now on. No
  // event.
  tensor_ready = 10,
  // Wait until all uploads have reached their buffers. -> flushed() or flush_failed()
  flush = 11,
  // Free buffer `target`: the load has failed. No event.
  free = 12,
};

// One step for a host. Which fields mean something is said at each Op; the others are 0.
struct Command {
  Op op{};
  uint32_t stream = 0;
  uint32_t target = 0;
  uint32_t tensor = 0;  // copy, decode: index into Manifest::tensors
  uint64_t begin = 0;   // bytes
  uint64_t end = 0;     // bytes
  uint64_t nbytes = 0;  // bytes, or milliseconds
  uint64_t offset = 0;  // bytes
  uint64_t output = 0;  // bytes
};

// Part of a slot and where it goes. Offsets and sizes are in bytes, and multiples of 4 unless said
// otherwise. With a codec, the part holds whole units, which the device expands into the buffer,
// with zeros up to a multiple of 4; without one it is copied.
struct UploadPiece {
  uint32_t buffer = 0;
  uint32_t tensor = 0;
  uint64_t slot_offset = 0;
  uint64_t buffer_offset = 0;
  uint64_t nbytes = 0;         // in the slot, with padding to a multiple of 4
  uint64_t tensor_nbytes = 0;  // in the buffer, without padding
  const Codec* codec = nullptr;
};

struct RetryPolicy {
  uint32_t max_attempts =
      5;  // failures in a row, without a byte between them, until the load fails
  uint64_t first_delay_ms = 200;
  uint64_t max_delay_ms = 10'000;
  // Bytes that may be received a second time, as from a server without ranges, which begins every
  // transfer at the file's first byte; once they are reached, nothing is opened again, so that a
  // load may exceed them by one file. 0 means the larger of 64 MiB and the plan's source bytes.
  uint64_t max_repeated_bytes = 0;
};

struct Progress {
  uint64_t source_bytes_done = 0;  // tensor bytes received and passed on
  uint64_t source_bytes = 0;
  uint64_t output_bytes_done = 0;  // tensor bytes in their buffers
  uint64_t output_bytes = 0;
  uint32_t tensors_done = 0;
  uint32_t tensors = 0;
  uint32_t retries = 0;
  uint64_t budget_used = 0;
  uint64_t budget_peak = 0;
  uint64_t budget_limit = 0;
};

class Loader {
 public:
  // The manifest must be validated and the plan made from it with the same options.
  Loader(Manifest manifest, Plan plan, const PlanOptions& options, RetryPolicy retry = {},
         uint64_t seed = 1);

  // Takes the budget and queues the first commands. Error: budget_too_small.
  Status start();

  // The next command; false when there is none until the next event.
  bool poll(Command& command);

  // Events. Unknown and outdated streams are ignored; whatever else contradicts the commands fails
  // the load with `internal`, so that a faulty host cannot make a wrong tensor.
  void allocated(uint32_t buffer);
  void allocation_failed(uint32_t buffer, Error error);
  // The transfer gives bytes from `begin` on. `ranged` says that the server honours ranges;
  // `file_nbytes` is the file's size where the host learned it.
  void opened(uint32_t stream, uint64_t begin, bool ranged, std::optional<uint64_t> file_nbytes);
  // `held` says that the chunk lies in memory; one that the host reads from a file when it carries
  // out its commands takes nothing of the budget.
  void chunk(uint32_t stream, uint64_t nbytes, bool held = true);
  void ended(uint32_t stream);
  void failed(uint32_t stream, Error error, bool retryable, uint64_t retry_after_ms = 0);
  void waited(uint32_t stream);
  void uploaded(uint32_t slot);
  void upload_failed(uint32_t slot, Error error);
  void flushed();
  void flush_failed(Error error);
  // Ends the load with `aborted`, or with `error`. Does nothing once it is finished.
  void abort(std::optional<Error> error = std::nullopt);

  // Carries out an Op::decode on its input bytes; `out` takes command.output bytes. Commands must
  // be carried out in order, since a unit that a cut divided waits here for its rest.
  void decode(const Command& command, Bytes in, std::byte* out);

  std::span<const UploadPiece> pieces(uint32_t slot) const { return slots_[slot].pieces; }

  // Finished: nothing is under way any more and no event is expected.
  bool finished() const { return state_ == State::done || state_ == State::failed; }
  // The error of a failed load; null while running and after success.
  const Error* error() const { return error_ ? &*error_ : nullptr; }
  Progress progress() const;

  const Manifest& manifest() const { return manifest_; }
  const Plan& plan() const { return plan_; }

 private:
  enum class State : uint8_t { created, streaming, flushing, failing, done, failed };
  enum class StreamState : uint8_t { idle, opening, open, reading, draining, stalled, waiting };
  enum class Ranges : uint8_t { unknown, yes, no };

  struct Stream {
    StreamState state = StreamState::idle;
    uint32_t id = 0;           // of the current transfer; 0 for none
    bool asked_whole = false;  // the transfer was opened without a Range
    uint32_t segment = kNone;
    uint64_t position = 0;           // offset in the file of the next byte wanted
    uint64_t transfer_position = 0;  // offset in the file of the next byte that the transfer gives
    uint64_t chunk_nbytes = 0;
    uint64_t chunk_done = 0;
    uint32_t cursor = 0;          // index into Plan::order of the tensor at or behind `position`
    uint32_t foreseen = 0;        // the same, of the first one whose buffer it has not asked for
    int64_t foreseen_nbytes = 0;  // source bytes between `position` and that one
    uint32_t attempts = 0;
    uint64_t last_failure_position = 0;
    uint32_t slot = kNone;  // the slot that this stream fills
    uint64_t carried = 0;   // bytes of an unfinished unit, once all commands are carried out
    Grant extra;            // for a chunk larger than its share
  };
  struct Slot {
    bool filling = false;
    bool waiting = false;  // full, and not all of its buffers are there
    bool uploading = false;
    uint64_t used = 0;
    std::vector<UploadPiece> pieces;
  };
  struct File {
    Ranges ranges = Ranges::unknown;
    uint32_t owner =
        kNone;  // the stream that alone reads a file whose ranges are unknown or absent
    uint64_t received_to = 0;  // offset behind the furthest byte that was received
  };
  static constexpr uint32_t kNone = UINT32_MAX;

  Stream* find(uint32_t id);
  uint32_t new_id(const Stream& stream);
  void emit(Command command) { commands_.push_back(command); }
  void allocate_more();
  void ask_ahead(Stream& stream);
  void ask_for(uint32_t buffer);
  bool all_allocated() const {
    return first_unasked_ == plan_.buffers.size() && buffers_pending_ == 0;
  }
  void on_all_allocated();
  void dispatch();
  uint32_t next_segment(uint32_t stream);
  void take_segment(uint32_t stream, uint32_t segment);
  void open_transfer(Stream& stream);
  void close_transfer(Stream& stream);
  void segment_done(uint32_t stream);
  void leave_segment(Stream& stream);
  void consume(uint32_t stream);
  void skip(Stream& stream, uint64_t nbytes);
  bool consume_tensor(Stream& stream, uint32_t tensor, uint64_t available);
  bool ensure_slot(Stream& stream);
  void append_piece(Stream& stream, uint32_t tensor, uint64_t output_offset, uint64_t nbytes);
  void pad_output(Stream& stream);
  void submit_slot(Stream& stream);
  void upload(uint32_t slot);
  void resume_stalled();
  void tensor_bytes_done(uint32_t tensor, uint64_t nbytes);
  void retry(Stream& stream, Error error, bool retryable, uint64_t retry_after_ms);
  void fail(Error error);
  void check_end();
  void settle();
  Error wrong_event(const char* what) const;
  Error at_file(ErrorCode code, uint32_t file, std::string message) const;

  Manifest manifest_;
  Plan plan_;
  PlanOptions options_;
  RetryPolicy retry_;
  uint64_t random_;
  Budget budget_;
  Grant grant_;
  State state_ = State::created;
  std::optional<Error> error_;
  std::deque<Command> commands_;
  std::vector<Stream> streams_;
  std::vector<Slot> slots_;
  std::vector<File> files_;
  std::vector<uint8_t> segment_taken_;
  uint32_t first_open_segment_ = 0;
  uint32_t segments_done_ = 0;
  std::vector<uint8_t> buffer_state_;  // 0 not asked, 1 under way, 2 there
  uint32_t first_unasked_ = 0;         // no buffer before it is still to be asked for
  uint64_t asked_bytes_ = 0;           // of all buffers asked for
  uint64_t output_bytes_staged_ = 0;   // in slots, or beyond
  uint64_t allocating_bytes_ = 0;      // of buffers under way
  uint32_t buffers_pending_ = 0;
  uint32_t uploads_pending_ = 0;
  bool flush_pending_ = false;
  uint32_t transfers_opened_ = 0;
  uint64_t repeated_bytes_ = 0;                         // received before and passed over
  std::vector<std::optional<StreamDecoder>> decoders_;  // one a stream
  std::vector<uint64_t> tensor_missing_;                // output bytes not yet in their buffer
  Progress progress_;
};

}  // namespace sluice
