#include "hosts/native/http_server.h"

#include <sys/socket.h>

#include <latch>
#include <random>
#include <thread>

#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>

#include "core/base/expect_error.h"
#include "hosts/native/test_support.h"

namespace sluice {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using enum ErrorCode;
using testing::get;
using testing::Json;
using testing::put;
using testing::TempFolder;

using Headers = std::vector<std::pair<std::string, std::string>>;

struct Reply {
  int status = 0;
  std::string body;
  http::fields fields;
  bool keep_alive = false;

  std::string field(const char* name) const {
    return std::string(fields[boost::beast::string_view(name)]);
  }
};

// One connection, on which requests follow one another.
class Client {
 public:
  explicit Client(const std::string& origin) {
    const auto port = static_cast<uint16_t>(std::stoi(origin.substr(origin.rfind(':') + 1)));
    socket_.connect({asio::ip::make_address("127.0.0.1"), port});
  }

  Reply request(http::verb method, const std::string& target, const Headers& headers = {}) {
    http::request<http::empty_body> request(method, target, 11);
    request.set(http::field::host, "127.0.0.1");
    for (const auto& [name, value] : headers) request.set(name, value);
    http::write(socket_, request);
    return read(method == http::verb::head);
  }
  Reply get(const std::string& target, const Headers& headers = {}) {
    return request(http::verb::get, target, headers);
  }

  // Sends text that need not be HTTP. The server may hang up before it has taken all of it.
  Reply raw(const std::string& text) {
    boost::beast::error_code hung_up;
    asio::write(socket_, asio::buffer(text), hung_up);
    return read(false);
  }

  asio::ip::tcp::socket& socket() { return socket_; }

 private:
  Reply read(bool head) {
    http::response_parser<http::string_body> parser;
    parser.body_limit(1ull << 30);
    parser.skip(head);
    boost::beast::error_code error;
    http::read(socket_, buffer_, parser, error);
    if (error) return {};
    const auto& response = parser.get();
    return {static_cast<int>(response.result_int()), response.body(), response.base(),
            response.keep_alive()};
  }

  asio::io_context context_;
  asio::ip::tcp::socket socket_{context_};
  boost::beast::flat_buffer buffer_;
};

// A server in a thread of its own.
class Running {
 public:
  explicit Running(std::unique_ptr<Site> site)
      : site_(std::move(site)),
        server_(*HttpServer::listen(*site_, "127.0.0.1", 0)),
        thread_([this] { server_->run(); }) {}
  ~Running() {
    server_->stop();
    thread_.join();
  }
  Running(const Running&) = delete;
  Running& operator=(const Running&) = delete;

  std::string origin() const { return server_->origin(); }

