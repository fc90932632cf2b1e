#include "core/vm/virtual_machine.h"

#include "core/runtime/fake_webgpu.h"
#include "core/vm/test_support.h"

namespace sluice::vm {
namespace {

using ffi::Any;
using ffi::Args;
using ffi::of_int;

int sum(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  int64_t total = 0;
  for (int32_t i = 0; i < count; ++i) {
    int64_t value = 0;
    if (!args.integer(i, &value)) return -1;
    total += value;
  }
  *result = of_int(total);
  return 0;
}

int fail_silently(void*, const TVMFFIAny*, int32_t, TVMFFIAny*) { return -1; }

constexpr ffi::Builtin kFunctions[] = {{"test.sum", sum}, {"test.silent", fail_silently}};

class VirtualMachineTest : public testing::Test {
 protected:
  void SetUp() override {
    initialize();
    if (!ffi::find_function("test.sum")) ASSERT_EQ(ffi::register_functions(kFunctions), 0);
  }
  Assembler code;
};

TEST_F(VirtualMachineTest, CallsWithEveryKindOfArgument) {
  const int64_t add = code.packed("test.sum");
  code.constants.put<int32_t>(kTVMFFIInt).put<int64_t>(100);
  code.constant_count = 1;
  code.function("main", 1, 2, [&] {
    code.call(1, add, {reg(0), imm(-3), constant(0)});
    code.ret(1);
  });
  Machine machine(code.bytes());
  EXPECT_EQ(machine.call("main", {of_int(7)}).view().v_int64, 104);
}

TEST_F(VirtualMachineTest, ConstantsOfAnySizeReachWebGpu) {
  // Of 6, 1 and 8 bytes: WebGPU writes whole units of 4
  const std::pair<DLDataType, std::string> constants[] = {
      {{kDLFloat, 16, 1}, {"\x01\x3c\x02\x3c\x03\x3c"}},
      {{kDLInt, 8, 1}, {"\x7f"}},
      {{kDLFloat, 32, 1}, std::string(8, '\x3f')}};
  for (const auto& [dtype, content] : constants) code.tensor_constant(dtype, content);
  for (const int64_t i : {0, 1, 2})
    code.function(concat("constant", i), 0, 1, [&] {
      code.call(0, code.packed("vm.builtin.copy"), {constant(i)});
      code.ret(0);
    });
  runtime::FakeGpu gpu;
  gpu.install();
  {
    Machine machine(code.bytes(), false);
    ASSERT_EQ(machine.start_on_gpu(), 0) << ffi::take_raised().message;
    for (const int64_t i : {0, 1, 2}) {
      const auto& [dtype, content] = constants[i];
      const ffi::Any given = machine.call(concat("constant", i), {});
      const DLTensor& tensor = reinterpret_cast<ffi::TensorObject*>(given.view().v_obj)->tensor;
      EXPECT_EQ(tensor.device.device_type, kDLWebGPU);
      EXPECT_EQ(tensor.dtype.bits, dtype.bits);
      const std::string& buffer = gpu.buffers.at(reinterpret_cast<uintptr_t>(tensor.data));
      EXPECT_EQ(buffer.substr(tensor.byte_offset, content.size()), content);
    }
  }
  ffi::call("vm.builtin.memory_manager.clear", {});
  EXPECT_EQ(gpu.buffers.size(), 0U);
  runtime::FakeGpu::uninstall();
}

TEST_F(VirtualMachineTest, BranchesAndJumps) {
  const int64_t add = code.packed("test.sum");
  code.function("main", 1, 2, [&] {
    code.branch(0, 3);
    code.call(1, add, {imm(1)});
    code.jump(2);
    code.call(1, add, {imm(2)});
    code.ret(1);
  });
  Machine machine(code.bytes());
  EXPECT_EQ(machine.call("main", {of_int(-1)}).view().v_int64, 1);
  EXPECT_EQ(machine.call("main", {of_int(0)}).view().v_int64, 2);
  EXPECT_EQ(machine.call("main", {ffi::of_bool(true)}).view().v_int64, 1);
  machine.expect_raises(
      "main", {ffi::none()}, "TypeError",
      {"the condition must be an int or bool, not None", "in 'main', instruction 0: if %0 else 3"});
}

TEST_F(VirtualMachineTest, FunctionsCallEachOther) {
  const int64_t add = code.packed("test.sum");
  const int64_t inner = code.function("inner", 2, 3, [&] {
    code.call(2, add, {reg(0), reg(1)});
    code.ret(2);
  });
  code.function("main", 1, 3, [&] {
    code.call(1, inner, {reg(0), imm(10)});
    code.call(kVoid, inner, {reg(0), imm(10)});
    code.call(2, inner, {reg(1), reg(0)});
    code.ret(2);
  });
  code.function("nothing", 0, 0, [&] { code.ret(kVoid); });
  Machine machine(code.bytes());
  EXPECT_EQ(machine.call("main", {of_int(1)}).view().v_int64, 12);
  EXPECT_EQ(machine.call("nothing", {}).view().type_index, kTVMFFINone);
}

TEST_F(VirtualMachineTest, ErrorsNameTheFunctionTheInstructionAndTheBuiltin) {
  const int64_t add = code.packed("test.sum"), silent = code.packed("test.silent");
  const int64_t inner = code.function("inner", 1, 2, [&] {
    code.call(1, add, {imm(1), reg(0)});
    code.ret(1);
  });
  code.function("main", 1, 2, [&] {
    code.call(1, add, {});
    code.call(1, inner, {reg(0)});
    code.ret(1);
  });
  code.function("quiet", 0, 1, [&] {
    code.call(0, silent, {});
    code.ret(0);
  });
  Machine machine(code.bytes());
  machine.expect_raises("main", {ffi::none()}, "TypeError",
                        {"test.sum",
                         "(in 'inner', instruction 0: call test.sum in: i1, %0 dst: %1, "
                         "called by 'main', instruction 1: call inner in: %0 dst: %1)"});
  machine.expect_raises("quiet", {}, "RuntimeError",
                        {"raised no error", "in 'quiet', instruction 0: call test.silent"});
  machine.expect_raises("main", {}, "TypeError", {"main() takes 1 arguments, not 0"});
  // It works on
  EXPECT_EQ(machine.call("main", {of_int(2)}).view().v_int64, 3);
}

TEST_F(VirtualMachineTest, DepthIsLimited) {
  const auto forever = static_cast<int64_t>(code.functions.size());
  code.function("forever", 0, 1, [&] {
    code.call(0, forever, {});
    code.ret(0);
  });
  const int64_t invoke = code.packed("vm.builtin.invoke_closure");
  const auto nested = static_cast<int64_t>(code.functions.size());
  code.function("nested", 0, 1, [&] {
    code.call(0, invoke, {vm_register(), fn(nested)});
    code.ret(0);
  });
  const auto wide = static_cast<int64_t>(code.functions.size());
  code.function("wide", 0, 1 << 20, [&] {
    code.call(0, wide, {});
    code.ret(0);
  });
  Machine machine(code.bytes());
  machine.expect_raises("forever", {}, "RecursionError",
                        {"forever: 4096 calls", "called by 4093 more"});
  machine.expect_raises("nested", {}, "RecursionError", {"more than 128 calls through closures"});
  machine.expect_raises("wide", {}, "RecursionError", {"wide: 4 calls with 4194304 registers"});
}

TEST_F(VirtualMachineTest, CallsCanBeLimited) {
  const int64_t add = code.packed("test.sum");
  code.function("main", 0, 1, [&] {
    for (int i = 0; i < 3; ++i) code.call(0, add, {});
    code.ret(0);
  });
  Machine machine(code.bytes());
  machine.vm().set_call_limit(5);
  machine.call("main", {});
  machine.expect_raises("main", {}, "RuntimeError",
                        {"the limit of calls is reached", "instruction 2"});
}

TEST_F(VirtualMachineTest, ClosuresKeepWhatTheyCapture) {
  const int64_t add = code.packed("test.sum"), make = code.packed("vm.builtin.make_closure");
  const int64_t invoke = code.packed("vm.builtin.invoke_closure");
  const int64_t inner = code.function("inner", 3, 4, [&] {
    code.call(3, add, {reg(0), reg(1), reg(2)});
    code.ret(3);
  });
  code.function("make", 1, 2, [&] {
    code.call(1, make, {fn(inner), reg(0), imm(1000)});
    code.ret(1);
  });
  code.function("main", 2, 3, [&] {
    code.call(2, invoke, {vm_register(), reg(0), reg(1)});
    code.ret(2);
  });
  Machine machine(code.bytes());
  const Any closure = machine.call("make", {of_int(20)});
  EXPECT_EQ(machine.call("main", {closure.view(), of_int(3)}).view().v_int64, 1023);
  EXPECT_EQ(machine.call("invoke_closure", {closure.view(), of_int(4)}).view().v_int64, 1024);
  machine.expect_raises("invoke_closure", {closure.view()}, "TypeError",
                        {"inner() takes 3 arguments, not 2"});
  machine.expect_raises("invoke_closure", {of_int(1)}, "TypeError",
                        {"the VM calls functions and closures, not int"});
  machine.expect_raises("main", {of_int(1), of_int(1)}, "TypeError", {"not int", "instruction 0"});

  Machine other(code.bytes());
  other.expect_raises("invoke_closure", {closure.view(), of_int(4)}, "ValueError",
                      {"called on another VM"});
  machine.end();
  other.expect_raises("invoke_closure", {closure.view(), of_int(4)}, "ValueError",
                      {"called on another VM"});
}

// A closure of a closure of a closure … is called at once, and its captures are counted
TEST_F(VirtualMachineTest, ClosuresOfClosuresStayFlat) {
  const int64_t make = code.packed("vm.builtin.make_closure"), add = code.packed("test.sum");
  const int64_t inner = code.function("inner", 3, 4, [&] {
    code.call(3, add, {reg(0), reg(1), reg(2)});
    code.ret(3);
  });
  code.function("more", 2, 3, [&] {
    code.call(2, make, {reg(0), reg(1)});
    code.ret(2);
  });
  code.function("same", 1, 2, [&] {
    code.call(1, make, {reg(0)});
    code.ret(1);
  });
  code.function("get", 0, 1, [&] {
    code.call(0, make, {fn(inner)});
    code.ret(0);
  });
  Machine machine(code.bytes());
  Any closure = machine.call("get", {});
  closure = machine.call("more", {closure.view(), of_int(100)});
  closure = machine.call("more", {closure.view(), of_int(10)});
  for (int i = 0; i < 100'000; ++i) closure = machine.call("same", {closure.view()});
  EXPECT_EQ(machine.call("invoke_closure", {closure.view(), of_int(1)}).view().v_int64, 111);
  Any result;
  int status = 0;
  for (size_t i = 2; status == 0 && i <= kMaxCaptured; ++i) {
    status = machine.invoke("more", {closure.view(), of_int(0)}, &result);
    if (status == 0) closure = result;
  }
  ffi::expect_raised(status, "ValueError", {"'inner' would capture 4097 values, at most 4096"});
}

TEST_F(VirtualMachineTest, AFunctionKeepsItsMachine) {
  code.function("main", 1, 1, [&] { code.ret(0); });
  Machine machine(code.bytes());
  Any function;
  ASSERT_EQ(ffi::get_function(machine.module(), "main", true, &function), 0);
  machine.end();
  TVMFFIAny argument = of_int(5), result = ffi::none();
  EXPECT_EQ(TVMFFIFunctionCall(function.view().v_obj, &argument, 1, &result), 0);
  EXPECT_EQ(result.v_int64, 5);
}

TEST_F(VirtualMachineTest, TheMachineRegisterIsCheckedByBuiltins) {
  const int64_t heap = code.packed("vm.builtin.alloc_shape_heap");
  code.function("main", 1, 2, [&] {
    code.call(1, heap, {reg(0), imm(2)});
    code.ret(1);
  });
  Machine machine(code.bytes());
  machine.expect_raises(
      "main", {ffi::of_pointer(kTVMFFIOpaquePtr, &code)}, "TypeError",
      {"vm.builtin.alloc_shape_heap: the first argument must be the VM that runs"});
  machine.expect_raises("main", {of_int(3)}, "TypeError", {"not int"});
  const Any found = machine.call("main", {machine.vm().as_argument()});
  EXPECT_EQ(shape_in(found), (std::vector<int64_t>{2}));
}

TEST_F(VirtualMachineTest, StartSaysWhatIsWrong) {
  code.packed("test.not_there");
  code.packed("test.nor_this");
  code.function("main", 1, 1, [&] { code.ret(0); });
  Machine machine(code.bytes(), false);
  ffi::expect_raised(machine.start(), "RuntimeError",
                     {"vm_initialization", "test.not_there, test.nor_this"});
  machine.expect_raises("main", {of_int(1)}, "RuntimeError",
                        {"main: the VM is not initialized; call vm_initialization first"});
  Machine good(Assembler().bytes());
  ffi::expect_raised(good.start(), "RuntimeError", {"initialized already"});
  Machine wrong(Assembler().bytes(), false);
  wrong.expect_raises("vm_initialization", {}, "TypeError", {"not 0 arguments"});
  wrong.expect_raises("vm_initialization", {of_int(1), of_int(0)}, "TypeError",
                      {"not 2 arguments"});
  wrong.expect_raises("vm_initialization", {of_int(99), of_int(0), of_int(2)}, "ValueError",
                      {"99"});
  wrong.expect_raises("vm_initialization", {of_int(1), of_int(0), of_int(3)}, "ValueError",
                      {"allocator 3, known are 1 (naive) and 2 (pooled)"});
  wrong.expect_raises("vm_initialization", {of_int(1), of_int(int64_t{1} << 40), of_int(2)},
                      "ValueError", {"1099511627776"});
}

TEST_F(VirtualMachineTest, StatefulCallsAndTheirOutputs) {
  const int64_t tuple = code.packed("vm.builtin.make_tuple");
  code.function("main", 2, 3, [&] {
    code.call(2, tuple, {reg(1), imm(5)});
    code.call(2, tuple, {reg(0), reg(2)});
    code.ret(2);
  });
  code.functions.back().parameters = {"first", "second"};
  Machine machine(code.bytes());
  const auto text = [](const char* value) { return ffi::of_text(value); };
  machine.expect_raises("get_output", {text("main")}, "ValueError",
                        {"no output of 'main'; call invoke_stateful first"});
  machine.call("set_input", {text("main"), of_int(1), of_int(2)});
  machine.call("invoke_stateful", {text("main")});
  EXPECT_EQ(machine.call("get_output_arity", {text("main")}).view().v_int64, 2);
  EXPECT_EQ(machine.call("get_output_arity", {text("main"), of_int(0)}).view().v_int64, -1);
  EXPECT_EQ(machine.call("get_output", {text("main"), of_int(1), of_int(0)}).view().v_int64, 2);
  machine.expect_raises("get_output", {text("main")}, "ValueError", {"the output is a tuple"});
  machine.expect_raises("get_output", {text("main"), of_int(2)}, "IndexError", {"index 2 of 2"});
  machine.expect_raises("get_output", {text("main"), of_int(0), of_int(0)}, "ValueError",
                        {"which is no tuple"});
  machine.expect_raises("set_input", {text("other")}, "ValueError", {"no function 'other'"});
  machine.expect_raises("set_input", {}, "TypeError", {"the name of a function first"});
  EXPECT_EQ(machine.call("get_function_arity", {text("main")}).view().v_int64, 2);
  const Any name = machine.call("get_function_param_name", {text("main"), of_int(1)});
  EXPECT_EQ(ffi::text(name.view()), "second");
  machine.expect_raises("get_function_param_name", {text("main"), of_int(2)}, "IndexError",
                        {"index 2 of 2"});
}

TEST_F(VirtualMachineTest, SavedFunctionsHaveTheirArguments) {
  const int64_t add = code.packed("test.sum");
  code.function("main", 2, 3, [&] {
    code.call(2, add, {reg(0), reg(1)});
    code.ret(2);
  });
  Machine machine(code.bytes());
  machine.call("save_function",
               {ffi::of_text("main"), ffi::of_text("saved"), of_int(1), of_int(3), of_int(4)});
  EXPECT_EQ(machine.call("saved", {}).view().v_int64, 7);
  machine.call("save_function",
               {ffi::of_text("main"), ffi::of_text("quiet"), of_int(0), of_int(3), of_int(4)});
  EXPECT_EQ(machine.call("quiet", {}).view().type_index, kTVMFFINone);
  machine.expect_raises("save_function", {ffi::of_text("main"), ffi::of_text("main"), of_int(1)},
                        "ValueError", {"the executable has a function 'main' of its own"});
}

// An instrument that counts, and leaves out the calls of a sum with one argument
struct Seen {
  std::vector<std::string> names;
  int befores = 0;
} seen;

int instrument(void*, const TVMFFIAny* args, int32_t count, TVMFFIAny* result) {
  seen.names.emplace_back(ffi::text(args[1]));
  seen.befores += static_cast<int>(args[2].v_int64);
  *result = of_int(count == 5 ? 1 : 0);
  return 0;
}

TEST_F(VirtualMachineTest, AnInstrumentSeesCallsAndMayLeaveThemOut) {
  const int64_t add = code.packed("test.sum");
  const int64_t inner = code.function("inner", 2, 3, [&] {
    code.call(2, add, {reg(0), reg(1)});
    code.ret(2);
  });
  code.function("main", 0, 2, [&] {
    code.call(0, inner, {imm(1), imm(2)});
    code.call(1, add, {imm(9)});
    code.ret(0);
  });
  Machine machine(code.bytes());
  const auto function = ffi::make_function(nullptr, instrument, nullptr);
  seen = {};
  machine.call("set_instrument", {ffi::of_object(&function->header)});
  EXPECT_EQ(machine.call("main", {}).view().v_int64, 3);
  EXPECT_EQ(seen.names,
            (std::vector<std::string>{"inner", "test.sum", "test.sum", "inner", "test.sum"}));
  EXPECT_EQ(seen.befores, 3);
  machine.call("set_instrument", {ffi::none()});
  machine.call("main", {});
  EXPECT_EQ(seen.names.size(), 5U);
}

TEST_F(VirtualMachineTest, TheExecutablesOwnFunctions) {
  code.function("main", 1, 1, [&] { code.ret(0); });
  const std::string bytes = code.bytes();
  Any content;
  ASSERT_EQ(ffi::make_bytes(bytes, content.receive()), 0);
  const Any loaded = ffi::call("ffi.Module.load_from_bytes.relax.VMExecutable", {content.view()});
  const auto get = [&](const char* name) {
    return ffi::call("ffi.ModuleGetFunction",
                     {loaded.view(), ffi::of_text(name), ffi::of_bool(true)});
  };
  const auto call = [](const Any& function, std::vector<TVMFFIAny> args) {
    Any out;
    EXPECT_EQ(TVMFFIFunctionCall(function.view().v_obj, args.data(),
                                 static_cast<int32_t>(args.size()), out.receive()),
              0);
    return out;
  };
  EXPECT_EQ(call(get("has_function"), {ffi::of_text("main")}).view().v_int64, 1);
  EXPECT_EQ(call(get("has_function"), {ffi::of_text("other")}).view().v_int64, 0);
  EXPECT_TRUE(ffi::text(call(get("as_text"), {}).view()).contains("@main"));
  EXPECT_TRUE(ffi::text(call(get("stats"), {}).view()).contains("[main]"));
  const Any machine = call(get("vm_load_executable"), {});
  EXPECT_EQ(ffi::text(ffi::call("ffi.ModuleGetKind", {machine.view()}).view()),
            "relax.VirtualMachine");
  EXPECT_EQ(get("main").view().type_index, kTVMFFINone);
  ffi::expect_call_raises("ffi.Module.load_from_bytes.relax.VMExecutable", {of_int(1)}, "TypeError",
                          {"bytes"});
  ASSERT_EQ(ffi::make_bytes(bytes.substr(1), content.receive()), 0);
  ffi::expect_call_raises("ffi.Module.load_from_bytes.relax.VMExecutable", {content.view()},
                          "ValueError", {"VM executable, header"});
}

}  // namespace
}  // namespace sluice::vm
