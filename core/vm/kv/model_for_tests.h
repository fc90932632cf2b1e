// A KV cache beside a plain one, for tests: each operation is done through the builtins and on
// vectors, and what they give is compared. The plain one holds each sequence's K and V as vectors
// and computes attention directly.
#pragma once

#include <cmath>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/ffi/registry.h"
#include "core/runtime/runtime.h"
#include "core/runtime/tensor.h"
#include "core/vm/kv/kernels_for_tests.h"
#include "core/vm/kv/kv.h"
#include "core/vm/kv/paged_kv_cache.h"

namespace sluice::vm {

using Ids = std::vector<int64_t>;

inline void initialize_kv() {
  runtime::initialize();
  for (const auto builtins : {kv_state_builtins(), kv_cache_builtins(), rnn_state_builtins()})
    runtime::register_missing(builtins);
}

// What a call raised, or "".
inline std::string call_builtin(std::string_view name, const std::vector<TVMFFIAny>& args,
                                ffi::Any* result) {
  const auto function = ffi::find_function(name);
  if (!function) return concat("no function ", name);
  if (ffi::call(function.get(), args, result) == 0) return {};
  TVMFFIObjectHandle error = nullptr;
  TVMFFIErrorMoveFromRaised(&error);
  if (error == nullptr) return "nothing was raised";
  const std::string message(ffi::text(static_cast<ffi::ErrorObject*>(error)->cell.message));
  (void)TVMFFIObjectDecRef(error);
  return message;
}

inline ffi::Any of_shape(const Ids& extents) {
  int64_t* elements = nullptr;
  auto shape = ffi::make_shape(extents.size(), &elements);
  std::ranges::copy(extents, elements);
  return ffi::Any::adopt(ffi::of_object(std::move(shape)));
}

inline ffi::Any of_kernel(TVMFFISafeCallType call) {
  return ffi::Any::adopt(ffi::of_object(ffi::make_function(nullptr, call, nullptr)));
}

// A kernel as the compiler hands it over
inline ffi::Any of_attention(TVMFFISafeCallType call) {
  ffi::Any kind;
  (void)ffi::make_string("tirx", kind.receive());
  const ffi::Any function = of_kernel(call);
  const TVMFFIAny items[] = {kind.view(), function.view()};
  return ffi::Any::adopt(ffi::of_object(ffi::make_array(items, call == nullptr ? 0 : 2)));
}

inline ffi::Any of_array(const std::vector<ffi::Any>& items) {
  std::vector<TVMFFIAny> views;
  for (const ffi::Any& each : items) views.push_back(each.view());
  return ffi::Any::adopt(ffi::of_object(ffi::make_array(views.data(), views.size())));
}

inline TVMFFIAny of_double(double value) {
  TVMFFIAny out{.type_index = kTVMFFIFloat};
  out.v_float64 = value;
  return out;
}

inline ffi::Ref<ffi::TensorObject> make_floats(const Ids& shape, const std::vector<float>& data) {
  auto tensor = runtime::empty(shape, runtime::kFloat32, runtime::kCpu, "test");
  std::ranges::copy(data, static_cast<float*>(tensor->tensor.data));
  return tensor;
}

struct CacheSetup {
  int64_t batch = 4, tokens = 100, chunk = 24, page = 4;
  bool slides = false;
  Ids kinds = {0, 0};  // of the layers
  int64_t layer_window = 6;
  int64_t rope = 1;
  int64_t first_layer = 0;
  int64_t heads = 4, kv_heads = 2, dim = 4;
};

// The arguments of vm.builtin.paged_attention_kv_cache_create
inline std::vector<ffi::Any> create_arguments(const CacheSetup& s) {
  const auto integer = [](int64_t value) { return ffi::Any::adopt(ffi::of_int(value)); };
  const auto layers = static_cast<int64_t>(s.kinds.size());
  Ids kinds(static_cast<size_t>(s.first_layer), 0);
  kinds.insert(kinds.end(), s.kinds.begin(), s.kinds.end());
  const auto like = runtime::empty({}, runtime::kFloat32, runtime::kCpu, "test");
  return {of_shape({s.batch, s.tokens, s.chunk, s.page, s.slides ? 1 : 0, s.layer_window}),
          of_shape({s.first_layer, s.first_layer + layers}),
          integer(s.heads),
          integer(s.kv_heads),
          integer(s.dim),
          integer(s.dim),
          of_shape(kinds),
          integer(0),
          integer(s.rope),
          ffi::Any::adopt(of_double(kernels::kScale)),
          ffi::Any::adopt(of_double(kernels::kTheta)),
          integer(0),
          ffi::Any::share(ffi::of_object(&like->header)),
          of_kernel(kernels::append),
          of_kernel(kernels::append_latent),
          of_attention(kernels::ragged),
          of_attention(kernels::prefill),
          of_attention(kernels::decode),
          of_attention(kernels::prefill),
          of_attention(kernels::decode),
          of_attention(kernels::tree_paged),
          of_attention(kernels::tree_ragged),
          of_attention(kernels::latent),
          of_array({of_kernel(kernels::merge), of_kernel(kernels::merge)}),
          of_kernel(kernels::split_rotary),
          of_kernel(kernels::copy_page),
          of_kernel(std::ranges::count(s.kinds, 1) != 0 ? kernels::get_latent : kernels::get_kv),
          of_kernel(kernels::compact)};
}

// A function that fails says what is wrong, and gives "" where all is right.
class Model {
 public:
  explicit Model(const CacheSetup& setup) : setup_(setup) {
    initialize_kv();
    const auto arguments = create_arguments(setup);
    std::vector<TVMFFIAny> views;
    for (const ffi::Any& each : arguments) views.push_back(each.view());
    made_ = call_builtin("vm.builtin.paged_attention_kv_cache_create", views, &cache_);
  }

