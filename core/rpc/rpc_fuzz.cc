// Whatever a client sends, in whatever pieces, whenever the host finishes what it was asked to: the
// server answers each request once, with a packet that is one, reads no memory that is not the
// client's, and owns nothing at the end.
//
// The input is a program: each step is a byte that chooses what happens, and the bytes that it
// reads. Most packets are well-formed, with handles out of former answers; some are bytes of the
// input as they are.
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "core/ffi/registry.h"
#include "core/rpc/rpc.h"
#include "core/rpc/test_support.h"
#include "core/runtime/tensor.h"

// Too large an allocation is null, as it is without the sanitizer
extern "C" const char* __asan_default_options() {
  return "allocator_may_return_null=1:max_allocation_size_mb=64";
}

namespace sluice::rpc {
namespace {

using ffi::Any;
using ffi::of_int;
using ffi::Ref;

void require(bool condition) {
  if (!condition) std::abort();
}

struct Read {
  uint64_t from;
  size_t offset;
  void* to;
  size_t nbytes;
};

// What the host has; one program runs at a time
struct Host {
  std::vector<Any> callbacks;
  std::map<uint64_t, std::string> buffers;
  std::vector<Read> reads;  // of the GPU, done when it is waited for
  uint64_t next_buffer = 1;
  std::string sent;
  size_t send_limit = SIZE_MAX;
  Any handler;
  std::string again;  // what fuzz.reenter feeds
};
Host* host = nullptr;

ffi::FunctionObject* function_of(const TVMFFIAny& value) {
  return reinterpret_cast<ffi::FunctionObject*>(value.v_obj);
}

void forget_raised() {
  TVMFFIObjectHandle error = nullptr;
  TVMFFIErrorMoveFromRaised(&error);
  require(error != nullptr);
  ffi::release(static_cast<TVMFFIObject*>(error));
}

void feed(std::string_view bytes, int64_t flags) {
  const TVMFFIByteArray array = {bytes.data(), bytes.size()};
  TVMFFIAny args[] = {{.type_index = kTVMFFIByteArrayPtr}, of_int(flags)};
  args[0].v_ptr = const_cast<TVMFFIByteArray*>(&array);
  Any result;
  // It fails where sending does alone, which here it never does
  require(ffi::call(function_of(host->handler.view()), args, &result) == 0);
  require(result.view().v_int64 >= 0 && result.view().v_int64 <= 2);
}

int send(void*, const TVMFFIAny* args, int32_t, TVMFFIAny* result) {
  const std::string_view bytes = ffi::text(args[0]);
  const size_t taken = std::min(bytes.size(), host->send_limit);
  host->sent += bytes.substr(0, taken);
  *result = of_int(static_cast<int64_t>(taken));
  return 0;
}

int echo(void*, const TVMFFIAny* args, int32_t count, TVMFFIAny* result) {
  return count == 0 ? 0 : ffi::own(args[count - 1], result);
}

// Touches every byte of the tensors
int touch(void*, const TVMFFIAny* args, int32_t count, TVMFFIAny* result) {
  uint64_t sum = 0;
  for (int32_t i = 0; i < count; ++i) {
    if (args[i].type_index != kTVMFFITensor) continue;
    const auto& tensor = reinterpret_cast<ffi::TensorObject*>(args[i].v_obj)->tensor;
    MutableBytes bytes;
    if (!runtime::is_cpu(tensor.device)) continue;
    if (!runtime::cpu_bytes(tensor, "fuzz.touch", &bytes)) return -1;
    for (std::byte& each : bytes) {
      sum += std::to_integer<uint8_t>(each);
      each = std::byte{0x5a};
    }
  }
  *result = of_int(static_cast<int64_t>(sum));
  return 0;
}

// Clients may call these as they like
bool has_callback(const TVMFFIAny* args, int32_t count) {
  if (count > 0 && args[count - 1].type_index == kTVMFFIFunction) return true;
  ffi::raise("Odd", "no callback");
  return false;
}

int later(void*, const TVMFFIAny* args, int32_t count, TVMFFIAny*) {
  if (!has_callback(args, count)) return -1;
  host->callbacks.push_back(Any::share(args[count - 1]));
  return 0;
}

int now(void*, const TVMFFIAny* args, int32_t count, TVMFFIAny*) {
  if (!has_callback(args, count)) return -1;
  const TVMFFIAny answer[] = {of_int(4), of_int(1)};
  Any ignored;
  return ffi::call(function_of(args[count - 1]), answer, &ignored);
}

int fails(void*, const TVMFFIAny*, int32_t, TVMFFIAny*) { return ffi::raise("Odd", "it fails"); }

int reenter(void*, const TVMFFIAny*, int32_t, TVMFFIAny*) {
  if (host->handler.view().type_index == kTVMFFIFunction) feed(host->again, 3);
  return 0;
}

int measure(void*, const TVMFFIAny* args, int32_t count, TVMFFIAny*) {
  if (!has_callback(args, count) || !has_callback(args, 1)) return -1;
  const TVMFFIAny times = of_int(2);
  Any ignored;
  if (ffi::call(function_of(args[0]), {&times, 1}, &ignored) != 0) return -1;
  host->callbacks.push_back(Any::share(args[count - 1]));
  return 0;
}

uint64_t number(const TVMFFIAny& value) {
  return value.type_index == kTVMFFIOpaquePtr ? reinterpret_cast<uintptr_t>(value.v_ptr)
                                              : value.v_uint64;
}

std::string& buffer(const TVMFFIAny& handle, uint64_t offset, uint64_t nbytes) {
  const auto found = host->buffers.find(number(handle));
  require(found != host->buffers.end());
  require(offset <= found->second.size() && nbytes <= found->second.size() - offset);
  return found->second;
}

int gpu_allocate(void*, const TVMFFIAny* args, int32_t, TVMFFIAny* result) {
  if (number(args[0]) > 65536) return ffi::raise("OutOfMemory", "no room");
  host->buffers[host->next_buffer].resize(static_cast<size_t>(number(args[0])));
  *result = of_int(static_cast<int64_t>(host->next_buffer++));
  return 0;
}

int gpu_free(void*, const TVMFFIAny* args, int32_t, TVMFFIAny*) {
  require(host->buffers.erase(number(args[0])) == 1);
  return 0;
}

int gpu_write(void*, const TVMFFIAny* args, int32_t, TVMFFIAny*) {
  std::string& to = buffer(args[1], number(args[2]), number(args[3]));
  std::memcpy(to.data() + number(args[2]), args[0].v_ptr, static_cast<size_t>(number(args[3])));
  return 0;
}

int gpu_read(void*, const TVMFFIAny* args, int32_t, TVMFFIAny*) {
  buffer(args[0], number(args[1]), number(args[3]));
  host->reads.push_back({number(args[0]), static_cast<size_t>(number(args[1])), args[2].v_ptr,
                         static_cast<size_t>(number(args[3]))});
  return 0;
}

int gpu_copy(void*, const TVMFFIAny* args, int32_t, TVMFFIAny*) {
  const std::string from = buffer(args[0], number(args[1]), number(args[4]));
  std::string& to = buffer(args[2], number(args[3]), number(args[4]));
  std::memcpy(to.data() + number(args[3]), from.data() + number(args[1]),
              static_cast<size_t>(number(args[4])));
  return 0;
}

int gpu_api(void*, const TVMFFIAny* args, int32_t, TVMFFIAny* result) {
  static constexpr ffi::Builtin kApi[] = {{"deviceAllocDataSpace", gpu_allocate},
                                          {"deviceFreeDataSpace", gpu_free},
                                          {"deviceCopyToGPU", gpu_write},
                                          {"deviceCopyFromGPU", gpu_read},
                                          {"deviceCopyWithinGPU", gpu_copy}};
  for (const ffi::Builtin& each : kApi) {
    if (ffi::text(args[0]) != each.name) continue;
    *result = ffi::of_object(ffi::make_function(nullptr, each.call, nullptr));
    return 0;
  }
  return ffi::raise("Odd", "no such function");
}

constexpr ffi::Builtin kFunctions[] = {
    {"fuzz.echo", echo},
    {"fuzz.touch", touch},
    {"fuzz.fails", fails},
    {"fuzz.reenter", reenter},
    {"__async.fuzz.later", later},
    {"__async.fuzz.now", now},
    {"__async.wasm.TimeExecution", measure},
    {"__async.wasm.WebGPUWaitForTasks", later},
    {"wasm.WebGPUDeviceAPI", gpu_api},
};

constexpr const char* kNames[] = {"fuzz.echo",
                                  "fuzz.touch",
                                  "fuzz.fails",
                                  "fuzz.reenter",
                                  "fuzz.later",
                                  "fuzz.now",
                                  "runtime.RPCTimeEvaluator",
                                  "ffi.Array",
                                  "ffi.ArrayGetItem",
                                  "ffi.Shape",
                                  "ffi.SystemLib",
                                  "tvm.rpc.server.ModuleGetFunction",
                                  "tvm.rpc.server.ImportModule",
                                  "tvm.rpc.server.GetCRTMaxPacketSize",
                                  "runtime.TVMTensorCreateView",
                                  "runtime.TVMTensorAllocWithScope",
                                  "tvmjs.testing.call",
                                  "rpc.LocalSession",
                                  "wasm.WebGPUWaitForTasks",
                                  "no.such"};

class Program {
 public:
  explicit Program(Bytes bytes) : reader_(bytes) {}

