// The attention KV cache: K and V of many sequences in pages on a device, and attention to them by
// the kernels that the model was compiled with.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "core/runtime/tensor.h"
#include "core/vm/kv/device_arrays.h"
#include "core/vm/kv/forward_plan.h"
#include "core/vm/kv/kv_state.h"
#include "core/vm/kv/page_table.h"

namespace sluice::vm {

enum class AttentionKind : uint8_t {
  heads = 0,     // multi-head, grouped-query and multi-query attention
  latent = 1,    // multi-head latent attention (MLA)
  windowed = 3,  // as heads, and a query sees the newest tokens only
};

enum class RopeMode : uint8_t {
  none = 0,
  normal = 1,     // applied to K before it goes to the cache
  in_kernel = 2,  // applied by the attention kernels, by the place of a token in the cache
};

// Null where the model has none
struct AttentionKernels {
  using Function = ffi::Ref<ffi::FunctionObject>;
  Function append, append_latent;          // K and V of new tokens to the pages
  Function ragged;                         // attention among new tokens
  Function prefill, decode;                // attention to pages
  Function prefill_window, decode_window;  // the same where a window slides
  Function tree_paged, tree_ragged;        // with a mask of trees
  Function latent;                         // attention to the pages of latent attention
  std::vector<Function> merge;             // of two results: general, and of latent attention
  Function split_rotary;                   // of fused Q, K, V, with RoPE
  Function copy_page;
  Function get_kv;
  Function compact;
};

struct KvCacheConfig {
  int64_t max_batch, max_tokens;  // of one forward pass
  int32_t pages, page_size;       // pages, tokens
  bool slides;                    // whether sequences may have sliding windows
  int32_t layer_window;           // tokens that windowed layers see
  int64_t first_layer;
  std::vector<AttentionKind> layers;
  int64_t query_heads, kv_heads, qk_dim, v_dim;
  RopeMode rope;
  double rope_scale, rope_theta;
  ffi::Ref<ffi::TensorObject> rope_factors;  // may be null
  DLDataType dtype;
  DLDevice device;
  AttentionKernels kernels;
};

// Each layer's pages are [pages, 2, kv_heads, page_size, qk_dim], K before V, or, of latent
// attention, [pages, page_size, qk_dim]. `layer` counts from the model's first layer on.
class PagedKvCache final : public KvState {
 public:
  // Makes the pages and what attention needs beside them. Raises and returns null where the device
  // has no memory.
  static std::unique_ptr<PagedKvCache> create(KvCacheConfig config, std::string_view function);

  void clear() override;
  int add_sequence(int64_t id, std::string_view function) override;
  int remove_sequence(int64_t id, std::string_view function) override;
  int fork_sequence(int64_t parent, int64_t child, int64_t position,
                    std::string_view function) override;
  int pop(int64_t id, int64_t tokens, std::string_view function) override;
  // Where the device fails, the sequences may have the new tokens already.
  int begin_forward(std::span<const int64_t> ids, std::span<const int64_t> lengths,
                    const std::optional<std::span<const int64_t>>& parents,
                    std::string_view function) override;
  int end_forward(std::string_view function) override;

  // The newest `window` tokens of the sequence stay, and the first `sink` of them are its first.
  [[nodiscard]] int set_window(int64_t id, int64_t window, int64_t sink, std::string_view function);
  // Of the tree at the end of each sequence, the path to a leaf (-1: nothing) stays.
  [[nodiscard]] int commit(std::span<const int64_t> ids, std::span<const int64_t> leaves,
                           std::string_view function);

