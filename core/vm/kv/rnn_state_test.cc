// The RNN state does what a list of tensors does.
#include <gtest/gtest.h>

#include <random>

#include "core/vm/kv/model_for_tests.h"

namespace sluice::vm {
namespace {

constexpr int64_t kSlots = 4, kHistory = 3, kSize = 5, kLayers = 2;

struct Storage {
  float* data;
  int64_t slots, history;
  float* at(int64_t slot, int64_t history_slot) const {
    return data + (slot * history + history_slot) * kSize;
  }
};

// (storage, slots, histories, data): `shift` is 1 where the next state is written
int move(const TVMFFIAny* values, int32_t count, int64_t shift) {
  kernels::Arguments a{.values = values, .count = count};
  const DLTensor &storage = a.tensor(0, 3), &data = a.tensor(3, 2);
  const int64_t rows = a.extent(data, 0);
  const int32_t *slots = a.ints(1, rows), *histories = a.ints(2, rows);
  // These kernels take no offset
  a.good = a.good && a.tensor(1, 1).byte_offset == 0 && a.tensor(2, 1).byte_offset == 0;
  const Storage all{a.floats(storage), a.extent(storage, 0), a.extent(storage, 1)};
  float* rest = a.floats(data);
  if (!a.good || count != 4 || storage.shape[2] != kSize) return kernels::wrong();
  for (int64_t row = 0; row < rows; ++row) {
    if (slots[row] < 0 || slots[row] >= all.slots || histories[row] < 0 ||
        histories[row] >= all.history)
      return kernels::wrong();
    float* place = all.at(slots[row], (histories[row] + shift) % all.history);
    if (shift == 0)
      std::copy_n(place, kSize, rest + row * kSize);
    else
      std::copy_n(rest + row * kSize, kSize, place);
  }
  return 0;
}
int get(void*, const TVMFFIAny* values, int32_t count, TVMFFIAny*) {
  return move(values, count, 0);
}
int set(void*, const TVMFFIAny* values, int32_t count, TVMFFIAny*) {
  return move(values, count, 1);
}

class Rnn {
 public:
  explicit Rnn(int64_t history = kHistory) {
    initialize_kv();
    std::vector<float> first[2];
    for (int64_t i = 0; i < kSize; ++i) {
      first[0].push_back(static_cast<float>(i));
      first[1].push_back(-1);
    }
    const auto a = make_floats({kSize}, first[0]), b = make_floats({kSize}, first[1]);
    const TVMFFIAny initial[] = {ffi::of_object(&a->header), ffi::of_object(&b->header)};
    const ffi::Any values = ffi::Any::adopt(ffi::of_object(ffi::make_array(initial, 2)));
    const ffi::Any gets = of_array({of_kernel(get), of_kernel(get)}),
                   sets = of_array({of_kernel(set), of_kernel(set)});
    made = call_builtin("vm.builtin.rnn_state_create",
                        {ffi::of_int(kLayers), ffi::of_int(kSlots), ffi::of_int(history),
                         gets.view(), sets.view(), values.view()},
                        &state);
  }
  std::string run(std::string_view name, std::vector<TVMFFIAny> args) {
    args.insert(args.begin(), state.view());
    return call_builtin(concat("vm.builtin.", name), args, &result);
  }
  std::string begin(const Ids& ids, const Ids& lengths) {
    const ffi::Any a = of_shape(ids), b = of_shape(lengths);
    return run("kv_state_begin_forward", {a.view(), b.view()});
  }

