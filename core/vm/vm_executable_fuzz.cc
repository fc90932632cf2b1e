// Any bytes are an executable that runs to its end or fails with a raised error, or none; and own
// nothing at the end.
//
// Every bytecode function is called, with tensors and numbers. Packed functions are the VM's own
// builtins; any other name is a kernel that returns what it is given.
#include <cstdlib>
#include <string_view>

#include "core/base/bytes.h"
#include "core/ffi/module.h"
#include "core/runtime/tensor.h"
#include "core/vm/virtual_machine.h"
#include "core/vm/vm.h"

namespace sluice::vm {
namespace {

using ffi::Any;

void require(bool condition) {
  if (!condition) std::abort();
}

void drop_error() {
  TVMFFIObjectHandle error = nullptr;
  TVMFFIErrorMoveFromRaised(&error);
  require(error != nullptr);
  (void)TVMFFIObjectDecRef(error);
}

// Its first argument; an error without any
int kernel(void*, const TVMFFIAny* args, int32_t count, TVMFFIAny* result) {
  return count == 0 ? ffi::raise_value("a kernel without arguments") : ffi::own(args[0], result);
}

// Whether the name is of a builtin that touches nothing but its arguments and the VM
bool is_contained(std::string_view name) {
  if (name == "vm.builtin.invoke_debug_func" || name == "vm.builtin.memory_manager.clear")
    return false;
  for (const auto builtins : {shape_builtins(), tensor_builtins(), call_builtins()})
    for (const ffi::Builtin& each : builtins)
      if (name == each.name) return true;
  return false;
}

int get_kernel(ffi::ModuleObject*, std::string_view name, TVMFFIAny* out) {
  *out = ffi::none();
  if (is_contained(name)) return 0;
  auto function = ffi::make_function(nullptr, kernel, nullptr);
  require(static_cast<bool>(function));
  *out = ffi::of_object(std::move(function));
  return 0;
}

constexpr ffi::ModuleKind kLibrary = {.name = "library",
                                      .property_mask = 0,
                                      .get_function = get_kernel,
                                      .get_metadata = nullptr,
                                      .get_doc = nullptr,
                                      .destroy = nullptr};

constexpr uint64_t kMemory = 1 << 16, kCalls = 300;

void run(ffi::ModuleObject* executable, std::span<Allocator* const> allocators) {
  const auto module = make_machine(executable);
  require(static_cast<bool>(module));
  VirtualMachine& machine = *machine_of(module.get());
  if (machine.initialize(allocators) != 0) return drop_error();
  const int64_t shape[] = {2, 3};
  const auto tensor = runtime::empty(shape, runtime::kFloat32, runtime::kCpu, "fuzz");
  require(static_cast<bool>(tensor));
  std::memset(tensor->tensor.data, 0, 24);
  for (const Function& function : machine.executable().functions) {
    if (function.kind == FunctionKind::packed || function.arguments > 8) continue;
    std::vector<TVMFFIAny> args;
    for (uint32_t i = 0; i < function.arguments; ++i)
      args.push_back(i % 2 == 0 ? ffi::of_object(&tensor->header) : ffi::of_int(i));
    machine.set_call_limit(kCalls);
    Any closure, result;
    require(machine.find_closure(function.name, &closure) == 0);
    if (machine.invoke(closure.view(), args, &result) != 0) drop_error();
  }
}

}  // namespace
}  // namespace sluice::vm

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace sluice;      // NOLINT(google-build-using-namespace)
  using namespace sluice::vm;  // NOLINT(google-build-using-namespace)
  static const auto library = [] {
    initialize();
    return ffi::make_module(kLibrary, 0);
  }();
  // Memory goes back at once, so that the sanitizer sees a use behind its end
  Allocator* allocator = Allocator::get(runtime::kCpu, 1, "fuzz");
  require(allocator != nullptr);
  allocator->set_limit(kMemory);
  {
    const auto executable = make_executable_module({reinterpret_cast<const char*>(data), size});
    if (!executable) {
      drop_error();
      return 0;
    }
    require(ffi::import_module(executable.get(), library.get()) == 0);
    run(executable.get(), {&allocator, 1});
  }
  require(allocator->held_bytes() == 0);
  return 0;
}
