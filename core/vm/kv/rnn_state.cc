// vm.builtin.rnn_state_*. Names and orders of arguments are those of src/runtime/vm/rnn_state.cc in
// apache-tvm 0.27.
#include "core/vm/kv/rnn_state.h"

#include <algorithm>
#include <utility>

#include "core/base/checked.h"
#include "core/vm/kv/kv.h"

namespace sluice::vm {
namespace {

using ffi::Args;
using ffi::ArrayObject;
using ffi::FunctionObject;
using ffi::raise_value;
using ffi::Ref;
using ffi::TensorObject;

}  // namespace

RnnState::RnnState(RnnStateConfig config)
    : KvState(KvStateKind::rnn_state),
      config_(std::move(config)),
      slots_(config_.initial[0]->tensor.device),
      histories_(config_.initial[0]->tensor.device) {
  clear();
}

std::unique_ptr<RnnState> RnnState::create(RnnStateConfig config, std::string_view function) {
  std::unique_ptr<RnnState> state(new RnnState(std::move(config)));
  if (state->allocate(function) != 0) return nullptr;
  return state;
}

int RnnState::allocate(std::string_view function) {
  for (int64_t layer = 0; layer < config_.layers; ++layer) {
    std::vector<TensorRef>& kinds = storages_.emplace_back();
    for (const TensorRef& initial : config_.initial) {
      const DLTensor& like = initial->tensor;
      std::vector<int64_t> shape = {config_.max_sequences, config_.history};
      shape.insert(shape.end(), like.shape, like.shape + like.ndim);
      kinds.push_back(runtime::empty(shape, like.dtype, like.device, function));
      if (!kinds.back()) return -1;
    }
  }
  return 0;
}

void RnnState::clear() {
  sequences_.clear();
  pass_.reset();
  free_slots_.clear();
  for (int64_t slot = config_.max_sequences; slot-- > 0;) free_slots_.push_back(slot);
}

// ---- Storage ----

// The states of a slot, or, with `skipped` 2, the one of a history
DLTensor RnnState::part(const DLTensor& storage, int64_t slot, int64_t history,
                        int32_t skipped) const {
  uint64_t bytes = static_cast<uint64_t>(storage.dtype.bits) * storage.dtype.lanes / 8;
  for (int32_t i = 2; i < storage.ndim; ++i) bytes *= static_cast<uint64_t>(storage.shape[i]);
  DLTensor out = storage;
  out.ndim -= skipped;
  out.shape += skipped;
  out.strides = nullptr;
  out.byte_offset += bytes * static_cast<uint64_t>(slot * config_.history + history);
  return out;
}

const RnnState::TensorRef* RnnState::storage(int64_t layer, int64_t state,
                                             std::string_view function) const {
  const auto kinds = static_cast<int64_t>(config_.initial.size());
  if (layer >= 0 && layer < config_.layers && state >= 0 && state < kinds)
    return &storages_[static_cast<size_t>(layer)][static_cast<size_t>(state)];
  raise_value(concat(function, ": state ", state, " of layer ", layer, ", there are ", kinds,
                     " states in ", config_.layers, " layers"));
  return nullptr;
}

// The first values
int RnnState::fill(const Sequence& sequence, std::string_view function) {
  for (const auto& kinds : storages_)
    for (size_t i = 0; i < kinds.size(); ++i)
      if (runtime::copy(config_.initial[i]->tensor,
                        part(kinds[i]->tensor, sequence.slot, sequence.present, 2), function) != 0)
        return -1;
  return 0;
}

// ---- Sequences ----

RnnState::Sequence* RnnState::find(int64_t id, std::string_view function) {
  const auto found = sequences_.find(id);
  if (found != sequences_.end()) return &found->second;
  raise_value(concat(function, ": there is no sequence ", id));
  return nullptr;
}

int RnnState::require_idle(std::string_view function) const {
  if (!pass_) return 0;
  return raise_value(concat(function, ": a forward pass of ", pass_->sequences.size(),
                            " sequences has begun and not ended"));
}

int RnnState::make_sequence(int64_t id, std::string_view function, Sequence** out) {
  if (sequences_.contains(id))
    return raise_value(concat(function, ": there is a sequence ", id, " already"));
  if (free_slots_.empty())
    return raise_value(
        concat(function, ": the RNN state is full with ", config_.max_sequences, " sequences"));
  *out = &sequences_[id];
  (*out)->slot = free_slots_.back();
  free_slots_.pop_back();
  return 0;
}

int RnnState::add_sequence(int64_t id, std::string_view function) {
  Sequence* sequence = nullptr;
  if (make_sequence(id, function, &sequence) != 0) return -1;
  if (fill(*sequence, function) == 0) return 0;
  free_slots_.push_back(sequence->slot);
  sequences_.erase(id);
  return -1;
}

int RnnState::remove_sequence(int64_t id, std::string_view function) {
  const Sequence* sequence = require_idle(function) != 0 ? nullptr : find(id, function);
  if (sequence == nullptr) return -1;
  free_slots_.push_back(sequence->slot);
  sequences_.erase(id);
  return 0;
}

int RnnState::fork_sequence(int64_t parent, int64_t child, int64_t position,
                            std::string_view function) {
  const Sequence* source = require_idle(function) != 0 ? nullptr : find(parent, function);
  if (source == nullptr) return -1;
  if (position == -1) position = source->length;
  const int64_t back = source->length - position;
  if (position != 0 && (position < 0 || back < 0 || back > source->available))
    return raise_value(concat(function, ": position ", position, " of sequence ", parent,
                              ", which has ", source->length, " tokens and can go back by ",
                              source->available));
  Sequence* made = nullptr;
  if (make_sequence(child, function, &made) != 0) return -1;
  int status = 0;
  if (back > source->available) {
    status = fill(*made, function);
  } else {
    const int64_t slot = made->slot;
    *made = *source;
    made->slot = slot;
    made->length -= back;
    made->available -= back;
    made->present = (made->present - back + config_.history) % config_.history;
    for (const auto& kinds : storages_)
      for (const TensorRef& each : kinds)
        if (status == 0)
          status = runtime::copy(part(each->tensor, source->slot, 0, 1),
                                 part(each->tensor, slot, 0, 1), function);
  }
  if (status == 0) return 0;
  free_slots_.push_back(made->slot);
  sequences_.erase(child);
  return -1;
}

int RnnState::pop(int64_t id, int64_t tokens, std::string_view function) {
  Sequence* sequence = require_idle(function) != 0 ? nullptr : find(id, function);
  if (sequence == nullptr) return -1;
  if (tokens < 0 || tokens > sequence->available)
    return raise_value(concat(function, ": ", tokens, " tokens of sequence ", id, ", which has ",
                              sequence->length, " and can go back by ", sequence->available));
  sequence->length -= tokens;
  sequence->available -= tokens;
  sequence->present = (sequence->present - tokens + config_.history) % config_.history;
  return 0;
}

// ---- Forward passes ----

int RnnState::begin_forward(std::span<const int64_t> ids, std::span<const int64_t> lengths,
                            const std::optional<std::span<const int64_t>>& parents,
                            std::string_view function) {
  if (require_idle(function) != 0) return -1;
  if (ids.size() != lengths.size())
    return raise_value(concat(function, ": ", ids.size(), " sequences and ", lengths.size(),
                              " numbers of tokens to append"));
  if (ids.empty()) return raise_value(concat(function, ": no sequence is given"));
  Pass pass;
  std::vector<int32_t> slots, histories;
  size_t next = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    Sequence* sequence = find(ids[i], function);
    if (sequence == nullptr) return -1;
    if (std::ranges::find(pass.sequences, sequence) != pass.sequences.end())
      return raise_value(concat(function, ": sequence ", ids[i], " is given twice"));
    if (lengths[i] <= 0 || lengths[i] > INT64_MAX - sequence->length)
      return raise_value(
          concat(function, ": ", lengths[i], " tokens to append to sequence ", ids[i]));
    for (int64_t n = 0; parents && n < lengths[i]; ++n, ++next)
      if (next >= parents->size() || (*parents)[next] != n - 1)
        return raise_value(concat(function, ": the tokens of sequence ", ids[i],
                                  " form a tree at token ", n, "; an RNN state knows chains only"));
    pass.sequences.push_back(sequence);
    pass.lengths.push_back(lengths[i]);
    slots.push_back(static_cast<int32_t>(sequence->slot));
    histories.push_back(static_cast<int32_t>(sequence->present));
  }
  if (parents && next != parents->size())
    return raise_value(concat(function, ": ", parents->size(), " parents of tokens, and ", next,
                              " tokens to append"));
  slots_.add(slots, &pass.slots);
  histories_.add(histories, &pass.histories);
  if (slots_.upload(function) != 0 || histories_.upload(function) != 0) return -1;
  pass_ = std::move(pass);
  return 0;
}

