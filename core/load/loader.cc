#include "core/load/loader.h"

#include <algorithm>
#include <utility>

namespace sluice {
namespace {

constexpr uint64_t kDefaultRepeatedBytes = 64ull << 20;
// On an H100 a buffer was there 2 to 5 ms after it was asked for, between uploads of 1 ms from a
// disk. A network is slower, and buffers are asked for as its bytes come.
constexpr uint64_t kForeseenSlots = 8;
constexpr uint64_t kForeseenSlotsOfNetwork = 2;

}  // namespace

Loader::Loader(Manifest manifest, Plan plan, const PlanOptions& options, RetryPolicy retry,
               uint64_t seed)
    : manifest_(std::move(manifest)),
      plan_(std::move(plan)),
      options_(options),
      retry_(retry),
      random_(seed | 1),
      budget_(options.budget_bytes) {
  streams_.resize(plan_.shares.connections);
  decoders_.resize(plan_.shares.connections);
  slots_.resize(plan_.shares.slots);
  files_.resize(manifest_.files.size());
  segment_taken_.resize(plan_.segments.size());
  buffer_state_.resize(plan_.buffers.size());
  tensor_missing_.resize(plan_.placements.size());
  if (retry_.max_repeated_bytes == 0)
    retry_.max_repeated_bytes = std::max(kDefaultRepeatedBytes, plan_.source_bytes);
  progress_.source_bytes = plan_.source_bytes;
  progress_.output_bytes = plan_.output_bytes;
  progress_.budget_limit = options.budget_bytes;
  for (size_t t = 0; t < plan_.placements.size(); ++t) {
    if (plan_.placements[t].buffer == kNoBuffer) continue;
    tensor_missing_[t] = plan_.placements[t].nbytes;
    ++progress_.tensors;
  }
}

Status Loader::start() {
  if (state_ != State::created)
    return std::unexpected(
        Error{.code = ErrorCode::internal, .message = "the loader was started twice"});
  SLUICE_ASSIGN(grant_,
                budget_.take(plan_.shares.total(options_.slot_copies, options_.copied_slots),
                             "staging and transfers"));
  state_ = State::streaming;
  // Bytes may gather in slots while the device makes the buffers; without slots they have nowhere
  // to go before
  if (options_.staged) dispatch();
  allocate_more();
  if (all_allocated()) on_all_allocated();
  return {};
}

bool Loader::poll(Command& command) {
  if (commands_.empty()) return false;
  command = commands_.front();
  commands_.pop_front();
  return true;
}

Progress Loader::progress() const {
  Progress progress = progress_;
  progress.budget_used = budget_.used();
  progress.budget_peak = budget_.peak();
  return progress;
}

// --- Allocation
// ------------------------------------------------------------------------------------

void Loader::allocate_more() {
  const bool all_staged = progress_.source_bytes_done == plan_.source_bytes;
  const uint64_t ahead = output_bytes_staged_ * options_.allocate_ahead;
  for (; first_unasked_ < plan_.buffers.size(); ++first_unasked_) {
    if (buffer_state_[first_unasked_] != 0) continue;
    const uint64_t nbytes = plan_.buffers[first_unasked_].nbytes;
    if (buffers_pending_ > 0 && allocating_bytes_ + nbytes > options_.allocating_bytes) return;
    if (options_.staged && !all_staged && asked_bytes_ + nbytes > ahead) return;
    ask_for(first_unasked_);
  }
}

// Asks for the buffers of the bytes that come next, also those of other segments: a device answers
// when it has done what it was told before, which takes as long as some slots.
void Loader::ask_ahead(Stream& stream) {
  if (!options_.staged) return;
  const uint64_t slots = options_.allocate_ahead == 0 ? kForeseenSlots : kForeseenSlotsOfNetwork;
  const auto wanted = static_cast<int64_t>(slots * plan_.shares.slot_bytes);
  while (stream.foreseen < plan_.order.size() && stream.foreseen_nbytes < wanted) {
    const uint32_t t = plan_.order[stream.foreseen++];
    ask_for(plan_.placements[t].buffer);
    stream.foreseen_nbytes += static_cast<int64_t>(manifest_.tensors[t].nbytes);
  }
}

void Loader::ask_for(uint32_t buffer) {
  if (buffer_state_[buffer] != 0) return;
  const uint64_t nbytes = plan_.buffers[buffer].nbytes;
  emit({.op = Op::allocate, .target = buffer, .nbytes = nbytes});
  buffer_state_[buffer] = 1;
  asked_bytes_ += nbytes;
  allocating_bytes_ += nbytes;
  ++buffers_pending_;
}

void Loader::allocated(uint32_t buffer) {
  if (buffer >= buffer_state_.size() || buffer_state_[buffer] != 1)
    return fail(wrong_event("allocated"));
  buffer_state_[buffer] = 2;
  allocating_bytes_ -= plan_.buffers[buffer].nbytes;
  --buffers_pending_;
  if (state_ == State::failing) return settle();
  allocate_more();
  for (uint32_t slot = 0; slot < slots_.size(); ++slot)
    if (slots_[slot].waiting) upload(slot);
  if (all_allocated()) on_all_allocated();
}

void Loader::allocation_failed(uint32_t buffer, Error error) {
  if (buffer >= buffer_state_.size() || buffer_state_[buffer] != 1)
    return fail(wrong_event("allocation_failed"));
  buffer_state_[buffer] = 0;
  --buffers_pending_;
  if (state_ == State::failing) return settle();
  fail(std::move(error));
}

// Every buffer is there: tensors without bytes are complete, and bytes without slots have a place.
void Loader::on_all_allocated() {
  for (uint32_t t = 0; t < plan_.placements.size(); ++t)
    if (plan_.placements[t].buffer != kNoBuffer && plan_.placements[t].nbytes == 0)
      tensor_bytes_done(t, 0);
  if (!options_.staged) dispatch();
  check_end();
}

// --- Transfers
// -------------------------------------------------------------------------------------

// The number of a transfer tells its stream, and is used once.
uint32_t Loader::new_id(const Stream& stream) {
  const auto count = static_cast<uint32_t>(streams_.size());
  return ++transfers_opened_ * count + static_cast<uint32_t>(&stream - streams_.data());
}

Loader::Stream* Loader::find(uint32_t id) {
  if (id == 0 || streams_.empty()) return nullptr;
  Stream& stream = streams_[id % streams_.size()];
  return stream.id == id ? &stream : nullptr;
}

// Gives every idle stream its next segment, as long as there is one it may take.
void Loader::dispatch() {
  if (state_ != State::streaming) return;
  for (uint32_t s = 0; s < streams_.size(); ++s) {
    if (streams_[s].state != StreamState::idle) continue;
    const uint32_t segment = next_segment(s);
    if (segment == kNone) {
      // Nothing left for it: what it has gathered must not wait
      submit_slot(streams_[s]);
      continue;
    }
    take_segment(s, segment);
    open_transfer(streams_[s]);
  }
}

// The first segment that is not taken. A file of which it is not known whether its server honours
// ranges belongs to one stream until that is known; one without ranges stays with its stream.
uint32_t Loader::next_segment(uint32_t stream) {
  while (first_open_segment_ < segment_taken_.size() && segment_taken_[first_open_segment_])
    ++first_open_segment_;
  for (uint32_t i = first_open_segment_; i < segment_taken_.size(); ++i) {
    if (segment_taken_[i]) continue;
    const File& file = files_[plan_.segments[i].file];
    if (file.ranges == Ranges::yes || file.owner == kNone || file.owner == stream) return i;
  }
  return kNone;
}

void Loader::take_segment(uint32_t s, uint32_t segment) {
  Stream& stream = streams_[s];
  segment_taken_[segment] = 1;
  File& file = files_[plan_.segments[segment].file];
  if (file.ranges != Ranges::yes) file.owner = s;
  stream.segment = segment;
  stream.position = plan_.segments[segment].begin;
  stream.cursor = plan_.segments[segment].first_tensor;
  stream.foreseen = stream.cursor;
  // A segment may begin inside a tensor
  stream.foreseen_nbytes =
      static_cast<int64_t>(manifest_.tensors[plan_.order[stream.cursor]].offset - stream.position);
  stream.attempts = 0;
  ask_ahead(stream);
}

void Loader::open_transfer(Stream& stream) {
  const Segment& segment = plan_.segments[stream.segment];
  const File& file = files_[segment.file];
  stream.id = new_id(stream);
  stream.state = StreamState::opening;
  Command command{.op = Op::open, .stream = stream.id, .target = segment.file};
  // A server without ranges sends the whole file whatever is asked
  stream.asked_whole =
      file.ranges == Ranges::no || (segment.whole_file && stream.position == segment.begin);
  if (!stream.asked_whole) {
    command.begin = stream.position;
    command.end = segment.end;
  }
  emit(command);
}

void Loader::close_transfer(Stream& stream) {
  if (stream.id != 0 && stream.state != StreamState::waiting)
    emit({.op = Op::cancel, .stream = stream.id});
  stream.id = 0;
  stream.chunk_nbytes = stream.chunk_done = 0;
  stream.extra.release();
}

void Loader::opened(uint32_t id, uint64_t begin, bool ranged, std::optional<uint64_t> file_nbytes) {
  Stream* stream = find(id);
  if (stream == nullptr) return;
  if (stream->state != StreamState::opening) return fail(wrong_event("opened"));
  const Segment& segment = plan_.segments[stream->segment];
  FileEntry& entry = manifest_.files[segment.file];
  if (file_nbytes && entry.nbytes && *file_nbytes != *entry.nbytes) {
    Error error =
        at_file(*file_nbytes < *entry.nbytes ? ErrorCode::truncated : ErrorCode::size_mismatch,
                segment.file,
                concat("file '", entry.path, "' has ", *file_nbytes,
                       " bytes; its manifest promises ", *entry.nbytes));
    error.expected = entry.nbytes;
    error.actual = file_nbytes;
    error.hint = "publish the file again, or a manifest that fits it";
    return fail(std::move(error));
  }
  if (file_nbytes && !entry.nbytes) {
    // A size learned only now: every tensor must end inside it
    for (const uint32_t t : plan_.order) {
      const TensorEntry& tensor = manifest_.tensors[t];
      if (tensor.file != segment.file || tensor.offset + tensor.nbytes <= *file_nbytes) continue;
      Error error =
          at_file(ErrorCode::truncated, segment.file,
                  concat("tensor '", tensor.name, "' ends at byte ", tensor.offset + tensor.nbytes,
                         ", but file '", entry.path, "' has ", *file_nbytes));
      error.tensor = tensor.name;
      error.expected = tensor.offset + tensor.nbytes;
      error.actual = file_nbytes;
      return fail(std::move(error));
    }
    entry.nbytes = file_nbytes;
  }
  if (begin > stream->position) {
    return retry(*stream,
                 at_file(ErrorCode::range_out_of_bounds, segment.file,
                         concat("asked for file '", entry.path, "' from byte ", stream->position,
                                ", but its server answered from byte ", begin)),
                 true, 0);
  }
  File& file = files_[segment.file];
  const auto self = static_cast<uint32_t>(stream - streams_.data());
  if (ranged) {
    file.ranges = Ranges::yes;
    file.owner = kNone;
  } else if (!stream->asked_whole) {
    // A range was asked for and the whole file came; a whole file asked for as such says nothing
    file.ranges = Ranges::no;
    const bool untouched = stream->position == segment.begin;
    if (file.owner != kNone && file.owner != self && untouched) {
      // Another stream reads this file to its end already; this one leaves its segment to it,
      // unless bytes of it are passed on, which must not happen twice
      segment_taken_[stream->segment] = 0;
      first_open_segment_ = std::min(first_open_segment_, stream->segment);
      close_transfer(*stream);
      stream->segment = kNone;
      stream->state = StreamState::idle;
      return dispatch();
    }
    if (file.owner == kNone) file.owner = self;
  }
  stream->transfer_position = begin;
  stream->state = StreamState::reading;
  emit({.op = Op::read, .stream = stream->id});
  dispatch();
}

void Loader::chunk(uint32_t id, uint64_t nbytes, bool held) {
  Stream* stream = find(id);
  if (stream == nullptr) return;
  const bool draining = stream->state == StreamState::draining;
  if ((stream->state != StreamState::reading && !draining) || nbytes == 0)
    return fail(wrong_event("chunk"));
  const Segment& segment = plan_.segments[stream->segment];
  const FileEntry& file = manifest_.files[segment.file];
  if (file.nbytes && nbytes > *file.nbytes - std::min(*file.nbytes, stream->transfer_position)) {
    Error error = at_file(ErrorCode::size_mismatch, segment.file,
                          concat("file '", file.path, "' is longer than the ", *file.nbytes,
                                 " bytes promised: at least ", stream->transfer_position + nbytes));
    error.expected = file.nbytes;
    error.actual = stream->transfer_position + nbytes;
    return fail(std::move(error));
  }
  if (draining) {
    stream->transfer_position += nbytes;
    return emit({.op = Op::read, .stream = id});
  }
  if (held && nbytes > plan_.shares.chunk_bytes)
    stream->extra = budget_.take_existing(nbytes - plan_.shares.chunk_bytes);
  stream->chunk_nbytes = nbytes;
  stream->chunk_done = 0;
  stream->state = StreamState::open;
  consume(static_cast<uint32_t>(stream - streams_.data()));
  resume_stalled();
  check_end();
}

void Loader::ended(uint32_t id) {
  Stream* stream = find(id);
  if (stream == nullptr) return;
  if (stream->state == StreamState::draining) {
    leave_segment(*stream);
    return check_end();
  }
  if (stream->state != StreamState::reading) return fail(wrong_event("ended"));
  const Segment& segment = plan_.segments[stream->segment];
  const TensorEntry& tensor = manifest_.tensors[plan_.order[stream->cursor]];
  Error error = at_file(ErrorCode::truncated, segment.file,
                        concat("file '", manifest_.files[segment.file].path, "' ended at byte ",
                               stream->transfer_position, " while byte ", segment.end,
                               " was promised, inside or before tensor '", tensor.name, "'"));
  error.tensor = tensor.name;
  error.expected = segment.end;
  error.actual = stream->transfer_position;
  error.hint = "the transfer was cut, or the published file is shorter than its manifest says";
  retry(*stream, std::move(error), true, 0);
}

void Loader::failed(uint32_t id, Error error, bool retryable, uint64_t retry_after_ms) {
  Stream* stream = find(id);
  if (stream == nullptr) return;
  if (stream->state == StreamState::draining) {
    // Every byte that was wanted is here
    leave_segment(*stream);
    return check_end();
  }
  if (stream->state != StreamState::reading && stream->state != StreamState::opening)
    return fail(wrong_event("failed"));
  if (error.code == ErrorCode::range_out_of_bounds && !retryable) {
    // The range lies inside what the manifest promises, so the file is shorter than that
    const Segment& segment = plan_.segments[stream->segment];
    Error truncated = at_file(
        ErrorCode::truncated, segment.file,
        concat("file '", manifest_.files[segment.file].path, "' ends before byte ",
               stream->position, " while byte ", segment.end, " was promised; ", error.message));
    truncated.expected = segment.end;
    truncated.actual = stream->position;
    return fail(std::move(truncated));
  }
  retry(*stream, std::move(error), retryable, retry_after_ms);
}

void Loader::retry(Stream& stream, Error error, bool retryable, uint64_t retry_after_ms) {
  if (stream.position != stream.last_failure_position) stream.attempts = 0;
  stream.last_failure_position = stream.position;
  ++stream.attempts;
  const bool repeats_too_much = repeated_bytes_ >= retry_.max_repeated_bytes;
  if (!retryable || stream.attempts >= retry_.max_attempts || repeats_too_much) {
    if (retryable && stream.attempts > 1)
      error.message += concat("; tried ", stream.attempts, " times");
    if (retryable && repeats_too_much) {
      error.message +=
          concat("; given up after ", repeated_bytes_, " bytes were received again, of ",
                 retry_.max_repeated_bytes, " that may be");
      error.hint = "use a server that honours Range: others send the file from its start again";
    }
    return fail(std::move(error));
  }
  close_transfer(stream);
  ++progress_.retries;
  random_ ^= random_ << 13;
  random_ ^= random_ >> 7;
  random_ ^= random_ << 17;
  uint64_t delay = std::min(retry_.first_delay_ms << (stream.attempts - 1), retry_.max_delay_ms);
  delay += random_ % (delay / 4 + 1);  // so that many transfers do not come back at once
  stream.id = new_id(stream);
  stream.state = StreamState::waiting;
  emit({.op = Op::wait, .stream = stream.id, .nbytes = std::max(delay, retry_after_ms)});
}

void Loader::waited(uint32_t id) {
  Stream* stream = find(id);
  if (stream == nullptr) return;
  if (stream->state != StreamState::waiting) return fail(wrong_event("waited"));
  open_transfer(*stream);
}

// --- Bytes
// -----------------------------------------------------------------------------------------

// Passes on as much of the stream's chunk as there is room for, then asks for the next one.
void Loader::consume(uint32_t s) {
  Stream& stream = streams_[s];
  stream.state = StreamState::open;
  while (stream.chunk_done < stream.chunk_nbytes) {
    const Segment& segment = plan_.segments[stream.segment];
    const uint64_t left = stream.chunk_nbytes - stream.chunk_done;
    // Bytes before the position: the server began earlier than asked, or a gap was read through
    uint64_t wanted = segment.end;
    uint32_t tensor = kNone;
    if (stream.position < segment.end) {
      tensor = plan_.order[stream.cursor];
      wanted = std::max(stream.position, manifest_.tensors[tensor].offset);
    }
    if (stream.position == segment.end) {
      segment_done(s);
      if (stream.state != StreamState::open) return;  // the rest of the chunk is nobody's
      continue;
    }
    if (stream.transfer_position < wanted) {
      skip(stream, std::min(left, wanted - stream.transfer_position));
      continue;
    }
    if (!consume_tensor(stream, tensor, left)) {
      stream.state = StreamState::stalled;
      return;
    }
  }
  stream.extra.release();
  if (stream.position == plan_.segments[stream.segment].end) {
    segment_done(s);
    if (stream.state != StreamState::open) return;
  }
  if (budget_.exceeded()) {
    // Others hold chunks larger than foreseen; nothing new until those are passed on
    stream.state = StreamState::stalled;
    return;
  }
  stream.state = StreamState::reading;
  emit({.op = Op::read, .stream = stream.id});
}

// Passes over bytes of the stream's chunk that are not wanted, or not again.
void Loader::skip(Stream& stream, uint64_t nbytes) {
  File& file = files_[plan_.segments[stream.segment].file];
  const uint64_t end = stream.transfer_position + nbytes;
  const uint64_t known = std::min({end, stream.position, file.received_to});
  repeated_bytes_ += known - std::min(known, stream.transfer_position);
  file.received_to = std::max(file.received_to, end);
  stream.chunk_done += nbytes;
  stream.transfer_position = end;
  stream.position = std::max(stream.position, end);
}

// Passes on bytes of `tensor`, at most `available`. False when there is no slot for them.
bool Loader::consume_tensor(Stream& stream, uint32_t t, uint64_t available) {
  const Segment& segment = plan_.segments[stream.segment];
  const TensorEntry& tensor = manifest_.tensors[t];
  const Placement& placement = plan_.placements[t];
  const uint64_t end = std::min(tensor.offset + tensor.nbytes, segment.end);
  uint64_t take = std::min(available, end - stream.position);
  if (!ensure_slot(stream)) return false;
  const Slot* slot = options_.staged ? &slots_[stream.slot] : nullptr;
  const uint64_t room = slot ? plan_.shares.slot_bytes - slot->used : UINT64_MAX;
  const uint64_t done = stream.position - tensor.offset;
  Command command{.stream = stream.id, .tensor = t, .begin = stream.chunk_done};
  uint64_t output = 0;
  uint64_t output_offset = 0;
  if (placement.codec == nullptr) {
    take = std::min(take, room);
    output = take;
    output_offset = done;
    command.op = Op::copy;
  } else if (placement.on_device) {
    // Parts of a pair of units may come one by one, but its place in this slot is certain
    const Codec& codec = *placement.codec;
    const uint64_t pair = codec.pair_bytes();
    const uint64_t begun = done % pair;
    take = std::min(take, (begun + room) / pair * pair - begun);
    output = take;
    output_offset = done / codec.in_bytes * codec.out_bytes;
    command.op = Op::copy;
  } else {
    const Codec& codec = *placement.codec;
    output_offset = (done - stream.carried) / codec.in_bytes * codec.out_bytes;
    const uint64_t units = std::min(room, kDecodeOutputBytes) / codec.out_bytes;
    take = std::min({take, (units + 1) * codec.in_bytes - 1 - stream.carried, kDecodeInputBytes});
    output = (stream.carried + take) / codec.in_bytes * codec.out_bytes;
    stream.carried = (stream.carried + take) % codec.in_bytes;
    command.op = Op::decode;
  }
  if (take == 0) {
    // The slot has less room left than one unit needs, or two where the device expands them
    submit_slot(stream);
    return consume_tensor(stream, t, available);
  }
  command.nbytes = take;
  command.output = output;
  if (slot) {
    command.target = stream.slot;
    command.offset = slot->used;
  } else {
    command.target = placement.buffer;
    command.offset = placement.offset + output_offset;
  }
  emit(command);
  if (output > 0) append_piece(stream, t, output_offset, output);
  stream.chunk_done += take;
  stream.position += take;
  stream.transfer_position += take;
  File& file = files_[segment.file];
  file.received_to = std::max(file.received_to, stream.transfer_position);
  progress_.source_bytes_done += take;
  stream.foreseen_nbytes -= static_cast<int64_t>(take);
  if (stream.position == tensor.offset + tensor.nbytes) {
    ++stream.cursor;
    pad_output(stream);
  }
  ask_ahead(stream);
  allocate_more();
  if (options_.staged && slots_[stream.slot].used == plan_.shares.slot_bytes) submit_slot(stream);
  return true;
}

// Gives the stream a free slot to fill if it has none. Always true when not staged.
bool Loader::ensure_slot(Stream& stream) {
  if (!options_.staged || stream.slot != kNone) return true;
  for (uint32_t i = 0; i < slots_.size(); ++i) {
    Slot& slot = slots_[i];
    if (slot.filling || slot.waiting || slot.uploading) continue;
    slot.filling = true;
    slot.used = 0;
    slot.pieces.clear();
    stream.slot = i;
    return true;
  }
  return false;
}

// Accounts for `nbytes` bytes: in the slot, for `output_offset` of the tensor, or written when not
// staged.
void Loader::append_piece(Stream& stream, uint32_t t, uint64_t output_offset, uint64_t nbytes) {
  if (!options_.staged) return tensor_bytes_done(t, nbytes);
  const Placement& placement = plan_.placements[t];
  Slot& slot = slots_[stream.slot];
  const uint64_t buffer_offset = placement.offset + output_offset;
  const bool continues = [&] {
    if (slot.pieces.empty()) return false;
    const UploadPiece& last = slot.pieces.back();
    return last.tensor == t && last.slot_offset + last.nbytes == slot.used &&
           last.buffer_offset + last.tensor_nbytes == buffer_offset;
  }();
  if (!continues)
    slot.pieces.push_back({.buffer = placement.buffer,
                           .tensor = t,
                           .slot_offset = slot.used,
                           .buffer_offset = buffer_offset,
                           .codec = placement.on_device ? placement.codec : nullptr});
  UploadPiece& piece = slot.pieces.back();
  const uint64_t before = piece.tensor_nbytes;
  piece.nbytes += nbytes;
  piece.tensor_nbytes =
      piece.codec ? piece.nbytes / piece.codec->in_bytes * piece.codec->out_bytes : piece.nbytes;
  output_bytes_staged_ += piece.tensor_nbytes - before;
  slot.used += nbytes;
}

// Pads a tensor's last bytes to the 4 bytes that WebGPU copies; its buffer has room for them.
void Loader::pad_output(Stream& stream) {
  if (!options_.staged) return;
  Slot& slot = slots_[stream.slot];
  const uint64_t padding = (4 - slot.used % 4) % 4;
  if (padding == 0) return;
  emit({.op = Op::zero, .target = stream.slot, .nbytes = padding, .offset = slot.used});
  slot.used += padding;
  slot.pieces.back().nbytes += padding;
}

void Loader::submit_slot(Stream& stream) {
  if (stream.slot == kNone) return;
  const uint32_t index = std::exchange(stream.slot, kNone);
  Slot& slot = slots_[index];
  slot.filling = false;
  if (slot.used > 0) upload(index);
}

// Sends a full slot on its way, or has it wait for its buffers.
void Loader::upload(uint32_t index) {
  Slot& slot = slots_[index];
  slot.waiting = std::ranges::any_of(
      slot.pieces, [&](const UploadPiece& piece) { return buffer_state_[piece.buffer] != 2; });
  if (slot.waiting) return;
  slot.uploading = true;
  ++uploads_pending_;
  emit({.op = Op::upload, .target = index});
}

// The stream's position is at its segment's end: on to the next one, on the same transfer where
// that goes on anyway.
void Loader::segment_done(uint32_t s) {
  Stream& stream = streams_[s];
  const uint32_t file_index = plan_.segments[stream.segment].file;
  File& file = files_[file_index];
  const uint32_t next = stream.segment + 1;
  const bool same_file = next < plan_.segments.size() && plan_.segments[next].file == file_index;
  if (file.ranges == Ranges::no && same_file && !segment_taken_[next]) {
    ++segments_done_;
    take_segment(s, next);
    return;
  }
  if (stream.asked_whole && plan_.segments[stream.segment].whole_file) {
    // Read to its end, so that a file longer than promised is noticed
    stream.transfer_position += stream.chunk_nbytes - stream.chunk_done;
    const auto& nbytes = manifest_.files[file_index].nbytes;
    if (!nbytes || stream.transfer_position <= *nbytes) {
      stream.extra.release();
      stream.state = StreamState::draining;
      emit({.op = Op::read, .stream = stream.id});
      return;
    }
  }
  leave_segment(stream);
}

void Loader::leave_segment(Stream& stream) {
  ++segments_done_;
  File& file = files_[plan_.segments[stream.segment].file];
  if (file.owner == static_cast<uint32_t>(&stream - streams_.data())) file.owner = kNone;
  close_transfer(stream);
  stream.segment = kNone;
  stream.state = StreamState::idle;
  dispatch();
}

// --- Uploads
// ---------------------------------------------------------------------------------------

void Loader::uploaded(uint32_t index) {
  if (index >= slots_.size() || !slots_[index].uploading) return fail(wrong_event("uploaded"));
  Slot& slot = slots_[index];
  slot.uploading = false;
  --uploads_pending_;
  if (state_ == State::failing) return settle();
  for (const UploadPiece& piece : slot.pieces) tensor_bytes_done(piece.tensor, piece.tensor_nbytes);
  resume_stalled();
  check_end();
}

void Loader::upload_failed(uint32_t index, Error error) {
  if (index >= slots_.size() || !slots_[index].uploading) return fail(wrong_event("upload_failed"));
  slots_[index].uploading = false;
  --uploads_pending_;
  if (error.tensor.empty() && !slots_[index].pieces.empty())
    error.tensor = manifest_.tensors[slots_[index].pieces.front().tensor].name;
  if (state_ == State::failing) return settle();
  fail(std::move(error));
}

void Loader::resume_stalled() {
  for (uint32_t s = 0; s < streams_.size() && state_ == State::streaming; ++s)
    if (streams_[s].state == StreamState::stalled) consume(s);
}

void Loader::tensor_bytes_done(uint32_t t, uint64_t nbytes) {
  tensor_missing_[t] -= nbytes;
  progress_.output_bytes_done += nbytes;
  if (tensor_missing_[t] > 0) return;
  ++progress_.tensors_done;
  emit({.op = Op::tensor_ready, .target = t});
}

// --- The end
// ---------------------------------------------------------------------------------------

void Loader::check_end() {
  if (state_ != State::streaming || segments_done_ != plan_.segments.size() || !all_allocated() ||
      uploads_pending_ > 0)
    return;
  state_ = State::flushing;
  flush_pending_ = true;
  emit({.op = Op::flush});
}

void Loader::flushed() {
  if (!flush_pending_) return fail(wrong_event("flushed"));
  flush_pending_ = false;
  if (state_ == State::failing) return settle();
  if (progress_.tensors_done != progress_.tensors) return fail(wrong_event("flushed"));
  state_ = State::done;
  grant_.release();
}

void Loader::flush_failed(Error error) {
  if (!flush_pending_) return fail(wrong_event("flush_failed"));
  flush_pending_ = false;
  if (state_ == State::failing) return settle();
  fail(std::move(error));
}

void Loader::abort(std::optional<Error> error) {
  if (finished()) return;
  fail(error ? *std::move(error)
             : Error{.code = ErrorCode::aborted, .message = "the load was aborted by its caller"});
}

// Keeps the first error, stops every transfer, and waits for what cannot be stopped.
void Loader::fail(Error error) {
  if (state_ == State::failing || finished()) return;
  error_ = std::move(error);
  state_ = State::failing;
  // What was not begun will not be: only cancellations of known transfers go out from here
  std::deque<Command> queued = std::exchange(commands_, {});
  for (const Command& command : queued) {
    if (command.op == Op::allocate) {
      buffer_state_[command.target] = 0;
      --buffers_pending_;
    } else if (command.op == Op::upload) {
      slots_[command.target].uploading = false;
      --uploads_pending_;
    } else if (command.op == Op::flush) {
      flush_pending_ = false;
    } else if (command.op == Op::cancel) {
      emit(command);
    }
  }
  for (Stream& stream : streams_) {
    if (stream.id != 0) emit({.op = Op::cancel, .stream = stream.id});
    stream.id = 0;
    stream.extra.release();
    stream.state = StreamState::idle;
  }
  settle();
}

void Loader::settle() {
  if (buffers_pending_ > 0 || uploads_pending_ > 0 || flush_pending_) return;
  for (uint32_t b = 0; b < buffer_state_.size(); ++b)
    if (std::exchange(buffer_state_[b], 0) == 2) emit({.op = Op::free, .target = b});
  grant_.release();
  state_ = State::failed;
}

void Loader::decode(const Command& command, Bytes in, std::byte* out) {
  std::optional<StreamDecoder>& decoder = decoders_[command.stream % decoders_.size()];
  const Codec* codec = plan_.placements[command.tensor].codec;
  // Tensors and ranges begin and end on whole units, so nothing is carried over to another codec
  if (!decoder || &decoder->codec() != codec) decoder.emplace(codec);
  decoder->feed(in, out);
}

Error Loader::wrong_event(const char* what) const {
  return {.code = ErrorCode::internal,
          .message = concat("the host reported '", what, "' where the loader expected none")};
}

Error Loader::at_file(ErrorCode code, uint32_t file, std::string message) const {
  return {.code = code, .message = std::move(message), .file = manifest_.files[file].path};
}

}  // namespace sluice
