// The server's end of one connection, without a connection: bytes go in, bytes come out.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/ffi/object.h"
#include "core/rpc/protocol.h"
#include "core/rpc/session.h"

namespace sluice::rpc {

// What handle() tells the host.
enum class Status : int64_t {
  closed = 0,   // close the connection: the client said so, or what it sent is no protocol
  reading = 1,  // more bytes are awaited
  sending = 2,  // call again, with nothing, once the connection takes bytes
};

// Answers one packet after the other, each with exactly one packet, but for a shutdown. A packet
// whose content is wrong gets an exception as its answer; after one whose length is, the server is
// closed. A call that the host finishes later is answered then, and what came meanwhile waits.
// Belongs to a shared_ptr: a call that is not finished keeps it.
class Server : public std::enable_shared_from_this<Server> {
 public:
  // `send(bytes) -> int` takes as many of the bytes as it says, none where there is no connection.
  // `name` is for messages. `remote_key` is the client's name, or "%toinit" where i32 bytes and
  // the key are what comes first.
  Server(ffi::Ref<ffi::FunctionObject> send, std::string_view name, std::string_view remote_key);

  // Takes what came, and sends answers where `may_send`. -1 after raising an error, which is that
  // of `send`: what could not be sent is lost.
  [[nodiscard]] int handle(Bytes in, bool may_send, Status* out);

  // The end of the call that waits, if it is still that of `ticket`: Code::return_value with what
  // it gave, or Code::exception with the error's text. -1 as from handle().
  [[nodiscard]] int complete(uint64_t ticket, int64_t code, ffi::Any value);

 private:
  enum class Input { key_length, key, length, body, closed };
  // What is done once a function of the host's has finished: its result is sent, or nothing is, or
  // the bytes of copied_
  enum class After { result, nothing, copy };

  void receive(Bytes in);
  void consume(Bytes* in);
  void keep_for_later(Bytes in);
  void take_input();
  void close(std::string_view why);
  [[nodiscard]] int flush();

  // Each answers the request, or has `waiting_` set, or raises an error and returns -1.
  void process();
  int dispatch(PacketReader* reader);
  int initialize(PacketReader* reader);
  int call_function(PacketReader* reader);
  int copy_from_remote(PacketReader* reader);
  int copy_to_remote(PacketReader* reader);
  int copy_among_remote(PacketReader* reader);
  int synchronize(PacketReader* reader);
  int free(PacketReader* reader, bool is_memory);
  // Of the requests that are answered with one value
  int value_of(Code code, PacketReader* reader, TVMFFIAny* value);

  bool read_arguments(const Session& session, int32_t count, PacketReader* reader);
  // Calls a function whose last argument is to be called with the result, behind args_.
  int start(ffi::FunctionObject* function, After after);
  // Waits for the GPU, where there is one.
  int wait_for_device(bool is_cpu, After after);
  void settle(int64_t code, const ffi::Any& value);
  int finish(After after, const ffi::Any& result);
  void end_of_request();

  int answer(const TVMFFIAny& value);
  void answer_raised();
  void answer_exception(std::string_view message);

  ffi::Ref<ffi::FunctionObject> send_;
  std::string name_;
  ffi::Ref<ffi::ModuleObject> session_module_;
  Session* session_ = nullptr;

  Input input_ = Input::length;
  uint64_t needed_ = sizeof(uint64_t);  // bytes of what input_ says
  Buffer incoming_;                     // those of them that have come
  Buffer backlog_;                      // what came behind
  size_t backlog_at_ = 0;
  bool receiving_ = false;
  Buffer output_;
  bool sending_ = false;

  // The request that is being answered
  bool busy_ = false;
  uint64_t ticket_ = 0;
  Buffer packet_;
  std::vector<ffi::Any> kept_;
  std::vector<TVMFFIAny> args_;
  ffi::Ref<ffi::TensorObject> copied_;
  // Of former ones, kept until the GPU has been waited for
  std::vector<ffi::Any> unfinished_;
  // The call of it that the host finishes
  bool waiting_ = false;
  After after_ = After::nothing;
  bool starting_ = false;  // it has not returned
  bool early_ = false;     // and was finished already, with this
  int64_t early_code_ = 0;
  ffi::Any early_value_;
};

}  // namespace sluice::rpc
