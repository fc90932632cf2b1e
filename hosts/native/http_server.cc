#include "hosts/native/http_server.h"

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <filesystem>
#include <list>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <boost/system/system_error.hpp>

#include "hosts/native/digest.h"
#include "hosts/native/file.h"

namespace sluice {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace fs = std::filesystem;
namespace http = boost::beast::http;
using Tcp = asio::ip::tcp;

constexpr size_t kMaxConnections = 256;
constexpr int kIdleMs = 60'000;
constexpr uint64_t kFileBlock = 1ull << 30;  // sendfile() takes no more than 2 GiB at a time
// Few system calls, and stamps that stay in a core's cache
constexpr uint64_t kSynthBlock = 8ull << 20;

// --- Content

std::string_view content_type_of(std::string_view path) {
  const auto is = [&](std::string_view ending) { return path.ends_with(ending); };
  if (is(".json")) return "application/json";
  if (is(".html")) return "text/html; charset=utf-8";
  if (is(".js") || is(".mjs")) return "text/javascript; charset=utf-8";
  if (is(".css")) return "text/css; charset=utf-8";
  if (is(".txt") || is(".md")) return "text/plain; charset=utf-8";
  if (is(".wasm")) return "application/wasm";
  return "application/octet-stream";
}

class FileResource : public Resource {
 public:
  FileResource(InputFile file, std::string path, std::string etag)
      : file_(std::move(file)), path_(std::move(path)), etag_(std::move(etag)) {}

  uint64_t nbytes() const override { return file_.nbytes; }
  std::string_view content_type() const override { return content_type_of(path_); }
  std::string etag() const override { return etag_; }

  bool send(uint64_t begin, uint64_t end, Outlet& outlet) const override {
    return outlet.send_file(file_.descriptor, begin, end);
  }

 private:
  InputFile file_;
  std::string path_;
  std::string etag_;
};

class FolderSite : public Site {
 public:
  explicit FolderSite(fs::path root) : root_(std::move(root)) {}

  std::unique_ptr<Resource> find(std::string_view path) const override {
    std::error_code failed;
    // Follows every link and every "..": what is left tells where the file really lies
    const fs::path real = fs::canonical(root_ / fs::path(path.substr(1)).relative_path(), failed);
    if (failed) return nullptr;
    const auto [root_end, unused] =
        std::mismatch(root_.begin(), root_.end(), real.begin(), real.end());
    if (root_end != root_.end()) return nullptr;
    auto file = open_input(real.string());
    struct stat status{};
    if (!file || ::fstat(file->descriptor.number(), &status) != 0) return nullptr;
    std::string etag =
        concat("\"", file->nbytes, "-", status.st_mtim.tv_sec, ".", status.st_mtim.tv_nsec, "\"");
    return std::make_unique<FileResource>(*std::move(file), real.string(), std::move(etag));
  }

 private:
  fs::path root_;  // canonical
};

class TextResource : public Resource {
 public:
  TextResource(std::string_view text, std::string etag) : text_(text), etag_(std::move(etag)) {}

  uint64_t nbytes() const override { return text_.size(); }
  std::string_view content_type() const override { return "application/json"; }
  std::string etag() const override { return etag_; }
  bool send(uint64_t begin, uint64_t end, Outlet& outlet) const override {
    return outlet.send({as_bytes(text_.substr(begin, end - begin))});
  }

 private:
  std::string_view text_;
  std::string etag_;
};

class ShardResource : public Resource {
 public:
  ShardResource(const SynthModel& model, uint32_t shard, std::string etag)
      : model_(model), shard_(shard), etag_(std::move(etag)) {}

  uint64_t nbytes() const override { return model_.layout().shards[shard_].nbytes; }
  std::string_view content_type() const override { return "application/octet-stream"; }
  std::string etag() const override { return etag_; }

  bool send(uint64_t begin, uint64_t end, Outlet& outlet) const override {
    ByteRuns runs;
    std::vector<uint64_t> stamps;
    while (begin < end) {
      const uint64_t n = std::min(kSynthBlock, end - begin);
      model_.bytes().gather(shard_, begin, n, runs, stamps);
      if (!outlet.send(runs)) return false;
      begin += n;
    }
    return true;
  }

