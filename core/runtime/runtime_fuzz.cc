// Any sequence of calls of the runtime's functions, with any arguments that a host could pass, ends
// with a result or a raised error, never asks WebGPU for what its rules forbid, and owns nothing at
// the end.
//
// The input is a program: each step is a byte that chooses a function, and the bytes that its
// arguments read. A pool holds what calls gave back, so that later steps use it. Where a function
// has a signature here, most of its arguments are of the kinds that it takes.
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/base/bytes.h"
#include "core/ffi/module.h"
#include "core/runtime/runtime.h"
#include "core/runtime/tensor.h"

// Too large an allocation is null, as it is without the sanitizer
extern "C" const char* __asan_default_options() {
  return "allocator_may_return_null=1:max_allocation_size_mb=64";
}

namespace sluice::runtime {
namespace {

using ffi::Any;
using ffi::Builtin;

void require(bool condition) {
  if (!condition) std::abort();
}

// A WebGPU of bytes that stops the program where its rules are broken
struct FakeGpu {
  std::map<uint64_t, std::vector<char>> buffers;
  uint64_t next = 1;
  uint8_t character = 0;  // bits: copies any byte, gives ints, fails at every fourth allocation

  bool copies_any_byte() const { return (character & 1) != 0; }

  // The bytes of a range; null, after raising an error, where the handle is none of a buffer
  char* range(uint64_t handle, uint64_t offset, uint64_t nbytes) {
    const auto found = buffers.find(handle);
    if (found == buffers.end()) {
      ffi::raise("FakeError", "no such buffer");
      return nullptr;
    }
    const uint64_t size = found->second.size();
    require(offset <= size && nbytes <= size - offset);
    return found->second.data() + offset;
  }
};
FakeGpu gpu;

uint64_t number(const TVMFFIAny& value) {
  return value.type_index == kTVMFFIOpaquePtr ? reinterpret_cast<uintptr_t>(value.v_ptr)
                                              : value.v_uint64;
}

int gpu_allocate(void*, const TVMFFIAny* args, int32_t count, TVMFFIAny* result) {
  require(count == 1);
  const uint64_t nbytes = number(args[0]);
  if (!gpu.copies_any_byte()) require(nbytes % 4 == 0 && nbytes != 0);
  if (nbytes > 65536) return ffi::raise("OutOfMemory", "no room");
  if ((gpu.character & 4) != 0 && gpu.next % 4 == 0)
    return gpu.next++ % 8 == 0 ? 0 : ffi::raise("E", "fails");
  gpu.buffers[gpu.next].resize(static_cast<size_t>(nbytes));
  *result = ffi::of_int(static_cast<int64_t>(gpu.next));
  if ((gpu.character & 2) == 0) {
    result->type_index = kTVMFFIFloat;
    result->v_float64 = static_cast<double>(gpu.next);
  }
  ++gpu.next;
  return 0;
}

int gpu_free(void*, const TVMFFIAny* args, int32_t, TVMFFIAny*) {
  return gpu.buffers.erase(number(args[0])) == 1 ? 0 : ffi::raise("FakeError", "no such buffer");
}

int gpu_write(void*, const TVMFFIAny* args, int32_t, TVMFFIAny*) {
  const uint64_t offset = number(args[2]);
  const uint64_t nbytes = number(args[3]);
  require(gpu.copies_any_byte() || (offset % 4 == 0 && nbytes % 4 == 0));
  char* to = gpu.range(number(args[1]), offset, nbytes);
  if (to == nullptr) return -1;
  if (nbytes != 0) std::memcpy(to, args[0].v_ptr, static_cast<size_t>(nbytes));
  return 0;
}

int gpu_read(void*, const TVMFFIAny* args, int32_t, TVMFFIAny*) {
  const uint64_t offset = number(args[1]);
  const uint64_t nbytes = number(args[3]);
  require(gpu.copies_any_byte() || offset % 4 == 0);
  const char* from = gpu.range(number(args[0]), offset, nbytes);
  if (from == nullptr) return -1;
  if (nbytes != 0) std::memcpy(args[2].v_ptr, from, static_cast<size_t>(nbytes));
  return 0;
}

int gpu_copy(void*, const TVMFFIAny* args, int32_t, TVMFFIAny*) {
  const uint64_t nbytes = number(args[4]);
  require(gpu.copies_any_byte() || (number(args[1]) % 4 == 0 && number(args[3]) % 4 == 0 &&
                                    nbytes % 4 == 0 && number(args[0]) != number(args[2])));
  const char* from = gpu.range(number(args[0]), number(args[1]), nbytes);
  char* to = from == nullptr ? nullptr : gpu.range(number(args[2]), number(args[3]), nbytes);
  if (to == nullptr) return -1;
  if (nbytes != 0) std::memmove(to, from, static_cast<size_t>(nbytes));
  return 0;
}

int gpu_functions(void*, const TVMFFIAny* args, int32_t, TVMFFIAny* result) {
  const std::string_view name = ffi::text(args[0]);
  TVMFFISafeCallType call = nullptr;
  if (name == "deviceAllocDataSpace") call = gpu_allocate;
  if (name == "deviceFreeDataSpace") call = gpu_free;
  if (name == "deviceCopyToGPU") call = gpu_write;
  if (name == "deviceCopyFromGPU") call = gpu_read;
  if (name == "deviceCopyWithinGPU") call = gpu_copy;
  if (name == "deviceCopiesAnyByte" && gpu.copies_any_byte()) call = gpu_copy;
  if (call == nullptr) return ffi::raise("FakeError", "no such function");
  *result = ffi::of_object(ffi::make_function(nullptr, call, nullptr));
  return 0;
}

// The host's function of arguments
int host_function(void*, const TVMFFIAny* args, int32_t count, TVMFFIAny* result) {
  if (count == 0) return ffi::raise("HostError", "no arguments");
  return ffi::own(args[0], result);
}

// t tensor, s shape, d dtype, D device, T device type, i int, f float, n name, b bytes, a array,
// c function, x anything, * more of the one before
struct Signature {
  const char* name;
  const char* kinds;
};
constexpr Signature kSignatures[] = {
    {"__tvm_set_device", "Ti"},
    {"device_api.cpu", ""},
    {"device_api.webgpu", ""},
    {"ffi.Array", "x*"},
    {"ffi.Shape", "i*"},
    {"runtime.Device_StreamSync", "Di"},
    {"runtime.GetDeviceAttr", "Tii"},
    {"runtime.RuntimeEnabled", "n"},
    {"runtime.TVMSetStream", "Tix"},
    {"runtime.TVMTensorAllocWithScope", "sdDx"},
    {"runtime.TVMTensorCopyFromTo", "tt"},
    {"runtime.TVMTensorCreateView", "tsdi"},
    {"runtime.TVMTensorIsStorageShared", "tt"},
    {"testing.echo", "x"},
    {"testing.object_use_count", "x"},
    {"testing.test_raise_error", "nn"},
    {"tvmjs.array.decode_bf16_to_f32_inplace", "ti"},
    {"tvmjs.array.decode_storage", "tbFd"},
    {"tvmjs.runtime.ArrayConcat", "a*"},
    {"tvmjs.runtime.ConcatEmbeddings", "t*"},
    {"tvmjs.runtime.TensorCopyFromBytes", "tb"},
    {"tvmjs.runtime.TensorCopyToBytes", "t"},
    {"tvmjs.testing.add_one", "i"},
    {"tvmjs.testing.call", "cx*"},
    {"tvmjs.testing.log_info_str", "n"},
    {"tvmjs.testing.wrap_callback", "c"},
    {"vm.builtin.apply_presence_and_frequency_penalty", "tttff"},
    {"vm.builtin.apply_repetition_penalty", "ttf"},
    {"vm.builtin.apply_softmax_with_temperature", "tf"},
    {"vm.builtin.param_array_from_cache", "ni"},
    {"vm.builtin.param_array_from_cache_by_name", "a"},
    {"vm.builtin.param_array_from_cache_by_name_unpacked", "n*"},
    {"vm.builtin.param_module_from_cache", "ni"},
    {"vm.builtin.param_module_from_cache_by_name", "a"},
    {"vm.builtin.sample_top_p_from_logits", "tfff"},
    {"vm.builtin.sample_top_p_from_prob", "tff"},
    {"vm.builtin.tensor_cache.clear", ""},
    {"vm.builtin.tensor_cache.get", "n"},
    {"vm.builtin.tensor_cache.remove", "n"},
    {"vm.builtin.tensor_cache.update", "nti"},
};

constexpr const char* kNames[] = {"p", "p_0", "p_1",    "p_2",  "a name of many letters",
                                  "",  "cpu", "global", "x_-1", "webgpu"};
constexpr const char* kDtypes[] = {"float32",       "float32",   "float32", "int32",   "uint8",
                                   "float16",       "int4",      "bool",    "float64", "uint1",
                                   "float4_e2m1fn", "float32x4", "void",    "float33"};

// A DLTensor of the host's own, over as much memory as it says
struct HostTensor {
  std::vector<int64_t> shape, strides;
  std::vector<char> memory;
  DLTensor tensor;
};

class Program {
 public:
  explicit Program(Bytes input) : reader_(input) {
    gpu = {};
    gpu.character = byte();
    set_global("wasm.WebGPUDeviceAPI", gpu_functions);
    set_global("sluice.log", host_function);
  }

