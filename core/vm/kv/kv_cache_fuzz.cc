// Any bytes are operations on a KV cache, each of which does what it does to vectors, or fails with
// a raised error and changes nothing; no page is lost.
#include <cstdio>
#include <cstdlib>

#include "core/vm/kv/model_for_tests.h"

namespace sluice::vm {
namespace {

class Input {
 public:
  Input(const uint8_t* data, size_t size) : data_(data), left_(size) {}
  bool empty() const { return left_ == 0; }
  int64_t byte() {
    if (left_ == 0) return 0;
    --left_;
    return *data_++;
  }
  // A small number, sometimes one that no argument may be
  int64_t number() {
    const int64_t value = byte();
    constexpr int64_t kOdd[] = {-1, -2, INT32_MAX, INT64_MAX, INT64_MIN, int64_t{1} << 32, 256, 77};
    return value >= 248 ? kOdd[value - 248] : value % 32;
  }
  // The same, from -1 on
  int64_t below_number() {
    const int64_t value = number();
    return value == INT64_MIN ? value : value - 1;
  }
  int64_t id() { return byte() % 6; }
  Ids ids() {
    Ids out(static_cast<size_t>(byte() % 5));
    for (int64_t& each : out) each = id();
    return out;
  }

 private:
  const uint8_t* data_;
  size_t left_;
};

// Values that differ from each other
class Values {
 public:
  float operator()() {
    state_ = state_ * 1664525 + 1013904223;
    return static_cast<float>(state_ >> 8) / (1 << 23) - 1;
  }

 private:
  uint32_t state_ = 1;
};

std::string operation(Input& in, Model& model, Values& values) {
  switch (in.byte() % 9) {
    case 0:
      return model.add(in.id());
    case 1:
      return model.remove(in.id());
    case 2: {
      const int64_t parent = in.id(), child = in.id();
      return model.fork(parent, child, in.number());
    }
    case 3: {
      const int64_t id = in.id();
      return model.pop(id, in.number());
    }
    case 4: {
      const int64_t id = in.id(), window = in.number();
      return model.window(id, window, in.number());
    }
    case 5: {
      const Ids ids = in.ids();
      Ids leaves;
      for (size_t i = 0; i < ids.size(); ++i) leaves.push_back(in.below_number());
      return model.commit(ids, leaves);
    }
    case 6:
      return in.byte() % 8 == 0 ? model.clear() : model.compare_contents();
    default: {
      const Ids ids = in.ids();
      const int64_t kind = in.byte() % 4;
      Ids lengths;
      for (size_t i = 0; i < ids.size(); ++i) lengths.push_back(kind == 0 ? 1 : in.number());
      std::optional<Ids> parents;
      if (kind == 3) {
        parents.emplace();
        for (const int64_t length : lengths)
          for (int64_t n = 0; n < std::min<int64_t>(length, 8); ++n)
            parents->push_back(in.below_number());
      }
      return model.forward(ids, lengths, parents, values);
    }
  }
}

}  // namespace
}  // namespace sluice::vm

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace sluice;      // NOLINT(google-build-using-namespace)
  using namespace sluice::vm;  // NOLINT(google-build-using-namespace)
  Input in(data, size);
  const int64_t flags = in.byte();
  CacheSetup setup{.batch = 3, .tokens = 48, .chunk = 20, .page = 1 + in.byte() % 6, .dim = 2};
  setup.slides = (flags & 1) != 0;
  setup.kinds = (flags & 2) != 0 ? Ids{3, 0} : Ids{0};
  setup.rope = flags / 4 % 3;
  setup.heads = setup.kv_heads = 1;
  // Windows of layers and of sequences do not go together
  if ((flags & 3) == 3) setup.kinds = {0};
  kernels::layer_window = (flags & 2) != 0 && !setup.slides ? setup.layer_window : 0;
  Model model(setup);
  Values values;
  std::string problem = model.made();
  for (int step = 0; step < 200 && !in.empty() && problem.empty(); ++step)
    problem = operation(in, model, values);
  if (problem.empty()) problem = model.clear();
  if (problem.empty() &&
      model.table().free_pages() != static_cast<size_t>(model.table().page_count()))
    problem = "pages are lost";
  if (problem.empty()) return 0;
  (void)std::fprintf(stderr, "%s\n", problem.c_str());
  std::abort();
}
