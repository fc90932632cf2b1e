// For tests: a WebGPU of bytes. The host's five functions, with WebGPU's rules, and a record of
// what was asked.
#pragma once

#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/ffi/test_support.h"

namespace sluice::runtime {

struct FakeGpu {
  // What a function refers to by `self`
  struct Entry {
    FakeGpu* gpu;
    std::string name;
  };

  std::map<uint64_t, std::string> buffers;
  std::vector<std::string> calls;
  uint64_t next = 1;
  uint64_t limit = 1 << 20;    // bytes of one buffer
  bool gives_floats = true;    // as JS gives its numbers
  bool gives_nothing = false;  // no handle
  bool fails_to_free = false;
  bool copies_any_byte = false;
  std::map<std::string, std::unique_ptr<Entry>> entries;

  static uint64_t number(const TVMFFIAny& value) {
    return value.type_index == kTVMFFIOpaquePtr ? reinterpret_cast<uintptr_t>(value.v_ptr)
                                                : value.v_uint64;
  }

  int run(const std::string& name, const TVMFFIAny* args, int32_t count, TVMFFIAny* result) {
    std::string line = name.substr(std::string("device").size());
    std::vector<uint64_t> n;
    for (int32_t i = 0; i < count; ++i) n.push_back(number(args[i]));
    const auto note = [&](std::initializer_list<uint64_t> shown) {
      for (const uint64_t value : shown) line += " " + std::to_string(value);
      calls.push_back(line);
    };
    const auto unit = [this](uint64_t value) { return copies_any_byte || value % 4 == 0; };
    if (name == "deviceAllocDataSpace") {
      note({n.at(0)});
      EXPECT_TRUE(unit(n[0]) && (copies_any_byte || n[0] != 0));
      if (n[0] > limit) return ffi::raise("OutOfMemory", concat("no buffer of ", n[0]));
      if (gives_nothing) return 0;
      buffers[next] = std::string(n[0], '?');
      *result = gives_floats ? ffi::of_float(static_cast<double>(next))
                             : ffi::of_int(static_cast<int64_t>(next));
      ++next;
      return 0;
    }
    if (name == "deviceFreeDataSpace") {
      note({n.at(0)});
      EXPECT_EQ(buffers.erase(n[0]), 1u) << "handle " << n[0];
      return fails_to_free ? ffi::raise("Error", "free failed") : 0;
    }
    if (name == "deviceCopyToGPU") {
      note({n.at(1), n.at(2), n.at(3)});
      EXPECT_TRUE(unit(n[2]) && unit(n[3]));
      buffers.at(n[1]).replace(n[2], n[3], reinterpret_cast<const char*>(args[0].v_ptr), n[3]);
      return 0;
    }
    if (name == "deviceCopyFromGPU") {
      note({n.at(0), n.at(1), n.at(3)});
      EXPECT_TRUE(unit(n[1]));
      std::memcpy(args[2].v_ptr, buffers.at(n[0]).data() + n[1], n[3]);
      return 0;
    }
    note({n.at(0), n.at(1), n.at(2), n.at(3), n.at(4)});
    EXPECT_TRUE(unit(n[1]) && unit(n[3]) && unit(n[4]));
    EXPECT_TRUE(copies_any_byte || n[0] != n[2]) << "WebGPU copies between two buffers";
    buffers.at(n[2]).replace(n[3], n[4], buffers.at(n[0]).substr(n[1], n[4]));
    return 0;
  }

  static int call_entry(void* self, const TVMFFIAny* args, int32_t count, TVMFFIAny* result) {
    auto* entry = static_cast<Entry*>(self);
    return entry->gpu->run(entry->name, args, count, result);
  }

  static int give_entry(void* self, const TVMFFIAny* args, int32_t, TVMFFIAny* result) {
    auto* gpu = static_cast<FakeGpu*>(self);
    const std::string name(ffi::text(args[0]));
    if (name == "deviceCopiesAnyByte" && !gpu->copies_any_byte)
      return ffi::raise("JSCallbackError", "Unknown DeviceAPI function " + name);
    auto& entry = gpu->entries[name];
    if (entry == nullptr) entry = std::make_unique<Entry>(Entry{gpu, name});
    *result = ffi::of_object(ffi::make_function(entry.get(), call_entry, nullptr));
    return 0;
  }

  void install() {
    const ffi::Handle factory(ffi::make_function(this, give_entry, nullptr).take());
    const TVMFFIByteArray name = ffi::bytes_of("wasm.WebGPUDeviceAPI");
    ASSERT_EQ(TVMFFIFunctionSetGlobal(&name, factory.get(), 1), 0);
  }

  static void uninstall() {
    ffi::call("ffi.FunctionRemoveGlobal", {ffi::of_text("wasm.WebGPUDeviceAPI")});
  }
};

}  // namespace sluice::runtime
