#include "core/rpc/protocol.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "core/base/checked.h"
#include "core/ffi/object.h"

namespace sluice::rpc {

std::string_view code_name(int32_t code) {
  static constexpr std::string_view kNames[] = {
      "",
      "kShutdown",
      "kInitServer",
      "kCallFunc",
      "kReturn",
      "kException",
      "kCopyFromRemote",
      "kCopyToRemote",
      "kCopyAck",
      "kGetGlobalFunc",
      "kFreeHandle",
      "kDevSetDevice",
      "kDevGetAttr",
      "kDevAllocData",
      "kDevFreeData",
      "kDevStreamSync",
      "kCopyAmongRemote",
      "kDevAllocDataWithScope",
      "kDevCreateStream",
      "kDevFreeStream",
      "kDevSetStream",
      "kDevGetCurrentStream",
  };
  if (code < 0 || static_cast<size_t>(code) >= std::size(kNames)) return {};
  return kNames[code];
}

// ---- Buffer ----

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      capacity_(std::exchange(other.capacity_, 0)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(capacity_, other.capacity_);
  return *this;
}

Buffer::~Buffer() { std::free(data_); }

bool Buffer::append(Bytes more) {
  if (more.empty()) return true;
  const auto needed = checked_add(size_, more.size());
  if (!needed || *needed > SIZE_MAX) return false;
  if (*needed > capacity_) {
    // Half as much again, so that what comes in pieces is copied a bounded number of times
    const uint64_t roomy = std::max<uint64_t>(*needed, uint64_t{size_} + size_ / 2 + 64);
    auto* grown = roomy > SIZE_MAX ? nullptr : std::realloc(data_, static_cast<size_t>(roomy));
    if (grown == nullptr) return false;
    data_ = static_cast<std::byte*>(grown);
    capacity_ = static_cast<size_t>(roomy);
  }
  std::memcpy(data_ + size_, more.data(), more.size());
  size_ += more.size();
  return true;
}

void Buffer::clear() {
  constexpr size_t kLarge = 64 << 10;
  size_ = 0;
  if (capacity_ <= kLarge) return;
  std::free(std::exchange(data_, nullptr));
  capacity_ = 0;
}

// ---- PacketReader ----

bool PacketReader::wrong(std::string_view what) const {
  const std::string_view name = code_name(code_);
  ffi::raise("RPCServerError",
             concat(name.empty() ? "a packet" : name, " of ", size_, " bytes: ", what));
  return false;
}

template <class T>
bool PacketReader::number(T* out, std::string_view what) {
  Bytes bytes;
  if (!take(sizeof(T), &bytes, what)) return false;
  std::memcpy(out, bytes.data(), sizeof(T));
  return true;
}

bool PacketReader::take(uint64_t nbytes, Bytes* out, std::string_view what) {
  const auto found = reader_.take(nbytes);
  if (!found)
    return wrong(
        concat("it is cut at ", what, ", ", nbytes, " bytes at byte ", reader_.position()));
  *out = *found;
  return true;
}

bool PacketReader::code(int32_t* out) {
  if (!number(out, "its code")) return false;
  code_ = *out;
  return true;
}

bool PacketReader::u64(uint64_t* out, std::string_view what) { return number(out, what); }

bool PacketReader::text(std::string_view* out, std::string_view what) {
  uint64_t length = 0;
  Bytes bytes;
  if (!u64(&length, what) || !take(length, &bytes, what)) return false;
  *out = as_text(bytes);
  return true;
}

bool PacketReader::tensor(WireTensor* out) {
  int32_t dimensions = 0;
  Bytes shape;
  if (!number(&out->handle, "a tensor's handle") || !number(&out->device, "a tensor's device") ||
      !number(&dimensions, "a tensor's dimensions") || !number(&out->dtype, "a tensor's dtype"))
    return false;
  if (dimensions < 0 || dimensions > kMaxDimensions)
    return wrong(concat("a tensor of ", dimensions, " dimensions; it may have ", kMaxDimensions));
  if (!take(static_cast<uint64_t>(dimensions) * sizeof(int64_t), &shape, "a tensor's shape") ||
      !number(&out->byte_offset, "a tensor's offset"))
    return false;
  out->shape.resize(static_cast<size_t>(dimensions));
  if (!shape.empty()) std::memcpy(out->shape.data(), shape.data(), shape.size());
  return true;
}

bool PacketReader::count(int32_t* out) {
  if (!number(out, "the number of values")) return false;
  if (*out < 0 || *out > kMaxValues)
    return wrong(concat(*out, " values; there may be ", kMaxValues));
  return true;
}

bool PacketReader::expect(int32_t wanted) {
  int32_t given = 0;
  if (!count(&given)) return false;
  if (given != wanted) return wrong(concat(given, " values, where ", wanted, " belong"));
  return true;
}

bool PacketReader::type(int32_t* out) { return number(out, "a value's type"); }

bool PacketReader::scalar(int32_t type, TVMFFIAny* out) {
  *out = {.type_index = type};
  out->v_int64 = 0;
  switch (type) {
    case kTVMFFINone:
      return true;
    case kTVMFFIBool:
    case kTVMFFIInt:
    case kTVMFFIFloat:
      return number(&out->v_int64, "a value");
    case kTVMFFIDataType: {
      int32_t padding = 0;
      return number(&out->v_dtype, "a dtype") && number(&padding, "a dtype's padding");
    }
    case kTVMFFIDevice:
      return number(&out->v_device, "a device");
    default:
      return wrong(concat("a value of type ", type, ", which the protocol does not have"));
  }
}

bool PacketReader::value_of(int32_t wanted, std::string_view name) {
  int32_t given = 0;
  if (!type(&given)) return false;
  if (given != wanted)
    return wrong(concat("a value of type ", given, ", where ", name, " belongs"));
  return true;
}

bool PacketReader::device(DLDevice* out) {
  return value_of(kTVMFFIDevice, "a device") && number(out, "a device");
}

bool PacketReader::integer(int64_t* out) {
  return value_of(kTVMFFIInt, "an int") && number(out, "an int");
}

bool PacketReader::dtype(DLDataType* out) {
  TVMFFIAny value{};
  if (!value_of(kTVMFFIDataType, "a dtype") || !scalar(kTVMFFIDataType, &value)) return false;
  *out = value.v_dtype;
  return true;
}

bool PacketReader::pointer(uint64_t* out) {
  int32_t given = 0;
  *out = 0;
  if (!type(&given)) return false;
  if (given == kTVMFFINone) return true;
  if (given != kTVMFFIOpaquePtr)
    return wrong(concat("a value of type ", given, ", where a handle belongs"));
  return u64(out, "a handle");
}

bool PacketReader::text_value(std::string_view* out) {
  int32_t given = 0;
  bool is_bytes = false;
  return type(&given) && string_of(given, out, &is_bytes);
}

bool PacketReader::tensor_value(WireTensor* out) {
  return value_of(kTVMFFIDLTensorPtr, "a tensor") && tensor(out);
}

bool PacketReader::string_of(int32_t type, std::string_view* out, bool* is_bytes) {
  uint32_t inner = 0;
  switch (type) {
    case kTVMFFIRawStr:
    case kTVMFFIByteArrayPtr:
      *is_bytes = type == kTVMFFIByteArrayPtr;
      return text(out, "a string");
    case kTVMFFISmallStr:
    case kTVMFFISmallBytes:
    case kTVMFFIStr:
    case kTVMFFIBytes:
      if (!number(&inner, "a string's type")) return false;
      if (inner != kTVMFFIStr && inner != kTVMFFIBytes)
        return wrong(concat("a string whose type is ", inner));
      *is_bytes = inner == kTVMFFIBytes;
      return text(out, "a string");
    default:
      return wrong(concat("a value of type ", type, ", where a string belongs"));
  }
}

bool PacketReader::end() {
  if (reader_.position() == size_) return true;
  return wrong(concat(size_ - reader_.position(), " bytes are left at its end"));
}

// ---- PacketWriter ----

PacketWriter::PacketWriter(Buffer* out, Code code) : out_(out), begin_(out->size()) {
  put(uint64_t{0});
  put(static_cast<int32_t>(code));
}

bool PacketWriter::text(int32_t type, std::string_view value) {
  return put(type) && put(uint64_t{value.size()}) && raw(as_bytes(value));
}

bool PacketWriter::tensor(const DLTensor& tensor, uint64_t handle) {
  put(int32_t{kTVMFFIDLTensorPtr});
  put(handle);
  put(tensor.device);
  put(tensor.ndim);
  put(tensor.dtype);
  for (int32_t i = 0; i < tensor.ndim; ++i) put(tensor.shape[i]);
  // The handle stands for the first element
  return put(uint64_t{0});
}

bool PacketWriter::scalar(const TVMFFIAny& value) {
  put(value.type_index);
  if (value.type_index != kTVMFFIDataType) return put(value.v_int64);
  put(value.v_dtype);
  return put(int32_t{0});
}

bool PacketWriter::finish() {
  if (!good_) {
    out_->truncate(begin_);
    return false;
  }
  const uint64_t length = out_->size() - begin_ - sizeof(uint64_t);
  std::memcpy(out_->bytes().data() + begin_, &length, sizeof(length));
  return true;
}

}  // namespace sluice::rpc
