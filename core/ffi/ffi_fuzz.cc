// Any sequence of calls of the ABI's entry points and of the builtins, with any arguments that a
// binding could pass, ends with a result or a raised error, and owns nothing at the end.
//
// The input is a program: each step is a byte that chooses a call, and the bytes that its arguments
// read. A pool holds what calls gave back, so that later steps use it.
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "core/base/bytes.h"
#include "core/ffi/module.h"
#include "core/ffi/registry.h"

namespace sluice::ffi {
namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

int echo(void*, const TVMFFIAny* args, int32_t num_args, TVMFFIAny* result) {
  if (num_args == 0) return 1;  // fails and raises nothing
  return own(args[0], result);
}

constexpr ModuleKind kModuleKind = {
    .name = "fuzz",
    .property_mask = 0,
    .get_function =
        [](ModuleObject*, std::string_view name, TVMFFIAny* out) {
          *out = none();
          return name == "broken" ? raise_value("broken") : 0;
        },
    .get_metadata = nullptr,
    .get_doc = nullptr,
    .destroy = nullptr,
};

int load_module(void*, const TVMFFIAny*, int32_t, TVMFFIAny* result) {
  *result = of_object(make_module(kModuleKind, 0));
  return 0;
}

constexpr int kNames = 8;  // of global functions: a program removes them all at its end

// A tensor source that is freed by its deleter
struct Source {
  DLManagedTensorVersioned versioned{};
  DLManagedTensor plain{};
  std::vector<int64_t> shape, strides;
  char memory[8];
};

class Program {
 public:
  explicit Program(Bytes input) : reader_(input) {
    static constexpr Builtin kLoader[] = {{"ffi.Module.load_from_bytes.m", load_module}};
    if (!find_function(kLoader[0].name)) require(register_functions(kLoader) == 0);
  }

  ~Program() {
    pool_.clear();
    for (int i = 0; i < kNames; ++i) call_builtin_on_name("ffi.FunctionRemoveGlobal", i);
    TVMFFIErrorSetRaised(nullptr);
    TVMFFIEnvSetDLPackManagedTensorAllocator(nullptr, 1, nullptr);
  }

  void run() {
    // A step costs a byte at least; more than these are slow and show nothing new
    for (int steps = 0; steps < 256 && !at_end_; ++steps) step();
  }

 private:
  uint8_t byte() {
    const auto value = reader_.read<uint8_t>();
    at_end_ = at_end_ || !value;
    return value.value_or(0);
  }
  // Small ones mostly, and the edges
  int64_t integer() {
    switch (byte() % 8) {
      case 0:
        return reader_.read<int64_t>().value_or(0);
      case 1:
        return INT64_MIN + byte();
      case 2:
        return INT64_MAX - byte();
      case 3:
        return INT32_MAX - byte() + int64_t{byte()};
      default:
        return static_cast<int8_t>(byte());
    }
  }
  // Lives as long as the program
  const std::string& content() {
    const auto bytes = reader_.take(byte() % 64);
    texts_.push_back(std::make_unique<std::string>(bytes ? as_text(*bytes) : ""));
    return *texts_.back();
  }
  TVMFFIByteArray* byte_array() {
    arrays_.push_back(std::make_unique<TVMFFIByteArray>());
    const uint8_t kind = byte();
    if (kind == 0) return nullptr;
    if (kind < 3) {
      *arrays_.back() = {nullptr, kind - 1u};
    } else {
      const std::string& held = content();
      *arrays_.back() = {held.data(), held.size()};
    }
    return arrays_.back().get();
  }
  // An object of the pool, or null
  TVMFFIObject* object() {
    const uint8_t index = byte();
    if (pool_.empty() || index == 255) return nullptr;
    const TVMFFIAny& value = pool_[index % pool_.size()].view();
    return is_object(value.type_index) ? value.v_obj : nullptr;
  }

