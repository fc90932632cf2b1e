// The exports of sluice_loader.wasm: C functions over Model, in the order in which a load uses
// them. Texts come as address and length in bytes and are not kept. A model is a handle, its
// address; 0 is none. One thread. A fallible export returns the one CallResult, valid until the
// next call.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "core/base/json.h"
#include "hosts/wasm/abi.h"
#include "hosts/wasm/imports.h"
#include "hosts/wasm/model.h"
#include "hosts/wasm/reply.h"

namespace {

using namespace sluice;
using namespace sluice::wasm;

constexpr uint32_t kCommandsPerPoll = 128;
// Headers of files that a host is told of beforehand: four are read at a time, as a load's
// transfers
constexpr size_t kReadAhead = 3;

// Everything the exports hand out, made by sluice_initialize() and by nothing before it.
struct Exchange : Reply {
  WireCommand commands[kCommandsPerPoll];
  std::vector<WirePiece> pieces;
  WireProgress progress;
  alignas(16) std::byte decode_input[kDecodeInputBytes];
  alignas(16) std::byte decode_output[kDecodeOutputBytes];
};
Exchange* exchange() { return static_cast<Exchange*>(reply); }

// An error that the host met: the JSON that SluiceError.toJSON() gives. Whatever is missing or of
// another kind is left out; a code outside the list becomes `internal`.
Error error_from_json(std::string_view text) {
  Error error{.code = ErrorCode::internal, .message = std::string(text)};
  const auto json = parse_json(text, "error");
  if (!json) return error;
  const auto string = [&](std::string_view key) {
    const JsonValue* value = json->find(key);
    return value != nullptr && value->as_string() != nullptr ? *value->as_string() : std::string();
  };
  const auto number = [&](std::string_view key) -> std::optional<uint64_t> {
    const JsonValue* value = json->find(key);
    return value != nullptr && value->as_uint() != nullptr ? std::optional(*value->as_uint())
                                                           : std::nullopt;
  };
  const std::string code = string("code");
  for (uint32_t i = 1; is_error_code(i); ++i)
    if (error_code_name(static_cast<ErrorCode>(i)) == code) error.code = static_cast<ErrorCode>(i);
  if (std::string message = string("message"); !message.empty()) error.message = std::move(message);
  error.file = string("file");
  error.tensor = string("tensor");
  error.hint = string("hint");
  error.expected = number("expected");
  error.actual = number("actual");
  return error;
}

}  // namespace

