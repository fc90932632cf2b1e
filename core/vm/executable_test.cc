#include "core/vm/executable.h"

#include <functional>

#include "core/vm/test_support.h"

namespace sluice::vm {
namespace {

// main(x) = add(x, c[0]) if flag(x) else x, and a second function that calls it
Assembler good() {
  Assembler out;
  const int64_t add = out.packed("test.add"), flag = out.packed("test.flag");
  const int64_t one = out.tensor_constant({1, 2});
  const int64_t main = out.function("main", 1, 3, [&] {
    out.call(1, flag, {reg(0), imm(-5)});
    out.branch(1, 3);
    out.call(2, add, {reg(0), constant(one)});
    out.jump(1);
    out.ret(2);
  });
  out.functions.back().parameters = {"x"};
  out.function("twice", 1, 2, [&] {
    out.call(1, main, {reg(0)});
    out.call(kVoid, main, {reg(1)});
    out.ret(kVoid);
  });
  return out;
}

void refuse(const Assembler& assembler, const std::vector<std::string_view>& named) {
  Executable executable;
  EXPECT_NE(load_executable(assembler.bytes(), &executable), 0);
  const ffi::Raised raised = ffi::take_raised();
  EXPECT_EQ(raised.kind, "ValueError");
  for (const std::string_view piece : named)
    EXPECT_TRUE(raised.message.contains(piece)) << "'" << piece << "' not in: " << raised.message;
}

TEST(Executable, LoadsWhatTheCompilerWrites) {
  for (const char* name :
       {"basic_cpu.vm", "basic_webgpu.vm", "basic_compiled.vm", "control_cpu.vm"}) {
    Executable executable;
    ASSERT_EQ(load_executable(fixture(name), &executable), 0) << ffi::take_raised().message;
    EXPECT_FALSE(executable.functions.empty()) << name;
  }
  Executable control;
  ASSERT_EQ(load_executable(fixture("control_cpu.vm"), &control), 0);
  ASSERT_NE(control.find("countdown"), nullptr);
  EXPECT_EQ(control.find("countdown")->arguments, 2U);
  EXPECT_EQ(control.find("countdown")->parameters, (std::vector<std::string>{"n", "x"}));
  EXPECT_EQ(control.find("nothing"), nullptr);
}

// The compiler's own text of the same executable, in its notation of offsets and spaces
TEST(Executable, TextSaysWhatTheCompilersDoes) {
  for (const char* name : {"basic_cpu", "control_cpu"}) {
    Executable executable;
    ASSERT_EQ(load_executable(fixture(concat(name, ".vm")), &executable), 0);
    const std::string text = to_text(executable);
    std::string expected = fixture(concat(name, ".txt"));
    size_t calls = 0;
    for (size_t at = 0, end = 0; at < expected.size(); at = end + 1) {
      end = std::min(expected.find('\n', at), expected.size());
      std::string line = expected.substr(at, end - at);
      if (!line.starts_with("  call")) continue;
      std::string words;
      for (const char c : line.substr(2))
        if (c != ' ' || (!words.empty() && words.back() != ' ')) words += c;
      EXPECT_TRUE(text.contains(words)) << words;
      ++calls;
    }
    EXPECT_GT(calls, 50U) << name;
  }
}

TEST(Executable, ReadsEveryPart) {
  Executable executable;
  ASSERT_EQ(load_executable(good().bytes(), &executable), 0) << ffi::take_raised().message;
  EXPECT_EQ(to_text(executable),
            "@test.add packed_func;\n\n@test.flag packed_func;\n\n"
            "@main:\n  0: call test.flag in: %0, i-5 dst: %1\n  1: if %1 else 4\n"
            "  2: call test.add in: %0, c[0] dst: %2\n  3: goto 4\n  4: ret %2\n\n"
            "@twice:\n  5: call main in: %0 dst: %1\n  6: call main in: %1 dst: %void\n"
            "  7: ret %void\n\n");
  EXPECT_EQ(statistics(executable),
            "VM executable: 1 constants [float32[2] on cpu:0], 4 functions [test.add, test.flag, "
            "main, twice]\n");
}

TEST(Executable, ConstantsOfEveryKind) {
  Assembler assembler;
  assembler.constants.put<int32_t>(kTVMFFIShape).put<uint64_t>(2).put<int64_t>(-3).put<int64_t>(4);
  assembler.constants.put<int32_t>(kTVMFFIStr).text("a text longer than seven bytes");
  assembler.constants.put<int32_t>(kTVMFFIInt).put<int64_t>(INT64_MIN);
  assembler.constants.put<int32_t>(kTVMFFIFloat).put(0.25);
  assembler.constants.put<int32_t>(kTVMFFIDataType)
      .put<uint8_t>(4)
      .put<uint8_t>(16)
      .put<uint16_t>(1);
  assembler.constant_count = 5;
  assembler.tensor_constant({1.5F, -2});
  assembler.magic = 0xD225DE2F4214151D;  // without scopes
  Executable executable;
  ASSERT_EQ(load_executable(assembler.bytes(), &executable), 0) << ffi::take_raised().message;
  ASSERT_EQ(executable.constants.size(), 6U);
  EXPECT_EQ(shape_in(executable.constants[0]), (std::vector<int64_t>{-3, 4}));
  EXPECT_EQ(ffi::text(executable.constants[1].view()), "a text longer than seven bytes");
  EXPECT_EQ(executable.constants[2].view().v_int64, INT64_MIN);
  EXPECT_EQ(executable.constants[3].view().v_float64, 0.25);
  EXPECT_EQ(runtime::dtype_name(executable.constants[4].view().v_dtype), "bfloat16");
  EXPECT_EQ(elements(executable.constants[5]), (std::vector<float>{1.5F, -2}));
}

TEST(Executable, CutAnywhereIsRefused) {
  for (const char* name : {"basic_cpu.vm", "control_cpu.vm"}) {
    const std::string whole = fixture(name);
    for (size_t size = 0; size < whole.size(); size += 3) {
      Executable executable;
      ffi::expect_raised(load_executable(whole.substr(0, size), &executable), "ValueError",
                         {"VM executable, ", "cut at byte "});
    }
  }
}

struct Spoiled {
  const char* what;
  std::function<void(Assembler&)> spoil;
  std::vector<std::string_view> named;
};

TEST(Executable, BadOnesAreRefused) {
  const auto word = [](Assembler& a, size_t instruction, size_t at) -> int64_t& {
    return a.words[static_cast<size_t>(a.offsets[instruction]) + at];
  };
  const std::vector<Spoiled> all = {
      {"magic", [](Assembler& a) { a.magic = 1; }, {"header", "do not begin"}},
      {"version", [](Assembler& a) { a.version = "0.15"; }, {"version '0.15', known is '0.14'"}},
      {"bytes behind", [](Assembler& a) { a.behind = "abc"; }, {"code: 3 bytes are left over"}},
      {"kind",
       [](Assembler& a) { a.functions[0].kind = 3; },
       {"function 0 'test.add' is of the unknown kind 3"}},
      {"no registers",
       [](Assembler& a) { a.functions[2].registers = 0; },
       {"function 2 'main' has 1 arguments and 0 registers"}},
      {"many registers",
       [](Assembler& a) { a.functions[2].registers = INT64_MAX; },
       {"'main' has 1 arguments and 9223372036854775807 registers"}},
      {"negative arguments", [](Assembler& a) { a.functions[2].arguments = -1; }, {"-1 arguments"}},
      {"names",
       [](Assembler& a) { a.functions[2].parameters.emplace_back("y"); },
       {"'main' has 1 arguments and the names of 2"}},
      {"twice",
       [](Assembler& a) { a.functions[3].name = "main"; },
       {"function 3 'main' is there twice"}},
      {"empty",
       [](Assembler& a) { a.functions[3].end = a.functions[3].start; },
       {"'twice' has the instructions 5 to 5"}},
      {"start", [](Assembler& a) { a.functions[3].start = -1; }, {"the instructions -1 to 8"}},
      {"end",
       [](Assembler& a) { a.functions[3].end = 9; },
       {"'twice' has the instructions 5 to 9 of 8"}},
      {"overlap",
       [](Assembler& a) { a.functions[3].start = 4; },
       {"function 'twice', instruction 0: it belongs to two functions"}},
      {"compiled",
       [](Assembler& a) {
         a.functions[2] = {.kind = 2, .name = "main", .arguments = 1, .registers = 1};
       },
       {"'main' has no register for its result"}},
      {"offset",
       [](Assembler& a) { a.offsets[0] = 1000; },
       {"function 'main', instruction 0: it begins at word 1000 of "}},
      {"negative offset",
       [](Assembler& a) { a.offsets[1] = -1; },
       {"instruction 1: it begins at word -1"}},
      {"opcode",
       [&](Assembler& a) { word(a, 0, 0) = 5; },
       {"instruction 0: its code is 5, known are 1 to 4"}},
      {"destination", [&](Assembler& a) { word(a, 0, 1) = 3; }, {"instruction 0: register 3 of 3"}},
      {"negative register", [&](Assembler& a) { word(a, 0, 1) = -1; }, {"register -1 of 3"}},
      {"special destination",
       [&](Assembler& a) { word(a, 0, 1) = kVoid + 1; },
       {"instruction 0: register "}},
      {"callee", [&](Assembler& a) { word(a, 0, 2) = 4; }, {"it calls function 4 of 4"}},
      {"negative callee", [&](Assembler& a) { word(a, 0, 2) = -1; }, {"it calls function -1 of 4"}},
      {"count",
       [&](Assembler& a) { word(a, 0, 3) = 1000; },
       {"it passes 1000 arguments and ends before them"}},
      {"negative count", [&](Assembler& a) { word(a, 0, 3) = -1; }, {"it passes -1 arguments"}},
      {"arity",
       [&](Assembler& a) { word(a, 5, 3) = 0; },
       {"function 'twice', instruction 0: it passes 0 arguments to 'main', which takes 1"}},
      {"argument register",
       [&](Assembler& a) { word(a, 0, 4) = reg(3); },
       {"its argument 0 is register 3 of 3"}},
      {"argument constant",
       [&](Assembler& a) { word(a, 0, 4) = constant(1); },
       {"its argument 0 is constant 1 of 1"}},
      {"negative constant",
       [&](Assembler& a) { word(a, 0, 4) = constant(-1); },
       {"its argument 0 is constant -1 of 1"}},
      {"argument function",
       [&](Assembler& a) { word(a, 0, 5) = fn(4); },
       {"its argument 1 is function 4 of 4"}},
      {"argument kind",
       [&](Assembler& a) { word(a, 0, 5) = of_kind(4, 0); },
       {"its argument 1 is of the unknown kind 4"}},
      {"backwards",
       [&](Assembler& a) { word(a, 3, 1) = -2; },
       {"instruction 3: it jumps by -2; the function has 1 instructions behind it"}},
      {"on the spot", [&](Assembler& a) { word(a, 3, 1) = 0; }, {"it jumps by 0"}},
      {"out",
       [&](Assembler& a) { word(a, 1, 2) = 4; },
       {"instruction 1: it jumps by 4; the function has 3 instructions behind it"}},
      {"condition", [&](Assembler& a) { word(a, 1, 1) = kVoid; }, {"instruction 1: register "}},
      {"no return",
       [&](Assembler& a) { a.functions[3].end = 7; },
       {"function 'twice', instruction 1: the function's last one does not return"}},
      {"cut instruction",
       [](Assembler& a) { a.words.pop_back(); },
       {"function 'twice', instruction 2: it is cut"}},
      {"scope",
       [](Assembler& a) {
         a.scopes.put<int64_t>(1).text("global");
         a.scope_count = 1;
       },
       {"memory scopes: scope 'global' is of constant 1 of 1"}},
      {"type",
       [](Assembler& a) {
         a.constants.put<int32_t>(99).put<int64_t>(0).put<int64_t>(0);
         ++a.constant_count;
       },
       {"constant 1: of the unknown type 99"}},
  };
  for (const Spoiled& each : all) {
    SCOPED_TRACE(each.what);
    Assembler assembler = good();
    each.spoil(assembler);
    refuse(assembler, each.named);
  }
}

// A tensor's fields, each of which may be wrong
std::string tensor(uint64_t magic, int32_t device, int32_t ndim, std::vector<int64_t> shape,
                   int64_t nbytes, uint8_t bits = 32) {
  Blob out;
  out.put<int32_t>(kTVMFFITensor).put(magic).put<uint64_t>(0).put(device).put<int32_t>(0);
  out.put(ndim).put<uint8_t>(2).put(bits).put<uint16_t>(1);
  for (const int64_t extent : shape) out.put(extent);
  return out.put(nbytes).put<int64_t>(0).bytes();
}

TEST(Executable, BadTensorsAreRefused) {
  constexpr uint64_t kMagic = 0xDD5E40F096B4A13F;
  const std::vector<std::pair<std::string, std::vector<std::string_view>>> all = {
      {tensor(1, 1, 1, {2}, 8), {"constant 0", "do not begin as a tensor's do"}},
      {tensor(kMagic, 15, 1, {2}, 8), {"of device type 15"}},
      {tensor(kMagic, 1, -1, {2}, 8), {"a tensor of -1 dimensions"}},
      {tensor(kMagic, 1, 1000, {2}, 8), {"a tensor of 1000 dimensions"}},
      {tensor(kMagic, 1, 1, {3}, 8), {"a tensor of 12 bytes that says it has 8"}},
      {tensor(kMagic, 1, 1, {-1}, 8), {"-1"}},
      {tensor(kMagic, 1, 2, {INT64_MAX, INT64_MAX}, 8), {"constant 0"}},
      {tensor(kMagic, 1, 1, {int64_t{1} << 40}, int64_t{1} << 42), {"constant 0", "cut"}},
      {tensor(kMagic, 1, 1, {2}, 8, 7), {"7 bits"}},
  };
  for (const auto& [bytes, named] : all) {
    Assembler assembler;
    assembler.constants.raw(bytes);
    assembler.constant_count = 1;
    refuse(assembler, named);
  }
}

}  // namespace
}  // namespace sluice::vm