  TVMFFIAny view() {
    TVMFFIAny out{};
    const uint8_t kind = byte();
    out.zero_padding = kind % 16 == 15 ? byte() : 0;
    out.type_index = kind % 16;
    switch (kind % 16) {
      case kTVMFFIInt:
      case kTVMFFIBool:
      case kTVMFFIDataType:
      case kTVMFFIDevice:
        out.v_int64 = integer();
        break;
      case kTVMFFIFloat:
        out.v_float64 = static_cast<double>(integer());
        break;
      case kTVMFFIOpaquePtr:
      case kTVMFFIDLTensorPtr:
        out.v_ptr = reinterpret_cast<void*>(static_cast<uintptr_t>(byte()));
        break;
      case kTVMFFIRawStr:
        out.v_c_str = byte() == 0 ? nullptr : content().c_str();
        break;
      case kTVMFFIByteArrayPtr:
        out.v_ptr = byte_array();
        break;
      case kTVMFFIObjectRValueRef: {
        if (byte() == 0) break;
        TVMFFIObject* taken = object();
        if (taken != nullptr) retain(taken);
        references_.push_back(std::make_unique<Reference>(taken));
        out.v_ptr = &references_.back()->object;
        break;
      }
      case kTVMFFISmallStr:
      case kTVMFFISmallBytes:
        out.small_str_len = byte() % 10;
        for (char& c : out.v_bytes) c = static_cast<char>(byte());
        break;
      case 14:  // an object that says what it is, or something else
        out.v_obj = object();
        out.type_index = out.v_obj == nullptr ? 64 + byte() % 80 : out.v_obj->type_index;
        if (byte() == 7) out.type_index = 64 + byte() % 20;
        break;
      case 15:  // a type index that may not be known
        out.type_index = static_cast<int32_t>(integer());
        if (is_object(out.type_index)) out.v_obj = nullptr;
        break;
      default:
        if (!pool_.empty()) out = pool_[byte() % pool_.size()].view();
    }
    return out;
  }

  void keep(TVMFFIAny owned) {
    // What is given back is a value that can be used
    if (is_object(owned.type_index)) {
      require(owned.v_obj != nullptr && owned.v_obj->type_index == owned.type_index);
      require(strong_count(owned.v_obj) > 0);
    } else {
      require(owned.type_index != kTVMFFIRawStr && owned.type_index != kTVMFFIByteArrayPtr);
    }
    if (pool_.size() < 32) {
      pool_.push_back(Any::adopt(owned));
    } else {
      pool_[byte() % 32] = Any::adopt(owned);
    }
  }
  void keep(TVMFFIObjectHandle handle) { keep(of_object(static_cast<TVMFFIObject*>(handle))); }

  // A call either succeeded or raised an error, which is fetched
  bool check(int status) {
    TVMFFIObjectHandle error = nullptr;
    if (status == 0) return true;
    require(has_raised());
    TVMFFIErrorMoveFromRaised(&error);
    require(error != nullptr && !has_raised());
    const auto& cell = reinterpret_cast<ErrorObject*>(error)->cell;
    require(cell.kind.data != nullptr && cell.message.data != nullptr);
    keep(error);
    return false;
  }

  void call_builtin(const Builtin& builtin, std::vector<TVMFFIAny> args) {
    TVMFFIAny result{};
    const void* handle = &builtin;
    if (check(builtin.call(const_cast<void*>(handle), args.data(),
                           static_cast<int32_t>(args.size()), &result)))
      keep(result);
  }

  static std::string fuzz_name(int i) { return concat("fuzz.", i); }

  static void call_builtin_on_name(std::string_view builtin, int i) {
    const std::string name = fuzz_name(i);
    TVMFFIAny arg{}, result{};
    arg.type_index = kTVMFFIRawStr;
    arg.v_c_str = name.c_str();
    for (const Builtin& each : function_builtins())
      if (each.name == builtin) each.call(const_cast<Builtin*>(&each), &arg, 1, &result);
  }

  std::vector<TVMFFIAny> views(size_t limit) {
    std::vector<TVMFFIAny> out;
    for (size_t count = byte() % (limit + 1); out.size() < count;) out.push_back(view());
    return out;
  }

  std::unique_ptr<Source> source() {
    auto made = std::make_unique<Source>();
    const int32_t ndim = byte() % 6;
    for (int32_t i = 0; i < ndim; ++i) made->shape.push_back(integer());
    const uint8_t flags = byte();
    if ((flags & 1) != 0)
      for (int32_t i = 0; i < ndim; ++i) made->strides.push_back(integer());
    const uint8_t device = byte();
    DLTensor& tensor = made->plain.dl_tensor;
    tensor = {.data = (flags & 2) != 0 ? nullptr : made->memory,
              .device = {static_cast<DLDeviceType>(device % 20), device / 20},
              .ndim = (flags & 4) != 0 ? static_cast<int32_t>(integer() >> 40) : ndim,
              .dtype = {byte(), byte(), reader_.read<uint16_t>().value_or(1)},
              .shape = (flags & 8) != 0 ? nullptr : made->shape.data(),
              .strides = (flags & 1) != 0 ? made->strides.data() : nullptr,
              .byte_offset = static_cast<uint64_t>(integer())};
    // A shape that says more dimensions than there are cannot be told from a good one
    if (tensor.ndim > ndim) tensor.ndim = ndim;
    made->versioned.dl_tensor = tensor;
    made->versioned.version = {(flags & 16) != 0 ? byte() : 1u, byte()};
    made->versioned.flags = byte();
    made->plain.manager_ctx = made->versioned.manager_ctx = made.get();
    made->plain.deleter = [](DLManagedTensor* self) {
      delete static_cast<Source*>(self->manager_ctx);
    };
    made->versioned.deleter = [](DLManagedTensorVersioned* self) {
      delete static_cast<Source*>(self->manager_ctx);
    };
    return made;
  }

