// The KV cache does what a plain one does: random operations by seed, and single ones whose errors
// are known.
#include <gtest/gtest.h>

#include <random>

#include "core/ffi/test_support.h"
#include "core/vm/kv/model_for_tests.h"

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

std::string random_forward(Random& random, Model& model, const Setup& setup, bool trees) {
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

std::string random_operation(Random& random, Model& model, const Setup& setup, bool trees) {
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
  Setup setup;
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

}  // namespace
}  // namespace sluice::vm
