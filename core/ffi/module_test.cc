// Modules, the library of linked symbols, import trees.
#include "core/ffi/module.h"

#include <string>

#include "core/ffi/registry.h"
#include "core/ffi/test_support.h"

namespace sluice::ffi {
namespace {

int answer(void* self, const TVMFFIAny* args, int32_t num_args, TVMFFIAny* result) {
  EXPECT_EQ(self, nullptr) << "linked functions get no state";
  *result = of_int(num_args == 0 ? 42 : args[0].v_int64 * 2);
  return 0;
}

int schema(void*, const TVMFFIAny*, int32_t, TVMFFIAny* result) {
  return make_string("the schema of answer", result);
}

int link(const std::string& name, void* symbol) {
  return TVMFFIEnvModRegisterSystemLibSymbol(name.c_str(), symbol);
}

template <class F>
void* symbol_of(F* function) {
  return reinterpret_cast<void*>(function);
}

Any get_function_of(const Any& module, const char* name, bool query_imports = false) {
  return call("ffi.ModuleGetFunction", {module.view(), of_text(name), of_bool(query_imports)});
}

// A module of one function, whose loads and ends are counted
struct TestModule {
  ModuleObject base;
  std::string name;
};
int test_modules_alive = 0;

constexpr ModuleKind kTestKind = {
    .name = "test",
    .property_mask = kModuleRunnable,
    .get_function =
        [](ModuleObject* module, std::string_view name, TVMFFIAny* out) {
          *out = none();
          if (name == "broken") return raise_value("test: broken");
          if (name != reinterpret_cast<TestModule*>(module)->name) return 0;
          *out = of_object(make_function(nullptr, answer, nullptr));
          return 0;
        },
    .get_metadata = nullptr,
    .get_doc = nullptr,
    .destroy =
        [](ModuleObject* module) {
          std::destroy_at(&reinterpret_cast<TestModule*>(module)->name);
          --test_modules_alive;
        },
};

Any test_module(std::string_view name) {
  auto module = make_module(kTestKind, sizeof(TestModule));
  std::construct_at(&reinterpret_cast<TestModule*>(module.get())->name, name);
  ++test_modules_alive;
  return Any::adopt(of_object(std::move(module)));
}

TEST(SystemLibrary, FindsLinkedFunctionsByTheirSymbols) {
  ASSERT_EQ(link("__tvm_ffi_a_answer", symbol_of(answer)), 0);
  ASSERT_EQ(link("__tvm_ffi_shared_answer", symbol_of(answer)), 0);
  ASSERT_EQ(link("__tvm_ffi__metadata_answer_of_a", symbol_of(schema)), 0);
  const Any library = call("ffi.SystemLib", {of_text("a_")});
  EXPECT_EQ(call("ffi.SystemLib", {of_text("a_")}).view().v_obj, library.view().v_obj);
  EXPECT_NE(call("ffi.SystemLib", {of_text("b_")}).view().v_obj, library.view().v_obj);
  const Any function = get_function_of(library, "answer");
  ASSERT_EQ(function.view().type_index, kTVMFFIFunction);
  Any result;
  TVMFFIAny arg = of_int(4);
  ASSERT_EQ(TVMFFIFunctionCall(function.view().v_obj, &arg, 1, result.receive()), 0);
  EXPECT_EQ(result.view().v_int64, 8);
  EXPECT_EQ(get_function_of(library, "shared_answer").view().type_index, kTVMFFIFunction);
  EXPECT_EQ(get_function_of(library, "nothing").view().type_index, kTVMFFINone);
  const auto ask = [&library](std::string_view builtin, const char* name) {
    return call(builtin, {library.view(), of_text(name), of_bool(true)});
  };
  EXPECT_EQ(ask("ffi.ModuleImplementsFunction", "answer").view().v_int64, 1);
  EXPECT_EQ(ask("ffi.ModuleImplementsFunction", "nothing").view().v_int64, 0);
  EXPECT_EQ(text(ask("ffi.ModuleGetFunctionMetadata", "answer_of_a").view()),
            "the schema of answer");
  EXPECT_EQ(ask("ffi.ModuleGetFunctionMetadata", "answer").view().type_index, kTVMFFINone);
  EXPECT_EQ(ask("ffi.ModuleGetFunctionDoc", "answer").view().type_index, kTVMFFINone);
  EXPECT_EQ(text(call("ffi.ModuleGetKind", {library.view()}).view()), "library");
  EXPECT_EQ(call("ffi.ModuleGetPropertyMask", {library.view()}).view().v_int64, 3);
}

// As the constructors of a linked model do, before main() and before initialize()
Handle early_function;
const bool registered_early = [] {
  const TVMFFIByteArray name = bytes_of("test.early"), taken = bytes_of("ffi.Array");
  return link("__tvm_ffi_early_answer", symbol_of(answer)) == 0 &&
         TVMFFIFunctionCreate(nullptr, answer, nullptr, early_function.receive()) == 0 &&
         TVMFFIFunctionSetGlobal(&name, early_function.get(), 0) == 0 &&
         // The builtins are there already, so the order makes no difference
         TVMFFIFunctionSetGlobal(&taken, early_function.get(), 0) != 0 &&
         take_raised().kind == "RuntimeError";
}();

TEST(SystemLibrary, HasWhatConstructorsRegistered) {
  EXPECT_TRUE(registered_early);
  initialize();
  EXPECT_EQ(call("test.early", {}).view().v_int64, 42);
  const Any library = call("ffi.SystemLib", {});
  EXPECT_EQ(get_function_of(library, "early_answer").view().type_index, kTVMFFIFunction);
}

TEST(SystemLibrary, FillsTheContextOfItsSymbols) {
  static void* context = nullptr;
  static void* service = nullptr;
  int service_value = 0;
  ASSERT_EQ(link("c___tvm_ffi__library_ctx", &context), 0);
  ASSERT_EQ(link("c_test_service", &service), 0);
  ASSERT_EQ(TVMFFIEnvModRegisterContextSymbol("test_service", &service_value), 0);
  const Any library = call("ffi.SystemLib", {of_text("c_")});
  EXPECT_EQ(context, library.view().v_obj);
  EXPECT_EQ(service, &service_value);
}

TEST(SystemLibrary, MisuseIsAnError) {
  expect_raised(TVMFFIEnvModRegisterSystemLibSymbol(nullptr, &test_modules_alive), "ValueError",
                {"name"});
  expect_raised(TVMFFIEnvModRegisterSystemLibSymbol("x", nullptr), "ValueError", {"symbol"});
  expect_raised(TVMFFIEnvModRegisterContextSymbol(nullptr, nullptr), "ValueError", {"name"});
  expect_call_raises("ffi.SystemLib", {of_int(1)}, "TypeError", {"a string", "int"});
  expect_call_raises("ffi.SystemLib", {of_text("a"), of_text("b")}, "TypeError", {"takes 1"});
  const Any library = call("ffi.SystemLib", {of_text("m_")});
  expect_call_raises("ffi.ModuleGetFunction", {library.view(), of_text("x")}, "TypeError",
                     {"takes 3", "not 2"});
  expect_call_raises("ffi.ModuleGetFunction", {of_int(0), of_text("x"), of_bool(false)},
                     "TypeError", {"ffi.Module"});
  expect_call_raises("ffi.ModuleGetFunction", {library.view(), of_text("x"), of_text("y")},
                     "TypeError", {"argument 2", "bool"});
  ModuleObject other = {.header = {.combined_ref_count = kStrongOne | kWeakOne,
                                   .type_index = kTVMFFIModule,
                                   .deleter = nullptr},
                        .kind = nullptr,
                        .imports = {},
                        .found = {}};
  expect_call_raises("ffi.ModuleGetKind", {of_object(&other.header)}, "TypeError",
                     {"another library"});
}

TEST(Modules, FindFunctionsInTheirImportsInOrder) {
  {
    const Any root = test_module("root"), one = test_module("one"), two = test_module("two"),
              deep = test_module("deep");
    call("ffi.ModuleImportModule", {root.view(), one.view()});
    call("ffi.ModuleImportModule", {root.view(), two.view()});
    call("ffi.ModuleImportModule", {one.view(), deep.view()});
    EXPECT_EQ(get_function_of(root, "deep", true).view().type_index, kTVMFFIFunction);
    EXPECT_EQ(get_function_of(root, "two", true).view().type_index, kTVMFFIFunction);
    EXPECT_EQ(get_function_of(root, "two", false).view().type_index, kTVMFFINone);
    expect_call_raises("ffi.ModuleGetFunction", {root.view(), of_text("broken"), of_bool(true)},
                       "ValueError", {"broken"});
    expect_call_raises("ffi.ModuleImportModule", {deep.view(), root.view()}, "RuntimeError",
                       {"imports it"});
    expect_call_raises("ffi.ModuleImportModule", {root.view(), root.view()}, "RuntimeError",
                       {"itself"});
    call("ffi.ModuleClearImports", {root.view()});
    EXPECT_EQ(get_function_of(root, "deep", true).view().type_index, kTVMFFINone);
    call("ffi.ModuleGlobalsAdd", {deep.view()});
    EXPECT_EQ(strong_count(deep.view().v_obj), 3u);
    call("ffi.ModuleGlobalsRemove", {deep.view()});
    EXPECT_EQ(strong_count(deep.view().v_obj), 2u);
  }
  EXPECT_EQ(test_modules_alive, 0);
}

TEST(Modules, AHundredThousandInOneAnother) {
  {
    Any root = test_module("deepest");
    for (int i = 0; i < 100'000; ++i) {
      Any next = test_module("between");
      auto* module = reinterpret_cast<ModuleObject*>(next.view().v_obj);
      module->imports.push_back(
          Ref<ModuleObject>::share(reinterpret_cast<ModuleObject*>(root.view().v_obj)));
      root = std::move(next);
    }
    EXPECT_EQ(get_function_of(root, "deepest", true).view().type_index, kTVMFFIFunction);
  }
  EXPECT_EQ(test_modules_alive, 0);
}

TEST(LookupFromImports, AsCompiledCodeAsks) {
  const Any root = test_module("own"), import = test_module("imported");
  call("ffi.ModuleImportModule", {root.view(), import.view()});
  TVMFFIObjectHandle found = nullptr, again = nullptr;
  ASSERT_EQ(TVMFFIEnvModLookupFromImports(root.view().v_obj, "imported", &found), 0);
  ASSERT_EQ(TVMFFIEnvModLookupFromImports(root.view().v_obj, "imported", &again), 0);
  EXPECT_EQ(found, again) << "kept by the module";
  EXPECT_EQ(strong_count(static_cast<TVMFFIObject*>(found)), 1u);
  ASSERT_EQ(TVMFFIEnvModLookupFromImports(root.view().v_obj, "ffi.ArraySize", &found), 0);
  EXPECT_NE(found, nullptr) << "the global registry comes last";
  expect_raised(TVMFFIEnvModLookupFromImports(root.view().v_obj, "own", &found), "RuntimeError",
                {"'own'"});
  EXPECT_EQ(found, nullptr);
  expect_raised(TVMFFIEnvModLookupFromImports(nullptr, "x", &found), "ValueError", {"library_ctx"});
  expect_raised(TVMFFIEnvModLookupFromImports(root.view().v_obj, nullptr, &found), "ValueError",
                {"func_name"});
  expect_raised(TVMFFIEnvModLookupFromImports(root.view().v_obj, "x", nullptr), "ValueError",
                {"out"});
  const Any array = call("ffi.Array", {});
  expect_raised(TVMFFIEnvModLookupFromImports(array.view().v_obj, "x", &found), "TypeError",
                {"ffi.Module"});
}

// ---- Import trees ----

std::string u64(uint64_t value) { return {reinterpret_cast<const char*>(&value), sizeof(value)}; }
std::string list(const std::vector<uint64_t>& values) {
  std::string out = u64(values.size());
  for (const uint64_t value : values) out += u64(value);
  return out;
}
std::string sized(std::string_view content) { return u64(content.size()) + std::string(content); }

// The loader makes a module whose function is named as the bytes say
int load_test_module(void*, const TVMFFIAny* args, int32_t num_args, TVMFFIAny* result) {
  EXPECT_EQ(num_args, 1);
  *result = text(args[0]) == "wrong" ? of_int(3) : test_module(text(args[0])).take();
  return 0;
}

void register_loader() {
  static constexpr Builtin kLoader[] = {{"ffi.Module.load_from_bytes.test", load_test_module}};
  if (!find_function(kLoader[0].name)) ASSERT_EQ(register_functions(kLoader), 0);
}

// Three modules: 0 imports the library and 2
std::string good_tree() {
  return list({0, 2, 2, 2}) + list({1, 2}) + sized("test") + sized("zero") + sized("_lib") +
         sized("test") + sized("two");
}

TEST(ImportTree, LoadsTheModulesAndTheirImports) {
  register_loader();
  ASSERT_EQ(link("__tvm_ffi_t_linked", symbol_of(answer)), 0);
  static const std::string blob = sized(good_tree());
  static void* context = nullptr;
  ASSERT_EQ(link("t___tvm_ffi__library_bin", const_cast<char*>(blob.data())), 0);
  ASSERT_EQ(link("t___tvm_ffi__library_ctx", &context), 0);
  const Any root = call("ffi.SystemLib", {of_text("t_")});
  EXPECT_EQ(text(call("ffi.ModuleGetKind", {root.view()}).view()), "test");
  for (const char* name : {"zero", "linked", "two"})
    EXPECT_EQ(get_function_of(root, name, true).view().type_index, kTVMFFIFunction) << name;
  ASSERT_NE(context, nullptr);
  EXPECT_NE(context, root.view().v_obj) << "the context is the library, not the root";
  TVMFFIObjectHandle found = nullptr;
  expect_raised(TVMFFIEnvModLookupFromImports(context, "two", &found), "RuntimeError", {"'two'"});
}

int load(const std::string& tree, std::string_view prefix = {}) {
  register_loader();
  const auto library = system_library(concat("tree_", prefix));
  library->imports.clear();
  Ref<ModuleObject> root;
  const int status = load_import_tree(tree, library.get(), &root);
  EXPECT_EQ(static_cast<bool>(root), status == 0);
  root = {};
  library->imports.clear();
  return status;
}

TEST(ImportTree, WhatIsCutOrContradictsItselfIsAnError) {
  const int before = test_modules_alive;
  ASSERT_EQ(load(sized(good_tree())), 0) << take_raised().message;
  const std::string tree = good_tree();
  for (size_t size = 0; size < tree.size(); ++size) {
    EXPECT_NE(load(sized(tree.substr(0, size))), 0) << size;
    EXPECT_TRUE(take_raised().message.contains("__tvm_ffi__library_bin")) << size;
  }
  expect_raised(load(sized(tree).substr(0, 20)), "ValueError", {"shorter"});
  expect_raised(load(""), "ValueError", {"shorter"});
  const std::string one = sized("test") + sized("x");
  expect_raised(load(sized(list({}) + list({}))), "ValueError", {"no module"});
  expect_raised(load(sized(list({0}) + list({}))), "ValueError", {"no module"});
  expect_raised(load(sized(list({1, 0}) + list({0}) + one)), "ValueError", {"children 1 to 0"});
  expect_raised(load(sized(list({0, 5}) + list({0}) + one)), "ValueError",
                {"children 0 to 5 of 1"});
  expect_raised(load(sized(list({0, 1}) + list({7}) + one)), "ValueError", {"child 7 of 1"});
  expect_raised(load(sized(list({0, 1}) + list({0}) + one)), "RuntimeError", {"itself"});
  expect_raised(load(sized(u64(UINT64_MAX / 8) + tree)), "ValueError", {"cut"});
  expect_raised(load(sized(u64(UINT64_MAX) + tree)), "ValueError", {"cut"});
  expect_raised(load(sized(list(std::vector<uint64_t>(3000)) + list({}))), "ValueError",
                {"2999 modules"});
  expect_raised(load(sized(list({0, 0}) + list({}) + sized("nothing") + sized("x"))),
                "RuntimeError", {"'nothing'", "ffi.Module.load_from_bytes.nothing"});
  expect_raised(load(sized(list({0, 0}) + list({}) + sized("test") + sized("wrong"))), "TypeError",
                {"int", "ffi.Module"});
  EXPECT_EQ(test_modules_alive, before);
}

TEST(ImportTree, ABadOneOfALibraryLeavesNothingBehind) {
  static const std::string blob = sized(list({0}) + list({}));
  static void* context = nullptr;
  ASSERT_EQ(link("bad___tvm_ffi__library_bin", const_cast<char*>(blob.data())), 0);
  ASSERT_EQ(link("bad___tvm_ffi__library_ctx", &context), 0);
  for (int i = 0; i < 2; ++i)
    expect_call_raises("ffi.SystemLib", {of_text("bad_")}, "ValueError", {"no module"});
  EXPECT_EQ(context, nullptr);
  static const std::string huge = u64(UINT64_MAX);
  ASSERT_EQ(link("huge___tvm_ffi__library_bin", const_cast<char*>(huge.data())), 0);
  expect_call_raises("ffi.SystemLib", {of_text("huge_")}, "ValueError", {"18446744073709551615"});
}

TEST(LoadFromFile, AsksTheLoaderOfTheExtension) {
  static constexpr Builtin kLoaders[] = {
      {"ffi.Module.load_from_file.testext",
       [](void*, const TVMFFIAny* args, int32_t, TVMFFIAny* result) {
         *result = text(args[0]).starts_with("bad") ? of_int(1) : test_module(text(args[1])).take();
         return 0;
       }}};
  ASSERT_EQ(register_functions(kLoaders), 0);
  const Any module = call("ffi.ModuleLoadFromFile", {of_text("a/b.c.testext")});
  EXPECT_EQ(get_function_of(module, "testext").view().type_index, kTVMFFIFunction);
  expect_call_raises("ffi.ModuleLoadFromFile", {of_text("bad.testext")}, "TypeError", {"int"});
  expect_call_raises("ffi.ModuleLoadFromFile", {of_text("model.dll")}, "RuntimeError",
                     {"load_from_file.so", "model.dll"});
  expect_call_raises("ffi.ModuleLoadFromFile", {of_text("model")}, "ValueError", {"extension"});
  call("ffi.FunctionRemoveGlobal", {of_text("ffi.Module.load_from_file.testext")});
}

}  // namespace
}  // namespace sluice::ffi
