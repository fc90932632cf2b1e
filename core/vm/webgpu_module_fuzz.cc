// Any bytes are a module of kind "webgpu", whose launches are JSON and whose shaders are there, or
// fail with a raised error.
#include <cstdlib>
#include <string_view>

#include "core/base/json.h"
#include "core/ffi/module.h"
#include "core/ffi/registry.h"
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

// What a function of the module gives, which must not fail
Any give(ffi::ModuleObject* module, std::string_view name, std::span<const TVMFFIAny> args) {
  Any function, result;
  require(ffi::get_function(module, name, false, &function) == 0);
  require(function.view().type_index == kTVMFFIFunction);
  require(ffi::call(reinterpret_cast<ffi::FunctionObject*>(function.view().v_obj), args, &result) ==
          0);
  return result;
}

void check(ffi::ModuleObject* module) {
  const Any launches = give(module, "webgpu.get_fmap", {});
  // Names that are not UTF-8 are written as something else, and two may then be one
  const auto parsed = parse_json(ffi::text(launches.view()), "launches");
  if (!parsed) return;
  require(parsed->as_object() != nullptr);
  for (const auto& [name, launch] : *parsed->as_object()) {
    require(launch.find("arg_types") != nullptr && launch.find("launch_param_tags") != nullptr);
    if (name.contains("\xEF\xBF\xBD")) continue;
    Any key;
    require(ffi::make_string(name, key.receive()) == 0);
    require(!ffi::text(give(module, "webgpu.get_shader", {&key.view(), 1}).view()).empty());
  }
}

}  // namespace
}  // namespace sluice::vm

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace sluice;      // NOLINT(google-build-using-namespace)
  using namespace sluice::vm;  // NOLINT(google-build-using-namespace)
  static const auto load = [] {
    initialize();
    return ffi::find_function("ffi.Module.load_from_bytes.webgpu");
  }();
  Any bytes, module;
  require(ffi::make_bytes({reinterpret_cast<const char*>(data), size}, bytes.receive()) == 0);
  if (ffi::call(load.get(), {&bytes.view(), 1}, &module) != 0) {
    drop_error();
    return 0;
  }
  check(ffi::checked_module(module.view().v_obj, "fuzz", "the module"));
  return 0;
}