extern "C" {

// hosts/wasm/abi.h, kAbiVersion. May be called before sluice_initialize().
uint32_t sluice_abi_version() { return kAbiVersion; }

// Must be called once, before anything but sluice_abi_version().
void sluice_initialize() {
  if (reply == nullptr) reply = new Exchange();
}

// Memory of `nbytes` bytes for texts and bytes to pass in; the host's until sluice_deallocate().
void* sluice_allocate(uint32_t nbytes) { return ::operator new(nbytes); }
void sluice_deallocate(void* memory) { ::operator delete(memory); }

// A model whose location ends in `name` (Opener's constructor). value: its handle.
CallResult* sluice_model_new(const char* name, uint32_t length) {
  return succeed(std::string(), address(new Model(text_at(name, length))));
}

// Frees a model, loading or not. The host must have stopped what it carries out for it.
void sluice_model_free(Model* model) { delete model; }

// What to read next to open the model: {path, begin, end?, upcoming?: [paths]} as JSON, or no data
// once it is open.
CallResult* sluice_model_request(Model* model) {
  const auto& request = model->opener().request();
  if (!request) return succeed(std::string());
  JsonWriter json;
  json.begin_object();
  json.key("path").string(request->path);
  json.key("begin").number(request->begin);
  if (request->end != UINT64_MAX) json.key("end").number(request->end);
  if (auto paths = model->opener().upcoming(); !paths.empty()) {
    json.key("upcoming").begin_array();
    for (const std::string& path : paths.first(std::min(paths.size(), kReadAhead)))
      json.string(path);
    json.end_array();
  }
  json.end_object();
  return succeed(std::move(json).take());
}

// Answers the request with bytes, or with: there is no such file. `file_nbytes` < 0: not known.
CallResult* sluice_model_provide(Model* model, const std::byte* bytes, uint32_t nbytes,
                                 double file_nbytes) {
  return report(model->opener().provide({bytes, nbytes}, bytes_or_unknown(file_nbytes)));
}
CallResult* sluice_model_missing(Model* model) { return report(model->opener().missing()); }

// Model::describe() and Model::plan().
CallResult* sluice_model_manifest(Model* model) { return report_text(model->describe()); }
CallResult* sluice_model_plan(Model* model, const char* options, uint32_t length) {
  return report_text(model->plan(text_at(options, length)));
}

// Loader::start(). value: the address of decode()'s input of kDecodeInputBytes bytes, behind which
// lies its output of kDecodeOutputBytes bytes.
CallResult* sluice_model_start(Model* model) {
  if (const Status started = model->loader()->start(); !started) return fail(started.error());
  return succeed(std::string(), address(exchange()->decode_input));
}

// Up to kCommandsPerPoll commands, an array of WireCommand. value: how many.
CallResult* sluice_model_poll(Model* model) {
  uint32_t count = 0;
  Command command;
  while (count < kCommandsPerPoll && model->loader()->poll(command)) {
    exchange()->commands[count++] = {
        .op = static_cast<uint32_t>(command.op),
        .stream = command.stream,
        .target = command.target,
        .tensor = command.tensor,
        .begin = static_cast<double>(command.begin),
        .end = static_cast<double>(command.end),
        .nbytes = static_cast<double>(command.nbytes),
        .offset = static_cast<double>(command.offset),
        .output = static_cast<double>(command.output),
    };
  }
  return hand_out(exchange()->commands, count * sizeof(WireCommand), count);
}

// The pieces of a slot that is to be uploaded, an array of WirePiece. value: how many.
CallResult* sluice_model_pieces(Model* model, uint32_t slot) {
  exchange()->pieces.clear();
  for (const UploadPiece& piece : model->loader()->pieces(slot))
    exchange()->pieces.push_back(
        {.buffer = piece.buffer,
         .tensor = piece.tensor,
         .slot_offset = static_cast<double>(piece.slot_offset),
         .buffer_offset = static_cast<double>(piece.buffer_offset),
         .nbytes = static_cast<double>(piece.nbytes),
         .expanded = static_cast<double>(piece.codec != nullptr ? piece.tensor_nbytes : 0)});
  return hand_out(exchange()->pieces.data(), exchange()->pieces.size() * sizeof(WirePiece),
                  static_cast<uint32_t>(exchange()->pieces.size()));
}

// Carries out an Op::decode whose input was copied to the address that start() gave.
void sluice_model_decode(Model* model, uint32_t stream, uint32_t tensor, uint32_t nbytes) {
  model->loader()->decode({.op = Op::decode, .stream = stream, .tensor = tensor},
                          {exchange()->decode_input, nbytes}, exchange()->decode_output);
}

// The loader's events (core/load/loader.h).
void sluice_model_allocated(Model* model, uint32_t buffer) { model->loader()->allocated(buffer); }
void sluice_model_allocation_failed(Model* model, uint32_t buffer, const char* error,
                                    uint32_t length) {
  model->loader()->allocation_failed(buffer, error_from_json(text_at(error, length)));
}
void sluice_model_opened(Model* model, uint32_t stream, double begin, uint32_t ranged,
                         double file_nbytes) {
  model->loader()->opened(stream, bytes_or_unknown(begin).value_or(UINT64_MAX), ranged != 0,
                          bytes_or_unknown(file_nbytes));
}
void sluice_model_chunk(Model* model, uint32_t stream, uint32_t nbytes, uint32_t held) {
  model->loader()->chunk(stream, nbytes, held != 0);
}
void sluice_model_ended(Model* model, uint32_t stream) { model->loader()->ended(stream); }
void sluice_model_failed(Model* model, uint32_t stream, const char* error, uint32_t length,
                         uint32_t retryable, uint32_t retry_after_ms) {
  model->loader()->failed(stream, error_from_json(text_at(error, length)), retryable != 0,
                          retry_after_ms);
}
void sluice_model_waited(Model* model, uint32_t stream) { model->loader()->waited(stream); }
void sluice_model_uploaded(Model* model, uint32_t slot) { model->loader()->uploaded(slot); }
void sluice_model_upload_failed(Model* model, uint32_t slot, const char* error, uint32_t length) {
  model->loader()->upload_failed(slot, error_from_json(text_at(error, length)));
}
void sluice_model_flushed(Model* model) { model->loader()->flushed(); }
void sluice_model_flush_failed(Model* model, const char* error, uint32_t length) {
  model->loader()->flush_failed(error_from_json(text_at(error, length)));
}

// Ends the load with an error; with no text, `aborted`.
void sluice_model_abort(Model* model, const char* error, uint32_t length) {
  if (length == 0) return model->loader()->abort();
  model->loader()->abort(error_from_json(text_at(error, length)));
}

// 1 once no event is expected any more.
uint32_t sluice_model_finished(Model* model) { return model->loader()->finished() ? 1 : 0; }

// The error of a failed load, as status and data; success otherwise.
CallResult* sluice_model_error(Model* model) {
  const Error* error = model->loader()->error();
  return error != nullptr ? fail(*error) : succeed(std::string());
}

// Data: a WireProgress.
CallResult* sluice_model_progress(Model* model) {
  const Progress progress = model->loader()->progress();
  exchange()->progress = {
      .source_bytes_done = static_cast<double>(progress.source_bytes_done),
      .source_bytes = static_cast<double>(progress.source_bytes),
      .output_bytes_done = static_cast<double>(progress.output_bytes_done),
      .output_bytes = static_cast<double>(progress.output_bytes),
      .tensors_done = static_cast<double>(progress.tensors_done),
      .tensors = static_cast<double>(progress.tensors),
      .retries = static_cast<double>(progress.retries),
      .budget_used = static_cast<double>(progress.budget_used),
      .budget_peak = static_cast<double>(progress.budget_peak),
      .budget_limit = static_cast<double>(progress.budget_limit),
  };
  return hand_out(&exchange()->progress, sizeof(WireProgress), 0);
}

}  // extern "C"
