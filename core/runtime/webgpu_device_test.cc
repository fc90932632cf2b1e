#include <string>

#include "core/runtime/fake_webgpu.h"
#include "core/runtime/test_support.h"

namespace sluice::runtime {
namespace {

constexpr const char* kCopy = "runtime.TVMTensorCopyFromTo";
constexpr const char* kFromHandle = "sluice.runtime.TensorFromHandle";

class WebGpuTest : public RuntimeTest {
 protected:
  void SetUp() override {
    RuntimeTest::SetUp();
    gpu_.install();
  }
  void TearDown() override {
    FakeGpu::uninstall();
    EXPECT_EQ(gpu_.buffers.size(), 0u) << "buffers that nothing freed";
  }
  std::vector<std::string> take_calls() { return std::exchange(gpu_.calls, {}); }

  FakeGpu gpu_;
};

using Lines = std::vector<std::string>;

TEST_F(WebGpuTest, CopiesBothWaysAndWithin) {
  const Any from = tensor_with<float>({3}, "float32", {1, 2, 3});
  const Any a = new_tensor({3}, "float32", kGpu);
  const Any b = new_tensor({3}, "float32", kGpu);
  const Any to = new_tensor({3}, "float32");
  call(kCopy, {from.view(), a.view()});
  call(kCopy, {a.view(), b.view()});
  call(kCopy, {b.view(), to.view()});
  EXPECT_EQ(elements<float>(to), (std::vector<float>{1, 2, 3}));
  EXPECT_EQ(describe(tensor_of(a)), "float32[3] on webgpu:0");
  EXPECT_EQ(tensor_of(b).data, reinterpret_cast<void*>(2));
  EXPECT_EQ(take_calls(), (Lines{"AllocDataSpace 12", "AllocDataSpace 12", "CopyToGPU 1 0 12",
                                 "CopyWithinGPU 1 0 2 0 12", "CopyFromGPU 2 0 12"}));
}

TEST_F(WebGpuTest, HandlesMayBeInts) {
  gpu_.gives_floats = false;
  const Any tensor = new_tensor({1}, "int32", kGpu);
  EXPECT_EQ(tensor_of(tensor).data, reinterpret_cast<void*>(1));
}

TEST_F(WebGpuTest, ViewsHonourTheirOffsets) {
  const Any content = tensor_with<int32_t>({4}, "int32", {1, 2, 3, 4});
  const Any a = new_tensor({4}, "int32", kGpu);
  const Any b = tensor_with<int32_t>({4}, "int32", {0, 0, 0, 0});
  call(kCopy, {content.view(), a.view()});
  const Any tail = view_of(a, {3}, "int32", 4);
  const Any last = view_of(tail, {2}, "int32", 4);
  const Any middle = view_of(b, {2}, "int32", 4);
  take_calls();
  call(kCopy, {last.view(), middle.view()});
  EXPECT_EQ(elements<int32_t>(b), (std::vector<int32_t>{0, 3, 4, 0}));
  const Any other = new_tensor({4}, "int32", kGpu);
  call(kCopy, {b.view(), other.view()});
  const Any place = view_of(other, {2}, "int32", 8);
  call(kCopy, {last.view(), place.view()});
  EXPECT_EQ(take_calls(), (Lines{"CopyFromGPU 1 8 8", "AllocDataSpace 16", "CopyToGPU 2 0 16",
                                 "CopyWithinGPU 1 8 2 8 8"}));
  call("tvmjs.runtime.TensorCopyFromBytes",
       {place.view(), of_bytes(TVMFFIByteArray{"\1\0\0\0\2\0\0\0", 8})});
  EXPECT_EQ(take_calls(), Lines{"CopyToGPU 2 8 8"});
}

TEST_F(WebGpuTest, ABufferIsFreedOnceWithItsLastView) {
  Any whole = new_tensor({4}, "int8", kGpu);
  Any part = view_of(whole, {2}, "int8", 1);
  take_calls();
  whole = Any();
  EXPECT_EQ(take_calls(), Lines{});
  part = Any();
  EXPECT_EQ(take_calls(), Lines{"FreeDataSpace 1"});
}

TEST_F(WebGpuTest, OverlappingRangesOfOneBufferGoThroughAnother) {
  const Any content = tensor_with<int32_t>({3}, "int32", {1, 2, 3});
  const Any a = new_tensor({3}, "int32", kGpu);
  call(kCopy, {content.view(), a.view()});
  const Any low = view_of(a, {2}, "int32", 0);
  const Any high = view_of(a, {2}, "int32", 4);
  call(kCopy, {low.view(), high.view()});
  const Any back = new_tensor({3}, "int32");
  call(kCopy, {a.view(), back.view()});
  EXPECT_EQ(elements<int32_t>(back), (std::vector<int32_t>{1, 1, 2}));
  take_calls();
  call(kCopy, {low.view(), low.view()});
  EXPECT_EQ(take_calls(), Lines{});
}

TEST_F(WebGpuTest, SizesThatAreNoMultipleOfFour) {
  // Seven bytes: the unit of the last three is the tensor's alone
  const Any content = tensor_with<uint8_t>({7}, "uint8", {1, 2, 3, 4, 5, 6, 7});
  const Any a = new_tensor({7}, "uint8", kGpu);
  const Any b = new_tensor({7}, "uint8", kGpu);
  const Any back = new_tensor({7}, "uint8");
  call(kCopy, {content.view(), a.view()});
  call(kCopy, {a.view(), b.view()});
  call(kCopy, {b.view(), back.view()});
  EXPECT_EQ(elements<uint8_t>(back), elements<uint8_t>(content));
  EXPECT_EQ(take_calls(),
            (Lines{"AllocDataSpace 8", "AllocDataSpace 8", "CopyToGPU 1 0 4", "CopyToGPU 1 4 4",
                   "CopyWithinGPU 1 0 2 0 8", "CopyFromGPU 2 0 7"}));

  // Three bytes behind which others stand would be overwritten
  const Any first = view_of(a, {3}, "uint8", 0);
  const Any three = tensor_with<uint8_t>({3}, "uint8", {9, 9, 9});
  expect_call_raises(kCopy, {three.view(), first.view()}, "ValueError",
                     {"3 bytes at byte 0", "multiples of 4 bytes"});
  const Any gpu_three = new_tensor({3}, "uint8", kGpu);
  expect_call_raises(kCopy, {gpu_three.view(), first.view()}, "ValueError",
                     {"3 bytes at byte 0", "multiples of 4 bytes"});
  // Reading them is no trouble, and the last ones may be written
  call(kCopy, {first.view(), three.view()});
  EXPECT_EQ(elements<uint8_t>(three), (std::vector<uint8_t>{1, 2, 3}));
  const Any last = view_of(a, {3}, "uint8", 4);
  call(kCopy, {three.view(), last.view()});
  call(kCopy, {a.view(), back.view()});
  EXPECT_EQ(elements<uint8_t>(back), (std::vector<uint8_t>{1, 2, 3, 4, 1, 2, 3}));
}

TEST_F(WebGpuTest, OffsetsThatAreNoMultipleOfFourAreRefused) {
  const Any a = new_tensor({8}, "uint8", kGpu);
  const Any odd = view_of(a, {4}, "uint8", 2);
  const Any cpu = new_tensor({4}, "uint8");
  const Any gpu = new_tensor({4}, "uint8", kGpu);
  for (const auto& [from, to] :
       {std::pair(&cpu, &odd), std::pair(&odd, &cpu), std::pair(&gpu, &odd), std::pair(&odd, &gpu)})
    expect_call_raises(kCopy, {from->view(), to->view()}, "ValueError",
                       {"4 bytes at byte 2", "multiples of 4"});
}

TEST_F(WebGpuTest, AHostThatCopiesAnyByteIsLetTo) {
  gpu_.copies_any_byte = true;
  const Any content = tensor_with<uint8_t>({7}, "uint8", {1, 2, 3, 4, 5, 6, 7});
  const Any a = new_tensor({7}, "uint8", kGpu);
  call(kCopy, {content.view(), a.view()});
  const Any part = view_of(a, {3}, "uint8", 1);
  const Any end = view_of(a, {3}, "uint8", 3);
  call(kCopy, {part.view(), end.view()});
  const Any three = tensor_with<uint8_t>({3}, "uint8", {7, 8, 9});
  call(kCopy, {three.view(), part.view()});
  const Any back = new_tensor({7}, "uint8");
  call(kCopy, {a.view(), back.view()});
  EXPECT_EQ(elements<uint8_t>(back), (std::vector<uint8_t>{1, 7, 8, 9, 3, 4, 7}));
  const Any nothing = new_tensor({0}, "float32", kGpu);
  EXPECT_EQ(take_calls(), (Lines{"AllocDataSpace 7", "CopyToGPU 1 0 7", "CopyWithinGPU 1 1 1 3 3",
                                 "CopyToGPU 1 1 3", "CopyFromGPU 1 0 7", "AllocDataSpace 0"}));
  int64_t extent = 8;
  DLTensor bare = tensor_of(a);
  bare.shape = &extent;
  expect_call_raises(kCopy, {ffi::of_pointer(kTVMFFIDLTensorPtr, &bare), back.view()}, "ValueError",
                     {"8 bytes", "7 bytes"});
}

TEST_F(WebGpuTest, ZeroSizeAndNoDimensions) {
  const Any nothing = new_tensor({0, 3}, "float32", kGpu);
  EXPECT_EQ(take_calls(), Lines{"AllocDataSpace 4"});  // a buffer that can be bound
  const Any cpu = new_tensor({0}, "float32");
  const Any other = new_tensor({0}, "int8", kGpu);
  take_calls();
  call(kCopy, {cpu.view(), nothing.view()});
  call(kCopy, {nothing.view(), other.view()});
  call(kCopy, {other.view(), cpu.view()});
  EXPECT_EQ(take_calls(), Lines{});
  const Any scalar = tensor_with<float>({}, "float32", {4});
  const Any on_gpu = new_tensor({}, "float32", kGpu);
  call(kCopy, {scalar.view(), on_gpu.view()});
  EXPECT_EQ(take_calls(), (Lines{"AllocDataSpace 4", "CopyToGPU 3 0 4"}));
}

TEST_F(WebGpuTest, RangesOutsideABufferAreRefused) {
  const Any a = new_tensor({2}, "int32", kGpu);
  // A DLTensor that claims more than its buffer has
  int64_t extent = 3;
  DLTensor bare = tensor_of(a);
  bare.shape = &extent;
  bare.strides = nullptr;
  const Any cpu = new_tensor({3}, "int32");
  const TVMFFIAny argument = ffi::of_pointer(kTVMFFIDLTensorPtr, &bare);
  expect_call_raises(kCopy, {argument, cpu.view()}, "ValueError", {"12 bytes at byte 0", "has 8"});
  expect_call_raises(kCopy, {cpu.view(), argument}, "ValueError", {"12 bytes at byte 0", "has 8"});
  bare.data = nullptr;
  expect_call_raises(kCopy, {cpu.view(), argument}, "ValueError", {"no memory"});
  bare.data = reinterpret_cast<void*>(1);
  extent = 1;
  bare.byte_offset = UINT64_MAX - 1;
  const Any one = new_tensor({1}, "int32");
  expect_call_raises(kCopy, {one.view(), argument}, "ValueError", {"no buffer is that large"});
}

TEST_F(WebGpuTest, ErrorsOfTheHostArriveAtTheCall) {
  const Any shape = shape_of({int64_t{1} << 30});
  expect_call_raises("runtime.TVMTensorAllocWithScope",
                     {shape.view(), of_text("int8"), of_device(kGpu), ffi::none()}, "OutOfMemory",
                     {"no buffer of 1073741824"});
  gpu_.gives_nothing = true;
  const Any small = shape_of({5});
  expect_call_raises("runtime.TVMTensorAllocWithScope",
                     {small.view(), of_text("int8"), of_device(kGpu), ffi::none()}, "MemoryError",
                     {"5 bytes", "webgpu:0", "None"});
  gpu_.gives_nothing = false;
  // An error while a buffer is freed goes to no one, and replaces none that is on its way
  Any tensor = new_tensor({1}, "int8", kGpu);
  gpu_.fails_to_free = true;
  ffi::raise("Earlier", "error");
  tensor = Any();
  EXPECT_EQ(ffi::take_raised().kind, "Earlier");
  tensor = new_tensor({1}, "int8", kGpu);
  tensor = Any();
  EXPECT_FALSE(ffi::has_raised());
}

TEST_F(WebGpuTest, CannotBeReadOrWaitedForAtOnce) {
  const Any a = new_tensor({1}, "float32", kGpu);
  expect_call_raises("tvmjs.runtime.TensorCopyToBytes", {a.view()}, "ValueError",
                     {"float32[1] on webgpu:0", "sync()"});
  expect_call_raises("runtime.Device_StreamSync", {of_device(kGpu), of_int(0)}, "RuntimeError",
                     {"webgpu:0", "sync()"});
  expect_call_raises("vm.builtin.apply_softmax_with_temperature", {a.view(), of_float(1)},
                     "TypeError", {"float32 on the CPU", "webgpu:0"});
  expect_call_raises(
      "tvmjs.array.decode_storage",
      {a.view(), of_bytes(TVMFFIByteArray{"\0\0", 2}), of_text("f32-to-bf16"), of_text("float32")},
      "TypeError", {"on the CPU", "webgpu:0"});
}

TEST_F(WebGpuTest, TakesBuffersOver) {
  gpu_.buffers[77] = std::string(8, '\5');
  gpu_.next = 78;
  const Any shape = shape_of({2});
  const std::vector<TVMFFIAny> args = {of_int(77), shape.view(), of_text("int32"), of_device(kGpu)};
  {
    const Any tensor = call(kFromHandle, args);
    const Any back = new_tensor({2}, "int32");
    call(kCopy, {tensor.view(), back.view()});
    EXPECT_EQ(elements<int32_t>(back)[1], 0x05050505);
    expect_call_raises(kFromHandle, args, "ValueError", {"handle 77", "8 bytes", "already"});
  }
  EXPECT_EQ(take_calls().back(), "FreeDataSpace 77");
  expect_call_raises(kFromHandle, {of_int(0), shape.view(), of_text("int32"), of_device(kGpu)},
                     "ValueError", {"null"});
}

TEST_F(WebGpuTest, ConcatenatesEmbeddings) {
  const Any a = new_tensor({1, 2}, "float16", kGpu);
  const Any b = new_tensor({3, 2}, "float16", kGpu);
  take_calls();
  const Any all = call("tvmjs.runtime.ConcatEmbeddings", {a.view(), b.view()});
  EXPECT_EQ(describe(tensor_of(all)), "float16[4, 2] on webgpu:0");
  EXPECT_EQ(take_calls(),
            (Lines{"AllocDataSpace 16", "CopyWithinGPU 1 0 3 0 4", "CopyWithinGPU 2 0 3 4 12"}));
}

TEST_F(WebGpuTest, AnotherDeviceWaitsUntilTheBuffersOfTheFirstAreGone) {
  FakeGpu second;
  Any tensor = new_tensor({1}, "int32", kGpu);
  second.install();
  const Any shape = shape_of({1});
  expect_call_raises("runtime.TVMTensorAllocWithScope",
                     {shape.view(), of_text("int32"), of_device(kGpu), ffi::none()}, "RuntimeError",
                     {"another function", "1 buffers", "dispose"});
  tensor = Any();  // freed on the device that it was made on
  EXPECT_EQ(take_calls().back(), "FreeDataSpace 1");
  tensor = new_tensor({1}, "int32", kGpu);
  EXPECT_EQ(second.calls, Lines{"AllocDataSpace 4"});
  tensor = Any();
}

TEST_F(RuntimeTest, WithoutWebGpuItsTensorsAreRefused) {
  const Any shape = shape_of({1});
  expect_call_raises("runtime.TVMTensorAllocWithScope",
                     {shape.view(), of_text("int32"), of_device(kGpu), ffi::none()}, "RuntimeError",
                     {"webgpu:0 is not there", "wasm.WebGPUDeviceAPI"});
}

TEST_F(RuntimeTest, AHostWhoseFunctionsAreNoneIsRefused) {
  const Handle factory(ffi::make_function(
                           nullptr,
                           [](void*, const TVMFFIAny*, int32_t, TVMFFIAny* result) {
                             *result = of_int(1);
                             return 0;
                           },
                           nullptr)
                           .take());
  const TVMFFIByteArray name = ffi::bytes_of("wasm.WebGPUDeviceAPI");
  ASSERT_EQ(TVMFFIFunctionSetGlobal(&name, factory.get(), 1), 0);
  const Any shape = shape_of({1});
  expect_call_raises("runtime.TVMTensorAllocWithScope",
                     {shape.view(), of_text("int32"), of_device(kGpu), ffi::none()}, "TypeError",
                     {"deviceAllocDataSpace", "int"});
  FakeGpu::uninstall();
}

}  // namespace
}  // namespace sluice::runtime
