#include "hosts/native/file_host.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <memory>
#include <utility>

#include "core/base/path.h"
#include "core/formats/open.h"
#include "hosts/native/file.h"

namespace sluice {
namespace {

Error aborted() { return {.code = ErrorCode::aborted, .message = "interrupted"}; }

// Answers the opener's request.
Status answer(Opener& opener, const Opener::Request& request, const std::string& folder) {
  const std::string path = folder + request.path;
  auto file = open_input(path);
  if (!file) {
    if (file.error().code == ErrorCode::not_found) return opener.missing();
    return std::unexpected(std::move(file).error());
  }
  const uint64_t size = file->nbytes;
  uint64_t end = std::min(request.end, size);
  std::optional<uint64_t> known = size;
  if (end > request.begin && end - request.begin > kMaxJsonManifest) {
    // Too long whatever it is: one byte more than allowed says so, and the size stays untold
    end = request.begin + kMaxJsonManifest + 1;
    known.reset();
  }
  std::vector<std::byte> bytes(end - std::min(end, request.begin));
  SLUICE_TRY(read_at(file->descriptor, request.begin, bytes, path));
  return opener.provide(bytes, known);
}

// Carries out a loader's commands. Everything is done when its command is, so each event follows
// at once.
class FileHost {
 public:
  FileHost(const Model& model, Loader& loader, Sink& sink, const LoadControl& control)
      : model_(model), loader_(loader), sink_(sink), control_(control) {
    const BudgetShares& shares = loader.plan().shares;
    // Uninitialised: what is never used takes no memory
    in_ = std::make_unique_for_overwrite<std::byte[]>(shares.chunk_bytes);
    if (shares.scratch_bytes > 0)
      out_ = std::make_unique_for_overwrite<std::byte[]>(kDecodeOutputBytes);
  }

  Status run() {
    SLUICE_TRY(loader_.start());
    Command command;
    while (loader_.poll(command)) {
      if (control_.stop != nullptr && control_.stop->load(std::memory_order_relaxed))
        loader_.abort(aborted());
      if (Status status = execute(command); !status) loader_.abort(std::move(status).error());
    }
    if (loader_.error() != nullptr) return std::unexpected(*loader_.error());
    if (!loader_.finished()) return std::unexpected(fault("the loader came to a halt"));
    return {};
  }

 private:
  static Error fault(std::string_view what) {
    return {.code = ErrorCode::internal, .message = std::string(what)};
  }

  Status execute(const Command& c) {
    switch (c.op) {
      case Op::allocate: {
        const uint32_t first = loader_.plan().buffers[c.target].tensor;
        Status status = sink_.allocate(c.target, c.nbytes, loader_.manifest().tensors[first]);
        if (status)
          loader_.allocated(c.target);
        else
          loader_.allocation_failed(c.target, std::move(status).error());
        return {};
      }
      case Op::open:
        return open(c);
      case Op::read:
        return read(c);
      case Op::copy:
        return copy(c);
      case Op::decode:
        return decode(c);
      case Op::zero:
        // Only slots are padded, and there are none
        return std::unexpected(fault("the loader pads without a slot"));
      case Op::cancel:
        if (c.stream == stream_) stream_ = 0, file_.descriptor.close();
        return {};
      case Op::tensor_ready:
        return sink_.ready(c.target);
      case Op::flush:
        loader_.flushed();
        return {};
      case Op::free:
        sink_.free(c.target);
        return {};
      case Op::upload:
      case Op::wait:
        break;
    }
    return std::unexpected(fault("the loader asks for what a local file never needs"));
  }

  Status open(const Command& c) {
    if (stream_ != 0) return std::unexpected(fault("two transfers at a time"));
    path_ = model_.file_path(c.target);
    SLUICE_ASSIGN(file_, open_input(path_));
    // Reads ahead further than usual; only advice, so its failure is none
    (void)::posix_fadvise(file_.descriptor.number(), 0, 0, POSIX_FADV_SEQUENTIAL);
    stream_ = c.stream;
    position_ = c.begin;
    end_ = c.end > 0 ? c.end : file_.nbytes;
    loader_.opened(c.stream, c.begin, c.end > 0, file_.nbytes);
    return {};
  }

