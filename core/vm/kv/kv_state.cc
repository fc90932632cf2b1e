// KV states as objects, and vm.builtin.kv_state_*, which are for all of them. Names and orders of
// arguments are those of src/runtime/vm/kv_state.cc in apache-tvm 0.27.
#include "core/vm/kv/kv_state.h"

#include <utility>
#include <vector>

#include "core/vm/kv/kv.h"

namespace sluice::vm {
namespace {

using ffi::Args;

void delete_state(void* self, int flags) {
  if ((flags & kTVMFFIObjectDeleterFlagBitMaskStrong) != 0)
    std::destroy_at(&static_cast<KvStateObject*>(self)->state);
  if ((flags & kTVMFFIObjectDeleterFlagBitMaskWeak) != 0) ffi::free_object(self);
}

// The index of the last of these types, each of which is the parent of the next; -1 after raising
// an error where memory ends.
int32_t type_of(std::span<const std::string_view> keys) {
  int32_t index = kTVMFFIObject;
  int32_t depth = 0;
  for (const std::string_view name : keys) {
    const TVMFFIByteArray key = {name.data(), name.size()};
    index = TVMFFITypeGetOrAllocIndex(&key, -1, ++depth, 0, 1, index);
    if (index < 0) return -1;
  }
  return index;
}

constexpr std::string_view kPagedKeys[] = {"relax.vm.KVState", "relax.vm.AttentionKVCache",
                                           "relax.vm.PagedAttentionKVCache"};
constexpr std::string_view kRnnKeys[] = {"relax.vm.KVState", "relax.vm.RNNState",
                                         "relax.vm.RNNStateImp"};

// ---- Builtins ----

KvState* state_argument(const Args& args) {
  KvState* state = as_kv_state(args.at(0));
  if (state == nullptr) args.wrong(0, "a KV cache or RNN state");
  return state;
}

// (state)
int clear(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny*) {
  const Args args(handle, values, count);
  KvState* state = args.expect(1) ? state_argument(args) : nullptr;
  if (state == nullptr) return -1;
  state->clear();
  return 0;
}

// (state, sequence)
int add_sequence(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny*) {
  const Args args(handle, values, count);
  int64_t id = 0;
  KvState* state = args.expect(2) ? state_argument(args) : nullptr;
  if (state == nullptr || !args.integer(1, &id)) return -1;
  return state->add_sequence(id, args.name());
}

// (state, sequence)
int remove_sequence(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny*) {
  const Args args(handle, values, count);
  int64_t id = 0;
  KvState* state = args.expect(2) ? state_argument(args) : nullptr;
  if (state == nullptr || !args.integer(1, &id)) return -1;
  return state->remove_sequence(id, args.name());
}

// (state, parent, child, [position])
int fork_sequence(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny*) {
  const Args args(handle, values, count);
  int64_t parent = 0, child = 0, position = -1;
  if (args.size() != 3 && !args.expect(4)) return -1;
  KvState* state = state_argument(args);
  if (state == nullptr || !args.integer(1, &parent) || !args.integer(2, &child) ||
      (args.size() == 4 && !args.integer(3, &position)))
    return -1;
  return state->fork_sequence(parent, child, position, args.name());
}

// (state, sequence, tokens)
int pop(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny*) {
  const Args args(handle, values, count);
  int64_t id = 0, tokens = 0;
  KvState* state = args.expect(3) ? state_argument(args) : nullptr;
  if (state == nullptr || !args.integer(1, &id) || !args.integer(2, &tokens)) return -1;
  return state->pop(id, tokens, args.name());
}

// (state, sequences, numbers of tokens, [parents of the tokens or none])
int begin_forward(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny*) {
  const Args args(handle, values, count);
  std::vector<int64_t> storage[3];
  std::span<const int64_t> ids, lengths, given;
  if (args.size() != 3 && !args.expect(4)) return -1;
  KvState* state = state_argument(args);
  if (state == nullptr || !args.shape(1, &storage[0], &ids) ||
      !args.shape(2, &storage[1], &lengths))
    return -1;
  std::optional<std::span<const int64_t>> parents;
  if (args.size() == 4 && args.at(3).type_index != kTVMFFINone) {
    if (!args.shape(3, &storage[2], &given)) return -1;
    parents = given;
  }
  return state->begin_forward(ids, lengths, parents, args.name());
}

// (state)
int end_forward(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny*) {
  const Args args(handle, values, count);
  KvState* state = args.expect(1) ? state_argument(args) : nullptr;
  return state == nullptr ? -1 : state->end_forward(args.name());
}

constexpr ffi::Builtin kBuiltins[] = {
    {"vm.builtin.kv_state_add_sequence", add_sequence},
    {"vm.builtin.kv_state_begin_forward", begin_forward},
    {"vm.builtin.kv_state_clear", clear},
    {"vm.builtin.kv_state_end_forward", end_forward},
    {"vm.builtin.kv_state_fork_sequence", fork_sequence},
    {"vm.builtin.kv_state_popn", pop},
    {"vm.builtin.kv_state_remove_sequence", remove_sequence},
};

}  // namespace

ffi::Ref<KvStateObject> make_kv_state(std::unique_ptr<KvState> state) {
  const bool paged = state->kind() == KvStateKind::paged_kv_cache;
  const int32_t type = type_of(paged ? std::span(kPagedKeys) : std::span(kRnnKeys));
  if (type < 0) return {};
  auto* object = reinterpret_cast<KvStateObject*>(
      ffi::allocate_object(sizeof(KvStateObject), type, delete_state));
  if (object == nullptr) return {};
  std::construct_at(&object->state, std::move(state));
  return ffi::Ref<KvStateObject>::adopt(object);
}

KvState* as_kv_state(const TVMFFIAny& value) {
  // Objects of another library are of the same type and another layout
  if (!ffi::is_object(value.type_index) || value.v_obj == nullptr ||
      value.v_obj->deleter != delete_state)
    return nullptr;
  return reinterpret_cast<KvStateObject*>(value.v_obj)->state.get();
}

std::span<const ffi::Builtin> kv_state_builtins() { return kBuiltins; }

}  // namespace sluice::vm
