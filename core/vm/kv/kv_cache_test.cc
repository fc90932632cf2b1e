// The KV cache does what a plain one does: random operations by seed, and single ones whose errors
// are known.
#include <gtest/gtest.h>

#include <random>

#include "core/vm/kv/model_for_tests.h"

// Of memory that is not there, the cache is to say so
extern "C" const char* __asan_default_options() { return "allocator_may_return_null=1"; }

namespace sluice::vm {
namespace {

class Random {
 public:
  explicit Random(uint32_t seed) : engine_(seed) {}
  int64_t below(int64_t end) {
    return static_cast<int64_t>(engine_() % static_cast<uint64_t>(end));
  }
  float operator()() { return static_cast<float>(below(20001) - 10000) / 10000; }
  bool one_in(int64_t n) { return below(n) == 0; }

 private:
  std::mt19937 engine_;
};

// Some of the sequences 0 to 7, in any order
Ids some_sequences(Random& random, const Model& model, int64_t most) {
  Ids all, out;
  for (int64_t id = 0; id < 8; ++id)
    if (model.has(id)) all.push_back(id);
  const int64_t count = std::min<int64_t>(1 + random.below(most), std::ssize(all));
  for (int64_t n = 0; n < count; ++n) {
    const auto at = all.begin() + random.below(std::ssize(all));
    out.push_back(*at);
    all.erase(at);
  }
  return out;
}

std::string random_forward(Random& random, Model& model, const CacheSetup& setup, bool trees) {
  Ids ids = some_sequences(random, model, setup.batch);
  if (ids.empty()) return {};
  const bool decoding = random.one_in(2);
  Ids lengths;
  for (size_t i = 0; i < ids.size(); ++i)
    lengths.push_back(decoding ? 1 : 1 + random.below(setup.chunk / std::ssize(ids)));
  bool tree = trees && random.one_in(3);
  for (const int64_t id : ids) tree = tree || model.tree(id) != 0;
  std::optional<Ids> parents;
  if (tree) {
    parents.emplace();
    for (size_t i = 0; i < ids.size(); ++i)
      for (int64_t n = 0; n < lengths[i]; ++n) {
        const int64_t node = static_cast<int64_t>(model.tree(ids[i])) + n;
        parents->push_back(random.one_in(3) ? node - 1 : random.below(node + 1) - 1);
      }
  }
  return model.forward(ids, lengths, parents, random);
}

std::string random_operation(Random& random, Model& model, const CacheSetup& setup, bool trees) {
  const int64_t id = random.below(8), other = random.below(8);
  switch (random.below(16)) {
    case 0:
      return model.add(id);
    case 1:
      return random.one_in(2) ? model.remove(id) : model.add(id);
    case 2:
    case 3:
      return model.fork(id, other, random.one_in(3) ? -1 : random.below(model.length(id) + 2));
    case 4:
      return model.pop(id, random.below(model.length(id) + 2));
    case 5:
      return model.pop(id, random.below(3));
    case 6:
      return model.window(id, 2 + random.below(14), random.below(7));
    case 7: {
      const Ids ids = some_sequences(random, model, 8);
      Ids leaves;
      for (const int64_t each : ids)
        leaves.push_back(random.below(static_cast<int64_t>(model.tree(each)) + 1) - 1);
      return ids.empty() ? std::string() : model.commit(ids, leaves);
    }
    case 8:
      return random.one_in(40) ? model.clear() : model.compare_contents();
    default:
      return random_forward(random, model, setup, trees);
  }
}

struct Case {
  std::string_view name;
  CacheSetup setup;
  bool trees = false;
};

void PrintTo(const Case& value, std::ostream* out) { *out << value.name; }

class RandomOperations : public testing::TestWithParam<Case> {};

TEST_P(RandomOperations, GiveWhatVectorsGive) {
  const auto& [name, setup, trees] = GetParam();
  kernels::layer_window = std::ranges::count(setup.kinds, 3) != 0 ? setup.layer_window : 0;
  int64_t full = 0;
  for (uint32_t seed = 0; seed < 12; ++seed) {
    Random random(seed);
    Model model(setup);
    ASSERT_EQ(model.made(), "");
    for (int step = 0; step < 400; ++step)
      ASSERT_EQ(random_operation(random, model, setup, trees), "")
          << "seed " << seed << ", step " << step;
    ASSERT_EQ(model.compare_contents(), "");
    full += model.full();
    ASSERT_EQ(model.clear(), "");
    ASSERT_EQ(model.table().free_pages(), static_cast<size_t>(model.table().page_count()));
  }
  kernels::layer_window = 0;
  EXPECT_GT(full, 0) << "the cache was never full";
}

INSTANTIATE_TEST_SUITE_P(
    Caches, RandomOperations,
    testing::Values(Case{"plain", {}}, Case{"trees", {}, true}, Case{"in_kernel", {.rope = 2}},
                    Case{"no_rope", {.rope = 0}}, Case{"sliding", {.slides = true}},
                    Case{"sliding_no_rope", {.page = 5, .slides = true, .rope = 0}},
                    Case{"windowed", {.kinds = {3, 0, 3}}},
                    Case{"windowed_in_kernel", {.kinds = {0, 3}, .rope = 2}},
                    Case{"pages_of_one", {.tokens = 60, .page = 1}, true},
                    Case{"large_pages", {.page = 16}, true},
                    Case{"later_layers", {.batch = 8, .kinds = {0, 0, 0}, .first_layer = 3}}),
    [](const auto& each) { return std::string(each.param.name); });

// ---- Parts of attention ----

TEST(KvCache, WindowSlidesBehindSharedBlocks) {
  const CacheSetup setup{.tokens = 80, .slides = true};
  Model model(setup);
  Random random(1);
  ASSERT_EQ(model.add(0), "");
  ASSERT_EQ(model.forward({0}, {16}, {}, random), "");
  ASSERT_EQ(model.fork(0, 1, 4), "");
  ASSERT_EQ(model.fork(0, 2, 12), "");
  const Sequence* sequence = model.table().find(0, "test");
  ASSERT_EQ(model.table().trace(*sequence).size(), 3u);
  ASSERT_EQ(model.window(0, 20, 0), "");
  for (int i = 0; i < 20; ++i) ASSERT_EQ(model.forward({0}, {1 + i % 3}, {}, random), "");
  EXPECT_EQ(sequence->length, 20);
  EXPECT_EQ(model.compare_contents(), "");
}

TEST(KvCache, WhatManyDecodingSequencesShareIsReadOnce) {
  const CacheSetup setup{.batch = 40, .tokens = 400, .chunk = 40};
  Model model(setup);
  Random random(2);
  ASSERT_EQ(model.add(0), "");
  ASSERT_EQ(model.forward({0}, {13}, {}, random), "");
  Ids ids = {0};
  for (int64_t id = 1; id < 40; ++id) {
    ASSERT_EQ(model.fork(0, id, 12), "");
    ids.push_back(id);
  }
  for (int i = 0; i < 6; ++i) ASSERT_EQ(model.forward(ids, Ids(40, 1), {}, random), "");
  ForwardPlan plan;
  PageTable* table = page_table_of(model.cache());
  ASSERT_EQ(plan_forward(table, {.batch = 40, .tokens = 40, .layer_window = 0, .trees = false}, ids,
                         Ids(40, 1), {}, "test", &plan),
            0);
  EXPECT_EQ(plan.parts[0].qo_indptr, (std::vector<int32_t>{0, 40}));
  EXPECT_FALSE(plan.parts[0].decode);
  EXPECT_TRUE(plan.parts[1].decode);
}

TEST(KvCache, ArraysOfAPassAreThoseOfTheKernels) {
  PageTable table(10, 4, false);
  ASSERT_EQ(table.add(5, "test"), 0);
  ASSERT_EQ(table.add(6, "test"), 0);
  const ForwardLimits limits{.batch = 4, .tokens = 16, .layer_window = 5, .trees = false};
  ForwardPlan plan;
  ASSERT_EQ(plan_forward(&table, limits, Ids{5, 6}, Ids{6, 3}, {}, "test", &plan), 0);
  using Ints = std::vector<int32_t>;
  EXPECT_FALSE(plan.append_first);
  EXPECT_EQ(plan.append_indptr, (Ints{0, 6, 9}));
  EXPECT_EQ(plan.query_positions, (Ints{0, 1, 2, 3, 4, 5, 0, 1, 2}));
  EXPECT_EQ(plan.append_positions, (Ints{0, 1, 2, 3, 4, 5, 8, 9, 10}));
  EXPECT_TRUE(plan.parts[0].page_values.empty());

  ASSERT_EQ(plan_forward(&table, limits, Ids{6, 5}, Ids{1, 1}, {}, "test", &plan), 0);
  EXPECT_TRUE(plan.append_first);
  EXPECT_EQ(plan.query_positions, (Ints{3, 6}));
  EXPECT_EQ(plan.append_positions, (Ints{11, 6}));
  EXPECT_TRUE(plan.parts[0].decode);
  EXPECT_EQ(plan.parts[0].page_indptr, (Ints{0, 1, 3}));
  EXPECT_EQ(plan.parts[0].page_values, (Ints{2, 0, 1}));
  EXPECT_EQ(plan.parts[0].last_page_length, (Ints{4, 3}));
  EXPECT_EQ(plan.parts[0].rope_offset, (Ints{0, 0}));
  // The newest 5 of 7 tokens begin in slot 2
  EXPECT_EQ(plan.window.offset, (Ints{0, 2}));
  EXPECT_EQ(plan.window.rope_offset, (Ints{0, 2}));
}

ffi::Ref<ffi::TensorObject> random_floats(Random& random, const Ids& shape) {
  int64_t count = 1;
  for (const int64_t extent : shape) count *= extent;
  std::vector<float> data(static_cast<size_t>(count));
  for (float& each : data) each = random();
  return make_floats(shape, data);
}

float at(const ffi::Ref<ffi::TensorObject>& tensor, int64_t i) {
  return static_cast<const float*>(tensor->tensor.data)[i];
}

// Calls vm.builtin.<name> of the cache, which must work.
void use(const Model& model, std::string_view name, std::vector<TVMFFIAny> args) {
  args.insert(args.begin(), model.cache());
  ffi::Any result;
  ASSERT_EQ(call_builtin(concat("vm.builtin.", name), args, &result), "") << name;
}

TVMFFIAny of(const ffi::Ref<ffi::TensorObject>& tensor) { return ffi::of_object(&tensor->header); }

TEST(KvCache, LatentAttentionInParts) {
  const CacheSetup setup{.kinds = {1}, .rope = 0, .heads = 3, .kv_heads = 1, .dim = 6};
  constexpr int64_t kDim = 6, kHeads = 3;
  Model model(setup);
  ASSERT_EQ(model.made(), "");
  Random random(3);
  std::map<int64_t, std::vector<float>> kept;  // K of each sequence
  const auto forward = [&](const Ids& ids, const Ids& lengths) {
    int64_t rows = 0;
    for (const int64_t each : lengths) rows += each;
    const ffi::Any id_shape = of_shape(ids), length_shape = of_shape(lengths);
    use(model, "kv_state_begin_forward", {id_shape.view(), length_shape.view()});
    const auto q = random_floats(random, {rows, kHeads, kDim});
    const auto kv = random_floats(random, {rows, kDim});
    const auto k = make_floats(
        {rows, 1, kDim},
        {static_cast<float*>(kv->tensor.data), static_cast<float*>(kv->tensor.data) + rows * kDim});
    const auto o = random_floats(random, {rows, kHeads, kDim});
    const auto lse = random_floats(random, {rows, kHeads});
    const auto other = random_floats(random, {rows, kHeads, kDim});
    const auto other_lse = random_floats(random, {rows, kHeads});
    const TVMFFIAny layer = ffi::of_int(0), scale = of_double(0.5);
    use(model, "attention_kv_cache_append_mla_kv", {layer, of(kv)});
    use(model, "attention_kv_cache_self_attention",
        {layer, scale, of(q), of(k), of(k), of(o), of(lse)});
    // Decoding sees what was just appended; then attention among new tokens is not wanted
    const bool decoding = rows == std::ssize(ids);
    const auto& result = decoding ? other : o;
    use(model, "attention_kv_cache_cross_attention",
        {layer, scale, of(q), of(other), of(other_lse)});
    if (!decoding)
      use(model, "attention_kv_cache_merge_attn_output_inplace",
          {of(o), of(lse), of(other), of(other_lse)});
    use(model, "kv_state_end_forward", {});
    int64_t row = 0;
    for (size_t i = 0; i < ids.size(); ++i) {
      std::vector<float>& all = kept[ids[i]];
      for (int64_t n = 0; n < lengths[i]; ++n, ++row) {
        for (int64_t d = 0; d < kDim; ++d) all.push_back(at(kv, row * kDim + d));
        for (int64_t h = 0; h < kHeads; ++h) {
          double weight = 0;
          std::vector<double> sum(kDim);
          for (size_t t = 0; t < all.size(); t += kDim) {
            double score = 0;
            for (int64_t d = 0; d < kDim; ++d)
              score += 0.5 * at(q, (row * kHeads + h) * kDim + d) * all[t + d];
            weight += std::exp(score);
            for (int64_t d = 0; d < kDim; ++d) sum[d] += std::exp(score) * all[t + d];
          }
          for (int64_t d = 0; d < kDim; ++d)
            ASSERT_NEAR(at(result, (row * kHeads + h) * kDim + d), sum[d] / weight, 1e-5)
                << "token " << n << " of sequence " << ids[i];
        }
      }
    }
  };
  for (const int64_t id : {1, 2}) use(model, "kv_state_add_sequence", {ffi::of_int(id)});
  forward({1, 2}, {7, 3});
  forward({2}, {5});
  use(model, "kv_state_fork_sequence", {ffi::of_int(1), ffi::of_int(3), ffi::of_int(6)});
  kept[3].assign(kept[1].begin(), kept[1].begin() + 6 * kDim);
  forward({3, 1}, {4, 2});
  forward({1, 2, 3}, {1, 1, 1});
  use(model, "kv_state_popn", {ffi::of_int(2), ffi::of_int(4)});
  kept[2].resize(kept[2].size() - 4 * kDim);
  forward({2, 1}, {1, 3});
  // All that is kept can be read
  const auto out = make_floats({1, 11, kDim}, {});
  use(model, "attention_kv_cache_debug_get_kv_mla",
      {ffi::of_int(1), ffi::of_int(2), ffi::of_int(13), of(out)});
  for (int64_t i = 0; i < 11 * kDim; ++i) ASSERT_EQ(at(out, i), kept[1][2 * kDim + i]);
}

TEST(KvCache, AnotherLayerAttendsToKAndVOfTheFirst) {
  const CacheSetup setup{.kinds = {0}, .rope = 0, .heads = 2, .kv_heads = 2};
  Model model(setup);
  Random random(4);
  use(model, "kv_state_add_sequence", {ffi::of_int(0)});
  for (const int64_t rows : {5, 1, 3, 1}) {
    const ffi::Any ids = of_shape({0}), lengths = of_shape({rows});
    use(model, "kv_state_begin_forward", {ids.view(), lengths.view()});
    const auto qkv = random_floats(random, {rows, 6, 4});
    std::vector<float> parts[3];
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t i = 0; i < 24; ++i) parts[i / 8].push_back(at(qkv, row * 24 + i));
    const auto q = make_floats({rows, 2, 4}, parts[0]), k = make_floats({rows, 2, 4}, parts[1]),
               v = make_floats({rows, 2, 4}, parts[2]);
    const auto o = make_floats({rows, 2, 4}, {}), shared = make_floats({rows, 2, 4}, {});
    use(model, "attention_kv_cache_attention_with_fused_qkv",
        {ffi::of_int(0), of_double(1), of(qkv), of(o)});
    use(model, "attention_kv_cache_attention_with_shared_kv",
        {ffi::of_int(0), of_double(1), of(q), of(k), of(v), of(shared)});
    use(model, "kv_state_end_forward", {});
    for (int64_t i = 0; i < rows * 8; ++i) ASSERT_NEAR(at(o, i), at(shared, i), 1e-6);
  }
}

TEST(KvCache, ABatchMayBePadded) {
  Model model(CacheSetup{.kinds = {0}});
  Random random(5);
  use(model, "kv_state_add_sequence", {ffi::of_int(0)});
  const ffi::Any ids = of_shape({0}), lengths = of_shape({3});
  use(model, "kv_state_begin_forward", {ids.view(), lengths.view()});
  const auto qkv = random_floats(random, {5, 8, 4}), o = make_floats({5, 4, 4}, {});
  static_cast<float*>(o->tensor.data)[3 * 16] = 77;
  use(model, "attention_kv_cache_attention_with_fused_qkv",
      {ffi::of_int(0), of_double(1), of(qkv), of(o)});
  EXPECT_EQ(at(o, 3 * 16), 77);
  ffi::Any positions;
  ASSERT_EQ(call_builtin("vm.builtin.attention_kv_cache_get_query_positions", {model.cache()},
                         &positions),
            "");
  const DLTensor& tensor = reinterpret_cast<ffi::TensorObject*>(positions.view().v_obj)->tensor;
  EXPECT_EQ(tensor.byte_offset, 0u);
  EXPECT_EQ(runtime::describe(tensor), "int32[3] on cpu:0");
}

// ---- Errors ----

// Each call must fail with a message that has the text.
void expect_error(const Model& model, std::string_view name, std::vector<TVMFFIAny> args,
                  std::string_view text) {
  args.insert(args.begin(), model.cache());
  ffi::Any result;
  const std::string raised = call_builtin(concat("vm.builtin.", name), args, &result);
  EXPECT_TRUE(raised.contains(text)) << "'" << text << "' is not in: " << raised;
  EXPECT_TRUE(raised.contains(name)) << name << " is not in: " << raised;
  EXPECT_EQ(model.table().check(), "");
}

TEST(KvCache, ErrorsNameTheNumbers) {
  Model model(CacheSetup{.batch = 2, .tokens = 20, .chunk = 16});
  Random random(6);
  const TVMFFIAny zero = ffi::of_int(0), one = ffi::of_int(1), nine = ffi::of_int(9);
  ASSERT_EQ(model.add(0), "");
  ASSERT_EQ(model.add(1), "");
  ASSERT_EQ(model.forward({0}, {10}, {}, random), "");
  expect_error(model, "kv_state_add_sequence", {zero}, "there is a sequence 0 already");
  expect_error(model, "kv_state_remove_sequence", {nine}, "there is no sequence 9");
  expect_error(model, "kv_state_popn", {zero, ffi::of_int(11)},
               "11 tokens of sequence 0, which has 10");
  expect_error(model, "kv_state_popn", {zero, ffi::of_int(-1)}, "-1 tokens of sequence 0");
  expect_error(model, "kv_state_fork_sequence", {zero, nine, ffi::of_int(11)},
               "position 11 of sequence 0, which has 10 tokens");
  expect_error(model, "kv_state_fork_sequence", {zero, one, ffi::of_int(4)},
               "there is a sequence 1 already");
  expect_error(model, "attention_kv_cache_enable_sliding_window_for_seq", {zero, nine, one},
               "was made without sliding windows");
  expect_error(model, "kv_state_end_forward", {}, "no forward pass has begun");
  expect_error(model, "attention_kv_cache_get_query_positions", {}, "no forward pass has begun");

  const auto begin = [&](const Ids& ids, const Ids& lengths, std::string_view text) {
    const ffi::Any id_shape = of_shape(ids), length_shape = of_shape(lengths);
    expect_error(model, "kv_state_begin_forward", {id_shape.view(), length_shape.view()}, text);
  };
  begin({0}, {1, 1}, "1 sequences and 2 numbers of tokens");
  begin({}, {}, "no sequence is given");
  begin({0, 1, 9}, {1, 1, 1}, "3 sequences, the KV cache was made for 2 at a time");
  begin({0, 9}, {1, 1}, "there is no sequence 9");
  begin({0, 0}, {1, 1}, "sequence 0 is given twice");
  begin({0, 1}, {1, 0}, "0 tokens to append to sequence 1");
  begin({0, 1}, {9, 8},
        "8 tokens to append to sequence 1, behind 9 of others; all together must "
        "be 1 to 16");
  begin({1}, {INT64_MAX}, "must be 1 to 16");
  // 6 pages of 4, of which 3 are used
  begin({0, 1}, {1, 13},
        "the KV cache is full: 14 more tokens need 4 pages of 4 tokens, and 3 of "
        "6 are free");
  EXPECT_EQ(model.table().free_pages(), 3u);
  EXPECT_EQ(model.length(0), model.table().find(0, "test")->length);

  const ffi::Any ids = of_shape({0}), lengths = of_shape({2}), parents = of_shape({0, 0});
  expect_error(model, "kv_state_begin_forward", {ids.view(), lengths.view(), parents.view()},
               "the parent of token 0 of the tree of sequence 0 is 0");
  const ffi::Any few = of_shape({-1});
  expect_error(model, "kv_state_begin_forward", {ids.view(), lengths.view(), few.view()},
               "1 parents of tokens are fewer");
  const ffi::Any many = of_shape({-1, 0, 1});
  expect_error(model, "kv_state_begin_forward", {ids.view(), lengths.view(), many.view()},
               "3 parents of tokens, and 2 tokens");
  const ffi::Any leaf = of_shape({0});
  expect_error(model, "attention_kv_cache_commit_accepted_token_tree_nodes",
               {ids.view(), leaf.view()},
               "leaf 0 of sequence 0, whose tree has 0 tokens that are not committed");

  use(model, "kv_state_begin_forward", {ids.view(), lengths.view()});
  expect_error(model, "kv_state_begin_forward", {ids.view(), lengths.view()},
               "a forward pass of 2 tokens in 1 sequences has begun and not ended");
  expect_error(model, "kv_state_remove_sequence", {zero}, "has begun and not ended");
  expect_error(model, "kv_state_popn", {zero, one}, "has begun and not ended");
  expect_error(model, "kv_state_fork_sequence", {zero, nine}, "has begun and not ended");
  const auto qkv = random_floats(random, {2, 8, 4}), o = make_floats({2, 4, 4}, {});
  const auto attend = [&](int64_t layer, const auto& data, const auto& out, std::string_view text) {
    expect_error(model, "attention_kv_cache_attention_with_fused_qkv",
                 {ffi::of_int(layer), of_double(1), of(data), of(out)}, text);
  };
  attend(2, qkv, o, "layer 2, the KV cache has the layers 0 to 1");
  attend(-1, qkv, o, "layer -1, the KV cache has the layers 0 to 1");
  attend(0, make_floats({1, 8, 4}, {}), o,
         "float32[1, 8, 4] on cpu:0, and the forward pass has 2 tokens");
  attend(0, make_floats({2, 7, 4}, {}), o,
         "fused Q, K and V is float32[2, 7, 4] on cpu:0, and must be float32[2, 8, 4] on cpu:0");
  attend(0, qkv, make_floats({2, 4, 5}, {}), "the output is float32[2, 4, 5]");
  expect_error(model, "attention_kv_cache_append_mla_kv", {zero, of(o)},
               "layer 0 has attention of another kind, 0");
  use(model, "kv_state_clear", {});
  EXPECT_EQ(model.table().free_pages(), 6u);
  expect_error(model, "kv_state_popn", {zero, one}, "there is no sequence 0");
  expect_error(model, "kv_cache_disagg_prepare_recv", {zero, one}, "disaggregation");
}

TEST(KvCache, SlidingErrorsNameTheNumbers) {
  Model model(CacheSetup{.slides = true});
  Random random(7);
  ASSERT_EQ(model.add(0), "");
  ASSERT_EQ(model.forward({0}, {12}, {}, random), "");
  const TVMFFIAny zero = ffi::of_int(0), one = ffi::of_int(1);
  const auto window = [&](int64_t size, int64_t sink, std::string_view text) {
    expect_error(model, "attention_kv_cache_enable_sliding_window_for_seq",
                 {zero, ffi::of_int(size), ffi::of_int(sink)}, text);
  };
  window(0, 0, "a window of 0 tokens; it must be 1 to 2147483647");
  window(INT64_MAX, 0, "a window of 9223372036854775807 tokens; it must be");
  window(8, 8, "a window of 8 tokens with a sink of 8; the sink must be smaller");
  window(8, -1, "a sink of -1");
  ASSERT_EQ(model.fork(0, 1, 8), "");
  window(8, 1, "a window of 8 tokens, and sequence 0 has 8 that it shares with others");
  ASSERT_EQ(model.window(0, 12, 2), "");
  window(13, 2, "sequence 0 has a window of 12 tokens already");
  expect_error(model, "kv_state_fork_sequence", {zero, ffi::of_int(2), ffi::of_int(9)},
               "can be forked within its first 8 tokens");
  const ffi::Any ids = of_shape({1}), lengths = of_shape({1}), parents = of_shape({-1});
  expect_error(model, "kv_state_begin_forward", {ids.view(), lengths.view(), parents.view()},
               "has no tree attention");
  (void)one;
}

// Making a cache with one argument changed
void expect_refused(size_t index, ffi::Any value, std::string_view text,
                    const CacheSetup& setup = {}) {
  initialize_kv();
  auto arguments = create_arguments(setup);
  arguments[index] = std::move(value);
  std::vector<TVMFFIAny> views;
  for (const ffi::Any& each : arguments) views.push_back(each.view());
  ffi::Any cache;
  const std::string raised =
      call_builtin("vm.builtin.paged_attention_kv_cache_create", views, &cache);
  EXPECT_TRUE(raised.contains(text)) << "'" << text << "' is not in: " << raised;
}

TEST(KvCache, IsNotMadeOfWrongArguments) {
  const auto integer = [](int64_t value) { return ffi::Any::adopt(ffi::of_int(value)); };
  expect_refused(0, of_shape({4, 100, 24, 4}), "4 sizes of the KV cache, 5 or 6 are known");
  expect_refused(0, of_shape({0, 100, 24, 4, 0}), "0 sequences of the KV cache");
  expect_refused(0, of_shape({4, 100, 24, 0, 0}), "0 tokens of a page of the KV cache");
  expect_refused(0, of_shape({4, 100, 24, 4, 2}), "2 sliding windows");
  expect_refused(0, of_shape({4, 100, 24, 4, 0, -3}), "-3 tokens of a layer's window");
  expect_refused(0, of_shape({4, INT32_MAX, 24, 4, 0}), "are more than 2147483647 tokens");
  expect_refused(0, of_shape({4, INT64_MAX, 24, 4, 0}), "tokens in all of the KV cache");
  expect_refused(1, of_shape({0, 1, 2}), "layers in 3 - 1 groups");
  expect_refused(1, of_shape({0, 3}), "the layers 0 to 3 of a model with 2");
  expect_refused(2, integer(3), "3 heads of queries are no multiple of 2");
  expect_refused(3, integer(0), "argument 3 is 0, and must be 1 to");
  expect_refused(6, of_shape({0, 2}), "layer 1 has attention of the kind 2");
  expect_refused(6, of_shape({0, 1}), "latent attention has no sliding windows", {.slides = true});
  expect_refused(7, integer(1), "disaggregation");
  expect_refused(8, integer(3), "RoPE mode 3");
  expect_refused(16, integer(0), "argument 16");
  ffi::Any flash;
  ASSERT_EQ(ffi::make_string("flashinfer", flash.receive()), 0);
  expect_refused(16, of_array({flash, of_kernel(kernels::prefill), of_kernel(kernels::prefill)}),
                 "a kernel of the kind 'flashinfer'");
  expect_refused(23, of_array({}), "no function that merges attention");
  expect_refused(24, integer(0), "argument 24");
  expect_refused(0, of_shape({4, INT32_MAX - 1000, 24, 4, 0}), "no memory for",
                 {.heads = 64, .kv_heads = 64, .dim = 64});
}

TEST(KvCache, SaysWhichKernelIsMissing) {
  initialize_kv();
  auto arguments = create_arguments(CacheSetup{});
  arguments[15] = of_array({});
  std::vector<TVMFFIAny> views;
  for (const ffi::Any& each : arguments) views.push_back(each.view());
  ffi::Any cache, result;
  ASSERT_EQ(call_builtin("vm.builtin.paged_attention_kv_cache_create", views, &cache), "");
  const ffi::Any ids = of_shape({0}), lengths = of_shape({2});
  ASSERT_EQ(
      call_builtin("vm.builtin.kv_state_add_sequence", {cache.view(), ffi::of_int(0)}, &result),
      "");
  ASSERT_EQ(call_builtin("vm.builtin.kv_state_begin_forward",
                         {cache.view(), ids.view(), lengths.view()}, &result),
            "");
  const auto qkv = make_floats({2, 8, 4}, std::vector<float>(64)), o = make_floats({2, 4, 4}, {});
  EXPECT_EQ(
      call_builtin("vm.builtin.attention_kv_cache_attention_with_fused_qkv",
                   {cache.view(), ffi::of_int(0), of_double(1), of(qkv), of(o)}, &result),
      "vm.builtin.attention_kv_cache_attention_with_fused_qkv: the model was compiled without "
      "a kernel for attention among new tokens");
}

TEST(KvCache, AFailedCopyOfAPageLeavesNoSequence) {
  Model model(CacheSetup{});
  Random random(8);
  ASSERT_EQ(model.add(0), "");
  ASSERT_EQ(model.forward({0}, {6}, {}, random), "");
  auto arguments = create_arguments(CacheSetup{});
  arguments[25] = of_kernel(
      [](void*, const TVMFFIAny*, int32_t, TVMFFIAny*) { return ffi::raise_value("device lost"); });
  std::vector<TVMFFIAny> views;
  for (const ffi::Any& each : arguments) views.push_back(each.view());
  ffi::Any cache, result;
  ASSERT_EQ(call_builtin("vm.builtin.paged_attention_kv_cache_create", views, &cache), "");
  const ffi::Any ids = of_shape({0}), lengths = of_shape({6});
  for (const auto& [name, args] : std::vector<std::pair<std::string_view, std::vector<TVMFFIAny>>>{
           {"add_sequence", {ffi::of_int(0)}},
           {"begin_forward", {ids.view(), lengths.view()}},
           {"end_forward", {}}}) {
    std::vector<TVMFFIAny> all = {cache.view()};
    all.insert(all.end(), args.begin(), args.end());
    ASSERT_EQ(call_builtin(concat("vm.builtin.kv_state_", name), all, &result), "");
  }
  const PageTable* table = page_table_of(cache.view());
  const size_t free = table->free_pages();
  EXPECT_EQ(call_builtin("vm.builtin.kv_state_fork_sequence",
                         {cache.view(), ffi::of_int(0), ffi::of_int(1)}, &result),
            "device lost");
  EXPECT_EQ(table->free_pages(), free);
  EXPECT_EQ(table->check(), "");
}

TEST(KvCache, TakesNoOtherObject) {
  initialize_kv();
  const ffi::Any shape = of_shape({1});
  ffi::Any result;
  EXPECT_TRUE(call_builtin("vm.builtin.kv_state_clear", {shape.view()}, &result)
                  .contains("a KV cache or RNN state"));
  EXPECT_TRUE(call_builtin("vm.builtin.kv_state_clear", {}, &result).contains("takes 1"))
      << call_builtin("vm.builtin.kv_state_clear", {}, &result);
  EXPECT_TRUE(call_builtin("vm.builtin.attention_kv_cache_empty", {ffi::none()}, &result)
                  .contains("a paged KV cache"));
}

}  // namespace
}  // namespace sluice::vm
