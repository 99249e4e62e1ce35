// Division by a number that is known at launch: a multiplication, an addition and a shift, where the division of the
// compiler takes some twenty instructions (Granlund and Montgomery, PLDI 1994). For dividends from 0 to 2^31 - 1.
#pragma once

#include <cstdint>

namespace toplight::cuda {

class Divisor {
 public:
  Divisor() = default;
  // divisor is at least 1. With s = ceil(log2 divisor) the multiplier is 2^32 * (2^s - divisor) / divisor + 1.
  explicit Divisor(int divisor) : divisor_(static_cast<uint32_t>(divisor)), shift_(0) {
    while ((uint64_t{1} << shift_) < divisor_) {
      ++shift_;
    }
    const uint64_t excess = (uint64_t{1} << shift_) - divisor_;
    multiplier_ = static_cast<uint32_t>((excess << 32) / divisor_ + 1);
  }

  __device__ int quotient(int dividend) const {
    const uint32_t n = static_cast<uint32_t>(dividend);
    return static_cast<int>((__umulhi(n, multiplier_) + n) >> shift_);
  }
  __device__ int remainder(int dividend) const {
    return dividend - quotient(dividend) * static_cast<int>(divisor_);
  }

 private:
  uint32_t divisor_, multiplier_, shift_;
};

}  // namespace toplight::cuda
