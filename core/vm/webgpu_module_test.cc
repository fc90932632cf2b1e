// Modules of kind "webgpu".
#include "core/vm/test_support.h"

namespace sluice::vm {
namespace {

using ffi::Any;
using ffi::call;
using ffi::of_text;

struct Part {
  std::string key, source;
};

// Two shaders, of which `spoil` may change the bytes
std::string blob(const std::vector<std::string>& launches, const std::vector<Part>& sources) {
  Blob out;
  out.put<uint64_t>(launches.size());
  for (const std::string& each : launches) {
    out.text(each).text(each).put<uint64_t>(2);
    out.put<uint8_t>(3).put<uint8_t>(64).put<uint16_t>(1);
    out.put<uint8_t>(0).put<uint8_t>(32).put<uint16_t>(1);
    out.put<uint64_t>(1).text("blockIdx.x").put<uint64_t>(1).put<int32_t>(0);
  }
  out.put<uint64_t>(sources.size());
  for (const Part& each : sources) out.text(each.key).text(each.source);
  return out.bytes();
}

int load(std::string_view bytes, Any* out) {
  initialize();
  Any content;
  EXPECT_EQ(ffi::make_bytes(bytes, content.receive()), 0);
  return ffi::try_call("ffi.Module.load_from_bytes.webgpu", {content.view()}, out);
}

Any function_of(const Any& module, const char* name) {
  return call("ffi.ModuleGetFunction", {module.view(), of_text(name), ffi::of_bool(false)});
}

int call_it(const Any& function, std::vector<TVMFFIAny> args, Any* result) {
  EXPECT_EQ(function.view().type_index, kTVMFFIFunction);
  return TVMFFIFunctionCall(function.view().v_obj, args.data(), static_cast<int32_t>(args.size()),
                            result->receive());
}

// What a host registers: it keeps what it was given
std::vector<std::string> created;
int launch(void*, const TVMFFIAny*, int32_t, TVMFFIAny* result) {
  *result = ffi::of_int(42);
  return 0;
}
int create_shader(void*, const TVMFFIAny* args, int32_t, TVMFFIAny* result) {
  created.emplace_back(concat(ffi::text(args[0]), " ", ffi::text(args[1])));
  *result = ffi::of_object(ffi::make_function(nullptr, launch, nullptr));
  return 0;
}

TEST(WebGpuModule, GivesShadersAndTheirLaunches) {
  Any module, result;
  ASSERT_EQ(load(blob({"add", "mul\"1"}, {{"mul\"1", "// mul"}, {"add", "// add"}}), &module), 0)
      << ffi::take_raised().message;
  ASSERT_EQ(call_it(function_of(module, "webgpu.get_fmap"), {}, &result), 0);
  EXPECT_EQ(
      ffi::text(result.view()),
      R"({"add":{"name":"add","arg_types":["handle","int32"],"launch_param_tags":["blockIdx.x"],)"
      R"("arg_extra_tags":[0]},"mul\"1":{"name":"mul\"1","arg_types":["handle","int32"],)"
      R"("launch_param_tags":["blockIdx.x"],"arg_extra_tags":[0]}})");
  ASSERT_EQ(call_it(function_of(module, "webgpu.get_shader"), {of_text("add")}, &result), 0);
  EXPECT_EQ(ffi::text(result.view()), "// add");
  ffi::expect_raised(call_it(function_of(module, "webgpu.get_shader"), {of_text("no")}, &result),
                     "ValueError", {"webgpu.get_shader: the module has no shader 'no'"});
  EXPECT_EQ(function_of(module, "no").view().type_index, kTVMFFINone);
}

TEST(WebGpuModule, TheHostMakesFunctionsOnce) {
  Any module, result, function;
  ASSERT_EQ(load(blob({"add", "mul"}, {{"mul", "// mul"}, {"add", "// add"}}), &module), 0);
  ffi::expect_call_raises("ffi.ModuleGetFunction",
                          {module.view(), of_text("add"), ffi::of_bool(false)}, "RuntimeError",
                          {"the shader 'add' needs the global function wasm.WebGPUCreateShader"});
  static constexpr ffi::Builtin kHost[] = {{"wasm.WebGPUCreateShader", create_shader}};
  ASSERT_EQ(ffi::register_functions(kHost), 0);
  for (int i = 0; i < 2; ++i) {
    ASSERT_EQ(call_it(function_of(module, "add"), {}, &result), 0);
    EXPECT_EQ(result.view().v_int64, 42);
  }
  ASSERT_EQ(created.size(), 1U);
  EXPECT_TRUE(created[0].starts_with(R"({"name":"add",)") && created[0].ends_with("} // add"))
      << created[0];
  // One that was made beforehand is taken as it is
  const ffi::Handle prebuilt = ffi::global("vm.builtin.null_value");
  ASSERT_EQ(call_it(function_of(module, "webgpu.update_prebuild"), {of_text("mul"), prebuilt.any()},
                    &result),
            0);
  EXPECT_EQ(function_of(module, "mul").view().v_obj, prebuilt.object());
  EXPECT_EQ(created.size(), 1U);
  ffi::expect_raised(call_it(function_of(module, "webgpu.update_prebuild"),
                             {of_text("mul"), ffi::of_int(1)}, &result),
                     "TypeError", {"webgpu.update_prebuild"});
  call("ffi.FunctionRemoveGlobal", {of_text("wasm.WebGPUCreateShader")});
}

TEST(WebGpuModule, BadBytesAreRefused) {
  const std::string good = blob({"add"}, {{"add", "// add"}});
  Any module;
  for (size_t size = 0; size < good.size(); ++size)
    ffi::expect_raised(load(good.substr(0, size), &module), "ValueError",
                       {"module of kind 'webgpu': cut at byte"});
  ffi::expect_raised(load(good + "x", &module), "ValueError", {"1 bytes are left over"});
  ffi::expect_raised(load(blob({"add"}, {{"mul", "// mul"}}), &module), "ValueError",
                     {"nothing says how the shader 'mul' is launched"});
  ffi::expect_raised(load(blob({"add"}, {}), &module), "ValueError",
                     {"the shader 'add' has no source"});
  ffi::expect_raised(load(blob({"add", "add"}, {{"add", "// add"}}), &module), "ValueError",
                     {"the shader 'add' is there twice"});
}

// Of the compiled fixture's import tree
TEST(WebGpuModule, LoadsWhatTheCompilerWrites) {
  const std::string object = fixture("basic_webgpu.lib.o");
  const std::string kind("\x06\0\0\0\0\0\0\0webgpu", 14);
  const size_t at = object.find(kind);
  ASSERT_NE(at, std::string::npos);
  uint64_t size = 0;
  std::memcpy(&size, object.data() + at + kind.size(), sizeof(size));
  Any module, result;
  ASSERT_EQ(load(object.substr(at + kind.size() + 8, size), &module), 0)
      << ffi::take_raised().message;
  ASSERT_EQ(call_it(function_of(module, "webgpu.get_fmap"), {}, &result), 0);
  EXPECT_TRUE(
      ffi::text(result.view()).contains("\"softmax1_kernel\":{\"name\":\"softmax1_kernel\""))
      << ffi::text(result.view());
}

}  // namespace
}  // namespace sluice::vm
