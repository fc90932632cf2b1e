// The command `sluice`. What it prints and returns is described in docs/command.md.

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <exception>
#include <fstream>
#include <map>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "core/base/checked.h"
#include "hosts/native/digest.h"
#include "hosts/native/file.h"
#include "hosts/native/file_host.h"
#include "hosts/native/http_server.h"
#include "hosts/native/pack.h"
#include "hosts/native/store.h"
#include "hosts/native/synth.h"
#include "hosts/native/text.h"
#include "hosts/native/verify.h"

namespace sluice {
namespace {

using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

constexpr int kModelFault = 1;
constexpr int kUsage = 2;
constexpr int kSystemFault = 3;

constexpr const char* kFooter =
    "Sizes are bytes, or take one of kB, MB, GB (1000s), KiB, MiB, GiB (1024s).\n"
    "\n"
    "Exit status: 0 done; 1 the model or its files are at fault; 2 the command line is; 3 the\n"
    "system refused (files, memory); 128 + N ended by signal N, so 130 after Ctrl-C.\n"
    "Errors go to stderr as `sluice: code: message (hint)`, and with --json also to stdout as\n"
    "{\"error\": {\"code\", \"message\", ...}}.";

std::atomic<bool> stop = false;
static_assert(std::atomic<bool>::is_always_lock_free, "it is set by a signal handler");
volatile sig_atomic_t stop_signal = 0;

void handle_signal(int number) {
  stop_signal = number;
  stop.store(true, std::memory_order_relaxed);
}

void set_up_signals() {
  struct sigaction action{};
  action.sa_handler = handle_signal;
  // The second one ends the process at once. No SA_RESTART: a slow read ends, too
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
  // A file size limit then comes back from write() as an error that can be told and tidied up
  ::signal(SIGXFSZ, SIG_IGN);
}

int exit_status(ErrorCode code) {
  switch (code) {
    case ErrorCode::aborted:
      return stop_signal != 0 ? 128 + stop_signal : kSystemFault;
    case ErrorCode::invalid_argument:
    case ErrorCode::budget_too_small:
      return kUsage;
    case ErrorCode::io:
    case ErrorCode::out_of_device_memory:
    case ErrorCode::quota_exceeded:
    case ErrorCode::internal:
      return kSystemFault;
    default:
      return kModelFault;
  }
}

// What every subcommand takes.
struct Common {
  std::string path;
  bool json = false;
  bool quiet = false;
};

struct InspectArguments : Common {};

struct PackArguments : Common {
  std::string output;
  std::string dtype = "stored";
  std::string shard_size = "32MiB";
  std::string budget = "64MiB";
  bool bf16_encode = false;
  bool force = false;
};

struct LoadArguments : Common {
  std::string dtype = "stored";
  std::string budget = "64MiB";
  std::string digests;
  bool discard = false;
  bool verify = false;
};

struct VerifyArguments : Common {};

// What a synthetic model is made from.
struct ShapeArguments {
  std::string shape;
  std::vector<std::string> tensors;
  uint64_t seed = 0;
  std::string dtype = "stored";
  std::string shard_size = "32MiB";
  uint32_t repeat = 1;
};

struct SynthArguments : Common, ShapeArguments {
  std::string output;
  bool manifest_only = false;
  bool force = false;
};

struct ServeArguments : Common, ShapeArguments {
  std::string host = "127.0.0.1";
  uint16_t port = 0;
  bool until_stdin_closes = false;
};

// `path` is the store's folder.
struct StoreArguments : Common {
  std::string model;
};

// The size of an option whose text was checked while it was parsed.
uint64_t size_of(const std::string& text) { return parse_size(text).value_or(0); }

// Nothing for "stored".
std::optional<DType> dtype_of(const std::string& name) { return dtype_from_name(name); }

std::string json_text(const Json& value) {
  return value.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

Status print(const std::string& text) {
  errno = 0;
  if (std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0)
    return {};
  Error error = system_error("write to", "the standard output", errno);
  error.file.clear();
  return std::unexpected(std::move(error));
}

// The most physical memory that the process ever held, in bytes. Not getrusage(): its figure
// survives exec(), so that it may be that of whoever started this process.
uint64_t peak_rss() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("VmHWM:")) return std::strtoull(line.c_str() + 6, nullptr, 10) << 10;
  return 0;
}

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double gb_per_second(uint64_t bytes, double seconds) {
  return seconds > 0 ? static_cast<double>(bytes) / seconds / 1e9 : 0;
}

std::string_view encoding_name(Encoding encoding) {
  return encoding == Encoding::f32_to_bf16 ? "f32-to-bf16" : "raw";
}

// --- inspect

struct Totals {
  uint64_t elements = 0;
  uint64_t bytes = 0;
};

Totals totals_of(const Manifest& manifest) {
  Totals totals;
  for (const TensorEntry& tensor : manifest.tensors) {
    // validate() has made sure that neither overflows
    totals.elements += checked_product(tensor.shape).value_or(0);
    totals.bytes += tensor.nbytes;
  }
  return totals;
}

Json inspect_json(const Model& model) {
  const Manifest& manifest = model.manifest;
  const Totals totals = totals_of(manifest);
  Json root;
  root["format"] = manifest.format;
  root["manifest"] = model.manifest_path;
  root["totals"] = {{"tensors", manifest.tensors.size()},
                    {"elements", totals.elements},
                    {"nbytes", totals.bytes},
                    {"files", manifest.files.size()}};
  root["metadata"] = Json::parse(manifest.metadata_json);
  Json& files = root["files"] = Json::array();
  for (const FileEntry& file : manifest.files) {
    Json entry = {{"path", file.path}, {"nbytes", file.nbytes.value_or(0)}};
    if (!file.md5.empty()) entry["md5"] = file.md5;
    files.push_back(std::move(entry));
  }
  Json& tensors = root["tensors"] = Json::array();
  for (const TensorEntry& tensor : manifest.tensors)
    tensors.push_back({{"name", tensor.name},
                       {"dtype", dtype_name(tensor.dtype)},
                       {"encoding", encoding_name(tensor.encoding)},
                       {"shape", tensor.shape},
                       {"nbytes", tensor.nbytes},
                       {"file", manifest.files[tensor.file].path},
                       {"offset", tensor.offset}});
  return root;
}

// Columns as wide as their widest cell; numbers stand right.
std::string table(const std::vector<std::vector<std::string>>& rows,
                  const std::vector<bool>& right) {
  std::vector<size_t> widths(right.size());
  for (const auto& row : rows)
    for (size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], row[c].size());
  std::string out;
  for (const auto& row : rows) {
    std::string line;
    for (size_t c = 0; c < row.size(); ++c) {
      const std::string padding(widths[c] - row[c].size(), ' ');
      line += c > 0 ? "  " : "";
      line += right[c] ? padding + row[c] : row[c] + padding;
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  return out;
}

std::string inspect_text(const Model& model) {
  constexpr size_t kMaxValue = 100;
  const Manifest& manifest = model.manifest;
  const Totals totals = totals_of(manifest);
  std::vector<std::vector<std::string>> rows = {
      {"name", "dtype", "encoding", "shape", "bytes", "file", "offset"}};
  for (const TensorEntry& tensor : manifest.tensors)
    rows.push_back({printable(tensor.name), std::string(dtype_name(tensor.dtype)),
                    std::string(encoding_name(tensor.encoding)), shape_text(tensor.shape),
                    std::to_string(tensor.nbytes), printable(manifest.files[tensor.file].path),
                    std::to_string(tensor.offset)});
  std::string out =
      concat(printable(model.manifest_path), ": ", manifest.format, ", ", manifest.tensors.size(),
             " tensors, ", totals.elements, " elements, ", totals.bytes, " bytes (",
             format_bytes(totals.bytes), ") in ", manifest.files.size(), " files\n");
  const Json metadata = Json::parse(manifest.metadata_json);
  if (!metadata.empty()) out += "\nmetadata\n";
  for (const auto& [key, value] : metadata.items()) {
    std::string text = printable(value.dump(-1, ' ', false, Json::error_handler_t::replace));
    if (text.size() > kMaxValue) {
      size_t end = kMaxValue;
      while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
      text = text.substr(0, end) + "…";
    }
    out += concat("  ", printable(key), ": ", text, "\n");
  }
  return out + "\n" + table(rows, {false, false, false, false, true, false, true});
}

Status inspect(const InspectArguments& arguments) {
  SLUICE_ASSIGN(const Model model, open_model(arguments.path));
  return print(arguments.json ? json_text(inspect_json(model)) : inspect_text(model));
}

// --- pack

Status pack(const PackArguments& arguments) {
  const auto start = Clock::now();
  SLUICE_ASSIGN(const Model model, open_model(arguments.path));
  const PackOptions options{.dtype = dtype_of(arguments.dtype),
                            .bf16_encode = arguments.bf16_encode,
                            .shard_bytes = size_of(arguments.shard_size),
                            .budget_bytes = size_of(arguments.budget),
                            .force = arguments.force};
  ProgressBar bar(arguments.quiet);
  const LoadControl control{.stop = &stop,
                            .on_progress = [&](const Progress& progress) { bar.update(progress); }};
  const auto report = pack_model(model, arguments.output, options, control);
  bar.clear();
  if (!report) return std::unexpected(report.error());
  const double seconds = seconds_since(start);
  if (arguments.json)
    return print(json_text({{"output", arguments.output},
                            {"tensors", report->tensors},
                            {"shards", report->shards},
                            {"source_bytes", report->source_bytes},
                            {"output_bytes", report->output_bytes},
                            {"seconds", seconds},
                            {"output_gb_per_second", gb_per_second(report->output_bytes, seconds)},
                            {"peak_rss_bytes", peak_rss()}}));
  if (arguments.quiet) return {};
  return print(concat(report->tensors, " tensors, ", report->output_bytes, " bytes (",
                      format_bytes(report->output_bytes), ") in ", report->shards, " shards in ",
                      arguments.output, "\n", format_number(seconds, 3), " s, ",
                      format_number(gb_per_second(report->output_bytes, seconds), 2),
                      " GB/s, peak memory ", format_bytes(peak_rss()), "\n"));
}

// --- load

struct Digests {
  Json tensors = Json::object();
  std::string all = {};  // empty where no digests are wanted
};

// `digests` by tensor, as DigestSink gives them.
Digests describe_digests(const Model& model, const Plan& plan,
                         const std::vector<std::string>& digests) {
  Digests out;
  // std::string orders by unsigned bytes
  std::map<std::string, uint32_t> by_name;
  for (uint32_t t = 0; t < digests.size(); ++t) {
    const TensorEntry& tensor = model.manifest.tensors[t];
    by_name.emplace(tensor.name, t);
    out.tensors[tensor.name] = {{"dtype", dtype_name(plan.placements[t].dtype)},
                                {"shape", tensor.shape},
                                {"nbytes", plan.placements[t].nbytes},
                                {"sha256", digests[t]}};
  }
  Digest all(Digest::Kind::sha256);
  for (const auto& [name, t] : by_name) all.update(as_bytes(concat(name, " ", digests[t], "\n")));
  out.all = all.finish();
  return out;
}

// Loads as the arguments say; gives the digests where they are wanted.
Result<Digests> load_into(const LoadArguments& arguments, const Model& model, const Plan& plan,
                          const PlanOptions& options, const LoadControl& control,
                          Progress& progress, double& seconds, Clock::time_point start) {
  if (arguments.discard) {
    DigestSink sink(plan);
    SLUICE_ASSIGN(progress, run_load(model, plan, options, sink, control));
    seconds = seconds_since(start);
    return describe_digests(model, plan, sink.digests());
  }
  MemorySink sink(plan);
  SLUICE_ASSIGN(progress, run_load(model, plan, options, sink, control));
  seconds = seconds_since(start);
  if (arguments.digests.empty()) return Digests();
  std::vector<std::string> digests;
  Digest digest(Digest::Kind::sha256);
  for (uint32_t t = 0; t < plan.placements.size(); ++t) {
    digest.update(sink.tensor(t));
    digests.push_back(digest.finish());
  }
  return describe_digests(model, plan, digests);
}

Status load(const LoadArguments& arguments) {
  SLUICE_ASSIGN(const Model model, [&]() -> Result<Model> {
    SLUICE_ASSIGN(Model found, open_model(arguments.path));
    if (arguments.verify) SLUICE_TRY(verify_checksums(found, &stop));
    return found;
  }());
  const auto start = Clock::now();
  const PlanOptions options =
      native_plan_options(size_of(arguments.budget), dtype_of(arguments.dtype));
  SLUICE_ASSIGN(const Plan plan, make_plan(model.manifest, options));
  ProgressBar bar(arguments.quiet);
  const LoadControl control{.stop = &stop,
                            .on_progress = [&](const Progress& progress) { bar.update(progress); }};
  Progress progress;
  double seconds = 0;
  const auto digests =
      load_into(arguments, model, plan, options, control, progress, seconds, start);
  bar.clear();
  if (!digests) return std::unexpected(digests.error());
  if (!arguments.digests.empty())
    SLUICE_TRY(write_file(arguments.digests,
                          json_text({{"tensors", digests->tensors}, {"sha256", digests->all}})));
  if (arguments.json) {
    Json report = {{"tensors", progress.tensors_done},
                   {"source_bytes", progress.source_bytes_done},
                   {"loaded_bytes", progress.output_bytes_done},
                   {"seconds", seconds},
                   {"source_gb_per_second", gb_per_second(progress.source_bytes_done, seconds)},
                   {"loaded_gb_per_second", gb_per_second(progress.output_bytes_done, seconds)},
                   {"budget_bytes", progress.budget_limit},
                   {"budget_peak_bytes", progress.budget_peak},
                   {"peak_rss_bytes", peak_rss()}};
    if (!digests->all.empty()) report["sha256"] = digests->all;
    return print(json_text(report));
  }
  if (arguments.quiet) return {};
  std::string out =
      concat(progress.tensors_done, " tensors, ", progress.source_bytes_done, " bytes read, ",
             progress.output_bytes_done, " bytes (", format_bytes(progress.output_bytes_done),
             ") loaded", arguments.discard ? " and dropped" : "", "\n", format_number(seconds, 3),
             " s, ", format_number(gb_per_second(progress.output_bytes_done, seconds), 2),
             " GB/s, budget ", format_bytes(progress.budget_peak), " used of ",
             format_bytes(progress.budget_limit), ", peak memory ", format_bytes(peak_rss()), "\n");
  if (!digests->all.empty()) out += concat("sha256 ", digests->all, "\n");
  return print(out);
}

// --- verify

// A file that ends early is one for each tensor in it
constexpr size_t kMaxProblemLines = 20;

void print_error(const Error& error) {
  std::fputs(concat("sluice: ", printable(to_string(error)), "\n").c_str(), stderr);
}

void print_problems(const std::vector<Error>& problems) {
  for (size_t p = 0; p < std::min(problems.size(), kMaxProblemLines); ++p) print_error(problems[p]);
  if (problems.size() > kMaxProblemLines)
    std::fputs(concat("sluice: … and ", problems.size() - kMaxProblemLines,
                      " more problems; --json has them all\n")
                   .c_str(),
               stderr);
}

std::string problem_count(size_t n) {
  return n == 0 ? "nothing is wrong" : concat(n, " problem", n == 1 ? "" : "s");
}

// Whether nothing is wrong with the model.
Result<bool> verify(const VerifyArguments& arguments) {
  const auto start = Clock::now();
  ProgressBar bar(arguments.quiet);
  const LoadControl control{.stop = &stop,
                            .on_progress = [&](const Progress& progress) { bar.update(progress); }};
  const auto report = verify_model(arguments.path, control);
  bar.clear();
  if (!report) return std::unexpected(report.error());
  const double seconds = seconds_since(start);
  const Manifest& manifest = report->model.manifest;
  print_problems(report->problems);
  if (arguments.json) {
    Json problems = Json::array();
    for (const Error& problem : report->problems) problems.push_back(Json::parse(to_json(problem)));
    SLUICE_TRY(print(json_text({{"format", manifest.format},
                                {"manifest", report->model.manifest_path},
                                {"tensors", manifest.tensors.size()},
                                {"files", manifest.files.size()},
                                {"checksums", report->checksums},
                                {"bytes_read", report->bytes_read},
                                {"seconds", seconds},
                                {"ok", report->problems.empty()},
                                {"problems", problems}})));
  } else if (!arguments.quiet) {
    SLUICE_TRY(print(concat(printable(report->model.manifest_path), ": ", manifest.format, ", ",
                            manifest.tensors.size(), " tensors in ", manifest.files.size(),
                            " files, ", report->checksums, " of them with a checksum; ",
                            report->bytes_read, " bytes (", format_bytes(report->bytes_read),
                            ") read in ", format_number(seconds, 3),
                            " s: ", problem_count(report->problems.size()), "\n")));
  }
  return report->problems.empty();
}

// --- synth

Result<SynthModel> make_synth(const ShapeArguments& arguments) {
  std::vector<SynthTensor> tensors;
  if (!arguments.shape.empty()) {
    SLUICE_ASSIGN(tensors, synth_shape(arguments.shape));
  }
  for (const std::string& text : arguments.tensors) {
    SLUICE_ASSIGN(SynthTensor tensor, parse_synth_tensor(text));
    tensors.push_back(std::move(tensor));
  }
  return SynthModel::make(arguments.shape.empty() ? "free form" : arguments.shape, tensors,
                          {.seed = arguments.seed,
                           .dtype = dtype_of(arguments.dtype),
                           .shard_bytes = size_of(arguments.shard_size),
                           .repeat = arguments.repeat});
}

std::string synth_text(const SynthModel& model) {
  return concat(model.layout().tensors.size(), " tensors, ", model.nbytes(), " bytes (",
                format_bytes(model.nbytes()), ") in ", model.layout().shards.size(), " shards");
}

Status synth(const SynthArguments& arguments) {
  const auto start = Clock::now();
  SLUICE_ASSIGN(const SynthModel model, make_synth(arguments));
  if (arguments.manifest_only) return print(model.manifest());
  if (arguments.output.empty())
    return std::unexpected(
        Error{.code = ErrorCode::invalid_argument,
              .message = concat("there is no place for ", synth_text(model)),
              .hint = "give --output DIR, or --manifest-only to see the manifest alone"});
  ProgressBar bar(arguments.quiet);
  const LoadControl control{.stop = &stop,
                            .on_progress = [&](const Progress& progress) { bar.update(progress); }};
  const auto written = write_synth(model, arguments.output, arguments.force, control);
  bar.clear();
  if (!written) return std::unexpected(written.error());
  const double seconds = seconds_since(start);
  if (arguments.json)
    return print(json_text({{"output", arguments.output},
                            {"tensors", written->tensors.size()},
                            {"shards", written->shards.size()},
                            {"output_bytes", model.nbytes()},
                            {"seconds", seconds},
                            {"output_gb_per_second", gb_per_second(model.nbytes(), seconds)}}));
  if (arguments.quiet) return {};
  return print(concat(synth_text(model), " in ", arguments.output, "\n", format_number(seconds, 3),
                      " s, ", format_number(gb_per_second(model.nbytes(), seconds), 2), " GB/s\n"));
}

// --- serve

Status serve(const ServeArguments& arguments) {
  const bool synthetic = !arguments.shape.empty() || !arguments.tensors.empty();
  if (synthetic != arguments.path.empty())
    return std::unexpected(
        Error{.code = ErrorCode::invalid_argument,
              .message = synthetic ? "both a folder and a synthetic model are given"
                                   : "neither a folder nor a synthetic model is given",
              .hint = "give the path of a folder, or --synth SHAPE, or --tensor"});
  std::string description = arguments.path;
  SLUICE_ASSIGN(const std::unique_ptr<Site> site, [&]() -> Result<std::unique_ptr<Site>> {
    if (!synthetic) return make_folder_site(arguments.path);
    SLUICE_ASSIGN(SynthModel model, make_synth(arguments));
    description = concat(kCacheManifestName, ": ", synth_text(model));
    return make_synth_site(std::move(model));
  }());
  SLUICE_ASSIGN(const std::unique_ptr<HttpServer> server,
                HttpServer::listen(*site, arguments.host, arguments.port));
  SLUICE_TRY(print(arguments.json ? Json{{"origin", server->origin()}}.dump() + "\n"
                                  : server->origin() + "\n"));
  if (!arguments.json && !arguments.quiet)
    SLUICE_TRY(print(concat(printable(description), "; Ctrl-C ends\n")));
  server->run(&stop, arguments.until_stdin_closes ? STDIN_FILENO : -1);
  return {};
}

// --- store

// Milliseconds since 1970, as "2026-11-22 19:20" in UTC.
std::string time_text(uint64_t ms) {
  const std::chrono::sys_time<std::chrono::milliseconds> time{std::chrono::milliseconds(ms)};
  const auto day = std::chrono::floor<std::chrono::days>(time);
  const std::chrono::year_month_day date{day};
  const std::chrono::hh_mm_ss clock{time - day};
  char text[64];
  const int length = std::snprintf(
      text, sizeof(text), "%04d-%02u-%02u %02d:%02d", static_cast<int>(date.year()),
      static_cast<unsigned>(date.month()), static_cast<unsigned>(date.day()),
      static_cast<int>(clock.hours().count()), static_cast<int>(clock.minutes().count()));
  return {text, static_cast<size_t>(length)};
}

Json store_entry_json(const StoreEntry& entry) {
  Json out = {{"folder", entry.folder}};
  if (entry.error) out["error"] = Json::parse(to_json(*entry.error));
  if (!entry.model) return out;
  out["ignored_journal_bytes"] = entry.ignored_bytes;
  out.update(Json::parse(entry.model->snapshot()));
  return out;
}

std::string store_entry_name(const StoreEntry& entry) {
  return printable(entry.model ? entry.model->key() : entry.folder);
}

// Whether every model could be read.
Result<bool> store_list(const StoreArguments& arguments) {
  SLUICE_ASSIGN(const auto entries, list_store(arguments.path));
  Json models = Json::array();
  std::vector<std::vector<std::string>> rows = {
      {"model", "bytes", "complete files", "loaded (UTC)", "last used (UTC)"}};
  bool good = true;
  for (const StoreEntry& entry : entries) {
    models.push_back(store_entry_json(entry));
    const Json& model = models.back();
    if (entry.error) print_error(*entry.error);
    good = good && !entry.error;
    if (!entry.model) {
      rows.push_back({store_entry_name(entry), "?", "?", "?", "?"});
      continue;
    }
    const auto& files = model["files"];
    const auto complete =
        std::ranges::count_if(files, [](const Json& file) { return file["complete"].get<bool>(); });
    const Json& loaded = model["loaded_ms"];
    rows.push_back({store_entry_name(entry), std::to_string(model["stored_bytes"].get<uint64_t>()),
                    concat(complete, " of ", files.size()),
                    loaded.is_null() ? "never" : time_text(loaded.get<uint64_t>()),
                    time_text(model["used_ms"].get<uint64_t>())});
  }
  if (arguments.json) {
    SLUICE_TRY(print(json_text({{"models", models}})));
  } else {
    SLUICE_TRY(print(table(rows, {false, true, true, false, false})));
  }
  return good;
}

// Whether nothing is wrong with the one model, or with any.
Result<bool> store_verify(const StoreArguments& arguments) {
  const auto start = Clock::now();
  std::vector<StoreEntry> entries;
  if (arguments.model.empty()) {
    SLUICE_ASSIGN(entries, list_store(arguments.path));
  } else {
    SLUICE_ASSIGN(StoreEntry entry, find_in_store(arguments.path, arguments.model));
    entries.push_back(std::move(entry));
  }
  ProgressBar bar(arguments.quiet);
  Json models = Json::array();
  StoreReport all;
  for (const StoreEntry& entry : entries) {
    const auto report = verify_stored(
        arguments.path, entry, {.stop = &stop, .on_progress = [&](uint64_t read, uint64_t total) {
                                  Progress progress;
                                  progress.source_bytes_done = progress.output_bytes_done = read;
                                  progress.source_bytes = progress.output_bytes = total;
                                  bar.update(progress);
                                }});
    bar.clear();
    if (!report) return std::unexpected(report.error());
    Json problems = Json::array();
    for (const Error& problem : report->problems) problems.push_back(Json::parse(to_json(problem)));
    models.push_back({{"folder", entry.folder},
                      {"key", entry.model ? Json(entry.model->key()) : Json()},
                      {"extents", report->extents},
                      {"bytes_read", report->bytes},
                      {"checksums", report->checked_files},
                      {"ignored_journal_bytes", entry.ignored_bytes},
                      {"problems", problems}});
    all.extents += report->extents;
    all.bytes += report->bytes;
    all.checked_files += report->checked_files;
    all.problems.insert(all.problems.end(), report->problems.begin(), report->problems.end());
  }
  const double seconds = seconds_since(start);
  print_problems(all.problems);
  const size_t n = all.problems.size();
  if (arguments.json) {
    SLUICE_TRY(print(json_text({{"models", models}, {"seconds", seconds}, {"ok", n == 0}})));
  } else if (!arguments.quiet) {
    SLUICE_TRY(print(concat(entries.size(), " models, ", all.extents, " extents, ", all.bytes,
                            " bytes (", format_bytes(all.bytes), ") read in ",
                            format_number(seconds, 3), " s, ", all.checked_files,
                            " files with a checksum of the whole: ", problem_count(n), "\n")));
  }
  return n == 0;
}

Status store_delete(const StoreArguments& arguments) {
  SLUICE_ASSIGN(const StoreEntry entry, find_in_store(arguments.path, arguments.model));
  const Json described = store_entry_json(entry);
  SLUICE_TRY(delete_stored(arguments.path, entry));
  const uint64_t nbytes = described.value("stored_bytes", uint64_t{0});
  if (arguments.json)
    return print(json_text({{"folder", entry.folder},
                            {"key", entry.model ? Json(entry.model->key()) : Json()},
                            {"stored_bytes", nbytes}}));
  if (arguments.quiet) return {};
  return print(concat("deleted ", store_entry_name(entry), ", of which ", nbytes, " bytes (",
                      format_bytes(nbytes), ") were stored\n"));
}

// --- The command line

void add_output_flags(CLI::App* app, Common& common) {
  app->add_flag("--json", common.json, "Print one JSON document instead of text");
  app->add_flag("-q,--quiet", common.quiet, "Neither progress nor a summary");
}

void add_common(CLI::App* app, Common& common) {
  app->add_option("PATH", common.path,
                  "A model: a folder, tensor-cache.json, *.safetensors, *.safetensors.index.json "
                  "or *.gguf")
      ->required();
  add_output_flags(app, common);
}

void add_size(CLI::App* app, const std::string& name, std::string& value,
              const std::string& description) {
  app->add_option(name, value, description)
      ->type_name("SIZE")
      ->capture_default_str()
      ->check([](const std::string& text) {
        const auto size = parse_size(text);
        if (!size) return concat("'", text, "' is no size: write 64MiB, 32MB or 4096");
        return std::string(*size == 0 ? "a size of 0 is too small" : "");
      });
}

void add_dtype(CLI::App* app, std::string& value) {
  app->add_option("--dtype", value,
                  "Convert floating-point and quantised tensors to this type; integers stay")
      ->check(CLI::IsMember({"stored", "float32", "float16", "bfloat16"}))
      ->capture_default_str();
}

void add_shape(CLI::App* app, const std::string& name, ShapeArguments& shape) {
  app->add_option(name, shape.shape,
                  concat("What to imitate: ", synth_shape_names(),
                         ", or a JSON file, such as `sluice inspect --json` prints"))
      ->type_name("SHAPE");
  app->add_option("--tensor", shape.tensors,
                  "A further tensor, as name:dtype:4096x1024; may be given several times")
      ->type_name("TENSOR")
      ->allow_extra_args(false);
  app->add_option("--seed", shape.seed, "What the bytes depend on")->capture_default_str();
  app->add_option("--dtype", shape.dtype, "The type of all floating-point tensors")
      ->check(CLI::IsMember({"stored", "float32", "float16", "bfloat16"}))
      ->capture_default_str();
  add_size(app, "--shard-size", shape.shard_size,
           "The largest shard; a larger tensor has a shard of its own");
  app->add_option("--repeat", shape.repeat, "All tensors so many times over, under other names")
      ->check(CLI::Range(1u, 1'000'000u))
      ->capture_default_str();
}

// What a subcommand leaves: its status, or whether the model is in order.
int finish(const Result<bool>& outcome, bool json) {
  if (outcome) return *outcome ? 0 : kModelFault;
  const Error& error = outcome.error();
  print_error(error);
  if (json) (void)print(json_text({{"error", Json::parse(to_json(error))}}));
  return exit_status(error.code);
}

Result<bool> done(const Status& status) {
  if (!status) return std::unexpected(status.error());
  return true;
}

int run(int argc, char** argv) {
  CLI::App app("Inspects, packs, loads, verifies and serves models for the web.", "sluice");
  app.set_version_flag("--version", "sluice " SLUICE_VERSION);
  app.require_subcommand(1);
  app.footer(kFooter);
  app.get_formatter()->column_width(36);

  InspectArguments inspect_arguments;
  CLI::App* const inspect_command = app.add_subcommand(
      "inspect", "List a model's tensors, after checking its manifest and the sizes of its files.");
  add_common(inspect_command, inspect_arguments);

  PackArguments pack_arguments;
  CLI::App* const pack_command = app.add_subcommand(
      "pack",
      "Write a model as a tensor cache: params_shard_N.bin and tensor-cache.json, with checksums.");
  add_common(pack_command, pack_arguments);
  pack_command->add_option("-o,--output", pack_arguments.output, "The folder to write to")
      ->required();
  add_dtype(pack_command, pack_arguments.dtype);
  pack_command->add_flag("--bf16-encode", pack_arguments.bf16_encode,
                         "Store float32 tensors as bfloat16, half the size, to be expanded when "
                         "loaded. Lossy: 16 of 24 significant bits are rounded away");
  add_size(pack_command, "--shard-size", pack_arguments.shard_size,
           "The largest shard; a larger tensor has a shard of its own");
  add_size(pack_command, "--budget", pack_arguments.budget, "Memory for bytes under way");
  pack_command->add_flag("--force", pack_arguments.force,
                         "Replace another model in the output folder");

  LoadArguments load_arguments;
  CLI::App* const load_command =
      app.add_subcommand("load", "Load a model into memory, and say how fast that went.");
  add_common(load_command, load_arguments);
  load_command->add_flag("--discard", load_arguments.discard,
                         "Digest each tensor and drop it; memory stays within the budget");
  add_dtype(load_command, load_arguments.dtype);
  add_size(load_command, "--budget", load_arguments.budget, "Memory for bytes under way");
  load_command->add_option("--digests", load_arguments.digests,
                           "Write the SHA-256 of each loaded tensor to this JSON file");
  load_command->add_flag("--verify", load_arguments.verify,
                         "First hold every file against its checksum in the manifest");

  VerifyArguments verify_arguments;
  CLI::App* const verify_command = app.add_subcommand(
      "verify",
      "Check a model on disk: its manifest, sizes, ranges and checksums. Tells all that is wrong.");
  add_common(verify_command, verify_arguments);

  SynthArguments synth_arguments;
  CLI::App* const synth_command = app.add_subcommand(
      "synth",
      "Write a synthetic model: names, types and shapes of a real one, bytes from a seed.");
  add_shape(synth_command, "SHAPE", synth_arguments);
  synth_command->add_option("-o,--output", synth_arguments.output, "The folder to write to");
  synth_command->add_flag("--manifest-only", synth_arguments.manifest_only,
                          "Print tensor-cache.json, without checksums, and write nothing");
  synth_command->add_flag("--force", synth_arguments.force,
                          "Replace another model in the output folder");
  add_output_flags(synth_command, synth_arguments);

  ServeArguments serve_arguments;
  CLI::App* const serve_command = app.add_subcommand(
      "serve",
      "Serve a folder, or a synthetic model that takes no disk, over HTTP. The first line printed "
      "is the origin.");
  serve_command->add_option("PATH", serve_arguments.path, "The folder to serve");
  add_shape(serve_command, "--synth", serve_arguments);
  serve_command->add_option("--host", serve_arguments.host, "The IP address to listen on")
      ->capture_default_str();
  serve_command->add_option("--port", serve_arguments.port, "The port; 0 takes a free one")
      ->capture_default_str();
  serve_command->add_flag("--until-stdin-closes", serve_arguments.until_stdin_closes,
                          "End when the standard input does");
  add_output_flags(serve_command, serve_arguments);

  StoreArguments store_arguments;
  CLI::App* const store_command = app.add_subcommand(
      "store", "Look into a local store on disk, as the npm package keeps one in Node.");
  store_command->require_subcommand(1);
  const auto add_store_command = [&](const char* name, const char* description) {
    CLI::App* const command = store_command->add_subcommand(name, description);
    command->add_option("DIR", store_arguments.path, "The store's folder")->required();
    add_output_flags(command, store_arguments);
    return command;
  };
  constexpr const char* kModelHelp = "The model's key (where it was loaded from), or its folder";
  CLI::App* const store_list_command = add_store_command(
      "list", "List the models: how much is stored of each, and when it was used.");
  CLI::App* const store_verify_command = add_store_command(
      "verify", "Read what is stored and hold it against its digests. Changes nothing.");
  store_verify_command->add_option("MODEL", store_arguments.model, kModelHelp);
  add_store_command("delete", "Delete a model, where nothing uses the store.")
      ->add_option("MODEL", store_arguments.model, kModelHelp)
      ->required();

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kUsage;
  }

  set_up_signals();
  bool json = false;
  const auto outcome = [&]() -> Result<bool> {
    if (inspect_command->parsed()) {
      json = inspect_arguments.json;
      return done(inspect(inspect_arguments));
    }
    if (pack_command->parsed()) {
      json = pack_arguments.json;
      return done(pack(pack_arguments));
    }
    if (load_command->parsed()) {
      json = load_arguments.json;
      return done(load(load_arguments));
    }
    if (verify_command->parsed()) {
      json = verify_arguments.json;
      return verify(verify_arguments);
    }
    if (synth_command->parsed()) {
      json = synth_arguments.json;
      return done(synth(synth_arguments));
    }
    if (store_command->parsed()) {
      json = store_arguments.json;
      if (store_list_command->parsed()) return store_list(store_arguments);
      if (store_verify_command->parsed()) return store_verify(store_arguments);
      return done(store_delete(store_arguments));
    }
    json = serve_arguments.json;
    return done(serve(serve_arguments));
  };
  try {
    return finish(outcome(), json);
  } catch (const std::bad_alloc&) {
    return finish(std::unexpected(Error{.code = ErrorCode::out_of_device_memory,
                                        .message = "no memory is left"}),
                  json);
  } catch (const std::exception& exception) {
    return finish(std::unexpected(Error{.code = ErrorCode::internal, .message = exception.what()}),
                  json);
  }
}

}  // namespace
}  // namespace sluice

int main(int argc, char** argv) { return sluice::run(argc, argv); }
