#include "core/rpc/session.h"

#include <memory>
#include <new>
#include <string>

#include "core/ffi/registry.h"
#include "core/runtime/device.h"
#include "core/runtime/tensor.h"

namespace sluice::rpc {
namespace {

using ffi::Any;
using ffi::FunctionObject;
using ffi::raise_value;
using ffi::Ref;
using ffi::TensorObject;

constexpr DLDataType kByte = {kDLUInt, 8, 1};

// By bits, as a pointer of this machine would be
TVMFFIAny key_of(uint64_t handle) { return ffi::of_int(static_cast<int64_t>(handle)); }

struct SessionModule {
  ffi::ModuleObject base;
  std::unique_ptr<Session> session;
};

int session_get_function(ffi::ModuleObject*, std::string_view name, TVMFFIAny* out) {
  *out = ffi::of_object(ffi::find_function(name));
  return 0;
}

constexpr ffi::ModuleKind kSession = {
    .name = "rpc",
    .property_mask = ffi::kModuleRunnable,
    .get_function = session_get_function,
    .get_metadata = nullptr,
    .get_doc = nullptr,
    .destroy =
        [](ffi::ModuleObject* module) {
          std::destroy_at(&reinterpret_cast<SessionModule*>(module)->session);
        },
};

}  // namespace

uint64_t Session::put(Any object, CallKind kind) {
  const uint64_t handle = next_ << 2 | static_cast<uint64_t>(kind);
  if (objects_.set(Any::adopt(key_of(handle)), std::move(object)) != 0) return 0;
  ++next_;
  return handle;
}

const TVMFFIAny* Session::find(uint64_t handle, std::string_view what) const {
  const TVMFFIAny* found = objects_.find(key_of(handle));
  if (found == nullptr)
    raise_value(concat("the handle ", handle, " is not one of ", what,
                       ": the session gave no such handle, or it was freed"));
  return found;
}

TVMFFIObject* Session::find(uint64_t handle, int32_t type_index, std::string_view what) const {
  const TVMFFIAny* found = find(handle, what);
  if (found == nullptr) return nullptr;
  if (found->type_index == type_index) return found->v_obj;
  raise_value(
      concat("the handle ", handle, " is one of ", ffi::type_key_of(*found), ", not of ", what));
  return nullptr;
}

int Session::free(uint64_t handle) {
  if (find(handle, "an object or memory") == nullptr) return -1;
  objects_.erase(key_of(handle));
  return 0;
}

int Session::get_function(std::string_view name, uint64_t* handle) {
  *handle = 0;
  auto kind = CallKind::plain;
  Ref<FunctionObject> function;
  if (name == "runtime.RPCTimeEvaluator") {
    function = time_evaluator_factory();
    kind = CallKind::gives_asynchronous;
    if (!function) return -1;
  } else if (!(function = ffi::find_function(name))) {
    function = ffi::find_function(concat("__async.", name));
    kind = CallKind::asynchronous;
    if (!function) return 0;
  }
  *handle = put(Any::adopt(ffi::of_object(std::move(function))), kind);
  return *handle == 0 ? -1 : 0;
}

uint64_t Session::allocate(DLDevice device, uint64_t nbytes) {
  if (nbytes > uint64_t{INT64_MAX}) {
    raise_value(concat("no memory of ", nbytes, " bytes on ", runtime::device_name(device)));
    return 0;
  }
  const int64_t shape[] = {static_cast<int64_t>(nbytes)};
  auto memory = runtime::empty(shape, kByte, device, "an allocation");
  return memory ? put(Any::adopt(ffi::of_object(std::move(memory)))) : 0;
}

Ref<TensorObject> Session::memory(const WireTensor& wire, std::string_view function) const {
  TVMFFIObject* object = find(wire.handle, kTVMFFITensor, "a tensor's memory");
  if (object == nullptr) return {};
  auto memory = Ref<TensorObject>::share(reinterpret_cast<TensorObject*>(object));
  if (runtime::same_device(memory->tensor.device, wire.device)) return memory;
  raise_value(concat(function, ": a tensor on ", runtime::device_name(wire.device),
                     " whose memory is on ", runtime::device_name(memory->tensor.device)));
  return {};
}

Ref<TensorObject> Session::tensor(const WireTensor& wire, std::string_view function) const {
  if (wire.handle == 0) {
    // No memory, and none is needed
    uint64_t nbytes = 0;
    if (!runtime::shape_bytes(wire.shape, wire.dtype, function, &nbytes)) return {};
    if (nbytes == 0) return runtime::empty(wire.shape, wire.dtype, wire.device, function);
    raise_value(concat(function, ": a tensor of ", nbytes, " bytes without memory"));
    return {};
  }
  auto from = memory(wire, function);
  if (!from) return {};
  return runtime::view(from.get(), wire.shape, wire.dtype, wire.byte_offset, function);
}

Ref<TensorObject> Session::bytes(const WireTensor& wire, uint64_t nbytes,
                                 std::string_view function) const {
  if (nbytes > uint64_t{INT64_MAX}) {
    raise_value(concat(function, ": ", nbytes, " bytes of a tensor"));
    return {};
  }
  WireTensor all = {.handle = wire.handle,
                    .device = wire.device,
                    .dtype = kByte,
                    .shape = {static_cast<int64_t>(nbytes)},
                    .byte_offset = wire.byte_offset};
  return tensor(all, function);
}

int Session::remember_pointer(const TVMFFIAny& pointer) {
  if (pointer.v_ptr == nullptr) return 0;
  return pointers_.set(Any::adopt(pointer), Any());
}

bool Session::knows_pointer(const TVMFFIAny& pointer) const {
  return pointer.v_ptr == nullptr || pointers_.find(pointer) != nullptr;
}

bool Session::read_value(PacketReader* reader, Any* kept, TVMFFIAny* view) const {
  int32_t type = 0;
  if (!reader->type(&type)) return false;
  uint64_t handle = 0;
  switch (type) {
    case kTVMFFINone:
    case kTVMFFIBool:
    case kTVMFFIInt:
    case kTVMFFIFloat:
    case kTVMFFIDataType:
    case kTVMFFIDevice:
      return reader->scalar(type, view);
    case kTVMFFIOpaquePtr: {
      if (!reader->u64(&handle, "a pointer")) return false;
      *view = {.type_index = type};
      view->v_int64 = 0;
      view->v_ptr = reinterpret_cast<void*>(static_cast<uintptr_t>(handle));
      if (handle <= UINTPTR_MAX && knows_pointer(*view)) return true;
      raise_value(concat("the pointer ", handle, " is none that this session gave"));
      return false;
    }
    case kTVMFFIFunction:
    case kTVMFFIModule: {
      if (!reader->u64(&handle, "a handle")) return false;
      TVMFFIObject* object = find(handle, type, type == kTVMFFIModule ? "a module" : "a function");
      if (object == nullptr) return false;
      *view = ffi::of_object(object);
      *kept = Any::share(*view);
      return true;
    }
    case kTVMFFIDLTensorPtr: {
      WireTensor wire;
      if (!reader->tensor(&wire)) return false;
      auto made = tensor(wire, "an argument");
      if (!made) return false;
      *kept = Any::adopt(ffi::of_object(std::move(made)));
      *view = kept->view();
      return true;
    }
    case kTVMFFIRawStr:
    case kTVMFFIByteArrayPtr:
    case kTVMFFISmallStr:
    case kTVMFFISmallBytes:
    case kTVMFFIStr:
    case kTVMFFIBytes: {
      std::string_view content;
      bool is_bytes = false;
      if (!reader->string_of(type, &content, &is_bytes)) return false;
      if ((is_bytes ? ffi::make_bytes : ffi::make_string)(content, kept->receive()) != 0)
        return false;
      *view = kept->view();
      return true;
    }
    default: {
      Bytes inner;
      uint32_t inner_type = 0;
      if (type < kTVMFFIStaticObjectBegin) return reader->scalar(type, view);  // says what is wrong
      if (!reader->take(sizeof(inner_type), &inner, "an object's type")) return false;
      std::memcpy(&inner_type, inner.data(), sizeof(inner_type));
      if (inner_type != kRemoteObject)
        return reader->wrong(concat("an object of type ", inner_type, ", which cannot be sent"));
      if (!reader->u64(&handle, "a handle")) return false;
      const TVMFFIAny* found = find(handle, "an object");
      if (found == nullptr) return false;
      *kept = Any::share(*found);
      *view = kept->view();
      return true;
    }
  }
}

int Session::write_result(const Any& result, CallKind kind, Buffer* out) {
  const TVMFFIAny value = result.view();
  const int32_t type = value.type_index;
  const auto text = ffi::text(result.view());
  uint64_t handle = 0;
  if (type == kTVMFFITensor) {
    const DLTensor& tensor = reinterpret_cast<TensorObject*>(value.v_obj)->tensor;
    if (!ffi::is_contiguous(tensor))
      return raise_value(concat("the result ", runtime::describe(tensor),
                                " is not contiguous, and only whole rows after each other are "
                                "sent"));
  }
  if (ffi::is_object(type) && text.data() == nullptr) {
    handle = put(Any::share(value),
                 kind == CallKind::gives_asynchronous ? CallKind::asynchronous : CallKind::plain);
    if (handle == 0) return -1;
  } else if (type == kTVMFFIOpaquePtr) {
    if (remember_pointer(value) != 0) return -1;
  } else if (type == kTVMFFIDLTensorPtr) {
    return raise_value("the result is a bare DLTensor, which nobody would keep");
  }
  PacketWriter packet(out, Code::return_value);
  packet.count(type == kTVMFFITensor ? 3 : 2);
  packet.integer(type);
  if (type == kTVMFFITensor) {
    packet.tensor(reinterpret_cast<TensorObject*>(value.v_obj)->tensor, handle);
    packet.pointer(handle);
  } else if (handle != 0) {
    packet.pointer(handle);
  } else if (text.data() != nullptr) {
    if (type == kTVMFFIBytes || type == kTVMFFISmallBytes) {
      packet.bytes(text);
    } else {
      packet.string(text);
    }
  } else if (type == kTVMFFINone) {
    packet.none();
  } else {
    packet.scalar(value);
  }
  if (packet.finish()) return 0;
  if (handle != 0) (void)free(handle);
  return ffi::raise_no_memory();
}

Ref<ffi::ModuleObject> make_session_module() {
  auto module = ffi::make_module(kSession, sizeof(SessionModule));
  if (!module) return {};
  auto* made = reinterpret_cast<SessionModule*>(module.get());
  std::construct_at(&made->session, new (std::nothrow) Session);
  if (made->session == nullptr) {
    ffi::raise_no_memory();
    return {};
  }
  return module;
}

Session* session_of(const TVMFFIAny& module) {
  if (module.type_index != kTVMFFIModule) return nullptr;
  auto* object = reinterpret_cast<ffi::ModuleObject*>(module.v_obj);
  // One that tvm-ffi's headers made has another layout
  if (ffi::checked_module(object, "rpc", "a session") == nullptr) {
    TVMFFIErrorSetRaised(nullptr);
    return nullptr;
  }
  return object->kind == &kSession ? reinterpret_cast<SessionModule*>(object)->session.get()
                                   : nullptr;
}

}  // namespace sluice::rpc
