// Sums over the threads of a group: 1 to 32 lanes of a warp, or the whole block. The order of additions is fixed by
// the width of the group, so equal inputs give equal bits.
#pragma once

#include "launch.cuh"

namespace toplight::cuda {

constexpr int kWarp = 32;

struct Group {
  int width;  // threads in it: a power of two up to kWarp, or kThreads
  int count;  // such groups in a block
  int index;  // which of them this thread is in
  int lane;  // this thread in it

  __device__ explicit Group(int width)
      : width(width),
        count(kThreads / width),
        index(static_cast<int>(threadIdx.x) / width),
        lane(static_cast<int>(threadIdx.x) % width) {}

  // The sum of `value` over the group, in all its threads. Every thread of the block has to call it. `scratch` is
  // shared memory of kThreads / kWarp values, used by a group of more than a warp.
  template <typename T>
  __device__ T sum(T value, T* scratch) const {
    const int within_warp = width < kWarp ? width : kWarp;
    for (int step = within_warp / 2; step > 0; step /= 2) {
      value += __shfl_xor_sync(0xffffffffu, value, step);
    }
    if (width <= kWarp) {
      return value;
    }
    if (threadIdx.x % kWarp == 0) {
      scratch[threadIdx.x / kWarp] = value;
    }
    __syncthreads();
    T total = T(0);
    for (int warp = 0; warp < kThreads / kWarp; ++warp) {
      total += scratch[warp];
    }
    __syncthreads();  // before the next sum writes to scratch
    return total;
  }
};

}  // namespace toplight::cuda
