#include "core/rpc/rpc.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <string>

#include "core/rpc/test_support.h"
#include "core/runtime/test_support.h"

namespace sluice::rpc {
namespace {

using ffi::Any;
using ffi::of_int;
using ffi::of_text;
using ffi::Ref;

constexpr DLDevice kCpu = {kDLCPU, 0};
constexpr DLDevice kGpu = {kDLWebGPU, 0};
constexpr DLDataType kFloat32 = {kDLFloat, 32, 1};

using Body = std::function<int(const TVMFFIAny*, int32_t, TVMFFIAny*)>;

int run_body(void* self, const TVMFFIAny* args, int32_t count, TVMFFIAny* result) {
  return (*static_cast<Body*>(self))(args, count, result);
}

Ref<ffi::FunctionObject> function_of(Body body) {
  return ffi::make_function(new Body(std::move(body)), run_body,
                            [](void* self) { delete static_cast<Body*>(self); });
}

// A client, the connection, and the server at its other end.
class RpcTest : public testing::Test {
 protected:
  void SetUp() override {
    initialize();
    make_server("wasm");
  }
  void TearDown() override {
    server_ = {};
    for (const std::string& name : names_)
      ffi::call("ffi.FunctionRemoveGlobal", {of_text(name.c_str())});
    EXPECT_FALSE(ffi::has_raised());
  }

  void make_server(const char* remote_key) {
    auto send = function_of([this](const TVMFFIAny* args, int32_t count, TVMFFIAny* result) {
      EXPECT_EQ(count, 1);
      const std::string_view bytes = ffi::text(args[0]);
      const size_t taken = std::min(bytes.size(), send_limit_);
      sent_ += bytes.substr(0, taken);
      *result = of_int(static_cast<int64_t>(taken));
      return 0;
    });
    server_ = ffi::call("rpc.CreateEventDrivenServer",
                        {ffi::of_object(&send->header), of_text("Test"), of_text(remote_key)});
  }

  void add_function(const std::string& name, Body body) {
    const TVMFFIByteArray bytes = ffi::bytes_of(name);
    const auto function = function_of(std::move(body));
    ASSERT_EQ(TVMFFIFunctionSetGlobal(&bytes, function.get(), 1), 0);
    names_.push_back(name);
  }

  int64_t feed(std::string_view bytes, int64_t flags = 3) {
    const TVMFFIByteArray array = ffi::bytes_of(bytes);
    const TVMFFIAny args[] = {runtime::of_bytes(array), of_int(flags)};
    Any result;
    auto* handler = reinterpret_cast<ffi::FunctionObject*>(server_.view().v_obj);
    EXPECT_EQ(ffi::call(handler, args, &result), 0) << ffi::take_raised().message;
    EXPECT_EQ(result.view().type_index, kTVMFFIInt);
    return result.view().v_int64;
  }

  Reply take() {
    Reply out;
    EXPECT_TRUE(take_reply(&sent_, &out)) << "no whole answer in " << sent_.size() << " bytes";
    return out;
  }
  Reply ask(const Packet& packet) {
    EXPECT_EQ(feed(packet.with_length()), 1);
    Reply out = take();
    EXPECT_TRUE(sent_.empty()) << "more than one answer";
    return out;
  }
  // The values of an answer that must be no exception.
  std::vector<Value> ask_values(const Packet& packet) {
    const Reply out = ask(packet);
    EXPECT_EQ(out.code, static_cast<int32_t>(Code::return_value)) << out.error();
    return out.values;
  }
  void expect_error(const Packet& packet, std::initializer_list<std::string_view> pieces) {
    const Reply out = ask(packet);
    EXPECT_EQ(out.code, static_cast<int32_t>(Code::exception));
    for (const std::string_view piece : pieces)
      EXPECT_TRUE(out.error().contains(piece)) << "'" << piece << "' not in: " << out.error();
  }

  static Packet init_packet() {
    return std::move(Packet(Code::init_server).text(kVersion).count(0));
  }
  void start() {
    const auto values = ask_values(init_packet());
    ASSERT_EQ(values.size(), 1u);
    EXPECT_EQ(values[0].type, kTVMFFINone);
  }

  uint64_t function(std::string_view name) {
    const auto values = ask_values(Packet(Code::get_global_function).count(1).string(name));
    if (values.size() != 1 || values[0].type != kTVMFFIOpaquePtr) return 0;
    return static_cast<uint64_t>(values[0].number);
  }
  static Packet call_of(uint64_t function, int32_t count) {
    return std::move(Packet(Code::call_function).put(function).count(count));
  }

  uint64_t allocate(int64_t nbytes, DLDevice device = kCpu) {
    const auto values = ask_values(
        Packet(Code::allocate).count(4).device(device).integer(nbytes).integer(64).dtype(kFloat32));
    return values.size() == 1 ? static_cast<uint64_t>(values[0].number) : 0;
  }
  static WireTensor floats(uint64_t handle, int64_t count, uint64_t offset = 0,
                           DLDevice device = kCpu) {
    return {.handle = handle,
            .device = device,
            .dtype = kFloat32,
            .shape = {count},
            .byte_offset = offset};
  }
  static Packet upload(const WireTensor& to, std::string_view bytes) {
    Packet packet(Code::copy_to_remote);
    packet.description(to).text(bytes);
    return packet;
  }
  static Packet download(const WireTensor& from, uint64_t nbytes) {
    Packet packet(Code::copy_from_remote);
    packet.description(from).put(nbytes);
    return packet;
  }

