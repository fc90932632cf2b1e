// The loader under a simulated host whose model, options, order and faults the fuzzer chooses.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "core/load/simulated_host.h"
#include "core/load/simulated_model.h"

namespace {
constexpr uint64_t kMostElements = 64;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace sluice;
  struct Input {
    uint64_t model, options, order;
    uint8_t cut, early_end, refuse_open, fatal, fail_upload, fail_allocate, stale_event, abort,
        flags, longer_by;
  } input{};
  if (size == 0) return 0;
  std::memcpy(&input, data, std::min(size, sizeof(input)));
  // Few elements: what varies is the order of events and faults, and thousands of them a second
  const auto model = testing::make_model(input.model, kMostElements);
  const PlanOptions options = testing::make_options(input.options);
  const auto plan = make_plan(model.manifest, options);
  if (!plan) return 0;
  const testing::SimulatedFaults faults{
      .cut = input.cut / 1024.0,
      .early_end = input.early_end / 1024.0,
      .refuse_open = input.refuse_open / 512.0,
      .fatal = input.fatal / 2048.0,
      .fail_upload = input.fail_upload / 2048.0,
      .fail_allocate = input.fail_allocate / 2048.0,
      .stale_event = input.stale_event / 256.0,
      .abort = input.abort / 4096.0,
      .no_ranges = (input.flags & 1) != 0,
      .knows_size = (input.flags & 2) != 0,
      .longer_by = (input.flags & 4) != 0 ? input.longer_by : 0u,
  };
  Loader loader(model.manifest, *plan, options, {}, input.order);
  const auto outcome =
      testing::SimulatedHost(loader, model.files, options.staged, input.order, faults).run();
  std::string wrong = outcome.violation;
  if (wrong.empty() && !outcome.error)
    wrong = testing::check_buffers(model, *plan, outcome.buffers, options.staged);
  if (wrong.empty() && outcome.error && outcome.error->code == ErrorCode::internal)
    wrong = outcome.error->message;
  if (!wrong.empty()) {
    std::fprintf(stderr, "%s\n", wrong.c_str());
    std::abort();
  }
  return 0;
}
