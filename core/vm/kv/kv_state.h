// What a model keeps of sequences between forward passes, as an object: an attention KV cache or
// RNN state.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>

#include "core/ffi/object.h"

namespace sluice::vm {

enum class KvStateKind : uint8_t { paged_kv_cache, rnn_state };

// The functions raise an error whose message begins with `function`, and return -1, where they
// fail; the state is then as before.
class KvState {
 public:
  explicit KvState(KvStateKind kind) : kind_(kind) {}
  KvState(const KvState&) = delete;
  KvState& operator=(const KvState&) = delete;
  virtual ~KvState() = default;
  KvStateKind kind() const { return kind_; }

  // No sequence, and no pass that has begun.
  virtual void clear() = 0;
  [[nodiscard]] virtual int add_sequence(int64_t id, std::string_view function) = 0;
  [[nodiscard]] virtual int remove_sequence(int64_t id, std::string_view function) = 0;
  // `child` becomes a copy of the first `position` tokens of `parent` (-1: all).
  [[nodiscard]] virtual int fork_sequence(int64_t parent, int64_t child, int64_t position,
                                          std::string_view function) = 0;
  // Forgets the last `tokens` tokens of a sequence.
  [[nodiscard]] virtual int pop(int64_t id, int64_t tokens, std::string_view function) = 0;
  // A forward pass appends lengths[i] tokens to sequence ids[i]. `parents`, one for each token, say
  // that those of a sequence form a tree.
  [[nodiscard]] virtual int begin_forward(std::span<const int64_t> ids,
                                          std::span<const int64_t> lengths,
                                          const std::optional<std::span<const int64_t>>& parents,
                                          std::string_view function) = 0;
  [[nodiscard]] virtual int end_forward(std::string_view function) = 0;

 private:
  KvStateKind kind_;
};

struct KvStateObject {
  TVMFFIObject header;
  std::unique_ptr<KvState> state;
};

// Raises and returns null where there is no memory.
ffi::Ref<KvStateObject> make_kv_state(std::unique_ptr<KvState> state);

// The state behind a value, or null where it is none; raises nothing.
KvState* as_kv_state(const TVMFFIAny& value);

}  // namespace sluice::vm
