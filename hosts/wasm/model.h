// One model on its way into memory: opened, planned, loaded. What a handle of the exports stands
// for.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "core/formats/open.h"
#include "core/load/loader.h"

namespace sluice::wasm {

class Model {
 public:
  explicit Model(std::string_view name) : opener_(name) {}

  Opener& opener() { return opener_; }

  // What was opened, as JSON: {format, metadata, files: [{path, nbytes?}],
  // tensors: [{name, dtype, storedDtype, shape, storedBytes, file, offset}]}.
  // Error: invalid_argument before the opener is done, and once planned.
  Result<std::string> describe();

  // Plans the load with options given as a JSON object (see parse_options()). Returns the plan as
  // JSON: {placements: [{dtype, nbytes, buffer, offset, onDevice?}, or null for a tensor that is
  // not selected],
  //  buffers: [{nbytes, tensor}], shares: {connections, chunkBytes, slots, slotBytes,
  //  scratchBytes}, sourceBytes, outputBytes, largestBuffer}. After an error it may be called
  //  again.
  // Errors: those of make_plan(), invalid_argument.
  Result<std::string> plan(std::string_view options_json);

  // The running load; null before plan().
  Loader* loader() { return loader_ ? &*loader_ : nullptr; }

 private:
  Result<const Manifest*> manifest();

  Opener opener_;
  std::optional<Manifest> manifest_;  // between open and plan
  std::optional<Loader> loader_;
};

// The options of plan() from JSON: {budgetBytes, connections, staged, slotCopies, copiedSlots,
// allocateAhead, maxSlotBytes, maxSegmentBytes, shareBelowBytes, splitTensors, expandOnDevice,
// dtype, selected: [indices]}, all optional. Errors: invalid_argument.
Result<PlanOptions> parse_options(std::string_view json, size_t tensor_count);

}  // namespace sluice::wasm
