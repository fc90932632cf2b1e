// What a host does with the logits of a language model: penalties, softmax and sampling, on float32
// tensors of the CPU. Names and meaning are those of TVM's runtime (src/runtime/vm/lm_support.cc);
// what it leaves undefined (token ids out of range, NaN) is an error here.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <memory>

#include "core/ffi/registry.h"
#include "core/runtime/runtime.h"
#include "core/runtime/tensor.h"

namespace sluice::runtime {
namespace {

using ffi::Args;
using ffi::raise_value;

template <class T>
struct Row {
  T* values = nullptr;
  size_t size = 0;
};

// The elements of argument `i`, whose extents are all 1 but the last.
template <class T>
bool row(const Args& args, int32_t i, DLDataType dtype, const char* what, Row<T>* out) {
  const DLTensor* tensor = args.tensor(i);
  if (tensor == nullptr) return false;
  void* values = cpu_elements(*tensor, dtype, args.name(), what);
  if (values == nullptr) return false;
  const auto refuse = [&](std::string_view why) {
    raise_value(concat(args.name(), ": ", what, " must ", why, ", not be ", describe(*tensor)));
    return false;
  };
  if (tensor->ndim == 0) return refuse("have a dimension");
  for (int32_t axis = 0; axis + 1 < tensor->ndim; ++axis)
    if (tensor->shape[axis] != 1) return refuse("be one row");
  if (reinterpret_cast<uintptr_t>(values) % alignof(T) != 0) {
    raise_value(concat(args.name(), ": ", what, " begin at byte ", tensor->byte_offset,
                       " of their memory, which is no multiple of ", alignof(T)));
    return false;
  }
  *out = {static_cast<T*>(values), static_cast<size_t>(tensor->shape[tensor->ndim - 1])};
  return true;
}

bool logits_row(const Args& args, const char* what, Row<float>* out) {
  if (!row(args, 0, kFloat32, what, out)) return false;
  if (out->size != 0) return true;
  raise_value(concat(args.name(), ": there are no ", what));
  return false;
}

// A number of argument `i` in [low, high]; NaN is in no range
bool number_in(const Args& args, int32_t i, const char* what, double low, double high,
               const char* range, double* out) {
  if (!args.number(i, out)) return false;
  if (*out >= low && *out <= high) return true;
  raise_value(concat(args.name(), ": ", what, " must be ", range));
  return false;
}

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Candidate {
  float value;
  int32_t token;
};

// Less likely, or as likely and later: a heap's top is the most likely token
bool comes_later(const Candidate& a, const Candidate& b) {
  return a.value < b.value || (a.value == b.value && a.token > b.token);
}

// The most likely tokens first, one at a time: sampling looks at few of them, as a rule
class Heap {
 public:
  // Raises and is false where there is no memory.
  bool allocate(size_t capacity, std::string_view function) {
    items_.reset(static_cast<Candidate*>(std::malloc(capacity * sizeof(Candidate))));
    if (items_ != nullptr) return true;
    ffi::raise("MemoryError", concat(function, ": no memory for ", capacity, " candidates"));
    return false;
  }
  void add(Candidate candidate) { items_.get()[size_++] = candidate; }
  void build() { std::make_heap(items_.get(), items_.get() + size_, comes_later); }
  size_t size() const { return size_; }
  Candidate top() const { return items_.get()[0]; }
  // Moves the top behind the heap, so that what was popped stands there from the back: the i-th of
  // a heap that had `all` is at all - 1 - i.
  void pop() { std::pop_heap(items_.get(), items_.get() + size_--, comes_later); }
  Candidate popped(size_t all, size_t i) const { return items_.get()[all - 1 - i]; }