  using Tensor = ffi::TensorObject;
  // Between begin_forward() and end_forward(), for each layer. Rows are the tokens of the pass in
  // order: qkv [rows, query_heads + 2 * kv_heads, qk_dim], q and o [rows, query_heads, …], k and v
  // [rows, kv_heads, …], lse float32 [rows, query_heads].
  [[nodiscard]] int attend_fused(int64_t layer, double scale, Tensor* qkv, Tensor* o,
                                 std::string_view function);
  [[nodiscard]] int attend_self(int64_t layer, double scale, Tensor* q, Tensor* k, Tensor* v,
                                Tensor* o, Tensor* lse, std::string_view function);
  [[nodiscard]] int attend_cross(int64_t layer, double scale, Tensor* q, Tensor* o, Tensor* lse,
                                 std::string_view function);
  // Attention to K and V that another layer appended in this pass.
  [[nodiscard]] int attend_shared(int64_t layer, double scale, Tensor* q, Tensor* k, Tensor* v,
                                  Tensor* o, std::string_view function);
  [[nodiscard]] int append_latent(int64_t layer, Tensor* kv, std::string_view function);
  // The first result becomes that of both.
  [[nodiscard]] int merge(Tensor* o, Tensor* lse, Tensor* other_o, Tensor* other_lse,
                          std::string_view function);
  // int32 [rows]; null after raising an error.
  ffi::Ref<Tensor> query_positions(std::string_view function) const;

  // K and V of the tokens [begin, end) to k and v, [layers, end - begin, kv_heads, qk_dim]; of
  // latent attention to k, [layers, end - begin, qk_dim], and v is null.
  [[nodiscard]] int read(int64_t id, int64_t begin, int64_t end, Tensor* k, Tensor* v,
                         std::string_view function);

  PageTable& table() { return table_; }
  const PageTable& table() const { return table_; }
  // The tokens of a sequence; -1 after raising an error.
  int64_t sequence_length(int64_t id, std::string_view function);

 private:
  using TensorRef = ffi::Ref<ffi::TensorObject>;
  struct MaskViews {
    TensorRef indptr, order;
  };
  struct PartViews {
    bool empty = true, decode = false, masked = false;
    TensorRef qo_indptr, page_indptr, page_values, length_info, rope_offset;
    MaskViews mask;
  };
  // The tensors of a forward pass
  struct Pass {
    int64_t tokens = 0, batch = 0;
    bool append_first = false, masked = false;
    TensorRef append_indptr, query_positions, ragged_rope_offset, append_positions;
    std::vector<PartViews> parts;
    PartViews window;
    MaskViews mask;
    TensorRef q, k, v, other_o, lse, other_lse;  // of the tokens, over memory of the cache
  };

  explicit PagedKvCache(KvCacheConfig config);
  int allocate(std::string_view function);
  bool has(AttentionKind kind) const;
  int require_idle(std::string_view function) const;
  int find_layer(int64_t layer, std::initializer_list<AttentionKind> kinds,
                 std::string_view function, size_t* out) const;
  int check(const Tensor* tensor, std::string_view what, std::initializer_list<int64_t> shape,
            std::string_view function) const;
  int check_lse(const Tensor* tensor, std::string_view function) const;
  int copy_page(const PageCopy& copy, std::string_view function);
  int upload(const ForwardPlan& plan, std::string_view function, Pass* out);
  void add_part(const PagedPart& part, bool with_window, PartViews* out);
  int attend(size_t layer, double scale, Tensor* q, Tensor* k, Tensor* v, Tensor* o,
             std::string_view function);
  int run_self(size_t layer, double scale, Tensor* q, Tensor* k, Tensor* v, Tensor* o, Tensor* lse,
               std::string_view function);
  int run_cross(size_t layer, double scale, Tensor* q, Tensor* o, Tensor* lse, bool first,
                std::string_view function);
  int run_part(size_t layer, const PartViews& part, double scale, Tensor* q, Tensor* o, Tensor* lse,
               std::string_view function);
  double rope_scale(size_t layer) const;
  double rope_theta(size_t layer) const;

  KvCacheConfig config_;
  PageTable table_;
  std::vector<TensorRef> pages_;  // by layer
  TensorRef q_, k_, v_, other_o_, lse_, other_lse_;
  DeviceArrays arrays_, commit_arrays_;
  std::optional<Pass> pass_;
};

// The cache behind a value, or null where it is none; raises nothing.
PagedKvCache* as_paged_kv_cache(const TVMFFIAny& value);
// Its pages, for tests.
PageTable* page_table_of(const TVMFFIAny& value);

}  // namespace sluice::vm