  Status read(const Command& c) {
    if (c.stream != stream_) return std::unexpected(fault("a transfer is read that is not open"));
    if (control_.on_progress) control_.on_progress(loader_.progress());
    chunk_ = position_;
    const uint64_t n =
        std::min(loader_.plan().shares.chunk_bytes, end_ - std::min(position_, end_));
    position_ += n;
    if (n > 0)
      loader_.chunk(c.stream, n);
    else
      loader_.ended(c.stream);
    return {};
  }

  Status copy(const Command& c) {
    const uint64_t from = chunk_ + c.begin;
    if (std::byte* to = sink_.address(c.target, c.offset))
      return read_at(file_.descriptor, from, {to, c.nbytes}, path_);
    const MutableBytes in(in_.get(), c.nbytes);
    SLUICE_TRY(read_at(file_.descriptor, from, in, path_));
    return sink_.write(c.tensor, in);
  }

  Status decode(const Command& c) {
    const MutableBytes in(in_.get(), c.nbytes);
    SLUICE_TRY(read_at(file_.descriptor, chunk_ + c.begin, in, path_));
    if (std::byte* to = sink_.address(c.target, c.offset)) {
      loader_.decode(c, in, to);
      return {};
    }
    loader_.decode(c, in, out_.get());
    return sink_.write(c.tensor, {out_.get(), c.output});
  }

