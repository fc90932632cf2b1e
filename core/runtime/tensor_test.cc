#include <numeric>

#include "core/runtime/test_support.h"

// An allocation that is too large is null here as without the sanitizer
extern "C" const char* __asan_default_options() { return "allocator_may_return_null=1"; }

namespace sluice::runtime {
namespace {

using TensorTest = RuntimeTest;

constexpr const char* kAllocate = "runtime.TVMTensorAllocWithScope";
constexpr const char* kCopy = "runtime.TVMTensorCopyFromTo";
constexpr const char* kView = "runtime.TVMTensorCreateView";
constexpr const char* kFromBytes = "tvmjs.runtime.TensorCopyFromBytes";
constexpr const char* kToBytes = "tvmjs.runtime.TensorCopyToBytes";
constexpr const char* kDecode = "tvmjs.array.decode_storage";
constexpr const char* kFromHandle = "sluice.runtime.TensorFromHandle";

std::string bytes_of_tensor(const Any& tensor) {
  const Any bytes = call(kToBytes, {tensor.view()});
  return std::string(ffi::text(bytes.view()));
}

TEST_F(TensorTest, EveryDtypeHasItsExactSize) {
  struct Case {
    const char* dtype;
    size_t seven;  // bytes of seven elements
  };
  for (const Case& c : {Case{"bool", 7},           Case{"int8", 7},
                        Case{"uint8", 7},          Case{"int16", 14},
                        Case{"uint16", 14},        Case{"int32", 28},
                        Case{"uint32", 28},        Case{"int64", 56},
                        Case{"uint64", 56},        Case{"float16", 14},
                        Case{"bfloat16", 14},      Case{"float32", 28},
                        Case{"float64", 56},       Case{"handle", 56},
                        Case{"complex64", 56},     Case{"float8_e3m4", 7},
                        Case{"float8_e4m3", 7},    Case{"float8_e4m3b11fnuz", 7},
                        Case{"float8_e4m3fn", 7},  Case{"float8_e4m3fnuz", 7},
                        Case{"float8_e5m2", 7},    Case{"float8_e5m2fnuz", 7},
                        Case{"float8_e8m0fnu", 7}, Case{"float6_e2m3fn", 6},
                        Case{"float6_e3m2fn", 6},  Case{"float4_e2m1fn", 4},
                        Case{"int4", 4},           Case{"uint4", 4},
                        Case{"int2", 2},           Case{"uint1", 1},
                        Case{"float32x4", 112},    Case{"float4_e2m1fnx2", 7},
                        Case{"uint4x8", 28}}) {
    const Any tensor = new_tensor({7}, c.dtype);
    std::string content(c.seven, '\0');
    std::iota(content.begin(), content.end(), '\1');
    const TVMFFIByteArray bytes = ffi::bytes_of(content);
    call(kFromBytes, {tensor.view(), of_bytes(bytes)});
    EXPECT_EQ(bytes_of_tensor(tensor), content) << c.dtype;
    content.pop_back();
    const TVMFFIByteArray fewer = ffi::bytes_of(content);
    expect_call_raises(kFromBytes, {tensor.view(), of_bytes(fewer)}, "ValueError",
                       {kFromBytes, concat(c.seven - 1, " bytes"), concat(c.seven, " bytes")});
  }
}

TEST_F(TensorTest, AllocatesAlignedMemoryAndRowMajorStrides) {
  const Any tensor = new_tensor({2, 3, 4}, "float16");
  const DLTensor& made = tensor_of(tensor);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(made.data) % kAlignment, 0u);
  EXPECT_EQ(made.ndim, 3);
  EXPECT_EQ(made.byte_offset, 0u);
  EXPECT_EQ(std::vector(made.strides, made.strides + 3), (std::vector<int64_t>{12, 4, 1}));
  EXPECT_EQ(describe(made), "float16[2, 3, 4] on cpu:0");
}

TEST_F(TensorTest, ZeroSizeAndNoDimensions) {
  const Any nothing = new_tensor({3, 0, 5}, "float32");
  EXPECT_EQ(bytes_of_tensor(nothing), "");
  const Any scalar = tensor_with<int32_t>({}, "int32", {7});
  EXPECT_EQ(tensor_of(scalar).ndim, 0);
  const Any copied = new_tensor({}, "int32");
  call(kCopy, {scalar.view(), copied.view()});
  EXPECT_EQ(elements<int32_t>(copied), std::vector<int32_t>{7});
  const Any empty_too = new_tensor({0}, "uint4");
  call(kCopy, {nothing.view(), empty_too.view()});
  const Any part = view_of(nothing, {0, 9}, "int64", 0);
  EXPECT_EQ(tensor_of(part).shape[1], 9);
  const Any end = view_of(scalar, {0}, "int8", 4);
  EXPECT_EQ(bytes_of_tensor(end), "");
}

TEST_F(TensorTest, AShapeMayBeAnArray) {
  const Any shape = call("ffi.Array", {of_int(2), of_int(5)});
  const Any tensor =
      call(kAllocate, {shape.view(), of_dtype(kFloat32), of_device(kCpu), of_text("global")});
  EXPECT_EQ(describe(tensor_of(tensor)), "float32[2, 5] on cpu:0");
  const Any texts = call("ffi.Array", {of_int(2), of_text("5")});
  expect_call_raises(kAllocate, {texts.view(), of_dtype(kFloat32), of_device(kCpu), ffi::none()},
                     "TypeError", {kAllocate, "argument 0", "element 1"});
}

TEST_F(TensorTest, RefusesWhatCannotBeATensor) {
  const auto refuses = [](const std::vector<int64_t>& extents, TVMFFIAny dtype, DLDevice device,
                          TVMFFIAny scope, std::string_view kind,
                          std::initializer_list<std::string_view> named) {
    const Any shape = shape_of(extents);
    expect_call_raises(kAllocate, {shape.view(), dtype, of_device(device), scope}, kind, named);
  };
  refuses({2, -1}, of_text("float32"), kCpu, ffi::none(), "ValueError", {"extent 1", "-1"});
  refuses({INT64_MAX, 2}, of_text("int8"), kCpu, ffi::none(), "ValueError", {"63 bits"});
  refuses({1}, of_text("float33x"), kCpu, ffi::none(), "ValueError", {"float33x"});
  refuses({1}, of_text("void"), kCpu, ffi::none(), "ValueError", {kAllocate, "code 3", "0 bits"});
  refuses({1}, of_dtype({kDLFloat, 24, 1}), kCpu, ffi::none(), "ValueError", {"24 bits"});
  refuses({1}, of_dtype({kDLFloat, 32, 0}), kCpu, ffi::none(), "ValueError", {"0 lanes"});
  refuses({1}, of_dtype({kDLFloat, 32, 0xffff}), kCpu, ffi::none(), "ValueError", {"-1 lanes"});
  refuses({1}, of_dtype({99, 8, 1}), kCpu, ffi::none(), "ValueError", {"code 99"});
  refuses({1}, of_text("int8"), {kDLCUDA, 0}, ffi::none(), "ValueError", {"cuda:0"});
  refuses({1}, of_text("int8"), {kDLWebGPU, 1}, ffi::none(), "ValueError",
          {"webgpu:1", "only id 0"});
  refuses({1}, of_text("int8"), kCpu, of_text("global.texture"), "ValueError",
          {"cpu:0", "global.texture"});
  refuses({1}, of_int(3), kCpu, ffi::none(), "TypeError", {"argument 1", "dtype", "int"});
  expect_call_raises(kAllocate, {of_int(1)}, "TypeError", {"takes 4 arguments, not 1"});
}

TEST_F(TensorTest, AnAllocationThatCannotBeIsAnError) {
  const Any shape = shape_of({int64_t{1} << 59});
  expect_call_raises(kAllocate, {shape.view(), of_text("int8"), of_device(kCpu), ffi::none()},
                     "MemoryError", {"576460752303423488 bytes", "cpu:0"});
}

TEST_F(TensorTest, ViewsOfViewsHonourTheirOffsets) {
  std::vector<int32_t> content(12);
  std::iota(content.begin(), content.end(), 0);
  Any whole = tensor_with<int32_t>({3, 4}, "int32", content);
  Any rows = view_of(whole, {2, 4}, "int32", 16);
  const Any row = view_of(rows, {4}, "int32", 16);
  EXPECT_EQ(tensor_of(row).byte_offset, 32u);
  EXPECT_EQ(elements<int32_t>(row), (std::vector<int32_t>{8, 9, 10, 11}));
  EXPECT_EQ(bytes_of_tensor(row).size(), 16u);

  // Into a view, out of a view, from view to view
  const Any fresh = tensor_with<int32_t>({4}, "int32", {-1, -2, -3, -4});
  const Any first = view_of(rows, {4}, "int32", 0);
  call(kCopy, {fresh.view(), first.view()});
  call(kCopy, {first.view(), row.view()});
  EXPECT_EQ(elements<int32_t>(whole),
            (std::vector<int32_t>{0, 1, 2, 3, -1, -2, -3, -4, -1, -2, -3, -4}));
  const std::string two(8, '\0');
  const TVMFFIByteArray zeros = ffi::bytes_of(two);
  const Any pair = view_of(row, {2}, "int32", 8);
  call(kFromBytes, {pair.view(), of_bytes(zeros)});
  EXPECT_EQ(elements<int32_t>(row), (std::vector<int32_t>{-1, -2, 0, 0}));

  // The memory lives as long as any view
  whole = Any();
  rows = Any();
  EXPECT_EQ(elements<int32_t>(pair), (std::vector<int32_t>{0, 0}));
}

TEST_F(TensorTest, OverlappingViewsAreCopiedAsIfAtOnce) {
  const Any whole = tensor_with<uint8_t>({6}, "uint8", {1, 2, 3, 4, 5, 6});
  const Any low = view_of(whole, {5}, "uint8", 0);
  const Any high = view_of(whole, {5}, "uint8", 1);
  call(kCopy, {low.view(), high.view()});
  EXPECT_EQ(elements<uint8_t>(whole), (std::vector<uint8_t>{1, 1, 2, 3, 4, 5}));
}

TEST_F(TensorTest, ViewsOfPackedElements) {
  const Any bytes = tensor_with<uint8_t>({5}, "uint8", {0x21, 0x43, 0x65, 0x87, 0xa9});
  const Any nibbles = view_of(bytes, {3, 3}, "uint4", 0);  // 9 elements in 5 bytes
  EXPECT_EQ(bytes_of_tensor(nibbles).size(), 5u);
  const Any few = view_of(bytes, {3}, "int4", 3);
  EXPECT_EQ(bytes_of_tensor(few), "\x87\xa9");
  const Any shape = shape_of({11});
  expect_call_raises(kView, {bytes.view(), shape.view(), of_text("uint4"), of_int(0)}, "ValueError",
                     {"uint4[11]", "6 bytes", "uint8[5]", "has 5"});
}

TEST_F(TensorTest, ViewsStayWithinTheirSource) {
  const Any whole = new_tensor({4}, "float32");
  const Any shape = shape_of({2});
  const auto refuses = [&](TVMFFIAny source, TVMFFIAny offset, std::string_view kind,
                           std::initializer_list<std::string_view> named) {
    expect_call_raises(kView, {source, shape.view(), of_text("float32"), offset}, kind, named);
  };
  refuses(whole.view(), of_int(9), "ValueError", {"8 bytes at byte 9", "has 16"});
  refuses(whole.view(), of_int(INT64_MAX), "ValueError", {"has 16"});
  refuses(whole.view(), of_int(-4), "ValueError", {"byte offset is -4"});
  refuses(of_int(3), of_int(0), "TypeError", {"argument 0", "ffi.Tensor", "int"});
  // A view of a view may not leave the view, even where the memory goes on
  const Any part = view_of(whole, {1}, "float32", 4);
  refuses(part.view(), of_int(0), "ValueError", {"8 bytes at byte 0", "has 4"});
}

TEST_F(TensorTest, CopiesOfDifferentSizesAreRefusedWithTheNumbers) {
  const Any six = new_tensor({2, 3}, "float32");
  const Any five = new_tensor({5}, "float32");
  expect_call_raises(kCopy, {six.view(), five.view()}, "ValueError",
                     {kCopy, "float32[2, 3] on cpu:0, 24 bytes", "float32[5] on cpu:0, 20 bytes"});
  const Any as_bytes = new_tensor({24}, "uint8");
  call(kCopy, {six.view(), as_bytes.view()});  // one size, other types
  expect_call_raises(kCopy, {six.view(), of_text("x")}, "TypeError", {"argument 1", "a tensor"});
  expect_call_raises(kCopy, {six.view(), ffi::of_pointer(kTVMFFIDLTensorPtr, nullptr)}, "TypeError",
                     {"argument 1"});
}

TEST_F(TensorTest, CopiesFromAndToTensorsOfTheCaller) {
  float content[] = {0, 0, 5, 6};
  int64_t extent = 2;
  int64_t stride = 1;
  DLTensor bare = {.data = content,
                   .device = kCpu,
                   .ndim = 1,
                   .dtype = kFloat32,
                   .shape = &extent,
                   .strides = nullptr,
                   .byte_offset = 8};
  const TVMFFIAny argument = ffi::of_pointer(kTVMFFIDLTensorPtr, &bare);
  const Any copied = new_tensor({2}, "float32");
  call(kCopy, {argument, copied.view()});
  EXPECT_EQ(elements<float>(copied), (std::vector<float>{5, 6}));

  bare.strides = &stride;
  call(kCopy, {copied.view(), argument});
  stride = 2;
  expect_call_raises(kCopy, {argument, copied.view()}, "ValueError", {"not contiguous"});
  stride = 1;
  bare.data = nullptr;
  expect_call_raises(kCopy, {argument, copied.view()}, "ValueError", {"no memory"});
  bare.data = content;
  bare.shape = nullptr;
  expect_call_raises(kCopy, {argument, copied.view()}, "ValueError", {"null shape"});
  bare.shape = &extent;
  bare.byte_offset = UINT64_MAX - 3;
  expect_call_raises(kCopy, {argument, copied.view()}, "ValueError", {"behind the memory"});
  bare.byte_offset = 0;
  bare.device = {kDLCUDA, 0};
  expect_call_raises(kCopy, {argument, copied.view()}, "ValueError", {"cuda:0"});
}

TEST_F(TensorTest, SharedStorageIsTheSameBytes) {
  const Any whole = new_tensor({4}, "int32");
  const Any same = view_of(whole, {2, 2}, "float32", 0);
  const Any part = view_of(whole, {2}, "int32", 8);
  const auto shared = [](const Any& a, const Any& b) {
    return call("runtime.TVMTensorIsStorageShared", {a.view(), b.view()}).view().v_int64 != 0;
  };
  EXPECT_TRUE(shared(whole, same));
  EXPECT_FALSE(shared(whole, part));
  EXPECT_FALSE(shared(whole, new_tensor({4}, "int32")));
}

// ---- Records of a tensor cache ----

TEST_F(TensorTest, DecodesBfloat16AndCopiesTheRest) {
  const Any tensor = new_tensor({2}, "float32");
  const std::string halves("\x80\x3f\x40\xc0", 4);  // 1, -3
  const TVMFFIByteArray bf16 = ffi::bytes_of(halves);
  const auto decode = [&](const TVMFFIByteArray& bytes, const char* format, const char* dtype) {
    Any result;
    return try_call(kDecode, {tensor.view(), of_bytes(bytes), of_text(format), of_text(dtype)},
                    &result);
  };
  EXPECT_EQ(decode(bf16, "f32-to-bf16", "float32"), 0);
  EXPECT_EQ(elements<float>(tensor), (std::vector<float>{1, -3}));

  // Published caches say f32-to-bf16 of records that are float32 already
  const std::vector<float> native = {2.5f, -7.25f};
  const std::string full(reinterpret_cast<const char*>(native.data()), 8);
  const TVMFFIByteArray f32 = ffi::bytes_of(full);
  EXPECT_EQ(decode(f32, "f32-to-bf16", "float32"), 0);
  EXPECT_EQ(elements<float>(tensor), native);
  EXPECT_EQ(decode(f32, "raw", "float32"), 0);

  const TVMFFIByteArray odd = ffi::bytes_of(std::string_view(halves).substr(1));
  ffi::expect_raised(decode(odd, "f32-to-bf16", "float32"), "ValueError",
                     {kDecode, "4 bytes as bfloat16", "8 as float32", "not 3"});
  ffi::expect_raised(decode(bf16, "raw", "float32"), "ValueError", {"4 bytes", "8 bytes"});
  ffi::expect_raised(decode(bf16, "f32-to-bf16", "uint32"), "ValueError", {"4 bytes", "8 bytes"});
}

TEST_F(TensorTest, DecodesIntoAViewAtAnyByte) {
  const Any bytes = new_tensor({9}, "uint8");
  const Any odd = view_of(bytes, {2}, "float32", 1);
  const std::string halves("\x80\x3f\x00\x40", 4);
  const TVMFFIByteArray bf16 = ffi::bytes_of(halves);
  call(kDecode, {odd.view(), of_bytes(bf16), of_text("f32-to-bf16"), of_text("float32")});
  EXPECT_EQ(elements<float>(odd), (std::vector<float>{1, 2}));
}

TEST_F(TensorTest, DecodesBfloat16WhereItStands) {
  constexpr const char* kInPlace = "tvmjs.array.decode_bf16_to_f32_inplace";
  std::vector<uint16_t> halves(10);
  std::vector<float> expected;
  for (uint16_t i = 0; i < 5; ++i) {
    halves[i] = static_cast<uint16_t>(0x3f80 + i * 0x81);
    const uint32_t bits = uint32_t{halves[i]} << 16;
    std::memcpy(&expected.emplace_back(), &bits, 4);
  }
  const Any bytes = tensor_with<uint16_t>({10}, "uint16", halves);
  const Any tensor = view_of(bytes, {5}, "float32", 0);
  expect_call_raises(kInPlace, {tensor.view(), of_int(20)}, "ValueError",
                     {kInPlace, "float32[5]", "10 bytes", "not 20"});
  expect_call_raises(kInPlace, {bytes.view(), of_int(10)}, "TypeError", {"float32", "uint16[10]"});
  call(kInPlace, {tensor.view(), of_int(10)});
  EXPECT_EQ(elements<float>(tensor), expected);
  const Any nothing = new_tensor({0}, "float32");
  call(kInPlace, {nothing.view(), of_int(0)});
}

// ---- Memory that exists already ----

TEST_F(TensorTest, TakesMemoryOver) {
  auto* memory = static_cast<int16_t*>(std::malloc(6));
  memory[0] = 1, memory[1] = 2, memory[2] = 3;
  const Any shape = shape_of({3});
  {
    const Any tensor = call(kFromHandle, {ffi::of_pointer(kTVMFFIOpaquePtr, memory), shape.view(),
                                          of_text("int16"), of_device(kCpu)});
    EXPECT_EQ(elements<int16_t>(tensor), (std::vector<int16_t>{1, 2, 3}));
    // freed at the end: the sanitizer sees both a leak and a second free
  }
  expect_call_raises(kFromHandle, {of_int(0), shape.view(), of_text("int16"), of_device(kCpu)},
                     "ValueError", {kFromHandle, "null"});
  expect_call_raises(kFromHandle, {of_int(-8), shape.view(), of_text("int16"), of_device(kCpu)},
                     "ValueError", {"-8"});
  expect_call_raises(kFromHandle, {of_text("7"), shape.view(), of_text("int16"), of_device(kCpu)},
                     "TypeError", {"argument 0"});
}

// ---- Arrays and embeddings ----

TEST_F(TensorTest, ConcatenatesArrays) {
  const Any a = call("ffi.Array", {of_int(1), of_text("two")});
  const Any none = call("ffi.Array", {});
  const Any b = call("ffi.Array", {a.view()});
  const Any all = call("tvmjs.runtime.ArrayConcat", {a.view(), none.view(), b.view()});
  EXPECT_EQ(call("ffi.ArraySize", {all.view()}).view().v_int64, 3);
  EXPECT_EQ(call("ffi.ArrayGetItem", {all.view(), of_int(2)}).view().v_obj, a.view().v_obj);
  EXPECT_EQ(call("ffi.ArraySize", {call("tvmjs.runtime.ArrayConcat", {}).view()}).view().v_int64,
            0);
  expect_call_raises("tvmjs.runtime.ArrayConcat", {a.view(), of_int(1)}, "TypeError",
                     {"argument 1", "ffi.Array"});
}

TEST_F(TensorTest, ConcatenatesEmbeddings) {
  constexpr const char* kConcatenate = "tvmjs.runtime.ConcatEmbeddings";
  const Any a = tensor_with<float>({1, 2}, "float32", {1, 2});
  const Any whole = tensor_with<float>({3, 2}, "float32", {0, 0, 3, 4, 5, 6});
  const Any b = view_of(whole, {2, 2}, "float32", 8);
  const Any none = new_tensor({0, 2}, "float32");
  const Any all = call(kConcatenate, {a.view(), none.view(), b.view()});
  EXPECT_EQ(describe(tensor_of(all)), "float32[3, 2] on cpu:0");
  EXPECT_EQ(elements<float>(all), (std::vector<float>{1, 2, 3, 4, 5, 6}));

  expect_call_raises(kConcatenate, {}, "TypeError", {"at least one"});
  const Any wider = new_tensor({1, 3}, "float32");
  expect_call_raises(kConcatenate, {a.view(), wider.view()}, "ValueError",
                     {"argument 1", "float32[1, 3]", "float32[1, 2]"});
  const Any other = new_tensor({1, 2}, "float16");
  expect_call_raises(kConcatenate, {a.view(), other.view()}, "ValueError", {"float16[1, 2]"});
  const Any flat = new_tensor({2}, "float32");
  expect_call_raises(kConcatenate, {flat.view()}, "ValueError", {"argument 0", "float32[2]"});
  const Any nibbles = new_tensor({1, 3}, "uint4");
  expect_call_raises(kConcatenate, {nibbles.view(), nibbles.view()}, "ValueError",
                     {"whole number of bytes"});
}

// ---- Devices ----

TEST_F(TensorTest, DevicesByName) {
  const auto exists = [](int64_t type) {
    return call("runtime.GetDeviceAttr", {of_int(type), of_int(0), of_int(0)}).view().v_int64;
  };
  EXPECT_EQ(exists(kDLCPU), 1);
  EXPECT_EQ(exists(kDLWebGPU), 1);
  EXPECT_EQ(exists(kDLCUDA), 0);
  EXPECT_EQ(exists(12345), 0);
  EXPECT_EQ(call("runtime.GetDeviceAttr", {of_int(kDLCPU), of_int(0), of_int(5)}).view().type_index,
            kTVMFFINone);
  expect_call_raises("runtime.GetDeviceAttr", {of_int(-1), of_int(0), of_int(0)}, "ValueError",
                     {"type -1"});
  EXPECT_EQ(call("runtime.RuntimeEnabled", {of_text("cpu")}).view().v_int64, 1);
  EXPECT_EQ(call("runtime.RuntimeEnabled", {of_text("webgpu")}).view().v_int64, 1);
  EXPECT_EQ(call("runtime.RuntimeEnabled", {of_text("cuda")}).view().v_int64, 0);
  EXPECT_EQ(call("device_api.cpu", {}).view().v_ptr, &cpu_device());
  EXPECT_EQ(call("device_api.webgpu", {}).view().v_ptr, &webgpu_device());
  call("__tvm_set_device", {of_int(kDLCPU), of_int(0)});
  expect_call_raises("__tvm_set_device", {of_int(kDLCUDA), of_int(1)}, "ValueError", {"cuda:1"});
  call("runtime.Device_StreamSync", {of_device(kCpu), of_int(0)});
  int stream = 0;
  call("runtime.TVMSetStream",
       {of_int(kDLCPU), of_int(0), ffi::of_pointer(kTVMFFIOpaquePtr, &stream)});
  EXPECT_EQ(TVMFFIEnvGetStream(kDLCPU, 0), &stream);
  call("runtime.TVMSetStream", {of_int(kDLCPU), of_int(0), ffi::none()});
  EXPECT_EQ(TVMFFIEnvGetStream(kDLCPU, 0), nullptr);
  EXPECT_EQ(device_name({static_cast<DLDeviceType>(kDLCUDA), 3}), "cuda:3");
  EXPECT_EQ(device_name({static_cast<DLDeviceType>(kDLExtDev), 0}), "device type 12:0");
}

TEST_F(TensorTest, InitializingTwiceKeepsWhatIsThere) {
  const Handle before = ffi::global(kCopy);
  initialize();
  const Handle after = ffi::global(kCopy);
  EXPECT_EQ(before.get(), after.get());
  EXPECT_FALSE(ffi::has_raised());
}

TEST_F(TensorTest, ANameThatIsTakenStays) {
  static constexpr ffi::Builtin kBoth[] = {{kCopy, nullptr}, {"test.mine", nullptr}};
  const Handle before = ffi::global(kCopy);
  register_missing(kBoth);
  EXPECT_EQ(ffi::global(kCopy).get(), before.get());
  EXPECT_NE(ffi::global("test.mine").get(), nullptr);
  call("ffi.FunctionRemoveGlobal", {of_text("test.mine")});
}

}  // namespace
}  // namespace sluice::runtime