  ~Program() {
    pool_.clear();
    run(*find("vm.builtin.tensor_cache.clear"), {});
    pool_.clear();
    require(gpu.buffers.empty());
    TVMFFIErrorSetRaised(nullptr);
  }

  void run() {
    for (int steps = 0; steps < 200 && !at_end_; ++steps) step();
  }

 private:
  static std::span<const Builtin> all(size_t table) {
    switch (table) {
      case 0:
        return device_builtins();
      case 1:
        return tensor_builtins();
      case 2:
        return tensor_cache_builtins();
      case 3:
        return sampling_builtins();
      case 4:
        return testing_builtins();
      default:
        return ffi::container_builtins();
    }
  }

  static const Builtin* find(std::string_view name) {
    for (size_t table = 0; table < 6; ++table)
      for (const Builtin& builtin : all(table))
        if (name == builtin.name) return &builtin;
    std::abort();
  }

  static void set_global(std::string_view name, TVMFFISafeCallType call) {
    auto function = ffi::make_function(nullptr, call, nullptr);
    const TVMFFIByteArray bytes = {name.data(), name.size()};
    require(TVMFFIFunctionSetGlobal(&bytes, function.get(), 1) == 0);
  }

  uint8_t byte() {
    const auto value = reader_.read<uint8_t>();
    at_end_ = at_end_ || !value;
    return value.value_or(0);
  }
  int64_t integer() {
    const uint8_t kind = byte();
    if (kind < 200) return kind % 20 - 1;  // most extents, offsets and counts are small
    if (kind < 220) return static_cast<int8_t>(byte());
    if (kind < 230) return INT64_MAX - byte();
    if (kind < 240) return INT64_MIN + byte();
    return reader_.read<int64_t>().value_or(0);
  }
  double number() {
    switch (byte() % 8) {
      case 0:
        return reader_.read<double>().value_or(0);
      case 1:
        return static_cast<double>(integer());
      default:
        return byte() / 128.0;
    }
  }
  DLDevice device() {
    const uint8_t kind = byte();
    if (kind < 140) return kCpu;
    if (kind < 240) return {kDLWebGPU, 0};
    return {static_cast<DLDeviceType>(integer()), static_cast<int32_t>(integer())};
  }
  const std::string& content() {
    const auto bytes = reader_.take(byte() % 80);
    texts_.push_back(std::make_unique<std::string>(bytes ? as_text(*bytes) : ""));
    return *texts_.back();
  }
  static TVMFFIAny raw(const char* text) {
    TVMFFIAny out = {.type_index = kTVMFFIRawStr};
    out.v_c_str = text;
    return out;
  }

