// What the VM of TVM's relax compiler runs: functions, constants and bytecode, read from the bytes
// that the compiler wrote and checked throughout, so that running them checks no index again.
//
// The format is that of VMExecutable::SaveToBytes in apache-tvm 0.27 (VM_VERSION "0.14"),
// little-endian; a text is a u64 length and its bytes, a list a u64 count and its elements:
//   header     u64 magic 0xD225DE2F4214151E (…1D: without the section of memory scopes), text
//              version
//   functions  list of {i32 kind, text name, i64 start, i64 end, i64 arguments, i64 registers,
//              list of texts parameters}; start and end count instructions
//   scopes     list of {i64 constant, text scope}
//   constants  list of {i32 type index of tvm-ffi, value}: a tensor (u64 magic 0xDD5E40F096B4A13F,
//              u64 0, DLDevice cpu, i32 ndim, DLDataType, i64[ndim] shape, i64 bytes, bytes), a
//              shape (u64 count, i64[count]), a text, i64, f64, or DLDataType
//   code       list of i64: where each instruction begins in the words; list of i64: the words
// An instruction is {1 call, destination, function, count, arguments…}, {2 return, register},
// {3 goto, offset} or {4 if, register, offset where it is false}. An argument's high byte is its
// kind, the rest a signed value.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/ffi/object.h"
#include "core/ffi/ordered_map.h"

namespace sluice::vm {

enum class FunctionKind : uint8_t {
  packed = 0,    // of the imported modules or the global registry
  bytecode = 1,  // of this executable
  compiled = 2,  // of the imported modules, as "__vmtir__" and the name: works on registers
};

struct Function {
  FunctionKind kind;
  std::string name;
  // Of a bytecode function: its instructions, [begin, end), which do not overlap the end
  uint32_t begin = 0, end = 0;
  // Of a bytecode or compiled function
  uint32_t arguments = 0;
  uint32_t registers = 0;               // the first ones are the arguments
  std::vector<std::string> parameters;  // names; may be empty
};

enum class Opcode : uint8_t { call = 1, ret = 2, jump = 3, branch = 4 };

// Not a register: nothing is written, and none is read.
inline constexpr uint32_t kNoRegister = UINT32_MAX;

struct Instruction {
  Opcode opcode;
  // call: where the result goes, or kNoRegister; ret: what is returned, or kNoRegister for none;
  // branch: the condition
  uint32_t reg;
  // jump: the next instruction; branch: the next one where the condition is 0. Always behind this
  // one and within the function, so that a function ends unless it calls itself.
  uint32_t target;
  uint32_t function;                        // call
  uint32_t first_argument, argument_count;  // call: in Executable::arguments
};

enum class ArgumentKind : uint8_t {
  reg = 0,
  immediate = 1,
  constant = 2,
  function = 3,
  machine = 4,  // the register that stands for the VM
  none = 5,     // the register that stands for no value
};

struct Argument {
  ArgumentKind kind;
  int64_t value;  // index of the register, constant or function; or the number itself
};

struct Executable {
  std::vector<Function> functions;
  ffi::OrderedMap by_name;          // index of a function
  std::vector<ffi::Any> constants;  // tensors are in CPU memory of their own
  std::vector<std::string> scopes;  // of the constants; empty where none is named
  std::vector<Instruction> instructions;
  std::vector<Argument> arguments;

  // Null where there is none.
  const Function* find(std::string_view name) const;
};

// Reads an executable. Raises a ValueError that names the section, the function and the
// instruction, and returns -1, where the bytes are none: cut, of another version, with an index or
// a count that points nowhere, with code that could run out of its function or run for ever, or
// with a call of a function of the executable with another number of arguments than it takes. `out`
// is then in no particular state.
[[nodiscard]] int load_executable(std::string_view bytes, Executable* out);

// The functions as text, one instruction a line, for people.
std::string to_text(const Executable& executable);

// One instruction: "call add in: %0, c[1] dst: %2"
std::string to_text(const Executable& executable, const Instruction& instruction);

// How many constants and functions there are, and which, for people.
std::string statistics(const Executable& executable);

}  // namespace sluice::vm
