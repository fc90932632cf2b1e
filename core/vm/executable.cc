#include "core/vm/executable.h"

#include <cstdlib>
#include <limits>
#include <optional>

#include "core/base/bytes.h"
#include "core/base/checked.h"
#include "core/runtime/tensor.h"

namespace sluice::vm {
namespace {

using ffi::Any;
using ffi::raise_value;

constexpr uint64_t kMagic = 0xD225DE2F4214151D, kMagicWithScopes = 0xD225DE2F4214151E;
constexpr uint64_t kTensorMagic = 0xDD5E40F096B4A13F;
constexpr std::string_view kVersion = "0.14";

// Arguments are signed values of 56 bits under 8 bits of kind
constexpr int kValueBits = 56;
constexpr int64_t kFirstSpecialRegister = int64_t{1} << 54;
constexpr int64_t kVoidRegister = kFirstSpecialRegister, kMachineRegister = kVoidRegister + 1;

// Far more than compiled functions have; a frame of them is 16 MiB
constexpr int64_t kMaxRegisters = int64_t{1} << 20;
// DLPack sets no limit; TVM's own tensors of more dimensions than this are unknown
constexpr int32_t kMaxDimensions = 64;

// The kinds of messages: all begin alike, and name the section
int bad(std::string_view section, std::string_view what) {
  return raise_value(concat("VM executable, ", section, ": ", what));
}
int cut(std::string_view section, const ByteReader& reader) {
  return bad(section, concat("cut at byte ", reader.position()));
}

// A list's count, each of whose elements takes at least `least` bytes, so that nothing is allocated
// for more than there can be.
std::optional<size_t> read_count(ByteReader* reader, uint64_t total, uint64_t least) {
  const auto count = reader->read<uint64_t>();
  if (!count || *count > (total - reader->position()) / least) return std::nullopt;
  return static_cast<size_t>(*count);
}

std::optional<std::string_view> read_text(ByteReader* reader) {
  const auto size = reader->read<uint64_t>();
  const auto bytes = size ? reader->take(*size) : std::nullopt;
  if (!bytes) return std::nullopt;
  return as_text(*bytes);
}

class Loader {
 public:
  Loader(std::string_view bytes, Executable* out)
      : reader_(as_bytes(bytes)), total_(bytes.size()), out_(*out) {}

  int load() {
    bool scopes = false;
    if (load_header(&scopes) != 0 || load_functions() != 0) return -1;
    if (scopes && load_scopes() != 0) return -1;
    if (load_constants() != 0 || place_scopes() != 0 || load_code() != 0) return -1;
    if (reader_.position() != total_)
      return bad("code", concat(total_ - reader_.position(), " bytes are left over"));
    return 0;
  }

 private:
  int load_header(bool* scopes) {
    const auto magic = reader_.read<uint64_t>();
    if (!magic) return cut("header", reader_);
    if (*magic != kMagic && *magic != kMagicWithScopes)
      return bad("header", "the bytes do not begin as those of a VM executable do");
    const auto version = read_text(&reader_);
    if (!version) return cut("header", reader_);
    if (*version != kVersion)
      return bad("header", concat("version ", quote(*version), ", known is ", quote(kVersion)));
    *scopes = *magic == kMagicWithScopes;
    return 0;
  }

