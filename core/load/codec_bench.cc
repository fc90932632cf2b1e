// Throughput of every codec beside memcpy, as bytes moved (read and written) per second. Before it
// is timed, each implementation's output is compared with the scalar one's.
#include <benchmark/benchmark.h>

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

// Numbers of moderate size in the type `dtype`, as weights are: no NaN, no infinity.
std::vector<std::byte> weights(DType dtype, size_t units) {
  const DTypeInfo& info = dtype_info(dtype);
  std::vector<std::byte> bytes(units * info.block_bytes);
  std::mt19937_64 random(1);
  for (size_t i = 0; i + 8 <= bytes.size(); i += 8) {
    const uint64_t word = random();
    std::memcpy(&bytes[i], &word, 8);
  }
  const size_t factor = dtype == DType::q6_k ? 208 : 0;
  for (size_t i = 0; i < units; ++i) {
    std::byte* const unit = &bytes[i * info.block_bytes];
    // Clears an exponent bit of each 16-bit or 32-bit float in the unit.
    const bool is_f32 = dtype == DType::f32;
    unit[is_f32 ? 3 : factor + 1] &= std::byte{0xbf};
    if (is_f32) unit[3] |= std::byte{0x38};  // at least 2^-15, as f16 holds it
    if (info.is_quantized && factor == 0) unit[3] &= std::byte{0xbf};
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