  void run() {
    Host mine;
    host = &mine;
    const uint8_t options = byte();
    if ((options & 1) != 0) mine.send_limit = byte();
    if ((options & 2) != 0) piece_ = 1 + byte() % 32u;
    create((options & 4) != 0 ? "%toinit" : "wasm");
    if ((options & 8) == 0) give(Packet(Code::init_server).text(kVersion).count(0));
    while (!at_end_) step();
    // The host goes: first what it was asked to do, or the server
    if ((options & 16) != 0) mine.handler = {};
    while (!mine.callbacks.empty()) {
      const Any last = std::move(mine.callbacks.back());
      mine.callbacks.pop_back();
    }
    mine.reads.clear();
    mine.handler = {};
    require(mine.buffers.empty());
    host = nullptr;
  }

 private:
  uint8_t byte() {
    const auto value = reader_.read<uint8_t>();
    if (!value) at_end_ = true;
    return value.value_or(0);
  }
  int64_t integer() {
    static constexpr int64_t kOdd[] = {INT64_MIN, INT64_MAX, INT32_MAX, -1, 1 << 20, 1 << 30};
    const uint8_t which = byte();
    return which < 240 ? which % 20 : kOdd[which % std::size(kOdd)];
  }
  std::string content() {
    const auto taken = reader_.take(byte() % 64u);
    return taken ? std::string(as_text(*taken)) : std::string();
  }
  uint64_t handle() {
    const uint8_t which = byte();
    if (which >= 248 || handles_.empty()) return static_cast<uint64_t>(integer());
    return handles_[which % handles_.size()];
  }
  DLDevice device() {
    static constexpr DLDevice kDevices[] = {
        {kDLCPU, 0}, {kDLWebGPU, 0}, {kDLCPU, 0}, {kDLCUDA, 0}, {kDLWebGPU, 1}};
    return kDevices[byte() % std::size(kDevices)];
  }
  DLDataType dtype() {
    static constexpr DLDataType kTypes[] = {{kDLFloat, 32, 1}, {kDLUInt, 8, 1}, {kDLInt, 4, 1},
                                            {kDLInt, 0, 1},    {99, 8, 1},      {kDLInt, 64, 0}};
    return kTypes[byte() % std::size(kTypes)];
  }
  WireTensor tensor() {
    WireTensor out = {.handle = handle(), .device = device(), .dtype = dtype()};
    for (size_t i = byte() % 4u; i > 0; --i) out.shape.push_back(integer());
    out.byte_offset = static_cast<uint64_t>(integer());
    return out;
  }