  // A pool value of this type, or none
  TVMFFIAny pooled(int32_t type_index) {
    const size_t start = byte();
    for (size_t i = 0; i < pool_.size(); ++i) {
      const TVMFFIAny& value = pool_[(start + i) % pool_.size()].view();
      if (value.type_index == type_index) return value;
    }
    return ffi::none();
  }

  TVMFFIAny host_tensor() {
    auto made = std::make_unique<HostTensor>();
    const int32_t ndim = byte() % 4;
    for (int32_t i = 0; i < ndim; ++i) made->shape.push_back(byte() % 6);
    DLDataType dtype = {byte(), byte(), byte()};
    const uint8_t flags = byte();
    if ((flags & 1) == 0) dtype = kFloat32;
    if ((flags & 2) == 0) dtype = kInt32;
    if ((flags & 4) != 0)
      for (int32_t i = 0; i < ndim; ++i) made->strides.push_back(byte() % 6);
    uint64_t nbytes = 0;
    if (!shape_bytes(made->shape, dtype, "fuzz", &nbytes)) {
      TVMFFIErrorSetRaised(nullptr);
      nbytes = 0;  // refused wherever it is passed, so no memory is touched
    }
    const uint64_t offset = byte() % 20;
    made->memory.resize(static_cast<size_t>(nbytes + offset) + 1);
    made->tensor = {.data = made->memory.data(),
                    .device = kCpu,
                    .ndim = ndim,
                    .dtype = dtype,
                    .shape = made->shape.data(),
                    .strides = made->strides.empty() ? nullptr : made->strides.data(),
                    .byte_offset = offset};
    switch (flags >> 4) {
      case 1:
        made->tensor.data = nullptr;
        break;
      case 2:
        made->tensor.shape = nullptr;
        break;
      case 3:
        made->tensor.ndim = -1 - static_cast<int32_t>(byte());
        break;
      case 4:
        if (!made->shape.empty()) made->shape[0] = -1 - byte();
        break;
      case 5:
      case 6:  // a buffer, where it is one, with any offset
        made->tensor.device = {kDLWebGPU, 0};
        made->tensor.data = reinterpret_cast<void*>(static_cast<uintptr_t>(byte()));
        made->tensor.byte_offset = static_cast<uint64_t>(integer());
        break;
      case 7:
        made->tensor.device = {static_cast<DLDeviceType>(2 + byte() % 12), 0};
        break;
      default:
        break;
    }
    TVMFFIAny out = {.type_index = kTVMFFIDLTensorPtr};
    out.v_ptr = &made->tensor;
    hosts_.push_back(std::move(made));
    return out;
  }

