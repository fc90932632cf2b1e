// What a client of RPC works with: the objects and the memory that it was given, by handle, and the
// functions of the registry.
#pragma once

#include <cstdint>
#include <string_view>

#include "core/ffi/module.h"
#include "core/ffi/ordered_map.h"
#include "core/rpc/protocol.h"

namespace sluice::rpc {

// How a function is called. The number is a part of its handle.
enum class CallKind : uint64_t {
  // Gives its result.
  plain = 0,
  // Gives it to the function that is its last argument, as (code, value): then or later.
  asynchronous = 1,
  // Gives an asynchronous function.
  gives_asynchronous = 2,
};

inline CallKind call_kind(uint64_t handle) { return static_cast<CallKind>(handle & 3); }

// Handles are numbers that are never used again, not addresses, so that one that is wrong or gone
// is an error. Functions raise, and return -1, 0 or null, where they fail.
class Session {
 public:
  // A handle that keeps an object; 0 where memory ends.
  uint64_t put(ffi::Any object, CallKind kind = CallKind::plain);
  // The object of a handle. Null, after raising an error that names `what` belongs there.
  const TVMFFIAny* find(uint64_t handle, std::string_view what) const;
  // As find(), of an object of a type.
  TVMFFIObject* find(uint64_t handle, int32_t type_index, std::string_view what) const;
  [[nodiscard]] int free(uint64_t handle);

  // The handle of a global function, or 0 where there is none of the name. A name whose function
  // is registered as __async.NAME alone gives that, called asynchronously.
  [[nodiscard]] int get_function(std::string_view name, uint64_t* handle);

  // Memory of a device as a tensor of bytes.
  uint64_t allocate(DLDevice device, uint64_t nbytes);
  // A tensor over the memory of a handle, which it keeps.
  ffi::Ref<ffi::TensorObject> tensor(const WireTensor& wire, std::string_view function) const;
  // The bytes from the tensor's offset on, as a tensor.
  ffi::Ref<ffi::TensorObject> bytes(const WireTensor& wire, uint64_t nbytes,
                                    std::string_view function) const;

  // Pointers that results have had, which alone may come back as arguments
  [[nodiscard]] int remember_pointer(const TVMFFIAny& pointer);
  bool knows_pointer(const TVMFFIAny& pointer) const;

  // Writes what a call gave. -1 after raising an error, with nothing written.
  [[nodiscard]] int write_result(const ffi::Any& result, CallKind kind, Buffer* out);
  // Reads a value; views are of the packet. False after raising an error.
  bool read_value(PacketReader* reader, ffi::Any* kept, TVMFFIAny* view) const;

 private:
  ffi::Ref<ffi::TensorObject> memory(const WireTensor& wire, std::string_view function) const;

  ffi::OrderedMap objects_;   // by handle
  ffi::OrderedMap pointers_;  // a set
  uint64_t next_ = 1;
};

// A module of kind "rpc" that holds a session, as the constructors of sessions give it.
ffi::Ref<ffi::ModuleObject> make_session_module();
// Its session, which lives as long as it; null, raising nothing, where it is another module.
Session* session_of(const TVMFFIAny& module);

// runtime.RPCTimeEvaluator of a session: (module or none, function's name, device type, device id,
// number, repeat, min_repeat_ms, limit_zero_time_iterations, cooldown_interval_ms,
// repeats_to_cooldown[, cache_flush_bytes, name of a function to call before]) -> function. That
// takes the arguments of the timed function, and gives the seconds of each repeat as the bytes of
// float64 values. The host measures, by __async.wasm.TimeExecution.
ffi::Ref<ffi::FunctionObject> time_evaluator_factory();

}  // namespace sluice::rpc
