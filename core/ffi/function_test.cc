// Functions, calls, the global registry.
#include <set>

#include "core/ffi/registry.h"
#include "core/ffi/test_support.h"

namespace sluice::ffi {
namespace {

int add(void* self, const TVMFFIAny* args, int32_t num_args, TVMFFIAny* result) {
  int64_t sum = self == nullptr ? 0 : *static_cast<int64_t*>(self);
  for (int32_t i = 0; i < num_args; ++i) sum += args[i].v_int64;
  *result = of_int(sum);
  return 0;
}

TEST(Functions, CallWithTheirStateAndEndWithTheDeleter) {
  static int deleted = 0;
  int64_t state = 100;
  Handle function;
  ASSERT_EQ(TVMFFIFunctionCreate(&state, add, [](void*) { ++deleted; }, function.receive()), 0);
  EXPECT_EQ(reinterpret_cast<FunctionObject*>(function.get())->cell.cpp_call, nullptr);
  TVMFFIAny args[] = {of_int(1), of_int(2)}, result{};
  ASSERT_EQ(TVMFFIFunctionCall(function.get(), args, 2, &result), 0);
  EXPECT_EQ(result.v_int64, 103);
  // As compiled code calls, without TVMFFIFunctionCall
  const auto& cell = reinterpret_cast<FunctionObject*>(function.get())->cell;
  ASSERT_EQ(cell.safe_call(function.get(), args, 1, &result), 0);
  EXPECT_EQ(result.v_int64, 101);
  function.reset();
  EXPECT_EQ(deleted, 1);
}

TEST(Functions, MisuseIsAnError) {
  Handle function;
  TVMFFIAny arg = of_int(1), result{};
  expect_raised(TVMFFIFunctionCreate(nullptr, nullptr, nullptr, function.receive()), "ValueError",
                {"safe_call is null"});
  expect_raised(TVMFFIFunctionCreate(nullptr, add, nullptr, nullptr), "ValueError", {"out"});
  ASSERT_EQ(TVMFFIFunctionCreate(nullptr, add, nullptr, function.receive()), 0);
  expect_raised(TVMFFIFunctionCall(nullptr, &arg, 1, &result), "ValueError", {"func is null"});
  expect_raised(TVMFFIFunctionCall(function.get(), nullptr, 1, &result), "ValueError", {"args"});
  expect_raised(TVMFFIFunctionCall(function.get(), &arg, -1, &result), "ValueError", {"-1"});
  expect_raised(TVMFFIFunctionCall(function.get(), &arg, 1, nullptr), "ValueError", {"result"});
  const Any array = call("ffi.Array", {});
  expect_raised(TVMFFIFunctionCall(array.view().v_obj, &arg, 1, &result), "TypeError",
                {"ffi.Function", "ffi.Array"});
  EXPECT_EQ(result.type_index, kTVMFFINone);
}

struct Callback {
  Handle self;
  bool deleted = false;
  bool deleted_while_running = false;
};

TEST(Functions, OneThatReleasesItselfLivesUntilItReturns) {
  Callback callback;
  TVMFFIObjectHandle function = nullptr;
  ASSERT_EQ(TVMFFIFunctionCreate(
                &callback,
                [](void* self, const TVMFFIAny*, int32_t, TVMFFIAny*) {
                  auto* state = static_cast<Callback*>(self);
                  state->self.reset();
                  state->deleted_while_running = state->deleted;
                  return 0;
                },
                [](void* self) { static_cast<Callback*>(self)->deleted = true; }, &function),
            0);
  callback.self = Handle(function);
  TVMFFIAny result{};
  EXPECT_EQ(TVMFFIFunctionCall(function, nullptr, 0, &result), 0);
  EXPECT_FALSE(callback.deleted_while_running);
  EXPECT_TRUE(callback.deleted);
}

int set_global(std::string_view name, TVMFFIObjectHandle function, bool allow_override) {
  const TVMFFIByteArray bytes = bytes_of(name);
  return TVMFFIFunctionSetGlobal(&bytes, function, allow_override ? 1 : 0);
}

TEST(Registry, GivesWhatWasSetAndReplacesOnlyWhenAsked) {
  Handle one, two;
  int64_t state = 10;
  ASSERT_EQ(TVMFFIFunctionCreate(nullptr, add, nullptr, one.receive()), 0);
  ASSERT_EQ(TVMFFIFunctionCreate(&state, add, nullptr, two.receive()), 0);
  ASSERT_EQ(set_global("test.add", one.get(), false), 0);
  EXPECT_EQ(strong_count(one.object()), 2u);
  EXPECT_EQ(call("test.add", {of_int(5)}).view().v_int64, 5);
  expect_raised(set_global("test.add", two.get(), false), "RuntimeError", {"test.add", "already"});
  ASSERT_EQ(set_global("test.add", two.get(), true), 0);
  EXPECT_EQ(strong_count(one.object()), 1u);
  EXPECT_EQ(call("test.add", {of_int(5)}).view().v_int64, 15);
  EXPECT_EQ(call("ffi.FunctionRemoveGlobal", {of_text("test.add")}).view().v_int64, 1);
  EXPECT_EQ(call("ffi.FunctionRemoveGlobal", {of_text("test.add")}).view().v_int64, 0);
  EXPECT_EQ(strong_count(two.object()), 1u);
  TVMFFIObjectHandle none_found = one.get();
  const TVMFFIByteArray name = bytes_of("test.add");
  EXPECT_EQ(TVMFFIFunctionGetGlobal(&name, &none_found), 0);
  EXPECT_EQ(none_found, nullptr);
}

TEST(Registry, MisuseIsAnError) {
  Handle function;
  ASSERT_EQ(TVMFFIFunctionCreate(nullptr, add, nullptr, function.receive()), 0);
  const TVMFFIByteArray name = bytes_of("test.misuse"), hollow = {nullptr, 3};
  TVMFFIObjectHandle out = nullptr;
  expect_raised(TVMFFIFunctionSetGlobal(nullptr, function.get(), 0), "ValueError", {"name"});
  expect_raised(TVMFFIFunctionSetGlobal(&hollow, function.get(), 0), "ValueError", {"name"});
  expect_raised(set_global("", function.get(), false), "ValueError", {"empty"});
  expect_raised(TVMFFIFunctionSetGlobal(&name, nullptr, 0), "ValueError", {"f is null"});
  const Any array = call("ffi.Array", {});
  expect_raised(TVMFFIFunctionSetGlobal(&name, array.view().v_obj, 0), "TypeError", {"ffi.Array"});
  expect_raised(TVMFFIFunctionGetGlobal(nullptr, &out), "ValueError", {"name"});
  expect_raised(TVMFFIFunctionGetGlobal(&name, nullptr), "ValueError", {"out"});
}

TEST(Registry, KeepsTheMetadataOfAMethod) {
  Handle function;
  ASSERT_EQ(TVMFFIFunctionCreate(nullptr, add, nullptr, function.receive()), 0);
  TVMFFIMethodInfo info{};
  info.name = bytes_of("test.method");
  info.metadata = bytes_of(R"({"type_schema": "int"})");
  info.method = function.any();
  ASSERT_EQ(TVMFFIFunctionSetGlobalFromMethodInfo(&info, 0), 0);
  EXPECT_EQ(text(call("ffi.GetGlobalFuncMetadata", {of_text("test.method")}).view()),
            R"({"type_schema": "int"})");
  expect_raised(TVMFFIFunctionSetGlobalFromMethodInfo(&info, 0), "RuntimeError", {"test.method"});
  info.metadata = {};
  ASSERT_EQ(TVMFFIFunctionSetGlobalFromMethodInfo(&info, 1), 0);
  EXPECT_EQ(text(call("ffi.GetGlobalFuncMetadata", {of_text("test.method")}).view()), "");
  expect_call_raises("ffi.GetGlobalFuncMetadata", {of_text("test.nothing")}, "RuntimeError",
                     {"test.nothing"});
  info.method = of_int(1);
  expect_raised(TVMFFIFunctionSetGlobalFromMethodInfo(&info, 1), "TypeError", {"int"});
  info.method = of_pointer(kTVMFFIFunction, nullptr);
  expect_raised(TVMFFIFunctionSetGlobalFromMethodInfo(&info, 1), "ValueError", {"method"});
  info.name = {};
  expect_raised(TVMFFIFunctionSetGlobalFromMethodInfo(&info, 1), "ValueError", {"empty"});
  expect_raised(TVMFFIFunctionSetGlobalFromMethodInfo(nullptr, 1), "ValueError", {"method_info"});
  call("ffi.FunctionRemoveGlobal", {of_text("test.method")});
}

std::set<std::string> global_names() {
  const Any list = call("ffi.FunctionListGlobalNamesFunctor", {});
  const auto at = [&list](int64_t i) {
    TVMFFIAny arg = of_int(i);
    Any result;
    EXPECT_EQ(TVMFFIFunctionCall(list.view().v_obj, &arg, 1, result.receive()), 0);
    return result;
  };
  std::set<std::string> names;
  const int64_t size = at(-1).view().v_int64;
  for (int64_t i = 0; i < size; ++i) names.emplace(text(at(i).view()));
  EXPECT_EQ(names.size(), static_cast<size_t>(size));
  TVMFFIAny beyond = of_int(size), result{};
  expect_raised(TVMFFIFunctionCall(list.view().v_obj, &beyond, 1, &result), "IndexError",
                {std::to_string(size)});
  return names;
}

TEST(Registry, ListsItsNames) {
  EXPECT_TRUE(global_names().contains("ffi.Array"));
  EXPECT_FALSE(global_names().contains("test.listed"));
  Handle function;
  ASSERT_EQ(TVMFFIFunctionCreate(nullptr, add, nullptr, function.receive()), 0);
  ASSERT_EQ(set_global("test.listed", function.get(), false), 0);
  EXPECT_TRUE(global_names().contains("test.listed"));
  call("ffi.FunctionRemoveGlobal", {of_text("test.listed")});
  EXPECT_FALSE(global_names().contains("test.listed"));
}

TEST(Registry, HoldsWhatTheFolderBringsAfterAnyNumberOfBeginnings) {
  initialize();
  const auto names = global_names();
  initialize();
  EXPECT_EQ(global_names(), names);
  for (const auto builtins : {function_builtins(), container_builtins(), module_builtins()})
    for (const Builtin& builtin : builtins) EXPECT_TRUE(names.contains(builtin.name));
  static constexpr Builtin kTaken[] = {{"ffi.Array", add}};
  expect_raised(register_functions(kTaken), "RuntimeError", {"ffi.Array"});
  static constexpr Builtin kOwn[] = {{"test.own", add}};
  ASSERT_EQ(register_functions(kOwn), 0);
  EXPECT_TRUE(find_function("test.own"));
  EXPECT_FALSE(find_function("test.owned"));
  call("ffi.FunctionRemoveGlobal", {of_text("test.own")});
}

TEST(Registry, StandsTenThousandNames) {
  Handle function;
  ASSERT_EQ(TVMFFIFunctionCreate(nullptr, add, nullptr, function.receive()), 0);
  const auto name = [](int i) { return concat("test.many.", i); };
  for (int i = 0; i < 10'000; ++i) ASSERT_EQ(set_global(name(i), function.get(), false), 0);
  for (int i = 0; i < 10'000; ++i) ASSERT_TRUE(find_function(name(i)));
  EXPECT_EQ(strong_count(function.object()), 10'001u);
  for (int i = 0; i < 10'000; ++i)
    EXPECT_EQ(call("ffi.FunctionRemoveGlobal", {of_text(name(i).c_str())}).view().v_int64, 1);
  EXPECT_EQ(strong_count(function.object()), 1u);
}

TEST(Builtins, StringsAndBytesComeBackAsOwnedValues) {
  EXPECT_EQ(text(call("ffi.String", {of_text("a string of some length")}).view()),
            "a string of some length");
  TVMFFIByteArray bytes = bytes_of("bytes of some length");
  const Any out = call("ffi.Bytes", {of_pointer(kTVMFFIByteArrayPtr, &bytes)});
  EXPECT_EQ(out.view().type_index, kTVMFFIBytes);
  EXPECT_EQ(text(call("ffi.Bytes", {out.view()}).view()), "bytes of some length");
  expect_call_raises("ffi.String", {of_int(1)}, "TypeError", {"ffi.String", "argument 0", "int"});
  expect_call_raises("ffi.String", {of_text(nullptr)}, "TypeError", {"a string"});
  expect_call_raises("ffi.String", {}, "TypeError", {"takes 1", "0"});
  expect_call_raises("ffi.Bytes", {of_text("x")}, "TypeError", {"bytes", "const char*"});
  expect_call_raises("ffi.Bytes", {of_pointer(kTVMFFIByteArrayPtr, nullptr)}, "ValueError",
                     {"null"});
}

}  // namespace
}  // namespace sluice::ffi
