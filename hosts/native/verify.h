// Holds a model on disk against what its manifest promises.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "hosts/native/file_host.h"

namespace sluice {

// Reads every file that has an MD5 digest in its manifest, up to the first that differs. Returns
// how many there are. Errors: checksum_mismatch, aborted, io, truncated.
Result<uint32_t> verify_checksums(const Model& model, const std::atomic<bool>* stop = nullptr);

struct VerifyReport {
  Model model = {};
  uint32_t checksums = 0;   // files that were held against an MD5 digest
  uint64_t bytes_read = 0;  // of all files
  // In the manifest's order of files, each file's own before those of its tensors.
  std::vector<Error> problems = {};
};

// Opens the model, holds every file's size against the manifest and every tensor's range against
// its file, and reads every file to its end, with its MD5 digest where the manifest has one.
// Memory is bounded by one block of a MiB.
//
// Everything that is wrong with files and tensors is a problem of the report: not_found, truncated,
// size_mismatch, range_out_of_bounds, checksum_mismatch, io. The digest of a file of the wrong size
// is not looked at. Errors: what keeps the manifest from being read, as find_model() says; aborted.
Result<VerifyReport> verify_model(const std::string& path, const LoadControl& control = {});

}  // namespace sluice