  const std::string& made() const { return made_; }
  TVMFFIAny cache() const { return cache_.view(); }
  PageTable& table() const { return *page_table_of(cache_.view()); }
  bool has(int64_t id) const { return sequences_.contains(id); }
  int64_t length(int64_t id) const { return has(id) ? size(sequences_.at(id)) : 0; }
  size_t tree(int64_t id) const { return has(id) ? sequences_.at(id).parents.size() : 0; }
  int64_t full() const { return full_; }  // operations that failed for want of pages

  std::string clear() {
    sequences_.clear();
    return expect(run("vm.builtin.kv_state_clear", {}), true);
  }

  std::string add(int64_t id) {
    const bool good = !has(id);
    if (good) sequences_[id] = {};
    return expect(run("vm.builtin.kv_state_add_sequence", {ffi::of_int(id)}), good);
  }

  std::string remove(int64_t id) {
    const bool good = has(id);
    sequences_.erase(id);
    return expect(run("vm.builtin.kv_state_remove_sequence", {ffi::of_int(id)}), good);
  }

  std::string fork(int64_t parent, int64_t child, int64_t position) {
    bool good = has(parent) && !has(child) && position >= -1 && position <= length(parent) &&
                tree(parent) == 0;
    if (good && setup_.slides && sequences_[parent].window != 0)
      good = (position == -1 ? length(parent) : position) <= pinned(parent);
    const std::string raised =
        run("vm.builtin.kv_state_fork_sequence",
            {ffi::of_int(parent), ffi::of_int(child), ffi::of_int(position)});
    if (raised.empty() && good) {
      Sequence made;
      const Sequence& from = sequences_[parent];
      const auto end = position == -1 ? from.tokens.end() : from.tokens.begin() + position;
      made.tokens.assign(from.tokens.begin(), end);
      sequences_[child] = std::move(made);
    }
    return expect(raised, good);
  }

  std::string pop(int64_t id, int64_t tokens) {
    const bool good = has(id) && tokens >= 0 && tokens <= length(id);
    const std::string raised =
        run("vm.builtin.kv_state_popn", {ffi::of_int(id), ffi::of_int(tokens)});
    if (raised.empty() && good) {
      Sequence& sequence = sequences_[id];
      sequence.tokens.resize(sequence.tokens.size() - static_cast<size_t>(tokens));
      sequence.parents.resize(sequence.parents.size() -
                              std::min(sequence.parents.size(), static_cast<size_t>(tokens)));
    }
    return expect(raised, good);
  }

  std::string window(int64_t id, int64_t window, int64_t sink) {
    const bool windowed = std::ranges::count(setup_.kinds, 3) != 0;
    const bool good = has(id) && (setup_.slides || windowed) && window > 0 && window <= INT32_MAX &&
                      sink >= 0 && sink < window && sequences_[id].window == 0 &&
                      (!setup_.slides || start(id) < window);
    if (good) {
      sequences_[id].window = window;
      sequences_[id].sink = sink;
    }
    return expect(run("vm.builtin.attention_kv_cache_enable_sliding_window_for_seq",
                      {ffi::of_int(id), ffi::of_int(window), ffi::of_int(sink)}),
                  good);
  }

