// For the tests of this folder and the fuzz target: packets as a client writes them, and answers as
// it reads them.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/rpc/protocol.h"

namespace sluice::rpc {

// Bytes that a test puts together.
class Packet {
 public:
  explicit Packet(Code code) : Packet(static_cast<int32_t>(code)) {}
  explicit Packet(int32_t code) { put(code); }

  template <class T>
  Packet& put(T value) {
    body_.append(reinterpret_cast<const char*>(&value), sizeof(value));
    return *this;
  }
  Packet& text(std::string_view content) {
    put(uint64_t{content.size()});
    body_ += content;
    return *this;
  }
  Packet& count(int32_t values) { return put(values); }
  Packet& none() { return put(int32_t{kTVMFFINone}); }
  Packet& integer(int64_t value) { return put(int32_t{kTVMFFIInt}).put(value); }
  Packet& number(double value) { return put(int32_t{kTVMFFIFloat}).put(value); }
  Packet& pointer(uint64_t value) { return put(int32_t{kTVMFFIOpaquePtr}).put(value); }
  Packet& string(std::string_view content) { return put(int32_t{kTVMFFIRawStr}).text(content); }
  Packet& bytes(std::string_view content) {
    return put(int32_t{kTVMFFIByteArrayPtr}).text(content);
  }
  Packet& object(int32_t type, uint64_t handle) { return put(type).put(handle); }
  Packet& remote(uint64_t handle) {
    return put(int32_t{kRemoteObject}).put(kRemoteObject).put(handle);
  }
  Packet& device(DLDevice device) { return put(int32_t{kTVMFFIDevice}).put(device); }
  Packet& dtype(DLDataType dtype) {
    return put(int32_t{kTVMFFIDataType}).put(dtype).put(int32_t{0});
  }
  // A tensor's description, as a copy has it
  Packet& description(const WireTensor& tensor) {
    put(tensor.handle).put(tensor.device).put(static_cast<int32_t>(tensor.shape.size()));
    put(tensor.dtype);
    for (const int64_t extent : tensor.shape) put(extent);
    return put(tensor.byte_offset);
  }
  Packet& tensor(const WireTensor& tensor) {
    return put(int32_t{kTVMFFIDLTensorPtr}).description(tensor);
  }

  const std::string& body() const { return body_; }
  std::string with_length() const {
    const uint64_t length = body_.size();
    return std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + body_;
  }

 private:
  std::string body_;
};

struct Value {
  int32_t type = kTVMFFINone;
  int64_t number = 0;  // or the bits, or the handle
  std::string text;
  WireTensor tensor;
};

struct Reply {
  int32_t code = 0;
  std::vector<Value> values;
  std::string bytes;  // of copy_ack

  std::string_view error() const {
    return code == static_cast<int32_t>(Code::exception) && values.size() == 1
               ? std::string_view(values[0].text)
               : std::string_view();
  }
};

// Takes the first answer off `stream`; false where none is whole, or what stands there is none.
inline bool take_reply(std::string* stream, Reply* out) {
  uint64_t length = 0;
  if (stream->size() < sizeof(length)) return false;
  std::memcpy(&length, stream->data(), sizeof(length));
  if (length > stream->size() - sizeof(length)) return false;
  const std::string body = stream->substr(sizeof(length), static_cast<size_t>(length));
  PacketReader reader(as_bytes(body));
  *out = {};
  if (!reader.code(&out->code)) return false;
  if (out->code == static_cast<int32_t>(Code::copy_ack)) {
    out->bytes = body.substr(sizeof(int32_t));
  } else {
    if (out->code != static_cast<int32_t>(Code::return_value) &&
        out->code != static_cast<int32_t>(Code::exception))
      return false;
    int32_t count = 0;
    if (!reader.count(&count)) return false;
    for (int32_t i = 0; i < count; ++i) {
      Value value;
      bool is_bytes = false;
      std::string_view text;
      uint64_t handle = 0;
      if (!reader.type(&value.type)) return false;
      if (value.type == kTVMFFIDLTensorPtr) {
        if (!reader.tensor(&value.tensor)) return false;
      } else if (value.type == kTVMFFIRawStr || value.type == kTVMFFIByteArrayPtr) {
        if (!reader.string_of(value.type, &text, &is_bytes)) return false;
        value.text = text;
      } else if (value.type == kTVMFFIOpaquePtr) {
        if (!reader.u64(&handle, "a handle")) return false;
        value.number = static_cast<int64_t>(handle);
      } else {
        TVMFFIAny any{};
        if (!reader.scalar(value.type, &any)) return false;
        value.number = any.v_int64;
      }
      out->values.push_back(std::move(value));
    }
    if (!reader.end()) return false;
  }
  stream->erase(0, sizeof(length) + static_cast<size_t>(length));
  return true;
}

}  // namespace sluice::rpc