  void value(Packet* packet) {
    switch (byte() % 14) {
      case 0:
        packet->none();
        break;
      case 1:
      case 2:
        packet->integer(integer());
        break;
      case 3:
        packet->number(0.5);
        break;
      case 4:
        packet->string(kNames[byte() % std::size(kNames)]);
        break;
      case 5:
        packet->bytes(content());
        break;
      case 6:
        packet->put(int32_t{kTVMFFIStr}).put(uint32_t{kTVMFFIStr}).text(content());
        break;
      case 7:
        packet->pointer(handle());
        break;
      case 8:
        packet->device(device());
        break;
      case 9:
        packet->dtype(dtype());
        break;
      case 10:
        packet->remote(handle());
        break;
      case 11:
        packet->object(byte() % 2 == 0 ? kTVMFFIFunction : kTVMFFIModule, handle());
        break;
      default:
        packet->tensor(tensor());
        break;
    }
  }
  void values(Packet* packet) {
    const int32_t count = byte() % 8;
    packet->count(count);
    for (int32_t i = 0; i < count; ++i) value(packet);
  }

  void create(const char* remote_key) {
    const auto made = ffi::find_function("rpc.CreateEventDrivenServer");
    const auto sender = ffi::make_function(nullptr, send, nullptr);
    TVMFFIAny args[] = {ffi::of_object(&sender->header),
                        {.type_index = kTVMFFIRawStr},
                        {.type_index = kTVMFFIRawStr}};
    args[1].v_c_str = "fuzz";
    args[2].v_c_str = remote_key;
    require(ffi::call(made.get(), args, &host->handler) == 0);
  }

  void give(const Packet& packet) { give(packet.with_length()); }
  void give(std::string_view bytes) {
    do {
      const size_t taken = std::min(bytes.size(), piece_);
      feed(bytes.substr(0, taken), 3);
      bytes.remove_prefix(taken);
    } while (!bytes.empty());
    read_answers();
  }

