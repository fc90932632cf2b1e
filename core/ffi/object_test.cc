// Reference counts, weak references, values, strings, bytes and big integers.
#include "core/ffi/object.h"

#include <cmath>
#include <limits>

#include "core/ffi/test_support.h"

namespace sluice::ffi {
namespace {

// An opaque object counts how often its deleter ran
Handle counted_object(int* deleted) {
  Handle object;
  EXPECT_EQ(TVMFFIObjectCreateOpaque(
                deleted, kTVMFFIOpaquePyObject, [](void* count) { ++*static_cast<int*>(count); },
                object.receive()),
            0);
  return object;
}

struct OpaqueObject {
  TVMFFIObject header;
  TVMFFIOpaqueObjectCell cell;
};

TEST(Counts, AreHeldInOneWordAndEndWithTheDeleter) {
  int deleted = 0;
  Handle object = counted_object(&deleted);
  EXPECT_EQ(object.object()->combined_ref_count, (uint64_t{1} << 32) | 1);
  EXPECT_EQ(TVMFFIObjectIncRef(object.get()), 0);
  EXPECT_EQ(object.object()->combined_ref_count, (uint64_t{1} << 32) | 2);
  EXPECT_EQ(strong_count(object.object()), 2u);
  EXPECT_EQ(TVMFFIObjectDecRef(object.get()), 0);
  EXPECT_EQ(deleted, 0);
  object.reset();
  EXPECT_EQ(deleted, 1);
}

TEST(Counts, AWeakReferenceKeepsTheMemoryAndNotTheContent) {
  int deleted = 0;
  Handle object = counted_object(&deleted);
  const WeakRef<OpaqueObject> weak(reinterpret_cast<OpaqueObject*>(object.get()));
  const WeakRef<OpaqueObject> another = weak;
  EXPECT_EQ(object.object()->combined_ref_count, (uint64_t{3} << 32) | 1);
  {
    const auto strong = weak.lock();
    ASSERT_TRUE(strong);
    EXPECT_EQ(strong->cell.handle, &deleted);
    EXPECT_EQ(strong_count(&strong->header), 2u);
  }
  object.reset();
  EXPECT_EQ(deleted, 1);
  EXPECT_FALSE(weak.lock());
  EXPECT_FALSE(another.lock());
}

TEST(Counts, AStrongReferenceOutOfAWeakOneOutlivesTheFirst) {
  int deleted = 0;
  Handle object = counted_object(&deleted);
  const WeakRef<OpaqueObject> weak(reinterpret_cast<OpaqueObject*>(object.get()));
  auto strong = weak.lock();
  object.reset();
  EXPECT_EQ(deleted, 0);
  EXPECT_TRUE(weak.lock());
  strong = {};
  EXPECT_EQ(deleted, 1);
}

TEST(Counts, NullHandlesAreErrors) {
  expect_raised(TVMFFIObjectIncRef(nullptr), "ValueError", {"TVMFFIObjectIncRef", "obj is null"});
  expect_raised(TVMFFIObjectDecRef(nullptr), "ValueError", {"TVMFFIObjectDecRef", "obj is null"});
}

TEST(Opaque, OnlyTheOpaqueTypeIsTaken) {
  TVMFFIObjectHandle out = nullptr;
  expect_raised(TVMFFIObjectCreateOpaque(nullptr, kTVMFFIArray, nullptr, &out), "ValueError",
                {"71", "74"});
  expect_raised(TVMFFIObjectCreateOpaque(nullptr, kTVMFFIOpaquePyObject, nullptr, nullptr),
                "ValueError", {"out is null"});
  EXPECT_EQ(out, nullptr);
  EXPECT_EQ(TVMFFIObjectCreateOpaque(nullptr, kTVMFFIOpaquePyObject, nullptr, &out), 0);
  EXPECT_EQ(TVMFFIObjectDecRef(out), 0);
}

Any owned(const TVMFFIAny& view) {
  Any out;
  EXPECT_EQ(TVMFFIAnyViewToOwnedAny(&view, out.receive()), 0) << take_raised().message;
  return out;
}

TEST(Values, PlainOnesAreCopiedAndTheirPaddingIsCleared) {
  TVMFFIAny views[] = {none(),
                       of_int(INT64_MIN),
                       of_bool(true),
                       of_float(-0.0),
                       of_pointer(kTVMFFIOpaquePtr, views),
                       of_pointer(kTVMFFIOpaquePtr, nullptr)};
  for (TVMFFIAny& view : views) {
    view.zero_padding = 0xdeadbeef;
    const Any out = owned(view);
    EXPECT_EQ(out.view().type_index, view.type_index);
    EXPECT_EQ(out.view().zero_padding, 0u);
    EXPECT_EQ(out.view().v_uint64, view.type_index == kTVMFFINone ? 0 : view.v_uint64);
  }
  TVMFFIAny dtype{};
  dtype.type_index = kTVMFFIDataType;
  dtype.v_uint64 = UINT64_MAX;
  dtype.v_dtype = {kDLBfloat, 16, 2};
  const Any out = owned(dtype);
  EXPECT_EQ(out.view().v_dtype.lanes, 2);
  EXPECT_EQ(out.view().v_uint64 >> 32, 0u);
  TVMFFIAny device{};
  device.type_index = kTVMFFIDevice;
  device.v_device = {kDLWebGPU, 3};
  EXPECT_EQ(owned(device).view().v_device.device_id, 3);
}

TEST(Values, RawStringsAndByteArraysAreCopied) {
  std::string content = "seven..";
  const Any small = owned(of_text(content.c_str()));
  content += "8";
  const Any large = owned(of_text(content.c_str()));
  EXPECT_EQ(small.view().type_index, kTVMFFISmallStr);
  EXPECT_EQ(large.view().type_index, kTVMFFIStr);
  TVMFFIByteArray array = bytes_of(content);
  const Any bytes = owned(of_pointer(kTVMFFIByteArrayPtr, &array));
  EXPECT_EQ(bytes.view().type_index, kTVMFFIBytes);
  content.assign(content.size(), '!');
  EXPECT_EQ(text(small.view()), "seven..");
  EXPECT_EQ(text(large.view()), "seven..8");
  EXPECT_EQ(text(bytes.view()), "seven..8");
  const auto* object = reinterpret_cast<StringObject*>(large.view().v_obj);
  EXPECT_EQ(object->bytes.data[object->bytes.size], 0) << "strings end with a 0 behind the content";
}

TEST(Values, TheResultMayStandWhereTheViewStood) {
  TVMFFIAny place = of_text("a string that needs an object");
  ASSERT_EQ(TVMFFIAnyViewToOwnedAny(&place, &place), 0);
  const Any out = Any::adopt(place);
  EXPECT_EQ(text(out.view()), "a string that needs an object");
}

TEST(Values, AnRvalueReferenceIsTaken) {
  int deleted = 0;
  Handle object = counted_object(&deleted);
  auto* raw = object.object();
  retain(raw);
  TVMFFIAny view = of_pointer(kTVMFFIObjectRValueRef, &raw);
  {
    const Any out = owned(view);
    EXPECT_EQ(raw, nullptr);
    EXPECT_EQ(out.view().v_obj, object.object());
    EXPECT_EQ(strong_count(object.object()), 2u);
  }
  EXPECT_EQ(owned(view).view().type_index, kTVMFFINone) << "taken twice";
  object.reset();
  EXPECT_EQ(deleted, 1);
}

TEST(Values, WhatIsNoValueIsAnError) {
  TVMFFIAny out{};
  const auto refuse = [&out](TVMFFIAny view) { return TVMFFIAnyViewToOwnedAny(&view, &out); };
  expect_raised(refuse(of_text(nullptr)), "ValueError", {"null C string"});
  expect_raised(refuse(of_pointer(kTVMFFIByteArrayPtr, nullptr)), "ValueError",
                {"null byte array"});
  TVMFFIByteArray hollow = {nullptr, 4};
  expect_raised(refuse(of_pointer(kTVMFFIByteArrayPtr, &hollow)), "ValueError",
                {"null byte array"});
  expect_raised(refuse(of_pointer(kTVMFFIObjectRValueRef, nullptr)), "ValueError", {"null"});
  expect_raised(refuse(of_pointer(kTVMFFIArray, nullptr)), "ValueError", {"null", "ffi.Array"});
  expect_raised(refuse(of_pointer(63, &out)), "TypeError", {"63"});
  expect_raised(refuse(of_pointer(kTVMFFIAny, &out)), "TypeError", {"-1"});
  int deleted = 0;
  const Handle object = counted_object(&deleted);
  expect_raised(refuse(of_pointer(kTVMFFIArray, object.get())), "TypeError",
                {"ffi.Array", "ffi.OpaquePyObject"});
  TVMFFIAny small{};
  small.type_index = kTVMFFISmallStr;
  small.small_str_len = 8;
  expect_raised(refuse(small), "ValueError", {"8 bytes"});
  expect_raised(TVMFFIAnyViewToOwnedAny(nullptr, &out), "ValueError", {"any_view is null"});
  expect_raised(TVMFFIAnyViewToOwnedAny(&small, nullptr), "ValueError", {"out is null"});
  EXPECT_EQ(out.type_index, kTVMFFINone);
}

TEST(Values, KeysAreTheSameByContentOrByBits) {
  const auto equal = [](const TVMFFIAny& a, const TVMFFIAny& b) {
    EXPECT_EQ(same(a, b), same(b, a));
    if (same(a, b)) EXPECT_EQ(hash(a), hash(b));
    return same(a, b);
  };
  EXPECT_TRUE(equal(of_text("a longer string"), owned(of_text("a longer string")).view()));
  EXPECT_TRUE(equal(of_text("a"), owned(of_text("a")).view()));
  EXPECT_FALSE(equal(of_text("a"), of_text("b")));
  TVMFFIByteArray array = bytes_of("a");
  EXPECT_FALSE(equal(of_text("a"), of_pointer(kTVMFFIByteArrayPtr, &array))) << "a string, bytes";
  EXPECT_FALSE(equal(of_int(1), of_bool(true)));
  EXPECT_FALSE(equal(of_float(0.0), of_float(-0.0)));
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_TRUE(equal(of_float(nan), of_float(nan)));
  const Any a = call("ffi.Array", {}), b = call("ffi.Array", {});
  EXPECT_TRUE(equal(a.view(), a.view()));
  EXPECT_FALSE(equal(a.view(), b.view()));
}

TEST(Strings, UpToSevenBytesStandInTheValue) {
  for (size_t size = 0; size < 20; ++size) {
    std::string content(size, 'x');
    if (size > 2) content[1] = '\0';
    for (const bool is_string : {true, false}) {
      const TVMFFIByteArray input = bytes_of(content);
      Any out;
      ASSERT_EQ(is_string ? TVMFFIStringFromByteArray(&input, out.receive())
                          : TVMFFIBytesFromByteArray(&input, out.receive()),
                0);
      EXPECT_EQ(text(out.view()), content);
      const int32_t small = is_string ? kTVMFFISmallStr : kTVMFFISmallBytes;
      const int32_t large = is_string ? kTVMFFIStr : kTVMFFIBytes;
      EXPECT_EQ(out.view().type_index, size <= 7 ? small : large);
    }
  }
}

TEST(Strings, NullIsTheEmptyStringOnlyWithoutASize) {
  const TVMFFIByteArray empty = {nullptr, 0}, hollow = {nullptr, 1};
  Any out;
  EXPECT_EQ(TVMFFIStringFromByteArray(&empty, out.receive()), 0);
  EXPECT_EQ(out.view().type_index, kTVMFFISmallStr);
  EXPECT_EQ(out.view().small_str_len, 0u);
  expect_raised(TVMFFIStringFromByteArray(&hollow, out.receive()), "ValueError", {"input"});
  expect_raised(TVMFFIBytesFromByteArray(nullptr, out.receive()), "ValueError", {"input"});
  expect_raised(TVMFFIStringFromByteArray(&empty, nullptr), "ValueError", {"out"});
}

TEST(BigInt, IsAnIntWhereItFitsAndHasNoNeedlessWords) {
  const auto import = [](std::vector<int64_t> words) {
    const TVMFFIByteArray input = {reinterpret_cast<const char*>(words.data()), words.size() * 8};
    Any out;
    EXPECT_EQ(TVMFFIBigIntFromByteArray(&input, out.receive()), 0);
    return out;
  };
  const auto words_of = [](const Any& value) {
    const TVMFFIByteArray content = TVMFFIBigIntGetContentByteArray(&value.view());
    std::vector<int64_t> words(content.size / 8);
    std::memcpy(words.data(), content.data, content.size);
    return words;
  };
  using Words = std::vector<int64_t>;
  EXPECT_EQ(import({}).view().v_int64, 0);
  EXPECT_EQ(import({-5}).view().v_int64, -5);
  EXPECT_EQ(import({-5, -1, -1}).view().type_index, kTVMFFIInt);
  EXPECT_EQ(import({5, 0, 0}).view().v_int64, 5);
  // 2^63 and -2^63 - 1 need a word for the sign
  EXPECT_EQ(words_of(import({INT64_MIN, 0, 0})), (Words{INT64_MIN, 0}));
  EXPECT_EQ(words_of(import({INT64_MAX, -1, -1})), (Words{INT64_MAX, -1}));
  EXPECT_EQ(import({1, 2}).view().type_index, kTVMFFIBigInt);
  EXPECT_EQ(words_of(import({7})), Words{7});
  const Any a = import({1, 2, 3}), b = import({1, 2, 3, 0}), c = import({1, 2, 4});
  EXPECT_TRUE(same(a.view(), b.view()));
  EXPECT_EQ(hash(a.view()), hash(b.view()));
  EXPECT_FALSE(same(a.view(), c.view()));

  Any out;
  const TVMFFIByteArray odd = {"123456789", 9};
  expect_raised(TVMFFIBigIntFromByteArray(&odd, out.receive()), "ValueError", {"9 bytes"});
  expect_raised(TVMFFIBigIntFromByteArray(nullptr, out.receive()), "ValueError", {"input"});
  const TVMFFIAny no_integer = of_float(1);
  EXPECT_EQ(TVMFFIBigIntGetContentByteArray(&no_integer).data, nullptr);
  EXPECT_EQ(TVMFFIBigIntGetContentByteArray(nullptr).data, nullptr);
}

}  // namespace
}  // namespace sluice::ffi