  TVMFFIAny anything() {
    TVMFFIAny out{};
    switch (byte() % 14) {
      case 0:
        return ffi::of_int(integer());
      case 1:
        return ffi::of_bool(byte() % 2 != 0);
      case 2:
        out.type_index = kTVMFFIFloat;
        out.v_float64 = number();
        return out;
      case 3:
        out.type_index = kTVMFFIDataType;
        out.v_dtype = {byte(), byte(), static_cast<uint16_t>(integer())};
        return out;
      case 4:
        out.type_index = kTVMFFIDevice;
        out.v_device = device();
        return out;
      case 5:
        return raw(byte() == 0 ? nullptr : content().c_str());
      case 6:
        return argument('b');
      case 7:
        out.type_index = byte() % 2 == 0 ? kTVMFFISmallStr : kTVMFFISmallBytes;
        out.small_str_len = byte() % 10;
        for (char& c : out.v_bytes) c = static_cast<char>(byte());
        return out;
      case 8:
        return host_tensor();
      case 9:
        out.type_index = kTVMFFIOpaquePtr;
        out.v_ptr = reinterpret_cast<void*>(static_cast<uintptr_t>(byte()));
        return out;
      case 10:
        return argument('n');
      case 11:
        return ffi::none();
      default:
        return pool_.empty() ? ffi::none() : pool_[byte() % pool_.size()].view();
    }
  }

  TVMFFIAny argument(char kind) {
    TVMFFIAny out{};
    switch (kind) {
      case 't':
        return byte() % 6 == 0 ? host_tensor() : pooled(kTVMFFITensor);
      case 's': {
        int64_t* elements = nullptr;
        const size_t size = byte() % 5;
        auto shape = ffi::make_shape(size, &elements);
        for (size_t i = 0; i < size; ++i) elements[i] = integer();
        kept_.push_back(Any::adopt(ffi::of_object(std::move(shape))));
        return kept_.back().view();
      }
      case 'd':
        return raw(kDtypes[byte() % std::size(kDtypes)]);
      case 'D':
        out.type_index = kTVMFFIDevice;
        out.v_device = device();
        return out;
      case 'T':
        return ffi::of_int(static_cast<int64_t>(device().device_type));
      case 'i':
        return ffi::of_int(integer());
      case 'f':
        out.type_index = kTVMFFIFloat;
        out.v_float64 = number();
        return out;
      case 'F':
        return raw(byte() % 2 == 0 ? "f32-to-bf16" : "raw");
      case 'n':
        return raw(kNames[byte() % std::size(kNames)]);
      case 'b': {
        const std::string& held = content();
        arrays_.push_back(std::make_unique<TVMFFIByteArray>(
            TVMFFIByteArray{held.empty() ? nullptr : held.data(), held.size()}));
        out.type_index = kTVMFFIByteArrayPtr;
        out.v_ptr = arrays_.back().get();
        return out;
      }
      case 'a':
        return pooled(kTVMFFIArray);
      case 'c':
        return pooled(kTVMFFIFunction);
      default:
        return anything();
    }
  }

  std::vector<TVMFFIAny> arguments(std::string_view name) {
    std::vector<TVMFFIAny> out;
    const char* kinds = "x*";
    for (const Signature& signature : kSignatures)
      if (name == signature.name) kinds = signature.kinds;
    if (byte() % 16 == 0) kinds = "x*";
    for (; *kinds != 0; ++kinds) {
      size_t times = kinds[1] == '*' ? byte() % 6u : 1;
      for (; times > 0; --times) out.push_back(byte() % 16 == 0 ? anything() : argument(*kinds));
      if (kinds[1] == '*') ++kinds;
    }
    return out;
  }

