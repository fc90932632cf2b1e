// Strings, bytes and big integers.
#include <cstring>

#include "core/ffi/object.h"

namespace sluice::ffi {
namespace {

void delete_plain(void* self, int flags) {
  if ((flags & kTVMFFIObjectDeleterFlagBitMaskWeak) != 0) free_object(self);
}

int make_text(std::string_view content, int32_t small_index, int32_t object_index, TVMFFIAny* out) {
  TVMFFIAny made{};
  if (content.size() <= 7) {
    made.type_index = small_index;
    made.small_str_len = static_cast<uint32_t>(content.size());
    if (!content.empty()) std::memcpy(made.v_bytes, content.data(), content.size());
  } else {
    size_t bytes = 0;
    if (__builtin_add_overflow(content.size(), sizeof(StringObject) + 1, &bytes))
      return raise_no_memory();
    auto* object =
        reinterpret_cast<StringObject*>(allocate_object(bytes, object_index, delete_plain));
    if (object == nullptr) return -1;
    char* data = reinterpret_cast<char*>(object + 1);
    std::memcpy(data, content.data(), content.size());
    object->bytes = {data, content.size()};
    made = of_object(&object->header);
  }
  *out = made;
  return 0;
}

int from_byte_array(std::string_view function, const TVMFFIByteArray* input, TVMFFIAny* out,
                    int (*make)(std::string_view, TVMFFIAny*)) {
  if (input == nullptr || (input->data == nullptr && input->size != 0))
    return raise_null(function, "input");
  if (out == nullptr) return raise_null(function, "out");
  return make(text(*input), out);
}

}  // namespace

int make_string(std::string_view content, TVMFFIAny* out) {
  return make_text(content, kTVMFFISmallStr, kTVMFFIStr, out);
}

int make_bytes(std::string_view content, TVMFFIAny* out) {
  return make_text(content, kTVMFFISmallBytes, kTVMFFIBytes, out);
}

}  // namespace sluice::ffi

using namespace sluice::ffi;  // NOLINT(google-build-using-namespace): the C functions below

extern "C" {

int TVMFFIStringFromByteArray(const TVMFFIByteArray* input, TVMFFIAny* out) {
  return from_byte_array("TVMFFIStringFromByteArray", input, out, make_string);
}

int TVMFFIBytesFromByteArray(const TVMFFIByteArray* input, TVMFFIAny* out) {
  return from_byte_array("TVMFFIBytesFromByteArray", input, out, make_bytes);
}

int TVMFFIBigIntFromByteArray(const TVMFFIByteArray* input, TVMFFIAny* out) {
  constexpr std::string_view kName = "TVMFFIBigIntFromByteArray";
  if (input == nullptr || (input->data == nullptr && input->size != 0))
    return raise_null(kName, "input");
  if (out == nullptr) return raise_null(kName, "out");
  if (input->size % sizeof(int64_t) != 0)
    return raise_value(
        sluice::concat(kName, ": ", input->size, " bytes are not whole 64-bit words"));
  // Drops the words that only repeat the sign
  const auto word = [input](size_t i) {
    int64_t value = 0;
    std::memcpy(&value, input->data + i * sizeof(value), sizeof(value));
    return value;
  };
  size_t size = input->size / sizeof(int64_t);
  while (size > 1 && word(size - 1) == (word(size - 2) < 0 ? -1 : 0)) --size;
  if (size <= 1) {
    *out = of_int(size == 0 ? 0 : word(0));
    return 0;
  }
  const size_t content = size * sizeof(int64_t);  // no larger than the input
  size_t bytes = 0;
  if (__builtin_add_overflow(content, sizeof(BigIntObject), &bytes)) return raise_no_memory();
  auto* object =
      reinterpret_cast<BigIntObject*>(allocate_object(bytes, kTVMFFIBigInt, delete_plain));
  if (object == nullptr) return -1;
  object->size = size;
  std::memcpy(object->words(), input->data, content);
  *out = of_object(&object->header);
  return 0;
}

TVMFFIByteArray TVMFFIBigIntGetContentByteArray(const TVMFFIAny* value) {
  if (value == nullptr) return {nullptr, 0};
  if (value->type_index == kTVMFFIInt)
    return {reinterpret_cast<const char*>(&value->v_int64), sizeof(int64_t)};
  if (value->type_index != kTVMFFIBigInt || value->v_obj == nullptr ||
      value->v_obj->type_index != kTVMFFIBigInt)
    return {nullptr, 0};
  const auto* object = reinterpret_cast<const BigIntObject*>(value->v_obj);
  return {reinterpret_cast<const char*>(object->words()), object->size * sizeof(int64_t)};
}

}  // extern "C"