  void tensor_step(uint8_t which) {
    TVMFFIObjectHandle out = nullptr;
    if (which == 0 || which == 1) {
      auto made = source();
      const auto alignment = static_cast<int32_t>(integer());
      const int32_t contiguous = byte() % 2;
      const int status =
          which == 0
              ? TVMFFITensorFromDLPack(&made->plain, alignment, contiguous, &out)
              : TVMFFITensorFromDLPackVersioned(&made->versioned, alignment, contiguous, &out);
      if (!check(status)) return;
      static_cast<void>(made.release());  // the tensor is its owner now
      keep(out);
    } else if (which == 2) {
      DLManagedTensor* made = nullptr;
      if (!check(TVMFFITensorToDLPack(object(), &made))) return;
      if (byte() % 2 == 0 || !check(TVMFFITensorFromDLPack(made, 0, 0, &out)))
        made->deleter(made);
      else
        keep(out);
    } else if (which == 3) {
      DLManagedTensorVersioned* made = nullptr;
      if (check(TVMFFITensorToDLPackVersioned(object(), &made))) made->deleter(made);
    } else {
      const auto made = source();
      if (check(TVMFFITensorCreateUnsafeView(object(), &made->plain.dl_tensor, &out))) keep(out);
    }
  }

  void error_step(uint8_t which) {
    if (which == 0) {
      const TVMFFIByteArray *kind = byte_array(), *message = byte_array(),
                            *backtrace = byte_array();
      TVMFFIObjectHandle out = nullptr;
      TVMFFIObject *cause = object(), *context = object();
      if (TVMFFIErrorCreateWithCauseAndExtraContext(kind, message, backtrace, cause, context,
                                                    &out) == 0)
        keep(out);
      require(!has_raised());
    } else if (which == 1) {
      TVMFFIErrorSetRaised(object());
      check(has_raised() ? -1 : 0);
    } else if (which == 2) {
      const char* parts[] = {content().c_str(), nullptr, content().c_str()};
      TVMFFIErrorSetRaisedFromCStrParts(content().c_str(), parts, byte() % 4);
      check(-1);
    } else {
      TVMFFIObject* error = object();
      if (error == nullptr || error->type_index != kTVMFFIError) return;
      const auto& cell = reinterpret_cast<ErrorObject*>(error)->cell;
      const TVMFFIByteArray own_text = cell.backtrace;
      // Doubling many times would only fill memory
      cell.update_backtrace(
          error, byte() % 2 == 0 && own_text.size < 4096 ? &own_text : byte_array(), byte() % 3);
    }
  }

  void type_step() {
    // Types stay for ever, so there are only so many
    const std::string key = concat("fuzz.T", byte());
    const TVMFFIByteArray name = {key.data(), key.size()};
    const auto parent = static_cast<int32_t>(byte() % 2 == 0 ? kTVMFFIObject : integer());
    const int32_t index =
        TVMFFITypeGetOrAllocIndex(&name, static_cast<int32_t>(integer()),
                                  static_cast<int32_t>(byte() % 4), byte() % 8, byte() % 2, parent);
    if (index == -1) check(-1);
    if (index >= 0) require(TVMFFIGetTypeInfo(index) != nullptr);
    int32_t found = -1;
    check(TVMFFITypeKeyToIndex(byte_array(), &found));
    const auto any_index = static_cast<int32_t>(integer());
    if (TVMFFIGetTypeInfo(any_index) == nullptr) check(-1);
  }