  int load_functions() {
    constexpr std::string_view kSection = "functions";
    // Kind, length of the name, four numbers, number of the parameters
    const auto count = read_count(&reader_, total_, 4 + 8 + 4 * 8 + 8);
    if (!count) return cut(kSection, reader_);
    for (size_t i = 0; i < *count; ++i) {
      const auto kind = reader_.read<int32_t>();
      const auto name = kind ? read_text(&reader_) : std::nullopt;
      if (!name) return cut(kSection, reader_);
      const auto start = reader_.read<int64_t>();
      const auto end = reader_.read<int64_t>();
      const auto arguments = reader_.read<int64_t>();
      const auto registers = reader_.read<int64_t>();
      if (!registers) return cut(kSection, reader_);
      const std::string where = concat("function ", i, " ", quote(*name));
      if (*kind < 0 || *kind > static_cast<int32_t>(FunctionKind::compiled))
        return bad(kSection, concat(where, " is of the unknown kind ", *kind));
      Function function{.kind = static_cast<FunctionKind>(*kind), .name = std::string(*name)};
      const auto parameters = read_count(&reader_, total_, 8);
      if (!parameters) return cut(kSection, reader_);
      for (size_t j = 0; j < *parameters; ++j) {
        const auto parameter = read_text(&reader_);
        if (!parameter) return cut(kSection, reader_);
        function.parameters.emplace_back(*parameter);
      }
      if (function.kind != FunctionKind::packed) {
        if (*arguments < 0 || *registers < *arguments || *registers > kMaxRegisters)
          return bad(kSection, concat(where, " has ", *arguments, " arguments and ", *registers,
                                      " registers; known are at most ", kMaxRegisters));
        if (*parameters != 0 && *parameters != static_cast<uint64_t>(*arguments))
          return bad(kSection, concat(where, " has ", *arguments, " arguments and the names of ",
                                      *parameters));
        function.arguments = static_cast<uint32_t>(*arguments);
        function.registers = static_cast<uint32_t>(*registers);
      }
      if (function.kind == FunctionKind::compiled && *registers == *arguments)
        return bad(kSection, concat(where, " has no register for its result"));
      if (function.kind == FunctionKind::bytecode) {
        // Held to the number of instructions when that is known
        if (*start < 0 || *end <= *start || *end > std::numeric_limits<uint32_t>::max())
          return bad(kSection, concat(where, " has the instructions ", *start, " to ", *end));
        function.begin = static_cast<uint32_t>(*start);
        function.end = static_cast<uint32_t>(*end);
      }
      if (out_.by_name.find(function.name) != nullptr)
        return bad(kSection, concat(where, " is there twice"));
      if (out_.by_name.set(function.name, Any::adopt(ffi::of_int(static_cast<int64_t>(i)))) != 0)
        return -1;
      out_.functions.push_back(std::move(function));
    }
    return 0;
  }

  int load_scopes() {
    const auto count = read_count(&reader_, total_, 8 + 8);
    if (!count) return cut("memory scopes", reader_);
    for (size_t i = 0; i < *count; ++i) {
      const auto constant = reader_.read<int64_t>();
      const auto scope = constant ? read_text(&reader_) : std::nullopt;
      if (!scope) return cut("memory scopes", reader_);
      scopes_.push_back({*constant, *scope});
    }
    return 0;
  }

  int place_scopes() {
    out_.scopes.resize(out_.constants.size());
    for (const auto& [constant, scope] : scopes_) {
      if (constant < 0 || static_cast<uint64_t>(constant) >= out_.constants.size())
        return bad("memory scopes", concat("scope ", quote(scope), " is of constant ", constant,
                                           " of ", out_.constants.size()));
      out_.scopes[static_cast<size_t>(constant)] = scope;
    }
    return 0;
  }

  int load_constants() {
    const auto count = read_count(&reader_, total_, 4 + 4);
    if (!count) return cut("constants", reader_);
    for (size_t i = 0; i < *count; ++i) {
      Any value;
      if (load_constant(concat("constant ", i), &value) != 0) return -1;
      out_.constants.push_back(std::move(value));
    }
    return 0;
  }

  int load_constant(const std::string& section, Any* out) {
    const auto type = reader_.read<int32_t>();
    if (!type) return cut(section, reader_);
    TVMFFIAny value{};
    value.type_index = *type;
    switch (*type) {
      case kTVMFFITensor:
        return load_tensor(section, out);
      case kTVMFFIShape: {
        const auto size = read_count(&reader_, total_, sizeof(int64_t));
        const auto elements = size ? reader_.take(*size * sizeof(int64_t)) : std::nullopt;
        if (!elements) return cut(section, reader_);
        int64_t* place = nullptr;
        auto shape = ffi::make_shape(*size, &place);
        if (!shape) return -1;
        if (!elements->empty()) std::memcpy(place, elements->data(), elements->size());
        *out = Any::adopt(ffi::of_object(std::move(shape)));
        return 0;
      }
      case kTVMFFIStr: {
        const auto text = read_text(&reader_);
        return text ? ffi::make_string(*text, out->receive()) : cut(section, reader_);
      }
      case kTVMFFIInt: {
        const auto number = reader_.read<int64_t>();
        if (!number) return cut(section, reader_);
        value.v_int64 = *number;
        *out = Any::adopt(value);
        return 0;
      }
      case kTVMFFIFloat: {
        const auto number = reader_.read<double>();
        if (!number) return cut(section, reader_);
        value.v_float64 = *number;
        *out = Any::adopt(value);
        return 0;
      }
      case kTVMFFIDataType: {
        const auto dtype = read_dtype();
        if (!dtype) return cut(section, reader_);
        value.v_dtype = *dtype;
        *out = Any::adopt(value);
        return 0;
      }
      default:
        return bad(section, concat("of the unknown type ", *type));
    }
  }

