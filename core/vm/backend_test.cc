// The C functions that compiled code calls.
#include "core/vm/backend.h"

#include "core/vm/test_support.h"

namespace sluice::vm {
namespace {

TEST(Backend, AnyListsAreNotLeft) {
  initialize();
  ffi::Any items[2];
  AnyList list = {items, 2};
  TVMFFIAny args[2] = {ffi::none(), ffi::none()};
  args[1] = ffi::call("vm.builtin.copy", {ffi::of_text("a text of some length")}).take();
  ASSERT_EQ(TVMBackendAnyListMoveFromPackedReturn(&list, 1, args, 1), 0);
  EXPECT_EQ(args[1].type_index, kTVMFFINone);
  ASSERT_EQ(TVMBackendAnyListSetPackedArg(&list, 1, args, 0), 0);
  EXPECT_EQ(args[0].v_obj, items[1].view().v_obj);
  EXPECT_EQ(ffi::strong_count(args[0].v_obj), 1U);
  ASSERT_EQ(TVMBackendAnyListResetItem(&list, 1), 0);
  EXPECT_EQ(items[1].view().type_index, kTVMFFINone);
  for (const int index : {-1, 2}) {
    ffi::expect_raised(TVMBackendAnyListSetPackedArg(&list, index, args, 0), "IndexError",
                       {"TVMBackendAnyListSetPackedArg", "of 2"});
    ffi::expect_raised(TVMBackendAnyListResetItem(&list, index), "IndexError", {"of 2"});
    ffi::expect_raised(TVMBackendAnyListMoveFromPackedReturn(&list, index, args, 0), "IndexError",
                       {"of 2"});
  }
  EXPECT_NE(TVMBackendAnyListResetItem(nullptr, 0), 0);
  ffi::take_raised();
}

TEST(Backend, WorkspaceIsAligned) {
  void* space = TVMBackendAllocWorkspace(kDLCPU, 0, 1000, 2, 32);
  ASSERT_NE(space, nullptr);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(space) % runtime::kAlignment, 0U);
  std::memset(space, 1, 1000);
  EXPECT_EQ(TVMBackendFreeWorkspace(kDLCPU, 0, space), 0);
  EXPECT_EQ(TVMBackendAllocWorkspace(99, 0, 1000, 2, 32), nullptr);
  ffi::expect_raised(-1, "ValueError", {"TVMBackendAllocWorkspace", "99"});
}

TEST(Backend, ParallelLoopsAreOneTask) {
  int seen = 0;
  const auto task = [](int id, TVMParallelGroupEnv* env, void* cdata) {
    *static_cast<int*>(cdata) += 100 * env->num_task + id;
    return TVMBackendParallelBarrier(id, env);
  };
  EXPECT_EQ(TVMBackendParallelLaunch(task, &seen, 8), 0);
  EXPECT_EQ(seen, 100);
}

}  // namespace
}  // namespace sluice::vm
