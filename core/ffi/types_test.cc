// Type keys and indices, and reflection.
#include "core/ffi/types.h"

#include "core/ffi/test_support.h"

namespace sluice::ffi {
namespace {

int32_t index_of(std::string_view key) {
  const TVMFFIByteArray bytes = bytes_of(key);
  int32_t index = -7;
  EXPECT_EQ(TVMFFITypeKeyToIndex(&bytes, &index), 0) << key;
  return index;
}

int32_t add_type(std::string_view key, int32_t parent, int32_t depth, int32_t child_slots = 0,
                 bool can_overflow = true, int32_t static_index = -1) {
  const TVMFFIByteArray bytes = bytes_of(key);
  return TVMFFITypeGetOrAllocIndex(&bytes, static_index, depth, child_slots, can_overflow ? 1 : 0,
                                   parent);
}

TEST(Types, StaticOnesHaveTheirIndices) {
  EXPECT_EQ(index_of("None"), 0);
  EXPECT_EQ(index_of("int"), 1);
  EXPECT_EQ(index_of("ffi.Object"), 64);
  EXPECT_EQ(index_of("ffi.Tensor"), 70);
  EXPECT_EQ(index_of("ffi.Array"), 71);
  EXPECT_EQ(index_of("ffi.Module"), 73);
  EXPECT_EQ(index_of("ffi.BigInt"), 78);
  const TVMFFITypeInfo* info = TVMFFIGetTypeInfo(kTVMFFIArray);
  ASSERT_NE(info, nullptr);
  EXPECT_EQ(text(info->type_key), "ffi.Array");
  EXPECT_EQ(info->type_depth, 1);
  EXPECT_EQ(info->type_ancestors[0]->type_index, kTVMFFIObject);
  EXPECT_NE(info->type_key_hash, TVMFFIGetTypeInfo(kTVMFFIMap)->type_key_hash);
}

TEST(Types, UnknownOnesAreErrors) {
  int32_t index = -7;
  const TVMFFIByteArray unknown = bytes_of("test.Unknown");
  expect_raised(TVMFFITypeKeyToIndex(&unknown, &index), "ValueError", {"test.Unknown"});
  expect_raised(TVMFFITypeKeyToIndex(nullptr, &index), "ValueError", {"type_key"});
  expect_raised(TVMFFITypeKeyToIndex(&unknown, nullptr), "ValueError", {"out_tindex"});
  EXPECT_EQ(index, -7);
  for (const int32_t wrong : {-1, 14, 100, 1 << 30, INT32_MIN}) {
    EXPECT_EQ(TVMFFIGetTypeInfo(wrong), nullptr);
    expect_raised(-1, "ValueError", {std::to_string(wrong)});
  }
}

TEST(Types, DynamicOnesAreAllocatedOnce) {
  const int32_t first = add_type("test.First", kTVMFFIObject, 1);
  EXPECT_GE(first, kTVMFFIDynObjectBegin);
  EXPECT_EQ(add_type("test.First", kTVMFFIObject, 1), first);
  EXPECT_EQ(add_type("test.First", -2, 0), first) << "a query";
  EXPECT_EQ(add_type("test.NotThere", -2, 0), -2) << "a query";
  EXPECT_EQ(take_raised().kind, "");
  EXPECT_EQ(index_of("test.First"), first);
  const TVMFFITypeInfo* info = TVMFFIGetTypeInfo(first);
  EXPECT_EQ(text(info->type_key), "test.First");
}

TEST(Types, ChildrenStandInTheirParentsSlots) {
  const int32_t parent = add_type("test.Parent", kTVMFFIObject, 1, 4);
  const int32_t one = add_type("test.Child1", parent, 2, 1);
  const int32_t grandchild = add_type("test.Grandchild", one, 3);
  const int32_t two = add_type("test.Child2", parent, 2);
  const int32_t three = add_type("test.Child3", parent, 2);
  EXPECT_EQ(one, parent + 1);
  EXPECT_EQ(grandchild, one + 1);
  EXPECT_EQ(two, parent + 3);
  EXPECT_EQ(three, parent + 4);
  const int32_t beyond = add_type("test.Child4", parent, 2);
  EXPECT_GT(beyond, parent + 4) << "overflows to the end of the table";
  const TVMFFITypeInfo* info = TVMFFIGetTypeInfo(grandchild);
  EXPECT_EQ(info->type_depth, 3);
  EXPECT_EQ(info->type_ancestors[0]->type_index, kTVMFFIObject);
  EXPECT_EQ(info->type_ancestors[1]->type_index, parent);
  EXPECT_EQ(info->type_ancestors[2]->type_index, one);
}

TEST(Types, OfAParentThatCannotOverflow) {
  const int32_t parent = add_type("test.Full", kTVMFFIObject, 1, 1, false);
  EXPECT_EQ(add_type("test.FullChild1", parent, 2), parent + 1);
  EXPECT_EQ(add_type("test.FullChild2", parent, 2), -1);
  expect_raised(-1, "ValueError", {"test.FullChild2", "test.Full"});
}

TEST(Types, StaticIndicesAreGivenOnce) {
  EXPECT_EQ(add_type("ffi.VisitInterrupt", kTVMFFIObject, 1, 0, false, kTVMFFIVisitInterrupt),
            kTVMFFIVisitInterrupt);
  const auto refuse = [](int32_t static_index, std::initializer_list<std::string_view> named) {
    EXPECT_EQ(add_type("test.Static", kTVMFFIObject, 1, 0, false, static_index), -1);
    expect_raised(-1, "ValueError", named);
  };
  refuse(kTVMFFIVisitInterrupt, {"77", "ffi.VisitInterrupt"});
  refuse(128, {"128"});
  refuse(INT32_MAX, {"below 128"});
}

TEST(Types, StaticIndicesStayOutOfTheSlotsOfOthers) {
  const auto refuse = [](int32_t static_index, int32_t child_slots,
                         std::initializer_list<std::string_view> named) {
    EXPECT_EQ(add_type("test.Between", kTVMFFIObject, 1, child_slots, true, static_index), -1);
    expect_raised(-1, "ValueError", named);
  };
  ASSERT_EQ(add_type("test.StaticParent", kTVMFFIObject, 1, 3, false, 100), 100);
  ASSERT_EQ(add_type("test.StaticChild1", 100, 2), 101);
  refuse(101, 0, {"101", "test.StaticChild1"});
  refuse(102, 0, {"102", "test.StaticParent"});
  refuse(98, 2, {"98", "children", "test.StaticParent"});
  refuse(126, 2, {"126", "2 for children", "below 128"});
  EXPECT_EQ(add_type("test.StaticChild2", 100, 2), 102);
  EXPECT_EQ(add_type("test.Between", kTVMFFIObject, 1, 1, true, 98), 98);
}

TEST(Types, WhatCannotBeIsAnError) {
  const auto refuse = [](int32_t status, std::initializer_list<std::string_view> named) {
    EXPECT_EQ(status, -1);
    expect_raised(status, "ValueError", named);
  };
  refuse(add_type("test.Bad", kTVMFFIObject, 3), {"test.Bad", "depth 3"});
  refuse(add_type("test.Bad", 4000, 1), {"4000"});
  refuse(add_type("test.Bad", -1, 0), {"parent"});
  refuse(add_type("test.Bad", kTVMFFIObject, 1, -1), {"-1 slots"});
  refuse(add_type("test.Bad", kTVMFFIObject, 1, INT32_MAX), {"2147483647 slots"});
  refuse(add_type("test.Bad", kTVMFFIObject, 1, (1 << 20) - 1), {"slots"});
  refuse(TVMFFITypeGetOrAllocIndex(nullptr, -1, 1, 0, 1, kTVMFFIObject), {"type_key"});
  refuse(add_type("", kTVMFFIObject, 1), {"type_key"});
  EXPECT_EQ(add_type("test.Bad", -2, 0), -2) << "nothing was registered";
}

TEST(Types, ListTheirKeys) {
  const int32_t index = add_type("test.Listed", kTVMFFIObject, 1);
  ASSERT_GE(index, 0);
  const Any keys = call("ffi.GetRegisteredTypeKeys", {});
  bool found = false;
  const auto* array = reinterpret_cast<ArrayObject*>(keys.view().v_obj);
  for (int64_t i = 0; i < array->cell.size; ++i)
    found = found || text(array->items()[i]) == "test.Listed";
  EXPECT_TRUE(found);
}

TEST(Reflection, KeepsFieldsMethodsAndMetadata) {
  const int32_t type = add_type("test.Reflected", kTVMFFIObject, 1);
  const Any method = Any::share(global("ffi.ArraySize").any());
  const Any fallback = call("ffi.Array", {});
  {
    const std::string name = "field", doc = "what it is";
    TVMFFIFieldInfo field{};
    field.name = bytes_of(name);
    field.doc = bytes_of(doc);
    field.flags = kTVMFFIFieldFlagBitMaskHasDefault | kTVMFFIFieldFlagBitMaskWritable;
    field.offset = 24;
    field.default_value_or_factory = fallback.view();
    ASSERT_EQ(TVMFFITypeRegisterField(type, &field), 0);
    expect_raised(TVMFFITypeRegisterField(type, &field), "ValueError", {"field", "test.Reflected"});
    TVMFFIMethodInfo info{};
    info.name = bytes_of("method");
    info.method = method.view();
    ASSERT_EQ(TVMFFITypeRegisterMethod(type, &info), 0);
    TVMFFITypeMetadata metadata{};
    metadata.doc = bytes_of(doc);
    metadata.total_size = 32;
    ASSERT_EQ(TVMFFITypeRegisterMetadata(type, &metadata), 0);
    expect_raised(TVMFFITypeRegisterMetadata(type, &metadata), "RuntimeError", {"test.Reflected"});
  }
  const TVMFFITypeInfo* info = TVMFFIGetTypeInfo(type);
  ASSERT_EQ(info->num_fields, 1);
  EXPECT_EQ(text(info->fields[0].name), "field");
  EXPECT_EQ(text(info->fields[0].doc), "what it is");
  EXPECT_EQ(info->fields[0].offset, 24);
  EXPECT_EQ(info->fields[0].default_value_or_factory.v_obj, fallback.view().v_obj);
  EXPECT_EQ(strong_count(fallback.view().v_obj), 2u);
  ASSERT_EQ(info->num_methods, 1);
  EXPECT_EQ(text(info->methods[0].name), "method");
  EXPECT_EQ(info->methods[0].method.type_index, kTVMFFIFunction);
  ASSERT_NE(info->metadata, nullptr);
  EXPECT_EQ(info->metadata->total_size, 32);
  EXPECT_EQ(text(info->metadata->doc), "what it is");
}

TEST(Reflection, MisuseIsAnError) {
  TVMFFIFieldInfo field{};
  TVMFFIMethodInfo method{};
  const TVMFFITypeMetadata metadata{};
  expect_raised(TVMFFITypeRegisterField(kTVMFFIObject, nullptr), "ValueError", {"info"});
  expect_raised(TVMFFITypeRegisterField(kTVMFFIObject, &field), "ValueError", {"text"});
  expect_raised(TVMFFITypeRegisterMethod(kTVMFFIObject, nullptr), "ValueError", {"info"});
  expect_raised(TVMFFITypeRegisterMetadata(kTVMFFIObject, nullptr), "ValueError", {"metadata"});
  field.name = method.name = bytes_of("x");
  expect_raised(TVMFFITypeRegisterField(9999, &field), "ValueError", {"9999"});
  expect_raised(TVMFFITypeRegisterMethod(-3, &method), "ValueError", {"-3"});
  expect_raised(TVMFFITypeRegisterMetadata(9999, &metadata), "ValueError", {"9999"});
  field.flags = kTVMFFIFieldFlagBitSetterIsFunctionObj;
  const Any array = call("ffi.Array", {});
  field.setter = array.view().v_obj;
  expect_raised(TVMFFITypeRegisterField(kTVMFFIObject, &field), "TypeError", {"setter"});
  EXPECT_EQ(TVMFFIGetTypeInfo(kTVMFFIObject)->num_fields, 0);
}

TEST(Attributes, StandInColumnsByType) {
  const TVMFFIByteArray name = bytes_of("__test_attribute__");
  EXPECT_EQ(TVMFFIGetTypeAttrColumn(&name), nullptr);
  ASSERT_EQ(TVMFFITypeRegisterAttr(kTVMFFINone, &name, nullptr), 0);
  const TVMFFITypeAttrColumn* column = TVMFFIGetTypeAttrColumn(&name);
  ASSERT_NE(column, nullptr);
  EXPECT_EQ(column->size, 0);
  const TVMFFIAny value = of_text("a value of some length");
  ASSERT_EQ(TVMFFITypeRegisterAttr(kTVMFFIArray, &name, &value), 0);
  const int32_t type = add_type("test.Attributed", kTVMFFIObject, 1);
  ASSERT_EQ(TVMFFITypeRegisterAttr(type, &name, &value), 0);
  EXPECT_EQ(TVMFFIGetTypeAttrColumn(&name), column) << "the column stays where it is";
  ASSERT_GT(column->size, type);
  EXPECT_EQ(text(column->data[kTVMFFIArray - column->begin_index]), "a value of some length");
  EXPECT_EQ(text(column->data[type - column->begin_index]), "a value of some length");
  EXPECT_EQ(column->data[kTVMFFIMap].type_index, kTVMFFINone);
  expect_raised(TVMFFITypeRegisterAttr(type, &name, &value), "RuntimeError",
                {"test.Attributed", "__test_attribute__"});
  expect_raised(TVMFFITypeRegisterAttr(9999, &name, &value), "ValueError", {"9999"});
  expect_raised(TVMFFITypeRegisterAttr(type, nullptr, &value), "ValueError", {"attr_name"});
  expect_raised(TVMFFITypeRegisterAttr(type, &name, nullptr), "ValueError", {"attr_value"});
  EXPECT_EQ(TVMFFIGetTypeAttrColumn(nullptr), nullptr);
}

}  // namespace
}  // namespace sluice::ffi
