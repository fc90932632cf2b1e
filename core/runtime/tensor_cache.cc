#include "core/runtime/tensor_cache.h"

#include <string>
#include <vector>

#include "core/ffi/module.h"
#include "core/ffi/ordered_map.h"
#include "core/ffi/registry.h"
#include "core/runtime/runtime.h"
#include "core/runtime/tensor.h"

namespace sluice::runtime {
namespace {

using ffi::Any;
using ffi::Args;
using ffi::ArrayObject;
using ffi::raise;
using ffi::raise_type;
using ffi::raise_value;

// Made at the first use and never destroyed: tensors may belong to a host that is gone when
// destructors run
constinit ffi::OrderedMap* cache = nullptr;

ffi::OrderedMap& table() {
  if (cache == nullptr) cache = new ffi::OrderedMap;
  return *cache;
}

// ---- The cache ----

int get(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  std::string_view name;
  if (!args.expect(1) || !args.string(0, &name)) return -1;
  *result = ffi::of_object(cached_tensor(name));
  return 0;
}

// (name, tensor, override = false). A bare DLTensor is copied, since it cannot be kept.
int update(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny*) {
  const Args args(handle, values, count);
  if (count != 2 && count != 3)
    return raise_type(concat(args.name(), " takes 2 or 3 arguments, not ", count));
  std::string_view name;
  bool replace = false;
  if (!args.string(0, &name) || (count == 3 && !args.boolean(2, &replace))) return -1;
  const DLTensor* tensor = args.tensor(1);
  if (tensor == nullptr) return -1;
  if (!replace && table().find(name) != nullptr)
    return raise_value(concat(args.name(), ": the cache has a tensor ", quote(name), " already"));
  Any kept;
  if (args.at(1).type_index == kTVMFFITensor) {
    if (!args.owned(1, &kept)) return -1;
  } else {
    uint64_t nbytes = 0;  // checks the shape
    if (!ffi::tensor_bytes(*tensor, args.name(), &nbytes)) return -1;
    auto copied = empty({tensor->shape, static_cast<size_t>(tensor->ndim)}, tensor->dtype,
                        tensor->device, args.name());
    if (!copied || copy(*tensor, copied->tensor, args.name()) != 0) return -1;
    kept = Any::adopt(ffi::of_object(std::move(copied)));
  }
  return table().set(name, std::move(kept));
}

int remove(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny*) {
  const Args args(handle, values, count);
  std::string_view name;
  if (!args.expect(1) || !args.string(0, &name)) return -1;
  table().erase(name);
  return 0;
}

int clear(void* handle, const TVMFFIAny*, int32_t count, TVMFFIAny*) {
  if (!Args(handle, nullptr, count).expect(0)) return -1;
  table().clear();
  return 0;
}

// ---- Parameters from the cache ----

int add(const Args& args, std::string_view name, std::vector<TVMFFIAny>* out) {
  const TVMFFIAny* found = table().find(name);
  if (found == nullptr)
    return raise("KeyError", concat(args.name(), ": the tensor cache has no tensor ", quote(name)));
  out->push_back(*found);
  return 0;
}

// (prefix, count): prefix_0, prefix_1, …; as many as there are where count is -1
ffi::Ref<ArrayObject> numbered(const Args& args) {
  std::string_view prefix;
  int64_t wanted = 0;
  if (!args.expect(2) || !args.string(0, &prefix) || !args.integer(1, &wanted)) return {};
  if (wanted < -1) {
    raise_value(concat(args.name(), ": ", wanted, " parameters are asked for"));
    return {};
  }
  std::vector<TVMFFIAny> found;
  for (int64_t i = 0; i < wanted || wanted == -1; ++i) {
    const std::string name = concat(prefix, "_", i);
    if (wanted == -1 && table().find(name) == nullptr) break;
    if (add(args, name, &found) != 0) return {};
  }
  return ffi::make_array(found.data(), found.size());
}

// (an array of names)
ffi::Ref<ArrayObject> named(const Args& args) {
  if (!args.expect(1)) return {};
  const auto* names = args.object<ArrayObject>(0, kTVMFFIArray);
  if (names == nullptr) return {};
  std::vector<TVMFFIAny> found;
  for (int64_t i = 0; i < names->cell.size; ++i) {
    const TVMFFIAny& name = names->items()[i];
    if (name.type_index != kTVMFFISmallStr && name.type_index != kTVMFFIStr) {
      raise_type(
          concat(args.name(), ": name ", i, " must be a string, not ", ffi::type_key_of(name)));
      return {};
    }
    if (add(args, ffi::text(name), &found) != 0) return {};
  }
  return ffi::make_array(found.data(), found.size());
}

// (names…)
ffi::Ref<ArrayObject> listed(const Args& args) {
  std::vector<TVMFFIAny> found;
  for (int32_t i = 0; i < args.size(); ++i) {
    std::string_view name;
    if (!args.string(i, &name) || add(args, name, &found) != 0) return {};
  }
  return ffi::make_array(found.data(), found.size());
}

using Find = ffi::Ref<ArrayObject> (*)(const Args& args);

template <Find kFind>
int give_array(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  auto found = kFind(Args(handle, values, count));
  if (!found) return -1;
  *result = ffi::of_object(std::move(found));
  return 0;
}

// A module whose one function, get_params, gives the tensors as an array
struct ParamModule {
  ffi::ModuleObject base;
  ArrayObject* params;  // one reference
};

int give_params(void* self, const TVMFFIAny*, int32_t count, TVMFFIAny* result) {
  static constexpr ffi::Builtin kBuiltin = {"get_params", nullptr};
  if (!Args(&kBuiltin, nullptr, count).expect(0)) return -1;
  *result = ffi::of_object(ffi::Ref<ArrayObject>::share(static_cast<ArrayObject*>(self)));
  return 0;
}

int get_function(ffi::ModuleObject* module, std::string_view name, TVMFFIAny* out) {
  *out = ffi::none();
  if (name != "get_params") return 0;
  auto params = ffi::Ref<ArrayObject>::share(reinterpret_cast<ParamModule*>(module)->params);
  auto function = ffi::make_function(params.take(), give_params, [](void* self) {
    ffi::release_nested(&static_cast<ArrayObject*>(self)->header);
  });
  if (!function) return -1;
  *out = ffi::of_object(std::move(function));
  return 0;
}

constexpr ffi::ModuleKind kParamModule = {
    .name = "param_module",
    .property_mask = 0,
    .get_function = get_function,
    .get_metadata = nullptr,
    .get_doc = nullptr,
    .destroy =
        [](ffi::ModuleObject* module) {
          ArrayObject* params = reinterpret_cast<ParamModule*>(module)->params;
          if (params != nullptr) ffi::release_nested(&params->header);
        },
};

template <Find kFind>
int give_module(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  auto found = kFind(Args(handle, values, count));
  if (!found) return -1;
  auto module = ffi::make_module(kParamModule, sizeof(ParamModule));
  if (!module) return -1;
  reinterpret_cast<ParamModule*>(module.get())->params = found.take();
  *result = ffi::of_object(std::move(module));
  return 0;
}

constexpr ffi::Builtin kBuiltins[] = {
    {"vm.builtin.param_array_from_cache", give_array<numbered>},
    {"vm.builtin.param_array_from_cache_by_name", give_array<named>},
    {"vm.builtin.param_array_from_cache_by_name_unpacked", give_array<listed>},
    {"vm.builtin.param_module_from_cache", give_module<numbered>},
    {"vm.builtin.param_module_from_cache_by_name", give_module<named>},
    {"vm.builtin.tensor_cache.clear", clear},
    {"vm.builtin.tensor_cache.get", get},
    {"vm.builtin.tensor_cache.remove", remove},
    {"vm.builtin.tensor_cache.update", update},
};

}  // namespace

ffi::Ref<TensorObject> cached_tensor(std::string_view name) {
  const TVMFFIAny* found = table().find(name);
  if (found == nullptr) return {};
  return ffi::Ref<TensorObject>::share(reinterpret_cast<TensorObject*>(found->v_obj));
}

std::span<const ffi::Builtin> tensor_cache_builtins() { return kBuiltins; }

}  // namespace sluice::runtime