 private:
  struct Free {
    void operator()(Candidate* items) const { std::free(items); }
  };
  std::unique_ptr<Candidate, Free> items_;
  size_t size_ = 0;
};

// The token that `uniform` in [0, 1] falls on, among the most likely ones that hold `top_p` of the
// probability: each has its value's share of theirs. `scale` makes probabilities out of values.
// The sums are float32 and in order of likelihood, as TVM's are.
int64_t sample_nucleus(Heap& heap, double scale, double top_p, double uniform) {
  // First how much they hold, then which it is
  float sum = 0;
  const size_t all = heap.size();
  const Candidate most = heap.top();
  while (heap.size() != 0 && sum < top_p) {
    sum += static_cast<float>(heap.top().value * scale);
    heap.pop();
  }
  if (heap.size() == all) return most.token;  // top_p is 0
  float running = 0;
  int64_t token = most.token;
  for (size_t i = 0; i < all - heap.size(); ++i) {
    const Candidate candidate = heap.popped(all, i);
    running += static_cast<float>(candidate.value * scale);
    token = candidate.token;
    if (uniform < running / sum) break;
  }
  return token;
}

// (logits, temperature, top_p, uniform) -> token
int sample_from_logits(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  Row<float> logits;
  double temperature = 0;
  double top_p = 0;
  double uniform = 0;
  if (!args.expect(4) || !logits_row(args, "logits", &logits) ||
      !number_in(args, 1, "the temperature", 0, kInfinity, "0 or more", &temperature) ||
      !number_in(args, 2, "top_p", 0, kInfinity, "0 or more", &top_p) ||
      !number_in(args, 3, "the uniform sample", 0, 1, "from 0 to 1", &uniform))
    return -1;
  size_t most = 0;
  for (size_t i = 0; i < logits.size; ++i) {
    if (std::isnan(logits.values[i]))
      return raise_value(concat(args.name(), ": logit ", i, " of ", logits.size, " is NaN"));
    if (logits.values[i] > logits.values[most]) most = i;
  }
  const float highest = logits.values[most];
  if (std::isinf(highest))
    return raise_value(concat(args.name(), ": logit ", most, " of ", logits.size,
                              highest > 0 ? " is infinite" : ", the highest, is -infinity"));
  // Below this temperature the most likely token is meant
  if (temperature < 1e-6) {
    *result = ffi::of_int(static_cast<int64_t>(most));
    return 0;
  }
  Heap heap;
  if (!heap.allocate(logits.size, args.name())) return -1;
  const auto scale = static_cast<float>(1 / temperature);
  double sum = 0;
  for (size_t i = 0; i < logits.size; ++i) {
    const float weight = std::exp((logits.values[i] - highest) * scale);
    sum += weight;
    heap.add({weight, static_cast<int32_t>(i)});
  }
  heap.build();
  *result = ffi::of_int(sample_nucleus(heap, 1 / sum, top_p, uniform));
  return 0;
}

// (probabilities, top_p, uniform) -> token
int sample_from_probabilities(void* handle, const TVMFFIAny* values, int32_t count,
                              TVMFFIAny* result) {
  const Args args(handle, values, count);
  Row<float> probabilities;
  double top_p = 0;
  double uniform = 0;
  if (!args.expect(3) || !logits_row(args, "probabilities", &probabilities) ||
      !number_in(args, 1, "top_p", 0, kInfinity, "0 or more", &top_p) ||
      !number_in(args, 2, "the uniform sample", 0, 1, "from 0 to 1", &uniform))
    return -1;
  Heap heap;
  if (!heap.allocate(probabilities.size, args.name())) return -1;
  // NaN and what is below 0 are left out
  for (size_t i = 0; i < probabilities.size; ++i)
    if (probabilities.values[i] >= 0) heap.add({probabilities.values[i], static_cast<int32_t>(i)});
  if (heap.size() == 0)
    return raise_value(concat(args.name(), ": none of ", probabilities.size,
                              " probabilities is a number of 0 or more"));
  heap.build();
  // Those that hold top_p hold at least as much, so that the first one's share is at most this
  const Candidate most = heap.top();
  if (uniform < most.value / top_p) {
    *result = ffi::of_int(most.token);
    return 0;
  }
  *result = ffi::of_int(sample_nucleus(heap, 1, top_p, uniform));
  return 0;
}

// Whether all of `ids` are tokens of `logits`
bool check_tokens(const Args& args, const Row<float>& logits, const Row<int32_t>& ids) {
  for (size_t i = 0; i < ids.size; ++i) {
    if (ids.values[i] >= 0 && static_cast<size_t>(ids.values[i]) < logits.size) continue;
    ffi::raise("IndexError", concat(args.name(), ": token id ", i, " is ", ids.values[i],
                                    ", and there are ", logits.size, " logits"));
    return false;
  }
  return true;
}

// (logits, token ids, penalty): divides what is above 0 by the penalty and multiplies the rest, in
// place, once for each time that an id is there
int repetition_penalty(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny*) {
  const Args args(handle, values, count);
  Row<float> logits;
  Row<int32_t> ids;
  double penalty = 0;
  if (!args.expect(3) || !logits_row(args, "logits", &logits) ||
      !row(args, 1, kInt32, "token ids", &ids) ||
      !number_in(args, 2, "the penalty", std::numeric_limits<double>::min(),
                 std::numeric_limits<double>::max(), "a number above 0", &penalty) ||
      !check_tokens(args, logits, ids))
    return -1;
  for (size_t i = 0; i < ids.size; ++i) {
    float& logit = logits.values[ids.values[i]];
    logit = static_cast<float>(logit <= 0 ? logit * penalty : logit / penalty);
  }
  return 0;
}

// (logits, token ids, how often each was there, presence, frequency): subtracts presence +
// times * frequency, in place
int presence_and_frequency_penalty(void* handle, const TVMFFIAny* values, int32_t count,
                                   TVMFFIAny*) {
  const Args args(handle, values, count);
  Row<float> logits;
  Row<int32_t> ids;
  Row<int32_t> times;
  double presence = 0;
  double frequency = 0;
  if (!args.expect(5) || !logits_row(args, "logits", &logits) ||
      !row(args, 1, kInt32, "token ids", &ids) ||
      !row(args, 2, kInt32, "token frequencies", &times) || !args.number(3, &presence) ||
      !args.number(4, &frequency))
    return -1;
  if (times.size != ids.size)
    return raise_value(
        concat(args.name(), ": ", ids.size, " token ids and ", times.size, " token frequencies"));
  if (!check_tokens(args, logits, ids)) return -1;
  for (size_t i = 0; i < ids.size; ++i) {
    float& logit = logits.values[ids.values[i]];
    logit = static_cast<float>(logit - (times.values[i] * frequency + presence));
  }
  return 0;
}

// (logits, temperature): softmax of logits / temperature, in place
int softmax(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny*) {
  const Args args(handle, values, count);
  Row<float> logits;
  double temperature = 0;
  if (!args.expect(2) || !logits_row(args, "logits", &logits) ||
      !number_in(args, 1, "the temperature", std::numeric_limits<double>::min(), kInfinity,
                 "a number above 0", &temperature))
    return -1;
  float highest = -std::numeric_limits<float>::infinity();
  for (size_t i = 0; i < logits.size; ++i) highest = std::max(highest, logits.values[i]);
  const auto scale = static_cast<float>(1 / temperature);
  double sum = 0;
  for (size_t i = 0; i < logits.size; ++i) {
    logits.values[i] = std::exp((logits.values[i] - highest) * scale);
    sum += logits.values[i];
  }
  const auto share = static_cast<float>(1 / sum);
  for (size_t i = 0; i < logits.size; ++i) logits.values[i] *= share;
  return 0;
}

constexpr ffi::Builtin kBuiltins[] = {
    {"vm.builtin.apply_presence_and_frequency_penalty", presence_and_frequency_penalty},
    {"vm.builtin.apply_repetition_penalty", repetition_penalty},
    {"vm.builtin.apply_softmax_with_temperature", softmax},
    {"vm.builtin.sample_top_p_from_logits", sample_from_logits},
    {"vm.builtin.sample_top_p_from_prob", sample_from_probabilities},
};

}  // namespace

std::span<const ffi::Builtin> sampling_builtins() { return kBuiltins; }

}  // namespace sluice::runtime