  // A forward pass with values from `random`, in [-1, 1].
  template <class Random>
  std::string forward(const Ids& ids, const Ids& lengths, const std::optional<Ids>& parents,
                      Random&& random) {
    const bool good = can_forward(ids, lengths, parents);
    const ffi::Any id_shape = of_shape(ids), length_shape = of_shape(lengths);
    const ffi::Any parent_shape = parents ? of_shape(*parents) : ffi::Any();
    const std::string raised = run("vm.builtin.kv_state_begin_forward",
                                   {id_shape.view(), length_shape.view(), parent_shape.view()});
    if (!raised.empty() || !good) return expect(raised, good);
    size_t next = 0;
    for (size_t i = 0; i < ids.size(); ++i) {
      Sequence& sequence = sequences_[ids[i]];
      for (int64_t n = 0; parents && n < lengths[i]; ++n)
        sequence.parents.push_back((*parents)[next++]);
    }
    std::string problem;
    std::vector<std::vector<Token>> added(ids.size());
    for (size_t i = 0; i < ids.size(); ++i) added[i].resize(static_cast<size_t>(lengths[i]));
    for (size_t layer = 0; layer < setup_.kinds.size() && problem.empty(); ++layer)
      problem = run_layer(layer, ids, lengths, random, &added);
    if (problem.empty()) problem = run("vm.builtin.kv_state_end_forward", {});
    if (!problem.empty()) return problem;
    for (size_t i = 0; i < ids.size(); ++i) {
      Sequence& sequence = sequences_[ids[i]];
      sequence.tokens.insert(sequence.tokens.end(), added[i].begin(), added[i].end());
      const int64_t excess = size(sequence) - sequence.window;
      if (!setup_.slides || sequence.window == 0 || excess <= 0) continue;
      const auto from = sequence.tokens.begin() + pinned(ids[i]);
      sequence.tokens.erase(from, from + excess);
    }
    return expect({}, true);
  }

  std::string commit(const Ids& ids, const Ids& leaves) {
    bool good = ids.size() == leaves.size();
    for (size_t i = 0; i < ids.size() && good; ++i)
      good = has(ids[i]) && leaves[i] >= -1 &&
             leaves[i] < static_cast<int64_t>(sequences_[ids[i]].parents.size()) &&
             std::ranges::count(ids, ids[i]) == 1;
    const ffi::Any id_shape = of_shape(ids), leaf_shape = of_shape(leaves);
    const std::string raised = run("vm.builtin.attention_kv_cache_commit_accepted_token_tree_nodes",
                                   {id_shape.view(), leaf_shape.view()});
    for (size_t i = 0; i < ids.size() && good; ++i) {
      Sequence& sequence = sequences_[ids[i]];
      const size_t first = sequence.tokens.size() - sequence.parents.size();
      std::vector<Token> path;
      for (int64_t node = leaves[i]; node != -1; node = sequence.parents[static_cast<size_t>(node)])
        path.push_back(sequence.tokens[first + static_cast<size_t>(node)]);
      sequence.tokens.resize(first);
      sequence.tokens.insert(sequence.tokens.end(), path.rbegin(), path.rend());
      sequence.parents.clear();
    }
    return expect(raised, good);
  }

  // All K and V that the cache holds
  std::string compare_contents() {
    const auto layers = static_cast<int64_t>(setup_.kinds.size());
    if (std::ranges::count(setup_.kinds, 1) != 0) return {};
    for (const auto& [id, sequence] : sequences_) {
      const int64_t rows = size(sequence);
      if (rows == 0) continue;
      const Ids shape = {layers, rows, setup_.kv_heads, setup_.dim};
      const auto k = runtime::empty(shape, runtime::kFloat32, runtime::kCpu, "test");
      const auto v = runtime::empty(shape, runtime::kFloat32, runtime::kCpu, "test");
      const std::string raised = run("vm.builtin.attention_kv_cache_debug_get_kv",
                                     {ffi::of_int(id), ffi::of_int(0), ffi::of_int(rows),
                                      ffi::of_object(&k->header), ffi::of_object(&v->header)});
      if (!raised.empty()) return raised;
      const auto row = static_cast<size_t>(setup_.kv_heads * setup_.dim);
      for (size_t layer = 0; layer < setup_.kinds.size(); ++layer) {
        for (size_t t = 0; t < sequence.tokens.size(); ++t) {
          const size_t at = (layer * sequence.tokens.size() + t) * row;
          const auto& token = sequence.tokens[t];
          if (!close(static_cast<float*>(k->tensor.data) + at, token.k[layer]) ||
              !close(static_cast<float*>(v->tensor.data) + at, token.v[layer]))
            return concat("K or V of token ", t, " of sequence ", id, " in layer ", layer,
                          " is not what was appended");
        }
      }
    }
    return {};
  }

