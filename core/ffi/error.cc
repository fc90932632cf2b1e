// Error objects and the calling thread's raised error.
#include <cstdlib>
#include <cstring>
#include <string>

#include "core/ffi/object.h"

namespace sluice::ffi {
namespace {

struct OwnedError {
  ErrorObject base;
  char* backtrace;  // from malloc
};

void update_backtrace(TVMFFIObjectHandle self, const TVMFFIByteArray* backtrace, int32_t mode) {
  auto* error = static_cast<OwnedError*>(self);
  if (error == nullptr || backtrace == nullptr || (backtrace->data == nullptr && backtrace->size))
    return;
  TVMFFIByteArray& kept = error->base.cell.backtrace;
  const size_t start = mode == kTVMFFIBacktraceUpdateModeAppend ? kept.size : 0;
  size_t size = 0;
  if (__builtin_add_overflow(start, backtrace->size, &size)) return;
  // A new block, since the new text may be a part of the old one; where there is no memory the old
  // text stays
  auto* data = static_cast<char*>(std::malloc(size + 1));
  if (data == nullptr) return;
  if (start != 0) std::memcpy(data, kept.data, start);
  if (backtrace->size != 0) std::memcpy(data + start, backtrace->data, backtrace->size);
  data[size] = 0;
  std::free(error->backtrace);
  error->backtrace = data;
  kept = {data, size};
}

void delete_error(void* self, int flags) {
  auto* error = static_cast<OwnedError*>(self);
  if ((flags & kTVMFFIObjectDeleterFlagBitMaskStrong) != 0) {
    const TVMFFIErrorCell& cell = error->base.cell;
    if (cell.cause_chain != nullptr) release_nested(static_cast<TVMFFIObject*>(cell.cause_chain));
    if (cell.extra_context != nullptr)
      release_nested(static_cast<TVMFFIObject*>(cell.extra_context));
    std::free(error->backtrace);
  }
  if ((flags & kTVMFFIObjectDeleterFlagBitMaskWeak) != 0) free_object(self);
}

// For when there is no memory for another. The program holds a reference that it never gives back.
constinit ErrorObject out_of_memory = {
    .header = {.combined_ref_count = kStrongOne | kWeakOne,
               .type_index = kTVMFFIError,
               .deleter = nullptr},
    .cell = {.kind = {"MemoryError", 11},
             .message = {"no memory is left", 17},
             .backtrace = {"", 0},
             .update_backtrace = [](TVMFFIObjectHandle, const TVMFFIByteArray*, int32_t) {}}};

constinit thread_local TVMFFIObject* raised = nullptr;

void set_raised(TVMFFIObject* error) {
  TVMFFIObject* before = std::exchange(raised, error);
  if (before != nullptr) release(before);
}

// Null where there is no memory; raises nothing
OwnedError* new_error(std::string_view kind, std::string_view message, std::string_view backtrace) {
  // Kind and message stand behind the object, each with a 0
  size_t bytes = sizeof(OwnedError) + 2;
  if (__builtin_add_overflow(bytes, kind.size(), &bytes) ||
      __builtin_add_overflow(bytes, message.size(), &bytes))
    return nullptr;
  auto* error = static_cast<OwnedError*>(std::calloc(1, bytes));
  if (error == nullptr) return nullptr;
  error->base.header.combined_ref_count = kStrongOne | kWeakOne;
  error->base.header.type_index = kTVMFFIError;
  error->base.header.deleter = delete_error;
  char* texts = reinterpret_cast<char*>(error + 1);
  if (!kind.empty()) std::memcpy(texts, kind.data(), kind.size());
  error->base.cell.kind = {texts, kind.size()};
  texts += kind.size() + 1;
  if (!message.empty()) std::memcpy(texts, message.data(), message.size());
  error->base.cell.message = {texts, message.size()};
  error->base.cell.backtrace = {"", 0};
  error->base.cell.update_backtrace = update_backtrace;
  if (!backtrace.empty()) {
    const TVMFFIByteArray bytes_of_backtrace = {backtrace.data(), backtrace.size()};
    update_backtrace(error, &bytes_of_backtrace, kTVMFFIBacktraceUpdateModeReplace);
  }
  return error;
}

}  // namespace

int raise(std::string_view kind, std::string_view message) {
  OwnedError* error = new_error(kind, message, {});
  if (error == nullptr) return raise_no_memory();
  set_raised(&error->base.header);
  return -1;
}

int raise(const Error& error) {
  std::string message = error.message;
  if (!error.hint.empty()) message = concat(message, " (", error.hint, ")");
  return raise(
      error.code == ErrorCode::invalid_argument ? "ValueError" : error_code_name(error.code),
      message);
}

int raise_no_memory() {
  retain(&out_of_memory.header);
  set_raised(&out_of_memory.header);
  return -1;
}

int raise_null(std::string_view function, std::string_view argument) {
  return raise_value(concat(function, ": ", argument, " is null"));
}

bool has_raised() { return raised != nullptr; }

Ref<ErrorObject> make_error(std::string_view kind, std::string_view message) {
  OwnedError* error = new_error(kind, message, {});
  if (error == nullptr) {
    raise_no_memory();
    return {};
  }
  return Ref<ErrorObject>::adopt(&error->base);
}

}  // namespace sluice::ffi

