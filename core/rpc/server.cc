#include "core/rpc/server.h"

#include <algorithm>
#include <iterator>
#include <new>
#include <utility>

#include "core/ffi/registry.h"
#include "core/runtime/device.h"
#include "core/runtime/tensor.h"

namespace sluice::rpc {
namespace {

using ffi::Any;
using ffi::FunctionObject;
using ffi::Ref;
using ffi::TensorObject;

constexpr DLDevice kCpu = runtime::kCpu;

// The raised error as "Kind: message", which is then raised no more
std::string take_raised() {
  TVMFFIObjectHandle raised = nullptr;
  TVMFFIErrorMoveFromRaised(&raised);
  if (raised == nullptr) return "RuntimeError: a call failed and raised no error";
  const auto error = Ref<ffi::ErrorObject>::adopt(static_cast<ffi::ErrorObject*>(raised));
  return concat(ffi::text(error->cell.kind), ": ", ffi::text(error->cell.message));
}

// What a function of the host's calls when it has finished
struct Answer {
  std::shared_ptr<Server> server;
  uint64_t ticket;
};

constexpr ffi::Builtin kAnswer = {"the callback of an asynchronous function", nullptr};

int answer(void* self, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const ffi::Args args(&kAnswer, values, count);
  *result = ffi::none();
  int64_t code = 0;
  Any value;
  if (count < 1 || !args.integer(0, &code))
    return ffi::has_raised() ? -1
                             : ffi::raise_type(
                                   "an asynchronous function's callback takes a "
                                   "code and a value");
  if (count > 1 && !args.owned(1, &value)) return -1;
  const Answer& to = *static_cast<Answer*>(self);
  // Whoever calls may drop this function meanwhile
  const auto server = to.server;
  return server->complete(to.ticket, code, std::move(value));
}

void forget_answer(void* self) {
  std::unique_ptr<Answer> to(static_cast<Answer*>(self));
  // An error on its way stays as it is
  TVMFFIObjectHandle before = nullptr;
  TVMFFIErrorMoveFromRaised(&before);
  Any why;
  if (ffi::make_string("RuntimeError: an asynchronous function has dropped its callback uncalled",
                       why.receive()) != 0)
    why = Any();
  (void)to->server->complete(to->ticket, static_cast<int64_t>(Code::exception), std::move(why));
  TVMFFIErrorSetRaised(before);
  if (before != nullptr) ffi::release(static_cast<TVMFFIObject*>(before));
}

}  // namespace

Server::Server(Ref<FunctionObject> send, std::string_view name, std::string_view remote_key)
    : send_(std::move(send)), name_(name) {
  if (remote_key != "%toinit") return;
  input_ = Input::key_length;
  needed_ = sizeof(int32_t);
}

// ---- Bytes ----

int Server::handle(Bytes in, bool may_send, Status* out) {
  receive(in);
  const int status = may_send ? flush() : 0;
  *out = input_ == Input::closed ? Status::closed
         : output_.empty()       ? Status::reading
                                 : Status::sending;
  return status;
}

void Server::receive(Bytes in) {
  if (input_ == Input::closed) return;
  if (receiving_ || busy_ || !backlog_.empty()) keep_for_later(std::exchange(in, {}));
  if (receiving_) return;
  receiving_ = true;
  while (!in.empty() && input_ != Input::closed) {
    consume(&in);
    if (incoming_.size() < needed_) continue;
    // What comes behind a request is looked at when it is answered
    if (input_ == Input::body) keep_for_later(std::exchange(in, {}));
    take_input();
  }
  while (!busy_ && input_ != Input::closed && backlog_at_ < backlog_.size()) {
    Bytes rest = Bytes(backlog_.bytes()).subspan(backlog_at_);
    const size_t before = rest.size();
    consume(&rest);
    backlog_at_ += before - rest.size();
    if (incoming_.size() == needed_) take_input();
  }
  if (backlog_at_ == backlog_.size() || input_ == Input::closed) {
    backlog_.clear();
    backlog_at_ = 0;
  }
  receiving_ = false;
}

void Server::keep_for_later(Bytes in) {
  if (in.size() > kMaxBacklogBytes || backlog_.size() > kMaxBacklogBytes - in.size()) {
    close(concat("more than ", kMaxBacklogBytes, " bytes came while a request was being answered"));
  } else if (!backlog_.append(in)) {
    close(concat("no memory for ", in.size(), " more bytes"));
  }
}

void Server::consume(Bytes* in) {
  const auto taken =
      static_cast<size_t>(std::min<uint64_t>(in->size(), needed_ - incoming_.size()));
  if (!incoming_.append(in->first(taken)))
    return close(concat("no memory for a packet of ", needed_, " bytes"));
  *in = in->subspan(taken);
}

void Server::take_input() {
  ByteReader reader(incoming_.bytes());
  const auto expect = [this](Input input, uint64_t bytes) {
    input_ = input;
    needed_ = bytes;
    incoming_.clear();
  };
  switch (input_) {
    case Input::key_length: {
      const int64_t length = reader.read<int32_t>().value_or(0);
      if (length < 0 || static_cast<uint64_t>(length) > kMaxKeyBytes)
        return close(concat("the client's key is ", length, " bytes long"));
      if (length != 0) return expect(Input::key, static_cast<uint64_t>(length));
      return expect(Input::length, sizeof(uint64_t));
    }
    case Input::key:
      return expect(Input::length, sizeof(uint64_t));
    case Input::length: {
      const uint64_t length = reader.read<uint64_t>().value_or(0);
      if (length == 0) return incoming_.clear();
      if (length > kMaxPacketBytes)
        return close(concat("a packet of ", length, " bytes is announced, and it may have ",
                            kMaxPacketBytes));
      return expect(Input::body, length);
    }
    case Input::body:
      packet_ = std::move(incoming_);
      expect(Input::length, sizeof(uint64_t));
      return process();
    case Input::closed:
      return;
  }
}

void Server::close(std::string_view why) {
  if (input_ == Input::closed) return;
  input_ = Input::closed;
  waiting_ = false;
  answer_exception(concat("RPCServerError: ", name_, ": ", why, "; the connection is closed"));
}

int Server::flush() {
  if (sending_) return 0;
  sending_ = true;
  int status = 0;
  bool stuck = false;
  while (status == 0 && !stuck && !output_.empty()) {
    Buffer out = std::move(output_);
    const auto text = as_text(out.bytes());
    TVMFFIByteArray bytes = {text.data(), text.size()};
    TVMFFIAny argument = {.type_index = kTVMFFIByteArrayPtr};
    argument.v_ptr = &bytes;
    Any result;
    status = ffi::call(send_.get(), {&argument, 1}, &result);
    if (status != 0) break;
    const TVMFFIAny& sent = result.view();
    if (sent.type_index != kTVMFFIInt || sent.v_uint64 > out.size()) {
      status = ffi::raise_type(concat(name_, ": the function that sends must return how many of ",
                                      out.size(), " bytes it took"));
    } else if (sent.v_uint64 < out.size()) {
      // What is left goes before what has come meanwhile
      stuck = sent.v_uint64 == 0;
      Buffer rest;
      if (!rest.append(Bytes(out.bytes()).subspan(static_cast<size_t>(sent.v_uint64))) ||
          !rest.append(output_.bytes()))
        status = ffi::raise_no_memory();
      output_ = std::move(rest);
    }
  }
  sending_ = false;
  return status;
}

// ---- Answers ----

int Server::answer(const TVMFFIAny& value) {
  PacketWriter packet(&output_, Code::return_value);
  packet.count(1);
  if (value.type_index == kTVMFFINone) {
    packet.none();
  } else {
    packet.scalar(value);
  }
  return packet.finish() ? 0 : ffi::raise_no_memory();
}

void Server::answer_exception(std::string_view message) {
  PacketWriter packet(&output_, Code::exception);
  packet.count(1);
  packet.string(message);
  // The client would wait for ever
  if (!packet.finish()) input_ = Input::closed;
}

void Server::answer_raised() { answer_exception(take_raised()); }

// ---- Requests ----

void Server::process() {
  busy_ = true;
  ++ticket_;
  PacketReader reader(packet_.bytes());
  if (dispatch(&reader) != 0) {
    waiting_ = false;
    answer_raised();
  }
  if (!waiting_) end_of_request();
}

void Server::end_of_request() {
  // Objects that end here may call functions of the host's
  const auto kept = std::exchange(kept_, {});
  const auto copied = std::exchange(copied_, {});
  args_.clear();
  packet_.clear();
  busy_ = false;
}

int Server::dispatch(PacketReader* reader) {
  int32_t number = 0;
  if (!reader->code(&number)) return -1;
  const auto code = static_cast<Code>(number);
  if (session_ == nullptr && code != Code::init_server && code != Code::shutdown)
    return ffi::raise(
        "RPCServerError",
        concat(name_, ": kInitServer comes first, and this is ",
               code_name(number).empty() ? "a packet without a known code" : code_name(number)));
  switch (code) {
    case Code::shutdown:
      if (!reader->end()) return -1;
      input_ = Input::closed;
      return 0;
    case Code::init_server:
      return initialize(reader);
    case Code::call_function:
      return call_function(reader);
    case Code::copy_from_remote:
      return copy_from_remote(reader);
    case Code::copy_to_remote:
      return copy_to_remote(reader);
    case Code::copy_among_remote:
      return copy_among_remote(reader);
    case Code::synchronize:
      return synchronize(reader);
    case Code::free_handle:
      return free(reader, false);
    case Code::free:
      return free(reader, true);
    case Code::return_value:
    case Code::exception:
    case Code::copy_ack:
      reader->wrong("a server gets no answers");
      return -1;
    default: {
      if (code_name(number).empty()) {
        reader->wrong(concat("there is no code ", number));
        return -1;
      }
      TVMFFIAny value{};
      return value_of(code, reader, &value) == 0 ? answer(value) : -1;
    }
  }
}

bool Server::read_arguments(const Session& session, int32_t count, PacketReader* reader) {
  for (int32_t i = 0; i < count; ++i) {
    Any kept;
    TVMFFIAny view{};
    if (!session.read_value(reader, &kept, &view)) return false;
    args_.push_back(view);
    kept_.push_back(std::move(kept));
  }
  return reader->end();
}

int Server::initialize(PacketReader* reader) {
  std::string_view version;
  int32_t count = 0;
  std::string_view constructor = "rpc.LocalSession";
  if (!reader->text(&version, "the client's version") || !reader->count(&count) ||
      (count != 0 && !reader->text_value(&constructor)))
    return -1;
  const Session nothing;  // there are no handles yet
  if (!read_arguments(nothing, std::max(count, 1) - 1, reader)) return -1;
  if (session_ != nullptr)
    return ffi::raise("RPCServerError", concat(name_, " is initialized already"));
  if (version != kVersion)
    return ffi::raise("RPCServerError", concat(name_, ": the client's protocol is ", quote(version),
                                               ", this server's '", kVersion, "'"));
  const auto function = ffi::find_function(constructor);
  if (!function)
    return ffi::raise_value(
        concat(name_, ": there is no constructor of sessions ", quote(constructor)));
  Any made;
  if (ffi::call(function.get(), args_, &made) != 0) return -1;
  session_ = session_of(made.view());
  if (session_ == nullptr)
    return ffi::raise_type(concat(name_, ": ", quote(constructor), " gave ",
                                  ffi::type_key_of(made.view()),
                                  ", not a session of this library, as rpc.LocalSession does"));
  session_module_ =
      Ref<ffi::ModuleObject>::adopt(reinterpret_cast<ffi::ModuleObject*>(made.take().v_obj));
  return answer(ffi::none());
}

int Server::call_function(PacketReader* reader) {
  uint64_t handle = 0;
  int32_t count = 0;
  if (!reader->u64(&handle, "a function's handle")) return -1;
  TVMFFIObject* object = session_->find(handle, kTVMFFIFunction, "a function");
  if (object == nullptr || !reader->count(&count) || !read_arguments(*session_, count, reader))
    return -1;
  // A call may free the handle
  const auto function = Ref<FunctionObject>::share(reinterpret_cast<FunctionObject*>(object));
  if (call_kind(handle) == CallKind::asynchronous) return start(function.get(), After::result);
  Any result;
  if (ffi::call(function.get(), args_, &result) != 0) return -1;
  return session_->write_result(result, call_kind(handle), &output_);
}

int Server::start(FunctionObject* function, After after) {
  auto* state = new (std::nothrow) Answer{shared_from_this(), ticket_};
  if (state == nullptr) return ffi::raise_no_memory();
  // From here on it is dropped with an answer, where it was not called
  waiting_ = starting_ = true;
  early_ = false;
  after_ = after;
  auto callback = ffi::make_function(state, rpc::answer, forget_answer);
  int status = -1;
  if (callback) {
    args_.push_back(ffi::of_object(&callback->header));
    kept_.push_back(Any::adopt(ffi::of_object(std::move(callback))));
    Any ignored;
    status = ffi::call(function, args_, &ignored);
    // The host's function keeps it, or nobody does
    args_.pop_back();
    kept_.pop_back();
  }
  starting_ = false;
  const Any value = std::exchange(early_value_, {});
  if (status != 0 || !early_) return status;
  settle(early_code_, value);
  return 0;
}

int Server::complete(uint64_t ticket, int64_t code, Any value) {
  if (!waiting_ || ticket != ticket_) return 0;
  waiting_ = false;
  if (starting_) {
    early_ = true;
    early_code_ = code;
    early_value_ = std::move(value);
    return 0;
  }
  settle(code, value);
  end_of_request();
  receive({});
  return flush();
}

void Server::settle(int64_t code, const Any& value) {
  if (after_ != After::result) {
    // Where the host could not wait, it may still fill what it was to read to
    if (code == static_cast<int64_t>(Code::return_value)) {
      unfinished_.clear();
    } else {
      std::ranges::move(kept_, std::back_inserter(unfinished_));
      unfinished_.push_back(Any::adopt(ffi::of_object(std::move(copied_))));
    }
  }
  if (code == static_cast<int64_t>(Code::return_value)) {
    if (finish(after_, value) != 0) answer_raised();
    return;
  }
  const std::string_view why = ffi::text(value.view());
  if (code != static_cast<int64_t>(Code::exception)) {
    answer_exception(
        concat("RPCServerError: an asynchronous function has ended with the code ", code));
  } else {
    answer_exception(why.data() == nullptr
                         ? "RuntimeError: an asynchronous function has failed and gave no text"
                         : why);
  }
}

int Server::finish(After after, const Any& result) {
  switch (after) {
    case After::result:
      return session_->write_result(result, CallKind::plain, &output_);
    case After::nothing:
      return answer(ffi::none());
    case After::copy: {
      MutableBytes bytes;
      if (!runtime::cpu_bytes(copied_->tensor, "kCopyFromRemote", &bytes)) return -1;
      PacketWriter packet(&output_, Code::copy_ack);
      packet.raw(bytes);
      return packet.finish() ? 0 : ffi::raise_no_memory();
    }
  }
  return 0;
}

int Server::wait_for_device(bool is_cpu, After after) {
  const auto wait = ffi::find_function("__async.wasm.WebGPUWaitForTasks");
  args_.clear();
  if (wait) return start(wait.get(), after);
  if (!is_cpu && runtime::webgpu_device().synchronize() != 0) return -1;
  return finish(after, {});
}

int Server::copy_from_remote(PacketReader* reader) {
  WireTensor wire;
  uint64_t nbytes = 0;
  if (!reader->tensor(&wire) || !reader->u64(&nbytes, "the number of bytes") || !reader->end())
    return -1;
  if (nbytes > kMaxPacketBytes - sizeof(int32_t)) {
    reader->wrong(concat(nbytes, " bytes are asked for; a packet may have ", kMaxPacketBytes));
    return -1;
  }
  auto from = session_->bytes(wire, nbytes, "kCopyFromRemote");
  if (!from) return -1;
  const bool is_cpu = runtime::is_cpu(wire.device);
  if (is_cpu) {
    copied_ = std::move(from);
  } else {
    const int64_t shape[] = {static_cast<int64_t>(nbytes)};
    copied_ = runtime::empty(shape, from->tensor.dtype, kCpu, "kCopyFromRemote");
    if (!copied_ || runtime::copy(from->tensor, copied_->tensor, "kCopyFromRemote") != 0) return -1;
  }
  // Memory of the CPU as well may be what a copy from the GPU is still filling
  return wait_for_device(is_cpu, After::copy);
}

int Server::copy_to_remote(PacketReader* reader) {
  WireTensor wire;
  uint64_t nbytes = 0;
  Bytes bytes;
  if (!reader->tensor(&wire) || !reader->u64(&nbytes, "the number of bytes") ||
      !reader->take(nbytes, &bytes, "the bytes") || !reader->end())
    return -1;
  const auto to = session_->bytes(wire, nbytes, "kCopyToRemote");
  if (!to || runtime::copy_from_bytes(bytes, to->tensor, "kCopyToRemote") != 0) return -1;
  if (runtime::is_cpu(wire.device)) return answer(ffi::none());
  return wait_for_device(false, After::nothing);
}

int Server::copy_among_remote(PacketReader* reader) {
  WireTensor from_wire;
  WireTensor to_wire;
  uint64_t stream = 0;
  if (!reader->expect(3) || !reader->tensor_value(&from_wire) || !reader->tensor_value(&to_wire) ||
      !reader->pointer(&stream) || !reader->end())
    return -1;
  const auto from = session_->tensor(from_wire, "kCopyAmongRemote");
  const auto to = from ? session_->tensor(to_wire, "kCopyAmongRemote") : Ref<TensorObject>();
  if (!to || runtime::copy(from->tensor, to->tensor, "kCopyAmongRemote") != 0) return -1;
  if (runtime::is_cpu(from_wire.device) || !runtime::is_cpu(to_wire.device))
    return answer(ffi::none());
  // Such a copy only begins, and what it fills must stay until it ends
  kept_.push_back(Any::share(ffi::of_object(&to->header)));
  return wait_for_device(false, After::nothing);
}

int Server::synchronize(PacketReader* reader) {
  DLDevice device{};
  uint64_t stream = 0;
  if (!reader->expect(2) || !reader->device(&device) || !reader->pointer(&stream) ||
      !reader->end() || runtime::find_device(device, "kDevStreamSync") == nullptr)
    return -1;
  if (runtime::is_cpu(device)) return answer(ffi::none());
  return wait_for_device(false, After::nothing);
}

int Server::free(PacketReader* reader, bool is_memory) {
  DLDevice device{};
  uint64_t handle = 0;
  if (!reader->expect(is_memory ? 2 : 1) || (is_memory && !reader->device(&device)) ||
      !reader->pointer(&handle) || !reader->end())
    return -1;
  if (is_memory && handle != 0 &&
      session_->find(handle, kTVMFFITensor, "a tensor's memory") == nullptr)
    return -1;
  if (handle != 0 && session_->free(handle) != 0) return -1;
  return answer(ffi::none());
}

int Server::value_of(Code code, PacketReader* reader, TVMFFIAny* value) {
  const std::string_view name = code_name(static_cast<int32_t>(code));
  const auto give_handle = [value](uint64_t handle) {
    *value = {.type_index = kTVMFFIOpaquePtr};
    value->v_uint64 = handle;
  };
  DLDevice device{};
  int64_t number = 0;
  uint64_t handle = 0;
  *value = ffi::none();
  switch (code) {
    case Code::get_global_function: {
      std::string_view function;
      if (!reader->expect(1) || !reader->text_value(&function) || !reader->end() ||
          session_->get_function(function, &handle) != 0)
        return -1;
      give_handle(handle);
      return 0;
    }
    case Code::set_device:
      if (!reader->expect(1) || !reader->device(&device) || !reader->end()) return -1;
      return runtime::find_device(device, name) == nullptr ? -1 : 0;
    case Code::get_attribute: {
      if (!reader->expect(2) || !reader->device(&device) || !reader->integer(&number) ||
          !reader->end())
        return -1;
      // Attribute 0 is whether the device is there; the others, of native GPUs, are none
      if (number != 0) return runtime::find_device(device, name) == nullptr ? -1 : 0;
      const bool is_gpu = device.device_type == kDLWebGPU && device.device_id == 0;
      const bool exists =
          runtime::is_cpu(device) || (is_gpu && ffi::find_function("wasm.WebGPUDeviceAPI"));
      *value = ffi::of_int(exists ? 1 : 0);
      return 0;
    }
    case Code::allocate: {
      DLDataType dtype{};
      int64_t alignment = 0;
      if (!reader->expect(4) || !reader->device(&device) || !reader->integer(&number) ||
          !reader->integer(&alignment) || !reader->dtype(&dtype) || !reader->end())
        return -1;
      if (alignment < 0 || static_cast<uint64_t>(alignment) > runtime::kAlignment)
        return ffi::raise_value(concat(name, ": an alignment of ", alignment,
                                       " bytes is asked for, and memory here has ",
                                       runtime::kAlignment));
      if ((handle = session_->allocate(device, static_cast<uint64_t>(number))) == 0) return -1;
      give_handle(handle);
      return 0;
    }
    case Code::allocate_with_scope: {
      WireTensor wire;
      std::string_view scope;
      int32_t type = 0;
      bool is_bytes = false;
      uint64_t nbytes = 0;
      if (!reader->expect(2) || !reader->tensor_value(&wire) || !reader->type(&type) ||
          (type != kTVMFFINone && !reader->string_of(type, &scope, &is_bytes)) || !reader->end())
        return -1;
      if (!scope.empty() && scope != "global")
        return ffi::raise_value(concat(name, ": ", runtime::device_name(wire.device),
                                       " has no memory scope ", quote(scope), ", only 'global'"));
      if (!runtime::shape_bytes(wire.shape, wire.dtype, name, &nbytes) ||
          (handle = session_->allocate(wire.device, nbytes)) == 0)
        return -1;
      give_handle(handle);
      return 0;
    }
    case Code::free_stream:
    case Code::set_stream:
      if (!reader->expect(2) || !reader->device(&device) || !reader->pointer(&handle) ||
          !reader->end() || runtime::find_device(device, name) == nullptr)
        return -1;
      if (handle != 0)
        return ffi::raise_value(
            concat(name, ": ", runtime::device_name(device), " has the default stream alone"));
      return 0;
    default:  // create_stream, get_stream
      if (!reader->expect(1) || !reader->device(&device) || !reader->end() ||
          runtime::find_device(device, name) == nullptr)
        return -1;
      give_handle(0);
      return 0;
  }
}

}  // namespace sluice::rpc
