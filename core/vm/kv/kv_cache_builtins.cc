// vm.builtin.paged_attention_kv_cache_create and vm.builtin.attention_kv_cache_*. Names and orders
// of arguments are those of src/runtime/vm/{paged_kv_cache,kv_state}.cc in apache-tvm 0.27, as its
// relax/frontend/nn/llm/kv_cache.py emits them.
#include <algorithm>
#include <string>
#include <vector>

#include "core/vm/kv/kv.h"
#include "core/vm/kv/paged_kv_cache.h"

namespace sluice::vm {
namespace {

using ffi::Args;
using ffi::ArrayObject;
using ffi::FunctionObject;
using ffi::raise_value;
using ffi::Ref;
using ffi::TensorObject;

// ---- Making a cache ----

// A count of something, from 1 on
bool count_argument(const Args& args, int32_t i, int64_t* out) {
  if (!args.integer(i, out)) return false;
  if (*out > 0 && *out <= INT32_MAX) return true;
  raise_value(
      concat(args.name(), ": argument ", i, " is ", *out, ", and must be 1 to ", INT32_MAX));
  return false;
}

bool is_function(const TVMFFIAny& value) {
  return value.type_index == kTVMFFIFunction && value.v_obj != nullptr;
}

Ref<FunctionObject> function_of(const TVMFFIAny& value) {
  return Ref<FunctionObject>::share(reinterpret_cast<FunctionObject*>(value.v_obj));
}

// A function
bool kernel_argument(const Args& args, int32_t i, AttentionKernels::Function* out) {
  auto* function = args.object<FunctionObject>(i, kTVMFFIFunction);
  if (function != nullptr) *out = Ref<FunctionObject>::share(function);
  return function != nullptr;
}

// A function, or something else where there is none
void optional_kernel(const Args& args, int32_t i, AttentionKernels::Function* out) {
  if (is_function(args.at(i))) *out = function_of(args.at(i));
}

// An array of the kind of the kernel and the kernel; empty where there is none
bool attention_kernel(const Args& args, int32_t i, AttentionKernels::Function* out) {
  const auto* array = args.object<ArrayObject>(i, kTVMFFIArray);
  if (array == nullptr) return false;
  const auto size = array->cell.size;
  if (size == 0) return true;
  const std::string_view kind = ffi::text(array->items()[0]);
  if (kind != "tirx") {
    raise_value(concat(args.name(), ": argument ", i, " is a kernel of the kind ", quote(kind),
                       "; only those that TVM compiles itself (tirx) run here"));
    return false;
  }
  if (size != 2 || !is_function(array->items()[1])) {
    args.wrong(i, "an array of a kind and a function");
    return false;
  }
  *out = function_of(array->items()[1]);
  return true;
}

bool kernel_arguments(const Args& args, AttentionKernels* out) {
  optional_kernel(args, 13, &out->append);
  optional_kernel(args, 14, &out->append_latent);
  if (!attention_kernel(args, 15, &out->ragged) || !attention_kernel(args, 16, &out->prefill) ||
      !attention_kernel(args, 17, &out->decode) ||
      !attention_kernel(args, 18, &out->prefill_window) ||
      !attention_kernel(args, 19, &out->decode_window) ||
      !attention_kernel(args, 20, &out->tree_paged) ||
      !attention_kernel(args, 21, &out->tree_ragged) || !attention_kernel(args, 22, &out->latent))
    return false;
  const auto* merges = args.object<ArrayObject>(23, kTVMFFIArray);
  if (merges == nullptr) return false;
  for (int64_t n = 0; n < merges->cell.size; ++n) {
    if (!is_function(merges->items()[n])) return args.wrong(23, "an array of functions") == 0;
    out->merge.push_back(function_of(merges->items()[n]));
  }
  if (out->merge.empty()) {
    raise_value(concat(args.name(), ": argument 23 has no function that merges attention"));
    return false;
  }
  return kernel_argument(args, 24, &out->split_rotary) &&
         kernel_argument(args, 25, &out->copy_page) && kernel_argument(args, 26, &out->get_kv) &&
         kernel_argument(args, 27, &out->compact);
}

// {sequences, tokens in all, tokens of a pass, tokens of a page, whether windows slide, [tokens of
// the window of windowed layers]}
bool capacity_argument(const Args& args, KvCacheConfig* out) {
  std::vector<int64_t> storage;
  std::span<const int64_t> sizes;
  if (!args.shape(0, &storage, &sizes)) return false;
  if (sizes.size() != 5 && sizes.size() != 6) {
    raise_value(
        concat(args.name(), ": ", sizes.size(), " sizes of the KV cache, 5 or 6 are known"));
    return false;
  }
  constexpr std::string_view kNames[] = {"sequences",
                                         "tokens in all",
                                         "tokens of a forward pass",
                                         "tokens of a page",
                                         "sliding windows (0 or 1)",
                                         "tokens of a layer's window"};
  for (size_t i = 0; i < sizes.size(); ++i) {
    const bool flag = i == 4;
    if (sizes[i] >= (flag ? 0 : 1) && sizes[i] <= (flag ? 1 : INT32_MAX)) continue;
    raise_value(concat(args.name(), ": ", sizes[i], " ", kNames[i], " of the KV cache"));
    return false;
  }
  const int64_t page_size = sizes[3];
  // One page more, as for TVM; a sequence whose window slides may have two more than it fills
  int64_t pages = (sizes[1] + page_size - 1) / page_size + 1;
  if (sizes[4] != 0) pages += 2 * sizes[0];
  // Places in the pages, and positions, are int32 in the kernels
  if (pages > (INT32_MAX - sizes[2]) / page_size) {
    raise_value(concat(args.name(), ": ", pages, " pages of ", page_size, " tokens and ", sizes[2],
                       " tokens of a forward pass are more than ", INT32_MAX, " tokens"));
    return false;
  }
  out->max_batch = sizes[0];
  out->max_tokens = sizes[2];
  out->pages = static_cast<int32_t>(pages);
  out->page_size = static_cast<int32_t>(page_size);
  out->slides = sizes[4] != 0;
  out->layer_window = sizes.size() == 6 ? static_cast<int32_t>(sizes[5]) : 1024;
  return true;
}

// The layers of this cache, and the kind of each
bool layers_argument(const Args& args, KvCacheConfig* out) {
  std::vector<int64_t> storage[2];
  std::span<const int64_t> partition, kinds;
  if (!args.shape(1, &storage[0], &partition) || !args.shape(6, &storage[1], &kinds)) return false;
  if (partition.size() != 2) {
    raise_value(concat(args.name(), ": layers in ", partition.size(),
                       " - 1 groups; one device has all, so that there must be one group"));
    return false;
  }
  const auto known = static_cast<int64_t>(kinds.size());
  if (partition[0] < 0 || partition[0] >= partition[1] || partition[1] > known) {
    raise_value(concat(args.name(), ": the layers ", partition[0], " to ", partition[1],
                       " of a model with ", known));
    return false;
  }
  out->first_layer = partition[0];
  for (int64_t layer = partition[0]; layer < partition[1]; ++layer) {
    const int64_t kind = kinds[static_cast<size_t>(layer)];
    if (kind != 0 && kind != 1 && kind != 3) {
      raise_value(concat(args.name(), ": layer ", layer, " has attention of the kind ", kind,
                         "; known are 0 (heads), 1 (latent) and 3 (windowed)"));
      return false;
    }
    out->layers.push_back(static_cast<AttentionKind>(kind));
  }
  return true;
}

bool rope_arguments(const Args& args, KvCacheConfig* out) {
  int64_t mode = 0;
  if (!args.integer(8, &mode) || !args.number(9, &out->rope_scale) ||
      !args.number(10, &out->rope_theta))
    return false;
  if (mode < 0 || mode > 2) {
    raise_value(concat(args.name(), ": RoPE mode ", mode, "; known are 0 to 2"));
    return false;
  }
  out->rope = static_cast<RopeMode>(mode);
  // Tokens of a window that slides change their places
  if (out->slides && out->rope != RopeMode::none) out->rope = RopeMode::in_kernel;
  const TVMFFIAny factors = args.at(11);
  if (factors.type_index != kTVMFFITensor) return true;
  if (out->rope != RopeMode::normal) {
    raise_value(concat(args.name(), ": RoPE factors with RoPE mode ", static_cast<int>(out->rope),
                       "; they need mode 1 and no sliding window"));
    return false;
  }
  auto* tensor = args.object<TensorObject>(11, kTVMFFITensor);
  if (tensor != nullptr) out->rope_factors = Ref<TensorObject>::share(tensor);
  return tensor != nullptr;
}

// See the table in docs/vm.md for the 28 arguments. One more, a hint for CUDA graphs, is ignored.
int create(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  KvCacheConfig config{};
  bool transfer = false;
  if (args.size() != 29 && !args.expect(28)) return -1;
  if (!capacity_argument(args, &config) || !count_argument(args, 2, &config.query_heads) ||
      !count_argument(args, 3, &config.kv_heads) || !count_argument(args, 4, &config.qk_dim) ||
      !count_argument(args, 5, &config.v_dim) || !layers_argument(args, &config) ||
      !args.boolean(7, &transfer) || !rope_arguments(args, &config))
    return -1;
  const DLTensor* like = args.tensor(12);
  if (like == nullptr || !kernel_arguments(args, &config.kernels)) return -1;
  if (transfer)
    return raise_value(concat(args.name(),
                              ": a KV cache that is sent between devices is asked for "
                              "(disaggregation); there is none here"));
  if (config.query_heads % config.kv_heads != 0)
    return raise_value(concat(args.name(), ": ", config.query_heads,
                              " heads of queries are no multiple of ", config.kv_heads,
                              " heads of K and V"));
  const auto has = [&](AttentionKind kind) {
    return std::ranges::find(config.layers, kind) != config.layers.end();
  };
  if (has(AttentionKind::windowed)) config.slides = false;
  if (has(AttentionKind::latent) && config.slides)
    return raise_value(concat(args.name(), ": latent attention has no sliding windows"));
  config.dtype = like->dtype;
  config.device = like->device;
  auto cache = PagedKvCache::create(std::move(config), args.name());
  if (!cache) return -1;
  auto object = make_kv_state(std::move(cache));
  if (!object) return -1;
  *result = ffi::of_object(std::move(object));
  return 0;
}

// ---- Using it ----

PagedKvCache* cache_argument(const Args& args) {
  PagedKvCache* cache = as_paged_kv_cache(args.at(0));
  if (cache == nullptr) args.wrong(0, "a paged KV cache");
  return cache;
}

TensorObject* tensor_argument(const Args& args, int32_t i) {
  return args.object<TensorObject>(i, kTVMFFITensor);
}

// Tensors from argument `first` on
template <size_t N>
bool tensor_arguments(const Args& args, int32_t first, TensorObject* (&out)[N]) {
  for (size_t i = 0; i < N; ++i) {
    out[i] = tensor_argument(args, first + static_cast<int32_t>(i));
    if (out[i] == nullptr) return false;
  }
  return true;
}

// (cache, layer, scale, …)
PagedKvCache* layer_arguments(const Args& args, int32_t count, int64_t* layer, double* scale) {
  PagedKvCache* cache = args.expect(count) ? cache_argument(args) : nullptr;
  return cache != nullptr && args.integer(1, layer) && args.number(2, scale) ? cache : nullptr;
}

// (cache, layer, scale, qkv, o)
int attention_with_fused_qkv(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny*) {
  const Args args(handle, values, count);
  int64_t layer = 0;
  double scale = 0;
  TensorObject* t[2];
  PagedKvCache* cache = layer_arguments(args, 5, &layer, &scale);
  if (cache == nullptr || !tensor_arguments(args, 3, t)) return -1;
  return cache->attend_fused(layer, scale, t[0], t[1], args.name());
}

// (cache, layer, scale, q, k, v, o, lse)
int self_attention(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny*) {
  const Args args(handle, values, count);
  int64_t layer = 0;
  double scale = 0;
  TensorObject* t[5];
  PagedKvCache* cache = layer_arguments(args, 8, &layer, &scale);
  if (cache == nullptr || !tensor_arguments(args, 3, t)) return -1;
  return cache->attend_self(layer, scale, t[0], t[1], t[2], t[3], t[4], args.name());
}

// (cache, layer, scale, q, o, lse)
int cross_attention(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny*) {
  const Args args(handle, values, count);
  int64_t layer = 0;
  double scale = 0;
  TensorObject* t[3];
  PagedKvCache* cache = layer_arguments(args, 6, &layer, &scale);
  if (cache == nullptr || !tensor_arguments(args, 3, t)) return -1;
  return cache->attend_cross(layer, scale, t[0], t[1], t[2], args.name());
}

// (cache, layer, scale, q, k, v, o)
int attention_with_shared_kv(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny*) {
  const Args args(handle, values, count);
  int64_t layer = 0;
  double scale = 0;
  TensorObject* t[4];
  PagedKvCache* cache = layer_arguments(args, 7, &layer, &scale);
  if (cache == nullptr || !tensor_arguments(args, 3, t)) return -1;
  return cache->attend_shared(layer, scale, t[0], t[1], t[2], t[3], args.name());
}

// (cache, layer, kv) -> cache
int append_mla_kv(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  int64_t layer = 0;
  PagedKvCache* cache = args.expect(3) ? cache_argument(args) : nullptr;
  if (cache == nullptr || !args.integer(1, &layer)) return -1;
  TensorObject* kv = tensor_argument(args, 2);
  if (kv == nullptr || cache->append_latent(layer, kv, args.name()) != 0) return -1;
  *result = ffi::Any::share(args.at(0)).take();
  return 0;
}

// (cache, o, lse, other o, other lse) -> [o, lse]
int merge_attn_output_inplace(void* handle, const TVMFFIAny* values, int32_t count,
                              TVMFFIAny* result) {
  const Args args(handle, values, count);
  TensorObject* t[4];
  PagedKvCache* cache = args.expect(5) ? cache_argument(args) : nullptr;
  if (cache == nullptr || !tensor_arguments(args, 1, t) ||
      cache->merge(t[0], t[1], t[2], t[3], args.name()) != 0)
    return -1;
  const TVMFFIAny both[] = {args.at(1), args.at(2)};
  auto array = ffi::make_array(both, 2);
  if (!array) return -1;
  *result = ffi::of_object(std::move(array));
  return 0;
}

// (cache) -> int32 [tokens of the pass]
int get_query_positions(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  PagedKvCache* cache = args.expect(1) ? cache_argument(args) : nullptr;
  if (cache == nullptr) return -1;
  auto positions = cache->query_positions(args.name());
  if (!positions) return -1;
  *result = ffi::of_object(std::move(positions));
  return 0;
}

// (cache, sequence, window, sink)
int enable_sliding_window(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny*) {
  const Args args(handle, values, count);
  int64_t id = 0, window = 0, sink = 0;
  PagedKvCache* cache = args.expect(4) ? cache_argument(args) : nullptr;
  if (cache == nullptr || !args.integer(1, &id) || !args.integer(2, &window) ||
      !args.integer(3, &sink))
    return -1;
  return cache->set_window(id, window, sink, args.name());
}

// (cache, sequences, leaves)
int commit(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny*) {
  const Args args(handle, values, count);
  std::vector<int64_t> storage[2];
  std::span<const int64_t> ids, leaves;
  PagedKvCache* cache = args.expect(3) ? cache_argument(args) : nullptr;
  if (cache == nullptr || !args.shape(1, &storage[0], &ids) || !args.shape(2, &storage[1], &leaves))
    return -1;
  return cache->commit(ids, leaves, args.name());
}

// (cache) -> bool
int is_empty(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  const PagedKvCache* cache = args.expect(1) ? cache_argument(args) : nullptr;
  if (cache == nullptr) return -1;
  *result = ffi::of_bool(cache->table().empty());
  return 0;
}

// (cache) -> pages
int get_num_available_pages(void* handle, const TVMFFIAny* values, int32_t count,
                            TVMFFIAny* result) {
  const Args args(handle, values, count);
  const PagedKvCache* cache = args.expect(1) ? cache_argument(args) : nullptr;
  if (cache == nullptr) return -1;
  *result = ffi::of_int(static_cast<int64_t>(cache->table().free_pages()));
  return 0;
}

// (cache) -> tokens of all sequences
int get_total_sequence_length(void* handle, const TVMFFIAny* values, int32_t count,
                              TVMFFIAny* result) {
  const Args args(handle, values, count);
  const PagedKvCache* cache = args.expect(1) ? cache_argument(args) : nullptr;
  if (cache == nullptr) return -1;
  *result = ffi::of_int(cache->table().total_length());
  return 0;
}

// (cache, sequence) -> tokens
int get_sequence_length(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  int64_t id = 0;
  PagedKvCache* cache = args.expect(2) ? cache_argument(args) : nullptr;
  if (cache == nullptr || !args.integer(1, &id)) return -1;
  const int64_t length = cache->sequence_length(id, args.name());
  if (length < 0) return -1;
  *result = ffi::of_int(length);
  return 0;
}

// (cache, sequence, begin, end, k, v), of latent attention (…, kv)
int read(const Args& args, bool latent) {
  int64_t id = 0, begin = 0, end = 0;
  PagedKvCache* cache = args.expect(latent ? 5 : 6) ? cache_argument(args) : nullptr;
  if (cache == nullptr || !args.integer(1, &id) || !args.integer(2, &begin) ||
      !args.integer(3, &end))
    return -1;
  TensorObject* k = tensor_argument(args, 4);
  TensorObject* v = latent || k == nullptr ? nullptr : tensor_argument(args, 5);
  if (k == nullptr || (!latent && v == nullptr)) return -1;
  return cache->read(id, begin, end, k, v, args.name());
}

int debug_get_kv(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny*) {
  return read(Args(handle, values, count), false);
}

int debug_get_kv_mla(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny*) {
  return read(Args(handle, values, count), true);
}

int no_transfer(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny*) {
  return raise_value(concat(Args(handle, values, count).name(),
                            ": a KV cache is not sent between devices here (disaggregation)"));
}

constexpr ffi::Builtin kBuiltins[] = {
    {"vm.builtin.attention_kv_cache_append_mla_kv", append_mla_kv},
    {"vm.builtin.attention_kv_cache_attention_with_fused_qkv", attention_with_fused_qkv},
    {"vm.builtin.attention_kv_cache_attention_with_shared_kv", attention_with_shared_kv},
    {"vm.builtin.attention_kv_cache_commit_accepted_token_tree_nodes", commit},
    {"vm.builtin.attention_kv_cache_cross_attention", cross_attention},
    {"vm.builtin.attention_kv_cache_debug_get_kv", debug_get_kv},
    {"vm.builtin.attention_kv_cache_debug_get_kv_mla", debug_get_kv_mla},
    {"vm.builtin.attention_kv_cache_empty", is_empty},
    {"vm.builtin.attention_kv_cache_enable_sliding_window_for_seq", enable_sliding_window},
    {"vm.builtin.attention_kv_cache_get_num_available_pages", get_num_available_pages},
    {"vm.builtin.attention_kv_cache_get_query_positions", get_query_positions},
    {"vm.builtin.attention_kv_cache_get_sequence_length", get_sequence_length},
    {"vm.builtin.attention_kv_cache_get_total_sequence_length", get_total_sequence_length},
    {"vm.builtin.attention_kv_cache_merge_attn_output_inplace", merge_attn_output_inplace},
    {"vm.builtin.attention_kv_cache_self_attention", self_attention},
    {"vm.builtin.kv_cache_disagg_mark_send", no_transfer},
    {"vm.builtin.kv_cache_disagg_prepare_recv", no_transfer},
    {"vm.builtin.paged_attention_kv_cache_create", create},
};

}  // namespace

std::span<const ffi::Builtin> kv_cache_builtins() { return kBuiltins; }

}  // namespace sluice::vm
