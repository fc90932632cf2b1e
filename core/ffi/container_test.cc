// Arrays, maps and shapes through the functions that make and read them.
#include "core/ffi/container.h"

#include "core/ffi/test_support.h"

namespace sluice::ffi {
namespace {

TEST(Arrays, HoldValuesOfEveryKind) {
  const Any inner = call("ffi.Array", {});
  TVMFFIByteArray bytes = bytes_of("some bytes, more than seven");
  const Any array = call("ffi.Array", {none(), of_int(-1), of_float(2.5), of_text("short"),
                                       of_text("a string of some length"), inner.view(),
                                       of_pointer(kTVMFFIByteArrayPtr, &bytes)});
  EXPECT_EQ(call("ffi.ArraySize", {array.view()}).view().v_int64, 7);
  const auto at = [&array](int64_t i) {
    return call("ffi.ArrayGetItem", {array.view(), of_int(i)});
  };
  EXPECT_EQ(at(0).view().type_index, kTVMFFINone);
  EXPECT_EQ(at(1).view().v_int64, -1);
  EXPECT_EQ(at(2).view().v_float64, 2.5);
  EXPECT_EQ(at(3).view().type_index, kTVMFFISmallStr);
  EXPECT_EQ(text(at(4).view()), "a string of some length");
  EXPECT_EQ(at(5).view().v_obj, inner.view().v_obj);
  EXPECT_EQ(at(6).view().type_index, kTVMFFIBytes);
  EXPECT_EQ(strong_count(inner.view().v_obj), 2u) << "one here, one in the array";
  // As C++ code reads one
  const auto* object = reinterpret_cast<ArrayObject*>(array.view().v_obj);
  EXPECT_EQ(object->cell.size, 7);
  EXPECT_EQ(object->items()[1].v_int64, -1);
}

TEST(Arrays, MisuseIsAnError) {
  const Any array = call("ffi.Array", {of_int(1)});
  for (const int64_t index : {int64_t{-1}, int64_t{1}, INT64_MAX, INT64_MIN})
    expect_call_raises("ffi.ArrayGetItem", {array.view(), of_int(index)}, "IndexError",
                       {std::to_string(index), "1 elements"});
  expect_call_raises("ffi.ArrayGetItem", {array.view()}, "TypeError", {"takes 2", "not 1"});
  expect_call_raises("ffi.ArrayGetItem", {array.view(), of_float(0)}, "TypeError",
                     {"argument 1", "int", "float"});
  expect_call_raises("ffi.ArrayGetItem", {of_int(1), of_int(0)}, "TypeError",
                     {"argument 0", "ffi.Array", "int"});
  expect_call_raises("ffi.ArraySize", {of_pointer(kTVMFFIArray, nullptr)}, "TypeError",
                     {"ffi.Array"});
  const Any shape = call("ffi.Shape", {});
  expect_call_raises("ffi.ArraySize", {shape.view()}, "TypeError", {"ffi.Array", "ffi.Shape"});
  // A value that lies about its object
  expect_call_raises("ffi.ArraySize", {of_pointer(kTVMFFIArray, shape.view().v_obj)}, "TypeError",
                     {"ffi.Array"});
  // What was made before the bad element is given back
  const uint32_t before = strong_count(shape.view().v_obj);
  expect_call_raises("ffi.Array", {shape.view(), of_pointer(63, nullptr)}, "TypeError", {"63"});
  EXPECT_EQ(strong_count(shape.view().v_obj), before);
}

TEST(Arrays, AMillionInOneAnotherAreReleased) {
  Any array = call("ffi.Array", {});
  const Handle make = global("ffi.Array");
  for (int i = 0; i < 1'000'000; ++i) {
    TVMFFIAny arg = array.view(), out{};
    ASSERT_EQ(TVMFFIFunctionCall(make.get(), &arg, 1, &out), 0);
    array = Any::adopt(out);
  }
}

TEST(Arrays, ContainByContent) {
  const Any array =
      call("ffi.Array", {of_text("a string of some length"), of_int(3), of_text("x")});
  const auto contains = [&array](TVMFFIAny value) {
    return call("ffi.ArrayContains", {array.view(), value}).view().v_int64 != 0;
  };
  EXPECT_TRUE(contains(of_text("a string of some length")));
  EXPECT_TRUE(contains(of_text("x")));
  EXPECT_TRUE(contains(of_int(3)));
  EXPECT_FALSE(contains(of_int(4)));
  EXPECT_FALSE(contains(of_float(3)));
}

TEST(Maps, KeepTheOrderOfTheirKeysAndTheLastValue) {
  const Any map =
      call("ffi.Map", {of_text("zebra"), of_int(1), of_text("an apple of some length"), of_int(2),
                       of_int(7), of_text("seven"), of_text("zebra"), of_int(10)});
  EXPECT_EQ(call("ffi.MapSize", {map.view()}).view().v_int64, 3);
  EXPECT_EQ(call("ffi.MapGetItem", {map.view(), of_text("zebra")}).view().v_int64, 10);
  EXPECT_EQ(call("ffi.MapCount", {map.view(), of_int(7)}).view().v_int64, 1);
  EXPECT_EQ(call("ffi.MapCount", {map.view(), of_int(8)}).view().v_int64, 0);
  const Any walk = call("ffi.MapForwardIterFunctor", {map.view()});
  const auto step = [&walk](int64_t command) {
    TVMFFIAny arg = of_int(command);
    Any out;
    EXPECT_EQ(TVMFFIFunctionCall(walk.view().v_obj, &arg, 1, out.receive()), 0);
    return out;
  };
  EXPECT_EQ(text(step(0).view()), "zebra");
  EXPECT_EQ(step(1).view().v_int64, 10);
  EXPECT_EQ(step(2).view().v_int64, 1);
  EXPECT_EQ(text(step(0).view()), "an apple of some length");
  EXPECT_EQ(step(2).view().v_int64, 1);
  EXPECT_EQ(text(step(1).view()), "seven");
  EXPECT_EQ(step(2).view().v_int64, 0);
  EXPECT_EQ(step(2).view().v_int64, 0) << "at the end it stays";
  TVMFFIAny key = of_int(0), unknown = of_int(3), out{};
  expect_raised(TVMFFIFunctionCall(walk.view().v_obj, &key, 1, &out), "IndexError", {"3 entries"});
  expect_raised(TVMFFIFunctionCall(walk.view().v_obj, &unknown, 1, &out), "ValueError", {"3"});
}

TEST(Maps, AnEmptyOneHasNothingToWalk) {
  const Any map = call("ffi.Map", {});
  const Any walk = call("ffi.MapForwardIterFunctor", {map.view()});
  TVMFFIAny key = of_int(0), next = of_int(2), out{};
  expect_raised(TVMFFIFunctionCall(walk.view().v_obj, &key, 1, &out), "IndexError", {"0 entries"});
  ASSERT_EQ(TVMFFIFunctionCall(walk.view().v_obj, &next, 1, &out), 0);
  EXPECT_EQ(out.v_int64, 0);
}

TEST(Maps, MissingKeys) {
  const Any map = call("ffi.Map", {of_int(1), of_int(2)});
  expect_call_raises("ffi.MapGetItem", {map.view(), of_text("a")}, "KeyError", {"'a'"});
  expect_call_raises("ffi.MapGetItem", {map.view(), of_int(9)}, "KeyError", {"int"});
  const Any missing = call("ffi.MapGetItemOrMissing", {map.view(), of_text("a")});
  EXPECT_EQ(missing.view().v_obj, call("ffi.GetInvalidObject", {}).view().v_obj);
  EXPECT_NE(missing.view().v_obj, call("ffi.GetKwargsObject", {}).view().v_obj);
  EXPECT_EQ(call("ffi.MapGetItemOrMissing", {map.view(), of_int(1)}).view().v_int64, 2);
}

TEST(Maps, MisuseIsAnError) {
  expect_call_raises("ffi.Map", {of_int(1)}, "TypeError", {"keys and values", "1 arguments"});
  expect_call_raises("ffi.MapSize", {of_int(1)}, "TypeError", {"ffi.Map", "int"});
  const Any map = call("ffi.Map", {});
  expect_call_raises("ffi.MapGetItem", {map.view()}, "TypeError", {"takes 2"});
  expect_call_raises("ffi.MapGetItem", {map.view(), of_pointer(63, nullptr)}, "TypeError", {"63"});
  // An object that says that it is a map, with the layout of another library
  MapObject other = {.header = {.combined_ref_count = kStrongOne | kWeakOne,
                                .type_index = kTVMFFIMap,
                                .deleter = nullptr},
                     .map = {}};
  expect_call_raises("ffi.MapSize", {of_object(&other.header)}, "TypeError", {"another library"});
}

TEST(Maps, OfManyEntriesFindEachAndForgetTheErased) {
  OrderedMap map;
  for (int64_t i = 0; i < 20'000; ++i)
    ASSERT_EQ(map.set(concat("the key number ", i), Any::adopt(of_int(i))), 0);
  for (int64_t i = 0; i < 20'000; i += 2) EXPECT_TRUE(map.erase(concat("the key number ", i)));
  EXPECT_FALSE(map.erase("the key number 0"));
  EXPECT_EQ(map.size(), 10'000u);
  // As many as were erased fit without more room than that
  for (int64_t i = 0; i < 20'000; i += 2)
    ASSERT_EQ(map.set(concat("the key number ", i), Any::adopt(of_int(-i))), 0);
  for (int64_t i = 0; i < 20'000; ++i) {
    const TVMFFIAny* value = map.find(concat("the key number ", i));
    ASSERT_NE(value, nullptr);
    EXPECT_EQ(value->v_int64, i % 2 == 0 ? -i : i);
  }
  size_t at = map.next(0);
  EXPECT_EQ(map.value(at).v_int64, 1) << "the first that was never erased";
  map.clear();
  EXPECT_EQ(map.size(), 0u);
  EXPECT_EQ(map.find("the key number 1"), nullptr);
  EXPECT_EQ(map.next(0), map.end());
}

TEST(Shapes, HoldTheirExtents) {
  const Any shape = call("ffi.Shape", {of_int(2), of_int(INT64_MAX), of_bool(true)});
  const auto& cell = reinterpret_cast<ShapeObject*>(shape.view().v_obj)->cell;
  EXPECT_EQ(std::vector<int64_t>(cell.data, cell.data + cell.size),
            (std::vector<int64_t>{2, INT64_MAX, 1}));
  const Any empty = call("ffi.Shape", {});
  EXPECT_EQ(reinterpret_cast<ShapeObject*>(empty.view().v_obj)->cell.size, 0u);
  expect_call_raises("ffi.Shape", {of_int(1), of_float(2)}, "TypeError",
                     {"ffi.Shape", "argument 1", "float"});
  expect_call_raises("ffi.Shape", {none()}, "TypeError", {"None"});
}

}  // namespace
}  // namespace sluice::ffi
