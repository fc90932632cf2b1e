// Loads under the simulated host, by the million: `simulate [loads] [first seed]`. Each seed gives
// a model, options, an order of events and faults. Ends with 1 at the first load that leaks, hangs
// or lets a wrong byte reach a tensor, and names its seed; with 2 where it is called wrongly.
#include <atomic>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "core/load/simulated_host.h"
#include "core/load/simulated_model.h"

namespace {

using namespace sluice;

struct Counts {
  uint64_t complete = 0, failed = 0, retries = 0, events = 0, bytes = 0;
  uint64_t by_code[32] = {};
};

// What is wrong with the load of this seed; empty when nothing is.
std::string load(uint64_t seed, Counts& counts) {
  const auto model = testing::make_model(seed);
  const PlanOptions options = testing::make_options(seed);
  const auto plan = make_plan(model.manifest, options);
  if (!plan) return to_string(plan.error());
  Loader loader(model.manifest, *plan, options, testing::make_retry(seed), seed);
  const auto outcome =
      testing::SimulatedHost(loader, model.files, options.staged, seed, testing::make_faults(seed))
          .run();
  counts.retries += outcome.progress.retries;
  counts.events += outcome.steps;
  if (!outcome.violation.empty()) return outcome.violation;
  if (outcome.error) {
    ++counts.failed;
    ++counts.by_code[static_cast<uint32_t>(outcome.error->code) % 32];
    return outcome.error->code == ErrorCode::internal ? outcome.error->message : std::string();
  }
  ++counts.complete;
  counts.bytes += outcome.progress.output_bytes_done;
  return testing::check_buffers(model, *plan, outcome.buffers, options.staged);
}

bool parse(std::string_view text, uint64_t& number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && end == text.data() + text.size();
}

}  // namespace

int main(int argc, char** argv) {
  uint64_t loads = 100'000;
  uint64_t first = 1;
  if (argc > 3 || (argc > 1 && (!parse(argv[1], loads) || loads == 0)) ||
      (argc > 2 && !parse(argv[2], first)) || first + loads < first) {
    std::fprintf(stderr, "usage: simulate [loads, at least 1 (100000)] [first seed (1)]\n");
    return 2;
  }
  const unsigned threads = std::max(1u, std::thread::hardware_concurrency());
  std::atomic<uint64_t> next = first;
  std::atomic<bool> wrong = false;
  std::vector<Counts> counts(threads);
  {
    std::vector<std::jthread> pool;
    pool.reserve(threads);
    for (unsigned i = 0; i < threads; ++i) {
      pool.emplace_back([&, i] {
        for (uint64_t seed = next++; seed < first + loads && !wrong; seed = next++) {
          const std::string fault = load(seed, counts[i]);
          if (fault.empty()) continue;
          wrong = true;
          std::fprintf(stderr, "seed %llu: %s\n", static_cast<unsigned long long>(seed),
                       fault.c_str());
        }
      });
    }
  }
  if (wrong) return 1;
  Counts all;
  for (const Counts& each : counts) {
    all.complete += each.complete, all.failed += each.failed, all.retries += each.retries;
    all.events += each.events, all.bytes += each.bytes;
    for (size_t c = 0; c < 32; ++c) all.by_code[c] += each.by_code[c];
  }
  const auto number = [](uint64_t value) { return static_cast<unsigned long long>(value); };
  std::printf("%llu loads, seeds %llu to %llu, %llu events: no leak, no wrong byte\n",
              number(loads), number(first), number(first + loads - 1), number(all.events));
  std::printf("  %llu complete, %llu bytes compared, %llu transfers opened again\n",
              number(all.complete), number(all.bytes), number(all.retries));
  std::printf("  %llu ended with their error:", number(all.failed));
  for (uint32_t c = 1; is_error_code(c); ++c)
    if (all.by_code[c] > 0)
      std::printf(" %s %llu", std::string(error_code_name(static_cast<ErrorCode>(c))).c_str(),
                  number(all.by_code[c]));
  std::printf("\n");
  return 0;
}