  Any server_;
  std::string sent_;
  size_t send_limit_ = SIZE_MAX;
  std::vector<std::string> names_;
};

// ---- The session ----

TEST_F(RpcTest, NothingIsAnsweredBeforeTheSessionBegins) {
  expect_error(Packet(Code::get_global_function).count(1).string("ffi.String"),
               {"Test: kInitServer comes first, and this is kGetGlobalFunc"});
  start();
  EXPECT_NE(function("ffi.String"), 0u);
}

TEST_F(RpcTest, ASessionBeginsOnceAndInTheSameProtocol) {
  expect_error(Packet(Code::init_server).text("0.7.0").count(0),
               {"protocol is '0.7.0'", "'0.8.0'"});
  start();
  expect_error(init_packet(), {"Test is initialized already"});
}

TEST_F(RpcTest, ASessionIsMadeByTheConstructorThatTheClientNames) {
  expect_error(Packet(Code::init_server).text(kVersion).count(1).string("rpc.NoSession"),
               {"no constructor of sessions 'rpc.NoSession'"});
  expect_error(Packet(Code::init_server).text(kVersion).count(1).string("ffi.SystemLib"),
               {"'ffi.SystemLib' gave ffi.Module, not a session"});
  expect_error(Packet(Code::init_server).text(kVersion).count(2).string("ffi.String").remote(4),
               {"the handle 4 is not one of an object"});
  std::string binary;
  add_function("rpc.WasmSession", [&](const TVMFFIAny* args, int32_t count, TVMFFIAny* result) {
    EXPECT_EQ(count, 1);
    binary = ffi::text(args[0]);
    *result = ffi::call("wasm.LocalSession", {}).take();
    return 0;
  });
  ask_values(Packet(Code::init_server)
                 .text(kVersion)
                 .count(2)
                 .put(int32_t{kTVMFFIStr})  // in its longer form, as Python's client has it
                 .put(uint32_t{kTVMFFIStr})
                 .text("rpc.WasmSession")
                 .put(int32_t{kTVMFFIBytes})
                 .put(uint32_t{kTVMFFIBytes})
                 .text(std::string_view("\0asm", 4)));
  EXPECT_EQ(binary, std::string("\0asm", 4));
  EXPECT_NE(function("ffi.String"), 0u);
}

TEST_F(RpcTest, TheClientsKeyComesFirstWhereTheServerIsToReadIt) {
  make_server("%toinit");
  const int32_t length = 5;
  feed(std::string(reinterpret_cast<const char*>(&length), 4) + "a-key" +
       init_packet().with_length());
  EXPECT_EQ(take().code, static_cast<int32_t>(Code::return_value));

  make_server("%toinit");
  const int32_t negative = -1;
  EXPECT_EQ(feed({reinterpret_cast<const char*>(&negative), 4}), 0);
  EXPECT_TRUE(take().error().contains("the client's key is -1 bytes long"));
}

TEST_F(RpcTest, AShutdownClosesWithoutAnAnswer) {
  start();
  EXPECT_EQ(feed(Packet(Code::shutdown).with_length()), 0);
  EXPECT_EQ(feed(init_packet().with_length()), 0);
  EXPECT_EQ(sent_, "");
}

// ---- Calls ----

TEST_F(RpcTest, ResultsOfAllKindsComeBack) {
  start();
  TVMFFIAny given{};
  add_function("test.give", [&](const TVMFFIAny*, int32_t, TVMFFIAny* result) {
    return ffi::own(given, result);
  });
  const uint64_t give = function("test.give");
  const auto result = [&](TVMFFIAny value) {
    given = value;
    auto values = ask_values(call_of(give, 0));
    EXPECT_EQ(values.size(), 2u);
    EXPECT_EQ(values[0].type, kTVMFFIInt);
    return std::pair(values[0].number, values.back());
  };
  auto [type, value] = result(of_int(-7));
  EXPECT_EQ(type, kTVMFFIInt);
  EXPECT_EQ(value.type, kTVMFFIInt);
  EXPECT_EQ(value.number, -7);
  std::tie(type, value) = result(ffi::of_float(0.5));
  EXPECT_EQ(value.type, kTVMFFIFloat);
  EXPECT_EQ(std::bit_cast<double>(value.number), 0.5);
  std::tie(type, value) = result(ffi::none());
  EXPECT_EQ(type, kTVMFFINone);
  EXPECT_EQ(value.type, kTVMFFINone);
  std::tie(type, value) = result(ffi::of_bool(true));
  EXPECT_EQ(value.type, kTVMFFIBool);
  for (const char* text : {"short", "a string of more bytes than fit into a value", ""}) {
    std::tie(type, value) = result(of_text(text));
    EXPECT_EQ(value.type, kTVMFFIRawStr);
    EXPECT_EQ(value.text, text);
  }
  const std::string_view raw("\0\1\2", 3);
  const TVMFFIByteArray bytes = ffi::bytes_of(raw);
  std::tie(type, value) = result(runtime::of_bytes(bytes));
  EXPECT_EQ(value.type, kTVMFFIByteArrayPtr);
  EXPECT_EQ(value.text, raw);
  std::tie(type, value) = result(runtime::of_dtype(kFloat32));
  EXPECT_EQ(value.type, kTVMFFIDataType);
  std::tie(type, value) = result(runtime::of_device(kGpu));
  EXPECT_EQ(value.type, kTVMFFIDevice);
  EXPECT_EQ(value.number, 15);
}

TEST_F(RpcTest, ArgumentsOfAllKindsArrive) {
  start();
  std::vector<std::string> seen;
  add_function("test.see", [&](const TVMFFIAny* args, int32_t count, TVMFFIAny*) {
    for (int32_t i = 0; i < count; ++i) {
      const std::string_view text = ffi::text(args[i]);
      seen.push_back(text.data() != nullptr ? std::string(text)
                                            : concat(ffi::type_key_of(args[i]), " ",
                                                     static_cast<uint32_t>(args[i].v_int64)));
    }
    return 0;
  });
  ask_values(call_of(function("test.see"), 8)
                 .none()
                 .integer(3)
                 .object(kTVMFFIBool, 1)
                 .string("text")
                 .bytes("bytes")
                 .device(kGpu)
                 .pointer(0)
                 .put(int32_t{kTVMFFISmallStr})
                 .put(uint32_t{kTVMFFIStr})
                 .text("small"));
  const std::vector<std::string> wanted = {"None 0", "int 3",     "bool 1",  "text",
                                           "bytes",  "Device 15", "void* 0", "small"};
  ASSERT_EQ(seen.size(), wanted.size());
  for (const size_t i : {1u, 2u, 3u, 4u, 7u}) EXPECT_EQ(seen[i], wanted[i]);
  EXPECT_TRUE(seen[5].ends_with(" 15")) << seen[5];
}

TEST_F(RpcTest, ErrorsArriveAsTextAndTheSessionGoesOn) {
  start();
  const uint64_t add_one = function("tvmjs.testing.add_one");
  expect_error(call_of(add_one, 1).string("x"), {"TypeError: tvmjs.testing.add_one", "int"});
  const auto values = ask_values(call_of(add_one, 1).integer(41));
  ASSERT_EQ(values.size(), 2u);
  EXPECT_EQ(values[1].number, 42);
}

TEST_F(RpcTest, AnUnknownNameIsANullHandleAndAFreedHandleIsNone) {
  start();
  EXPECT_EQ(function("no.such.function"), 0u);
  const uint64_t handle = function("ffi.String");
  ask_values(Packet(Code::free_handle).count(1).pointer(handle));
  expect_error(call_of(handle, 0), {concat("the handle ", handle, " is not one of a function")});
  expect_error(Packet(Code::free_handle).count(1).pointer(handle), {"or it was freed"});
  expect_error(call_of(0, 0), {"the handle 0 is not one of a function"});
}

TEST_F(RpcTest, ObjectsGoByHandleAndMayComeBack) {
  start();
  const uint64_t array = function("ffi.Array");
  auto made = ask_values(call_of(array, 2).integer(5).integer(6));
  ASSERT_EQ(made.size(), 2u);
  EXPECT_EQ(made[0].number, kTVMFFIArray);
  const auto handle = static_cast<uint64_t>(made[1].number);
  const uint64_t item = function("ffi.ArrayGetItem");
  const auto got = ask_values(call_of(item, 2).remote(handle).integer(1));
  ASSERT_EQ(got.size(), 2u);
  EXPECT_EQ(got[1].number, 6);
  expect_error(call_of(handle, 0), {"is one of ffi.Array, not of a function"});
}

TEST_F(RpcTest, ModulesGiveTheirFunctions) {
  start();
  const auto library = ask_values(call_of(function("ffi.SystemLib"), 0));
  ASSERT_EQ(library.size(), 2u);
  EXPECT_EQ(library[0].number, kTVMFFIModule);
  const auto handle = static_cast<uint64_t>(library[1].number);
  const uint64_t get = function("tvm.rpc.server.ModuleGetFunction");
  const auto none = ask_values(
      call_of(get, 3).object(kTVMFFIModule, handle).string("no_such").object(kTVMFFIBool, 1));
  ASSERT_EQ(none.size(), 2u);
  EXPECT_EQ(none[1].type, kTVMFFINone);
  expect_error(call_of(get, 3).object(kTVMFFIModule, get).string("f").object(kTVMFFIBool, 1),
               {"is one of ffi.Function, not of a module"});
}

TEST_F(RpcTest, PointersComeBackOnlyIfTheyWereGiven) {
  start();
  static int target = 0;
  add_function("test.pointer", [](const TVMFFIAny*, int32_t, TVMFFIAny* result) {
    *result = ffi::of_pointer(kTVMFFIOpaquePtr, &target);
    return 0;
  });
  const uint64_t f = function("test.pointer");
  const auto made = ask_values(call_of(f, 0));
  ASSERT_EQ(made.size(), 2u);
  ask_values(call_of(f, 1).pointer(static_cast<uint64_t>(made[1].number)));
  expect_error(call_of(f, 1).pointer(4096), {"the pointer 4096 is none that this session gave"});
}

// ---- Tensors ----

TEST_F(RpcTest, BytesGoToMemoryAndBack) {
  start();
  const uint64_t memory = allocate(16);
  const WireTensor all = floats(memory, 4);
  ask_values(upload(all, "0123456789abcdef"));
  EXPECT_EQ(ask(download(all, 16)).bytes, "0123456789abcdef");
  // In parts, as long copies come
  ask_values(upload(floats(memory, 4, 4), "XY"));
  EXPECT_EQ(ask(download(floats(memory, 4, 2), 6)).bytes, "23XY67");
  EXPECT_EQ(ask(download(floats(memory, 4, 16), 0)).bytes, "");
}

TEST_F(RpcTest, NoCopyLeavesItsMemory) {
  start();
  const uint64_t memory = allocate(16);
  expect_error(upload(floats(memory, 4, 12), "12345"),
               {"kCopyToRemote", "5 bytes at byte 12", "16"});
  expect_error(download(floats(memory, 4, 8), 9), {"kCopyFromRemote", "9 bytes at byte 8"});
  expect_error(download(floats(memory, 4, UINT64_MAX), 4), {"kCopyFromRemote"});
  expect_error(download(floats(memory, 4), uint64_t{1} << 30), {"a packet may have 1073741824"});
  expect_error(download(floats(memory, 4), UINT64_MAX), {"a packet may have 1073741824"});
  expect_error(download(floats(memory + 4, 4), 4), {"is not one of a tensor's memory"});
  expect_error(download(floats(function("ffi.String"), 4), 4), {"not of a tensor's memory"});
  expect_error(download(floats(memory, 4, 0, kGpu), 4), {"webgpu:0 whose memory is on cpu:0"});
  expect_error(download(floats(0, 4), 4), {"4 bytes without memory"});
}

TEST_F(RpcTest, FunctionsGetTensorsOfTheClientsMemory) {
  start();
  add_function("test.twice", [](const TVMFFIAny* args, int32_t count, TVMFFIAny*) {
    EXPECT_EQ(count, 1);
    EXPECT_EQ(args[0].type_index, kTVMFFITensor);
    const auto& tensor = reinterpret_cast<ffi::TensorObject*>(args[0].v_obj)->tensor;
    auto* values = reinterpret_cast<float*>(static_cast<char*>(tensor.data) + tensor.byte_offset);
    for (int64_t i = 0; i < tensor.shape[0]; ++i) values[i] *= 2;
    return 0;
  });
  const uint64_t twice = function("test.twice");
  const uint64_t memory = allocate(16);
  const float values[] = {1, 2, 3, 4};
  ask_values(upload(floats(memory, 4), {reinterpret_cast<const char*>(values), sizeof(values)}));
  ask_values(call_of(twice, 1).tensor(floats(memory, 2, 8)));
  const float wanted[] = {1, 2, 6, 8};
  EXPECT_EQ(ask(download(floats(memory, 4), 16)).bytes,
            std::string(reinterpret_cast<const char*>(wanted), sizeof(wanted)));
  expect_error(call_of(twice, 1).tensor(floats(memory, 5)), {"20 bytes at byte 0", "has 16"});
  expect_error(call_of(twice, 1).tensor(floats(memory, -1)), {"an argument"});
}

TEST_F(RpcTest, ATensorThatIsGivenBackIsReadFromItsFirstElement) {
  start();
  Any kept = runtime::floats({1, 2, 3, 4});
  add_function("test.tail", [&](const TVMFFIAny*, int32_t, TVMFFIAny* result) {
    *result = runtime::view_of(kept, {2}, "float32", 8).take();
    return 0;
  });
  const auto made = ask_values(call_of(function("test.tail"), 0));
  ASSERT_EQ(made.size(), 3u);
  EXPECT_EQ(made[0].number, kTVMFFITensor);
  const WireTensor& tensor = made[1].tensor;
  EXPECT_EQ(tensor.shape, std::vector<int64_t>{2});
  EXPECT_EQ(tensor.byte_offset, 0u);
  const float wanted[] = {3, 4};
  EXPECT_EQ(ask(download(tensor, 8)).bytes,
            std::string(reinterpret_cast<const char*>(wanted), sizeof(wanted)));
  const auto handle = static_cast<uint64_t>(made[2].number);
  ask_values(Packet(Code::free_handle).count(1).pointer(handle));
  EXPECT_EQ(ffi::strong_count(kept.view().v_obj), 1u);
  expect_error(download(tensor, 8), {"or it was freed"});
}

TEST_F(RpcTest, MemoryIsAllocatedForATensorAndFreed) {
  start();
  const auto made =
      ask_values(Packet(Code::allocate_with_scope).count(2).tensor(floats(0, 8)).none());
  ASSERT_EQ(made.size(), 1u);
  const auto memory = static_cast<uint64_t>(made[0].number);
  EXPECT_EQ(ask(download(floats(memory, 8), 32)).bytes.size(), 32u);
  ask_values(Packet(Code::allocate_with_scope).count(2).tensor(floats(0, 8)).string("global"));
  expect_error(Packet(Code::allocate_with_scope).count(2).tensor(floats(0, 8)).string("texture"),
               {"cpu:0 has no memory scope 'texture'"});
  ask_values(Packet(Code::free).count(2).device(kCpu).pointer(memory));
  expect_error(Packet(Code::free).count(2).device(kCpu).pointer(memory), {"or it was freed"});
  expect_error(Packet(Code::allocate).count(4).device(kCpu).integer(-1).integer(64).dtype(kFloat32),
               {"no memory of 18446744073709551615 bytes on cpu:0"});
  expect_error(
      Packet(Code::allocate).count(4).device(kCpu).integer(8).integer(4096).dtype(kFloat32),
      {"alignment of 4096"});
  expect_error(
      Packet(Code::allocate).count(4).device({kDLCUDA, 0}).integer(8).integer(64).dtype(kFloat32),
      {"no device cuda:0"});
}

TEST_F(RpcTest, TensorsAreCopiedWhereTheyAre) {
  start();
  const uint64_t a = allocate(8);
  const uint64_t b = allocate(8);
  ask_values(upload(floats(a, 2), "abcdefgh"));
  ask_values(
      Packet(Code::copy_among_remote).count(3).tensor(floats(a, 2)).tensor(floats(b, 2)).none());
  EXPECT_EQ(ask(download(floats(b, 2), 8)).bytes, "abcdefgh");
  expect_error(
      Packet(Code::copy_among_remote).count(3).tensor(floats(a, 1)).tensor(floats(b, 2)).none(),
      {"kCopyAmongRemote", "4 bytes, does not fit"});
}

TEST_F(RpcTest, DevicesSayWhetherTheyAreThere) {
  start();
  const auto exists = [&](DLDevice device) {
    const auto values = ask_values(Packet(Code::get_attribute).count(2).device(device).integer(0));
    return values.size() == 1 ? values[0].number : -1;
  };
  EXPECT_EQ(exists(kCpu), 1);
  EXPECT_EQ(exists(kGpu), 0);
  EXPECT_EQ(exists({kDLCUDA, 0}), 0);
  EXPECT_EQ(ask_values(Packet(Code::get_attribute).count(2).device(kCpu).integer(4))[0].type,
            kTVMFFINone);
  ask_values(Packet(Code::set_device).count(1).device(kCpu));
  expect_error(Packet(Code::set_device).count(1).device({kDLCUDA, 0}), {"no device cuda:0"});
  EXPECT_EQ(ask_values(Packet(Code::create_stream).count(1).device(kCpu))[0].number, 0);
  ask_values(Packet(Code::set_stream).count(2).device(kCpu).none());
  expect_error(Packet(Code::set_stream).count(2).device(kCpu).pointer(8), {"default stream alone"});
  ask_values(Packet(Code::synchronize).count(2).device(kCpu).pointer(0));
  expect_error(Packet(Code::synchronize).count(2).device(kGpu).pointer(0), {"webgpu:0"});
}

// ---- Functions that end later ----

class AsyncRpcTest : public RpcTest {
 protected:
  void SetUp() override {
    RpcTest::SetUp();
    start();
  }
  void TearDown() override {
    callback_ = {};
    RpcTest::TearDown();
  }
  // __async.<name>, which keeps its callback
  void add_async(const std::string& name) {
    add_function("__async." + name, [this](const TVMFFIAny* args, int32_t count, TVMFFIAny*) {
      arguments_ = count - 1;
      callback_ = Any::share(args[count - 1]);
      return 0;
    });
  }
  int finish(int64_t code, TVMFFIAny value) {
    const TVMFFIAny args[] = {of_int(code), value};
    Any result;
    return ffi::call(reinterpret_cast<ffi::FunctionObject*>(callback_.view().v_obj), args, &result);
  }

