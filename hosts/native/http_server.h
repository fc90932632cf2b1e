// A small HTTP/1.1 server for models: files of a folder, or synthetic bytes made as they are sent.
// For local use: no TLS, no authentication, nothing is ever written.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "core/base/bytes.h"
#include "core/base/error.h"
#include "hosts/native/file.h"
#include "hosts/native/synth.h"

namespace sluice {

// The way to the client. Both return false once it has gone.
class Outlet {
 public:
  Outlet() = default;
  Outlet(const Outlet&) = delete;
  Outlet& operator=(const Outlet&) = delete;
  virtual ~Outlet() = default;

  virtual bool send(const ByteRuns& runs) = 0;
  // Bytes [begin, end) of a file; also false where the file ends before that.
  virtual bool send_file(const FileDescriptor& file, uint64_t begin, uint64_t end) = 0;
};

// What stands at one path.
class Resource {
 public:
  Resource() = default;
  Resource(const Resource&) = delete;
  Resource& operator=(const Resource&) = delete;
  virtual ~Resource() = default;

  virtual uint64_t nbytes() const = 0;
  virtual std::string_view content_type() const = 0;
  virtual std::string etag() const = 0;  // with its quotes
  // Sends bytes [begin, end), which lie inside. False where that failed: the connection ends then.
  virtual bool send(uint64_t begin, uint64_t end, Outlet& outlet) const = 0;
};

// What a server serves. Called by several threads at a time.
class Site {
 public:
  Site() = default;
  Site(const Site&) = delete;
  Site& operator=(const Site&) = delete;
  virtual ~Site() = default;

  // `path` is decoded, absolute and without a query. Null where nothing is there.
  virtual std::unique_ptr<Resource> find(std::string_view path) const = 0;
};

// Regular files below `folder`. What leads out of it, by `..` or by a symbolic link, is not there.
// Errors: not_found, io (not a folder).
Result<std::unique_ptr<Site>> make_folder_site(const std::string& folder);

// tensor-cache.json and the shards of a synthetic model.
std::unique_ptr<Site> make_synth_site(SynthModel model);

// Answers GET and HEAD with Range (one range: 206, 416; several are answered as none), If-Range,
// If-None-Match, CORS for every origin (OPTIONS, too), and keeps connections alive. One thread a
// connection, at most 256 of them; more wait. A connection idle for a minute is closed.
class HttpServer {
 public:
  // `host` is an IP address; port 0 takes a free one. `site` must live as long as the server.
  // Errors: invalid_argument for the host; io where the address cannot be listened on.
  static Result<std::unique_ptr<HttpServer>> listen(const Site& site, const std::string& host,
                                                    uint16_t port);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  // "http://127.0.0.1:8080"
  std::string origin() const;

  // Serves until stop(), until a signal's handler has set `stop_flag` (null: no such flag), or
  // until the file `until_closed` (negative: none) ends. Then every connection is cut and its
  // thread joined.
  void run(const std::atomic<bool>* stop_flag = nullptr, int until_closed = -1);

  // Ends run(), also from another thread.
  void stop();

 private:
  struct State;
  explicit HttpServer(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

}  // namespace sluice
