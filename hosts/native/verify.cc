#include "hosts/native/verify.h"

#include <algorithm>
#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "core/base/checked.h"
#include "hosts/native/digest.h"
#include "hosts/native/file.h"

namespace sluice {
namespace {

constexpr uint64_t kBlock = 1ull << 20;

// Reads files from end to end, a block at a time.
class Reader {
 public:
  // `on_bytes` is told of each block's length.
  Reader(const std::atomic<bool>* stop, std::function<void(uint64_t)> on_bytes)
      : stop_(stop),
        on_bytes_(std::move(on_bytes)),
        block_(std::make_unique_for_overwrite<std::byte[]>(kBlock)) {}

  // Compares the file's digest where the manifest has one. Errors: checksum_mismatch, aborted, io,
  // truncated.
  Status read(const Model& model, uint32_t file, bool with_digest) {
    const FileEntry& entry = model.manifest.files[file];
    const std::string path = model.file_path(file);
    SLUICE_ASSIGN(const InputFile input, open_input(path));
    for (uint64_t offset = 0; offset < input.nbytes;) {
      if (stop_ != nullptr && stop_->load(std::memory_order_relaxed))
        return std::unexpected(Error{.code = ErrorCode::aborted, .message = "interrupted"});
      const uint64_t n = std::min(kBlock, input.nbytes - offset);
      SLUICE_TRY(read_at(input.descriptor, offset, {block_.get(), n}, path));
      if (with_digest) digest_.update({block_.get(), n});
      if (on_bytes_) on_bytes_(n);
      offset += n;
    }
    if (!with_digest) return {};
    const std::string actual = digest_.finish();
    if (actual == entry.md5) return {};
    return std::unexpected(Error{
        .code = ErrorCode::checksum_mismatch,
        .message = concat(quote(path), " has the MD5 digest ", actual, "; ", model.manifest_path,
                          " promises ", entry.md5),
        .file = path,
        .hint = "download it again",
    });
  }

  // After an error in the middle of a file.
  void start_anew() { (void)digest_.finish(); }

 private:
  const std::atomic<bool>* stop_;
  std::function<void(uint64_t)> on_bytes_;
  std::unique_ptr<std::byte[]> block_;
  Digest digest_{Digest::Kind::md5};
};

// What is wrong with a tensor's range in a file of `file_nbytes` bytes.
std::optional<Error> range_problem(const Model& model, const TensorEntry& tensor,
                                   uint64_t file_nbytes) {
  const auto end = checked_add(tensor.offset, tensor.nbytes);
  if (end && *end <= file_nbytes) return std::nullopt;
  const std::string path = model.file_path(tensor.file);
  return Error{
      .code = ErrorCode::range_out_of_bounds,
      .message =
          concat("tensor ", quote(tensor.name), " takes ", tensor.nbytes, " bytes from byte ",
                 tensor.offset, " of ", quote(path), ", which has ", file_nbytes, " bytes"),
      .file = path,
      .tensor = tensor.name,
      .expected = end,
      .actual = file_nbytes,
  };
}

}  // namespace

Result<uint32_t> verify_checksums(const Model& model, const std::atomic<bool>* stop) {
  Reader reader(stop, {});
  uint32_t verified = 0;
  for (uint32_t f = 0; f < model.manifest.files.size(); ++f) {
    if (model.manifest.files[f].md5.empty()) continue;
    SLUICE_TRY(reader.read(model, f, true));
    ++verified;
  }
  return verified;
}

Result<VerifyReport> verify_model(const std::string& path, const LoadControl& control) {
  VerifyReport report;
  SLUICE_ASSIGN(report.model, find_model(path));
  const Manifest& manifest = report.model.manifest;
  const auto add = [&](Error error) { report.problems.push_back(std::move(error)); };
  const auto bytes_on_disk = [](const Result<uint64_t>& size) {
    if (size) return std::optional(*size);
    return size.error().actual;
  };

  std::vector<Result<uint64_t>> sizes;
  Progress progress;
  for (uint32_t f = 0; f < manifest.files.size(); ++f) {
    sizes.push_back(check_file(report.model, f));
    progress.source_bytes += bytes_on_disk(sizes.back()).value_or(0);
  }
  progress.output_bytes = progress.source_bytes;
  Reader reader(control.stop, [&](uint64_t n) {
    report.bytes_read += n;
    progress.source_bytes_done = progress.output_bytes_done = report.bytes_read;
    if (control.on_progress) control.on_progress(progress);
  });

  std::vector<std::vector<const TensorEntry*>> tensors(manifest.files.size());
  for (const TensorEntry& tensor : manifest.tensors) tensors[tensor.file].push_back(&tensor);
  for (uint32_t f = 0; f < manifest.files.size(); ++f) {
    if (!sizes[f]) add(sizes[f].error());
    const auto nbytes = bytes_on_disk(sizes[f]);
    if (!nbytes) continue;  // missing, or it cannot be opened
    for (const TensorEntry* tensor : tensors[f])
      if (auto problem = range_problem(report.model, *tensor, *nbytes)) add(*std::move(problem));
    const bool with_digest = sizes[f] && !manifest.files[f].md5.empty();
    report.checksums += with_digest;
    if (Status status = reader.read(report.model, f, with_digest); !status) {
      if (status.error().code == ErrorCode::aborted) return std::unexpected(status.error());
      add(std::move(status).error());
      reader.start_anew();
    }
  }
  return report;
}

}  // namespace sluice