int RnnState::end_forward(std::string_view function) {
  if (!pass_) return raise_value(concat(function, ": no forward pass has begun"));
  for (size_t i = 0; i < pass_->sequences.size(); ++i) {
    Sequence& sequence = *pass_->sequences[i];
    sequence.length += pass_->lengths[i];
    // One state was written, so that the tokens before the last one are not to be gone back to
    sequence.available =
        pass_->lengths[i] > 1 ? 0 : std::min(sequence.available + 1, config_.history - 1);
    sequence.present = (sequence.present + 1) % config_.history;
  }
  pass_.reset();
  return 0;
}

namespace {

int call_kernel(FunctionObject* kernel, std::initializer_list<TensorObject*> tensors) {
  std::vector<TVMFFIAny> args;
  for (TensorObject* each : tensors) args.push_back(ffi::of_object(&each->header));
  ffi::Any result;
  return ffi::call(kernel, args, &result);
}

}  // namespace

int RnnState::get(int64_t layer, int64_t state, TensorObject* out, std::string_view function) {
  const TensorRef* from = storage(layer, state, function);
  if (from == nullptr) return -1;
  if (!pass_) return raise_value(concat(function, ": no forward pass has begun"));
  return call_kernel(config_.gets[static_cast<size_t>(state)].get(),
                     {from->get(), pass_->slots.get(), pass_->histories.get(), out});
}