  const Model& model_;
  Loader& loader_;
  Sink& sink_;
  const LoadControl& control_;
  uint32_t stream_ = 0;  // the open transfer; 0 for none
  InputFile file_;
  std::string path_;
  uint64_t chunk_ = 0;     // offset in the file of the chunk that the loader was told of
  uint64_t position_ = 0;  // offset in the file of the next one
  uint64_t end_ = 0;
  std::unique_ptr<std::byte[]> in_;   // plan.shares.chunk_bytes
  std::unique_ptr<std::byte[]> out_;  // kDecodeOutputBytes, where anything is decoded
};

}  // namespace

Result<Model> find_model(const std::string& path) {
  if (path.empty())
    return std::unexpected(
        Error{.code = ErrorCode::invalid_argument, .message = "the model's path is empty"});
  std::error_code ignored;
  const bool is_folder = std::filesystem::is_directory(path, ignored);
  Model model;
  model.folder = is_folder && !path.ends_with('/') ? path + '/' : std::string(folder_of(path));
  Opener opener(is_folder ? std::string_view() : file_name_of(path));
  // A copy: the answer replaces the request
  while (const std::optional<Opener::Request> request = opener.request()) {
    Status status = answer(opener, *request, model.folder);
    if (status) continue;
    Error error = std::move(status).error();
    if (error.code == ErrorCode::not_found && !error.hint.empty()) {
      // The opener speaks of URLs
      error.message += concat(" in ", quote(model.folder.empty() ? "./" : model.folder));
      error.hint = is_folder ? "give the path of the file itself" : "check the path";
    }
    if (!error.file.empty() && !error.file.starts_with(model.folder))
      error.file.insert(0, model.folder);
    return std::unexpected(std::move(error));
  }
  model.manifest_path = opener.manifest_path();
  model.manifest = opener.take_manifest();
  return model;
}

Result<uint64_t> check_file(const Model& model, uint32_t file) {
  const FileEntry& entry = model.manifest.files[file];
  const std::string path = model.file_path(file);
  const auto found = open_input(path);
  if (!found) {
    Error error = found.error();
    if (error.code == ErrorCode::not_found) {
      error.message =
          concat(quote(path), ", which ", model.manifest_path, " names, does not exist");
      error.hint = "download it, or copy it beside its manifest";
    }
    return std::unexpected(std::move(error));
  }
  if (entry.nbytes && *entry.nbytes != found->nbytes) {
    const bool shorter = found->nbytes < *entry.nbytes;
    return std::unexpected(Error{
        .code = shorter ? ErrorCode::truncated : ErrorCode::size_mismatch,
        .message = concat(quote(path), " has ", found->nbytes, " bytes; ", model.manifest_path,
                          " promises ", *entry.nbytes),
        .file = path,
        .expected = entry.nbytes,
        .actual = found->nbytes,
        .hint = shorter ? "download it again" : "the file and its manifest do not belong together",
    });
  }
  return found->nbytes;
}

Result<Model> open_model(const std::string& path) {
  SLUICE_ASSIGN(Model model, find_model(path));
  for (uint32_t f = 0; f < model.manifest.files.size(); ++f) {
    SLUICE_ASSIGN(model.manifest.files[f].nbytes, check_file(model, f));
  }
  SLUICE_TRY(validate(model.manifest, model.manifest_path));
  return model;
}

Status Sink::allocate(uint32_t, uint64_t, const TensorEntry&) { return {}; }
void Sink::free(uint32_t) {}
std::byte* Sink::address(uint32_t, uint64_t) { return nullptr; }
Status Sink::write(uint32_t, Bytes) { return {}; }
Status Sink::ready(uint32_t) { return {}; }

MemorySink::MemorySink(const Plan& plan)
    : placements_(plan.placements), blocks_(plan.buffers.size()) {}

MemorySink::~MemorySink() {
  for (uint32_t b = 0; b < blocks_.size(); ++b) MemorySink::free(b);
}

Status MemorySink::allocate(uint32_t buffer, uint64_t nbytes, const TensorEntry& first) {
  void* const begin =
      ::mmap(nullptr, nbytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (begin == MAP_FAILED)
    return std::unexpected(Error{
        .code = ErrorCode::out_of_device_memory,
        .message =
            concat("no memory for a buffer of ", nbytes, " bytes, for tensor ", quote(first.name)),
        .tensor = first.name,
        .expected = nbytes,
        .hint = "free some memory, or stream the model with --discard",
    });
  // Large pages cost a 512th of the page faults; only advice, so its failure is none
  (void)::madvise(begin, nbytes, MADV_HUGEPAGE);
  blocks_[buffer] = {static_cast<std::byte*>(begin), nbytes};
  return {};
}

void MemorySink::free(uint32_t buffer) {
  Block& block = blocks_[buffer];
  if (block.begin != nullptr) ::munmap(block.begin, block.nbytes);
  block = {};
}

std::byte* MemorySink::address(uint32_t buffer, uint64_t offset) {
  return blocks_[buffer].begin + offset;
}

Bytes MemorySink::tensor(uint32_t index) const {
  const Placement& placement = placements_[index];
  if (placement.buffer == kNoBuffer) return {};
  return {blocks_[placement.buffer].begin + placement.offset, placement.nbytes};
}

Status DigestSink::write(uint32_t, Bytes bytes) {
  digest_.update(bytes);
  return {};
}

Status DigestSink::ready(uint32_t tensor) {
  digests_[tensor] = digest_.finish();
  return {};
}

PlanOptions native_plan_options(uint64_t budget_bytes, std::optional<DType> dtype) {
  PlanOptions options;
  options.budget_bytes = budget_bytes;
  options.connections = 1;
  options.staged = false;
  options.dtype = dtype;
  options.split_tensors = false;
  return options;
}

Result<Progress> run_load(const Model& model, const Plan& plan, const PlanOptions& options,
                          Sink& sink, const LoadControl& control) {
  if (options.staged || options.split_tensors || options.connections != 1)
    return std::unexpected(Error{.code = ErrorCode::invalid_argument,
                                 .message = "run_load() takes native_plan_options() only"});
  Loader loader(model.manifest, plan, options, RetryPolicy{.max_attempts = 1});
  if (Status status = FileHost(model, loader, sink, control).run(); !status) {
    Error error = std::move(status).error();
    if (!error.file.empty() && !error.file.starts_with(model.folder))
      error.file.insert(0, model.folder);
    return std::unexpected(std::move(error));
  }
  if (control.on_progress) control.on_progress(loader.progress());
  return loader.progress();
}

}  // namespace sluice
