#include "core/ffi/module.h"

#include <algorithm>
#include <memory>
#include <new>
#include <string>

#include "core/base/bytes.h"
#include "core/ffi/registry.h"

namespace sluice::ffi {
namespace {

void delete_module(void* self, int flags) {
  auto* module = static_cast<ModuleObject*>(self);
  if ((flags & kTVMFFIObjectDeleterFlagBitMaskStrong) != 0) {
    if (module->kind->destroy != nullptr) module->kind->destroy(module);
    for (auto& import : module->imports) release_nested(&import.take()->header);
    std::destroy_at(&module->imports);
    std::destroy_at(&module->found);
  }
  if ((flags & kTVMFFIObjectDeleterFlagBitMaskWeak) != 0) free_object(self);
}

TVMFFIAny pointer(const void* address) {
  TVMFFIAny out{};
  out.type_index = kTVMFFIOpaquePtr;
  out.v_ptr = const_cast<void*>(address);
  return out;
}

// The module and all it imports, each once, in the order in which functions are looked up. Raises
// and returns false where memory ends.
bool with_imports(ModuleObject* module, std::vector<ModuleObject*>* out) {
  OrderedMap seen;
  std::vector<ModuleObject*> stack = {module};
  while (!stack.empty()) {
    ModuleObject* next = stack.back();
    stack.pop_back();
    if (seen.find(pointer(next)) != nullptr) continue;
    if (seen.set(Any::adopt(pointer(next)), Any()) != 0) return false;
    out->push_back(next);
    for (size_t i = next->imports.size(); i-- > 0;) stack.push_back(next->imports[i].get());
  }
  return true;
}

// ---- The library of linked symbols ----

struct Symbols {
  OrderedMap linked;     // pointers, by name
  OrderedMap context;    // pointers that libraries get when they are loaded, by name
  OrderedMap libraries;  // modules, by prefix
  OrderedMap kept;       // modules that ffi.ModuleGlobalsAdd keeps
};

// Made at the first use: constructors of linked models come here before anything else runs
constinit Symbols* symbols = nullptr;

Symbols& table() {
  if (symbols == nullptr) symbols = new Symbols;
  return *symbols;
}

struct LibraryModule {
  ModuleObject base;
  std::string prefix;
};

void* find_symbol(std::string_view name) {
  const TVMFFIAny* found = table().linked.find(name);
  return found == nullptr ? nullptr : found->v_ptr;
}

// With the library's prefix, or as it is
void* library_symbol(const LibraryModule& library, std::string_view before, std::string_view name) {
  void* found = find_symbol(concat(before, library.prefix, name));
  return found != nullptr ? found : find_symbol(concat(before, name));
}

LibraryModule* as_library(ModuleObject* module) { return reinterpret_cast<LibraryModule*>(module); }

struct LibraryFunction {
  Ref<ModuleObject> library;  // keeps the symbol's context
  TVMFFISafeCallType symbol;
};

int call_library_function(void* self, const TVMFFIAny* args, int32_t num_args, TVMFFIAny* result) {
  return static_cast<LibraryFunction*>(self)->symbol(nullptr, args, num_args, result);
}

int library_get_function(ModuleObject* module, std::string_view name, TVMFFIAny* out) {
  *out = none();
  void* symbol = library_symbol(*as_library(module), "__tvm_ffi_", name);
  if (symbol == nullptr) return 0;
  auto* state = new (std::nothrow) LibraryFunction{Ref<ModuleObject>::share(module),
                                                   reinterpret_cast<TVMFFISafeCallType>(symbol)};
  if (state == nullptr) return raise_no_memory();
  auto function = make_function(state, call_library_function,
                                [](void* self) { delete static_cast<LibraryFunction*>(self); });
  if (!function) return -1;
  *out = of_object(std::move(function));
  return 0;
}

int library_text(ModuleObject* module, std::string_view before, std::string_view name,
                 TVMFFIAny* out) {
  *out = none();
  void* symbol = library_symbol(*as_library(module), before, name);
  if (symbol == nullptr) return 0;
  return reinterpret_cast<TVMFFISafeCallType>(symbol)(nullptr, nullptr, 0, out);
}

int library_get_metadata(ModuleObject* module, std::string_view name, TVMFFIAny* out) {
  return library_text(module, "__tvm_ffi__metadata_", name, out);
}

int library_get_doc(ModuleObject* module, std::string_view name, TVMFFIAny* out) {
  return library_text(module, "__tvm_ffi__doc_", name, out);
}

constexpr ModuleKind kLibrary = {
    .name = "library",
    .property_mask = kModuleBinarySerializable | kModuleRunnable,
    .get_function = library_get_function,
    .get_metadata = library_get_metadata,
    .get_doc = library_get_doc,
    .destroy = [](ModuleObject* module) { std::destroy_at(&as_library(module)->prefix); },
};

// ---- The import tree ----

// A length, and as many elements of `size` bytes, out of the blob
std::optional<Bytes> take_list(ByteReader* reader, uint64_t size) {
  const auto count = reader->read<uint64_t>();
  uint64_t bytes = 0;
  if (!count || __builtin_mul_overflow(*count, size, &bytes)) return std::nullopt;
  return reader->take(bytes);
}

// Each import is checked for a cycle by a walk; compiled models have a handful of modules
constexpr uint64_t kMaxModules = 1024;

uint64_t u64_at(Bytes list, uint64_t i) {
  uint64_t value = 0;
  std::memcpy(&value, list.data() + static_cast<size_t>(i) * sizeof(value), sizeof(value));
  return value;
}

int bad_tree(std::string_view what) {
  return raise_value(concat("__tvm_ffi__library_bin: ", what));
}

int load_module(std::string_view kind, std::string_view bytes, Ref<ModuleObject>* out) {
  const std::string name = concat("ffi.Module.load_from_bytes.", kind);
  const auto loader = find_function(name);
  if (!loader)
    return raise("RuntimeError",
                 concat("the library has a module of kind ", quote(kind),
                        ", and there is no global function ", quote(name), " to load it"));
  Any content, loaded;
  if (make_bytes(bytes, content.receive()) != 0) return -1;
  if (call(loader.get(), {&content.view(), 1}, &loaded) != 0) return -1;
  ModuleObject* module = loaded.view().type_index == kTVMFFIModule
                             ? checked_module(loaded.view().v_obj, name, "the result")
                             : nullptr;
  if (module == nullptr)
    return has_raised() ? -1
                        : raise_type(concat(name, " returned ", type_key_of(loaded.view()),
                                            ", not ffi.Module"));
  *out = Ref<ModuleObject>::share(module);
  return 0;
}

// ---- Builtins ----

ModuleObject* module_argument(const Args& args, int32_t i) {
  TVMFFIObject* object = args.object(i, kTVMFFIModule);
  return object == nullptr ? nullptr : checked_module(object, args.name(), concat("argument ", i));
}

// (module, name, query_imports), as four builtins take them
bool lookup_arguments(const Args& args, ModuleObject** module, std::string_view* name,
                      bool* query_imports) {
  if (!args.expect(3)) return false;
  *module = module_argument(args, 0);
  return *module != nullptr && args.string(1, name) && args.boolean(2, query_imports);
}

int module_get_function(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  ModuleObject* module = nullptr;
  std::string_view name;
  bool query_imports = false;
  if (!lookup_arguments(Args(handle, values, count), &module, &name, &query_imports)) return -1;
  Any found;
  if (get_function(module, name, query_imports, &found) != 0) return -1;
  *result = found.take();
  return 0;
}

int module_implements(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  if (module_get_function(handle, values, count, result) != 0) return -1;
  const Any found = Any::adopt(*result);
  *result = of_bool(found.view().type_index == kTVMFFIFunction);
  return 0;
}

int module_text(const Args& args,
                int (*ModuleKind::*getter)(ModuleObject*, std::string_view, TVMFFIAny*),
                TVMFFIAny* result) {
  ModuleObject* module = nullptr;
  std::string_view name;
  bool query_imports = false;
  if (!lookup_arguments(args, &module, &name, &query_imports)) return -1;
  std::vector<ModuleObject*> modules = {module};
  if (query_imports) {
    modules.clear();
    if (!with_imports(module, &modules)) return -1;
  }
  for (ModuleObject* each : modules) {
    if (each->kind->*getter == nullptr) continue;
    Any found;
    if ((each->kind->*getter)(each, name, found.receive()) != 0) return -1;
    if (found.view().type_index == kTVMFFINone) continue;
    *result = found.take();
    return 0;
  }
  *result = none();
  return 0;
}

int module_metadata(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  return module_text(Args(handle, values, count), &ModuleKind::get_metadata, result);
}

int module_doc(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  return module_text(Args(handle, values, count), &ModuleKind::get_doc, result);
}

int module_property_mask(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  const ModuleObject* module = args.expect(1) ? module_argument(args, 0) : nullptr;
  if (module == nullptr) return -1;
  *result = of_int(module->kind->property_mask);
  return 0;
}

int module_kind(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  const ModuleObject* module = args.expect(1) ? module_argument(args, 0) : nullptr;
  return module == nullptr ? -1 : make_string(module->kind->name, result);
}

int module_import(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  ModuleObject* module = args.expect(2) ? module_argument(args, 0) : nullptr;
  ModuleObject* other = module != nullptr ? module_argument(args, 1) : nullptr;
  if (other == nullptr || import_module(module, other) != 0) return -1;
  *result = none();
  return 0;
}

int module_clear_imports(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  ModuleObject* module = args.expect(1) ? module_argument(args, 0) : nullptr;
  if (module == nullptr) return -1;
  // Taken out first: a deleter may look at this module
  auto imports = std::exchange(module->imports, {});
  for (auto& import : imports) release_nested(&import.take()->header);
  *result = none();
  return 0;
}

int module_globals_add(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  if (!args.expect(1) || module_argument(args, 0) == nullptr) return -1;
  const TVMFFIAny module = args.at(0);
  *result = none();
  return table().kept.set(Any::share(module), Any());
}

int module_globals_remove(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  if (!args.expect(1) || module_argument(args, 0) == nullptr) return -1;
  table().kept.erase(args.at(0));
  *result = none();
  return 0;
}

int system_lib(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  std::string_view prefix;
  if (count != 0 && (!args.expect(1) || !args.string(0, &prefix))) return -1;
  auto library = system_library(prefix);
  if (!library) return -1;
  *result = of_object(std::move(library));
  return 0;
}

int load_from_file(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  std::string_view file;
  if (!args.expect(1) || !args.string(0, &file)) return -1;
  const size_t dot = file.rfind('.');
  if (dot == std::string_view::npos)
    return raise_value(concat(args.name(), ": ", quote(file), " has no extension"));
  std::string_view format = file.substr(dot + 1);
  if (format == "dll" || format == "dylib" || format == "dso") format = "so";
  const std::string name = concat("ffi.Module.load_from_file.", format);
  const auto loader = find_function(name);
  if (!loader)
    return raise("RuntimeError", concat(args.name(), ": there is no global function ", quote(name),
                                        " to load ", quote(file)));
  Any file_value, format_value, loaded;
  if (make_string(file, file_value.receive()) != 0 ||
      make_string(format, format_value.receive()) != 0)
    return -1;
  const TVMFFIAny arguments[] = {file_value.view(), format_value.view()};
  if (call(loader.get(), arguments, &loaded) != 0) return -1;
  if (loaded.view().type_index != kTVMFFIModule)
    return raise_type(concat(name, " returned ", type_key_of(loaded.view()), ", not ffi.Module"));
  *result = loaded.take();
  return 0;
}

constexpr Builtin kBuiltins[] = {
    {"ffi.SystemLib", system_lib},
    {"ffi.ModuleLoadFromFile", load_from_file},
    {"ffi.ModuleGetFunction", module_get_function},
    {"ffi.ModuleImplementsFunction", module_implements},
    {"ffi.ModuleGetFunctionMetadata", module_metadata},
    {"ffi.ModuleGetFunctionDoc", module_doc},
    {"ffi.ModuleGetPropertyMask", module_property_mask},
    {"ffi.ModuleGetKind", module_kind},
    {"ffi.ModuleImportModule", module_import},
    {"ffi.ModuleClearImports", module_clear_imports},
    {"ffi.ModuleGlobalsAdd", module_globals_add},
    {"ffi.ModuleGlobalsRemove", module_globals_remove},
};

}  // namespace

std::span<const Builtin> module_builtins() { return kBuiltins; }

Ref<ModuleObject> make_module(const ModuleKind& kind, size_t bytes) {
  auto* module = reinterpret_cast<ModuleObject*>(
      allocate_object(std::max(bytes, sizeof(ModuleObject)), kTVMFFIModule, delete_module));
  if (module == nullptr) return {};
  module->kind = &kind;
  std::construct_at(&module->imports);
  std::construct_at(&module->found);
  return Ref<ModuleObject>::adopt(module);
}

ModuleObject* checked_module(TVMFFIObjectHandle handle, std::string_view function,
                             std::string_view argument) {
  TVMFFIObject* object = checked_object(handle, kTVMFFIModule, function, argument);
  if (object == nullptr) return nullptr;
  if (object->deleter != delete_module) {
    raise_type(concat(function, ": ", argument,
                      " is a module of another library, made by tvm-ffi's C++ headers"));
    return nullptr;
  }
  return reinterpret_cast<ModuleObject*>(object);
}

int import_module(ModuleObject* module, ModuleObject* other) {
  std::vector<ModuleObject*> imported;
  if (!with_imports(other, &imported)) return -1;
  if (std::ranges::find(imported, module) != imported.end())
    return raise("RuntimeError", "a module cannot import one that imports it, or itself");
  module->imports.push_back(Ref<ModuleObject>::share(other));
  return 0;
}

int get_function(ModuleObject* module, std::string_view name, bool query_imports, Any* out) {
  // The usual case, without a walk
  if (module->kind->get_function(module, name, out->receive()) != 0) return -1;
  if (out->view().type_index != kTVMFFINone || !query_imports || module->imports.empty()) return 0;
  std::vector<ModuleObject*> modules;
  if (!with_imports(module, &modules)) return -1;
  for (ModuleObject* each : modules) {
    if (each == module) continue;
    if (each->kind->get_function(each, name, out->receive()) != 0) return -1;
    if (out->view().type_index != kTVMFFINone) return 0;
  }
  return 0;
}

int load_import_tree(std::string_view blob, ModuleObject* library, Ref<ModuleObject>* root) {
  ByteReader outer(as_bytes(blob));
  const auto content = take_list(&outer, 1);
  if (!content) return bad_tree("it is shorter than it says");
  ByteReader reader(*content);
  const auto starts = take_list(&reader, sizeof(uint64_t));
  const auto children = starts ? take_list(&reader, sizeof(uint64_t)) : std::nullopt;
  if (!children) return bad_tree("its import tree is cut");
  const uint64_t child_count = children->size() / sizeof(uint64_t);
  const uint64_t start_count = starts->size() / sizeof(uint64_t);
  if (start_count < 2) return bad_tree("it has no module");
  const uint64_t count = start_count - 1;
  if (count > kMaxModules || child_count > kMaxModules)
    return bad_tree(concat("it has ", count, " modules and ", child_count, " imports, known are ",
                           kMaxModules));
  std::vector<Ref<ModuleObject>> modules;
  for (size_t i = 0; i < count; ++i) {
    const auto kind = take_list(&reader, 1);
    if (!kind) return bad_tree(concat("module ", i, " of ", count, " is cut"));
    if (as_text(*kind) == "_lib") {
      modules.push_back(Ref<ModuleObject>::share(library));
      continue;
    }
    const auto bytes = take_list(&reader, 1);
    if (!bytes) return bad_tree(concat("module ", i, " of ", count, " is cut"));
    Ref<ModuleObject> module;
    if (load_module(as_text(*kind), as_text(*bytes), &module) != 0) return -1;
    modules.push_back(std::move(module));
  }
  for (size_t i = 0; i < count; ++i) {
    const uint64_t begin = u64_at(*starts, i), end = u64_at(*starts, i + 1);
    if (begin > end || end > child_count)
      return bad_tree(
          concat("module ", i, " has the children ", begin, " to ", end, " of ", child_count));
    for (uint64_t j = begin; j < end; ++j) {
      const uint64_t child = u64_at(*children, j);
      if (child >= count)
        return bad_tree(concat("module ", i, " has the child ", child, " of ", count, " modules"));
      if (import_module(modules[i].get(), modules[static_cast<size_t>(child)].get()) != 0)
        return -1;
    }
  }
  *root = std::move(modules[0]);
  return 0;
}

Ref<ModuleObject> system_library(std::string_view prefix) {
  Symbols& all = table();
  if (const TVMFFIAny* known = all.libraries.find(prefix))
    return Ref<ModuleObject>::share(reinterpret_cast<ModuleObject*>(known->v_obj));
  auto module = make_module(kLibrary, sizeof(LibraryModule));
  if (!module) return {};
  LibraryModule* library = as_library(module.get());
  std::construct_at(&library->prefix, prefix);
  for (size_t i = all.context.next(0); i != all.context.end(); i = all.context.next(i + 1)) {
    void* place = library_symbol(*library, "", text(all.context.key(i)));
    if (place != nullptr) *static_cast<void**>(place) = all.context.value(i).v_ptr;
  }
  Ref<ModuleObject> root = module;
  if (const void* bin = library_symbol(*library, "", "__tvm_ffi__library_bin")) {
    uint64_t size = 0;
    std::memcpy(&size, bin, sizeof(size));
    size_t bytes = 0;
    if (__builtin_add_overflow(size, sizeof(size), &bytes) ||
        bytes > UINTPTR_MAX - reinterpret_cast<uintptr_t>(bin)) {
      bad_tree(concat("it says that it has ", size, " bytes"));
      return {};
    }
    if (load_import_tree({static_cast<const char*>(bin), bytes}, module.get(), &root) != 0)
      return {};
  }
  if (all.libraries.set(prefix, Any::adopt(of_object(root))) != 0) return {};
  // The registry keeps the library, so the address stays good
  if (void* context = library_symbol(*library, "", "__tvm_ffi__library_ctx"))
    *static_cast<void**>(context) = module.get();
  return root;
}

}  // namespace sluice::ffi