  std::optional<DLDataType> read_dtype() {
    const auto code = reader_.read<uint8_t>();
    const auto bits = reader_.read<uint8_t>();
    const auto lanes = reader_.read<uint16_t>();
    if (!code || !bits || !lanes) return std::nullopt;
    return DLDataType{*code, *bits, *lanes};
  }

  int load_tensor(const std::string& section, Any* out) {
    const auto magic = reader_.read<uint64_t>();
    const auto reserved = reader_.read<uint64_t>();
    const auto device_type = reader_.read<int32_t>();
    const auto device_id = reader_.read<int32_t>();
    const auto ndim = reader_.read<int32_t>();
    const auto dtype = read_dtype();
    if (!magic || !reserved || !device_type || !device_id || !ndim || !dtype)
      return cut(section, reader_);
    if (*magic != kTensorMagic) return bad(section, "its bytes do not begin as a tensor's do");
    if (*device_type != kDLCPU) return bad(section, concat("of device type ", *device_type));
    if (*ndim < 0 || *ndim > kMaxDimensions)
      return bad(section,
                 concat("a tensor of ", *ndim, " dimensions; known are at most ", kMaxDimensions));
    std::vector<int64_t> shape;
    for (int32_t i = 0; i < *ndim; ++i) {
      const auto extent = reader_.read<int64_t>();
      if (!extent) return cut(section, reader_);
      shape.push_back(*extent);
    }
    const auto said = reader_.read<int64_t>();
    if (!said) return cut(section, reader_);
    const std::string where = concat("VM executable, ", section);
    uint64_t nbytes = 0;
    if (!runtime::check_dtype(*dtype, where) ||
        !runtime::shape_bytes(shape, *dtype, where, &nbytes))
      return -1;
    if (*said < 0 || static_cast<uint64_t>(*said) != nbytes)
      return bad(section, concat("a tensor of ", nbytes, " bytes that says it has ", *said));
    const auto content = reader_.take(nbytes);
    if (!content) return cut(section, reader_);
    auto tensor = runtime::empty(shape, *dtype, runtime::kCpu, where);
    if (!tensor || runtime::copy_from_bytes(*content, tensor->tensor, where) != 0) return -1;
    *out = Any::adopt(ffi::of_object(std::move(tensor)));
    return 0;
  }

  int load_code() {
    const auto begins = read_words();
    const auto words = begins ? read_words() : std::nullopt;
    if (!words) return cut("code", reader_);
    if (begins->size() >= kNoRegister) return bad("code", concat(begins->size(), " instructions"));
    out_.instructions.resize(begins->size());
    // Instructions that belong to no function are never run and stay undecoded
    std::vector<bool> seen(begins->size());
    for (const Function& function : out_.functions) {
      if (function.kind != FunctionKind::bytecode) continue;
      if (function.end > begins->size())
        return bad("functions",
                   concat(quote(function.name), " has the instructions ", function.begin, " to ",
                          function.end, " of ", begins->size()));
      for (uint32_t i = function.begin; i < function.end; ++i) {
        // So that the work and the memory are those of the bytes
        if (seen[i]) return bad_code(function, i, "it belongs to two functions");
        seen[i] = true;
        if (load_instruction(function, i, (*begins)[i], *words) != 0) return -1;
      }
    }
    return 0;
  }

  std::optional<std::vector<int64_t>> read_words() {
    const auto count = read_count(&reader_, total_, sizeof(int64_t));
    const auto bytes = count ? reader_.take(*count * sizeof(int64_t)) : std::nullopt;
    if (!bytes) return std::nullopt;
    std::vector<int64_t> words(*count);
    if (!bytes->empty()) std::memcpy(words.data(), bytes->data(), bytes->size());
    return words;
  }

  static int bad_code(const Function& function, uint32_t i, std::string_view what) {
    return bad("code", concat("function ", quote(function.name), ", instruction ",
                              i - function.begin, ": ", what));
  }

