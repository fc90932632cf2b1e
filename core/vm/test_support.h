// For the tests of this folder: executables written word by word, and the compiled fixtures.
#pragma once

#include <cstring>
#include <fstream>
#include <initializer_list>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "core/ffi/test_support.h"
#include "core/vm/virtual_machine.h"
#include "core/vm/vm.h"

namespace sluice::vm {

// Bytes as the serializer of TVM writes them
class Blob {
 public:
  template <class T>
  Blob& put(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
    return *this;
  }
  Blob& text(std::string_view value) {
    put<uint64_t>(value.size());
    bytes_ += value;
    return *this;
  }
  Blob& raw(std::string_view value) {
    bytes_ += value;
    return *this;
  }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

inline constexpr int64_t kVoid = int64_t{1} << 54;

// Arguments of calls
inline int64_t reg(int64_t index) { return index; }
inline int64_t vm_register() { return kVoid + 1; }
inline int64_t of_kind(int64_t kind, int64_t value) {
  return static_cast<int64_t>((static_cast<uint64_t>(kind) << 56) |
                              (static_cast<uint64_t>(value) & ((uint64_t{1} << 56) - 1)));
}
inline int64_t imm(int64_t value) { return of_kind(1, value); }
inline int64_t constant(int64_t index) { return of_kind(2, index); }
inline int64_t fn(int64_t index) { return of_kind(3, index); }

// An executable in parts, each of which a test may spoil
struct Assembler {
  struct Fn {
    int32_t kind = 1;
    std::string name;
    int64_t start = 0, end = 0, arguments = 0, registers = 0;
    std::vector<std::string> parameters;
  };

  uint64_t magic = 0xD225DE2F4214151E;
  std::string version = "0.14";
  std::vector<Fn> functions;
  Blob scopes;
  uint64_t scope_count = 0;
  Blob constants;
  uint64_t constant_count = 0;
  std::vector<int64_t> offsets, words;
  std::string behind;

  // The index of a packed function, made at the first use
  int64_t packed(std::string_view name) {
    for (size_t i = 0; i < functions.size(); ++i)
      if (functions[i].name == name) return static_cast<int64_t>(i);
    functions.push_back({.kind = 0, .name = std::string(name), .arguments = -2});
    return static_cast<int64_t>(functions.size() - 1);
  }
  // A function whose instructions are those that `body` adds
  template <class Body>
  int64_t function(std::string name, int64_t arguments, int64_t registers, Body body) {
    const auto index = static_cast<int64_t>(functions.size());
    functions.push_back(
        {.kind = 1, .name = std::move(name), .arguments = arguments, .registers = registers});
    const auto start = static_cast<int64_t>(offsets.size());
    body();
    functions[static_cast<size_t>(index)].start = start;
    functions[static_cast<size_t>(index)].end = static_cast<int64_t>(offsets.size());
    return index;
  }
  void instruction(std::initializer_list<int64_t> all) {
    offsets.push_back(static_cast<int64_t>(words.size()));
    words.insert(words.end(), all);
  }
  void call(int64_t destination, int64_t function_index, std::vector<int64_t> arguments) {
    instruction({1, destination, function_index, static_cast<int64_t>(arguments.size())});
    words.insert(words.end(), arguments.begin(), arguments.end());
  }
  void ret(int64_t index) { instruction({2, index}); }
  void jump(int64_t offset) { instruction({3, offset}); }
  void branch(int64_t index, int64_t offset) { instruction({4, index, offset}); }

  int64_t text_constant(std::string_view value) {
    constants.put<int32_t>(kTVMFFIStr).text(value);
    return static_cast<int64_t>(constant_count++);
  }
  // One dimension
  int64_t tensor_constant(DLDataType dtype, std::string_view content) {
    constants.put<int32_t>(kTVMFFITensor).put<uint64_t>(0xDD5E40F096B4A13F).put<uint64_t>(0);
    constants.put<int32_t>(1).put<int32_t>(0).put<int32_t>(1);
    constants.put(dtype.code).put(dtype.bits).put(dtype.lanes);
    constants.put(static_cast<int64_t>(content.size() * 8 / dtype.bits));
    constants.put(static_cast<int64_t>(content.size())).raw(content);
    return static_cast<int64_t>(constant_count++);
  }
  int64_t tensor_constant(const std::vector<float>& values) {
    return tensor_constant({kDLFloat, 32, 1}, {reinterpret_cast<const char*>(values.data()),
                                               values.size() * sizeof(float)});
  }

