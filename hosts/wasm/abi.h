// The layout of what crosses between our wasm modules and JavaScript. hosts/wasm/abi_gen.cc writes
// packages/sluice/src/generated/abi.ts from it, so that no number is typed twice.
//
// Byte counts cross as doubles: exact to 2^53, which make_plan() makes sure of, and cheaper than
// BigInt.
#pragma once

#include <cstdint>

namespace sluice::wasm {

// Raised whenever a layout, an export or its meaning changes; JavaScript refuses any other. One of
// sluice_loader.wasm, one of sluice_store.wasm.
inline constexpr uint32_t kAbiVersion = 3;
inline constexpr uint32_t kStoreAbiVersion = 1;

// What every fallible export returns a pointer to; valid until the next call of any export.
struct CallResult {
  uint32_t status;  // 0, or an ErrorCode; then the data is the error as JSON
  uint32_t data;    // address, in bytes
  uint32_t length;  // bytes
  uint32_t value;   // a handle or a number, where the export says so
};

// sluice::Command, one of the array that sluice_model_poll() gives.
struct WireCommand {
  uint32_t op;
  uint32_t stream;
  uint32_t target;
  uint32_t tensor;
  double begin;
  double end;
  double nbytes;
  double offset;
  double output;
};

// sluice::UploadPiece, one of the array that sluice_model_pieces() gives.
struct WirePiece {
  uint32_t buffer;
  uint32_t tensor;
  double slot_offset;
  double buffer_offset;
  double nbytes;
  double expanded;  // bytes in the buffer, without padding; 0 where the piece is copied
};

// sluice::Progress, as sluice_model_progress() gives it.
struct WireProgress {
  double source_bytes_done;
  double source_bytes;
  double output_bytes_done;
  double output_bytes;
  double tensors_done;
  double tensors;
  double retries;
  double budget_used;
  double budget_peak;
  double budget_limit;
};

// sluice::StoredRun, as store_model_find() gives it; `end` is infinite where it is not known.
struct StoreRun {
  uint32_t stored;
  uint32_t digest_low;
  uint32_t digest_high;
  uint32_t padding;
  double begin;
  double end;
};

}  // namespace sluice::wasm
