// Prints packages/sluice/src/generated/abi.ts: the numbers of abi.h and of the core that JavaScript
// uses.
#include <cstddef>
#include <cstdio>
#include <string>

#include "core/base/dtype.h"
#include "core/base/error.h"
#include "core/load/loader.h"
#include "core/store/stored_model.h"
#include "hosts/wasm/abi.h"

namespace {

using namespace sluice;

#define FIELD(type, name) std::printf("  %s: %zu,\n", #name, offsetof(wasm::type, name))

void print_layouts() {
  std::printf("/** Offsets in bytes. */\nexport const CALL_RESULT = {\n");
  FIELD(CallResult, status);
  FIELD(CallResult, data);
  FIELD(CallResult, length);
  FIELD(CallResult, value);
  std::printf(
      "} as const;\n\n/** Offsets in bytes; `size` is that of one command. */\nexport const "
      "COMMAND = {\n");
  FIELD(WireCommand, op);
  FIELD(WireCommand, stream);
  FIELD(WireCommand, target);
  FIELD(WireCommand, tensor);
  FIELD(WireCommand, begin);
  FIELD(WireCommand, end);
  FIELD(WireCommand, nbytes);
  FIELD(WireCommand, offset);
  FIELD(WireCommand, output);
  std::printf("  size: %zu,\n", sizeof(wasm::WireCommand));
  std::printf(
      "} as const;\n\n/** Offsets in bytes; `size` is that of one piece. */\nexport const PIECE = "
      "{\n");
  FIELD(WirePiece, buffer);
  FIELD(WirePiece, tensor);
  FIELD(WirePiece, slot_offset);
  FIELD(WirePiece, buffer_offset);
  FIELD(WirePiece, nbytes);
  FIELD(WirePiece, expanded);
  std::printf("  size: %zu,\n", sizeof(wasm::WirePiece));
  std::printf("} as const;\n\n/** Offsets in bytes. */\nexport const PROGRESS = {\n");
  FIELD(WireProgress, source_bytes_done);
  FIELD(WireProgress, source_bytes);
  FIELD(WireProgress, output_bytes_done);
  FIELD(WireProgress, output_bytes);
  FIELD(WireProgress, tensors_done);
  FIELD(WireProgress, tensors);
  FIELD(WireProgress, retries);
  FIELD(WireProgress, budget_used);
  FIELD(WireProgress, budget_peak);
  FIELD(WireProgress, budget_limit);
  std::printf("} as const;\n\n/** Offsets in bytes. */\nexport const STORE_RUN = {\n");
  FIELD(StoreRun, stored);
  FIELD(StoreRun, digest_low);
  FIELD(StoreRun, digest_high);
  FIELD(StoreRun, begin);
  FIELD(StoreRun, end);
  std::printf("} as const;\n\n");
}

#define OP(name) std::printf("  %s: %u,\n", #name, static_cast<unsigned>(Op::name))

void print_ops() {
  std::printf("/** core/load/loader.h, Op. */\nexport const OP = {\n");
  OP(allocate);
  OP(open);
  OP(read);
  OP(copy);
  OP(decode);
  OP(zero);
  OP(upload);
  OP(wait);
  OP(cancel);
  OP(tensor_ready);
  OP(flush);
  OP(free);
  std::printf("} as const;\n\n");
}

void print_names() {
  std::printf(
      "/** core/base/error.h, ErrorCode: the name of code i is at i - 1. */\nexport const "
      "ERROR_CODES = [\n");
  for (uint32_t i = 1; is_error_code(i); ++i)
    std::printf("  '%s',\n", std::string(error_code_name(static_cast<ErrorCode>(i))).c_str());
  std::printf(
      "] as const;\n\n/** core/base/dtype.h: elements and bytes of one block of each dtype. */\n");
  std::printf("export const DTYPES = {\n");
  for (uint32_t i = 0; i < kDTypeCount; ++i) {
    const DTypeInfo& info = dtype_info(static_cast<DType>(i));
    std::printf("  %s: { blockElements: %u, blockBytes: %u, quantized: %s },\n",
                std::string(info.name).c_str(), info.block_elements, info.block_bytes,
                info.is_quantized ? "true" : "false");
  }
  std::printf("} as const;\n");
}

}  // namespace

int main() {
  std::printf("// Written by hosts/wasm/abi_gen.cc; do not edit.\n\n");
  std::printf("export const ABI_VERSION = %u;\n", wasm::kAbiVersion);
  std::printf("export const STORE_ABI_VERSION = %u;\n\n", wasm::kStoreAbiVersion);
  std::printf("export const DECODE_INPUT_BYTES = %llu;\n",
              static_cast<unsigned long long>(kDecodeInputBytes));
  std::printf("export const DECODE_OUTPUT_BYTES = %llu;\n",
              static_cast<unsigned long long>(kDecodeOutputBytes));
  std::printf("export const STORE_BLOCK_BYTES = %llu;\n\n",
              static_cast<unsigned long long>(kStoreBlockBytes));
  print_layouts();
  print_ops();
  print_names();
  return 0;
}
