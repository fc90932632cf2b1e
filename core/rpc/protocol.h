// TVM's RPC protocol, version 0.8.0, as it lies on the wire; all numbers are little-endian.
//
//   packet:   u64 bytes that follow, i32 code, then by the code
//     init_server:                       text version, values (constructor's name and arguments)
//     call_function:                     u64 handle, values
//     return_value, exception:           values
//     copy_from_remote:                  tensor, u64 bytes; answered by copy_ack
//     copy_to_remote:                    tensor, u64 bytes, the bytes
//     copy_ack:                          the bytes
//     shutdown:                          nothing; not answered
//     all from get_global_function on:   values
//   text:     u64 bytes, the bytes
//   values:   i32 count, then each: i32 type index of the C ABI and, by it,
//     none: nothing; bool, int, float, pointer, function, module: 8 bytes; dtype: 4 bytes and 4 of
//     padding; device: i32 type, i32 id; DLTensor*: tensor; const char*, TVMFFIByteArray*: text;
//     small strings and bytes, and all other objects: u32 type index again, then text for a string
//     or bytes, or u64 handle for kRemoteObject
//   tensor:   u64 handle of its memory, device, i32 dimensions, dtype, i64[dimensions], u64 offset
//
// What a call returns is values as well: the type index as an int; then none, the value itself, a
// string or bytes as text, the handle of an object as a pointer, or, for a tensor, its description
// and the handle to free it by. Facts of TVM's src/runtime/rpc/{rpc_endpoint.cc,rpc_session.h,
// minrpc/rpc_reference.h}.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "core/base/bytes.h"
#include "core/ffi/c_api.h"

namespace sluice::rpc {

inline constexpr std::string_view kVersion = "0.8.0";

enum class Code : int32_t {
  shutdown = 1,
  init_server = 2,
  call_function = 3,
  return_value = 4,
  exception = 5,
  copy_from_remote = 6,
  copy_to_remote = 7,
  copy_ack = 8,
  get_global_function = 9,
  free_handle = 10,
  set_device = 11,
  get_attribute = 12,
  allocate = 13,
  free = 14,
  synchronize = 15,
  copy_among_remote = 16,
  allocate_with_scope = 17,
  create_stream = 18,
  free_stream = 19,
  set_stream = 20,
  get_stream = 21,
};

// TVM's name of a code, as in "kCallFunc"; empty where there is none.
std::string_view code_name(int32_t code);

// The type index of an object that is named by a handle.
inline constexpr uint32_t kRemoteObject = 115;

// What the other side may ask for. A packet's memory grows with what has come, never with what it
// promises.
inline constexpr uint64_t kMaxPacketBytes = uint64_t{1} << 30;
inline constexpr int32_t kMaxValues = 8192;
inline constexpr int32_t kMaxDimensions = 64;
inline constexpr uint64_t kMaxKeyBytes = 4096;
// Bytes that came while a request is being answered: clients wait for the answer
inline constexpr uint64_t kMaxBacklogBytes = uint64_t{1} << 20;
// What clients are asked to copy in one packet: they cut longer copies
inline constexpr int64_t kTransferBytes = int64_t{16} << 20;

struct WireTensor {
  uint64_t handle = 0;
  DLDevice device = {};
  DLDataType dtype = {};
  std::vector<int64_t> shape;
  uint64_t byte_offset = 0;
};

// Bytes that grow, and say where memory ends.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  ~Buffer();

  [[nodiscard]] bool append(Bytes more);
  template <class T>
  [[nodiscard]] bool append_value(const T& value) {
    return append(Bytes(reinterpret_cast<const std::byte*>(&value), sizeof(value)));
  }
  Bytes bytes() const { return {data_, size_}; }
  MutableBytes bytes() { return {data_, size_}; }
  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  // Keeps the memory unless it is large.
  void clear();
  // Back to the size it had.
  void truncate(size_t size) { size_ = size; }

 private:
  std::byte* data_ = nullptr;  // from malloc
  size_t size_ = 0;
  size_t capacity_ = 0;
};

// Reads what stands in a packet. Each function raises an RPCServerError that names the packet and
// the byte, and returns false, where it does not stand there.
class PacketReader {
 public:
  explicit PacketReader(Bytes packet) : reader_(packet), size_(packet.size()) {}

  // The first to be read.
  bool code(int32_t* out);

  bool u64(uint64_t* out, std::string_view what);
  bool text(std::string_view* out, std::string_view what);  // a view of the packet
  bool take(uint64_t nbytes, Bytes* out, std::string_view what);
  bool tensor(WireTensor* out);

  // How many values follow.
  bool count(int32_t* out);
  // As many as must; raises a TypeError otherwise.
  bool expect(int32_t count);
  bool type(int32_t* out);
  // The value of a type that needs no handle, as a view of the packet
  bool scalar(int32_t type, TVMFFIAny* out);

  // Whole values that must be of a type
  bool device(DLDevice* out);
  bool integer(int64_t* out);
  bool dtype(DLDataType* out);
  bool pointer(uint64_t* out);  // none is 0
  bool text_value(std::string_view* out);
  bool tensor_value(WireTensor* out);

  // The string or bytes behind a type of them, in any of their forms; *is_bytes says which.
  bool string_of(int32_t type, std::string_view* out, bool* is_bytes);

  // Nothing may follow.
  bool end();
  // False, after raising that the packet is wrong.
  bool wrong(std::string_view what) const;

 private:
  bool value_of(int32_t wanted, std::string_view name);
  template <class T>
  bool number(T* out, std::string_view what);

  ByteReader reader_;
  uint64_t size_;
  int32_t code_ = 0;
};

// Writes packets to a buffer. Functions return false where memory ends.
class PacketWriter {
 public:
  PacketWriter(Buffer* out, Code code);

  bool count(int32_t values) { return put(values); }
  bool none() { return put(int32_t{kTVMFFINone}); }
  bool integer(int64_t value) { return put(int32_t{kTVMFFIInt}) && put(value); }
  bool pointer(uint64_t value) { return put(int32_t{kTVMFFIOpaquePtr}) && put(value); }
  bool string(std::string_view value) { return text(kTVMFFIRawStr, value); }
  bool bytes(std::string_view value) { return text(kTVMFFIByteArrayPtr, value); }
  bool tensor(const DLTensor& tensor, uint64_t handle);
  // A bool, int, float, pointer, dtype or device
  bool scalar(const TVMFFIAny& value);
  bool raw(Bytes bytes) { return good_ = good_ && out_->append(bytes); }

  // Fills in the length. Takes back what was written where memory has ended.
  [[nodiscard]] bool finish();

 private:
  template <class T>
  bool put(const T& value) {
    return good_ = good_ && out_->append_value(value);
  }
  bool text(int32_t type, std::string_view value);

  Buffer* out_;
  size_t begin_;
  bool good_ = true;
};

}  // namespace sluice::rpc