  void step() {
    const uint8_t which = byte();
    Any out;
    TVMFFIObjectHandle handle = nullptr;
    switch (which % 16) {
      case 0:
      case 1:
      case 2:
      case 3: {
        const uint8_t index = byte();
        const auto builtins = which % 16 == 0   ? function_builtins()
                              : which % 16 == 3 ? module_builtins()
                                                : container_builtins();
        call_builtin(builtins[index % builtins.size()], views(6));
        break;
      }
      case 4: {
        const TVMFFIAny value = view();
        TVMFFIAny place = value;
        if (check(TVMFFIAnyViewToOwnedAny(&place, &place))) keep(place);
        break;
      }
      case 5:
        if (check(TVMFFIStringFromByteArray(byte_array(), out.receive()))) keep(out.take());
        if (check(TVMFFIBytesFromByteArray(byte_array(), out.receive()))) keep(out.take());
        break;
      case 6: {
        if (!check(TVMFFIBigIntFromByteArray(byte_array(), out.receive()))) break;
        const TVMFFIByteArray words = TVMFFIBigIntGetContentByteArray(&out.view());
        require(words.data != nullptr && words.size % 8 == 0 && words.size != 0);
        keep(out.take());
        break;
      }
      case 7: {
        DLDataType dtype{}, again{};
        if (check(TVMFFIDataTypeFromString(byte_array(), &dtype)) &&
            check(TVMFFIDataTypeToString(&dtype, out.receive()))) {
          // The name of a dtype is read as that dtype, but that of a handle leaves its lanes out
          const std::string_view name = text(out.view());
          const TVMFFIByteArray bytes = {name.data(), name.size()};
          require(TVMFFIDataTypeFromString(&bytes, &again) == 0);
          require(dtype.code == kDLOpaqueHandle || std::memcmp(&dtype, &again, sizeof(dtype)) == 0);
        }
        dtype = {byte(), byte(), byte()};
        if (check(TVMFFIDataTypeToString(&dtype, out.receive()))) keep(out.take());
        break;
      }
      case 8:
        if (check(TVMFFIFunctionCreate(nullptr, byte() == 0 ? nullptr : echo, nullptr, &handle)))
          keep(handle);
        break;
      case 9: {
        auto args = views(4);
        const int32_t count = byte() == 9 ? -1 : static_cast<int32_t>(args.size());
        TVMFFIObject* function = object();
        if (check(TVMFFIFunctionCall(function, args.data(), count, out.receive())))
          keep(out.take());
        break;
      }
      case 10: {
        const std::string name = fuzz_name(byte() % kNames);
        const TVMFFIByteArray bytes = {name.data(), name.size()};
        TVMFFIObject* function = object();
        check(TVMFFIFunctionSetGlobal(byte() == 0 ? byte_array() : &bytes, function, byte() % 2));
        if (check(TVMFFIFunctionGetGlobal(&bytes, &handle)) && handle != nullptr) keep(handle);
        break;
      }
      case 11:
        tensor_step(byte() % 5);
        break;
      case 12:
        error_step(byte() % 4);
        break;
      case 13:
        type_step();
        break;
      case 14: {
        // The symbol is a function, whatever its name: names of data are not for strangers
        const std::string name = concat("__tvm_ffi_f", byte() % 8);
        check(TVMFFIEnvModRegisterSystemLibSymbol(name.c_str(), reinterpret_cast<void*>(&echo)));
        const std::string& wanted = content();
        TVMFFIObject* module = object();
        check(TVMFFIEnvModLookupFromImports(module, wanted.c_str(), &handle));
        break;
      }
      default: {
        const auto library = system_library("fuzz");
        require(static_cast<bool>(library));
        library->imports.clear();
        Ref<ModuleObject> root;
        const std::string tree = std::string(content()) + content() + content() + content();
        if (check(load_import_tree(tree, library.get(), &root))) keep(of_object(std::move(root)));
        library->imports.clear();
      }
    }
  }

  // What an rvalue reference points to, released where nobody took it
  struct Reference {
    explicit Reference(TVMFFIObject* taken) : object(taken) {}
    Reference(const Reference&) = delete;
    Reference& operator=(const Reference&) = delete;
    ~Reference() {
      if (object != nullptr) release(object);
    }
    TVMFFIObject* object;
  };

  ByteReader reader_;
  bool at_end_ = false;
  std::vector<std::unique_ptr<std::string>> texts_;
  std::vector<std::unique_ptr<TVMFFIByteArray>> arrays_;
  std::vector<std::unique_ptr<Reference>> references_;
  std::vector<Any> pool_;
};

}  // namespace
}  // namespace sluice::ffi

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  sluice::ffi::Program({reinterpret_cast<const std::byte*>(data), size}).run();
  return 0;
}