using namespace sluice::ffi;  // NOLINT(google-build-using-namespace): the C functions below
using sluice::concat;

extern "C" {

int TVMFFIEnvModLookupFromImports(TVMFFIObjectHandle library_ctx, const char* func_name,
                                  TVMFFIObjectHandle* out) {
  constexpr std::string_view kName = "TVMFFIEnvModLookupFromImports";
  if (out == nullptr) return raise_null(kName, "out");
  *out = nullptr;
  if (func_name == nullptr) return raise_null(kName, "func_name");
  ModuleObject* module = checked_module(library_ctx, kName, "library_ctx");
  if (module == nullptr) return -1;
  if (const TVMFFIAny* known = module->found.find(func_name)) {
    *out = known->v_obj;
    return 0;
  }
  Any found;
  std::vector<ModuleObject*> modules;
  if (!with_imports(module, &modules)) return -1;
  for (ModuleObject* each : modules) {
    // Not the module itself: its own functions are linked, and only missing ones come here
    if (each == module) continue;
    if (each->kind->get_function(each, func_name, found.receive()) != 0) return -1;
    if (found.view().type_index != kTVMFFINone) break;
  }
  if (found.view().type_index == kTVMFFINone)
    found = Any::adopt(of_object(find_function(func_name)));
  if (found.view().type_index != kTVMFFIFunction)
    return raise("RuntimeError", concat("no function ", sluice::quote(func_name),
                                        " in the imported modules or the global registry"));
  TVMFFIObject* function = found.view().v_obj;
  if (module->found.set(func_name, std::move(found)) != 0) return -1;
  *out = function;
  return 0;
}

int TVMFFIEnvModRegisterContextSymbol(const char* name, void* symbol) {
  if (name == nullptr) return raise_null("TVMFFIEnvModRegisterContextSymbol", "name");
  return table().context.set(name, Any::adopt(pointer(symbol)));
}

int TVMFFIEnvModRegisterSystemLibSymbol(const char* name, void* symbol) {
  if (name == nullptr) return raise_null("TVMFFIEnvModRegisterSystemLibSymbol", "name");
  if (symbol == nullptr) return raise_null("TVMFFIEnvModRegisterSystemLibSymbol", "symbol");
  return table().linked.set(name, Any::adopt(pointer(symbol)));
}

}  // extern "C"