  ffi::Any state, result;
  std::string made;
};

using States = std::vector<std::vector<float>>;  // [layers * kinds]

struct Plain {
  int64_t length = 0;
  std::vector<States> history;  // the present one last; those that may be gone back to
};

TEST(RnnState, RandomOperationsGiveWhatListsGive) {
  Rnn rnn;
  ASSERT_EQ(rnn.made, "");
  std::mt19937 random(1);
  const auto below = [&](int64_t end) {
    return static_cast<int64_t>(random() % static_cast<uint64_t>(end));
  };
  States first;
  for (int64_t i = 0; i < kLayers * 2; ++i) {
    first.emplace_back();
    for (int64_t n = 0; n < kSize; ++n)
      first.back().push_back(i % 2 == 0 ? static_cast<float>(n) : -1);
  }
  std::map<int64_t, Plain> plain;
  int64_t failed = 0;
  for (int step = 0; step < 3000; ++step) {
    const int64_t id = below(6), other = below(6);
    const bool there = plain.contains(id);
    const bool room = std::ssize(plain) < kSlots;
    std::string raised;
    bool good = true;
    switch (below(7)) {
      case 0:
        raised = rnn.run("kv_state_add_sequence", {ffi::of_int(id)});
        good = !there && room;
        if (good) plain[id] = {.history = {first}};
        break;
      case 1:
        if (below(2) == 0) continue;
        raised = rnn.run("kv_state_remove_sequence", {ffi::of_int(id)});
        good = there;
        plain.erase(id);
        break;
      case 2: {
        const int64_t back = there ? below(4) - 1 : 0;
        const int64_t length = there ? plain[id].length : 0;
        const int64_t position = back < 0 ? -1 : length - back;
        raised = rnn.run("kv_state_fork_sequence",
                         {ffi::of_int(id), ffi::of_int(other), ffi::of_int(position)});
        good = there && !plain.contains(other) && room;
        if (!good) break;
        Plain made = plain[id];
        const int64_t taken = position == -1 ? 0 : back;
        if (taken < std::ssize(made.history)) {
          made.length -= taken;
          made.history.resize(made.history.size() - static_cast<size_t>(taken));
        } else if (position == 0) {
          made = {.history = {first}};
        } else {
          good = false;
          break;
        }
        plain[other] = made;
        break;
      }
      case 3: {
        const int64_t tokens = below(4);
        raised = rnn.run("kv_state_popn", {ffi::of_int(id), ffi::of_int(tokens)});
        good = there && tokens < std::ssize(plain[id].history);
        if (!there) plain.erase(id);
        if (!good) break;
        plain[id].length -= tokens;
        plain[id].history.resize(plain[id].history.size() - static_cast<size_t>(tokens));
        break;
      }
      default: {
        Ids ids, lengths;
        for (const auto& [each, value] : plain)
          if (below(2) == 0) ids.push_back(each);
        std::ranges::shuffle(ids, random);
        for (size_t i = 0; i < ids.size(); ++i) lengths.push_back(1 + below(4) / 3);
        raised = rnn.begin(ids, lengths);
        good = !ids.empty();
        if (!good || !raised.empty()) break;
        const auto rows = std::ssize(ids);
        std::vector<States> next(ids.size(), States(first.size()));
        for (int64_t i = 0; i < std::ssize(first); ++i) {
          const auto out = make_floats({rows, kSize}, {}), data = make_floats({rows, kSize}, {});
          ASSERT_EQ(rnn.run("rnn_state_get",
                            {ffi::of_int(i / 2), ffi::of_int(i % 2), ffi::of_object(&out->header)}),
                    "");
          auto* values = static_cast<float*>(data->tensor.data);
          for (int64_t row = 0; row < rows; ++row) {
            const auto& present = plain[ids[row]].history.back()[i];
            for (int64_t n = 0; n < kSize; ++n) {
              ASSERT_EQ(static_cast<float*>(out->tensor.data)[row * kSize + n], present[n])
                  << "step " << step << ", sequence " << ids[row];
              values[row * kSize + n] = static_cast<float>(below(1000));
              next[row][i].push_back(values[row * kSize + n]);
            }
          }
          ASSERT_EQ(rnn.run("rnn_state_set", {ffi::of_int(i / 2), ffi::of_int(i % 2),
                                              ffi::of_object(&data->header)}),
                    "");
        }
        ASSERT_EQ(rnn.run("kv_state_end_forward", {}), "");
        for (int64_t row = 0; row < rows; ++row) {
          Plain& sequence = plain[ids[row]];
          sequence.length += lengths[row];
          if (lengths[row] > 1) sequence.history.clear();
          sequence.history.push_back(next[row]);
          if (std::ssize(sequence.history) > kHistory)
            sequence.history.erase(sequence.history.begin());
        }
      }
    }
    ASSERT_EQ(raised.empty(), good) << "step " << step << ": " << raised;
    failed += good ? 0 : 1;
    for (const auto& [each, value] : plain) {
      ASSERT_EQ(rnn.run("rnn_state_debug_get", {ffi::of_int(1), ffi::of_int(0), ffi::of_int(each)}),
                "");
      const auto* tensor = reinterpret_cast<ffi::TensorObject*>(rnn.result.view().v_obj);
      for (int64_t n = 0; n < kSize; ++n)
        ASSERT_EQ(static_cast<float*>(tensor->tensor.data)[n], value.history.back()[2][n])
            << "step " << step << ", sequence " << each;
    }
  }
  EXPECT_GT(failed, 100);
}

TEST(RnnState, ErrorsNameTheNumbers) {
  Rnn rnn;
  const TVMFFIAny zero = ffi::of_int(0), nine = ffi::of_int(9);
  const auto tensor = make_floats({1, kSize}, {});
  const TVMFFIAny data = ffi::of_object(&tensor->header);
  const auto expect = [](const std::string& raised, std::string_view text) {
    EXPECT_TRUE(raised.contains(text)) << "'" << text << "' is not in: " << raised;
  };
  for (int64_t id = 0; id < kSlots; ++id)
    ASSERT_EQ(rnn.run("kv_state_add_sequence", {ffi::of_int(id)}), "");
  expect(rnn.run("kv_state_add_sequence", {nine}), "the RNN state is full with 4 sequences");
  expect(rnn.run("kv_state_add_sequence", {zero}), "there is a sequence 0 already");
  expect(rnn.run("kv_state_remove_sequence", {nine}), "there is no sequence 9");
  expect(rnn.run("kv_state_popn", {zero, ffi::of_int(1)}),
         "1 tokens of sequence 0, which has 0 and can go back by 0");
  expect(rnn.run("kv_state_end_forward", {}), "no forward pass has begun");
  expect(rnn.run("rnn_state_get", {zero, zero, data}), "no forward pass has begun");
  expect(rnn.begin({0, 0}, {1, 1}), "sequence 0 is given twice");
  expect(rnn.begin({0, 1}, {1}), "2 sequences and 1 numbers of tokens");
  expect(rnn.begin({0}, {0}), "0 tokens to append to sequence 0");
  const ffi::Any ids = of_shape({0}), lengths = of_shape({2}), tree = of_shape({-1, -1});
  expect(rnn.run("kv_state_begin_forward", {ids.view(), lengths.view(), tree.view()}),
         "the tokens of sequence 0 form a tree at token 1");
  ASSERT_EQ(rnn.begin({0}, {1}), "");
  expect(rnn.begin({0}, {1}), "a forward pass of 1 sequences has begun and not ended");
  expect(rnn.run("kv_state_remove_sequence", {zero}), "has begun and not ended");
  expect(rnn.run("rnn_state_get", {ffi::of_int(2), zero, data}),
         "state 0 of layer 2, there are 2 states in 2 layers");
  expect(rnn.run("rnn_state_set", {zero, ffi::of_int(-1), data}), "state -1 of layer 0");
  expect(rnn.run("attention_kv_cache_empty", {}), "a paged KV cache");
}

TEST(RnnState, IsNotMadeOfWrongArguments) {
  EXPECT_TRUE(Rnn(0).made.contains("a history of 0; each must be 1 to")) << Rnn(0).made;
  EXPECT_TRUE(Rnn(-4).made.contains("a history of -4")) << Rnn(-4).made;
  EXPECT_TRUE(Rnn(INT64_MAX).made.contains("each must be 1 to"));
  EXPECT_FALSE(Rnn(INT32_MAX).made.empty());
  Rnn one(1);
  EXPECT_EQ(one.made, "");
  EXPECT_EQ(one.run("kv_state_add_sequence", {ffi::of_int(0)}), "");
  EXPECT_EQ(one.begin({0}, {1}), "");
  EXPECT_EQ(one.run("kv_state_end_forward", {}), "");
  EXPECT_TRUE(one.run("kv_state_popn", {ffi::of_int(0), ffi::of_int(1)})
                  .contains("which has 1 and can go back by 0"));
}

}  // namespace
}  // namespace sluice::vm
