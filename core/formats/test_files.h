// For tests: files built by hand, so that every field can be made wrong.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace sluice {

template <class T>
std::string little_endian(T value) {
  std::string out(sizeof(T), '\0');
  std::memcpy(out.data(), &value, sizeof(T));
  return out;
}

// A safetensors file of this header and `data_bytes` zeros.
inline std::string safetensors_file(std::string_view header, size_t data_bytes = 0) {
  return little_endian<uint64_t>(header.size()) + std::string(header) +
         std::string(data_bytes, '\0');
}

// Builds a GGUF file field by field; what is counted wrong can be counted wrong on purpose.
struct GgufBuilder {
  uint32_t version = 3;
  uint64_t alignment = 32;  // of the padding behind the header
  uint64_t extra_tensors = 0, extra_pairs = 0;
  std::vector<std::string> pairs, tensors;

  static std::string text(std::string_view value) {
    return little_endian<uint64_t>(value.size()) + std::string(value);
  }
  GgufBuilder& pair(std::string_view key, uint32_t type, std::string_view payload) {
    pairs.push_back(text(key) + little_endian(type) + std::string(payload));
    return *this;
  }
  // `dims` in GGUF's order, innermost first.
  GgufBuilder& tensor(std::string_view name, const std::vector<uint64_t>& dims, uint32_t type,
                      uint64_t offset) {
    std::string out = text(name) + little_endian(static_cast<uint32_t>(dims.size()));
    for (const uint64_t dim : dims) out += little_endian(dim);
    tensors.push_back(out + little_endian(type) + little_endian(offset));
    return *this;
  }
  std::string header() const {
    std::string out = "GGUF" + little_endian(version) +
                      little_endian<uint64_t>(tensors.size() + extra_tensors) +
                      little_endian<uint64_t>(pairs.size() + extra_pairs);
    for (const std::string& pair : pairs) out += pair;
    for (const std::string& tensor : tensors) out += tensor;
    return out;
  }
  uint64_t data_start() const { return (header().size() + alignment - 1) / alignment * alignment; }
  std::string file(size_t data_bytes) const {
    std::string out = header();
    out.resize(data_start() + data_bytes);
    return out;
  }
};

}  // namespace sluice
