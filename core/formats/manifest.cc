#include "core/formats/manifest.h"

#include <algorithm>
#include <map>

#include "core/base/checked.h"

namespace sluice {
namespace {

Error tensor_error(ErrorCode code, const TensorEntry& tensor, std::string_view file,
                   std::string message) {
  return Error{.code = code,
               .message = std::move(message),
               .file = std::string(file),
               .tensor = tensor.name};
}

// "tensor 'x' of model.gguf"
std::string title(const TensorEntry& tensor, std::string_view file) {
  return concat("tensor ", quote(tensor.name), " of ", file);
}

// What the tensor takes in its file; nothing on overflow.
std::optional<uint64_t> stored_bytes(const TensorEntry& tensor) {
  return dense_bytes(tensor.shape,
                     tensor.encoding == Encoding::f32_to_bf16 ? DType::bf16 : tensor.dtype);
}

Status check_size(const TensorEntry& tensor, std::string_view file) {
  const DTypeInfo& info = dtype_info(tensor.dtype);
  if (tensor.encoding == Encoding::f32_to_bf16 && tensor.dtype != DType::f32)
    return std::unexpected(tensor_error(
        ErrorCode::manifest_invalid, tensor, file,
        concat(title(tensor, file), " is ", info.name, "; only float32 is packed to bfloat16")));
  if (info.is_quantized && (tensor.shape.empty() || tensor.shape.back() % info.block_elements != 0))
    return std::unexpected(tensor_error(
        ErrorCode::manifest_invalid, tensor, file,
        concat(title(tensor, file), " has the shape ", shape_text(tensor.shape), ", but rows of ",
               info.name, " come in blocks of ", info.block_elements, " elements")));
  const auto expected = stored_bytes(tensor);
  if (!expected)
    return std::unexpected(
        tensor_error(ErrorCode::manifest_invalid, tensor, file,
                     concat(title(tensor, file), " has the shape ", shape_text(tensor.shape),
                            " of ", info.name, ", whose size in bytes overflows 64 bits")));
  if (*expected == tensor.nbytes) return {};
  Error error =
      tensor_error(ErrorCode::size_mismatch, tensor, file,
                   concat(title(tensor, file), " takes ", *expected, " bytes (",
                          shape_text(tensor.shape), " of ", info.name,
                          tensor.encoding == Encoding::f32_to_bf16 ? ", packed to bfloat16" : "",
                          "), but the manifest says ", tensor.nbytes));
  error.expected = expected;
  error.actual = tensor.nbytes;
  return std::unexpected(std::move(error));
}

Status check_range(const TensorEntry& tensor, const FileEntry& file) {
  const auto end = checked_add(tensor.offset, tensor.nbytes);
  if (end && (!file.nbytes || *end <= *file.nbytes)) return {};
  Error error = tensor_error(
      ErrorCode::range_out_of_bounds, tensor, file.path,
      concat(title(tensor, file.path), " takes ", tensor.nbytes, " bytes from offset ",
             tensor.offset,
             end ? concat(", but the file ends at ", *file.nbytes) : ", which overflows 64 bits"));
  error.expected = file.nbytes;
  error.actual = end;
  return std::unexpected(std::move(error));
}

Status check_names(const Manifest& manifest, std::string_view manifest_file) {
  std::map<std::string_view, uint32_t> seen;
  for (const TensorEntry& tensor : manifest.tensors)
    if (!seen.emplace(tensor.name, 0).second)
      return std::unexpected(tensor_error(
          ErrorCode::manifest_invalid, tensor, manifest_file,
          concat("the tensor name ", quote(tensor.name), " stands twice in ", manifest_file)));
  return {};
}

Status check_overlaps(const Manifest& manifest) {
  std::vector<const TensorEntry*> order = in_file_order(manifest);
  std::erase_if(order, [](const TensorEntry* tensor) { return tensor->nbytes == 0; });
  for (size_t i = 1; i < order.size(); ++i) {
    const TensorEntry& before = *order[i - 1];
    const TensorEntry& tensor = *order[i];
    if (before.file != tensor.file || before.offset + before.nbytes <= tensor.offset) continue;
    const std::string& file = manifest.files[tensor.file].path;
    return std::unexpected(
        tensor_error(ErrorCode::manifest_invalid, tensor, file,
                     concat(title(tensor, file), " starts at byte ", tensor.offset, ", inside ",
                            quote(before.name), ", which takes bytes ", before.offset, " to ",
                            before.offset + before.nbytes)));
  }
  return {};
}

}  // namespace

Status validate(const Manifest& manifest, std::string_view manifest_file) {
  for (const TensorEntry& tensor : manifest.tensors) {
    if (tensor.file >= manifest.files.size())
      return std::unexpected(tensor_error(ErrorCode::manifest_invalid, tensor, manifest_file,
                                          concat(title(tensor, manifest_file), " lies in file ",
                                                 tensor.file, " of ", manifest.files.size())));
    const FileEntry& file = manifest.files[tensor.file];
    SLUICE_TRY(check_size(tensor, manifest_file));
    SLUICE_TRY(check_range(tensor, file));
  }
  SLUICE_TRY(check_names(manifest, manifest_file));
  return check_overlaps(manifest);
}

Result<Manifest> join_files(Manifest joined, std::vector<Manifest> parts) {
  for (Manifest& part : parts) {
    for (TensorEntry& tensor : part.tensors) {
      tensor.file = static_cast<uint32_t>(joined.files.size());
      joined.tensors.push_back(std::move(tensor));
    }
    joined.files.push_back(std::move(part.files[0]));
  }
  std::map<std::string_view, uint32_t> homes;
  for (const TensorEntry& tensor : joined.tensors) {
    const auto [known, fresh] = homes.emplace(tensor.name, tensor.file);
    if (fresh) continue;
    const std::string& file = joined.files[tensor.file].path;
    return std::unexpected(tensor_error(ErrorCode::manifest_invalid, tensor, file,
                                        concat("tensor ", quote(tensor.name), " stands in both ",
                                               joined.files[known->second].path, " and ", file)));
  }
  return joined;
}

std::vector<const TensorEntry*> in_file_order(const Manifest& manifest) {
  std::vector<const TensorEntry*> order;
  order.reserve(manifest.tensors.size());
  for (const TensorEntry& tensor : manifest.tensors) order.push_back(&tensor);
  std::ranges::sort(order, [](const TensorEntry* a, const TensorEntry* b) {
    if (a->file != b->file) return a->file < b->file;
    return a->offset != b->offset ? a->offset < b->offset : a->nbytes < b->nbytes;
  });
  return order;
}

std::optional<uint64_t> dense_bytes(const std::vector<uint64_t>& shape, DType dtype) {
  const auto elements = checked_product(shape);
  if (!elements) return std::nullopt;
  return storage_bytes(dtype, *elements);
}

std::string shape_text(const std::vector<uint64_t>& shape) {
  std::string out = "[";
  for (size_t i = 0; i < shape.size(); ++i) out += concat(i == 0 ? "" : ", ", shape[i]);
  return out + "]";
}

std::string foreign_file_hint(Bytes prefix) {
  const std::string_view text = as_text(prefix);
  if (text.starts_with("version https://git-lfs"))
    return "this is a Git LFS pointer, not the file it points to: fetch it with git lfs pull";
  if (text.starts_with('<'))
    return "this looks like a web page: check that the URL leads to the file itself";
  return {};
}

}  // namespace sluice
