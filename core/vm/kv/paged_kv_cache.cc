#include "core/vm/kv/paged_kv_cache.h"

#include <algorithm>
#include <utility>

#include "core/ffi/registry.h"

namespace sluice::vm {
namespace {

using ffi::raise_value;
using ffi::Ref;
using ffi::TensorObject;
using Function = AttentionKernels::Function;

// RoPE in the kernels of windowed layers; the compiler gives no others
constexpr double kWindowTheta = 10000, kWindowScale = 1;

TVMFFIAny of_number(double value) {
  TVMFFIAny out{.type_index = kTVMFFIFloat};
  out.v_float64 = value;
  return out;
}

TVMFFIAny of_tensor(TensorObject* tensor) { return ffi::of_object(&tensor->header); }
TVMFFIAny of_tensor(const Ref<TensorObject>& tensor) { return of_tensor(tensor.get()); }

int call_kernel(const Function& kernel, std::string_view what, std::string_view function,
                std::initializer_list<TVMFFIAny> args) {
  if (!kernel)
    return raise_value(concat(function, ": the model was compiled without a kernel for ", what));
  ffi::Any result;
  return ffi::call(kernel.get(), {args.begin(), args.size()}, &result);
}

Ref<TensorObject> rows_of(const Ref<TensorObject>& whole, int64_t rows, std::string_view function) {
  const DLTensor& tensor = whole->tensor;
  int64_t shape[3] = {rows, tensor.shape[1], tensor.ndim == 3 ? tensor.shape[2] : 0};
  return runtime::view(whole.get(), {shape, static_cast<size_t>(tensor.ndim)}, tensor.dtype, 0,
                       function);
}

}  // namespace

PagedKvCache::PagedKvCache(KvCacheConfig config)
    : KvState(KvStateKind::paged_kv_cache),
      config_(std::move(config)),
      table_(0, config_.page_size, config_.slides),
      arrays_(config_.device),
      commit_arrays_(config_.device) {}

std::unique_ptr<PagedKvCache> PagedKvCache::create(KvCacheConfig config,
                                                   std::string_view function) {
  std::unique_ptr<PagedKvCache> cache(new PagedKvCache(std::move(config)));
  // Where the device has memory for the pages, there is some for their table
  if (cache->allocate(function) != 0) return nullptr;
  cache->table_ = PageTable(cache->config_.pages, cache->config_.page_size, cache->config_.slides);
  return cache;
}

bool PagedKvCache::has(AttentionKind kind) const {
  return std::ranges::find(config_.layers, kind) != config_.layers.end();
}

int PagedKvCache::allocate(std::string_view function) {
  const auto& c = config_;
  const auto make = [&](std::initializer_list<int64_t> shape, DLDataType dtype, TensorRef* out) {
    *out = runtime::empty({shape.begin(), shape.size()}, dtype, c.device, function);
    return static_cast<bool>(*out);
  };
  for (const AttentionKind kind : c.layers) {
    TensorRef& pages = pages_.emplace_back();
    if (!(kind == AttentionKind::latent
              ? make({c.pages, c.page_size, c.qk_dim}, c.dtype, &pages)
              : make({c.pages, 2, c.kv_heads, c.page_size, c.qk_dim}, c.dtype, &pages)))
      return -1;
  }
  if ((has(AttentionKind::heads) || has(AttentionKind::windowed)) &&
      (!make({c.max_tokens, c.query_heads, c.qk_dim}, c.dtype, &q_) ||
       !make({c.max_tokens, c.kv_heads, c.qk_dim}, c.dtype, &k_) ||
       !make({c.max_tokens, c.kv_heads, c.qk_dim}, c.dtype, &v_)))
    return -1;
  return make({c.max_tokens, c.query_heads, c.v_dim}, c.dtype, &other_o_) &&
                 make({c.max_tokens, c.query_heads}, runtime::kFloat32, &lse_) &&
                 make({c.max_tokens, c.query_heads}, runtime::kFloat32, &other_lse_)
             ? 0
             : -1;
}

// ---- Sequences ----

void PagedKvCache::clear() {
  table_.clear();
  pass_.reset();
}

// Pages of a pass that runs must stay where they are
int PagedKvCache::require_idle(std::string_view function) const {
  if (!pass_) return 0;
  return raise_value(concat(function, ": a forward pass of ", pass_->tokens, " tokens in ",
                            pass_->batch, " sequences has begun and not ended"));
}

int PagedKvCache::add_sequence(int64_t id, std::string_view function) {
  return table_.add(id, function);
}

int PagedKvCache::remove_sequence(int64_t id, std::string_view function) {
  return require_idle(function) != 0 ? -1 : table_.remove(id, function);
}

int PagedKvCache::copy_page(const PageCopy& copy, std::string_view function) {
  if (copy.tokens == 0) return 0;
  for (const TensorRef& pages : pages_)
    if (call_kernel(config_.kernels.copy_page, "copies of pages", function,
                    {of_tensor(pages), ffi::of_int(copy.from), ffi::of_int(copy.to),
                     ffi::of_int(copy.tokens)}) != 0)
      return -1;
  return 0;
}

int PagedKvCache::fork_sequence(int64_t parent, int64_t child, int64_t position,
                                std::string_view function) {
  PageCopy copy;
  if (require_idle(function) != 0 || table_.fork(parent, child, position, function, &copy) != 0)
    return -1;
  if (copy_page(copy, function) == 0) return 0;
  (void)table_.remove(child, function);
  return -1;
}

int PagedKvCache::pop(int64_t id, int64_t tokens, std::string_view function) {
  PageCopy copy;
  return require_idle(function) != 0 || table_.pop(id, tokens, function, &copy) != 0
             ? -1
             : copy_page(copy, function);
}

int PagedKvCache::set_window(int64_t id, int64_t window, int64_t sink, std::string_view function) {
  if (require_idle(function) != 0) return -1;
  if (!table_.slides() && !has(AttentionKind::windowed))
    return raise_value(concat(function, ": the KV cache was made without sliding windows"));
  return table_.set_window(id, window, sink, function);
}

int64_t PagedKvCache::sequence_length(int64_t id, std::string_view function) {
  const Sequence* sequence = table_.find(id, function);
  return sequence == nullptr ? -1 : sequence->length;
}

int PagedKvCache::commit(std::span<const int64_t> ids, std::span<const int64_t> leaves,
                         std::string_view function) {
  CommitPlan plan;
  if (require_idle(function) != 0 || plan_commit(&table_, ids, leaves, function, &plan) != 0)
    return -1;
  if (!plan.from.empty()) {
    TensorRef indptr, places;
    commit_arrays_.add(plan.indptr, &indptr);
    commit_arrays_.add_rows({plan.from, plan.to}, &places);
    if (commit_arrays_.upload(function) != 0) return -1;
    for (const TensorRef& pages : pages_)
      if (call_kernel(config_.kernels.compact, "committing token trees", function,
                      {of_tensor(pages), of_tensor(indptr), of_tensor(places),
                       ffi::of_int(static_cast<int64_t>(ids.size()))}) != 0)
        return -1;
  }
  for (size_t i = 0; i < ids.size(); ++i) {
    PageCopy copy;
    // Within the last block, so that nothing is to be copied
    if (table_.pop(ids[i], plan.popped[i], function, &copy) != 0) return -1;
    Sequence* sequence = table_.find(ids[i], function);
    sequence->tree_parents.clear();
    sequence->tree_depths.clear();
  }
  return 0;
}

// ---- Forward passes ----

int PagedKvCache::begin_forward(std::span<const int64_t> ids, std::span<const int64_t> lengths,
                                const std::optional<std::span<const int64_t>>& parents,
                                std::string_view function) {
  const ForwardLimits limits = {
      .batch = config_.max_batch,
      .tokens = config_.max_tokens,
      .layer_window = has(AttentionKind::windowed) ? config_.layer_window : 0,
      .trees = !config_.slides && config_.rope != RopeMode::in_kernel &&
               !has(AttentionKind::latent) && !has(AttentionKind::windowed)};
  ForwardPlan plan;
  Pass pass;
  if (require_idle(function) != 0 ||
      plan_forward(&table_, limits, ids, lengths, parents, function, &plan) != 0 ||
      upload(plan, function, &pass) != 0)
    return -1;
  pass_ = std::move(pass);
  return 0;
}

int PagedKvCache::end_forward(std::string_view function) {
  if (!pass_) return raise_value(concat(function, ": no forward pass has begun"));
  pass_.reset();
  return 0;
}

void PagedKvCache::add_part(const PagedPart& part, bool with_window, PartViews* out) {
  out->empty = part.page_values.empty();
  out->decode = part.decode;
  out->masked = part.mask.has_value();
  arrays_.add(part.qo_indptr, &out->qo_indptr);
  arrays_.add(part.page_indptr, &out->page_indptr);
  arrays_.add(part.page_values, &out->page_values);
  if (with_window)
    arrays_.add_rows({part.last_page_length, part.offset, part.sink}, &out->length_info);
  else
    arrays_.add(part.last_page_length, &out->length_info);
  arrays_.add(part.rope_offset, &out->rope_offset);
  if (!part.mask) return;
  arrays_.add(part.mask->indptr, &out->mask.indptr);
  arrays_.add_columns(part.mask->order, 2, &out->mask.order);
}

int PagedKvCache::upload(const ForwardPlan& plan, std::string_view function, Pass* out) {
  out->tokens = plan.tokens();
  out->batch = plan.batch();
  out->append_first = plan.append_first;
  out->masked = plan.mask.has_value();
  // The model gets the positions as well, and may need them at offset 0
  arrays_.add(plan.query_positions, &out->query_positions);
  arrays_.add(plan.append_positions, &out->append_positions);
  arrays_.add(plan.append_indptr, &out->append_indptr);
  arrays_.add(plan.ragged_rope_offset, &out->ragged_rope_offset);
  out->parts.resize(plan.parts.size());
  for (size_t i = 0; i < plan.parts.size(); ++i)
    add_part(plan.parts[i], config_.slides, &out->parts[i]);
  if (has(AttentionKind::windowed)) add_part(plan.window, true, &out->window);
  if (plan.mask) {
    arrays_.add(plan.mask->indptr, &out->mask.indptr);
    arrays_.add_columns(plan.mask->order, 2, &out->mask.order);
  }
  if (arrays_.upload(function) != 0) return -1;

  const std::pair<const TensorRef*, TensorRef*> temporaries[] = {
      {&q_, &out->q},     {&k_, &out->k},
      {&v_, &out->v},     {&other_o_, &out->other_o},
      {&lse_, &out->lse}, {&other_lse_, &out->other_lse}};
  for (const auto& [whole, part] : temporaries) {
    if (!*whole) continue;
    *part = rows_of(*whole, out->tokens, function);
    if (!*part) return -1;
  }
  return 0;
}

// ---- Checks ----

int PagedKvCache::find_layer(int64_t layer, std::initializer_list<AttentionKind> kinds,
                             std::string_view function, size_t* out) const {
  if (!pass_) return raise_value(concat(function, ": no forward pass has begun"));
  const auto count = static_cast<int64_t>(config_.layers.size());
  if (layer < config_.first_layer || layer - config_.first_layer >= count)
    return raise_value(concat(function, ": layer ", layer, ", the KV cache has the layers ",
                              config_.first_layer, " to ", config_.first_layer + count - 1));
  *out = static_cast<size_t>(layer - config_.first_layer);
  if (std::ranges::find(kinds, config_.layers[*out]) == kinds.end())
    return raise_value(concat(function, ": layer ", layer, " has attention of another kind, ",
                              static_cast<int>(config_.layers[*out])));
  return 0;
}

int PagedKvCache::check(const Tensor* tensor, std::string_view what,
                        std::initializer_list<int64_t> shape, std::string_view function) const {
  const DLTensor& t = tensor->tensor;
  if (runtime::same_dtype(t.dtype, config_.dtype) &&
      runtime::same_device(t.device, config_.device) &&
      std::ranges::equal(std::span(t.shape, static_cast<size_t>(t.ndim)),
                         std::span(shape.begin(), shape.size())) &&
      ffi::is_contiguous(t))
    return 0;
  std::string expected;
  for (const int64_t extent : shape) expected += concat(expected.empty() ? "" : ", ", extent);
  return raise_value(concat(function, ": ", what, " is ", runtime::describe(t), ", and must be ",
                            runtime::dtype_name(config_.dtype), "[", expected, "] on ",
                            runtime::device_name(config_.device)));
}

int PagedKvCache::check_lse(const Tensor* tensor, std::string_view function) const {
  const DLTensor& t = tensor->tensor;
  if (runtime::same_dtype(t.dtype, runtime::kFloat32) &&
      runtime::same_device(t.device, config_.device) && t.ndim == 2 &&
      t.shape[0] == pass_->tokens && t.shape[1] == config_.query_heads)
    return 0;
  return raise_value(concat(function, ": the log-sum-exp is ", runtime::describe(t),
                            ", and must be float32[", pass_->tokens, ", ", config_.query_heads,
                            "] on ", runtime::device_name(config_.device)));
}

// ---- Attention ----

double PagedKvCache::rope_scale(size_t layer) const {
  return config_.layers[layer] == AttentionKind::windowed ? kWindowScale : config_.rope_scale;
}

double PagedKvCache::rope_theta(size_t layer) const {
  return config_.layers[layer] == AttentionKind::windowed ? kWindowTheta : config_.rope_theta;
}

// Attention among the new tokens of each sequence
int PagedKvCache::run_self(size_t layer, double scale, Tensor* q, Tensor* k, Tensor* v, Tensor* o,
                           Tensor* lse, std::string_view function) {
  const bool in_kernel =
      config_.rope == RopeMode::in_kernel && config_.layers[layer] != AttentionKind::latent;
  const TVMFFIAny rope = ffi::of_int(in_kernel ? 1 : 0);
  const TVMFFIAny rope_by = of_number(rope_scale(layer)), theta = of_number(rope_theta(layer));
  const Pass& p = *pass_;
  if (p.masked)
    return call_kernel(config_.kernels.tree_ragged, "attention among a tree of tokens", function,
                       {of_tensor(q), of_tensor(p.append_indptr), of_tensor(k), of_tensor(v),
                        of_tensor(p.append_indptr), of_tensor(p.query_positions),
                        of_tensor(p.mask.indptr), of_tensor(p.mask.order), of_tensor(o),
                        of_tensor(lse), rope, rope_by, theta, of_number(scale)});
  return call_kernel(
      config_.kernels.ragged, "attention among new tokens", function,
      {of_tensor(q), of_tensor(p.append_indptr), of_tensor(k), of_tensor(v),
       of_tensor(p.append_indptr), of_tensor(p.query_positions), of_tensor(p.ragged_rope_offset),
       of_tensor(o), of_tensor(lse), ffi::of_int(1), rope, rope_by, theta, of_number(scale)});
}

// Attention to the pages of one part
int PagedKvCache::run_part(size_t layer, const PartViews& part, double scale, Tensor* q, Tensor* o,
                           Tensor* lse, std::string_view function) {
  const AttentionKernels& kernels = config_.kernels;
  const AttentionKind kind = config_.layers[layer];
  const bool windowed = config_.slides || kind == AttentionKind::windowed;
  // With 1, a kernel for windows leaves out what a query has moved away from within the pass
  const TVMFFIAny causal =
      ffi::of_int(kind == AttentionKind::windowed && !pass_->append_first ? 1 : 0);
  const TVMFFIAny rope = ffi::of_int(config_.rope == RopeMode::in_kernel ? 1 : 0);
  const TVMFFIAny rope_by = of_number(rope_scale(layer)), theta = of_number(rope_theta(layer));
  const TVMFFIAny pages = of_tensor(pages_[layer]), positions = of_tensor(pass_->query_positions);
  if (kind == AttentionKind::latent)
    return call_kernel(kernels.latent, "latent attention", function,
                       {of_tensor(q), of_tensor(part.qo_indptr), pages, of_tensor(part.page_indptr),
                        of_tensor(part.page_values), of_tensor(part.length_info), of_tensor(o),
                        of_tensor(lse), ffi::of_int(0), of_number(scale)});
  if (part.masked)
    return call_kernel(
        kernels.tree_paged, "attention to a tree of tokens", function,
        {of_tensor(q), of_tensor(part.qo_indptr), pages, of_tensor(part.page_indptr),
         of_tensor(part.page_values), of_tensor(part.length_info), of_tensor(part.rope_offset),
         positions, of_tensor(o), of_tensor(lse), rope, rope_by, theta, of_number(scale),
         of_tensor(part.mask.indptr), of_tensor(part.mask.order)});
  if (part.decode)
    return call_kernel(
        windowed ? kernels.decode_window : kernels.decode, "decoding", function,
        {of_tensor(q), pages, of_tensor(part.page_indptr), of_tensor(part.page_values),
         of_tensor(part.length_info), of_tensor(part.rope_offset), positions, of_tensor(o),
         of_tensor(lse), rope, rope_by, theta, of_number(scale)});
  return call_kernel(
      windowed ? kernels.prefill_window : kernels.prefill, "attention to the cache", function,
      {of_tensor(q), of_tensor(part.qo_indptr), pages, of_tensor(part.page_indptr),
       of_tensor(part.page_values), of_tensor(part.length_info), of_tensor(part.rope_offset),
       positions, of_tensor(o), of_tensor(lse), causal, rope, rope_by, theta, of_number(scale)});
}

// Attention to the cache; where it is not the first, its result is merged into `o` and `lse`. Where
// the cache is empty, nothing is done.
int PagedKvCache::run_cross(size_t layer, double scale, Tensor* q, Tensor* o, Tensor* lse,
                            bool first, std::string_view function) {
  const bool windowed = config_.layers[layer] == AttentionKind::windowed;
  const std::span<const PartViews> parts =
      windowed ? std::span<const PartViews>(&pass_->window, 1) : pass_->parts;
  for (const PartViews& part : parts) {
    if (part.empty) continue;
    if (first) {
      if (run_part(layer, part, scale, q, o, lse, function) != 0) return -1;
      first = false;
      continue;
    }
    if (run_part(layer, part, scale, q, pass_->other_o.get(), pass_->other_lse.get(), function) !=
            0 ||
        call_kernel(config_.kernels.merge.front(), "merging attention", function,
                    {of_tensor(o), of_tensor(lse), of_tensor(pass_->other_o),
                     of_tensor(pass_->other_lse)}) != 0)
      return -1;
  }
  return 0;
}

int PagedKvCache::attend(size_t layer, double scale, Tensor* q, Tensor* k, Tensor* v, Tensor* o,
                         std::string_view function) {
  Tensor* lse = pass_->lse.get();
  if (!pass_->append_first && run_self(layer, scale, q, k, v, o, lse, function) != 0) return -1;
  return run_cross(layer, scale, q, o, lse, pass_->append_first, function);
}

int PagedKvCache::attend_fused(int64_t layer, double scale, Tensor* qkv, Tensor* o,
                               std::string_view function) {
  size_t local = 0;
  if (find_layer(layer, {AttentionKind::heads, AttentionKind::windowed}, function, &local) != 0)
    return -1;
  const auto& c = config_;
  // A batch may be padded at its end
  const int64_t rows = qkv->tensor.ndim > 0 ? qkv->tensor.shape[0] : 0;
  if (rows < pass_->tokens)
    return raise_value(concat(function, ": Q, K and V are ", runtime::describe(qkv->tensor),
                              ", and the forward pass has ", pass_->tokens, " tokens"));
  if (check(qkv, "fused Q, K and V", {rows, c.query_heads + 2 * c.kv_heads, c.qk_dim}, function) !=
          0 ||
      check(o, "the output", {rows, c.query_heads, c.qk_dim}, function) != 0)
    return -1;
  TensorRef qkv_rows, o_rows;
  if (rows != pass_->tokens) {
    qkv_rows = rows_of(TensorRef::share(qkv), pass_->tokens, function);
    o_rows = rows_of(TensorRef::share(o), pass_->tokens, function);
    if (!qkv_rows || !o_rows) return -1;
    qkv = qkv_rows.get();
    o = o_rows.get();
  }
  Pass& p = *pass_;
  const TVMFFIAny rope =
      c.rope_factors ? of_tensor(c.rope_factors) : ffi::of_int(c.rope == RopeMode::normal ? 1 : 0);
  const auto append = [&] {
    return call_kernel(
        c.kernels.append, "appending K and V", function,
        {of_tensor(pages_[local]), of_tensor(p.k), of_tensor(p.v), of_tensor(p.append_positions)});
  };
  if (call_kernel(c.kernels.split_rotary, "fused Q, K and V", function,
                  {of_tensor(qkv), of_tensor(p.query_positions), of_tensor(p.q), of_tensor(p.k),
                   of_tensor(p.v), rope}) != 0 ||
      (p.append_first && append() != 0) ||
      attend(local, scale, p.q.get(), p.k.get(), p.v.get(), o, function) != 0)
    return -1;
  return p.append_first ? 0 : append();
}

int PagedKvCache::attend_shared(int64_t layer, double scale, Tensor* q, Tensor* k, Tensor* v,
                                Tensor* o, std::string_view function) {
  size_t local = 0;
  if (find_layer(layer, {AttentionKind::heads, AttentionKind::windowed}, function, &local) != 0)
    return -1;
  const auto& c = config_;
  const int64_t rows = pass_->tokens;
  if (check(q, "Q", {rows, c.query_heads, c.qk_dim}, function) != 0 ||
      check(k, "K", {rows, c.kv_heads, c.qk_dim}, function) != 0 ||
      check(v, "V", {rows, c.kv_heads, c.v_dim}, function) != 0 ||
      check(o, "the output", {rows, c.query_heads, c.v_dim}, function) != 0)
    return -1;
  return attend(local, scale, q, k, v, o, function);
}

int PagedKvCache::attend_self(int64_t layer, double scale, Tensor* q, Tensor* k, Tensor* v,
                              Tensor* o, Tensor* lse, std::string_view function) {
  size_t local = 0;
  if (find_layer(layer, {AttentionKind::heads, AttentionKind::windowed, AttentionKind::latent},
                 function, &local) != 0)
    return -1;
  // Of latent attention the dimensions here are those of the model, which the cache does not know
  const auto last = [](const Tensor* tensor, int32_t behind) {
    return tensor->tensor.ndim == 3 ? tensor->tensor.shape[3 - behind] : -1;
  };
  const int64_t rows = pass_->tokens, kv_heads = last(k, 2), qk_dim = last(q, 1),
                v_dim = last(v, 1);
  if (check(q, "Q", {rows, config_.query_heads, qk_dim}, function) != 0 ||
      check(k, "K", {rows, kv_heads, qk_dim}, function) != 0 ||
      check(v, "V", {rows, kv_heads, v_dim}, function) != 0 ||
      check(o, "the output", {rows, config_.query_heads, v_dim}, function) != 0 ||
      check_lse(lse, function) != 0)
    return -1;
  return run_self(local, scale, q, k, v, o, lse, function);
}

int PagedKvCache::attend_cross(int64_t layer, double scale, Tensor* q, Tensor* o, Tensor* lse,
                               std::string_view function) {
  size_t local = 0;
  if (find_layer(layer, {AttentionKind::heads, AttentionKind::windowed, AttentionKind::latent},
                 function, &local) != 0)
    return -1;
  const auto& c = config_;
  if (check(q, "Q", {pass_->tokens, c.query_heads, c.qk_dim}, function) != 0 ||
      check(o, "the output", {pass_->tokens, c.query_heads, c.v_dim}, function) != 0 ||
      check_lse(lse, function) != 0)
    return -1;
  // With no pages at all, the kernel writes what merges as nothing
  if (std::ranges::all_of(pass_->parts, &PartViews::empty))
    return run_part(local, pass_->parts[0], scale, q, o, lse, function);
  return run_cross(local, scale, q, o, lse, true, function);
}

int PagedKvCache::append_latent(int64_t layer, Tensor* kv, std::string_view function) {
  size_t local = 0;
  if (find_layer(layer, {AttentionKind::latent}, function, &local) != 0 ||
      check(kv, "latent K and V", {pass_->tokens, config_.qk_dim}, function) != 0)
    return -1;
  return call_kernel(config_.kernels.append_latent, "appending latent K and V", function,
                     {of_tensor(pages_[local]), of_tensor(kv), of_tensor(pass_->append_positions)});
}

int PagedKvCache::merge(Tensor* o, Tensor* lse, Tensor* other_o, Tensor* other_lse,
                        std::string_view function) {
  if (!pass_) return raise_value(concat(function, ": no forward pass has begun"));
  const int64_t dim = o->tensor.ndim == 3 ? o->tensor.shape[2] : -1;
  if (check(o, "the first output", {pass_->tokens, config_.query_heads, dim}, function) != 0 ||
      check(other_o, "the second output", {pass_->tokens, config_.query_heads, dim}, function) !=
          0 ||
      check_lse(lse, function) != 0 || check_lse(other_lse, function) != 0)
    return -1;
  const auto& merges = config_.kernels.merge;
  return call_kernel(merges.size() > 1 ? merges[1] : Function(),
                     "merging outputs of latent attention", function,
                     {of_tensor(o), of_tensor(lse), of_tensor(other_o), of_tensor(other_lse)});
}

Ref<TensorObject> PagedKvCache::query_positions(std::string_view function) const {
  if (pass_) return pass_->query_positions;
  raise_value(concat(function, ": no forward pass has begun"));
  return {};
}

// ---- Reading ----

int PagedKvCache::read(int64_t id, int64_t begin, int64_t end, Tensor* k, Tensor* v,
                       std::string_view function) {
  const Sequence* sequence = table_.find(id, function);
  if (sequence == nullptr) return -1;
  if (begin < 0 || begin >= end || end > sequence->length)
    return raise_value(concat(function, ": the tokens ", begin, " to ", end, " of sequence ", id,
                              ", which has ", sequence->length));
  const auto& c = config_;
  const auto layers = static_cast<int64_t>(c.layers.size());
  const auto wanted = v == nullptr ? AttentionKind::latent : AttentionKind::heads;
  for (const AttentionKind kind : c.layers)
    if ((kind == AttentionKind::latent) != (wanted == AttentionKind::latent))
      return raise_value(concat(function, ": a layer has attention of another kind"));
  if (v == nullptr ? check(k, "K and V", {layers, end - begin, c.qk_dim}, function) != 0
                   : check(k, "K", {layers, end - begin, c.kv_heads, c.qk_dim}, function) != 0 ||
                         check(v, "V", {layers, end - begin, c.kv_heads, c.qk_dim}, function) != 0)
    return -1;
  std::vector<int32_t> places;
  for (const int32_t index : table_.trace(*sequence))
    for (int32_t i = 0; i < table_.block(index).length; ++i)
      places.push_back(table_.place(table_.block(index), i));
  DeviceArrays arrays(c.device);
  TensorRef map;
  arrays.add(
      std::span(places).subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin)),
      &map);
  if (arrays.upload(function) != 0) return -1;
  for (int64_t layer = 0; layer < layers; ++layer) {
    const TVMFFIAny pages = of_tensor(pages_[static_cast<size_t>(layer)]);
    if ((v == nullptr ? call_kernel(c.kernels.get_kv, "reading K and V", function,
                                    {pages, of_tensor(map), of_tensor(k), ffi::of_int(layer)})
                      : call_kernel(c.kernels.get_kv, "reading K and V", function,
                                    {pages, of_tensor(map), of_tensor(k), of_tensor(v),
                                     ffi::of_int(layer)})) != 0)
      return -1;
  }
  return 0;
}

PagedKvCache* as_paged_kv_cache(const TVMFFIAny& value) {
  KvState* state = as_kv_state(value);
  return state == nullptr || state->kind() != KvStateKind::paged_kv_cache
             ? nullptr
             : static_cast<PagedKvCache*>(state);
}

PageTable* page_table_of(const TVMFFIAny& value) {
  PagedKvCache* cache = as_paged_kv_cache(value);
  return cache == nullptr ? nullptr : &cache->table();
}

}  // namespace sluice::vm
