// Element types to and from text.
#include "core/ffi/test_support.h"

namespace sluice::ffi {
namespace {

int parse(std::string_view name, DLDataType* out) {
  const TVMFFIByteArray bytes = bytes_of(name);
  return TVMFFIDataTypeFromString(&bytes, out);
}

std::string print(DLDataType dtype) {
  Any out;
  EXPECT_EQ(TVMFFIDataTypeToString(&dtype, out.receive()), 0) << take_raised().message;
  return std::string(text(out.view()));
}

struct Case {
  std::string_view name;
  DLDataType dtype;
};

TEST(DTypes, HaveOneNameEach) {
  constexpr Case kCases[] = {
      {"", {kDLOpaqueHandle, 0, 0}},
      {"int32", {kDLInt, 32, 1}},
      {"int4", {kDLInt, 4, 1}},
      {"uint8", {kDLUInt, 8, 1}},
      {"uint1", {kDLUInt, 1, 1}},
      {"float16", {kDLFloat, 16, 1}},
      {"float32x4", {kDLFloat, 32, 4}},
      {"float64", {kDLFloat, 64, 1}},
      {"bfloat16", {kDLBfloat, 16, 1}},
      {"complex64", {kDLComplex, 64, 1}},
      {"bool", {kDLBool, 8, 1}},
      {"bool1", {kDLBool, 1, 1}},
      {"boolx4", {kDLBool, 8, 4}},
      {"handle", {kDLOpaqueHandle, 64, 1}},
      {"int8xvscalex16", {kDLInt, 8, static_cast<uint16_t>(-16)}},
      {"float8_e3m4", {kDLFloat8_e3m4, 8, 1}},
      {"float8_e4m3", {kDLFloat8_e4m3, 8, 1}},
      {"float8_e4m3b11fnuz", {kDLFloat8_e4m3b11fnuz, 8, 1}},
      {"float8_e4m3fn", {kDLFloat8_e4m3fn, 8, 1}},
      {"float8_e4m3fnuzx2", {kDLFloat8_e4m3fnuz, 8, 2}},
      {"float8_e5m2", {kDLFloat8_e5m2, 8, 1}},
      {"float8_e5m2fnuz", {kDLFloat8_e5m2fnuz, 8, 1}},
      {"float8_e8m0fnu", {kDLFloat8_e8m0fnu, 8, 1}},
      {"float6_e2m3fn", {kDLFloat6_e2m3fn, 6, 1}},
      {"float6_e3m2fn", {kDLFloat6_e3m2fn, 6, 1}},
      {"float4_e2m1fnx2", {kDLFloat4_e2m1fn, 4, 2}},
  };
  for (const Case& one : kCases) {
    DLDataType parsed{};
    ASSERT_EQ(parse(one.name, &parsed), 0) << one.name << ": " << take_raised().message;
    EXPECT_EQ(std::memcmp(&parsed, &one.dtype, sizeof(parsed)), 0) << one.name;
    EXPECT_EQ(print(one.dtype), one.name);
  }
}

TEST(DTypes, OtherNamesStandForThem) {
  constexpr Case kCases[] = {
      {"void", {kDLOpaqueHandle, 0, 0}},
      {"int", {kDLInt, 32, 1}},
      {"uint", {kDLUInt, 32, 1}},
      {"float", {kDLFloat, 32, 1}},
      {"bfloat", {kDLBfloat, 16, 1}},
      {"i8", {kDLInt, 8, 1}},
      {"u64", {kDLUInt, 64, 1}},
      {"f16x2", {kDLFloat, 16, 2}},
      {"bf16", {kDLBfloat, 16, 1}},
      {"f8_e4m3fn", {kDLFloat8_e4m3fn, 8, 1}},
      {"fp8_e5m2", {kDLFloat8_e5m2, 8, 1}},
      {"fp6_e2m3fn", {kDLFloat6_e2m3fn, 6, 1}},
      {"f4_e2m1fn", {kDLFloat4_e2m1fn, 4, 1}},
      {"float4_e2m1fn_x2", {kDLFloat4_e2m1fn, 4, 2}},
      {"handle64", {kDLOpaqueHandle, 64, 1}},
  };
  for (const Case& one : kCases) {
    DLDataType parsed{};
    ASSERT_EQ(parse(one.name, &parsed), 0) << one.name << ": " << take_raised().message;
    EXPECT_EQ(std::memcmp(&parsed, &one.dtype, sizeof(parsed)), 0) << one.name;
  }
}

TEST(DTypes, OtherTextIsAnError) {
  DLDataType out = {1, 2, 3};
  for (const std::string_view name : {"x",
                                      "in",
                                      "int32 ",
                                      " int32",
                                      "int256",
                                      "int99999999999",
                                      "int-8",
                                      "float32x",
                                      "float32x0",
                                      "float32x32768",
                                      "float32x-1",
                                      "float32xvscalex",
                                      "float32xvscalex0",
                                      "float32y4",
                                      "float8_",
                                      "float8_e9m9",
                                      "float8_e4m3fn8",
                                      "float8_e4m3fnxvscalex4",
                                      "float4_e2m1fn_",
                                      "f",
                                      "bf",
                                      "i",
                                      "custom[a]32",
                                      "bool_",
                                      "int8x4x2"})
    expect_raised(parse(name, &out), "ValueError", {name, "no dtype"});
  expect_raised(parse(std::string_view("int32\0", 6), &out), "ValueError", {});
  EXPECT_EQ(out.bits, 2) << "nothing is written";
  expect_raised(TVMFFIDataTypeFromString(nullptr, &out), "ValueError", {"str"});
  const TVMFFIByteArray good = bytes_of("int8");
  expect_raised(TVMFFIDataTypeFromString(&good, nullptr), "ValueError", {"out"});
  const DLDataType unknown = {18, 8, 1};
  Any name;
  expect_raised(TVMFFIDataTypeToString(&unknown, name.receive()), "ValueError", {"18"});
  expect_raised(TVMFFIDataTypeToString(nullptr, name.receive()), "ValueError", {"dtype"});
  expect_raised(TVMFFIDataTypeToString(&unknown, nullptr), "ValueError", {"out"});
}

TEST(DTypes, TheNameMayBeWrittenOverTheDType) {
  TVMFFIAny place{};
  place.type_index = kTVMFFIDataType;
  place.v_dtype = {kDLFloat8_e4m3b11fnuz, 8, 1};
  ASSERT_EQ(TVMFFIDataTypeToString(&place.v_dtype, &place), 0);
  const Any out = Any::adopt(place);
  EXPECT_EQ(text(out.view()), "float8_e4m3b11fnuz");
}

}  // namespace
}  // namespace sluice::ffi
