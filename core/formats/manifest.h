// What every container format is read into: which tensors there are, and where their bytes lie.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/base/bytes.h"
#include "core/base/dtype.h"
#include "core/base/error.h"

namespace sluice {

// How a tensor's stored bytes relate to its dtype.
enum class Encoding : uint8_t {
  raw,          // the stored bytes are elements of `dtype`
  f32_to_bf16,  // dtype is f32; stored are its upper halves (bf16), to be expanded when loaded
};

struct TensorEntry {
  std::string name = {};
  std::vector<uint64_t> shape = {};  // elements, outermost dimension first; empty for 0-d
  DType dtype = DType::u8;           // the element type the publisher means (f32 under f32_to_bf16)
  Encoding encoding = Encoding::raw;
  uint32_t file = 0;    // index into Manifest::files
  uint64_t offset = 0;  // bytes from the start of the file
  uint64_t nbytes = 0;  // stored bytes
};

struct FileEntry {
  std::string path = {};  // relative to the model's folder, checked by check_relative_path()
  std::optional<uint64_t> nbytes = {};  // nothing where neither the manifest nor the host knows
  std::string md5 = {};                 // lower-case hex of the whole file, or empty
};

struct Manifest {
  std::string format = {};  // "tensor-cache", "safetensors" or "gguf"
  std::vector<FileEntry> files = {};
  std::vector<TensorEntry> tensors = {};
  std::string metadata_json = "{}";  // the format's own metadata, as a JSON object
};

// The checks that hold for every format, made before anything is allocated from the manifest:
// each tensor's file exists; shape times dtype, under its encoding, gives `nbytes`; offset + nbytes
// does not overflow and ends inside the file where its size is known; no name stands twice; no two
// tensors of one file share a byte. `manifest_file` names the file to blame for a contradiction.
// Errors: manifest_invalid, size_mismatch, range_out_of_bounds.
Status validate(const Manifest& manifest, std::string_view manifest_file);

// Adds the files and tensors of `parts`, manifests of single files, to `joined` in their order.
// Errors: manifest_invalid for a tensor that stands in two files.
Result<Manifest> join_files(Manifest joined, std::vector<Manifest> parts);

// The tensors sorted by file, offset and size. Pointers into `manifest`.
std::vector<const TensorEntry*> in_file_order(const Manifest& manifest);

// Bytes that a tensor of this shape and dtype takes when loaded, without any encoding.
// Nothing on overflow.
std::optional<uint64_t> dense_bytes(const std::vector<uint64_t>& shape, DType dtype);

// "[262144, 1120]"
std::string shape_text(const std::vector<uint64_t>& shape);

// What the beginning of a file that is not of the expected format shows it to be, as a hint for
// people (a web page, a Git LFS pointer); empty where it says nothing.
std::string foreign_file_hint(Bytes prefix);

// The outcome of parsing the beginning of a file: either a value, or the length in bytes of the
// prefix that parsing needs next (always more than it was given).
template <class T>
struct Prefix {
  std::optional<T> value;
  uint64_t needs = 0;

  static Prefix done(T v) { return {std::move(v), 0}; }
  static Prefix need(uint64_t bytes) { return {std::nullopt, bytes}; }
};

}  // namespace sluice