  void read_answers() {
    // All that has been sent is answers, the last of which may be cut
    Reply reply;
    while (take_reply(&host->sent, &reply)) {
      for (const Value& each : reply.values)
        if (each.type == kTVMFFIOpaquePtr && each.number != 0 && handles_.size() < 64)
          handles_.push_back(static_cast<uint64_t>(each.number));
    }
    if (ffi::has_raised()) forget_raised();
    if (host->sent.size() >= sizeof(uint64_t)) {
      uint64_t length = 0;
      std::memcpy(&length, host->sent.data(), sizeof(length));
      require(length > host->sent.size() - sizeof(length));
    }
  }

  void time_evaluator() {
    Packet packet(Code::call_function);
    packet.put(handle()).count(12).none().string("fuzz.echo").integer(1).integer(0);
    for (int i = 0; i < 7; ++i) packet.integer(1 + byte() % 3);
    give(packet.string(""));
  }

  void finish() {
    if (host->callbacks.empty()) return;
    const size_t at = byte() % host->callbacks.size();
    const Any callback = std::move(host->callbacks[at]);
    host->callbacks.erase(host->callbacks.begin() + static_cast<ptrdiff_t>(at));
    const uint8_t how = byte();
    if (how % 8 == 0) return;  // dropped
    // Memory that is read to must still be there
    for (const Read& read : host->reads) {
      const auto found = host->buffers.find(read.from);
      if (found == host->buffers.end()) {
        std::memset(read.to, 0, read.nbytes);
      } else {
        std::memcpy(read.to, found->second.data() + read.offset, read.nbytes);
      }
    }
    host->reads.clear();
    Any text;
    require(ffi::make_string(content(), text.receive()) == 0);
    const TVMFFIAny args[] = {of_int(how % 8 == 1   ? 5
                                     : how % 8 == 2 ? integer()
                                                    : 4),
                              how % 2 == 0 ? text.view() : of_int(how)};
    Any ignored;
    // A client may have passed any function for a callback
    if (ffi::call(function_of(callback.view()), args, &ignored) != 0) forget_raised();
  }

  void step() {
    switch (byte() % 20) {
      case 0:
        give(content());
        break;
      case 1: {
        Packet packet(static_cast<int32_t>(byte() % 24) - 1);
        values(&packet);
        give(packet);
        break;
      }
      case 2:
        give(Packet(Code::get_global_function).count(1).string(kNames[byte() % std::size(kNames)]));
        break;
      case 3:
      case 4:
      case 5: {
        Packet packet(Code::call_function);
        packet.put(handle());
        values(&packet);
        give(packet);
        break;
      }
      case 6:
      case 7:
        give(Packet(Code::allocate)
                 .count(4)
                 .device(device())
                 .integer(integer())
                 .integer(64)
                 .dtype(dtype()));
        break;
      case 8:
      case 9:
        give(Packet(Code::copy_to_remote).description(tensor()).text(content()));
        break;
      case 10:
      case 11:
        give(Packet(Code::copy_from_remote)
                 .description(tensor())
                 .put(static_cast<uint64_t>(integer())));
        break;
      case 12:
        give(Packet(Code::copy_among_remote).count(3).tensor(tensor()).tensor(tensor()).none());
        break;
      case 13:
        give(Packet(Code::free_handle).count(1).pointer(handle()));
        break;
      case 14:
        give(Packet(Code::free).count(2).device(device()).pointer(handle()));
        break;
      case 15:
        give(Packet(Code::synchronize).count(2).device(device()).none());
        break;
      case 16:
        time_evaluator();
        break;
      case 17:
        host->again = content();
        host->send_limit = host->send_limit == SIZE_MAX ? byte() : SIZE_MAX;
        break;
      default:
        finish();
        read_answers();
        break;
    }
  }

  ByteReader reader_;
  bool at_end_ = false;
  size_t piece_ = SIZE_MAX;
  std::vector<uint64_t> handles_;
};

}  // namespace
}  // namespace sluice::rpc

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace sluice;
  static const bool started = [] {
    rpc::initialize();
    // Takes any number for an address, which no client may say here
    const auto remove = ffi::find_function("ffi.FunctionRemoveGlobal");
    TVMFFIAny name = {.type_index = kTVMFFIRawStr};
    name.v_c_str = "sluice.runtime.TensorFromHandle";
    ffi::Any ignored;
    return ffi::call(remove.get(), {&name, 1}, &ignored) == 0 &&
           ffi::register_functions(rpc::kFunctions) == 0;
  }();
  rpc::require(started);
  rpc::Program program({reinterpret_cast<const std::byte*>(data), size});
  program.run();
  return 0;
}