 private:
  const SynthModel& model_;
  uint32_t shard_;
  std::string etag_;
};

class SynthSite : public Site {
 public:
  explicit SynthSite(SynthModel model) : model_(std::move(model)) {
    // The manifest holds all that the bytes depend on, the seed included
    Digest digest(Digest::Kind::md5);
    digest.update(as_bytes(model_.manifest()));
    tag_ = digest.finish();
  }

  std::unique_ptr<Resource> find(std::string_view path) const override {
    path.remove_prefix(1);
    if (path == kCacheManifestName)
      return std::make_unique<TextResource>(model_.manifest(), concat("\"", tag_, "\""));
    const auto digits = path.find_first_of("0123456789");
    if (digits == std::string_view::npos) return nullptr;
    uint32_t shard = 0;
    (void)std::from_chars(path.data() + digits, path.data() + path.size(), shard);
    if (shard >= model_.layout().shards.size() || path != CacheShard::name(shard)) return nullptr;
    return std::make_unique<ShardResource>(model_, shard, concat("\"", tag_, "-", shard, "\""));
  }

 private:
  SynthModel model_;
  std::string tag_;
};

// --- Requests

// The path of a request's target: without query, %XX decoded. Nothing where it is malformed.
std::optional<std::string> path_of(std::string_view target) {
  target = target.substr(0, target.find_first_of("?#"));
  if (!target.starts_with('/')) return std::nullopt;
  std::string path;
  for (size_t i = 0; i < target.size(); ++i) {
    uint8_t c = static_cast<uint8_t>(target[i]);
    if (c == '%') {
      const char* const digits = target.data() + i + 1;
      if (target.size() - i < 3) return std::nullopt;
      if (const auto parsed = std::from_chars(digits, digits + 2, c, 16);
          parsed.ec != std::errc() || parsed.ptr != digits + 2)
        return std::nullopt;
      i += 2;
    }
    if (c == 0) return std::nullopt;
    path += static_cast<char>(c);
  }
  return path;
}

struct ByteRange {
  uint64_t begin = 0;
  uint64_t end = 0;
  bool satisfiable = true;
};

std::optional<uint64_t> number_of(std::string_view text) {
  uint64_t number = 0;
  const char* const end = text.data() + text.size();
  const auto parsed = std::from_chars(text.data(), end, number);
  // What overflows lies behind every file
  if (parsed.ec == std::errc::result_out_of_range && parsed.ptr == end) return UINT64_MAX;
  if (parsed.ec != std::errc() || parsed.ptr != end) return std::nullopt;
  return number;
}

// One range of `nbytes` bytes (RFC 9110, 14.1.2). Nothing where the header asks for none, for
// several, or is malformed: the whole is sent then, as the RFC allows.
std::optional<ByteRange> parse_range(std::string_view header, uint64_t nbytes) {
  if (!header.starts_with("bytes=")) return std::nullopt;
  header.remove_prefix(6);
  const size_t dash = header.find('-');
  if (dash == std::string_view::npos) return std::nullopt;
  const std::string_view first = header.substr(0, dash), last = header.substr(dash + 1);
  if (first.empty()) {
    const auto length = number_of(last);
    if (!length) return std::nullopt;
    return ByteRange{nbytes - std::min(*length, nbytes), nbytes, *length > 0 && nbytes > 0};
  }
  const auto begin = number_of(first);
  const auto end = last.empty() ? UINT64_MAX : number_of(last);
  if (!begin || !end || *begin > *end) return std::nullopt;
  return ByteRange{*begin, *end >= nbytes ? nbytes : *end + 1, *begin < nbytes};
}

// Whether `etag` is among those of an If-None-Match.
bool matches(std::string_view header, std::string_view etag) {
  return header == "*" || header.contains(etag);
}

using Request = http::request<http::empty_body>;
using Response = http::response<http::empty_body>;

std::string_view field(const Request& request, http::field name) {
  const auto value = request[name];
  return {value.data(), value.size()};
}

// One client, from its first request to its last.
class Connection : private Outlet {
 public:
  Connection(Tcp::socket& socket, const Site& site) : socket_(socket), site_(site) {}