  void keep(TVMFFIAny owned) {
    if (ffi::is_object(owned.type_index))
      require(owned.v_obj != nullptr && owned.v_obj->type_index == owned.type_index &&
              ffi::strong_count(owned.v_obj) > 0);
    // Arrays of arrays grow by powers
    if (owned.type_index == kTVMFFIArray &&
        reinterpret_cast<ffi::ArrayObject*>(owned.v_obj)->cell.size > 1000) {
      ffi::release(owned.v_obj);
    } else if (pool_.size() < 40) {
      pool_.push_back(Any::adopt(owned));
    } else {
      pool_[byte() % 40] = Any::adopt(owned);
    }
  }

  // A call either succeeded, or raised an error, which is fetched
  bool check(int status) {
    if (status == 0) return true;
    TVMFFIObjectHandle error = nullptr;
    TVMFFIErrorMoveFromRaised(&error);
    require(error != nullptr);
    ffi::release(static_cast<TVMFFIObject*>(error));
    return false;
  }

  void run(const Builtin& builtin, std::vector<TVMFFIAny> args) {
    TVMFFIAny result{};
    const void* handle = &builtin;
    if (check(builtin.call(const_cast<void*>(handle), args.data(),
                           static_cast<int32_t>(args.size()), &result)))
      keep(result);
  }

  // Memory from malloc that a tensor takes over, or does not
  void take_over() {
    std::vector<TVMFFIAny> args = {ffi::none(), argument('s'), argument('d'), argument('D')};
    if (args[3].v_device.device_type != kDLCPU) {
      args[0] = ffi::of_int(integer());
      run(*find("sluice.runtime.TensorFromHandle"), args);
      return;
    }
    void* memory = std::malloc(4096);
    args[0].type_index = kTVMFFIOpaquePtr;
    args[0].v_ptr = memory;
    const auto& cell = reinterpret_cast<ffi::ShapeObject*>(args[1].v_obj)->cell;
    const TVMFFIByteArray name = {args[2].v_c_str, std::strlen(args[2].v_c_str)};
    DLDataType dtype{};
    uint64_t nbytes = 0;
    const bool fits = TVMFFIDataTypeFromString(&name, &dtype) == 0 &&
                      shape_bytes({cell.data, cell.size}, dtype, "fuzz", &nbytes) && nbytes <= 4096;
    TVMFFIErrorSetRaised(nullptr);
    if (!fits && nbytes > 4096) {  // such a tensor would read behind the memory
      std::free(memory);
      return;
    }
    TVMFFIAny result{};
    const Builtin* builtin = find("sluice.runtime.TensorFromHandle");
    if (check(builtin->call(const_cast<Builtin*>(builtin), args.data(), 4, &result))) {
      keep(result);
    } else {
      std::free(memory);
    }
  }

  void module_step() {
    const TVMFFIAny module = pooled(kTVMFFIModule);
    if (module.type_index != kTVMFFIModule) return;
    Any function;
    if (check(ffi::get_function(reinterpret_cast<ffi::ModuleObject*>(module.v_obj),
                                byte() % 4 == 0 ? "other" : "get_params", true, &function)))
      keep(function.take());
  }

  void step() {
    const uint8_t which = byte();
    if (which == 255) {
      take_over();
    } else if (which == 254) {
      module_step();
    } else if (which == 253) {
      keep(ffi::of_object(ffi::make_function(nullptr, host_function, nullptr)));
    } else if (which >= 250) {
      if (!pool_.empty())
        pool_.erase(pool_.begin() + byte() % static_cast<ptrdiff_t>(pool_.size()));
    } else {
      // Tensors come first, since most functions take them
      const auto builtins = which < 100 ? all(1) : all(which % 6);
      const Builtin& builtin = builtins[byte() % builtins.size()];
      if (std::string_view(builtin.name) == "sluice.runtime.TensorFromHandle") {
        take_over();
      } else {
        run(builtin, arguments(builtin.name));
      }
    }
    kept_.clear();
    texts_.clear();
    arrays_.clear();
  }

  ByteReader reader_;
  bool at_end_ = false;
  std::vector<std::unique_ptr<HostTensor>> hosts_;  // bare DLTensors come back as they are
  std::vector<Any> pool_;
  // What the arguments of one step refer to
  std::vector<Any> kept_;
  std::vector<std::unique_ptr<std::string>> texts_;
  std::vector<std::unique_ptr<TVMFFIByteArray>> arrays_;
};

}  // namespace
}  // namespace sluice::runtime

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  sluice::runtime::initialize();
  sluice::runtime::Program program({reinterpret_cast<const std::byte*>(data), size});
  program.run();
  return 0;
}