using sluice::ffi::raise;
using sluice::ffi::text;

namespace {

bool is_text(const TVMFFIByteArray* bytes) {
  return bytes != nullptr && (bytes->data != nullptr || bytes->size == 0);
}

std::string_view or_empty(const char* c_string) { return c_string == nullptr ? "" : c_string; }

}  // namespace

extern "C" {

void TVMFFIErrorMoveFromRaised(TVMFFIObjectHandle* result) {
  if (result != nullptr) *result = std::exchange(sluice::ffi::raised, nullptr);
}

void TVMFFIErrorSetRaised(TVMFFIObjectHandle error) {
  auto* object = static_cast<TVMFFIObject*>(error);
  if (object == nullptr) {
    sluice::ffi::set_raised(nullptr);
  } else if (object->type_index != kTVMFFIError) {
    sluice::ffi::raise_type(
        sluice::concat("TVMFFIErrorSetRaised: the error must be ffi.Error, not ",
                       sluice::ffi::type_key(object->type_index)));
  } else {
    sluice::ffi::retain(object);
    sluice::ffi::set_raised(object);
  }
}

void TVMFFIErrorSetRaisedFromCStr(const char* kind, const char* message) {
  raise(or_empty(kind), or_empty(message));
}

void TVMFFIErrorSetRaisedFromCStrParts(const char* kind, const char** message_parts,
                                       int32_t num_parts) {
  std::string message;
  for (int32_t i = 0; message_parts != nullptr && i < num_parts; ++i)
    message += or_empty(message_parts[i]);
  raise(or_empty(kind), message);
}

int TVMFFIErrorCreate(const TVMFFIByteArray* kind, const TVMFFIByteArray* message,
                      const TVMFFIByteArray* backtrace, TVMFFIObjectHandle* out) {
  return TVMFFIErrorCreateWithCauseAndExtraContext(kind, message, backtrace, nullptr, nullptr, out);
}

int TVMFFIErrorCreateWithCauseAndExtraContext(
    const TVMFFIByteArray* kind, const TVMFFIByteArray* message, const TVMFFIByteArray* backtrace,
    TVMFFIObjectHandle cause_chain, TVMFFIObjectHandle extra_context, TVMFFIObjectHandle* out) {
  auto* cause = static_cast<TVMFFIObject*>(cause_chain);
  auto* context = static_cast<TVMFFIObject*>(extra_context);
  if (!is_text(kind) || !is_text(message) || !is_text(backtrace) || out == nullptr) return -1;
  if (cause != nullptr && cause->type_index != kTVMFFIError) return -1;
  auto* error = sluice::ffi::new_error(text(*kind), text(*message), text(*backtrace));
  if (error == nullptr) return -1;
  if (cause != nullptr) sluice::ffi::retain(cause);
  if (context != nullptr) sluice::ffi::retain(context);
  error->base.cell.cause_chain = cause;
  error->base.cell.extra_context = context;
  *out = error;
  return 0;
}

}  // extern "C"