  void run() {
    beast::error_code ignored;
    (void)socket_.set_option(Tcp::no_delay(true), ignored);
    while (wait() && answer_next()) {
    }
    (void)socket_.shutdown(Tcp::socket::shutdown_both, ignored);
  }

 private:
  // Until a request begins.
  bool wait() {
    if (buffer_.size() > 0) return true;
    pollfd waiting{.fd = socket_.native_handle(), .events = POLLIN, .revents = 0};
    int ready = 0;
    do ready = ::poll(&waiting, 1, kIdleMs);
    while (ready < 0 && errno == EINTR);
    return ready > 0;
  }

  bool answer_next() {
    // A request of a model's reader has no body; one that has is refused
    http::request_parser<http::empty_body> parser;
    beast::error_code error;
    http::read(socket_, buffer_, parser, error);
    if (error == http::error::end_of_stream) return false;
    if (error) {
      if (error.category() != http::make_error_code(http::error::bad_version).category())
        return false;  // the connection's fault, not the request's
      Response response(http::status::bad_request, 11);
      response.keep_alive(false);
      (void)send_header(response, 0);
      return false;
    }
    return answer(parser.get());
  }

  bool answer(const Request& request) {
    Response response(http::status::ok, request.version());
    response.keep_alive(request.keep_alive());
    const auto plain = [&](http::status status) {
      response.result(status);
      return send_header(response, 0) && request.keep_alive();
    };
    if (request.method() == http::verb::options) {
      response.set(http::field::access_control_allow_methods, "GET, HEAD, OPTIONS");
      const std::string_view asked = field(request, http::field::access_control_request_headers);
      response.set(http::field::access_control_allow_headers,
                   asked.empty() ? "Range" : beast::string_view(asked.data(), asked.size()));
      response.set(http::field::access_control_max_age, "86400");
      // A page from elsewhere may ask for what lies on this machine (Private Network Access)
      response.set("Access-Control-Allow-Private-Network", "true");
      return plain(http::status::no_content);
    }
    const bool head = request.method() == http::verb::head;
    if (!head && request.method() != http::verb::get) {
      response.set(http::field::allow, "GET, HEAD, OPTIONS");
      return plain(http::status::method_not_allowed);
    }
    const auto path = path_of({request.target().data(), request.target().size()});
    if (!path) return plain(http::status::bad_request);
    const auto resource = site_.find(*path);
    if (!resource) return plain(http::status::not_found);
    return send_resource(request, response, *resource, head);
  }

  bool send_resource(const Request& request, Response& response, const Resource& resource,
                     bool head) {
    const uint64_t nbytes = resource.nbytes();
    const std::string etag = resource.etag();
    response.set(http::field::etag, etag);
    response.set(http::field::accept_ranges, "bytes");
    response.set(http::field::cache_control, "no-store");
    const std::string_view if_none_match = field(request, http::field::if_none_match);
    if (!if_none_match.empty() && matches(if_none_match, etag)) {
      response.result(http::status::not_modified);
      return send_header(response, std::nullopt) && request.keep_alive();
    }
    const auto type = resource.content_type();
    response.set(http::field::content_type, beast::string_view(type.data(), type.size()));
    ByteRange range{0, nbytes};
    const std::string_view if_range = field(request, http::field::if_range);
    if (if_range.empty() || if_range == etag) {
      if (const auto asked = parse_range(field(request, http::field::range), nbytes)) {
        if (!asked->satisfiable) {
          response.result(http::status::range_not_satisfiable);
          response.set(http::field::content_range, concat("bytes */", nbytes));
          return send_header(response, 0) && request.keep_alive();
        }
        range = *asked;
        response.result(http::status::partial_content);
        response.set(http::field::content_range,
                     concat("bytes ", range.begin, "-", range.end - 1, "/", nbytes));
      }
    }
    if (!send_header(response, range.end - range.begin)) return false;
    if (!head && !resource.send(range.begin, range.end, *this)) return false;
    return request.keep_alive();
  }