  int load_instruction(const Function& function, uint32_t i, int64_t begin,
                       const std::vector<int64_t>& words) {
    if (begin < 0 || static_cast<uint64_t>(begin) >= words.size())
      return bad_code(function, i, concat("it begins at word ", begin, " of ", words.size()));
    const std::span<const int64_t> rest = std::span(words).subspan(static_cast<size_t>(begin) + 1);
    const auto needs = [&](size_t count) { return rest.size() >= count; };
    const auto is_cut = [&] { return bad_code(function, i, "it is cut"); };
    Instruction& to = out_.instructions[i];
    switch (words[static_cast<size_t>(begin)]) {
      case static_cast<int64_t>(Opcode::call): {
        if (!needs(3)) return is_cut();
        return load_call(function, i, rest, &to);
      }
      case static_cast<int64_t>(Opcode::ret):
        if (!needs(1)) return is_cut();
        to.opcode = Opcode::ret;
        return load_register(function, i, rest[0], true, &to.reg);
      case static_cast<int64_t>(Opcode::jump):
        if (!needs(1)) return is_cut();
        to.opcode = Opcode::jump;
        return load_target(function, i, rest[0], &to.target);
      case static_cast<int64_t>(Opcode::branch):
        if (!needs(2)) return is_cut();
        to.opcode = Opcode::branch;
        if (load_register(function, i, rest[0], false, &to.reg) != 0 ||
            load_target(function, i, rest[1], &to.target) != 0)
          return -1;
        return falls_through(function, i);
      default:
        return bad_code(
            function, i,
            concat("its code is ", words[static_cast<size_t>(begin)], ", known are 1 to 4"));
    }
  }

  // The next instruction may run after this one
  static int falls_through(const Function& function, uint32_t i) {
    if (i + 1 < function.end) return 0;
    return bad_code(function, i, "the function's last one does not return");
  }

  int load_call(const Function& function, uint32_t i, std::span<const int64_t> rest,
                Instruction* to) {
    to->opcode = Opcode::call;
    if (load_register(function, i, rest[0], true, &to->reg) != 0) return -1;
    if (rest[1] < 0 || static_cast<uint64_t>(rest[1]) >= out_.functions.size())
      return bad_code(function, i,
                      concat("it calls function ", rest[1], " of ", out_.functions.size()));
    to->function = static_cast<uint32_t>(rest[1]);
    const Function& called = out_.functions[to->function];
    const int64_t count = rest[2];
    if (count < 0 || static_cast<uint64_t>(count) > rest.size() - 3)
      return bad_code(function, i, concat("it passes ", count, " arguments and ends before them"));
    if (called.kind != FunctionKind::packed && count != called.arguments)
      return bad_code(function, i,
                      concat("it passes ", count, " arguments to ", quote(called.name),
                             ", which takes ", called.arguments));
    // Overlapping instructions could otherwise make many arguments of few bytes
    if (out_.arguments.size() + static_cast<size_t>(count) > total_)
      return bad_code(function, i, "its arguments are those of other instructions as well");
    to->first_argument = static_cast<uint32_t>(out_.arguments.size());
    to->argument_count = static_cast<uint32_t>(count);
    for (int64_t j = 0; j < count; ++j) {
      Argument argument{};
      if (load_argument(function, i, j, rest[static_cast<size_t>(3 + j)], &argument) != 0)
        return -1;
      out_.arguments.push_back(argument);
    }
    return falls_through(function, i);
  }

  int load_argument(const Function& function, uint32_t i, int64_t at, int64_t word, Argument* out) {
    const auto kind = static_cast<uint8_t>(static_cast<uint64_t>(word) >> kValueBits);
    // The low bits, with their sign
    const int64_t value =
        static_cast<int64_t>(static_cast<uint64_t>(word) << (64 - kValueBits)) >> (64 - kValueBits);
    const auto within = [&](std::string_view what, uint64_t size) {
      if (value >= 0 && static_cast<uint64_t>(value) < size) return 0;
      return bad_code(function, i,
                      concat("its argument ", at, " is ", what, " ", value, " of ", size));
    };
    *out = {static_cast<ArgumentKind>(kind), value};
    switch (kind) {
      case static_cast<uint8_t>(ArgumentKind::reg):
        if (value == kMachineRegister || value == kVoidRegister) {
          out->kind = value == kMachineRegister ? ArgumentKind::machine : ArgumentKind::none;
          return 0;
        }
        return within("register", function.registers);
      case static_cast<uint8_t>(ArgumentKind::immediate):
        return 0;
      case static_cast<uint8_t>(ArgumentKind::constant):
        return within("constant", out_.constants.size());
      case static_cast<uint8_t>(ArgumentKind::function):
        return within("function", out_.functions.size());
      default:
        return bad_code(function, i, concat("its argument ", at, " is of the unknown kind ", kind));
    }
  }

  static int load_register(const Function& function, uint32_t i, int64_t word, bool may_be_none,
                           uint32_t* out) {
    *out = kNoRegister;
    if (may_be_none && word == kVoidRegister) return 0;
    if (word < 0 || word >= function.registers)
      return bad_code(function, i, concat("register ", word, " of ", function.registers));
    *out = static_cast<uint32_t>(word);
    return 0;
  }