int RnnState::set(int64_t layer, int64_t state, TensorObject* data, std::string_view function) {
  const TensorRef* to = storage(layer, state, function);
  if (to == nullptr) return -1;
  if (!pass_) return raise_value(concat(function, ": no forward pass has begun"));
  return call_kernel(config_.sets[static_cast<size_t>(state)].get(),
                     {to->get(), pass_->slots.get(), pass_->histories.get(), data});
}

Ref<TensorObject> RnnState::read(int64_t layer, int64_t state, int64_t id,
                                 std::string_view function) {
  const TensorRef* from = storage(layer, state, function);
  const Sequence* sequence = from == nullptr ? nullptr : find(id, function);
  if (sequence == nullptr) return {};
  const DLTensor source = part((*from)->tensor, sequence->slot, sequence->present, 2);
  auto out = runtime::empty({source.shape, static_cast<size_t>(source.ndim)}, source.dtype,
                            source.device, function);
  if (out && runtime::copy(source, out->tensor, function) != 0) return {};
  return out;
}

// ---- Builtins ----

namespace {

RnnState* state_argument(const Args& args) {
  KvState* state = as_kv_state(args.at(0));
  if (state != nullptr && state->kind() == KvStateKind::rnn_state)
    return static_cast<RnnState*>(state);
  args.wrong(0, "an RNN state");
  return nullptr;
}

template <class T>
bool array_argument(const Args& args, int32_t i, int32_t type, std::string_view expected,
                    std::vector<Ref<T>>* out) {
  const auto* array = args.object<ArrayObject>(i, kTVMFFIArray);
  if (array == nullptr) return false;
  for (int64_t n = 0; n < array->cell.size; ++n) {
    const TVMFFIAny& item = array->items()[n];
    if (item.type_index != type || item.v_obj == nullptr) return args.wrong(i, expected) == 0;
    out->push_back(Ref<T>::share(reinterpret_cast<T*>(item.v_obj)));
  }
  return true;
}

// (layers, sequences, history, gets, sets, first values)
int create(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  constexpr int64_t kMost = INT32_MAX;
  const Args args(handle, values, count);
  RnnStateConfig config{};
  if (!args.expect(6) || !args.integer(0, &config.layers) ||
      !args.integer(1, &config.max_sequences) || !args.integer(2, &config.history) ||
      !array_argument(args, 3, kTVMFFIFunction, "an array of functions", &config.gets) ||
      !array_argument(args, 4, kTVMFFIFunction, "an array of functions", &config.sets) ||
      !array_argument(args, 5, kTVMFFITensor, "an array of tensors", &config.initial))
    return -1;
  if (config.layers < 1 || config.max_sequences < 1 || config.history < 1 ||
      config.layers > kMost || config.max_sequences > kMost || config.history > kMost)
    return raise_value(concat(args.name(), ": ", config.layers, " layers, ", config.max_sequences,
                              " sequences and a history of ", config.history,
                              "; each must be 1 to ", kMost));
  const size_t kinds = config.initial.size();
  if (kinds == 0 || config.gets.size() != kinds || config.sets.size() != kinds)
    return raise_value(concat(args.name(), ": ", config.gets.size(), " getters and ",
                              config.sets.size(), " setters for ", kinds, " states of a layer"));
  for (const auto& each : config.initial) {
    const DLTensor& tensor = each->tensor;
    if (!ffi::is_contiguous(tensor) || tensor.dtype.bits * tensor.dtype.lanes % 8 != 0 ||
        !runtime::same_device(tensor.device, config.initial[0]->tensor.device))
      return raise_value(concat(args.name(), ": a first value is ", runtime::describe(tensor),
                                "; all must be contiguous, of whole bytes and on one device"));
  }
  // The storage itself is checked as it is made; this is what a slot is counted by
  if (!checked_mul(static_cast<uint64_t>(config.max_sequences),
                   static_cast<uint64_t>(config.history)))
    return ffi::raise_no_memory();
  auto state = RnnState::create(std::move(config), args.name());
  if (!state) return -1;
  auto object = make_kv_state(std::move(state));
  if (!object) return -1;
  *result = ffi::of_object(std::move(object));
  return 0;
}

// (state, layer, kind of state, tensor)
RnnState* place_arguments(const Args& args, int64_t* layer, int64_t* kind) {
  RnnState* state = args.expect(4) ? state_argument(args) : nullptr;
  return state != nullptr && args.integer(1, layer) && args.integer(2, kind) ? state : nullptr;
}

int get(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny*) {
  const Args args(handle, values, count);
  int64_t layer = 0, kind = 0;
  RnnState* state = place_arguments(args, &layer, &kind);
  auto* out = state == nullptr ? nullptr : args.object<TensorObject>(3, kTVMFFITensor);
  return out == nullptr ? -1 : state->get(layer, kind, out, args.name());
}

// … -> state
int set(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  int64_t layer = 0, kind = 0;
  RnnState* state = place_arguments(args, &layer, &kind);
  auto* data = state == nullptr ? nullptr : args.object<TensorObject>(3, kTVMFFITensor);
  if (data == nullptr || state->set(layer, kind, data, args.name()) != 0) return -1;
  *result = ffi::Any::share(args.at(0)).take();
  return 0;
}

// (state, layer, kind of state, sequence) -> tensor
int debug_get(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  int64_t layer = 0, kind = 0, id = 0;
  RnnState* state = place_arguments(args, &layer, &kind);
  if (state == nullptr || !args.integer(3, &id)) return -1;
  auto tensor = state->read(layer, kind, id, args.name());
  if (!tensor) return -1;
  *result = ffi::of_object(std::move(tensor));
  return 0;
}

constexpr ffi::Builtin kBuiltins[] = {
    {"vm.builtin.rnn_state_create", create},
    {"vm.builtin.rnn_state_debug_get", debug_get},
    {"vm.builtin.rnn_state_get", get},
    {"vm.builtin.rnn_state_set", set},
};

}  // namespace

std::span<const ffi::Builtin> rnn_state_builtins() { return kBuiltins; }

}  // namespace sluice::vm
