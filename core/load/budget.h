// The memory budget: one number that everything holding weight bytes on the CPU draws from.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string_view>
#include <utility>

#include "core/base/error.h"

namespace sluice {

class Budget;

// A share of a budget, in bytes; given back when destroyed. Must not outlive its budget.
class Grant {
 public:
  Grant() = default;
  Grant(Grant&& other) noexcept
      : budget_(std::exchange(other.budget_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Grant& operator=(Grant&& other) noexcept {
    std::swap(budget_, other.budget_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  Grant(const Grant&) = delete;
  Grant& operator=(const Grant&) = delete;
  ~Grant() { release(); }

  void release();
  uint64_t bytes() const { return bytes_; }

 private:
  friend class Budget;
  Grant(Budget* budget, uint64_t bytes) : budget_(budget), bytes_(bytes) {}

  Budget* budget_ = nullptr;
  uint64_t bytes_ = 0;
};

class Budget {
 public:
  explicit Budget(uint64_t limit) : limit_(limit) {}
  Budget(const Budget&) = delete;
  Budget& operator=(const Budget&) = delete;

  // Takes `bytes` for `purpose`; budget_too_small, naming both numbers, where that exceeds the
  // limit.
  Result<Grant> take(uint64_t bytes, std::string_view purpose) {
    if (bytes > limit_ - std::min(used_, limit_))
      return std::unexpected(Error{
          .code = ErrorCode::budget_too_small,
          .message =
              concat("the memory budget of ", limit_, " bytes has ",
                     limit_ - std::min(used_, limit_), " left, but ", purpose, " need ", bytes),
          .expected = bytes,
          .actual = limit_ - std::min(used_, limit_),
          .hint = "raise the budget",
      });
    return take_existing(bytes);
  }

  // Counts bytes that exist already and cannot be refused (a network chunk larger than foreseen),
  // even beyond the limit. Whoever does so must take nothing new until exceeded() is false again.
  Grant take_existing(uint64_t bytes) {
    used_ += bytes;
    peak_ = std::max(peak_, used_);
    return Grant(this, bytes);
  }

  bool exceeded() const { return used_ > limit_; }
  uint64_t limit() const { return limit_; }
  uint64_t used() const { return used_; }
  uint64_t peak() const { return peak_; }

 private:
  friend class Grant;
  uint64_t limit_;
  uint64_t used_ = 0;
  uint64_t peak_ = 0;
};

inline void Grant::release() {
  if (budget_ != nullptr) budget_->used_ -= bytes_;
  budget_ = nullptr;
  bytes_ = 0;
}

}  // namespace sluice
