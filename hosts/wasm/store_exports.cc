// The exports of sluice_store.wasm: C functions over StoredModel and BlockDigest. As in
// loader_exports.cc, texts come as address and length in bytes and are not kept, a handle is an
// address, and a fallible export returns the one CallResult, valid until the next call. One thread.
//
// Byte counts and times in milliseconds are doubles; a digest is two halves, the low one first.
#include <cstdint>
#include <limits>
#include <string>

#include "core/base/json.h"
#include "core/store/block_digest.h"
#include "core/store/stored_model.h"
#include "hosts/wasm/abi.h"
#include "hosts/wasm/imports.h"
#include "hosts/wasm/reply.h"

namespace {

using namespace sluice;
using namespace sluice::wasm;

// Everything the exports hand out, made by sluice_initialize() and by nothing before it.
struct Exchange : Reply {
  StoreRun run;
  uint32_t digest[2];
};
Exchange* exchange() { return static_cast<Exchange*>(reply); }

// What is no number of bytes or milliseconds becomes one that every operation refuses.
uint64_t number(double value) { return bytes_or_unknown(value).value_or(UINT64_MAX); }

uint32_t low(uint64_t digest) { return static_cast<uint32_t>(digest); }
uint32_t high(uint64_t digest) { return static_cast<uint32_t>(digest >> 32); }

}  // namespace

extern "C" {

// hosts/wasm/abi.h, kStoreAbiVersion. May be called before sluice_initialize().
uint32_t sluice_store_abi_version() { return kStoreAbiVersion; }

// Must be called once, before anything but sluice_store_abi_version().
void sluice_initialize() {
  if (reply == nullptr) reply = new Exchange();
}

// Memory of `nbytes` bytes for texts and bytes to pass in; the host's until sluice_deallocate().
void* sluice_allocate(uint32_t nbytes) { return ::operator new(nbytes); }
void sluice_deallocate(void* memory) { ::operator delete(memory); }

// StoredModel::create(). value: its handle. Its journal is pending.
CallResult* store_model_new(const char* key, uint32_t length, double now_ms) {
  auto model = StoredModel::create(text_at(key, length), number(now_ms));
  if (!model) return fail(model.error());
  return succeed(std::string(), address(new StoredModel(std::move(*model))));
}

// StoredModel::replay(). value: its handle. Data: {valid_bytes, total_bytes} as JSON; the host cuts
// the journal to valid_bytes before it appends.
CallResult* store_model_replay(const std::byte* journal, uint32_t nbytes) {
  auto replayed = StoredModel::replay({journal, nbytes});
  if (!replayed) return fail(replayed.error());
  JsonWriter json;
  json.begin_object();
  json.key("valid_bytes").number(replayed->valid_bytes);
  json.key("total_bytes").number(uint64_t{nbytes});
  json.end_object();
  return succeed(std::move(json).take(), address(new StoredModel(std::move(replayed->model))));
}

void store_model_free(StoredModel* model) { delete model; }

// StoredModel::snapshot().
CallResult* store_model_snapshot(StoredModel* model) { return succeed(model->snapshot()); }

// StoredModel::set_file(); `nbytes` < 0: not known. value: the file's index. Data: {changed} as
// JSON.
CallResult* store_model_file(StoredModel* model, const char* path, uint32_t path_length,
                             double nbytes, const char* etag, uint32_t etag_length,
                             const char* last_modified, uint32_t last_modified_length) {
  const auto change = model->set_file(
      text_at(path, path_length), nbytes < 0 ? std::nullopt : std::optional(number(nbytes)),
      text_at(etag, etag_length), text_at(last_modified, last_modified_length));
  if (!change) return fail(change.error());
  JsonWriter json;
  json.begin_object();
  json.key("changed").boolean(change->changed);
  json.end_object();
  return succeed(std::move(json).take(), change->file);
}

// StoredModel::add() and drop().
CallResult* store_model_add(StoredModel* model, uint32_t file, double begin, double end,
                            uint32_t digest_low, uint32_t digest_high) {
  return report(
      model->add(file, number(begin), number(end), uint64_t{digest_high} << 32 | digest_low));
}
CallResult* store_model_drop(StoredModel* model, uint32_t file, double begin, double end) {
  return report(model->drop(file, number(begin), number(end)));
}

// StoredModel::find(). Data: a StoreRun.
CallResult* store_model_find(StoredModel* model, uint32_t file, double offset) {
  const auto run = model->find(file, number(offset));
  if (!run) return fail(run.error());
  exchange()->run = {
      .stored = run->stored ? 1u : 0u,
      .digest_low = low(run->digest),
      .digest_high = high(run->digest),
      .begin = static_cast<double>(run->begin),
      .end = run->end == UINT64_MAX ? std::numeric_limits<double>::infinity()
                                    : static_cast<double>(run->end),
  };
  return hand_out(&exchange()->run, sizeof(StoreRun), 0);
}

// StoredModel::set_checked(), set_loaded() and set_used().
CallResult* store_model_checked(StoredModel* model, uint32_t file, const char* algorithm,
                                uint32_t algorithm_length, const char* digest,
                                uint32_t digest_length) {
  return report(model->set_checked(file, text_at(algorithm, algorithm_length),
                                   text_at(digest, digest_length)));
}
CallResult* store_model_loaded(StoredModel* model, double now_ms) {
  return report(model->set_loaded(number(now_ms)));
}
CallResult* store_model_used(StoredModel* model, double now_ms) {
  return report(model->set_used(number(now_ms)));
}

// StoredModel::take_journal() and compact(). Data: bytes.
CallResult* store_model_journal(StoredModel* model) { return succeed(model->take_journal()); }
CallResult* store_model_compact(StoredModel* model) { return succeed(model->compact()); }

// store_folder_name(). Data: text.
CallResult* store_folder_name(const char* key, uint32_t length) {
  return succeed(sluice::store_folder_name(text_at(key, length)));
}

// BlockDigest. Data of store_hash_digest(): the low half and the high half, 8 bytes.
BlockDigest* store_hash_new() { return new BlockDigest(); }
void store_hash_free(BlockDigest* hash) { delete hash; }
void store_hash_reset(BlockDigest* hash) { hash->reset(); }
void store_hash_update(BlockDigest* hash, const std::byte* bytes, uint32_t nbytes) {
  hash->update({bytes, nbytes});
}
CallResult* store_hash_digest(BlockDigest* hash) {
  const uint64_t digest = hash->digest();
  exchange()->digest[0] = low(digest);
  exchange()->digest[1] = high(digest);
  return hand_out(exchange()->digest, sizeof(exchange()->digest), 0);
}

}  // extern "C"
