#include "core/vm/kv/device_arrays.h"

#include <algorithm>

namespace sluice::vm {
namespace {

// Arrays begin at multiples of this many elements: 16 bytes
constexpr size_t kAlignment = 4;

}  // namespace

size_t DeviceArrays::begin_array() {
  host_.resize((host_.size() + kAlignment - 1) / kAlignment * kAlignment);
  return host_.size();
}

void DeviceArrays::add(std::span<const int32_t> array, TensorRef* out) {
  added_.push_back({.out = out,
                    .place = begin_array(),
                    .shape = {static_cast<int64_t>(array.size())},
                    .ndim = 1});
  host_.insert(host_.end(), array.begin(), array.end());
}

void DeviceArrays::add_columns(std::span<const int32_t> array, int64_t columns, TensorRef* out) {
  add(array, out);
  added_.back().ndim = 2;
  added_.back().shape[0] /= columns;
  added_.back().shape[1] = columns;
}

void DeviceArrays::add_rows(std::initializer_list<std::span<const int32_t>> rows, TensorRef* out) {
  added_.push_back(
      {.out = out,
       .place = begin_array(),
       .shape = {static_cast<int64_t>(rows.size()), static_cast<int64_t>(rows.begin()->size())},
       .ndim = 2});
  for (const auto row : rows) host_.insert(host_.end(), row.begin(), row.end());
}

int DeviceArrays::upload(std::string_view function) {
  const auto added = std::exchange(added_, {});
  const auto host = std::exchange(host_, {});
  const runtime::DeviceApi* api = runtime::find_device(device_, function);
  if (api == nullptr) return -1;
  if (!buffer_ || host.size() > capacity_) {
    // With room, so that the growth of a sequence does not ask for memory at every step
    const size_t wanted = std::max<size_t>(host.size() * 2, 256);
    const int64_t shape[] = {static_cast<int64_t>(wanted)};
    auto buffer = runtime::empty(shape, runtime::kInt32, device_, function);
    if (!buffer) return -1;
    buffer_ = std::move(buffer);
    capacity_ = wanted;
  }
  if (!host.empty() &&
      api->write(host.data(), buffer_->tensor.data, 0, host.size() * sizeof(int32_t)) != 0)
    return -1;
  for (const Added& each : added) {
    *each.out = runtime::view(buffer_.get(), {each.shape, each.ndim}, runtime::kInt32,
                              each.place * sizeof(int32_t), function);
    if (!*each.out) return -1;
  }
  return 0;
}

}  // namespace sluice::vm
