// Throughput of every codec beside memcpy, as bytes moved (read and written) per second. Before it
// is timed, each implementation's output is compared with the scalar one's.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "core/load/codec.h"

namespace sluice {
namespace {

constexpr size_t kMiB = 1 << 20;

// Bytes of output of one run: a tile of the loader, and far more than any cache holds.
constexpr size_t kSizes[] = {1 * kMiB, 256 * kMiB};

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
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  const size_t factor = dtype == DType::q6_k ? 208 : 0;
  const bool has_min =
      dtype == DType::q4_1 || dtype == DType::q5_1 || dtype == DType::q4_k || dtype == DType::q5_k;
  for (size_t i = 0; i < units; ++i) {
    bytes[i * info.block_bytes + factor + 1] = std::byte{0x18};
    if (has_min) bytes[i * info.block_bytes + 3] = std::byte{0x18};
  }
  return bytes;
}

void set_moved(benchmark::State& state, size_t bytes) {
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * bytes));
}

void bench_memcpy(benchmark::State& state, size_t size) {
  const std::vector<std::byte> in(size, std::byte{1});
  std::vector<std::byte> out(size);
  for (auto _ : state) {
    std::memcpy(out.data(), in.data(), size);
    benchmark::ClobberMemory();
  }
  set_moved(state, 2 * size);
}

void bench_codec(benchmark::State& state, const Codec* codec, size_t size) {
  const size_t units = size / codec->out_bytes;
  const std::vector<std::byte> in = weights(codec->from, units);
  std::vector<std::byte> out(units * codec->out_bytes);
  for (auto _ : state) {
    codec->decode(in.data(), out.data(), units);
    benchmark::ClobberMemory();
  }
  set_moved(state, in.size() + out.size());
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
  return std::string(what) + "/" + std::to_string(size / kMiB) + "MiB";
}

}  // namespace
}  // namespace sluice

int main(int argc, char** argv) {
  using namespace sluice;
  benchmark::Initialize(&argc, argv);
  for (const size_t size : kSizes)
    benchmark::RegisterBenchmark(title("memcpy", size).c_str(), bench_memcpy, size);
  for (const CodecVariant& variant : codec_variants()) {
    const std::string name = std::string(variant.implementation) + "/" +
                             std::string(dtype_name(variant.codec.from)) + "-" +
                             std::string(dtype_name(variant.codec.to));
    if (!equal_to_scalar(variant)) {
      std::fprintf(stderr, "%s differs from the scalar codec\n", name.c_str());
      return EXIT_FAILURE;
    }
    for (const size_t size : kSizes)
      benchmark::RegisterBenchmark(title(name, size).c_str(), bench_codec, &variant.codec, size);
  }
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