  bool send_header(Response& response, std::optional<uint64_t> content_length) {
    response.set(http::field::server, "sluice");
    response.set(http::field::access_control_allow_origin, "*");
    response.set(http::field::access_control_expose_headers,
                 "Accept-Ranges, Content-Encoding, Content-Length, Content-Range, ETag");
    // For pages that are cross-origin isolated, and for their measurements
    response.set("Cross-Origin-Resource-Policy", "cross-origin");
    response.set("Timing-Allow-Origin", "*");
    if (content_length && response.result() != http::status::no_content)
      response.content_length(*content_length);
    http::response_serializer<http::empty_body> serializer(response);
    beast::error_code error;
    http::write_header(socket_, serializer, error);
    return !error;
  }

  bool send(const ByteRuns& runs) override {
    buffers_.clear();
    for (const Bytes run : runs) buffers_.emplace_back(run.data(), run.size());
    beast::error_code error;
    asio::write(socket_, buffers_, error);
    return !error;
  }

  bool send_file(const FileDescriptor& file, uint64_t begin, uint64_t end) override {
    while (begin < end) {
      auto offset = static_cast<off_t>(begin);
      const ssize_t n = ::sendfile(socket_.native_handle(), file.number(), &offset,
                                   std::min(kFileBlock, end - begin));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return false;
      begin += static_cast<uint64_t>(n);
    }
    return true;
  }

  Tcp::socket& socket_;
  const Site& site_;
  beast::flat_buffer buffer_{64 << 10};
  std::vector<asio::const_buffer> buffers_;
};

// Blocks signals for this thread and those it starts: those that a person sends, and SIGPIPE, which
// sendfile() raises where a client has gone; it returns an error then, too.
class BlockedSignals {
 public:
  BlockedSignals() {
    sigset_t blocked;
    ::sigemptyset(&blocked);
    ::sigaddset(&blocked, SIGINT);
    ::sigaddset(&blocked, SIGTERM);
    ::sigaddset(&blocked, SIGPIPE);
    ::pthread_sigmask(SIG_BLOCK, &blocked, &before_);
  }
  ~BlockedSignals() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  BlockedSignals(const BlockedSignals&) = delete;
  BlockedSignals& operator=(const BlockedSignals&) = delete;

  const sigset_t& before() const { return before_; }

 private:
  sigset_t before_{};
};

}  // namespace

Result<std::unique_ptr<Site>> make_folder_site(const std::string& folder) {
  std::error_code failed;
  const fs::path root = fs::canonical(folder, failed);
  if (failed) return std::unexpected(system_error("open", folder, failed.value()));
  if (!fs::is_directory(root, failed))
    return std::unexpected(Error{.code = ErrorCode::io,
                                 .message = concat(quote(folder), " is not a folder"),
                                 .file = folder,
                                 .hint = "give the folder that the file lies in"});
  return std::make_unique<FolderSite>(root);
}

std::unique_ptr<Site> make_synth_site(SynthModel model) {
  return std::make_unique<SynthSite>(std::move(model));
}

struct HttpServer::State {
  State(const Site& the_site, FileDescriptor the_wake)
      : site(the_site), acceptor(context), wake(std::move(the_wake)) {}

  // A client, and the thread that serves it. Threads that ended are joined before the next starts.
  struct Client {
    explicit Client(Tcp::socket the_socket) : socket(std::move(the_socket)) {}
    Tcp::socket socket;
    std::thread thread = {};
    bool ended = false;
  };

  void join_ended() {
    std::list<Client> ended;
    {
      const std::lock_guard lock(mutex);
      for (auto client = clients.begin(); client != clients.end();) {
        const auto next = std::next(client);
        if (client->ended) ended.splice(ended.end(), clients, client);
        client = next;
      }
    }
    for (Client& client : ended) client.thread.join();
  }

  size_t count() {
    const std::lock_guard lock(mutex);
    return clients.size();
  }

  void accept() {
    beast::error_code error;
    Tcp::socket socket(context);
    // The one who asked may have gone: the acceptor does not wait
    (void)acceptor.accept(socket, error);
    if (error) return;
    // Sockets of a non-blocking acceptor block, as all new ones do
    const std::lock_guard lock(mutex);
    Client& client = clients.emplace_back(std::move(socket));
    try {
      client.thread = std::thread([this, &client] { serve(client); });
    } catch (const std::system_error&) {
      clients.pop_back();  // no more threads: this client's connection is closed
    }
  }

