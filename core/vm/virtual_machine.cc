#include "core/vm/virtual_machine.h"

#include <algorithm>

#include "core/ffi/registry.h"
#include "core/runtime/tensor.h"

namespace sluice::vm {
namespace {

using ffi::Any;
using ffi::FunctionObject;
using ffi::of_object;
using ffi::raise;
using ffi::Ref;

// The VMs that live; their pointers go through values, where any number could stand
constinit VirtualMachine* machines = nullptr;
constinit uint64_t last_serial = 0;

TVMFFIAny opaque(void* pointer) {
  TVMFFIAny out{};
  out.type_index = kTVMFFIOpaquePtr;
  out.v_ptr = pointer;
  return out;
}

FunctionObject* as_function(const TVMFFIAny& value) {
  if (value.type_index != kTVMFFIFunction || value.v_obj == nullptr) return nullptr;
  return reinterpret_cast<FunctionObject*>(value.v_obj);
}

// Puts `more` behind the message of the raised error.
void add_to_raised(std::string_view more) {
  TVMFFIObjectHandle raised = nullptr;
  TVMFFIErrorMoveFromRaised(&raised);
  if (raised == nullptr) return;
  const auto error = Ref<ffi::ErrorObject>::adopt(static_cast<ffi::ErrorObject*>(raised));
  // Each of many nested calls would add to it
  constexpr size_t kLong = 1024;
  if (error->cell.message.size > kLong) return TVMFFIErrorSetRaised(raised);
  raise(ffi::text(error->cell.kind), concat(ffi::text(error->cell.message), more));
}

// A tensor's copy on the allocator's device, or the tensor itself where it is there
int tensor_to_device(ffi::TensorObject* tensor, Allocator* allocator, std::string_view function,
                     Any* out) {
  if (runtime::same_device(tensor->tensor.device, allocator->device())) {
    *out = Any::adopt(of_object(Ref<ffi::TensorObject>::share(tensor)));
    return 0;
  }
  const DLTensor& from = tensor->tensor;
  const std::span<const int64_t> shape(from.shape, static_cast<size_t>(from.ndim));
  uint64_t nbytes = 0;
  if (!ffi::tensor_bytes(from, function, &nbytes)) return -1;
  // WebGPU writes whole units of 4 bytes, so what is none gets a buffer that ends with it
  auto copied = nbytes % 4 == 0 ? allocator->empty(shape, from.dtype, function)
                                : runtime::empty(shape, from.dtype, allocator->device(), function);
  if (!copied || runtime::copy(tensor->tensor, copied->tensor, function) != 0) return -1;
  *out = Any::adopt(of_object(std::move(copied)));
  return 0;
}

// Arrays deeper than this are no arguments of models
constexpr int kMaxArrayDepth = 8;

int value_to_device(const TVMFFIAny& value, Allocator* allocator, std::string_view function,
                    int depth, Any* out) {
  if (value.type_index == kTVMFFITensor)
    return tensor_to_device(reinterpret_cast<ffi::TensorObject*>(value.v_obj), allocator, function,
                            out);
  if (value.type_index == kTVMFFIArray) {
    if (depth == kMaxArrayDepth)
      return ffi::raise_value(
          concat(function, ": arrays stand in each other more than ", kMaxArrayDepth, " deep"));
    const auto* array = reinterpret_cast<ffi::ArrayObject*>(value.v_obj);
    std::vector<Any> items(static_cast<size_t>(array->cell.size));
    std::vector<TVMFFIAny> views;
    for (size_t i = 0; i < items.size(); ++i) {
      if (value_to_device(array->items()[i], allocator, function, depth + 1, &items[i]) != 0)
        return -1;
      views.push_back(items[i].view());
    }
    auto copied = ffi::make_array(views.data(), views.size());
    if (!copied) return -1;
    *out = Any::adopt(of_object(std::move(copied)));
    return 0;
  }
  *out = Any::share(value);
  return 0;
}

}  // namespace

// A closure does not keep its VM, since the VM keeps its closures
struct VirtualMachine::FunctionState {
  VirtualMachine* machine;
  uint64_t serial;
  uint32_t index;
};

VirtualMachine::VirtualMachine(Ref<ffi::ModuleObject> module, const Executable* executable)
    : module_(std::move(module)),
      executable_(executable),
      serial_(++last_serial),
      next_(std::exchange(machines, this)) {}

VirtualMachine::~VirtualMachine() {
  VirtualMachine** at = &machines;
  while (*at != this) at = &(*at)->next_;
  *at = next_;
}

TVMFFIAny VirtualMachine::as_argument() { return opaque(this); }

VirtualMachine* VirtualMachine::of(const TVMFFIAny& value, std::string_view function) {
  if (value.type_index == kTVMFFIOpaquePtr)
    for (VirtualMachine* each = machines; each != nullptr; each = each->next_)
      if (each == value.v_ptr) return each;
  ffi::raise_type(concat(function, ": the first argument must be the VM that runs, not ",
                         ffi::type_key_of(value)));
  return nullptr;
}

int VirtualMachine::to_device(const TVMFFIAny& value, std::string_view function, Any* out) {
  Any owned;
  if (ffi::own(value, owned.receive()) != 0) return -1;
  if (owned.view().type_index != kTVMFFIDLTensorPtr)
    return value_to_device(owned.view(), allocators_[0], function, 0, out);
  // A tensor that the caller keeps is always copied
  const auto* tensor = static_cast<const DLTensor*>(owned.view().v_ptr);
  if (tensor == nullptr) return ffi::raise_null(function, "a tensor");
  uint64_t nbytes = 0;
  if (!ffi::tensor_bytes(*tensor, function, &nbytes)) return -1;
  auto copied = allocators_[0]->empty({tensor->shape, static_cast<size_t>(tensor->ndim)},
                                      tensor->dtype, function);
  if (!copied || runtime::copy(*tensor, copied->tensor, function) != 0) return -1;
  *out = Any::adopt(of_object(std::move(copied)));
  return 0;
}

// ---- Start ----

int VirtualMachine::make_own_closure(uint32_t index, Any* out) {
  auto state = std::make_unique<FunctionState>(FunctionState{this, serial_, index});
  auto function = ffi::make_function(state.release(), call_closure,
                                     [](void* self) { delete static_cast<FunctionState*>(self); });
  if (!function) return -1;
  auto closure = make_closure(executable_->functions[index].name, std::move(function));
  if (!closure) return -1;
  *out = Any::adopt(of_object(std::move(closure)));
  return 0;
}

int VirtualMachine::find_function(const Function& function, uint32_t index, Any* out,
                                  std::string* missing) {
  if (function.kind != FunctionKind::packed && make_own_closure(index, out) != 0) return -1;
  if (function.kind == FunctionKind::bytecode) return 0;
  const std::string name =
      function.kind == FunctionKind::compiled ? concat("__vmtir__", function.name) : function.name;
  Any found;
  for (const auto& import : module_->imports) {
    if (ffi::get_function(import.get(), name, true, &found) != 0) return -1;
    if (found.view().type_index != kTVMFFINone) break;
  }
  if (found.view().type_index == kTVMFFINone && function.kind == FunctionKind::packed)
    found = Any::adopt(of_object(ffi::find_function(name)));
  if (as_function(found.view()) == nullptr) *missing += concat(missing->empty() ? "" : ", ", name);
  (function.kind == FunctionKind::compiled ? compiled_[index] : *out) = std::move(found);
  return 0;
}

int VirtualMachine::initialize(std::span<Allocator* const> allocators) {
  constexpr std::string_view kName = "vm_initialization";
  if (is_initialized())
    return raise("RuntimeError", concat(kName, ": the VM is initialized already"));
  if (allocators.empty()) return ffi::raise_value(concat(kName, ": no device"));
  if (!runtime::is_cpu(allocators.back()->device()))
    return ffi::raise_value(concat(kName, ": the last device must be a CPU, not ",
                                   runtime::device_name(allocators.back()->device())));
  std::vector<Any> constants;
  for (size_t i = 0; i < executable_->constants.size(); ++i) {
    const std::string& scope = executable_->scopes[i];
    if (!scope.empty() && scope != "global")
      return ffi::raise_value(concat(kName, ": constant ", i, " is of the memory scope ",
                                     quote(scope), ", known is 'global'"));
    Any placed;
    if (value_to_device(executable_->constants[i].view(), allocators[0], kName, 0, &placed) != 0)
      return -1;
    constants.push_back(std::move(placed));
  }
  functions_.assign(executable_->functions.size(), Any());
  compiled_.assign(executable_->functions.size(), Any());
  std::string missing;
  for (uint32_t i = 0; i < executable_->functions.size(); ++i)
    if (find_function(executable_->functions[i], i, &functions_[i], &missing) != 0) return -1;
  if (!missing.empty())
    return raise("RuntimeError", concat(kName,
                                        ": the executable calls functions that are neither in "
                                        "its library nor registered: ",
                                        missing));
  constants_ = std::move(constants);
  allocators_.assign(allocators.begin(), allocators.end());
  return 0;
}

int VirtualMachine::find_closure(std::string_view name, Any* out) {
  *out = Any();
  if (const TVMFFIAny* known = saved.find(name)) {
    *out = Any::share(*known);
    return 0;
  }
  const Function* function = executable_->find(name);
  if (function == nullptr || function->kind == FunctionKind::packed) return 0;
  const size_t index = static_cast<size_t>(function - executable_->functions.data());
  if (index < functions_.size() && as_closure(functions_[index].view()) != nullptr) {
    *out = functions_[index];
    return 0;
  }
  // Before the start: the closure works once the VM is initialized
  return make_own_closure(static_cast<uint32_t>(index), out);
}

// ---- Calls ----

int VirtualMachine::call_closure(void* self, const TVMFFIAny* args, int32_t count,
                                 TVMFFIAny* result) {
  const auto& state = *static_cast<const FunctionState*>(self);
  if (count < 1) return ffi::raise_type("a closure of the VM is called without the VM");
  VirtualMachine* machine = of(args[0], "a closure of the VM");
  if (machine == nullptr) return -1;
  if (machine != state.machine || machine->serial_ != state.serial)
    return ffi::raise_value("a closure is called on another VM than that which made it");
  Any out;
  if (machine->run_function(state.index, {args + 1, static_cast<size_t>(count - 1)}, &out) != 0)
    return -1;
  *result = out.take();
  return 0;
}

int VirtualMachine::invoke(const TVMFFIAny& callee, std::span<const TVMFFIAny> args, Any* result) {
  if (FunctionObject* function = as_function(callee)) return ffi::call(function, args, result);
  const ClosureObject* closure = as_closure(callee);
  if (closure == nullptr)
    return ffi::raise_type(
        concat("the VM calls functions and closures, not ", ffi::type_key_of(callee)));
  // It may be released while it runs
  const Any kept = Any::share(callee);
  std::vector<TVMFFIAny> all = {as_argument()};
  all.insert(all.end(), args.begin(), args.end());
  for (const Any& each : closure->captured) all.push_back(each.view());
  return ffi::call(closure->function.get(), all, result);
}

int VirtualMachine::run_function(uint32_t index, std::span<const TVMFFIAny> args, Any* result) {
  const Function& function = executable_->functions[index];
  if (!is_initialized())
    return raise("RuntimeError", concat(function.name,
                                        ": the VM is not initialized; call "
                                        "vm_initialization first"));
  if (args.size() != function.arguments) {
    std::string names;
    for (const std::string& each : function.parameters)
      names += concat(names.empty() ? "" : ", ", each);
    return ffi::raise_type(concat(function.name, "(", names, ") takes ", function.arguments,
                                  " arguments, not ", args.size()));
  }
  const NestedCall nested(function.name);
  if (!nested) return -1;
  int status = 0;
  if (function.kind == FunctionKind::compiled) {
    status = run_compiled(index, args, result);
  } else {
    const size_t base = depth_;
    status = push_frame(function, args, kNoRegister);
    if (status == 0) status = run(base, result);
    if (status != 0) explain(base);
    while (depth_ > base) pop_frame();
  }
  return status;
}

int VirtualMachine::run_compiled(uint32_t index, std::span<const TVMFFIAny> args, Any* result) {
  const Function& function = executable_->functions[index];
  if (check_room(function) != 0) return -1;
  std::vector<Any> registers(function.registers);
  live_registers_ += function.registers;
  const int status = call_compiled(index, &registers, args, result);
  live_registers_ -= function.registers;
  return status;
}

int VirtualMachine::call_compiled(uint32_t index, std::vector<Any>* own_registers,
                                  std::span<const TVMFFIAny> args, Any* result) {
  const Function& function = executable_->functions[index];
  std::vector<Any>& registers = *own_registers;
  for (size_t i = 0; i < args.size(); ++i)
    if (ffi::own(args[i], registers[i].receive()) != 0) return -1;
  AnyList register_list = {registers.data(), registers.size()};
  AnyList constant_list = {constants_.data(), constants_.size()};
  AnyList function_list = {functions_.data(), functions_.size()};
  const TVMFFIAny lists[] = {as_argument(), opaque(&register_list), opaque(&constant_list),
                             opaque(&function_list)};
  Any nothing;
  if (ffi::call(as_function(compiled_[index].view()), lists, &nothing) != 0) {
    add_to_raised(concat(" (in ", quote(function.name), ")"));
    return -1;
  }
  // The result stands behind the arguments
  *result = std::move(registers[function.arguments]);
  return 0;
}

int VirtualMachine::check_room(const Function& function) const {
  if (depth_ < kMaxFrames && function.registers <= kMaxLiveRegisters - live_registers_) return 0;
  return raise("RecursionError", concat(function.name, ": ", depth_, " calls with ",
                                        live_registers_, " registers stand in each other; at most ",
                                        kMaxFrames, " and ", kMaxLiveRegisters, " may"));
}

int VirtualMachine::push_frame(const Function& function, std::span<const TVMFFIAny> args,
                               uint32_t result) {
  if (check_room(function) != 0) return -1;
  if (depth_ == frames_.size()) frames_.push_back(std::make_unique<Frame>());
  Frame& frame = *frames_[depth_++];
  frame.function = &function;
  frame.next = function.begin;
  frame.result = result;
  frame.registers.resize(function.registers);
  live_registers_ += function.registers;
  for (size_t i = 0; i < args.size(); ++i)
    if (ffi::own(args[i], frame.registers[i].receive()) != 0) return -1;
  return 0;
}

void VirtualMachine::pop_frame() {
  // What the registers hold may, at its end, call the VM, which then takes this frame
  std::vector<Any> ended;
  Frame& frame = *frames_[depth_ - 1];
  live_registers_ -= frame.registers.size();
  std::swap(ended, frame.registers);
  --depth_;
  ended.clear();
  // Keeps the memory, unless it is that of an unusual function
  constexpr size_t kUsual = 4096;
  if (frame.registers.capacity() == 0 && ended.capacity() <= kUsual)
    std::swap(ended, frame.registers);
}

void VirtualMachine::gather(Frame& frame, const Instruction& instruction) {
  frame.arguments.resize(instruction.argument_count);
  const Argument* from = executable_->arguments.data() + instruction.first_argument;
  for (uint32_t i = 0; i < instruction.argument_count; ++i) {
    TVMFFIAny& to = frame.arguments[i];
    const auto value = static_cast<size_t>(from[i].value);
    switch (from[i].kind) {
      case ArgumentKind::reg:
        to = frame.registers[value].view();
        break;
      case ArgumentKind::immediate:
        to = ffi::of_int(from[i].value);
        break;
      case ArgumentKind::constant:
        to = constants_[value].view();
        break;
      case ArgumentKind::function:
        to = functions_[value].view();
        break;
      case ArgumentKind::machine:
        to = as_argument();
        break;
      case ArgumentKind::none:
        to = ffi::none();
        break;
    }
  }
}

int VirtualMachine::call(Frame& frame, const Instruction& instruction, bool* entered) {
  if (calls_left_-- == 0) {
    calls_left_ = 0;
    return raise("RuntimeError", "the limit of calls is reached");
  }
  gather(frame, instruction);
  const Function& function = executable_->functions[instruction.function];
  *entered = false;
  Any result;
  int status = 0;
  if (instrument_.view().type_index != kTVMFFINone) {
    status = call_instrumented(frame, instruction, &result);
  } else if (function.kind == FunctionKind::bytecode) {
    *entered = true;
    return push_frame(function, frame.arguments, instruction.reg);
  } else {
    status = invoke(functions_[instruction.function].view(), frame.arguments, &result);
  }
  if (status != 0) return -1;
  if (instruction.reg != kNoRegister) frame.registers[instruction.reg] = std::move(result);
  ++frame.next;
  return 0;
}

// The instrument sees each call before and after it: (function, name, whether before, result,
// arguments…), and leaves it out by returning 1 before.
int VirtualMachine::call_instrumented(Frame& frame, const Instruction& instruction, Any* result) {
  const auto instrument = instrument_;
  const Function& function = executable_->functions[instruction.function];
  const Any callee = functions_[instruction.function];
  Any name, seen;
  if (ffi::make_string(function.name, name.receive()) != 0) return -1;
  std::vector<TVMFFIAny> shown = {callee.view(), name.view(), ffi::of_bool(true), ffi::none()};
  shown.insert(shown.end(), frame.arguments.begin(), frame.arguments.end());
  FunctionObject* show = as_function(instrument.view());
  if (ffi::call(show, shown, &seen) != 0) return -1;
  const TVMFFIAny& said = seen.view();
  if ((said.type_index == kTVMFFIInt || said.type_index == kTVMFFIBool) && said.v_int64 == 1)
    return 0;
  if (invoke(callee.view(), frame.arguments, result) != 0) return -1;
  shown[2] = ffi::of_bool(false);
  shown[3] = result->view();
  return ffi::call(show, shown, &seen);
}

// Runs the frames above `base`. Where it fails, they stay for explain().
int VirtualMachine::run(size_t base, Any* result) {
  for (;;) {
    Frame& frame = *frames_[depth_ - 1];
    const Instruction& instruction = executable_->instructions[frame.next];
    switch (instruction.opcode) {
      case Opcode::call: {
        bool entered = false;
        if (call(frame, instruction, &entered) != 0) return -1;
        break;
      }
      case Opcode::ret: {
        Any value;
        if (instruction.reg != kNoRegister) value = std::move(frame.registers[instruction.reg]);
        const uint32_t to = frame.result;
        pop_frame();
        if (depth_ == base) {
          *result = std::move(value);
          return 0;
        }
        Frame& caller = *frames_[depth_ - 1];
        if (to != kNoRegister) caller.registers[to] = std::move(value);
        ++caller.next;
        break;
      }
      case Opcode::jump:
        frame.next = instruction.target;
        break;
      case Opcode::branch: {
        const TVMFFIAny& condition = frame.registers[instruction.reg].view();
        if (condition.type_index != kTVMFFIInt && condition.type_index != kTVMFFIBool)
          return ffi::raise_type(
              concat("the condition must be an int or bool, not ", ffi::type_key_of(condition)));
        frame.next = condition.v_int64 != 0 ? frame.next + 1 : instruction.target;
        break;
      }
    }
  }
}

// Says where the raised error happened: in the innermost functions of those above `base`.
void VirtualMachine::explain(size_t base) {
  constexpr size_t kShown = 3;
  std::string where;
  for (size_t i = depth_, shown = 0; i > base && shown < kShown; --i, ++shown) {
    const Frame& frame = *frames_[i - 1];
    const Instruction& instruction = executable_->instructions[frame.next];
    where += concat(where.empty() ? " (in " : ", called by ", quote(frame.function->name),
                    ", instruction ", frame.next - frame.function->begin, ": ");
    // The text of a call names the callee first; constants and registers are the rest
    std::string text = to_text(*executable_, instruction);
    constexpr size_t kMaxText = 160;
    if (text.size() > kMaxText) text = concat(text.substr(0, kMaxText), "…");
    where += text;
  }
  if (depth_ - base > kShown) where += concat(", called by ", depth_ - base - kShown, " more");
  if (!where.empty()) add_to_raised(concat(where, ")"));
}

}  // namespace sluice::vm
