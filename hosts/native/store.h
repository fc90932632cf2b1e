// A local store on disk, as the npm package keeps it in Node: DIR/models/<folder name>/ with
// `journal` or `journal.1` and the data files `0`, `1`, … of each model
// (core/store/stored_model.h), and DIR/locks/ with a file for each lock that is held.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/error.h"
#include "core/store/stored_model.h"

namespace sluice {

// One folder of the store.
struct StoreEntry {
  std::string folder;                // its name
  std::optional<StoredModel> model;  // nothing where the journal cannot be read: `error` says why
  std::optional<Error> error;
  uint64_t ignored_bytes = 0;  // at the end of the journal: a record that was cut, or is damaged
};

// Every model of a store, by folder name. Nothing is changed. Errors: not_found where there is no
// folder `models` in `directory`; io.
Result<std::vector<StoreEntry>> list_store(const std::string& directory);

// The one that `model` names, by its key or by its folder's name. Errors: those of list_store();
// not_found.
Result<StoreEntry> find_in_store(const std::string& directory, std::string_view model);

struct StoreReport {
  uint64_t extents = 0;  // that were read
  uint64_t bytes = 0;
  uint32_t checked_files = 0;   // of which an MD5 or SHA-256 digest was compared
  std::vector<Error> problems;  // store_corrupt, checksum_mismatch, truncated, not_found, io
};

struct StoreControl {
  const std::atomic<bool>* stop = nullptr;
  std::function<void(uint64_t done, uint64_t total)> on_progress;  // bytes
};

// Reads every extent of a model and holds it against its digest, and a complete file against the
// digests that were recorded of the whole. Nothing is changed: what is damaged is dropped and
// fetched again by the next load. Memory is bounded by one block of a MiB. Error: aborted.
Result<StoreReport> verify_stored(const std::string& directory, const StoreEntry& entry,
                                  const StoreControl& control = {});

// Deletes a model with all that is stored of it. Errors: io; also where a running process holds a
// lock of the store, since which model it uses cannot be told.
Status delete_stored(const std::string& directory, const StoreEntry& entry);

}  // namespace sluice
