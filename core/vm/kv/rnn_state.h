// The state of recurrent models: for each sequence, layer and kind of state a tensor, and the ones
// before it as far as they may be gone back to.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "core/runtime/tensor.h"
#include "core/vm/kv/device_arrays.h"
#include "core/vm/kv/kv_state.h"

namespace sluice::vm {

struct RnnStateConfig {
  int64_t layers, max_sequences;
  int64_t history;  // states of a sequence that are kept, the present one included
  // For each kind of state: the kernels get(storage, slots, histories, out) and set(storage, slots,
  // histories, data), which writes to the history behind the given one, and the first value.
  std::vector<ffi::Ref<ffi::FunctionObject>> gets, sets;
  std::vector<ffi::Ref<ffi::TensorObject>> initial;
};

class RnnState final : public KvState {
 public:
  // Raises and returns null where the device has no memory.
  static std::unique_ptr<RnnState> create(RnnStateConfig config, std::string_view function);

  void clear() override;
  int add_sequence(int64_t id, std::string_view function) override;
  int remove_sequence(int64_t id, std::string_view function) override;
  // Only to a position that the history of the parent still has, or 0.
  int fork_sequence(int64_t parent, int64_t child, int64_t position,
                    std::string_view function) override;
  int pop(int64_t id, int64_t tokens, std::string_view function) override;
  // Trees must be chains.
  int begin_forward(std::span<const int64_t> ids, std::span<const int64_t> lengths,
                    const std::optional<std::span<const int64_t>>& parents,
                    std::string_view function) override;
  int end_forward(std::string_view function) override;

  // The states of the sequences of the pass, from and to a tensor [batch, …].
  [[nodiscard]] int get(int64_t layer, int64_t state, ffi::TensorObject* out,
                        std::string_view function);
  [[nodiscard]] int set(int64_t layer, int64_t state, ffi::TensorObject* data,
                        std::string_view function);
  // A copy of the state of a sequence; null after raising an error.
  ffi::Ref<ffi::TensorObject> read(int64_t layer, int64_t state, int64_t id,
                                   std::string_view function);

 private:
  using TensorRef = ffi::Ref<ffi::TensorObject>;
  struct Sequence {
    int64_t length = 0;
    int64_t available = 0;  // states before the present one
    int64_t present = 0;    // its place in the history
    int64_t slot = 0;
  };
  struct Pass {
    std::vector<Sequence*> sequences;
    std::vector<int64_t> lengths;
    TensorRef slots, histories;
  };

  explicit RnnState(RnnStateConfig config);
  int allocate(std::string_view function);
  Sequence* find(int64_t id, std::string_view function);
  int require_idle(std::string_view function) const;
  // The storage of a kind of state of a layer; null after raising an error.
  const TensorRef* storage(int64_t layer, int64_t state, std::string_view function) const;
  int make_sequence(int64_t id, std::string_view function, Sequence** out);
  int fill(const Sequence& sequence, std::string_view function);
  DLTensor part(const DLTensor& storage, int64_t slot, int64_t history, int32_t skipped) const;

  RnnStateConfig config_;
  std::vector<std::vector<TensorRef>> storages_;  // [layers][kinds]: [slots, history, …]
  std::map<int64_t, Sequence> sequences_;
  std::vector<int64_t> free_slots_;
  // Two, for these kernels may take no offset
  DeviceArrays slots_, histories_;
  std::optional<Pass> pass_;
};

}  // namespace sluice::vm
