// Modules of kind "webgpu": the shaders of a compiled model, and how each is launched. The host
// makes functions of them: wasm.WebGPUCreateShader, or beforehand through webgpu.update_prebuild.
//
// The bytes, little-endian, a text or list beginning with a u64 count (tvm/support/serializer.h and
// web/emcc/webgpu_runtime.cc in apache-tvm 0.27): list of {text key, text name, list of DLDataType
// argument types, list of texts launch parameters, list of i32 tags of arguments}; list of {text
// key, text WGSL}.
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/base/bytes.h"
#include "core/base/json.h"
#include "core/ffi/module.h"
#include "core/ffi/registry.h"
#include "core/runtime/tensor.h"
#include "core/vm/closure.h"
#include "core/vm/vm.h"

namespace sluice::vm {
namespace {

using ffi::Any;
using ffi::Args;
using ffi::ModuleObject;
using ffi::Ref;

struct Shader {
  std::string launch;  // how it is launched, as JSON
  std::string source;  // WGSL
  Any made;            // its function, once there is one
};

struct Shaders {
  ffi::OrderedMap by_name;  // index of a shader
  std::vector<Shader> all;

  Shader* find(std::string_view name) {
    const TVMFFIAny* index = by_name.find(name);
    return index == nullptr ? nullptr : &all[static_cast<size_t>(index->v_int64)];
  }
};

struct WebGpuModule {
  ModuleObject base;
  std::unique_ptr<Shaders> shaders;
};

Shaders& shaders_of(ModuleObject* module) {
  return *reinterpret_cast<WebGpuModule*>(module)->shaders;
}

// ---- Reading ----

std::string json_quoted(std::string_view text) {
  JsonWriter writer;
  writer.string(text);
  return std::move(writer).take();
}

int bad(std::string_view what) {
  return ffi::raise_value(concat("module of kind 'webgpu': ", what));
}

class Loader {
 public:
  Loader(std::string_view bytes, Shaders* out)
      : reader_(as_bytes(bytes)), total_(bytes.size()), out_(*out) {}

  int load() {
    const auto count = read_count(8 + 8 + 8 + 8 + 8);
    if (!count) return cut();
    for (uint64_t i = 0; i < *count; ++i)
      if (load_launch() != 0) return -1;
    const auto sources = read_count(8 + 8);
    if (!sources) return cut();
    for (uint64_t i = 0; i < *sources; ++i) {
      const auto name = read_text();
      const auto source = name ? read_text() : std::nullopt;
      if (!source) return cut();
      Shader* shader = out_.find(*name);
      if (shader == nullptr)
        return bad(concat("nothing says how the shader ", quote(*name), " is launched"));
      shader->source = *source;
    }
    for (size_t i = out_.by_name.next(0); i != out_.by_name.end(); i = out_.by_name.next(i + 1))
      if (out_.all[static_cast<size_t>(out_.by_name.value(i).v_int64)].source.empty())
        return bad(concat("the shader ", quote(ffi::text(out_.by_name.key(i))), " has no source"));
    if (reader_.position() != total_)
      return bad(concat(total_ - reader_.position(), " bytes are left over"));
    return 0;
  }

 private:
  int cut() { return bad(concat("cut at byte ", reader_.position())); }

  std::optional<uint64_t> read_count(uint64_t least) {
    const auto count = reader_.read<uint64_t>();
    if (!count || *count > (total_ - reader_.position()) / least) return std::nullopt;
    return count;
  }

  std::optional<std::string_view> read_text() {
    const auto size = reader_.read<uint64_t>();
    const auto bytes = size ? reader_.take(*size) : std::nullopt;
    if (!bytes) return std::nullopt;
    return as_text(*bytes);
  }

  int load_launch() {
    const auto key = read_text();
    const auto name = key ? read_text() : std::nullopt;
    const auto types = name ? read_count(4) : std::nullopt;
    if (!types) return cut();
    // The host launches it by its key
    std::string json = concat("{\"name\":", json_quoted(*key), ",\"arg_types\":[");
    for (uint64_t i = 0; i < *types; ++i) {
      const auto code = reader_.read<uint8_t>();
      const auto bits = reader_.read<uint8_t>();
      const auto lanes = reader_.read<uint16_t>();
      if (!lanes) return cut();
      const DLDataType dtype = {*code, *bits, *lanes};
      Any text;
      if (TVMFFIDataTypeToString(&dtype, text.receive()) != 0) return -1;
      json += concat(i == 0 ? "" : ",", json_quoted(ffi::text(text.view())));
    }
    json += "],\"launch_param_tags\":[";
    const auto tags = read_count(8);
    if (!tags) return cut();
    for (uint64_t i = 0; i < *tags; ++i) {
      const auto tag = read_text();
      if (!tag) return cut();
      json += concat(i == 0 ? "" : ",", json_quoted(*tag));
    }
    json += "],\"arg_extra_tags\":[";
    const auto extra = read_count(4);
    if (!extra) return cut();
    for (uint64_t i = 0; i < *extra; ++i) {
      const auto tag = reader_.read<int32_t>();
      if (!tag) return cut();
      json += concat(i == 0 ? "" : ",", *tag);
    }
    json += "]}";
    if (out_.find(*key) != nullptr)
      return bad(concat("the shader ", quote(*key), " is there twice"));
    const auto index = static_cast<int64_t>(out_.all.size());
    out_.all.push_back({.launch = std::move(json), .source = {}, .made = {}});
    return out_.by_name.set(*key, Any::adopt(ffi::of_int(index)));
  }

