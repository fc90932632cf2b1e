// Timing of a function over RPC: the host has the clock, and knows when the GPU is done.
#include <memory>
#include <new>
#include <string>

#include "core/ffi/registry.h"
#include "core/rpc/session.h"

namespace sluice::rpc {
namespace {

using ffi::Any;
using ffi::Args;
using ffi::FunctionObject;
using ffi::Ref;

constexpr ffi::Builtin kFactory = {"runtime.RPCTimeEvaluator", nullptr};
constexpr ffi::Builtin kEvaluator = {"a time evaluator", nullptr};
constexpr ffi::Builtin kRepeats = {"a time evaluator's repeats", nullptr};

constexpr int32_t kDeviceType = 2;
constexpr int32_t kFirstNumber = 4;
constexpr int32_t kNumbers = 7;  // number … repeats_to_cooldown, cache_flush_bytes
constexpr const char* kNames[kNumbers] = {"number",
                                          "repeat",
                                          "min_repeat_ms",
                                          "limit_zero_time_iterations",
                                          "cooldown_interval_ms",
                                          "repeats_to_cooldown",
                                          "cache_flush_bytes"};
constexpr int64_t kMinimum[kNumbers] = {1, 1, 0, 0, 0, 1, 0};

struct Evaluator {
  Ref<FunctionObject> function;
  DLDevice device;
  int64_t numbers[kNumbers];
};

// One call of a time evaluator: what the host calls with how often the function shall run
struct Repeats {
  Ref<FunctionObject> function;
  std::unique_ptr<Any[]> args;
  std::unique_ptr<TVMFFIAny[]> views;
  size_t count;
};

int run_repeats(void* self, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const auto& repeats = *static_cast<const Repeats*>(self);
  const Args args(&kRepeats, values, count);
  int64_t times = 0;
  *result = ffi::none();
  if (!args.expect(1) || !args.integer(0, &times)) return -1;
  for (int64_t i = 0; i < times; ++i) {
    Any ignored;
    if (ffi::call(repeats.function.get(), {repeats.views.get(), repeats.count}, &ignored) != 0)
      return -1;
  }
  return 0;
}

// (arguments…, function that gets the result)
int evaluate(void* self, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const auto& evaluator = *static_cast<const Evaluator*>(self);
  *result = ffi::none();
  const Args args(&kEvaluator, values, count);
  auto* done = count == 0 ? nullptr : args.object<FunctionObject>(count - 1, kTVMFFIFunction);
  if (done == nullptr)
    return ffi::has_raised() ? -1 : ffi::raise_type("a time evaluator takes a callback last");
  const auto time = ffi::find_function("__async.wasm.TimeExecution");
  if (!time)
    return ffi::raise("RuntimeError",
                      "a time evaluator: the host has not registered __async.wasm.TimeExecution");
  const auto own_count = static_cast<size_t>(count) - 1;
  std::unique_ptr<Repeats> repeats(new (std::nothrow) Repeats{
      .function = evaluator.function,
      .args = std::unique_ptr<Any[]>(new (std::nothrow) Any[own_count + 1]),
      .views = std::unique_ptr<TVMFFIAny[]>(new (std::nothrow) TVMFFIAny[own_count + 1]{}),
      .count = own_count});
  if (repeats == nullptr || repeats->args == nullptr || repeats->views == nullptr)
    return ffi::raise_no_memory();
  for (size_t i = 0; i < own_count; ++i) {
    if (ffi::own(args.at(static_cast<int32_t>(i)), repeats->args[i].receive()) != 0) return -1;
    repeats->views[i] = repeats->args[i].view();
  }
  auto run = ffi::make_function(repeats.release(), run_repeats,
                                [](void* kept) { delete static_cast<Repeats*>(kept); });
  if (!run) return -1;
  TVMFFIAny forwarded[3 + kNumbers] = {ffi::of_object(&run->header)};
  forwarded[1].type_index = kTVMFFIDevice;
  forwarded[1].v_device = evaluator.device;
  for (int32_t i = 0; i < kNumbers; ++i) forwarded[2 + i] = ffi::of_int(evaluator.numbers[i]);
  forwarded[2 + kNumbers] = ffi::of_object(&done->header);
  Any ignored;
  return ffi::call(time.get(), forwarded, &ignored);
}

// The function to be timed: a module's, or a global one
Ref<FunctionObject> timed_function(const Args& args, std::string_view name) {
  if (args.at(0).type_index == kTVMFFINone) {
    auto found = ffi::find_function(name);
    if (!found)
      ffi::raise_value(concat(args.name(), ": there is no global function ", quote(name)));
    return found;
  }
  TVMFFIObject* object = args.object(0, kTVMFFIModule);
  ffi::ModuleObject* module =
      object == nullptr ? nullptr : ffi::checked_module(object, args.name(), "argument 0");
  Any found;
  if (module == nullptr || ffi::get_function(module, name, true, &found) != 0) return {};
  if (found.view().type_index == kTVMFFIFunction)
    return Ref<FunctionObject>::adopt(reinterpret_cast<FunctionObject*>(found.take().v_obj));
  ffi::raise_value(concat(args.name(), ": the module has no function ", quote(name)));
  return {};
}

int make_evaluator(void*, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(&kFactory, values, count);
  *result = ffi::none();
  if (count != kFirstNumber + kNumbers - 1 && !args.expect(kFirstNumber + kNumbers + 1)) return -1;
  std::string_view name;
  int64_t type = 0, id = 0;
  Evaluator made = {};
  if (!args.string(1, &name) || !args.integer(kDeviceType, &type) ||
      !args.integer(kDeviceType + 1, &id))
    return -1;
  if (type != static_cast<int32_t>(type) || id != static_cast<int32_t>(id))
    return ffi::raise_value(concat(args.name(), ": device type ", type, ", id ", id));
  made.device = {static_cast<DLDeviceType>(type), static_cast<int32_t>(id)};
  for (int32_t i = 0; i < kNumbers && kFirstNumber + i < count; ++i) {
    if (!args.integer(kFirstNumber + i, &made.numbers[i])) return -1;
    if (made.numbers[i] < kMinimum[i] || made.numbers[i] > INT32_MAX)
      return ffi::raise_value(concat(args.name(), ": ", kNames[i], " is ", made.numbers[i],
                                     ", and it may be ", kMinimum[i], " to ", INT32_MAX));
  }
  std::string_view before;
  if (count > kFirstNumber + kNumbers) {
    if (!args.string(kFirstNumber + kNumbers, &before)) return -1;
    if (!before.empty())
      return ffi::raise_value(concat(args.name(),
                                     ": no function can be called before each repeat, ",
                                     "such as f_preproc=", quote(before)));
  }
  made.function = timed_function(args, name);
  if (!made.function) return -1;
  auto* kept = new (std::nothrow) Evaluator(std::move(made));
  if (kept == nullptr) return ffi::raise_no_memory();
  auto function =
      ffi::make_function(kept, evaluate, [](void* self) { delete static_cast<Evaluator*>(self); });
  if (!function) return -1;
  *result = ffi::of_object(std::move(function));
  return 0;
}

}  // namespace

Ref<FunctionObject> time_evaluator_factory() {
  return ffi::make_function(nullptr, make_evaluator, nullptr);
}

}  // namespace sluice::rpc
