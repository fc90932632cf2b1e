// The native host: models on the local file system, and a Loader's commands carried out on them.
//
// Files are read with pread straight to where a sink wants the bytes: a "chunk" that the loader is
// told of is a promise that so many bytes stand in the file, kept when they are copied. What is
// held of a model at any time is one chunk and one decoding step, both out of the plan's budget.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/base/bytes.h"
#include "core/base/error.h"
#include "core/formats/manifest.h"
#include "core/load/loader.h"
#include "core/load/plan.h"
#include "hosts/native/digest.h"

namespace sluice {

// A model on the local file system.
struct Model {
  std::string folder = {};         // with its '/' at the end; empty for the current folder
  std::string manifest_path = {};  // the manifest or single file, relative to `folder`
  Manifest manifest = {};          // validated; from open_model(), every file has its size

  // A file of the manifest, as open() takes it.
  std::string file_path(uint32_t file) const { return folder + manifest.files[file].path; }
};

// Finds and reads the manifest at `path`, a file or a folder. The files that it names are not
// looked at yet. Errors: the formats' own; not_found; io.
Result<Model> find_model(const std::string& path);

// Holds a file of the manifest against the file system. Returns its size in bytes. Errors:
// not_found; truncated or size_mismatch where it is shorter or longer than promised; io.
Result<uint64_t> check_file(const Model& model, uint32_t file);

// find_model(), then check_file() for every file, and every tensor's range against its file.
Result<Model> open_model(const std::string& path);

// What is done with the bytes of a load. All of one tensor's bytes come in order, one tensor after
// another in the order of Plan::order; tensors without bytes come first.
class Sink {
 public:
  Sink() = default;
  Sink(const Sink&) = delete;
  Sink& operator=(const Sink&) = delete;
  virtual ~Sink() = default;

  // Makes room for one of the plan's buffers; `first` is the first tensor in it.
  virtual Status allocate(uint32_t buffer, uint64_t nbytes, const TensorEntry& first);
  // Gives it back: the load has failed.
  virtual void free(uint32_t buffer);
  // Where the bytes of `buffer` from `offset` on are to be written; null where they go to write().
  virtual std::byte* address(uint32_t buffer, uint64_t offset);
  // Takes the next bytes of `tensor`, which are not kept behind the call.
  virtual Status write(uint32_t tensor, Bytes bytes);
  // All bytes of `tensor` have come.
  virtual Status ready(uint32_t tensor);
};

// Keeps the tensors in memory.
class MemorySink : public Sink {
 public:
  explicit MemorySink(const Plan& plan);
  ~MemorySink() override;

  Status allocate(uint32_t buffer, uint64_t nbytes, const TensorEntry& first) override;
  void free(uint32_t buffer) override;
  std::byte* address(uint32_t buffer, uint64_t offset) override;

  // The tensor's bytes, valid as long as the sink. Only after a successful load.
  Bytes tensor(uint32_t index) const;

 private:
  struct Block {
    std::byte* begin = nullptr;
    uint64_t nbytes = 0;
  };
  std::vector<Placement> placements_;
  std::vector<Block> blocks_;
};

// Digests each tensor and drops it. No memory is taken for buffers.
class DigestSink : public Sink {
 public:
  explicit DigestSink(const Plan& plan)
      : digests_(plan.placements.size()), digest_(Digest::Kind::sha256) {}

  Status write(uint32_t tensor, Bytes bytes) override;
  Status ready(uint32_t tensor) override;

  // SHA-256 in hex, by tensor; empty for tensors that were not loaded.
  const std::vector<std::string>& digests() const { return digests_; }

 private:
  std::vector<std::string> digests_;
  Digest digest_;
};

// Plan options for run_load(): one transfer at a time, not staged, tensors in one piece.
PlanOptions native_plan_options(uint64_t budget_bytes, std::optional<DType> dtype);

struct LoadControl {
  // Once true, the load ends with `aborted`. Null: never.
  const std::atomic<bool>* stop = nullptr;
  // Called about every MiB.
  std::function<void(const Progress&)> on_progress = {};
};

// Loads the model into `sink`. `plan` must be made from model.manifest with `options`, and these
// from native_plan_options(). Returns the final progress. Errors: truncated, size_mismatch,
// source_changed, out_of_device_memory, budget_too_small, aborted, io, and the sink's own.
Result<Progress> run_load(const Model& model, const Plan& plan, const PlanOptions& options,
                          Sink& sink, const LoadControl& control = {});

}  // namespace sluice
