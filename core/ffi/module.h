// Module objects: what a kind of module brings, and the library of linked symbols.
#pragma once

#include <string_view>
#include <vector>

#include "core/ffi/object.h"
#include "core/ffi/ordered_map.h"

namespace sluice::ffi {

struct ModuleObject;

// What modules of one kind do. Their layout is this library's own: a module that code built with
// tvm-ffi's headers makes is refused.
struct ModuleKind {
  const char* name;  // "library"
  int64_t property_mask;
  // The function of this module itself (not of its imports) as an owned value, or none where there
  // is none of the name. Raises and returns -1 where it fails.
  int (*get_function)(ModuleObject* module, std::string_view name, TVMFFIAny* out);
  // Texts of a function; may be null. As get_function.
  int (*get_metadata)(ModuleObject* module, std::string_view name, TVMFFIAny* out);
  int (*get_doc)(ModuleObject* module, std::string_view name, TVMFFIAny* out);
  // Destroys what the derived struct holds, not the base. May be null.
  void (*destroy)(ModuleObject* module);
};

inline constexpr int64_t kModuleBinarySerializable = 1;
inline constexpr int64_t kModuleRunnable = 2;
inline constexpr int64_t kModuleCompilationExportable = 4;

// A kind's own struct begins with this one.
struct ModuleObject {
  TVMFFIObject header;
  const ModuleKind* kind;
  std::vector<Ref<ModuleObject>> imports;
  // Functions that TVMFFIEnvModLookupFromImports found, by name
  OrderedMap found;
};

// A module whose struct is `bytes` long; what follows ModuleObject is zero. Raises and returns null
// where there is no memory.
Ref<ModuleObject> make_module(const ModuleKind& kind, size_t bytes);

// Raises and returns -1 where `other` imports `module` already, directly or not.
[[nodiscard]] int import_module(ModuleObject* module, ModuleObject* other);

// A function of the module, and of what it imports where `query_imports`: none in `out` where there
// is none.
[[nodiscard]] int get_function(ModuleObject* module, std::string_view name, bool query_imports,
                               Any* out);

// The module object behind a value, or null after raising an error that names `function`.
ModuleObject* checked_module(TVMFFIObjectHandle handle, std::string_view function,
                             std::string_view argument);

// The module of the linked symbols whose names begin with `prefix`, made at the first call.
Ref<ModuleObject> system_library(std::string_view prefix);

// The import tree that a compiled module embeds as __tvm_ffi__library_bin, with `library` in the
// place that it names; *root is its root. Layout, little-endian: u64 bytes that follow; u64 count
// and u64[count] where each module's children begin in the next list; u64 count and u64[count]
// children; for each module a u64 length and its kind, then, unless the kind is "_lib", a u64
// length and its bytes, for the global function ffi.Module.load_from_bytes.<kind>.
[[nodiscard]] int load_import_tree(std::string_view blob, ModuleObject* library,
                                   Ref<ModuleObject>* root);

}  // namespace sluice::ffi