  ByteReader reader_;
  uint64_t total_;
  Shaders& out_;
};

// ---- The module's functions ----

struct Bound {
  ffi::Builtin named;
  Ref<ModuleObject> module;
};

Shaders& bound_shaders(void* self) { return shaders_of(static_cast<Bound*>(self)->module.get()); }
Args bound_args(void* self, const TVMFFIAny* args, int32_t count) {
  return {&static_cast<Bound*>(self)->named, args, count};
}

Shader* shader_argument(const Args& args, Shaders* shaders) {
  std::string_view name;
  if (!args.string(0, &name)) return nullptr;
  Shader* shader = shaders->find(name);
  if (shader == nullptr)
    ffi::raise_value(concat(args.name(), ": the module has no shader ", quote(name)));
  return shader;
}

// Of all shaders, how they are launched: an object in JSON, by name
int get_fmap(void* self, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  if (!bound_args(self, values, count).expect(0)) return -1;
  const Shaders& shaders = bound_shaders(self);
  std::string json = "{";
  const auto& names = shaders.by_name;
  for (size_t i = names.next(0); i != names.end(); i = names.next(i + 1))
    json += concat(json.size() == 1 ? "" : ",", json_quoted(ffi::text(names.key(i))), ":",
                   shaders.all[static_cast<size_t>(names.value(i).v_int64)].launch);
  return ffi::make_string(json + "}", result);
}

// (name): WGSL
int get_shader(void* self, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args = bound_args(self, values, count);
  const Shader* shader = args.expect(1) ? shader_argument(args, &bound_shaders(self)) : nullptr;
  return shader == nullptr ? -1 : ffi::make_string(shader->source, result);
}

// (name, function that launches it)
int update_prebuild(void* self, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args = bound_args(self, values, count);
  *result = ffi::none();
  Shader* shader = args.expect(2) ? shader_argument(args, &bound_shaders(self)) : nullptr;
  Any made;
  if (shader == nullptr || args.object(1, kTVMFFIFunction) == nullptr || !args.owned(1, &made))
    return -1;
  shader->made = std::move(made);
  return 0;
}

constexpr ffi::Builtin kMethods[] = {
    {"webgpu.get_fmap", get_fmap},
    {"webgpu.get_shader", get_shader},
    {"webgpu.update_prebuild", update_prebuild},
};

// The function of a shader; the host makes it where it was not made beforehand.
int make_shader(Shader* shader, std::string_view name, TVMFFIAny* out) {
  if (shader->made.view().type_index == kTVMFFINone) {
    constexpr std::string_view kCreate = "wasm.WebGPUCreateShader";
    const auto create = ffi::find_function(kCreate);
    if (!create)
      return ffi::raise("RuntimeError",
                        concat("the shader ", quote(name), " needs the global function ", kCreate,
                               ", which a host with WebGPU registers"));
    Any launch, source, made;
    if (ffi::make_string(shader->launch, launch.receive()) != 0 ||
        ffi::make_string(shader->source, source.receive()) != 0)
      return -1;
    const TVMFFIAny arguments[] = {launch.view(), source.view()};
    if (ffi::call(create.get(), arguments, &made) != 0) return -1;
    if (made.view().type_index != kTVMFFIFunction)
      return ffi::raise_type(
          concat(kCreate, " returned ", ffi::type_key_of(made.view()), ", not a function"));
    shader->made = std::move(made);
  }
  *out = Any(shader->made).take();
  return 0;
}

int get_function(ModuleObject* module, std::string_view name, TVMFFIAny* out) {
  *out = ffi::none();
  for (const ffi::Builtin& method : kMethods) {
    if (name != method.name) continue;
    auto bound =
        std::make_unique<Bound>(Bound{{method.name, nullptr}, Ref<ModuleObject>::share(module)});
    auto function = ffi::make_function(bound.release(), method.call,
                                       [](void* self) { delete static_cast<Bound*>(self); });
    if (!function) return -1;
    *out = ffi::of_object(std::move(function));
    return 0;
  }
  Shader* shader = shaders_of(module).find(name);
  return shader == nullptr ? 0 : make_shader(shader, name, out);
}

constexpr ffi::ModuleKind kWebGpu = {
    .name = "webgpu",
    .property_mask = ffi::kModuleBinarySerializable,
    .get_function = get_function,
    .get_metadata = nullptr,
    .get_doc = nullptr,
    .destroy =
        [](ModuleObject* module) {
          std::destroy_at(&reinterpret_cast<WebGpuModule*>(module)->shaders);
        },
};

int load_from_bytes(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  std::string_view bytes;
  if (!args.expect(1) || !args.bytes(0, &bytes)) return -1;
  auto shaders = std::make_unique<Shaders>();
  if (Loader(bytes, shaders.get()).load() != 0) return -1;
  auto module = ffi::make_module(kWebGpu, sizeof(WebGpuModule));
  if (!module) return -1;
  std::construct_at(&reinterpret_cast<WebGpuModule*>(module.get())->shaders, std::move(shaders));
  *result = ffi::of_object(std::move(module));
  return 0;
}

constexpr ffi::Builtin kBuiltins[] = {
    {"ffi.Module.load_from_bytes.webgpu", load_from_bytes},
};

}  // namespace

std::span<const ffi::Builtin> webgpu_module_builtins() { return kBuiltins; }

}  // namespace sluice::vm