 private:
  struct Token {
    std::vector<std::vector<float>> k, v;  // [layers][kv_heads * dim], K as in the cache
  };
  struct Sequence {
    std::vector<Token> tokens;
    std::vector<int64_t> parents;  // of the tree at the end
    int64_t window = 0, sink = 0;
  };

  static int64_t size(const Sequence& sequence) {
    return static_cast<int64_t>(sequence.tokens.size());
  }
  // Tokens that other sequences may share, as the cache has split them
  int64_t start(int64_t id) {
    const auto* found = table().find(id, "test");
    return found == nullptr ? 0 : table().block(found->last_block).start;
  }
  int64_t pinned(int64_t id) { return std::max(start(id), sequences_[id].sink); }

  std::string run(std::string_view name, std::vector<TVMFFIAny> args) {
    args.insert(args.begin(), cache_.view());
    ffi::Any result;
    return call_builtin(name, args, &result);
  }

  // Compares how an operation ended with how it had to, and the counts of the cache.
  std::string expect(const std::string& raised, bool good) {
    if (raised.empty() && !good) return "what must fail did not";
    if (!raised.empty() && good) {
      if (!raised.contains("is full") && !raised.contains("none of the")) return raised;
      ++full_;
    }
    if (std::string wrong = table().check(); !wrong.empty()) return wrong;
    int64_t total = 0;
    for (const auto& [id, sequence] : sequences_) {
      const auto* found = table().find(id, "test");
      if (found == nullptr || found->length != size(sequence) ||
          found->tree_parents.size() != sequence.parents.size())
        return concat("sequence ", id, " has ", found == nullptr ? -1 : found->length,
                      " tokens, and must have ", size(sequence));
      total += size(sequence);
    }
    return total == table().total_length()
               ? std::string()
               : concat(table().total_length(), " tokens in all, and must be ", total);
  }

  bool can_forward(const Ids& ids, const Ids& lengths, const std::optional<Ids>& parents) {
    if (ids.size() != lengths.size() || ids.empty() ||
        static_cast<int64_t>(ids.size()) > setup_.batch)
      return false;
    int64_t total = 0;
    size_t next = 0;
    for (size_t i = 0; i < ids.size(); ++i) {
      if (!has(ids[i]) || std::ranges::count(ids, ids[i]) != 1 || lengths[i] <= 0 ||
          lengths[i] > setup_.chunk)
        return false;
      total += lengths[i];
      auto node = static_cast<int64_t>(sequences_[ids[i]].parents.size());
      if (!parents && node != 0) return false;
      if (node + lengths[i] > 256 && parents) return false;
      for (int64_t n = 0; parents && n < lengths[i]; ++n, ++node, ++next)
        if (next >= parents->size() || (*parents)[next] < -1 || (*parents)[next] >= node)
          return false;
    }
    if (parents && (next != parents->size() || setup_.slides || setup_.rope == 2 ||
                    std::ranges::count(setup_.kinds, 0) != std::ssize(setup_.kinds)))
      return false;
    return total <= setup_.chunk;
  }

  bool close(const float* values, const std::vector<float>& expected) const {
    for (size_t i = 0; i < expected.size(); ++i)
      if (!(std::abs(values[i] - expected[i]) <= 1e-5 * (1 + std::abs(expected[i])))) return false;
    return true;
  }

  template <class Random>
  std::string run_layer(size_t layer, const Ids& ids, const Ids& lengths, Random& random,
                        std::vector<std::vector<Token>>* added) {
    int64_t rows = 0;
    for (const int64_t each : lengths) rows += each;
    const int64_t all = setup_.heads + 2 * setup_.kv_heads, dim = setup_.dim;
    std::vector<float> qkv(static_cast<size_t>(rows * all * dim));
    for (float& each : qkv) each = random();
    const auto qkv_tensor = make_floats({rows, all, dim}, qkv);
    const auto o = make_floats({rows, setup_.heads, dim}, {});
    const double scale = 0.7;
    const std::string raised =
        run("vm.builtin.attention_kv_cache_attention_with_fused_qkv",
            {ffi::of_int(setup_.first_layer + static_cast<int64_t>(layer)), of_double(scale),
             ffi::of_object(&qkv_tensor->header), ffi::of_object(&o->header)});
    if (!raised.empty()) return raised;
    int64_t row = 0;
    for (size_t i = 0; i < ids.size(); ++i) {
      const int64_t count = lengths[i];
      compute(layer, ids[i], count, qkv.data() + row * all * dim, scale, &(*added)[i]);
      for (int64_t n = 0; n < count; ++n, ++row)
        for (int64_t h = 0; h < setup_.heads; ++h)
          if (!close(static_cast<float*>(o->tensor.data) + (row * setup_.heads + h) * dim,
                     expected_[static_cast<size_t>(n * setup_.heads + h)]))
            return concat("attention of token ", n, " of sequence ", ids[i], " in layer ", layer,
                          ", head ", h, ", is not what it should be");
    }
    return {};
  }

