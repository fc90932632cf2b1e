// Tensor objects and DLPack in both directions.
#include "core/ffi/tensor.h"

#include <memory>

#include "core/ffi/test_support.h"

namespace sluice::ffi {
namespace {

constexpr DLDataType kFloat32 = {kDLFloat, 32, 1};

// A DLPack tensor of either version over memory of its own, that counts its end
template <class Managed>
struct Source {
  explicit Source(std::vector<int64_t> extents) : shape(std::move(extents)) {
    managed.dl_tensor = {.data = memory.data(),
                         .device = {kDLCPU, 0},
                         .ndim = static_cast<int32_t>(shape.size()),
                         .dtype = kFloat32,
                         .shape = shape.data(),
                         .strides = nullptr,
                         .byte_offset = 0};
    managed.manager_ctx = this;
    managed.deleter = [](Managed* self) { ++static_cast<Source*>(self->manager_ctx)->deleted; };
    if constexpr (std::is_same_v<Managed, DLManagedTensorVersioned>)
      managed.version = {DLPACK_MAJOR_VERSION, DLPACK_MINOR_VERSION};
  }
  int import(int32_t alignment, int32_t contiguous, TVMFFIObjectHandle* out) {
    if constexpr (std::is_same_v<Managed, DLManagedTensorVersioned>)
      return TVMFFITensorFromDLPackVersioned(&managed, alignment, contiguous, out);
    else
      return TVMFFITensorFromDLPack(&managed, alignment, contiguous, out);
  }
  alignas(64) std::array<float, 64> memory{};
  std::vector<int64_t> shape;
  std::vector<int64_t> strides;
  Managed managed{};
  int deleted = 0;
};

template <class Managed>
class DLPack : public testing::Test {};
using Versions = testing::Types<DLManagedTensor, DLManagedTensorVersioned>;
TYPED_TEST_SUITE(DLPack, Versions);

const DLTensor& tensor_of(const Handle& handle) {
  return reinterpret_cast<TensorObject*>(handle.get())->tensor;
}

TYPED_TEST(DLPack, GoesInAndEndsWithTheTensor) {
  Source<TypeParam> source({2, 3, 4});
  Handle tensor;
  ASSERT_EQ(source.import(64, 1, tensor.receive()), 0);
  EXPECT_EQ(tensor.object()->type_index, kTVMFFITensor);
  const DLTensor& inside = tensor_of(tensor);
  EXPECT_EQ(inside.data, source.memory.data());
  EXPECT_EQ(std::vector<int64_t>(inside.shape, inside.shape + 3), source.shape);
  EXPECT_EQ(std::vector<int64_t>(inside.strides, inside.strides + 3),
            (std::vector<int64_t>{12, 4, 1}));
  EXPECT_EQ(source.deleted, 0);
  tensor.reset();
  EXPECT_EQ(source.deleted, 1);
}

TYPED_TEST(DLPack, GoesOutAndKeepsTheTensor) {
  Source<TypeParam> source({2, 3});
  Handle tensor;
  ASSERT_EQ(source.import(0, 0, tensor.receive()), 0);
  DLManagedTensor* plain = nullptr;
  DLManagedTensorVersioned* versioned = nullptr;
  ASSERT_EQ(TVMFFITensorToDLPack(tensor.get(), &plain), 0);
  ASSERT_EQ(TVMFFITensorToDLPackVersioned(tensor.get(), &versioned), 0);
  EXPECT_EQ(versioned->version.major, 1u);
  EXPECT_EQ(versioned->flags, 0u);
  tensor.reset();
  EXPECT_EQ(plain->dl_tensor.data, source.memory.data());
  EXPECT_EQ(plain->dl_tensor.shape[1], 3);
  plain->deleter(plain);
  EXPECT_EQ(source.deleted, 0);
  // In again: a tensor over a tensor
  Handle again;
  ASSERT_EQ(TVMFFITensorFromDLPackVersioned(versioned, 0, 1, again.receive()), 0);
  EXPECT_EQ(tensor_of(again).data, source.memory.data());
  again.reset();
  EXPECT_EQ(source.deleted, 1);
}

TYPED_TEST(DLPack, ShapesOfNothingAndOfNoDimension) {
  Source<TypeParam> scalar({});
  scalar.managed.dl_tensor.shape = nullptr;
  Handle tensor;
  ASSERT_EQ(scalar.import(0, 1, tensor.receive()), 0);
  EXPECT_EQ(tensor_of(tensor).ndim, 0);
  // An extent of 0 makes the rest harmless, however large
  Source<TypeParam> empty({INT64_MAX, 0, INT64_MAX});
  empty.managed.dl_tensor.data = nullptr;
  ASSERT_EQ(empty.import(0, 1, tensor.receive()), 0);
  tensor.reset();
  EXPECT_EQ(empty.deleted, 1);
}

TYPED_TEST(DLPack, WhatIsNoTensorStaysTheCallers) {
  Handle out;
  const auto refuse = [&out](auto change, std::string_view kind,
                             std::initializer_list<std::string_view> named, int alignment = 0,
                             int contiguous = 0) {
    Source<TypeParam> source({4, 4});
    change(source);
    expect_raised(source.import(alignment, contiguous, out.receive()), kind, named);
    EXPECT_EQ(source.deleted, 0);
  };
  using S = Source<TypeParam>;
  refuse([](S& s) { s.managed.dl_tensor.ndim = -1; }, "ValueError", {"-1 dimensions"});
  refuse([](S& s) { s.managed.dl_tensor.shape = nullptr; }, "ValueError", {"null shape"});
  refuse([](S& s) { s.shape[1] = -3; }, "ValueError", {"extent 1", "-3"});
  refuse([](S& s) { s.shape = {INT64_MAX, 3}, s.managed.dl_tensor.shape = s.shape.data(); },
         "ValueError", {"63 bits"});
  refuse([](S& s) { s.shape[0] = INT64_MAX, s.shape[1] = 1; }, "ValueError", {"63 bits"});
  refuse([](S& s) { s.managed.dl_tensor.data = nullptr; }, "ValueError", {"64 bytes", "null"});
  refuse([](S&) {}, "ValueError", {"-8"}, -8);
  refuse([](S& s) { s.managed.dl_tensor.byte_offset = 4; }, "RuntimeError",
         {"64 bytes", "offset 4"}, 64);
  refuse(
      [](S& s) {
        s.strides = {1, 4};
        s.managed.dl_tensor.strides = s.strides.data();
      },
      "RuntimeError", {"not contiguous"}, 0, 1);
  Source<TypeParam> good({1});
  expect_raised(good.import(0, 0, nullptr), "ValueError", {"out is null"});
}

TYPED_TEST(DLPack, StridesOfItsOwnAreKept) {
  Source<TypeParam> source({4, 1});
  source.strides = {1, 77};  // of an extent of 1 any stride is contiguous
  source.managed.dl_tensor.strides = source.strides.data();
  Handle tensor;
  ASSERT_EQ(source.import(0, 1, tensor.receive()), 0);
  EXPECT_EQ(tensor_of(tensor).strides[1], 77);
}

TEST(DLPackVersioned, OtherVersionsAndPaddingAreErrors) {
  Source<DLManagedTensorVersioned> source({4});
  Handle out;
  source.managed.version = {2, 0};
  expect_raised(source.import(0, 0, out.receive()), "ValueError", {"2.0"});
  source.managed.version = {1, 99};
  source.managed.flags = DLPACK_FLAG_BITMASK_IS_SUBBYTE_TYPE_PADDED;
  expect_raised(source.import(0, 0, out.receive()), "ValueError", {"padded"});
  source.managed.flags = DLPACK_FLAG_BITMASK_READ_ONLY;
  EXPECT_EQ(source.import(0, 0, out.receive()), 0);
  source.managed.deleter = nullptr;  // nothing to free is fine
}

TEST(DLPackMisuse, NullAndOtherObjects) {
  Handle out;
  expect_raised(TVMFFITensorFromDLPack(nullptr, 0, 0, out.receive()), "ValueError", {"from"});
  expect_raised(TVMFFITensorFromDLPackVersioned(nullptr, 0, 0, out.receive()), "ValueError",
                {"from"});
  DLManagedTensor* plain = nullptr;
  DLManagedTensorVersioned* versioned = nullptr;
  expect_raised(TVMFFITensorToDLPack(nullptr, &plain), "ValueError", {"from"});
  const Any array = call("ffi.Array", {});
  expect_raised(TVMFFITensorToDLPackVersioned(array.view().v_obj, &versioned), "TypeError",
                {"ffi.Tensor", "ffi.Array"});
  expect_raised(TVMFFITensorToDLPack(array.view().v_obj, nullptr), "ValueError", {"out"});
}

TEST(Views, KeepTheirSourceAndCopyTheirShape) {
  Source<DLManagedTensor> source({4, 4});
  Handle tensor, view;
  ASSERT_EQ(source.import(0, 0, tensor.receive()), 0);
  {
    std::vector<int64_t> shape = {2, 8};
    DLTensor prototype = tensor_of(tensor);
    prototype.shape = shape.data();
    prototype.strides = nullptr;
    prototype.byte_offset = 16;
    ASSERT_EQ(TVMFFITensorCreateUnsafeView(tensor.get(), &prototype, view.receive()), 0);
  }
  tensor.reset();
  EXPECT_EQ(source.deleted, 0);
  EXPECT_EQ(tensor_of(view).shape[1], 8);
  EXPECT_EQ(tensor_of(view).strides[0], 8);
  EXPECT_EQ(tensor_of(view).byte_offset, 16u);
  view.reset();
  EXPECT_EQ(source.deleted, 1);
}

TEST(Views, MisuseIsAnError) {
  Source<DLManagedTensor> source({4});
  Handle tensor, view;
  ASSERT_EQ(source.import(0, 0, tensor.receive()), 0);
  DLTensor prototype = tensor_of(tensor);
  expect_raised(TVMFFITensorCreateUnsafeView(nullptr, &prototype, view.receive()), "ValueError",
                {"source"});
  expect_raised(TVMFFITensorCreateUnsafeView(tensor.get(), nullptr, view.receive()), "ValueError",
                {"prototype"});
  expect_raised(TVMFFITensorCreateUnsafeView(tensor.get(), &prototype, nullptr), "ValueError",
                {"out"});
  prototype.ndim = -5;
  expect_raised(TVMFFITensorCreateUnsafeView(tensor.get(), &prototype, view.receive()),
                "ValueError", {"-5"});
  EXPECT_EQ(strong_count(tensor.object()), 1u);
}

TEST(Tensors, OfTheCoreFreeTheirOwner) {
  static int freed = 0;
  std::vector<int64_t> shape = {3, 5};
  const DLTensor prototype = {.data = &freed,
                              .device = {kDLWebGPU, 0},
                              .ndim = 2,
                              .dtype = {kDLInt, 4, 1},
                              .shape = shape.data(),
                              .strides = nullptr,
                              .byte_offset = 0};
  uint64_t bytes = 0;
  ASSERT_TRUE(tensor_bytes(prototype, "test", &bytes));
  EXPECT_EQ(bytes, 8u) << "15 elements of 4 bits, packed";
  {
    const auto tensor =
        make_tensor(prototype, &freed, [](void* count) { ++*static_cast<int*>(count); });
    ASSERT_TRUE(tensor);
    shape = {0, 0};
    EXPECT_EQ(tensor->tensor.shape[1], 5);
    EXPECT_EQ(tensor->tensor.strides[0], 5);
  }
  EXPECT_EQ(freed, 1);
}

// ---- TVMFFIEnvTensorAlloc ----

int allocate_source(DLTensor* prototype, DLManagedTensorVersioned** out, void*,
                    void (*)(void*, const char*, const char*)) {
  auto* source = new Source<DLManagedTensorVersioned>(
      std::vector<int64_t>(prototype->shape, prototype->shape + prototype->ndim));
  source->managed.deleter = [](DLManagedTensorVersioned* self) {
    delete static_cast<Source<DLManagedTensorVersioned>*>(self->manager_ctx);
  };
  *out = &source->managed;
  return 0;
}

int refuse_source(DLTensor*, DLManagedTensorVersioned**, void* context,
                  void (*set_error)(void*, const char*, const char*)) {
  set_error(context, "MemoryError", "the device is full");
  return -1;
}

TEST(EnvTensorAlloc, UsesTheAllocatorThatIsSet) {
  int64_t shape[] = {2, 2};
  DLTensor prototype = {.data = nullptr,
                        .device = {kDLCPU, 0},
                        .ndim = 2,
                        .dtype = kFloat32,
                        .shape = shape,
                        .strides = nullptr,
                        .byte_offset = 0};
  Handle tensor;
  expect_raised(TVMFFIEnvTensorAlloc(&prototype, tensor.receive()), "RuntimeError",
                {"TVMFFIEnvSetDLPackManagedTensorAllocator"});
  DLPackManagedTensorAllocator before = refuse_source;
  ASSERT_EQ(TVMFFIEnvSetDLPackManagedTensorAllocator(allocate_source, 0, &before), 0);
  EXPECT_EQ(before, nullptr);
  ASSERT_EQ(TVMFFIEnvTensorAlloc(&prototype, tensor.receive()), 0);
  EXPECT_EQ(tensor_of(tensor).shape[0], 2);
  ASSERT_EQ(TVMFFIEnvSetDLPackManagedTensorAllocator(refuse_source, 1, &before), 0);
  EXPECT_EQ(before, allocate_source);
  expect_raised(TVMFFIEnvTensorAlloc(&prototype, tensor.receive()), "MemoryError", {"full"});
  ASSERT_EQ(TVMFFIEnvSetDLPackManagedTensorAllocator(nullptr, 0, nullptr), 0);
  EXPECT_EQ(TVMFFIEnvGetDLPackManagedTensorAllocator(), refuse_source) << "the global one";
  ASSERT_EQ(TVMFFIEnvSetDLPackManagedTensorAllocator(nullptr, 1, nullptr), 0);
  EXPECT_EQ(TVMFFIEnvGetDLPackManagedTensorAllocator(), nullptr);
  expect_raised(TVMFFIEnvTensorAlloc(nullptr, tensor.receive()), "ValueError", {"prototype"});
  expect_raised(TVMFFIEnvTensorAlloc(&prototype, nullptr), "ValueError", {"out"});
  shape[0] = -1;
  expect_raised(TVMFFIEnvTensorAlloc(&prototype, tensor.receive()), "ValueError", {"-1"});
}

}  // namespace
}  // namespace sluice::ffi