  void serve(Client& client) {
    try {
      Connection(client.socket, site).run();
    } catch (const std::exception&) {
      // Out of memory, say: this client's connection ends, and nothing else
      beast::error_code ignored;
      (void)client.socket.shutdown(Tcp::socket::shutdown_both, ignored);
    }
    const std::lock_guard lock(mutex);
    client.ended = true;
    // run() closes the socket, and may wait for a place
    (void)::eventfd_write(wake.number(), 1);
  }

  // Every connection is cut: a thread in the middle of a send comes back with an error.
  void cut_all() {
    {
      const std::lock_guard lock(mutex);
      for (Client& client : clients)
        if (!client.ended) (void)::shutdown(client.socket.native_handle(), SHUT_RDWR);
    }
    // The list is only changed by the thread that runs run()
    for (Client& client : clients) client.thread.join();
    clients.clear();
  }

  const Site& site;
  asio::io_context context;
  Tcp::acceptor acceptor;
  FileDescriptor wake;  // an eventfd
  std::atomic<bool> stopped = false;
  std::mutex mutex;  // of `clients` and their `ended`
  std::list<Client> clients;
};

HttpServer::HttpServer(std::unique_ptr<State> state) : state_(std::move(state)) {}
HttpServer::~HttpServer() = default;

Result<std::unique_ptr<HttpServer>> HttpServer::listen(const Site& site, const std::string& host,
                                                       uint16_t port) {
  beast::error_code error;
  const auto address = asio::ip::make_address(host, error);
  if (error)
    return std::unexpected(Error{.code = ErrorCode::invalid_argument,
                                 .message = concat(quote(host), " is no IP address"),
                                 .hint = "write 127.0.0.1, ::1 or 0.0.0.0"});
  FileDescriptor wake(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake) return std::unexpected(system_error("make", "an eventfd", errno));
  auto state = std::make_unique<State>(site, std::move(wake));
  const Tcp::endpoint endpoint(address, port);
  try {
    state->acceptor.open(endpoint.protocol());
    state->acceptor.set_option(Tcp::acceptor::reuse_address(true));
    state->acceptor.bind(endpoint);
    state->acceptor.listen();
    state->acceptor.non_blocking(true);
  } catch (const boost::system::system_error& refused) {
    return std::unexpected(Error{.code = ErrorCode::io,
                                 .message = concat("cannot listen on ", host, " port ", port, ": ",
                                                   refused.code().message()),
                                 .hint = "choose another port, or 0 for a free one"});
  }
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(state)));
}

std::string HttpServer::origin() const {
  const Tcp::endpoint endpoint = state_->acceptor.local_endpoint();
  const std::string address = endpoint.address().to_string();
  return endpoint.address().is_v6() ? concat("http://[", address, "]:", endpoint.port())
                                    : concat("http://", address, ":", endpoint.port());
}

void HttpServer::run(const std::atomic<bool>* stop_flag, int until_closed) {
  // Signals reach this thread, and only while it waits
  const BlockedSignals signals;
  while (!state_->stopped && (stop_flag == nullptr || !*stop_flag)) {
    state_->join_ended();
    const bool full = state_->count() >= kMaxConnections;
    // poll() passes over negative numbers
    pollfd waiting[] = {
        {.fd = full ? -1 : state_->acceptor.native_handle(), .events = POLLIN, .revents = 0},
        {.fd = state_->wake.number(), .events = POLLIN, .revents = 0},
        {.fd = until_closed, .events = POLLIN, .revents = 0},
    };
    if (::ppoll(waiting, std::size(waiting), nullptr, &signals.before()) < 0) {
      if (errno == EINTR) continue;
      break;
    }
    if (waiting[2].revents != 0) {
      char dropped[512];
      if (::read(until_closed, dropped, sizeof dropped) <= 0) break;
    }
    if (waiting[1].revents != 0) {
      eventfd_t ignored = 0;
      (void)::eventfd_read(state_->wake.number(), &ignored);
    }
    if (waiting[0].revents != 0) state_->accept();
  }
  state_->cut_all();
}

void HttpServer::stop() {
  state_->stopped = true;
  (void)::eventfd_write(state_->wake.number(), 1);
}

}  // namespace sluice
