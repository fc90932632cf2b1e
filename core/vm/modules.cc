// The modules "relax.VMExecutable" and "relax.VirtualMachine": what their functions take and give
// is TVM's, as tvmjs's JS and relax's Python call them.
#include <memory>

#include "core/ffi/registry.h"
#include "core/vm/virtual_machine.h"
#include "core/vm/vm.h"

namespace sluice::vm {
namespace {

using ffi::Any;
using ffi::Args;
using ffi::ModuleObject;
using ffi::of_object;
using ffi::Ref;

struct ExecutableModule {
  ModuleObject base;
  std::unique_ptr<Executable> executable;
};

struct MachineModule {
  ModuleObject base;
  std::unique_ptr<VirtualMachine> machine;
};

// A function of a module, known by its name. `Module` is the module's struct.
template <class Module>
struct Method {
  std::string_view name;
  int (*call)(Module& module, const Args& args, TVMFFIAny* result);
};

template <class Module>
struct BoundMethod {
  ffi::Builtin named;  // for the name in messages
  Ref<ModuleObject> module;
  int (*call)(Module& module, const Args& args, TVMFFIAny* result);
};

template <class Module>
int call_method(void* self, const TVMFFIAny* args, int32_t count, TVMFFIAny* result) {
  auto* bound = static_cast<BoundMethod<Module>*>(self);
  *result = ffi::none();
  return bound->call(*reinterpret_cast<Module*>(bound->module.get()),
                     Args(&bound->named, args, count), result);
}

// The method of the name as a function that keeps the module; none where there is none.
template <class Module>
int find_method(std::span<const Method<Module>> methods, ModuleObject* module,
                std::string_view name, TVMFFIAny* out) {
  *out = ffi::none();
  for (const Method<Module>& method : methods) {
    if (method.name != name) continue;
    auto bound = std::make_unique<BoundMethod<Module>>(BoundMethod<Module>{
        // The names of the tables end with a 0
        {method.name.data(), nullptr},
        Ref<ModuleObject>::share(module),
        method.call});
    auto function = ffi::make_function(bound.release(), call_method<Module>, [](void* self) {
      delete static_cast<BoundMethod<Module>*>(self);
    });
    if (!function) return -1;
    *out = of_object(std::move(function));
    return 0;
  }
  return 0;
}

// ---- relax.VMExecutable ----

const Executable& executable_of(ExecutableModule& module) { return *module.executable; }

int executable_stats(ExecutableModule& module, const Args& args, TVMFFIAny* result) {
  return args.expect(0) ? ffi::make_string(statistics(executable_of(module)), result) : -1;
}

int executable_as_text(ExecutableModule& module, const Args& args, TVMFFIAny* result) {
  return args.expect(0) ? ffi::make_string(to_text(executable_of(module)), result) : -1;
}

int executable_has_function(ExecutableModule& module, const Args& args, TVMFFIAny* result) {
  std::string_view name;
  if (!args.expect(1) || !args.string(0, &name)) return -1;
  *result = ffi::of_bool(executable_of(module).find(name) != nullptr);
  return 0;
}

int load_machine(ExecutableModule& module, const Args& args, TVMFFIAny* result) {
  if (!args.expect(0)) return -1;
  auto machine = make_machine(&module.base);
  if (!machine) return -1;
  *result = of_object(std::move(machine));
  return 0;
}

constexpr Method<ExecutableModule> kExecutableMethods[] = {
    {"vm_load_executable", load_machine},
    {"has_function", executable_has_function},
    {"stats", executable_stats},
    {"as_text", executable_as_text},
};

constexpr ffi::ModuleKind kExecutable = {
    .name = "relax.VMExecutable",
    .property_mask = ffi::kModuleBinarySerializable,
    .get_function =
        [](ModuleObject* module, std::string_view name, TVMFFIAny* out) {
          return find_method<ExecutableModule>(kExecutableMethods, module, name, out);
        },
    .get_metadata = nullptr,
    .get_doc = nullptr,
    .destroy =
        [](ModuleObject* module) {
          std::destroy_at(&reinterpret_cast<ExecutableModule*>(module)->executable);
        },
};

int load_from_bytes(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  std::string_view bytes;
  if (!args.expect(1) || !args.bytes(0, &bytes)) return -1;
  auto module = make_executable_module(bytes);
  if (!module) return -1;
  *result = of_object(std::move(module));
  return 0;
}

constexpr ffi::Builtin kBuiltins[] = {
    {"ffi.Module.load_from_bytes.relax.VMExecutable", load_from_bytes},
};

// ---- relax.VirtualMachine ----

// The name of a function of the executable that may be called, as the first argument
const Function* function_argument(const MachineModule& module, const Args& args) {
  std::string_view name;
  if (args.size() < 1) {
    ffi::raise_type(concat(args.name(), " takes the name of a function first"));
    return nullptr;
  }
  if (!args.string(0, &name)) return nullptr;
  const Function* function = module.machine->executable().find(name);
  if (function == nullptr || function->kind == FunctionKind::packed) {
    ffi::raise_value(concat(args.name(), ": the executable has no function ", quote(name)));
    return nullptr;
  }
  return function;
}

bool must_be_initialized(const MachineModule& module, const Args& args) {
  if (module.machine->is_initialized()) return true;
  ffi::raise("RuntimeError",
             concat(args.name(), ": the VM is not initialized; call vm_initialization first"));
  return false;
}

int machine_initialize(MachineModule& module, const Args& args, TVMFFIAny*) {
  if (args.size() == 0 || args.size() % 3 != 0)
    return ffi::raise_type(concat(args.name(),
                                  " takes a device type, a device id and an allocator "
                                  "kind for each device, not ",
                                  args.size(), " arguments"));
  std::vector<Allocator*> allocators;
  for (int32_t i = 0; i < args.size(); i += 3) {
    int64_t type = 0, id = 0, kind = 0;
    if (!args.integer(i, &type) || !args.integer(i + 1, &id) || !args.integer(i + 2, &kind))
      return -1;
    if (type != static_cast<int32_t>(type) || id != static_cast<int32_t>(id))
      return ffi::raise_value(concat(args.name(), ": device type ", type, ", id ", id));
    const DLDevice device = {static_cast<DLDeviceType>(type), static_cast<int32_t>(id)};
    Allocator* allocator = Allocator::get(device, kind, args.name());
    if (allocator == nullptr) return -1;
    allocators.push_back(allocator);
  }
  return module.machine->initialize(allocators);
}

// Arguments `first` and behind, with tensors on the first device
int owned_arguments(MachineModule& module, const Args& args, int32_t first, std::vector<Any>* out) {
  for (int32_t i = first; i < args.size(); ++i) {
    Any value;
    if (module.machine->to_device(args.at(i), args.name(), &value) != 0) return -1;
    out->push_back(std::move(value));
  }
  return 0;
}

std::vector<TVMFFIAny> views_of(const std::vector<Any>& values) {
  std::vector<TVMFFIAny> out;
  out.reserve(values.size());
  for (const Any& each : values) out.push_back(each.view());
  return out;
}

int machine_invoke_closure(MachineModule& module, const Args& args, TVMFFIAny* result) {
  if (args.size() < 1) return ffi::raise_type(concat(args.name(), " takes a closure first"));
  std::vector<TVMFFIAny> rest;
  for (int32_t i = 1; i < args.size(); ++i) rest.push_back(args.at(i));
  Any out;
  if (module.machine->invoke(args.at(0), rest, &out) != 0) return -1;
  *result = out.take();
  return 0;
}

// The function of a closure that save_function made without its result; `self` is the real one
int call_for_nothing(void* self, const TVMFFIAny* args, int32_t count, TVMFFIAny* result) {
  *result = ffi::none();
  Any out;
  return ffi::call(static_cast<ffi::FunctionObject*>(self), {args, static_cast<size_t>(count)},
                   &out);
}

// (function, name to save as, whether it returns its result, arguments…)
int machine_save_function(MachineModule& module, const Args& args, TVMFFIAny*) {
  std::string_view as;
  bool returns = false;
  if (args.size() < 3)
    return ffi::raise_type(concat(args.name(), " takes a function, a name and a bool first"));
  const Function* function = function_argument(module, args);
  if (function == nullptr || !args.string(1, &as) || !args.boolean(2, &returns) ||
      !must_be_initialized(module, args))
    return -1;
  if (module.machine->executable().find(as) != nullptr)
    return ffi::raise_value(
        concat(args.name(), ": the executable has a function ", quote(as), " of its own"));
  std::vector<Any> arguments;
  Any closure;
  if (owned_arguments(module, args, 3, &arguments) != 0 ||
      module.machine->find_closure(function->name, &closure) != 0)
    return -1;
  auto bound = capture(*as_closure(closure.view()), as, views_of(arguments));
  if (bound && !returns) {
    auto quiet = ffi::make_function(bound->function.take(), call_for_nothing, [](void* self) {
      ffi::release(static_cast<TVMFFIObject*>(self));
    });
    if (!quiet) return -1;
    bound->function = std::move(quiet);
  }
  if (!bound) return -1;
  return module.machine->saved.set(as, Any::adopt(of_object(std::move(bound))));
}

int set_inputs(MachineModule& module, const Args& args, bool parameters_of_module) {
  const Function* function = function_argument(module, args);
  if (function == nullptr || !must_be_initialized(module, args)) return -1;
  if (args.size() - 1 != static_cast<int64_t>(function->arguments))
    return ffi::raise_type(concat(args.name(), ": ", quote(function->name), " takes ",
                                  function->arguments, " arguments, not ", args.size() - 1));
  std::vector<Any> inputs;
  if (parameters_of_module && args.size() > 1) {
    // The last argument is a module whose function get_params gives it
    const int32_t last = args.size() - 1;
    TVMFFIObject* object = args.object(last, kTVMFFIModule);
    ModuleObject* other = object == nullptr
                              ? nullptr
                              : ffi::checked_module(object, args.name(), concat("argument ", last));
    Any get, parameters;
    if (other == nullptr || ffi::get_function(other, "get_params", true, &get) != 0) return -1;
    if (get.view().type_index != kTVMFFIFunction)
      return ffi::raise_value(
          concat(args.name(), ": argument ", last, " is a module without get_params"));
    auto* function_object = reinterpret_cast<ffi::FunctionObject*>(get.view().v_obj);
    if (ffi::call(function_object, {}, &parameters) != 0) return -1;
    for (int32_t i = 1; i < last; ++i) {
      Any value;
      if (module.machine->to_device(args.at(i), args.name(), &value) != 0) return -1;
      inputs.push_back(std::move(value));
    }
    inputs.push_back(std::move(parameters));
  } else if (owned_arguments(module, args, 1, &inputs) != 0) {
    return -1;
  }
  const auto views = views_of(inputs);
  auto array = ffi::make_array(views.data(), views.size());
  if (!array) return -1;
  return module.machine->inputs.set(function->name, Any::adopt(of_object(std::move(array))));
}

int machine_set_input(MachineModule& module, const Args& args, TVMFFIAny*) {
  return set_inputs(module, args, false);
}

int machine_set_input_with_param_module(MachineModule& module, const Args& args, TVMFFIAny*) {
  return set_inputs(module, args, true);
}

int machine_invoke_stateful(MachineModule& module, const Args& args, TVMFFIAny*) {
  const Function* function = args.expect(1) ? function_argument(module, args) : nullptr;
  if (function == nullptr) return -1;
  const TVMFFIAny* kept = module.machine->inputs.find(function->name);
  if (kept == nullptr)
    return ffi::raise_value(
        concat(args.name(), ": no inputs of ", quote(function->name), "; call set_input first"));
  // The call may set other inputs
  const auto inputs =
      Ref<ffi::ArrayObject>::share(reinterpret_cast<ffi::ArrayObject*>(kept->v_obj));
  Any closure, out;
  if (module.machine->find_closure(function->name, &closure) != 0 ||
      module.machine->invoke(closure.view(),
                             {inputs->items(), static_cast<size_t>(inputs->cell.size)}, &out) != 0)
    return -1;
  return module.machine->outputs.set(function->name, std::move(out));
}

// The output of a function, and what stands in it at the indices behind
int find_output(const MachineModule& module, const Args& args, Any* out) {
  const Function* function = function_argument(module, args);
  if (function == nullptr) return -1;
  const TVMFFIAny* kept = module.machine->outputs.find(function->name);
  if (kept == nullptr)
    return ffi::raise_value(concat(args.name(), ": no output of ", quote(function->name),
                                   "; call invoke_stateful first"));
  TVMFFIAny at = *kept;
  for (int32_t i = 1; i < args.size(); ++i) {
    if (at.type_index != kTVMFFIArray)
      return ffi::raise_value(concat(args.name(), ": index ", i, " is into ", ffi::type_key_of(at),
                                     ", which is no tuple"));
    const auto* array = reinterpret_cast<const ffi::ArrayObject*>(at.v_obj);
    size_t index = 0;
    if (!args.index(i, static_cast<size_t>(array->cell.size), &index)) return -1;
    at = array->items()[index];
  }
  *out = Any::share(at);
  return 0;
}

int machine_get_output(MachineModule& module, const Args& args, TVMFFIAny* result) {
  Any out;
  if (find_output(module, args, &out) != 0) return -1;
  if (out.view().type_index == kTVMFFIArray)
    return ffi::raise_value(
        concat(args.name(), ": the output is a tuple; name an element by a further index"));
  *result = out.take();
  return 0;
}

int machine_get_output_arity(MachineModule& module, const Args& args, TVMFFIAny* result) {
  Any out;
  if (find_output(module, args, &out) != 0) return -1;
  const bool is_tuple = out.view().type_index == kTVMFFIArray;
  *result = ffi::of_int(
      is_tuple ? reinterpret_cast<const ffi::ArrayObject*>(out.view().v_obj)->cell.size : -1);
  return 0;
}

int machine_get_function_arity(MachineModule& module, const Args& args, TVMFFIAny* result) {
  const Function* function = args.expect(1) ? function_argument(module, args) : nullptr;
  if (function == nullptr) return -1;
  *result = ffi::of_int(function->arguments);
  return 0;
}

int machine_get_function_param_name(MachineModule& module, const Args& args, TVMFFIAny* result) {
  const Function* function = args.expect(2) ? function_argument(module, args) : nullptr;
  size_t index = 0;
  if (function == nullptr || !args.index(1, function->parameters.size(), &index)) return -1;
  return ffi::make_string(function->parameters[index], result);
}

// (function), or (name of a global function that makes it, its arguments…)
int machine_set_instrument(MachineModule& module, const Args& args, TVMFFIAny*) {
  if (args.size() < 1) return ffi::raise_type(concat(args.name(), " takes a function"));
  Any instrument;
  if (args.at(0).type_index == kTVMFFIFunction) {
    if (!args.owned(0, &instrument)) return -1;
  } else if (args.at(0).type_index != kTVMFFINone) {
    std::string_view name;
    if (!args.string(0, &name)) return -1;
    const auto make = ffi::find_function(name);
    if (!make)
      return ffi::raise_value(concat(args.name(), ": there is no global function ", quote(name)));
    std::vector<TVMFFIAny> rest;
    for (int32_t i = 1; i < args.size(); ++i) rest.push_back(args.at(i));
    if (ffi::call(make.get(), rest, &instrument) != 0) return -1;
    if (instrument.view().type_index != kTVMFFIFunction)
      return ffi::raise_type(concat(args.name(), ": ", quote(name), " returned ",
                                    ffi::type_key_of(instrument.view()), ", not a function"));
  }
  module.machine->set_instrument(std::move(instrument));
  return 0;
}

constexpr Method<MachineModule> kMachineMethods[] = {
    {"vm_initialization", machine_initialize},
    {"invoke_closure", machine_invoke_closure},
    {"save_function", machine_save_function},
    {"set_input", machine_set_input},
    {"set_input_with_param_module", machine_set_input_with_param_module},
    {"invoke_stateful", machine_invoke_stateful},
    {"get_output", machine_get_output},
    {"get_output_arity", machine_get_output_arity},
    {"get_function_arity", machine_get_function_arity},
    {"get_function_param_name", machine_get_function_param_name},
    {"set_instrument", machine_set_instrument},
};

// A function of the executable, as one that keeps the module
struct MachineFunction {
  Ref<ModuleObject> module;
  Any closure;
};

int call_machine_function(void* self, const TVMFFIAny* args, int32_t count, TVMFFIAny* result) {
  const auto& function = *static_cast<const MachineFunction*>(self);
  Any out;
  if (reinterpret_cast<MachineModule*>(function.module.get())
          ->machine->invoke(function.closure.view(), {args, static_cast<size_t>(count)}, &out) != 0)
    return -1;
  *result = out.take();
  return 0;
}

int machine_get_function(ModuleObject* module, std::string_view name, TVMFFIAny* out) {
  if (find_method<MachineModule>(kMachineMethods, module, name, out) != 0) return -1;
  if (out->type_index != kTVMFFINone) return 0;
  Any closure;
  if (reinterpret_cast<MachineModule*>(module)->machine->find_closure(name, &closure) != 0)
    return -1;
  if (closure.view().type_index == kTVMFFINone) return 0;
  auto state = std::make_unique<MachineFunction>(
      MachineFunction{Ref<ModuleObject>::share(module), std::move(closure)});
  auto function = ffi::make_function(state.release(), call_machine_function, [](void* self) {
    delete static_cast<MachineFunction*>(self);
  });
  if (!function) return -1;
  *out = of_object(std::move(function));
  return 0;
}

constexpr ffi::ModuleKind kMachine = {
    .name = "relax.VirtualMachine",
    .property_mask = ffi::kModuleRunnable,
    .get_function = machine_get_function,
    .get_metadata = nullptr,
    .get_doc = nullptr,
    .destroy =
        [](ModuleObject* module) {
          std::destroy_at(&reinterpret_cast<MachineModule*>(module)->machine);
        },
};

}  // namespace

std::span<const ffi::Builtin> module_builtins() { return kBuiltins; }

Ref<ModuleObject> make_executable_module(std::string_view bytes) {
  auto executable = std::make_unique<Executable>();
  if (load_executable(bytes, executable.get()) != 0) return {};
  auto module = ffi::make_module(kExecutable, sizeof(ExecutableModule));
  if (!module) return {};
  std::construct_at(&reinterpret_cast<ExecutableModule*>(module.get())->executable,
                    std::move(executable));
  return module;
}

Ref<ModuleObject> make_machine(ModuleObject* executable) {
  if (executable->kind != &kExecutable) {
    ffi::raise_type(concat("a VM is made of a module of kind relax.VMExecutable, not ",
                           executable->kind->name));
    return {};
  }
  auto module = ffi::make_module(kMachine, sizeof(MachineModule));
  if (!module) return {};
  std::construct_at(&reinterpret_cast<MachineModule*>(module.get())->machine,
                    std::make_unique<VirtualMachine>(
                        Ref<ModuleObject>::share(executable),
                        reinterpret_cast<ExecutableModule*>(executable)->executable.get()));
  // What is asked of the VM and is no function of it, for instance those of its shaders, is asked
  // of what the executable imports
  module->imports = executable->imports;
  return module;
}

VirtualMachine* machine_of(ModuleObject* module) {
  return module->kind == &kMachine ? reinterpret_cast<MachineModule*>(module)->machine.get()
                                   : nullptr;
}

}  // namespace sluice::vm