 private:
  std::unique_ptr<Site> site_;
  std::unique_ptr<HttpServer> server_;
  std::thread thread_;
};

SynthModel small_model(uint64_t seed = 5) {
  return *SynthModel::make(
      "small", {{"a", DType::f16, {700, 300}}, {"b", DType::u32, {5}}, {"e", DType::u8, {0}}},
      {.seed = seed, .shard_bytes = 100'000});
}

std::unique_ptr<Site> folder_site(const std::string& folder) { return *make_folder_site(folder); }

TEST(HttpServer, RangesOfAFile) {
  const TempFolder folder;
  const std::string bytes = testing::random_bytes(1000, 1);
  put(folder / "m.bin", bytes);
  put(folder / "empty.bin", "");
  const Running server(folder_site(folder.path()));
  Client client(server.origin());
  struct Case {
    const char* range;
    int status;
    uint64_t begin, end;  // of the body, in the file
  };
  for (const Case& c : {Case{"", 200, 0, 1000},
                        {"bytes=0-0", 206, 0, 1},
                        {"bytes=0-", 206, 0, 1000},
                        {"bytes=10-19", 206, 10, 20},
                        {"bytes=999-", 206, 999, 1000},
                        {"bytes=990-5000", 206, 990, 1000},
                        {"bytes=0-99999999999999999999999", 206, 0, 1000},
                        {"bytes=-1", 206, 999, 1000},
                        {"bytes=-1000", 206, 0, 1000},
                        {"bytes=-5000", 206, 0, 1000},
                        {"bytes=1000-", 416, 0, 0},
                        {"bytes=1000-2000", 416, 0, 0},
                        {"bytes=99999999999999999999999-", 416, 0, 0},
                        {"bytes=-0", 416, 0, 0},
                        // Malformed, of another unit, or several: as if there were no such header
                        {"bytes=20-10", 200, 0, 1000},
                        {"bytes=a-b", 200, 0, 1000},
                        {"bytes=-", 200, 0, 1000},
                        {"bytes=1 - 2", 200, 0, 1000},
                        {"items=0-1", 200, 0, 1000},
                        {"bytes=0-1,5-6", 200, 0, 1000}}) {
    const Headers headers = *c.range != 0 ? Headers{{"Range", c.range}} : Headers{};
    const Reply reply = client.get("/m.bin", headers);
    EXPECT_EQ(reply.status, c.status) << c.range;
    EXPECT_EQ(reply.body, bytes.substr(c.begin, c.end - c.begin)) << c.range;
    EXPECT_EQ(reply.field("Content-Length"), std::to_string(c.end - c.begin)) << c.range;
    EXPECT_EQ(reply.field("Content-Range"), c.status == 206
                                                ? concat("bytes ", c.begin, "-", c.end - 1, "/1000")
                                            : c.status == 416 ? "bytes */1000"
                                                              : "")
        << c.range;
    EXPECT_TRUE(reply.keep_alive) << c.range;

    const Reply head = client.request(http::verb::head, "/m.bin", headers);
    EXPECT_EQ(head.status, c.status) << c.range;
    EXPECT_EQ(head.body, "");
    EXPECT_EQ(head.field("Content-Length"), reply.field("Content-Length")) << c.range;
  }
  EXPECT_EQ(client.get("/empty.bin").status, 200);
  EXPECT_EQ(client.get("/empty.bin", {{"Range", "bytes=0-"}}).status, 416);
  EXPECT_EQ(client.get("/empty.bin", {{"Range", "bytes=-5"}}).status, 416);
}

TEST(HttpServer, EtagsAndConditions) {
  const TempFolder folder;
  put(folder / "m.bin", "0123456789");
  const Running server(folder_site(folder.path()));
  Client client(server.origin());
  const std::string etag = client.get("/m.bin").field("ETag");
  EXPECT_TRUE(etag.starts_with('"') && etag.ends_with('"')) << etag;
  EXPECT_EQ(client.get("/m.bin").field("ETag"), etag);
  const Reply unchanged = client.get("/m.bin", {{"If-None-Match", etag}});
  EXPECT_EQ(unchanged.status, 304);
  EXPECT_EQ(unchanged.body, "");
  EXPECT_EQ(client.get("/m.bin", {{"If-None-Match", "\"other\""}}).status, 200);
  const Headers range = {{"Range", "bytes=2-4"}, {"If-Range", etag}};
  EXPECT_EQ(client.get("/m.bin", range).body, "234");
  put(folder / "m.bin", "9876543210x");
  const Reply changed = client.get("/m.bin", range);
  EXPECT_EQ(changed.status, 200);
  EXPECT_EQ(changed.body, "9876543210x");
  EXPECT_NE(changed.field("ETag"), etag);
}

TEST(HttpServer, CorsForEveryOrigin) {
  const TempFolder folder;
  put(folder / "m.json", "{}");
  const Running server(folder_site(folder.path()));
  Client client(server.origin());
  for (const char* target : {"/m.json", "/none"}) {
    const Reply reply = client.get(target, {{"Origin", "https://example.org"}});
    EXPECT_EQ(reply.field("Access-Control-Allow-Origin"), "*");
    for (const char* name : {"Content-Length", "Content-Range", "ETag", "Accept-Ranges"})
      EXPECT_TRUE(reply.field("Access-Control-Expose-Headers").contains(name)) << name;
  }
  EXPECT_EQ(client.get("/m.json").field("Content-Type"), "application/json");
  const Reply preflight = client.request(http::verb::options, "/m.json",
                                         {{"Access-Control-Request-Headers", "range, x-key"}});
  EXPECT_EQ(preflight.status, 204);
  EXPECT_EQ(preflight.field("Access-Control-Allow-Headers"), "range, x-key");
  EXPECT_TRUE(preflight.field("Access-Control-Allow-Methods").contains("GET"));
}

TEST(HttpServer, NothingOutsideTheFolder) {
  const TempFolder folder;
  put(folder / "site/in/m.bin", "inside");
  put(folder / "secret", "outside");
  put(folder / "site-2/secret", "outside");
  std::filesystem::create_symlink(folder / "secret", folder / "site/link");
  std::filesystem::create_symlink(folder / "site/in/m.bin", folder / "site/good link");
  ASSERT_EQ(::mkfifo((folder / "site/pipe").c_str(), 0600), 0);
  const Running server(folder_site(folder / "site"));
  Client client(server.origin());
  EXPECT_EQ(client.get("/in/m.bin?v=1").body, "inside");
  EXPECT_EQ(client.get("/in/../in/m%2ebin").body, "inside");
  EXPECT_EQ(client.get("/good%20link").body, "inside");
  const std::string absolute = folder / "secret";
  for (const std::string& target :
       {std::string("/../secret"), std::string("/in/../../secret"), std::string("/%2e%2e/secret"),
        std::string("/..%2fsecret"), std::string("/../site-2/secret"), std::string("/link"),
        "/" + absolute, absolute, std::string("/in"), std::string("/"), std::string("/pipe"),
        std::string("/none"), std::string("/in/m.bin/x"), "/" + std::string(5000, 'x')}) {
    const Reply reply = client.get(target);
    EXPECT_EQ(reply.status, 404) << target;
    EXPECT_EQ(reply.body, "") << target;
  }
  for (const char* target : {"/%", "/%2", "/%zz", "/%-1", "/a%00b"})
    EXPECT_EQ(client.get(target).status, 400) << target;
}

TEST(HttpServer, RefusesWhatItDoesNotSpeak) {
  const TempFolder folder;
  put(folder / "m.bin", "inside");
  const Running server(folder_site(folder.path()));
  Client client(server.origin());
  const Reply deleted = client.request(http::verb::delete_, "/m.bin");
  EXPECT_EQ(deleted.status, 405);
  EXPECT_EQ(deleted.field("Allow"), "GET, HEAD, OPTIONS");
  EXPECT_EQ(client.get("/m.bin").body, "inside");
  for (const std::string& text :
       {std::string("nonsense\r\n\r\n"), std::string("GET /m.bin HTTP/3.0\r\n\r\n"),
        std::string("PUT /m.bin HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi"),
        "GET /m.bin HTTP/1.1\r\nX: " + std::string(100'000, 'x') + "\r\n\r\n"}) {
    const Reply reply = Client(server.origin()).raw(text);
    EXPECT_TRUE(reply.status == 400 || reply.status == 0) << text.substr(0, 30) << reply.status;
    EXPECT_FALSE(reply.keep_alive);
  }
  const Reply old = Client(server.origin()).raw("GET /m.bin HTTP/1.0\r\n\r\n");
  EXPECT_EQ(old.body, "inside");
  EXPECT_FALSE(old.keep_alive);
  // Two at once, answered in order
  Client pipelined(server.origin());
  EXPECT_EQ(
      pipelined.raw("GET /m.bin HTTP/1.1\r\nHost: x\r\n\r\nGET /no HTTP/1.1\r\nHost: x\r\n\r\n")
          .body,
      "inside");
  EXPECT_EQ(pipelined.raw("").status, 404);
}

TEST(HttpServer, SyntheticBytesAreThoseOnDisk) {
  const TempFolder folder;
  const SynthModel model = small_model();
  ASSERT_TRUE(write_synth(model, folder.path(), false));
  const Running server(make_synth_site(small_model()));
  Client client(server.origin());
  EXPECT_EQ(client.get("/tensor-cache.json").body, model.manifest());
  EXPECT_EQ(client.get("/tensor-cache.json").field("Content-Type"), "application/json");
  std::mt19937_64 random(2);
  for (size_t s = 0; s < model.layout().shards.size(); ++s) {
    const std::string name = CacheShard::name(s);
    const std::string bytes = get(folder / name);
    ASSERT_EQ(bytes.size(), model.layout().shards[s].nbytes);
    EXPECT_EQ(client.get("/" + name).body, bytes);
    EXPECT_EQ(client.request(http::verb::head, "/" + name).field("Content-Length"),
              std::to_string(bytes.size()));
    for (int i = 0; i < 200; ++i) {
      const uint64_t begin = random() % bytes.size();
      const uint64_t end = begin + 1 + random() % (bytes.size() - begin);
      const Reply reply =
          client.get("/" + name, {{"Range", concat("bytes=", begin, "-", end - 1)}});
      ASSERT_EQ(reply.status, 206);
      ASSERT_EQ(reply.body, bytes.substr(begin, end - begin)) << begin << " to " << end;
    }
  }
  for (const char* target : {"/params_shard_9.bin", "/params_shard_00.bin", "/params_shard_-1.bin",
                             "/params_shard_4294967296.bin", "/params_shard_.bin", "/", "/x",
                             "/params_shard_0.bin/", "/../tensor-cache.json"})
    EXPECT_EQ(client.get(target).status, 404) << target;
  const Running other(make_synth_site(small_model(6)));
  EXPECT_NE(Client(other.origin()).get("/params_shard_0.bin").field("ETag"),
            client.get("/params_shard_0.bin").field("ETag"));
}

TEST(HttpServer, EightyGigabytesTakeNeitherDiskNorMemory) {
  auto model = SynthModel::make("large", {{"w", DType::u32, {20'000'000'000}}}, {.seed = 3});
  ASSERT_TRUE(model) << to_string(model.error());
  const Running server(make_synth_site(*std::move(model)));
  Client client(server.origin());
  EXPECT_EQ(client.request(http::verb::head, "/params_shard_0.bin").field("Content-Length"),
            "80000000000");
  const Reply reply = client.get("/params_shard_0.bin", {{"Range", "bytes=79999999000-"}});
  std::string expected(1000, '\0');
  SynthBytes(3).fill(0, 79'999'999'000, std::as_writable_bytes(std::span(expected)));
  EXPECT_EQ(reply.body, expected);
}

TEST(HttpServer, ManyConnectionsAtATime) {
  const SynthModel model = small_model();
  const Running server(make_synth_site(small_model()));
  constexpr int kClients = 16;
  std::latch all_connected(kClients);
  std::vector<std::thread> threads;
  std::atomic<int> right = 0;
  for (int c = 0; c < kClients; ++c)
    threads.emplace_back([&] {
      Client client(server.origin());
      all_connected.arrive_and_wait();
      for (int i = 0; i < 20; ++i)
        if (client.get("/params_shard_0.bin").body.size() == 420'000) ++right;
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(right, kClients * 20);
}

TEST(HttpServer, ManyMoreConnectionsThanItServesAtATime) {
  const Running server(make_synth_site(small_model()));
  std::vector<std::unique_ptr<Client>> idle;
  for (int c = 0; c < 300; ++c) idle.push_back(std::make_unique<Client>(server.origin()));
  // The last ones wait for a place, and get it once others go
  idle.erase(idle.begin(), idle.begin() + 100);
  for (auto& client : idle) ASSERT_EQ(client->get("/tensor-cache.json").status, 200);
}

TEST(HttpServer, SurvivesClientsThatGo) {
  auto model = SynthModel::make("large", {{"w", DType::u8, {1ull << 36}}}, {});
  const Running server(make_synth_site(*std::move(model)));
  for (int i = 0; i < 20; ++i) {
    Client client(server.origin());
    asio::write(client.socket(),
                asio::buffer(std::string("GET /params_shard_0.bin HTTP/1.1\r\nHost: x\r\n\r\n")));
    char some[1000];
    (void)client.socket().read_some(asio::buffer(some));
  }
  // One that never reads: the end of the test does not wait for it
  Client stuck(server.origin());
  asio::write(stuck.socket(),
              asio::buffer(std::string("GET /params_shard_0.bin HTTP/1.1\r\nHost: x\r\n\r\n")));
  EXPECT_EQ(Client(server.origin()).get("/tensor-cache.json").status, 200);
}

TEST(HttpServer, SurvivesFilesAndClientsThatGo) {
  const TempFolder folder;
  put(folder / "m.bin", "");
  std::filesystem::resize_file(folder / "m.bin", 1ull << 36);
  const Running server(folder_site(folder.path()));
  const std::string request = "GET /m.bin HTTP/1.1\r\nHost: x\r\n\r\n";
  for (int i = 0; i < 20; ++i) {
    Client client(server.origin());
    asio::write(client.socket(), asio::buffer(request));
    char some[1000];
    (void)client.socket().read_some(asio::buffer(some));
  }
  // The file ends while it is sent: so does the connection, short of what was promised
  Client client(server.origin());
  asio::write(client.socket(), asio::buffer(request));
  std::vector<char> some(1 << 20);
  (void)client.socket().read_some(asio::buffer(some));
  std::filesystem::resize_file(folder / "m.bin", 1000);
  boost::beast::error_code error;
  while (!error) (void)client.socket().read_some(asio::buffer(some), error);
  EXPECT_EQ(Client(server.origin()).get("/m.bin").body.size(), 1000u);
}

TEST(HttpServer, Errors) {
  const TempFolder folder;
  put(folder / "file", "");
  expect_error(make_folder_site(folder / "none"), not_found, {"none"});
  expect_error(make_folder_site(folder / "file"), io, {"not a folder"});
  const auto site = make_synth_site(small_model());
  expect_error(HttpServer::listen(*site, "localhost", 0), invalid_argument, {"'localhost'"});
  expect_error(HttpServer::listen(*site, "192.0.2.1", 0), io, {"192.0.2.1"});
  const auto first = HttpServer::listen(*site, "127.0.0.1", 0);
  ASSERT_TRUE(first);
  const std::string origin = (*first)->origin();
  const int port = std::stoi(origin.substr(origin.rfind(':') + 1));
  expect_error(HttpServer::listen(*site, "127.0.0.1", static_cast<uint16_t>(port)), io,
               {std::to_string(port)});
}

// The command as a process that is talked to while it runs.
class ServeProcess {
 public:
  explicit ServeProcess(std::vector<std::string> arguments) {
    int in[2], out[2];
    if (::pipe2(in, O_CLOEXEC) != 0 || ::pipe2(out, O_CLOEXEC) != 0) std::abort();
    std::vector<char*> argv = {const_cast<char*>("sluice"), const_cast<char*>("serve")};
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    child_ = ::fork();
    if (child_ == 0) {
      ::dup2(in[0], STDIN_FILENO);
      ::dup2(out[1], STDOUT_FILENO);
      ::execv(SLUICE_COMMAND, argv.data());
      ::_exit(127);
    }
    ::close(in[0]);
    ::close(out[1]);
    stdin_ = in[1];
    stdout_ = ::fdopen(out[0], "r");
  }
  ~ServeProcess() {
    if (child_ > 0) {
      ::kill(child_, SIGKILL);
      (void)wait();
    }
    close_stdin();
    std::fclose(stdout_);
  }
  ServeProcess(const ServeProcess&) = delete;
  ServeProcess& operator=(const ServeProcess&) = delete;

  std::string line() {
    char text[1000] = "";
    return std::fgets(text, sizeof text, stdout_) != nullptr ? text : "";
  }
  void signal(int number) const { ::kill(child_, number); }
  void close_stdin() {
    if (stdin_ >= 0) ::close(stdin_);
    stdin_ = -1;
  }
  // The exit status; 1000 + signal where one ended it.
  int wait() {
    int status = 0;
    ::waitpid(child_, &status, 0);
    child_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
  }

 private:
  pid_t child_ = -1;
  int stdin_ = -1;
  FILE* stdout_ = nullptr;
};

std::string origin_of(ServeProcess& process) {
  std::string line = process.line();
  if (line.ends_with('\n')) line.pop_back();
  return line;
}

TEST(ServeCommand, ServesUntilASignal) {
  for (const int number : {SIGINT, SIGTERM}) {
    ServeProcess process({"--synth", "gemma-4-e2b", "--port", "0"});
    const std::string origin = origin_of(process);
    ASSERT_TRUE(origin.starts_with("http://127.0.0.1:")) << origin;
    EXPECT_TRUE(process.line().contains("848 tensors, 2614610572 bytes"));
    Client client(origin);
    const Json manifest = Json::parse(client.get("/tensor-cache.json").body);
    EXPECT_EQ(manifest["metadata"]["model"], "gemma-4-e2b");
    // A client in the middle of a gigabyte does not hold it up
    asio::write(client.socket(),
                asio::buffer(std::string("GET /params_shard_2.bin HTTP/1.1\r\nHost: x\r\n\r\n")));
    process.signal(number);
    EXPECT_EQ(process.wait(), 0);
  }
}

TEST(ServeCommand, ServesUntilStdinCloses) {
  const TempFolder folder;
  put(folder / "m.bin", "inside");
  ServeProcess process({folder.path(), "--until-stdin-closes", "--json"});
  const std::string origin = Json::parse(process.line())["origin"];
  EXPECT_EQ(Client(origin).get("/m.bin").body, "inside");
  process.close_stdin();
  EXPECT_EQ(process.wait(), 0);
}

TEST(ServeCommand, WrongUse) {
  const TempFolder folder;
  put(folder / "file", "");
  struct Case {
    std::vector<std::string> arguments;
    int status;
  };
  for (const Case& c : {Case{{"serve"}, 2},
                        {{"serve", folder.path(), "--synth", "smollm2"}, 2},
                        {{"serve", "--synth", "gpt-2"}, 2},
                        {{"serve", "--synth", "smollm2", "--port", "65536"}, 2},
                        {{"serve", "--synth", "smollm2", "--host", "nowhere"}, 2},
                        {{"serve", folder / "none"}, 1},
                        {{"serve", folder / "file"}, 3}}) {
    const auto result = testing::run_command(c.arguments);
    EXPECT_EQ(result.status, c.status) << ::testing::PrintToString(c.arguments) << result.err;
    EXPECT_NE(result.err, "");
    EXPECT_EQ(result.out, "");
  }
}

}  // namespace
}  // namespace sluice
