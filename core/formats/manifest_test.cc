#include "core/formats/manifest.h"

#include <functional>

#include "core/base/expect_error.h"

namespace sluice {
namespace {

using enum ErrorCode;

Manifest two_tensors() {
  Manifest out{.format = "test"};
  out.files = {{.path = "a.bin", .nbytes = 100}, {.path = "b.bin"}};
  out.tensors = {
      {.name = "x", .shape = {2, 3}, .dtype = DType::f32, .file = 0, .offset = 0, .nbytes = 24},
      {.name = "y", .shape = {38}, .dtype = DType::f16, .file = 0, .offset = 24, .nbytes = 76},
      {.name = "z", .shape = {}, .dtype = DType::u8, .file = 1, .offset = 1ull << 40, .nbytes = 1},
      {.name = "none", .shape = {0, 9}, .dtype = DType::f32, .file = 0, .offset = 10, .nbytes = 0},
  };
  return out;
}

TEST(Manifest, AcceptsWhatHolds) {
  EXPECT_TRUE(validate(two_tensors(), "m.json"));
  EXPECT_TRUE(validate(Manifest{}, "m.json"));
}

TEST(Manifest, RefusesContradictions) {
  struct Case {
    std::function<void(Manifest&)> break_it;
    ErrorCode code;
    std::vector<std::string_view> named;
  };
  const std::vector<Case> cases = {
      {[](Manifest& m) { m.tensors[1].file = 2; }, manifest_invalid, {"'y'", "file 2 of 2"}},
      {[](Manifest& m) { m.tensors[0].nbytes = 20; },
       size_mismatch,
       {"'x'", "m.json", "24", "20", "[2, 3]", "float32"}},
      {[](Manifest& m) { m.tensors[1].offset = 25; },
       range_out_of_bounds,
       {"'y'", "a.bin", "76", "25", "100"}},
      {[](Manifest& m) { m.tensors[2].offset = UINT64_MAX; },
       range_out_of_bounds,
       {"'z'", "b.bin", "overflows"}},
      {[](Manifest& m) { m.tensors[3].offset = 101; }, range_out_of_bounds, {"'none'", "101"}},
      {[](Manifest& m) { m.tensors[0].shape = {1ull << 32, 1ull << 32}; },
       manifest_invalid,
       {"'x'", "4294967296", "overflows"}},
      {[](Manifest& m) { m.tensors[0].shape = {1ull << 62}; }, manifest_invalid, {"overflows"}},
      {[](Manifest& m) { m.tensors[1].name = "x"; }, manifest_invalid, {"'x'", "twice", "m.json"}},
      {[](Manifest& m) { m.tensors[1].offset = 23; },
       manifest_invalid,
       {"'y'", "byte 23", "'x'", "0 to 24", "a.bin"}},
      {[](Manifest& m) {
         m.tensors[1] = m.tensors[0];
         m.tensors[1].name = "copy";
       },
       manifest_invalid,
       {"inside"}},
      {[](Manifest& m) { m.tensors[1].encoding = Encoding::f32_to_bf16; },
       manifest_invalid,
       {"'y'", "float16"}},
      {[](Manifest& m) { m.tensors[0].encoding = Encoding::f32_to_bf16; },
       size_mismatch,
       {"'x'", "12", "24"}},
      {[](Manifest& m) { m.tensors[0].dtype = DType::q4_1; },
       manifest_invalid,
       {"'x'", "[2, 3]", "q4_1", "32"}},
      {[](Manifest& m) {
         m.tensors[0].dtype = DType::q4_1;
         m.tensors[0].shape = {};
       },
       manifest_invalid,
       {"'x'", "[]"}},
  };
  for (size_t i = 0; i < cases.size(); ++i) {
    SCOPED_TRACE(i);
    Manifest manifest = two_tensors();
    cases[i].break_it(manifest);
    const Status status = validate(manifest, "m.json");
    expect_error(status, cases[i].code, {});
    for (const std::string_view piece : cases[i].named)
      expect_error(status, cases[i].code, {piece});
    if (!status) EXPECT_FALSE(status.error().tensor.empty());
  }
}

TEST(Manifest, ErrorsCarryTheNumbers) {
  Manifest manifest = two_tensors();
  manifest.tensors[0].nbytes = 20;
  const Status status = validate(manifest, "m.json");
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().tensor, "x");
  EXPECT_EQ(status.error().file, "m.json");
  EXPECT_EQ(status.error().expected, 24u);
  EXPECT_EQ(status.error().actual, 20u);
}

// Would take minutes if overlaps or names were compared pairwise.
TEST(Manifest, ManyTensorsAreCheckedQuickly) {
  Manifest manifest{.format = "test"};
  manifest.files = {{.path = "a.bin"}};
  for (uint64_t i = 300'000; i > 0; --i)
    manifest.tensors.push_back({.name = concat("t", i),
                                .shape = {4},
                                .dtype = DType::u8,
                                .file = 0,
                                .offset = i * 4,
                                .nbytes = 4});
  EXPECT_TRUE(validate(manifest, "m.json"));
  manifest.tensors[1000].offset -= 1;
  expect_error(validate(manifest, "m.json"), manifest_invalid, {"inside"});
}

TEST(Manifest, SizesAndShapes) {
  EXPECT_EQ(dense_bytes({}, DType::f32), 4u);
  EXPECT_EQ(dense_bytes({262144, 1120}, DType::u32), 1174405120u);
  EXPECT_EQ(dense_bytes({0, UINT64_MAX, UINT64_MAX}, DType::u32), 0u);
  EXPECT_FALSE(dense_bytes({UINT64_MAX}, DType::u32));
  EXPECT_EQ(shape_text({262144, 1120}), "[262144, 1120]");
  EXPECT_EQ(shape_text({}), "[]");
}

TEST(Manifest, HintsAtForeignFiles) {
  EXPECT_TRUE(foreign_file_hint(as_bytes("<!DOCTYPE html>")).contains("web page"));
  EXPECT_TRUE(
      foreign_file_hint(as_bytes("version https://git-lfs.github.com/spec/v1\n")).contains("LFS"));
  EXPECT_EQ(foreign_file_hint(as_bytes("\x01\x02")), "");
  EXPECT_EQ(foreign_file_hint({}), "");
}

}  // namespace
}  // namespace sluice