  std::string bytes() const {
    Blob out;
    out.put(magic).text(version).put<uint64_t>(functions.size());
    for (const Fn& each : functions) {
      out.put(each.kind).text(each.name).put(each.start).put(each.end).put(each.arguments);
      out.put(each.registers).put<uint64_t>(each.parameters.size());
      for (const std::string& name : each.parameters) out.text(name);
    }
    if (magic != 0xD225DE2F4214151D) out.put(scope_count).raw(scopes.bytes());
    out.put(constant_count).raw(constants.bytes());
    for (const auto* list : {&offsets, &words}) {
      out.put<uint64_t>(list->size());
      for (const int64_t word : *list) out.put(word);
    }
    return out.raw(behind).bytes();
  }
};

// A file of tests/vm/fixtures
inline std::string fixture(std::string_view name) {
  const std::string path = concat(SLUICE_SOURCE_DIR, "/tests/vm/fixtures/", name);
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

// A VM on the CPU of an executable's bytes
class Machine {
 public:
  explicit Machine(std::string_view bytes, bool initialized = true) {
    initialize();
    executable_ = make_executable_module(bytes);
    if (!executable_) {
      ADD_FAILURE() << ffi::take_raised().message;
      return;
    }
    module_ = make_machine(executable_.get());
    if (initialized) EXPECT_EQ(start(), 0) << ffi::take_raised().message;
  }

  int start() {
    ffi::Any nothing;
    return invoke("vm_initialization", {ffi::of_int(kDLCPU), ffi::of_int(0), ffi::of_int(2)},
                  &nothing);
  }
  int start_on_gpu() {
    ffi::Any nothing;
    return invoke("vm_initialization",
                  {ffi::of_int(kDLWebGPU), ffi::of_int(0), ffi::of_int(2), ffi::of_int(kDLCPU),
                   ffi::of_int(0), ffi::of_int(2)},
                  &nothing);
  }
  int invoke(std::string_view name, std::vector<TVMFFIAny> args, ffi::Any* result) {
    ffi::Any function;
    EXPECT_EQ(ffi::get_function(module_.get(), name, true, &function), 0);
    if (function.view().type_index != kTVMFFIFunction)
      return ffi::raise_value(concat("no function ", name));
    return TVMFFIFunctionCall(function.view().v_obj, args.data(), static_cast<int32_t>(args.size()),
                              result->receive());
  }
  // The result of a call that must not fail
  ffi::Any call(std::string_view name, std::vector<TVMFFIAny> args) {
    ffi::Any result;
    EXPECT_EQ(invoke(name, std::move(args), &result), 0)
        << name << ": " << ffi::take_raised().message;
    return result;
  }
  void expect_raises(std::string_view name, std::vector<TVMFFIAny> args, std::string_view kind,
                     std::initializer_list<std::string_view> named) {
    ffi::Any result;
    const int status = invoke(name, std::move(args), &result);
    ffi::expect_raised(status, kind, named);
  }

  VirtualMachine& vm() { return *machine_of(module_.get()); }
  ffi::ModuleObject* module() { return module_.get(); }
  ffi::ModuleObject* executable() { return executable_.get(); }
  void end() {
    module_ = {};
    executable_ = {};
  }

 private:
  ffi::Ref<ffi::ModuleObject> executable_, module_;
};

// A tensor of CPU memory with these elements
template <class T>
ffi::Any tensor_of(DLDataType dtype, std::vector<int64_t> shape, const std::vector<T>& values) {
  auto tensor = runtime::empty(shape, dtype, runtime::kCpu, "test");
  EXPECT_TRUE(tensor);
  if (!values.empty()) std::memcpy(tensor->tensor.data, values.data(), values.size() * sizeof(T));
  return ffi::Any::adopt(ffi::of_object(std::move(tensor)));
}
inline ffi::Any floats(std::vector<int64_t> shape, const std::vector<float>& values) {
  return tensor_of(runtime::kFloat32, std::move(shape), values);
}

inline const DLTensor& tensor_in(const TVMFFIAny& value) {
  EXPECT_EQ(value.type_index, kTVMFFITensor);
  return reinterpret_cast<ffi::TensorObject*>(value.v_obj)->tensor;
}
template <class T = float>
std::vector<T> elements(const ffi::Any& value) {
  const DLTensor& tensor = tensor_in(value.view());
  const auto* data =
      reinterpret_cast<const T*>(static_cast<const char*>(tensor.data) + tensor.byte_offset);
  return {data, data + runtime::element_count(tensor)};
}
inline std::vector<int64_t> shape_in(const ffi::Any& value) {
  if (value.view().type_index == kTVMFFITensor) {
    const DLTensor& tensor = tensor_in(value.view());
    return {tensor.shape, tensor.shape + tensor.ndim};
  }
  EXPECT_EQ(value.view().type_index, kTVMFFIShape);
  const auto& cell = reinterpret_cast<ffi::ShapeObject*>(value.view().v_obj)->cell;
  return {cell.data, cell.data + cell.size};
}
inline ffi::Any shape_of(const std::vector<int64_t>& extents) {
  int64_t* place = nullptr;
  auto shape = ffi::make_shape(extents.size(), &place);
  std::copy(extents.begin(), extents.end(), place);
  return ffi::Any::adopt(ffi::of_object(std::move(shape)));
}

}  // namespace sluice::vm
