// Synthetic models: tensor caches with the names, types and shapes of real models and with bytes
// that a seed determines. Any range of a shard can be made without the bytes before it, so that a
// server needs no disk and no memory for them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/bytes.h"
#include "core/base/dtype.h"
#include "core/base/error.h"
#include "core/formats/manifest.h"
#include "hosts/native/cache_writer.h"
#include "hosts/native/file_host.h"

namespace sluice {

struct SynthTensor {
  std::string name = {};
  DType dtype = DType::u8;
  std::vector<uint64_t> shape = {};  // elements
};

struct SynthOptions {
  uint64_t seed = 0;
  // The type of all tensors of a plain floating-point type; nothing: as the shape says.
  std::optional<DType> dtype = {};
  uint64_t shard_bytes = 32ull << 20;
  // All tensors so many times over; the copies' names begin with "copy.1.", "copy.2.", …
  uint32_t repeat = 1;
};

// The shapes that are known by name, for messages: "gemma-4-e2b, smollm2".
std::string synth_shape_names();

// `shape` is such a name, or the path of a JSON file: a list of {name, dtype, shape}, or an object
// with such a list as `tensors` (what `sluice inspect --json` prints). Errors: invalid_argument for
// a name that is not known, manifest_invalid or unsupported_dtype for the file, io.
Result<std::vector<SynthTensor>> synth_shape(const std::string& shape);

// "name:dtype:4096x1024"; a scalar has nothing behind the last colon. The name may have colons of
// its own. Error: invalid_argument.
Result<SynthTensor> parse_synth_tensor(const std::string& text);

// A run of bytes that somebody else holds.
using ByteRuns = std::vector<Bytes>;

// The bytes of shards, from a seed.
//
// A shard is made of units of 64 KiB. A unit is a window of one table of pseudo-random bytes, and
// its first 8 bytes tell units apart; where the window lies and what these 8 bytes are depend on
// (seed, shard, unit) alone. So a range that went to the wrong place does not go unnoticed, while
// making bytes costs no more than pointing at them.
//
// Every aligned group of 16 bits is, as float16, a finite number of 2^-7 to 2^-3 in size. As
// bfloat16, float32 or float64 they are finite, too.
class SynthBytes {
 public:
  static constexpr uint64_t kUnit = 64ull << 10;

  explicit SynthBytes(uint64_t seed);

  // Fills `out` with the bytes of `shard` from `begin` on.
  void fill(uint32_t shard, uint64_t begin, MutableBytes out) const;

  // The same without copying: `runs` points into the table and into `stamps`, both of which must
  // live as long. What they had is dropped.
  void gather(uint32_t shard, uint64_t begin, uint64_t nbytes, ByteRuns& runs,
              std::vector<uint64_t>& stamps) const;

 private:
  static constexpr uint64_t kWindows = 1ull << 20;  // bytes of the table in which windows begin

  struct Unit {
    uint64_t stamp;
    const std::byte* window;
  };
  Unit unit(uint32_t shard, uint64_t index) const;

  uint64_t seed_;
  std::vector<std::byte> table_;
};

// A synthetic model: its layout and its bytes.
class SynthModel {
 public:
  // `name` is for the metadata. Errors: invalid_argument for no tensors at all, a name that stands
  // twice or is not UTF-8, a type that a tensor cache cannot express, sizes beyond 2^63 bytes, or
  // more tensors than a manifest can be read with.
  static Result<SynthModel> make(const std::string& name, const std::vector<SynthTensor>& tensors,
                                 const SynthOptions& options);

  const CacheLayout& layout() const { return layout_; }
  // The text of tensor-cache.json, without checksums.
  const std::string& manifest() const { return manifest_; }
  uint64_t nbytes() const { return nbytes_; }  // of all tensors
  const SynthBytes& bytes() const { return bytes_; }

 private:
  SynthModel(CacheLayout layout, std::string manifest, uint64_t nbytes, uint64_t seed)
      : layout_(std::move(layout)), manifest_(std::move(manifest)), nbytes_(nbytes), bytes_(seed) {}

  CacheLayout layout_;
  std::string manifest_;
  uint64_t nbytes_;
  SynthBytes bytes_;
};

// Writes the model with its checksums to the folder `output`, as write_cache() does.
Result<CacheLayout> write_synth(const SynthModel& model, const std::string& output, bool force,
                                const LoadControl& control = {});

}  // namespace sluice
