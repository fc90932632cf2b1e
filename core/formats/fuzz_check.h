// For fuzz targets: what every manifest that a parser returned must hold, checked apart from
// validate() where that is simple.
#pragma once

#include <cstdlib>

#include "core/base/json.h"
#include "core/base/path.h"
#include "core/formats/manifest.h"

namespace sluice {

inline void require(bool holds) {
  if (!holds) std::abort();
}

inline void require_sound(const Manifest& manifest) {
  require(validate(manifest, "input").has_value());
  for (const TensorEntry& tensor : manifest.tensors) {
    require(tensor.file < manifest.files.size());
    const auto nbytes = manifest.files[tensor.file].nbytes;
    uint64_t end = 0;
    require(!__builtin_add_overflow(tensor.offset, tensor.nbytes, &end));
    require(!nbytes || end <= *nbytes);
  }
  for (const FileEntry& file : manifest.files) require(file.md5.empty() || file.md5.size() == 32);
  const auto metadata = parse_json(manifest.metadata_json, "metadata");
  require(metadata && metadata->as_object() != nullptr);
}

inline void require_sound(const Error& error) {
  require(is_error_code(static_cast<uint32_t>(error.code)));
  require(error.code != ErrorCode::internal);
  require(!error.message.empty() && error.message.size() < 5000);
  require(parse_json(to_json(error), "error").has_value());
}

// `parse(bytes, nbytes)` reads a header from a prefix. Follows its requests as a host does, with
// the size known and unknown, and holds the outcomes against each other.
template <class Parse>
void check_prefix_parser(Bytes file, Parse parse) {
  const auto follow = [&](std::optional<uint64_t> nbytes) -> Result<Manifest> {
    Bytes prefix = file.first(0);
    for (int steps = 0;; ++steps) {
      require(steps < 100);
      auto result = parse(prefix, nbytes);
      if (!result) return std::unexpected(std::move(result).error());
      if (result->value) return *std::move(result->value);
      require(result->needs > prefix.size());
      require(!nbytes || result->needs <= *nbytes);
      if (result->needs > file.size()) {
        if (prefix.size() == file.size())
          return std::unexpected(Error{ErrorCode::truncated, "end"});
        prefix = file;
      } else {
        prefix = file.first(static_cast<size_t>(result->needs));
      }
    }
  };
  const auto known = follow(file.size());
  const auto unknown = follow(std::nullopt);
  const auto whole = parse(file, file.size());
  if (known) {
    require_sound(*known);
    require(unknown && whole && whole->value);
    require(known->tensors.size() == whole->value->tensors.size());
    require(known->metadata_json == whole->value->metadata_json);
    require(unknown->metadata_json == known->metadata_json);
    for (size_t i = 0; i < known->tensors.size(); ++i) {
      require(known->tensors[i].offset == whole->value->tensors[i].offset);
      require(known->tensors[i].offset == unknown->tensors[i].offset);
    }
  } else {
    require_sound(known.error());
    require(!whole);
    if (unknown) require_sound(*unknown);
  }
}

}  // namespace sluice