  Any callback_;
  int32_t arguments_ = -1;
};

TEST_F(AsyncRpcTest, TheAnswerComesWhenTheHostHasIt) {
  add_async("test.later");
  const uint64_t later = function("test.later");
  EXPECT_EQ(feed(call_of(later, 2).integer(1).integer(2).with_length()), 1);
  EXPECT_EQ(arguments_, 2);
  EXPECT_EQ(sent_, "");
  // What comes meanwhile is answered behind it
  feed(Packet(Code::get_global_function).count(1).string("ffi.String").with_length());
  EXPECT_EQ(sent_, "");
  ASSERT_EQ(finish(4, of_int(9)), 0);
  const Reply first = take();
  ASSERT_EQ(first.values.size(), 2u);
  EXPECT_EQ(first.values[1].number, 9);
  EXPECT_EQ(take().values[0].type, kTVMFFIOpaquePtr);
  // Only once
  ASSERT_EQ(finish(4, of_int(10)), 0);
  EXPECT_EQ(sent_, "");
}

TEST_F(AsyncRpcTest, AFailureOfTheHostsIsAnException) {
  add_async("test.later");
  const uint64_t later = function("test.later");
  feed(call_of(later, 0).with_length());
  ASSERT_EQ(finish(5, of_text("Error: lost")), 0);
  EXPECT_EQ(take().error(), "Error: lost");
  feed(call_of(later, 0).with_length());
  ASSERT_EQ(finish(77, ffi::none()), 0);
  EXPECT_TRUE(take().error().contains("ended with the code 77"));
}

TEST_F(AsyncRpcTest, ACallbackThatIsDroppedIsAnException) {
  add_async("test.later");
  feed(call_of(function("test.later"), 0).with_length());
  callback_ = {};
  feed({});
  EXPECT_TRUE(take().error().contains("dropped its callback uncalled"));
}

TEST_F(AsyncRpcTest, AFunctionMayEndAtOnceOrFail) {
  add_function("__async.test.now", [](const TVMFFIAny* args, int32_t count, TVMFFIAny*) {
    const TVMFFIAny answer[] = {of_int(4), of_text("now")};
    Any ignored;
    return ffi::call(reinterpret_cast<ffi::FunctionObject*>(args[count - 1].v_obj), answer,
                     &ignored);
  });
  add_function("__async.test.fails", [](const TVMFFIAny*, int32_t, TVMFFIAny*) {
    return ffi::raise("OddError", "never again");
  });
  const auto values = ask_values(call_of(function("test.now"), 0));
  ASSERT_EQ(values.size(), 2u);
  EXPECT_EQ(values[1].text, "now");
  expect_error(call_of(function("test.fails"), 0), {"OddError: never again"});
}

TEST_F(AsyncRpcTest, ACallOutlivesItsServer) {
  add_async("test.later");
  feed(call_of(function("test.later"), 0).with_length());
  server_ = {};
  EXPECT_EQ(finish(4, of_int(1)), 0);
}

TEST_F(AsyncRpcTest, ATimeEvaluatorLetsTheHostMeasure) {
  int calls = 0;
  add_function("test.timed", [&](const TVMFFIAny*, int32_t count, TVMFFIAny*) {
    EXPECT_EQ(count, 1);
    return ++calls == 9 ? ffi::raise("OddError", "the ninth") : 0;
  });
  std::vector<int64_t> numbers;
  Any run;
  add_function("__async.wasm.TimeExecution", [&](const TVMFFIAny* args, int32_t count, TVMFFIAny*) {
    run = Any::share(args[0]);
    EXPECT_EQ(args[1].type_index, kTVMFFIDevice);
    for (int32_t i = 2; i < count - 1; ++i) numbers.push_back(args[i].v_int64);
    callback_ = Any::share(args[count - 1]);
    return 0;
  });
  const auto evaluator_of = [&](std::string_view name, int64_t number, std::string_view before) {
    return call_of(function("runtime.RPCTimeEvaluator"), 12)
        .none()
        .string(name)
        .integer(1)
        .integer(0)
        .integer(number)
        .integer(3)
        .integer(0)
        .integer(100)
        .integer(0)
        .integer(1)
        .integer(0)
        .string(before);
  };
  expect_error(evaluator_of("no.such", 5, ""), {"there is no global function 'no.such'"});
  expect_error(evaluator_of("test.timed", 0, ""), {"number is 0"});
  expect_error(evaluator_of("test.timed", 5, "flush"), {"f_preproc='flush'"});
  const auto made = ask_values(evaluator_of("test.timed", 5, ""));
  ASSERT_EQ(made.size(), 2u);
  EXPECT_EQ(made[0].number, kTVMFFIFunction);
  const auto evaluator = static_cast<uint64_t>(made[1].number);
  feed(call_of(evaluator, 1).integer(1).with_length());
  EXPECT_EQ(numbers, (std::vector<int64_t>{5, 3, 0, 100, 0, 1, 0}));
  const TVMFFIAny times = of_int(4);
  Any ignored;
  auto* run_function = reinterpret_cast<ffi::FunctionObject*>(run.view().v_obj);
  EXPECT_EQ(ffi::call(run_function, {&times, 1}, &ignored), 0);
  EXPECT_EQ(calls, 4);
  const TVMFFIAny more = of_int(5);
  ffi::expect_raised(ffi::call(run_function, {&more, 1}, &ignored), "OddError", {"the ninth"});
  const TVMFFIByteArray seconds = ffi::bytes_of("12345678");
  ASSERT_EQ(finish(4, runtime::of_bytes(seconds)), 0);
  EXPECT_EQ(take().values[1].text, "12345678");
}

// A GPU whose copies to the CPU are done when it is waited for
TEST_F(AsyncRpcTest, TheGpuIsWaitedFor) {
  std::map<int64_t, std::string> buffers;
  std::function<void()> pending;
  const auto number = [](const TVMFFIAny& value) {
    return value.type_index == kTVMFFIOpaquePtr
               ? static_cast<int64_t>(reinterpret_cast<intptr_t>(value.v_ptr))
               : value.v_int64;
  };
  const std::map<std::string, Body> api = {
      {"deviceAllocDataSpace",
       [&](const TVMFFIAny* args, int32_t, TVMFFIAny* result) {
         const auto handle = static_cast<int64_t>(buffers.size()) + 1;
         buffers[handle].resize(static_cast<size_t>(number(args[0])));
         *result = of_int(handle);
         return 0;
       }},
      {"deviceFreeDataSpace",
       [&](const TVMFFIAny* args, int32_t, TVMFFIAny*) {
         buffers[number(args[0])].clear();
         return 0;
       }},
      {"deviceCopyToGPU",
       [&](const TVMFFIAny* args, int32_t, TVMFFIAny*) {
         buffers[number(args[1])].replace(
             static_cast<size_t>(number(args[2])), static_cast<size_t>(number(args[3])),
             static_cast<const char*>(args[0].v_ptr), static_cast<size_t>(number(args[3])));
         return 0;
       }},
      {"deviceCopyFromGPU",
       [&](const TVMFFIAny* args, int32_t, TVMFFIAny*) {
         pending = [&buffers, from = number(args[0]), at = static_cast<size_t>(number(args[1])),
                    to = args[2].v_ptr, count = static_cast<size_t>(number(args[3]))] {
           std::memcpy(to, buffers[from].data() + at, count);
         };
         return 0;
       }},
      {"deviceCopyWithinGPU", [](const TVMFFIAny*, int32_t, TVMFFIAny*) { return 0; }},
  };
  add_function("wasm.WebGPUDeviceAPI", [&](const TVMFFIAny* args, int32_t, TVMFFIAny* result) {
    const auto found = api.find(std::string(ffi::text(args[0])));
    if (found == api.end()) return ffi::raise_value("no such function");
    *result = ffi::of_object(function_of(found->second));
    return 0;
  });
  add_async("wasm.WebGPUWaitForTasks");
  EXPECT_EQ(ask_values(Packet(Code::get_attribute).count(2).device(kGpu).integer(0))[0].number, 1);

  const uint64_t memory = allocate(8, kGpu);
  ASSERT_NE(memory, 0u);
  const WireTensor tensor = floats(memory, 2, 0, kGpu);
  feed(upload(tensor, "abcdefgh").with_length());
  EXPECT_EQ(sent_, "");
  ASSERT_EQ(finish(4, ffi::none()), 0);
  EXPECT_EQ(take().code, static_cast<int32_t>(Code::return_value));

  feed(download(floats(memory, 2, 4, kGpu), 4).with_length());
  EXPECT_EQ(sent_, "");
  pending();
  ASSERT_EQ(finish(4, ffi::none()), 0);
  EXPECT_EQ(take().bytes, "efgh");

  // A tensor of the CPU may be what such a copy fills
  const uint64_t there = allocate(8);
  feed(Packet(Code::copy_among_remote)
           .count(3)
           .tensor(tensor)
           .tensor(floats(there, 2))
           .none()
           .with_length());
  EXPECT_EQ(sent_, "");
  pending();
  ASSERT_EQ(finish(4, ffi::none()), 0);
  take();
  feed(download(floats(there, 2), 8).with_length());
  EXPECT_EQ(sent_, "");
  ASSERT_EQ(finish(4, ffi::none()), 0);
  EXPECT_EQ(take().bytes, "abcdefgh");
  ask_values(Packet(Code::free).count(2).device(kGpu).pointer(memory));
}

// ---- Bytes that are no protocol ----

TEST_F(RpcTest, PacketsMayComeInAnyPieces) {
  const std::string all = init_packet().with_length() +
                          Packet(Code::get_global_function).count(1).string("f").with_length() +
                          std::string(8, '\0') +  // an empty packet, which says nothing
                          Packet(Code::set_device).count(1).device(kCpu).with_length();
  for (const size_t piece : {size_t{1}, size_t{3}, size_t{8}, size_t{29}, all.size()}) {
    make_server("wasm");
    for (size_t at = 0; at < all.size(); at += piece)
      EXPECT_EQ(feed(std::string_view(all).substr(at, piece)), 1);
    for (int i = 0; i < 3; ++i) EXPECT_EQ(take().code, static_cast<int32_t>(Code::return_value));
    EXPECT_EQ(sent_, "");
  }
}

TEST_F(RpcTest, ACutPacketIsAnExceptionWhereverItIsCut) {
  start();
  const uint64_t f = function("tvmjs.testing.add_one");
  const std::vector<Packet> packets = {
      call_of(f, 2).integer(1).string("text"),
      call_of(f, 2).tensor(floats(allocate(4), 1)).dtype(kFloat32),
      upload(floats(allocate(4), 1), "1234"),
      Packet(Code::get_global_function).count(1).string("f"),
      Packet(Code::set_device).count(1).device(kCpu),
      Packet(Code::init_server).text(kVersion).count(1).string("ffi.String"),
      Packet(Code::shutdown),
  };
  for (const Packet& packet : packets) {
    for (size_t size = 1; size < packet.body().size(); ++size) {
      const uint64_t length = size;
      feed(std::string(reinterpret_cast<const char*>(&length), 8) + packet.body().substr(0, size));
      EXPECT_TRUE(take().error().contains("is cut at")) << size;
    }
    const uint64_t length = packet.body().size() + 1;
    feed(std::string(reinterpret_cast<const char*>(&length), 8) + packet.body() + '\0');
    EXPECT_TRUE(take().error().contains("1 bytes are left at its end"));
  }
  EXPECT_EQ(ask_values(call_of(f, 1).integer(1))[1].number, 2);
}

TEST_F(RpcTest, CountsAndCodesAreHeldToTheirBounds) {
  start();
  const uint64_t f = function("tvmjs.testing.add_one");
  expect_error(call_of(f, -1), {"-1 values; there may be 8192"});
  expect_error(call_of(f, INT32_MAX), {"2147483647 values"});
  expect_error(call_of(f, 1).put(int32_t{kTVMFFIRawStr}).put(UINT64_MAX),
               {"a string, 18446744073709551615 bytes"});
  expect_error(call_of(f, 1).put(int32_t{99}).put(uint32_t{99}), {"an object of type 99"});
  expect_error(call_of(f, 1).put(int32_t{10}), {"a value of type 10"});
  expect_error(call_of(f, 1).put(int32_t{-5}), {"a value of type -5"});
  WireTensor deep = floats(0, 0);
  deep.shape.resize(65);
  expect_error(call_of(f, 1).tensor(deep), {"a tensor of 65 dimensions"});
  expect_error(Packet(int32_t{22}), {"there is no code 22"});
  expect_error(Packet(int32_t{-1}), {"there is no code -1"});
  expect_error(Packet(Code::return_value).count(0), {"kReturn", "a server gets no answers"});
  expect_error(Packet(Code::set_device).count(2).device(kCpu).device(kCpu),
               {"2 values, where 1 belong"});
  expect_error(Packet(Code::set_device).count(1).integer(1), {"where a device belongs"});
}

TEST_F(RpcTest, APacketOfNoReasonableLengthClosesTheConnection) {
  start();
  const uint64_t length = UINT64_MAX;
  EXPECT_EQ(feed({reinterpret_cast<const char*>(&length), 8}), 0);
  EXPECT_TRUE(take().error().contains(
      "a packet of 18446744073709551615 bytes is announced, and it may have 1073741824"));
  EXPECT_EQ(feed(init_packet().with_length()), 0);
  EXPECT_EQ(sent_, "");
}

TEST_F(AsyncRpcTest, WhoDoesNotWaitForAnswersIsClosed) {
  add_async("test.later");
  feed(call_of(function("test.later"), 0).with_length());
  EXPECT_EQ(feed(std::string(1 << 20, 'x')), 1);
  EXPECT_EQ(feed("x"), 0);
  EXPECT_TRUE(take().error().contains("more than 1048576 bytes came"));
  EXPECT_EQ(finish(4, of_int(1)), 0);
  EXPECT_EQ(sent_, "");
}

TEST_F(RpcTest, WhatTheConnectionDoesNotTakeIsKept) {
  send_limit_ = 0;
  EXPECT_EQ(feed(init_packet().with_length()), 2);
  EXPECT_EQ(sent_, "");
  send_limit_ = 3;
  EXPECT_EQ(feed({}), 1);
  EXPECT_EQ(take().code, static_cast<int32_t>(Code::return_value));
  // Nor is anything sent without the flag
  send_limit_ = SIZE_MAX;
  const std::string next = Packet(Code::set_device).count(1).device(kCpu).with_length();
  EXPECT_EQ(feed(next, 1), 2);
  EXPECT_EQ(sent_, "");
  EXPECT_EQ(feed({}, 2), 1);
  EXPECT_EQ(take().code, static_cast<int32_t>(Code::return_value));
}

TEST_F(RpcTest, MisuseByTheHostIsAnError) {
  ffi::expect_call_raises("rpc.CreateEventDrivenServer", {of_int(1), of_text(""), of_text("")},
                          "TypeError", {"argument 0"});
  auto send = function_of([](const TVMFFIAny*, int32_t, TVMFFIAny* result) {
    *result = of_int(1000);
    return 0;
  });
  const Any server = ffi::call("rpc.CreateEventDrivenServer",
                               {ffi::of_object(&send->header), of_text("Odd"), of_text("")});
  const std::string packet = init_packet().with_length();
  const TVMFFIByteArray bytes = ffi::bytes_of(packet);
  const TVMFFIAny args[] = {runtime::of_bytes(bytes), of_int(3)};
  Any result;
  ffi::expect_raised(
      ffi::call(reinterpret_cast<ffi::FunctionObject*>(server.view().v_obj), args, &result),
      "TypeError", {"Odd: the function that sends must return how many of"});
}

}  // namespace
}  // namespace sluice::rpc
