// Writes tensor caches, as TVM does: params_shard_N.bin and tensor-cache.json.
// Source of the layout: apache/tvm, python/tvm/contrib/tvmjs.py (dump_tensor_cache).
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/bytes.h"
#include "core/base/dtype.h"
#include "core/base/error.h"

namespace sluice {

inline constexpr const char* kCacheManifestName = "tensor-cache.json";

// A tensor as its record describes it.
struct CacheTensor {
  std::string name = {};
  std::vector<uint64_t> shape = {};  // elements
  DType dtype = DType::u8;
  bool bf16_encoded = false;  // dtype is f32, stored are its upper halves (f32-to-bf16)
  uint64_t nbytes = 0;        // as stored
};

struct CacheRecord {
  uint32_t tensor = 0;  // index into CacheLayout::tensors
  uint64_t offset = 0;  // bytes from the shard's start
};

struct CacheShard {
  uint64_t nbytes = 0;
  std::vector<CacheRecord> records = {};
  std::string md5 = {};  // empty until the bytes are known

  // "params_shard_3.bin"
  static std::string name(size_t index);
};

struct CacheLayout {
  std::string metadata_json = "{}";  // a JSON object
  std::vector<CacheTensor> tensors = {};
  std::vector<CacheShard> shards = {};
};

// Whether a tensor cache has a type for it.
bool cache_can_hold(DType dtype);

// Cuts `tensors` into shards in the given `order` (indices into `tensors`). A shard is closed
// before it would exceed `shard_bytes`; a larger tensor has a shard of its own. The sum of all
// sizes must not overflow.
std::vector<CacheShard> cut_into_shards(std::span<const CacheTensor> tensors,
                                        std::span<const uint32_t> order, uint64_t shard_bytes);

// The text of tensor-cache.json, with the checksums that are known. Names must be UTF-8.
std::string cache_manifest(const CacheLayout& layout);

// Takes the bytes of all shards, one after another and each from its beginning to its end.
class ShardWriter {
 public:
  ShardWriter() = default;
  ShardWriter(const ShardWriter&) = delete;
  ShardWriter& operator=(const ShardWriter&) = delete;
  virtual ~ShardWriter() = default;

  // The next bytes of `shard`, which is the last one or one behind it. Errors: io; internal where
  // a shard that is left has another size than its layout says.
  virtual Status write(uint32_t shard, Bytes bytes) = 0;
};

// Writes the cache to the folder `output`, which is made if need be; `produce` writes the bytes.
//
// Everything is written to a temporary folder inside `output` and synced, then renamed, the
// manifest last; after an error nothing of it remains, and without `force` what was there stands
// as it was. A model that is there already and equal is written again.
//
// Returns the layout with all checksums. Errors: invalid_argument where another model stands at
// `output`, or where its name is empty; aborted once `stop` is true; io; those of `produce`.
Result<CacheLayout> write_cache(CacheLayout layout, const std::string& output, bool force,
                                const std::function<Status(ShardWriter&)>& produce,
                                const std::atomic<bool>* stop = nullptr);

}  // namespace sluice