  // Compilers jump forwards only; backwards, a function could run for ever
  static int load_target(const Function& function, uint32_t i, int64_t offset, uint32_t* out) {
    if (offset < 1 || offset >= static_cast<int64_t>(function.end) - i)
      return bad_code(function, i,
                      concat("it jumps by ", offset, "; the function has ", function.end - i - 1,
                             " instructions behind it"));
    *out = i + static_cast<uint32_t>(offset);
    return 0;
  }

  struct Scope {
    int64_t constant;
    std::string_view name;
  };

  ByteReader reader_;
  uint64_t total_;
  Executable& out_;
  std::vector<Scope> scopes_;
};

std::string text_of(const Executable& executable, const Argument& argument) {
  switch (argument.kind) {
    case ArgumentKind::reg:
      return concat("%", argument.value);
    case ArgumentKind::immediate:
      return concat("i", argument.value);
    case ArgumentKind::constant:
      return concat("c[", argument.value, "]");
    case ArgumentKind::function:
      return concat("f[", executable.functions[static_cast<size_t>(argument.value)].name, "]");
    case ArgumentKind::machine:
      return "%vm";
    case ArgumentKind::none:
      return "%void";
  }
  __builtin_unreachable();
}

std::string register_text(uint32_t reg) {
  return reg == kNoRegister ? std::string("%void") : concat("%", reg);
}

std::string text_of(const TVMFFIAny& constant) {
  switch (constant.type_index) {
    case kTVMFFITensor:
      return runtime::describe(reinterpret_cast<ffi::TensorObject*>(constant.v_obj)->tensor);
    case kTVMFFIShape: {
      const auto& cell = reinterpret_cast<ffi::ShapeObject*>(constant.v_obj)->cell;
      std::string out = "shape[";
      for (size_t i = 0; i < cell.size; ++i) out += concat(i == 0 ? "" : ", ", cell.data[i]);
      return out + "]";
    }
    case kTVMFFIInt:
      return concat(constant.v_int64);
    case kTVMFFIDataType:
      return runtime::dtype_name(constant.v_dtype);
    case kTVMFFIFloat:
      return "a float";
    default:
      return quote(ffi::text(constant));
  }
}

}  // namespace

const Function* Executable::find(std::string_view name) const {
  const TVMFFIAny* index = by_name.find(name);
  return index == nullptr ? nullptr : &functions[static_cast<size_t>(index->v_int64)];
}

int load_executable(std::string_view bytes, Executable* out) { return Loader(bytes, out).load(); }

std::string to_text(const Executable& executable, const Instruction& instruction) {
  switch (instruction.opcode) {
    case Opcode::call: {
      std::string out = concat("call ", executable.functions[instruction.function].name, " in:");
      for (uint32_t i = 0; i < instruction.argument_count; ++i)
        out += concat(i == 0 ? " " : ", ",
                      text_of(executable, executable.arguments[instruction.first_argument + i]));
      return out + concat(" dst: ", register_text(instruction.reg));
    }
    case Opcode::ret:
      return concat("ret ", register_text(instruction.reg));
    case Opcode::jump:
      return concat("goto ", instruction.target);
    case Opcode::branch:
      return concat("if ", register_text(instruction.reg), " else ", instruction.target);
  }
  __builtin_unreachable();
}

std::string to_text(const Executable& executable) {
  std::string out;
  for (const Function& function : executable.functions) {
    out += concat("@", function.name);
    if (function.kind == FunctionKind::packed) {
      out += " packed_func;\n\n";
    } else if (function.kind == FunctionKind::compiled) {
      out += concat(" num_inputs=", function.arguments, " vm_tir_func;\n\n");
    } else {
      out += ":\n";
      for (uint32_t i = function.begin; i < function.end; ++i)
        out += concat("  ", i, ": ", to_text(executable, executable.instructions[i]), "\n");
      out += "\n";
    }
  }
  return out;
}

std::string statistics(const Executable& executable) {
  std::string out = concat("VM executable: ", executable.constants.size(), " constants [");
  for (size_t i = 0; i < executable.constants.size(); ++i)
    out += concat(i == 0 ? "" : ", ", text_of(executable.constants[i].view()));
  out += concat("], ", executable.functions.size(), " functions [");
  for (size_t i = 0; i < executable.functions.size(); ++i)
    out += concat(i == 0 ? "" : ", ", executable.functions[i].name);
  return out + "]\n";
}

}  // namespace sluice::vm
