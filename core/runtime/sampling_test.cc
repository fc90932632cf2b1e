// The samplers against plain references: sorted, in double precision, with no shortcuts.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "core/runtime/test_support.h"

namespace sluice::runtime {
namespace {

using SamplingTest = RuntimeTest;

constexpr const char* kFromLogits = "vm.builtin.sample_top_p_from_logits";
constexpr const char* kFromProb = "vm.builtin.sample_top_p_from_prob";
constexpr const char* kRepetition = "vm.builtin.apply_repetition_penalty";
constexpr const char* kPresence = "vm.builtin.apply_presence_and_frequency_penalty";
constexpr const char* kSoftmax = "vm.builtin.apply_softmax_with_temperature";
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

// Softmax in double precision
std::vector<double> reference_softmax(const std::vector<float>& logits, double temperature) {
  const double highest = *std::max_element(logits.begin(), logits.end());
  std::vector<double> out;
  double sum = 0;
  for (const float logit : logits)
    sum += out.emplace_back(std::exp((logit - highest) / temperature));
  for (double& value : out) value /= sum;
  return out;
}

struct Nucleus {
  std::vector<size_t> tokens;  // most likely first
  std::vector<double> ends;    // where each one's share ends
  double held = 0;
};

Nucleus reference_nucleus(const std::vector<double>& probabilities, double top_p) {
  std::vector<size_t> order(probabilities.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return std::pair(-probabilities[a], a) < std::pair(-probabilities[b], b);
  });
  Nucleus out;
  for (const size_t token : order) {
    if (out.held >= top_p) break;
    out.held += probabilities[token];
    out.tokens.push_back(token);
    out.ends.push_back(out.held);
  }
  for (double& end : out.ends) end /= out.held;
  return out;
}

// Tokens that a correct sampler may give for `uniform`: near the end of a share, where rounding
// decides, both
bool fits(const Nucleus& nucleus, double uniform, int64_t token) {
  constexpr double kRounding = 1e-5;
  double start = 0;
  for (size_t i = 0; i < nucleus.tokens.size(); ++i) {
    if (nucleus.tokens[i] == static_cast<size_t>(token))
      return uniform >= start - kRounding && uniform <= nucleus.ends[i] + kRounding;
    start = nucleus.ends[i];
  }
  return false;
}

int64_t sample_logits(const Any& logits, double temperature, double top_p, double uniform) {
  return call(kFromLogits,
              {logits.view(), of_float(temperature), of_float(top_p), of_float(uniform)})
      .view()
      .v_int64;
}

int64_t sample_prob(const Any& probabilities, double top_p, double uniform) {
  return call(kFromProb, {probabilities.view(), of_float(top_p), of_float(uniform)}).view().v_int64;
}

TEST_F(SamplingTest, LogitsAreSampledAsTheReferenceSays) {
  std::mt19937 random(1);
  std::normal_distribution<float> logit(0, 3);
  std::uniform_real_distribution<double> uniform(0, 1);
  for (const size_t size : {1, 2, 3, 100, 5000}) {
    for (int round = 0; round < 60; ++round) {
      std::vector<float> logits(size);
      for (float& value : logits) value = logit(random);
      const double temperature = 0.1 + 2 * uniform(random);
      const double top_p = round % 4 == 0 ? 1 : uniform(random);
      const double u = uniform(random);
      const int64_t token = sample_logits(floats(logits), temperature, top_p, u);
      EXPECT_TRUE(fits(reference_nucleus(reference_softmax(logits, temperature), top_p), u, token))
          << "size " << size << " temperature " << temperature << " top_p " << top_p << " u " << u
          << " gave " << token;
    }
  }
}

TEST_F(SamplingTest, ProbabilitiesAreSampledAsTheReferenceSays) {
  std::mt19937 random(2);
  std::normal_distribution<float> logit(0, 3);
  std::uniform_real_distribution<double> uniform(0, 1);
  for (const size_t size : {1, 2, 3, 100, 5000}) {
    for (int round = 0; round < 60; ++round) {
      std::vector<float> logits(size);
      for (float& value : logits) value = logit(random);
      const std::vector<double> exact = reference_softmax(logits, 1);
      const std::vector<float> probabilities(exact.begin(), exact.end());
      const double top_p = round % 4 == 0 ? 1 : 0.01 + 0.99 * uniform(random);
      const double u = uniform(random);
      const int64_t token = sample_prob(floats(probabilities), top_p, u);
      const Nucleus nucleus = reference_nucleus(exact, top_p);
      // The first one's share of top_p, as TVM has it, is a little larger than of what is held
      const bool is_first = static_cast<size_t>(token) == nucleus.tokens[0] &&
                            u <= exact[nucleus.tokens[0]] / top_p + 1e-5;
      EXPECT_TRUE(is_first || fits(nucleus, u, token))
          << "size " << size << " top_p " << top_p << " u " << u << " gave " << token;
    }
  }
}

TEST_F(SamplingTest, EveryShareIsHit) {
  // 0.5, 0.3, 0.2 at their own indices; top_p 0.7 keeps the first two: shares of 0.625 and 0.375
  const Any probabilities = floats({0.2f, 0.5f, 0.3f});
  EXPECT_EQ(sample_prob(probabilities, 1, 0.49), 1);
  EXPECT_EQ(sample_prob(probabilities, 1, 0.51), 2);
  EXPECT_EQ(sample_prob(probabilities, 1, 0.79), 2);
  EXPECT_EQ(sample_prob(probabilities, 1, 0.81), 0);
  EXPECT_EQ(sample_prob(probabilities, 0.7, 0.99), 2);
  EXPECT_EQ(sample_prob(probabilities, 0.7, 1), 2);
  EXPECT_EQ(sample_prob(probabilities, 0.7, 0.70), 1);  // 0.5 / 0.7 is the first one's share
  EXPECT_EQ(sample_prob(probabilities, 0.7, 0.72), 2);
  EXPECT_EQ(sample_prob(probabilities, 0.4, 1), 1);
  EXPECT_EQ(sample_prob(probabilities, 0, 1), 1);
  const Any logits = floats({std::log(0.2f), std::log(0.5f), std::log(0.3f)});
  EXPECT_EQ(sample_logits(logits, 1, 0.7, 0.62), 1);
  EXPECT_EQ(sample_logits(logits, 1, 0.7, 0.63), 2);
  EXPECT_EQ(sample_logits(logits, 1, 1, 0.81), 0);
  EXPECT_EQ(sample_logits(logits, 1, 0, 1), 1);
}

TEST_F(SamplingTest, WithoutTemperatureTheMostLikelyAndOfThoseTheFirst) {
  EXPECT_EQ(sample_logits(floats({-4, 2, 2, 1}), 0, 1, 0.999), 1);
  EXPECT_EQ(sample_logits(floats({-4, 2, 3, 1}), 1e-7, 1, 0.999), 2);
  EXPECT_EQ(sample_logits(floats({-kInf, -kInf, -8}), 1, 1, 0.5), 2);
}

TEST_F(SamplingTest, LeadingExtentsOfOneAreFine) {
  const Any row = tensor_with<float>({1, 1, 3}, "float32", {0, 9, 1});
  EXPECT_EQ(sample_logits(row, 0, 1, 0), 1);
  const Any whole = tensor_with<float>({2, 3}, "float32", {5, 0, 0, 0, 0, 7});
  EXPECT_EQ(sample_logits(view_of(whole, {3}, "float32", 12), 0, 1, 0), 2);
}

TEST_F(SamplingTest, RefusesWhatCannotBeSampled) {
  const auto refuses = [](const Any& logits, double temperature, double top_p, double uniform,
                          std::string_view kind, std::initializer_list<std::string_view> named) {
    expect_call_raises(kFromLogits,
                       {logits.view(), of_float(temperature), of_float(top_p), of_float(uniform)},
                       kind, named);
  };
  const Any two = floats({1, 2});
  refuses(floats({}), 1, 1, 0, "ValueError", {kFromLogits, "no logits"});
  refuses(floats({1, kNaN, 3}), 1, 1, 0, "ValueError", {"logit 1 of 3 is NaN"});
  refuses(floats({1, kInf}), 1, 1, 0, "ValueError", {"logit 1 of 2 is infinite"});
  refuses(floats({-kInf, -kInf}), 1, 1, 0, "ValueError", {"the highest, is -infinity"});
  refuses(two, -1, 1, 0, "ValueError", {"the temperature", "0 or more"});
  refuses(two, kNaN, 1, 0, "ValueError", {"the temperature"});
  refuses(two, 1, -0.5, 0, "ValueError", {"top_p"});
  refuses(two, 1, 1, 1.5, "ValueError", {"from 0 to 1"});
  refuses(new_tensor({2}, "float16"), 1, 1, 0, "TypeError", {"float32 on the CPU", "float16[2]"});
  refuses(new_tensor({}, "float32"), 1, 1, 0, "ValueError", {"have a dimension"});
  refuses(new_tensor({2, 2}, "float32"), 1, 1, 0, "ValueError", {"one row", "float32[2, 2]"});
  const Any bytes = new_tensor({9}, "uint8");
  refuses(view_of(bytes, {2}, "float32", 1), 1, 1, 0, "ValueError", {"byte 1", "multiple of 4"});
  expect_call_raises(kFromProb, {floats({kNaN, -1}).view(), of_float(1), of_float(0)}, "ValueError",
                     {kFromProb, "none of 2 probabilities"});
  EXPECT_EQ(sample_prob(floats({kNaN, 0.5f}), 1, 0.9), 1);
  expect_call_raises(kFromProb, {two.view(), of_text("1"), of_float(0)}, "TypeError",
                     {"argument 1", "a number"});
}

TEST_F(SamplingTest, PenalizesRepetition) {
  const Any logits = floats({4, -4, 0, 1});
  const Any ids = tensor_with<int32_t>({1, 4}, "int32", {0, 1, 2, 0});
  call(kRepetition, {logits.view(), ids.view(), of_float(2)});
  EXPECT_EQ(elements<float>(logits), (std::vector<float>{1, -8, 0, 1}));  // token 0 twice
  for (const int32_t wrong : {-1, 4}) {
    const Any outside = tensor_with<int32_t>({2}, "int32", {3, wrong});
    expect_call_raises(kRepetition, {logits.view(), outside.view(), of_float(2)}, "IndexError",
                       {"token id 1", concat(wrong), "4 logits"});
  }
  EXPECT_EQ(elements<float>(logits)[3], 1);  // nothing is changed where one is wrong
  for (const double wrong : {0.0, -1.0, double{kNaN}, double{kInf}})
    expect_call_raises(kRepetition, {logits.view(), ids.view(), of_float(wrong)}, "ValueError",
                       {"the penalty", "above 0"});
  const Any wide = new_tensor({4}, "int64");
  expect_call_raises(kRepetition, {logits.view(), wide.view(), of_float(2)}, "TypeError",
                     {"token ids must be int32", "int64[4]"});
}

TEST_F(SamplingTest, PenalizesPresenceAndFrequency) {
  const Any logits = floats({1, 2, 3});
  const Any ids = tensor_with<int32_t>({2}, "int32", {2, 0});
  const Any times = tensor_with<int32_t>({2}, "int32", {4, 1});
  call(kPresence, {logits.view(), ids.view(), times.view(), of_float(0.5), of_float(0.25)});
  EXPECT_EQ(elements<float>(logits), (std::vector<float>{0.25f, 2, 1.5f}));
  const Any one = tensor_with<int32_t>({1}, "int32", {1});
  expect_call_raises(kPresence,
                     {logits.view(), ids.view(), one.view(), of_float(0.5), of_float(0.25)},
                     "ValueError", {"2 token ids", "1 token frequencies"});
  const Any outside = tensor_with<int32_t>({2}, "int32", {2, 3});
  expect_call_raises(kPresence,
                     {logits.view(), outside.view(), times.view(), of_float(0.5), of_float(0.25)},
                     "IndexError", {"token id 1 is 3"});
}

TEST_F(SamplingTest, SoftmaxIsThatOfTheReference) {
  std::mt19937 random(3);
  std::normal_distribution<float> logit(0, 20);
  for (const float shift : {0.f, -1000.f, 1000.f}) {
    for (const double temperature : {0.05, 1.0, 7.5}) {
      std::vector<float> content(257);
      for (float& value : content) value = logit(random) + shift;
      const Any logits = floats(content);
      call(kSoftmax, {logits.view(), of_float(temperature)});
      const std::vector<double> expected = reference_softmax(content, temperature);
      const std::vector<float> actual = elements<float>(logits);
      double sum = 0;
      for (size_t i = 0; i < expected.size(); ++i) {
        EXPECT_NEAR(actual[i], expected[i], 2e-6 + 1e-4 * expected[i]) << i;
        sum += actual[i];
      }
      EXPECT_NEAR(sum, 1, 1e-5);
    }
  }
  const Any two = floats({1, 2});
  for (const double wrong : {0.0, -1.0, double{kNaN}})
    expect_call_raises(kSoftmax, {two.view(), of_float(wrong)}, "ValueError", {"the temperature"});
}

}  // namespace
}  // namespace sluice::runtime
