// The environment's functions, and memory over many objects.
#include <malloc.h>
#include <sanitizer/allocator_interface.h>

#include <string>

#include "core/ffi/registry.h"
#include "core/ffi/test_support.h"

namespace sluice::ffi {
namespace {

TEST(Env, SaysItsVersion) {
  TVMFFIVersion version{};
  TVMFFIGetVersion(&version);
  EXPECT_EQ(version.major, 0u);
  EXPECT_EQ(version.minor, 1u);
  EXPECT_EQ(version.patch, 16u);
  TVMFFIGetVersion(nullptr);
}

TEST(Env, StreamsAreKeptByDevice) {
  int first = 0, second = 0;
  void* before = &first;
  ASSERT_EQ(TVMFFIEnvSetStream(kDLCUDA, 1, &first, &before), 0);
  EXPECT_EQ(before, nullptr);
  EXPECT_EQ(TVMFFIEnvGetStream(kDLCUDA, 1), &first);
  EXPECT_EQ(TVMFFIEnvGetStream(kDLCUDA, 0), nullptr);
  ASSERT_EQ(TVMFFIEnvSetStream(kDLCUDA, 1, &second, &before), 0);
  EXPECT_EQ(before, &first);
  ASSERT_EQ(TVMFFIEnvSetStream(kDLCUDA, 1, nullptr, nullptr), 0);
  EXPECT_EQ(TVMFFIEnvGetStream(kDLCUDA, 1), nullptr);
  expect_raised(TVMFFIEnvSetStream(-1, 0, &first, nullptr), "ValueError", {"-1"});
  ASSERT_EQ(TVMFFIEnvSetStream(INT32_MAX, INT32_MAX, &first, nullptr), 0) << "and takes no room";
  ASSERT_EQ(TVMFFIEnvSetStream(INT32_MAX, INT32_MAX, nullptr, nullptr), 0);
}

int signal_status = 0;
int locks_held = 0;

TEST(Env, SignalsAreAskedOfTheHost) {
  EXPECT_EQ(TVMFFIEnvCheckSignals(), 0);
  const auto set = [](const char* name, auto* function) {
    ASSERT_EQ(TVMFFIEnvRegisterCAPI(name, reinterpret_cast<void*>(function)), 0);
  };
  set(
      "PyErr_CheckSignals", +[] {
        EXPECT_EQ(locks_held, 1);
        return signal_status;
      });
  set("PyGILState_Ensure", +[]() -> void* { return ++locks_held, &locks_held; });
  set("PyGILState_Release", +[](void*) { --locks_held; });
  EXPECT_EQ(TVMFFIEnvCheckSignals(), 0);
  signal_status = 5;
  EXPECT_EQ(TVMFFIEnvCheckSignals(), -1);
  EXPECT_EQ(locks_held, 0);
  for (const char* name : {"PyErr_CheckSignals", "PyGILState_Ensure", "PyGILState_Release"})
    ASSERT_EQ(TVMFFIEnvRegisterCAPI(name, nullptr), 0);
  expect_raised(TVMFFIEnvRegisterCAPI("PyNothing", nullptr), "ValueError", {"PyNothing"});
  expect_raised(TVMFFIEnvRegisterCAPI(nullptr, nullptr), "ValueError", {"name"});
}

int made = 0;
int make_handle(void** out) {
  *out = &made;
  ++made;
  return 0;
}

TEST(Handles, AreMadeAndEndedOnce) {
  void* handle = nullptr;
  EXPECT_EQ(TVMFFIHandleInitOnce(&handle, make_handle), 0);
  EXPECT_EQ(TVMFFIHandleInitOnce(&handle, make_handle), 0);
  EXPECT_EQ(handle, &made);
  EXPECT_EQ(made, 1);
  const auto end = [](void* ended) { return --*static_cast<int*>(ended); };
  EXPECT_EQ(TVMFFIHandleDeinitOnce(&handle, end), 0);
  EXPECT_EQ(TVMFFIHandleDeinitOnce(&handle, end), 0);
  EXPECT_EQ(handle, nullptr);
  EXPECT_EQ(made, 0);
}

TEST(Handles, MakingOneMayMakeAnother) {
  static void* inner = nullptr;
  void* outer = nullptr;
  EXPECT_EQ(TVMFFIHandleInitOnce(&outer,
                                 [](void** out) {
                                   *out = &inner;
                                   return TVMFFIHandleInitOnce(&inner, make_handle);
                                 }),
            0);
  EXPECT_EQ(inner, &made);
}

TEST(Handles, MisuseIsAnError) {
  void* handle = nullptr;
  expect_raised(TVMFFIHandleInitOnce(nullptr, make_handle), "ValueError", {"handle_addr"});
  expect_raised(TVMFFIHandleInitOnce(&handle, nullptr), "ValueError", {"init_func"});
  expect_raised(TVMFFIHandleInitOnce(&handle, [](void**) { return 0; }), "RuntimeError", {"null"});
  EXPECT_EQ(TVMFFIHandleInitOnce(&handle, [](void**) { return 9; }), 9);
  EXPECT_EQ(handle, nullptr);
  expect_raised(TVMFFIHandleDeinitOnce(nullptr, [](void*) { return 0; }), "ValueError",
                {"handle_addr"});
  expect_raised(TVMFFIHandleDeinitOnce(&handle, nullptr), "ValueError", {"deinit_func"});
}

TEST(Backtrace, IsTheLineOfTheCaller) {
  EXPECT_EQ(TVMFFIBacktrace(nullptr, 0, nullptr, 0)->size, 0u);
  EXPECT_EQ(text(*TVMFFIBacktrace("a.cc", 12, "f", 0)), "  File \"a.cc\", line 12, in f\n");
  EXPECT_EQ(text(*TVMFFIBacktrace("b.cc", 3, "g", 1)), "  File \"b.cc\", line 3, in g\n");
  EXPECT_EQ(TVMFFIBacktrace("a.cc", 0, nullptr, 0)->size, 0u);
}

TEST(Allocator, TheDefaultPutsItsHeaderBeforeTheObject) {
  TVMFFICustomAllocator* allocator = TVMFFIGetCustomAllocator();
  ASSERT_NE(allocator, nullptr);
  void* object = allocator->allocate(100, 8, kTVMFFIObject, allocator->context);
  ASSERT_NE(object, nullptr);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(object) % alignof(std::max_align_t), 0u);
  std::memset(object, 1, 100);
  static_cast<TVMFFIObjectAllocHeader*>(object)[-1].delete_space(object);
  EXPECT_EQ(allocator->allocate(SIZE_MAX, 8, kTVMFFIObject, nullptr), nullptr);
  EXPECT_EQ(take_raised().kind, "MemoryError");
  EXPECT_EQ(allocator->allocate(8, 4096, kTVMFFIObject, nullptr), nullptr);
  EXPECT_EQ(take_raised().kind, "MemoryError");
}

TEST(Allocator, AnotherOneIsKeptUntilNull) {
  TVMFFICustomAllocator* before = TVMFFIGetCustomAllocator();
  TVMFFICustomAllocator other = *before;
  ASSERT_EQ(TVMFFISetCustomAllocator(&other), 0);
  EXPECT_EQ(TVMFFIGetCustomAllocator(), &other);
  TVMFFICustomAllocator hollow{};
  expect_raised(TVMFFISetCustomAllocator(&hollow), "ValueError", {"allocate"});
  ASSERT_EQ(TVMFFISetCustomAllocator(nullptr), 0);
  EXPECT_EQ(TVMFFIGetCustomAllocator(), before);
}

// Bytes that are allocated now
size_t allocated() {
#if __has_feature(address_sanitizer)
  return __sanitizer_get_current_allocated_bytes();
#else
  return mallinfo2().uordblks;
#endif
}

// One of everything, made and released
void one_round(TVMFFIObjectHandle make_array, TVMFFIObjectHandle make_map) {
  TVMFFIAny values[] = {of_text("a key of some length"), of_text("a value of some length"),
                        of_int(1), of_text("short")};
  Any array, map, string;
  ASSERT_EQ(TVMFFIFunctionCall(make_array, values, 4, array.receive()), 0);
  values[3] = array.view();
  ASSERT_EQ(TVMFFIFunctionCall(make_map, values, 4, map.receive()), 0);
  ASSERT_EQ(TVMFFIAnyViewToOwnedAny(&values[0], string.receive()), 0);
  Handle function;
  ASSERT_EQ(TVMFFIFunctionCreate(
                nullptr, [](void*, const TVMFFIAny*, int32_t, TVMFFIAny*) { return -1; }, nullptr,
                function.receive()),
            0);
  TVMFFIAny result{};
  ASSERT_EQ(TVMFFIFunctionCall(function.get(), nullptr, 0, &result), -1);
  Handle error;
  TVMFFIErrorMoveFromRaised(error.receive());
  const WeakRef<ArrayObject> weak(reinterpret_cast<ArrayObject*>(array.view().v_obj));
}

// A round makes and releases some ten objects; the sanitizer is slow at that
#if __has_feature(address_sanitizer)
constexpr int kRounds = 100'000;
#else
constexpr int kRounds = 1'000'000;
#endif

TEST(Memory, IsFlatOverAMillionObjects) {
  const Handle make_array = global("ffi.Array"), make_map = global("ffi.Map");
  for (int i = 0; i < 1000; ++i) one_round(make_array.get(), make_map.get());
  const size_t before = allocated();
  for (int i = 0; i < kRounds; ++i) one_round(make_array.get(), make_map.get());
  EXPECT_LE(allocated(), before + 4096);
}

}  // namespace
}  // namespace sluice::ffi
