// Throughput of every codec beside memcpy, as bytes moved (read and written) per second. The memcpy
// moves as many bytes as the codec, between the same buffers, and the two take turns: `of_memcpy`
// is memcpy's median time over the codec's. Before it is timed, each implementation's output is
// compared with the scalar one's.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "core/load/codec.h"
#include "core/load/plan.h"

namespace sluice {
namespace {

constexpr size_t kMiB = 1 << 20;

// Bytes of output of one run: what the loader decodes at a time, and far more than most caches
// hold.
constexpr size_t kSizes[] = {kDecodeOutputBytes, 256 * kMiB};

// Values as weights have them: a normal distribution of deviation 0.02 for plain types; for blocks
// random quants and factors around 2^-9, so that the results are of that size, too.
std::vector<std::byte> weights(DType dtype, size_t units) {
  const DTypeInfo& info = dtype_info(dtype);
  std::vector<std::byte> bytes(units * info.block_bytes);
  std::mt19937 random(1);
  if (!info.is_quantized) {
    std::normal_distribution<float> distribution(0, 0.02f);
    std::vector<float> period(65536);
    for (float& value : period) value = distribution(random);
    const auto* from = reinterpret_cast<const std::byte*>(period.data());
    for (size_t done = 0; done < units; done += period.size()) {
      const size_t some = std::min(units - done, period.size());
      std::byte* const to = &bytes[done * info.block_bytes];
      if (dtype == DType::f32) std::memcpy(to, from, some * sizeof(float));
      if (dtype != DType::f32) find_codec(DType::f32, dtype)->decode(from, to, some);
    }
    return bytes;
  }
  const size_t period = std::min<size_t>(units, 8192) * info.block_bytes;
  for (std::byte& byte : std::span(bytes).first(period)) byte = static_cast<std::byte>(random());
  const size_t factor = dtype == DType::q6_k ? 208 : 0;
  const bool has_min =
      dtype == DType::q4_1 || dtype == DType::q5_1 || dtype == DType::q4_k || dtype == DType::q5_k;
  for (size_t at = 0; at < period; at += info.block_bytes) {
    bytes[at + factor + 1] = std::byte{0x18};
    if (has_min) bytes[at + 3] = std::byte{0x18};
  }
  for (size_t done = period; done < bytes.size(); done += period)
    std::memcpy(&bytes[done], bytes.data(), std::min(period, bytes.size() - done));
  return bytes;
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<ptrdiff_t>(values.size() / 2);
  std::ranges::nth_element(values, middle);
  return *middle;
}

// Seconds of one of `runs` runs of `work`.
double seconds_of(size_t runs, const auto& work) {
  const auto begin = std::chrono::steady_clock::now();
  for (size_t i = 0; i < runs; ++i) {
    work();
    benchmark::ClobberMemory();
  }
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
  return taken.count() / static_cast<double>(runs);
}

void bench_codec(benchmark::State& state, const Codec* codec, size_t size) {
  const size_t units = size / codec->out_bytes;
  std::vector<std::byte> in = weights(codec->from, units);
  const size_t moved = in.size() + units * codec->out_bytes;
  in.resize(std::max(in.size(), moved / 2));
  std::vector<std::byte> out(std::max(units * size_t{codec->out_bytes}, moved / 2));
  const size_t runs = std::max<size_t>(1, kMiB / size);
  std::vector<double> decoding, copying;
  for (auto _ : state) {
    decoding.push_back(seconds_of(runs, [&] { codec->decode(in.data(), out.data(), units); }));
    copying.push_back(seconds_of(runs, [&] { std::memcpy(out.data(), in.data(), moved / 2); }));
    state.SetIterationTime(decoding.back());
  }
  const auto bytes = static_cast<double>(moved);
  state.counters["moved_per_second"] = bytes / median(decoding);
  state.counters["memcpy_per_second"] = bytes / median(copying);
  state.counters["of_memcpy"] = median(copying) / median(decoding);
}

bool equal_to_scalar(const CodecVariant& variant) {
  constexpr size_t kUnits = 1000;
  const Codec& codec = variant.codec;
  const std::vector<std::byte> in = weights(codec.from, kUnits);
  std::vector<std::byte> out(kUnits * codec.out_bytes), expected(out.size());
  codec.decode(in.data(), out.data(), kUnits);
  for (const CodecVariant& other : codec_variants())
    if (other.implementation == "scalar" && other.codec.from == codec.from &&
        other.codec.to == codec.to)
      other.codec.decode(in.data(), expected.data(), kUnits);
  return out == expected;
}

std::string title(std::string_view what, size_t size) {
  return std::string(what) + "/" + std::to_string(size / 1024) + "KiB";
}

}  // namespace
}  // namespace sluice

int main(int argc, char** argv) {
  using namespace sluice;
  benchmark::Initialize(&argc, argv);
  for (const CodecVariant& variant : codec_variants()) {
    const std::string name = std::string(variant.implementation) + "/" +
                             std::string(dtype_name(variant.codec.from)) + "-" +
                             std::string(dtype_name(variant.codec.to));
    if (!equal_to_scalar(variant)) {
      std::fprintf(stderr, "%s differs from the scalar codec\n", name.c_str());
      return EXIT_FAILURE;
    }
    for (const size_t size : kSizes)
      benchmark::RegisterBenchmark(title(name, size).c_str(), bench_codec, &variant.codec, size)
          ->UseManualTime();
  }
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
