// The VM: runs the functions of an executable on devices.
//
// Two modules are its doors: "relax.VMExecutable" (what ffi.Module.load_from_bytes.* makes of a
// compiled model; its function vm_load_executable makes a VM) and "relax.VirtualMachine".
// docs/vm.md lists their functions.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/ffi/module.h"
#include "core/ffi/object.h"
#include "core/ffi/ordered_map.h"
#include "core/vm/allocator.h"
#include "core/vm/closure.h"
#include "core/vm/executable.h"

namespace sluice::vm {

// Calls of bytecode functions that stand in each other at most, and their registers together.
inline constexpr size_t kMaxFrames = 4096;
inline constexpr size_t kMaxLiveRegisters = size_t{1} << 22;

// What compiled functions get as their registers, constants and functions; they see it only through
// the functions TVMBackendAnyList….
struct AnyList {
  ffi::Any* items;
  size_t size;
};

class VirtualMachine {
 public:
  // `module` is the executable's module, which is kept, and whose imports are searched for packed
  // and compiled functions.
  VirtualMachine(ffi::Ref<ffi::ModuleObject> module, const Executable* executable);
  VirtualMachine(const VirtualMachine&) = delete;
  VirtualMachine& operator=(const VirtualMachine&) = delete;
  ~VirtualMachine();

  // The VM behind the value that stands for it in calls, or null after raising a TypeError that
  // names `function`: also where it is gone.
  static VirtualMachine* of(const TVMFFIAny& value, std::string_view function);
  // That value.
  TVMFFIAny as_argument();

  // Copies the constants to the first device, and finds every function. The last device is the
  // host's, a CPU. To be called once. Raises and returns -1 where a function is missing or a device
  // has no memory; then it may be called again.
  [[nodiscard]] int initialize(std::span<Allocator* const> allocators);
  bool is_initialized() const { return !allocators_.empty(); }

  const Executable& executable() const { return *executable_; }
  // Those of the devices, in the order in which they were given.
  std::span<Allocator* const> allocators() const { return allocators_; }

  // Calls a function object or a closure. All calls raise and return -1 where they fail; an error
  // in a bytecode function names the function, the instruction and what it called.
  [[nodiscard]] int invoke(const TVMFFIAny& callee, std::span<const TVMFFIAny> args,
                           ffi::Any* result);
  // The closure of a bytecode or compiled function, or one that save() made; none where there is
  // none of the name. Raises and returns -1 where memory ends.
  [[nodiscard]] int find_closure(std::string_view name, ffi::Any* out);
  void set_instrument(ffi::Any function) { instrument_ = std::move(function); }
  // Calls of this many instructions are then errors; for tests that run any code.
  void set_call_limit(uint64_t calls) { calls_left_ = calls; }

  // A copy on the first device where the value is a tensor elsewhere, or an array with such; the
  // value itself otherwise.
  [[nodiscard]] int to_device(const TVMFFIAny& value, std::string_view function, ffi::Any* out);

  // What set_input, invoke_stateful and save_function keep, by name of the function
  ffi::OrderedMap inputs, outputs, saved;

 private:
  // A call of a bytecode function
  struct Frame {
    const Function* function = nullptr;
    uint32_t next = 0;              // instruction
    uint32_t result = kNoRegister;  // of the caller's frame
    std::vector<ffi::Any> registers;
    std::vector<TVMFFIAny> arguments;  // of the call that is being made
  };
  struct FunctionState;  // of the function of a closure

  static int call_closure(void* self, const TVMFFIAny* args, int32_t count, TVMFFIAny* result);
  int make_own_closure(uint32_t index, ffi::Any* out);
  int find_function(const Function& function, uint32_t index, ffi::Any* out, std::string* missing);
  [[nodiscard]] int run_function(uint32_t index, std::span<const TVMFFIAny> args, ffi::Any* result);
  int run_compiled(uint32_t index, std::span<const TVMFFIAny> args, ffi::Any* result);
  int call_compiled(uint32_t index, std::vector<ffi::Any>* own_registers,
                    std::span<const TVMFFIAny> args, ffi::Any* result);
  int check_room(const Function& function) const;
  int push_frame(const Function& function, std::span<const TVMFFIAny> args, uint32_t result);
  void pop_frame();
  int run(size_t base, ffi::Any* result);
  int call(Frame& frame, const Instruction& instruction, bool* entered);
  int call_instrumented(Frame& frame, const Instruction& instruction, ffi::Any* result);
  void gather(Frame& frame, const Instruction& instruction);
  void explain(size_t base);

  ffi::Ref<ffi::ModuleObject> module_;
  const Executable* executable_;
  uint64_t serial_;
  VirtualMachine* next_;  // of all that live

  std::vector<Allocator*> allocators_;
  std::vector<ffi::Any> constants_;  // on the first device
  std::vector<ffi::Any> functions_;  // a function or a closure, as in the executable
  std::vector<ffi::Any> compiled_;   // the functions behind the compiled ones
  ffi::Any instrument_;

  std::vector<std::unique_ptr<Frame>> frames_;  // the first depth_ are in use
  size_t depth_ = 0;
  size_t live_registers_ = 0;
  uint64_t calls_left_ = UINT64_MAX;
};

// A VM of an executable's module, as a module. Raises and returns null where it is no such module.
ffi::Ref<ffi::ModuleObject> make_machine(ffi::ModuleObject* executable);
// The VM of such a module, or null where it is another; for tests.
VirtualMachine* machine_of(ffi::ModuleObject* module);

// The module "relax.VMExecutable" of the bytes of an executable. Raises and returns null where they
// are none.
ffi::Ref<ffi::ModuleObject> make_executable_module(std::string_view bytes);

}  // namespace sluice::vm