  // expected_ [count * heads] of a sequence, and its new tokens
  void compute(size_t layer, int64_t id, int64_t count, const float* qkv, double scale,
               std::vector<Token>* added) {
    const Sequence& sequence = sequences_[id];
    const int64_t all = setup_.heads + 2 * setup_.kv_heads, dim = setup_.dim;
    const int64_t group = setup_.heads / setup_.kv_heads;
    const bool windowed = setup_.kinds[layer] == 3;
    const bool in_kernel = setup_.rope == 2 || (setup_.slides && setup_.rope != 0);
    const bool normal = setup_.rope == 1 && !in_kernel;
    const double theta = windowed ? 10000 : kernels::kTheta;
    const int64_t before = size(sequence);
    const auto nodes = static_cast<int64_t>(sequence.parents.size());
    const int64_t base = before - std::max<int64_t>(nodes - count, 0);
    std::vector<int64_t> depths;
    for (const int64_t parent : sequence.parents)
      depths.push_back(parent == -1 ? 0 : depths[static_cast<size_t>(parent)] + 1);
    const auto position = [&](int64_t n) {
      return nodes == 0 ? base + n : base + depths[static_cast<size_t>(nodes - count + n)];
    };
    for (int64_t n = 0; n < count; ++n) {
      Token& token = (*added)[static_cast<size_t>(n)];
      std::vector<float> k, v;
      for (int64_t h = 0; h < setup_.kv_heads; ++h) {
        const float* x = qkv + (n * all + setup_.heads + h) * dim;
        const auto turned =
            normal ? turn(x, position(n), kernels::kTheta) : std::vector<float>(x, x + dim);
        k.insert(k.end(), turned.begin(), turned.end());
        const float* y = x + setup_.kv_heads * dim;
        v.insert(v.end(), y, y + dim);
      }
      token.k.push_back(std::move(k));
      token.v.push_back(std::move(v));
    }
    const auto sees = [&](int64_t n, int64_t key) {
      if (key < before && windowed) return key > before + n - setup_.layer_window;
      if (nodes == 0) return key <= before + n;
      const int64_t first = before + count - nodes;  // of the tree
      if (key < first) return true;
      for (int64_t node = nodes - count + n; node != -1;
           node = sequence.parents[static_cast<size_t>(node)])
        if (node == key - first) return true;
      return false;
    };
    expected_.clear();
    for (int64_t n = 0; n < count; ++n) {
      for (int64_t h = 0; h < setup_.heads; ++h) {
        const float* x = qkv + (n * all + h) * dim;
        const auto q = normal      ? turn(x, position(n), kernels::kTheta)
                       : in_kernel ? turn(x, position(n), theta)
                                   : std::vector<float>(x, x + dim);
        std::vector<double> sum(static_cast<size_t>(dim));
        double weight = 0;
        for (int64_t key = 0; key < before + count; ++key) {
          if (!sees(n, key)) continue;
          const Token& token = key < before ? sequence.tokens[static_cast<size_t>(key)]
                                            : (*added)[static_cast<size_t>(key - before)];
          const float* k = token.k[layer].data() + h / group * dim;
          const auto turned = in_kernel ? turn(k, key, theta) : std::vector<float>(k, k + dim);
          const double w = std::exp(kernels::dot(q.data(), turned.data(), dim) * scale);
          weight += w;
          for (int64_t d = 0; d < dim; ++d)
            sum[static_cast<size_t>(d)] +=
                w * token.v[layer][static_cast<size_t>(h / group * dim + d)];
        }
        std::vector<float>& out = expected_.emplace_back();
        for (const double each : sum) out.push_back(static_cast<float>(each / weight));
      }
    }
  }

  std::vector<float> turn(const float* x, int64_t position, double theta) const {
    return kernels::rope(x, setup_.dim, static_cast<double>(position), 1, theta);
  }

  CacheSetup setup_;
  ffi::Any cache_;
  std::string made_;
  std::map<int64_t, Sequence> sequences_;
  std::vector<std::vector<float>> expected_;
  int64_t full_ = 0;
};

}  // namespace sluice::vm
