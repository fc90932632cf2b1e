#include "core/rpc/rpc.h"

#include <memory>
#include <new>

#include "core/rpc/server.h"
#include "core/rpc/session.h"
#include "core/runtime/runtime.h"

namespace sluice::rpc {
namespace {

using ffi::Any;
using ffi::Args;
using ffi::FunctionObject;
using ffi::Ref;

constexpr int64_t kMaySend = 2;

int handle_bytes(void* self, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  static constexpr ffi::Builtin kBuiltin = {"rpc.CreateEventDrivenServer()", nullptr};
  const Args args(&kBuiltin, values, count);
  std::string_view bytes;
  int64_t flags = 0;
  *result = ffi::none();
  if (!args.expect(2) || !args.bytes(0, &bytes) || !args.integer(1, &flags)) return -1;
  // The call may drop the handler
  const auto server = *static_cast<std::shared_ptr<Server>*>(self);
  Status status = Status::reading;
  if (server->handle(as_bytes(bytes), (flags & kMaySend) != 0, &status) != 0) return -1;
  *result = ffi::of_int(static_cast<int64_t>(status));
  return 0;
}

int create_server(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  std::string_view name;
  std::string_view remote_key;
  if (!args.expect(3)) return -1;
  auto* send = args.object<FunctionObject>(0, kTVMFFIFunction);
  if (send == nullptr || !args.string(1, &name) || !args.string(2, &remote_key)) return -1;
  auto* server = new (std::nothrow) std::shared_ptr<Server>(
      std::make_shared<Server>(Ref<FunctionObject>::share(send), name, remote_key));
  if (server == nullptr) return ffi::raise_no_memory();
  auto handler = ffi::make_function(
      server, handle_bytes, [](void* self) { delete static_cast<std::shared_ptr<Server>*>(self); });
  if (!handler) return -1;
  *result = ffi::of_object(std::move(handler));
  return 0;
}

int local_session(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  if (!Args(handle, values, count).expect(0)) return -1;
  auto module = make_session_module();
  if (!module) return -1;
  *result = ffi::of_object(std::move(module));
  return 0;
}

int transfer_bytes(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  if (!Args(handle, values, count).expect(0)) return -1;
  *result = ffi::of_int(kTransferBytes);
  return 0;
}

// Another name for a function that is there
template <const char* const& name>
int call_other(void*, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const auto function = ffi::find_function(name);
  if (!function) return ffi::raise_value(concat("there is no global function ", quote(name)));
  Any out;
  if (ffi::call(function.get(), {values, static_cast<size_t>(count)}, &out) != 0) return -1;
  *result = out.take();
  return 0;
}

constexpr const char* kGetFunction = "ffi.ModuleGetFunction";
constexpr const char* kImportModule = "ffi.ModuleImportModule";

constexpr ffi::Builtin kBuiltins[] = {
    {"rpc.CreateEventDrivenServer", create_server},
    {"rpc.LocalSession", local_session},
    {"wasm.LocalSession", local_session},
    {"tvm.rpc.server.GetCRTMaxPacketSize", transfer_bytes},
    {"tvm.rpc.server.ImportModule", call_other<kImportModule>},
    {"tvm.rpc.server.ModuleGetFunction", call_other<kGetFunction>},
};

}  // namespace

void initialize() {
  runtime::initialize();
  runtime::register_missing(kBuiltins);
}

}  // namespace sluice::rpc
