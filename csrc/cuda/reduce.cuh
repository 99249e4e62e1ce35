// Sums over the threads of a group: 1 to 32 lanes of a warp, or the whole block. The order of additions is fixed by
// the width of the group, so equal inputs give equal bits.
#pragma once

#include "launch.cuh"

namespace toplight::cuda {

constexpr int kWarp = 32;
constexpr int kMostWarps = 32;  // in a block

// Two sums at once.
template <typename T>
struct Pair {
  T first, second;

  __device__ Pair& operator+=(const Pair& other) {
    first += other.first;
    second += other.second;
    return *this;
  }
};

struct Group {
  int width;  // threads in it: a power of two up to kWarp, or the threads of the block
  int count;  // such groups in a block
  int index;  // which of them this thread is in
  int lane;  // this thread in it

  __device__ Group(int width, int threads)
      : width(width),
        count(threads / width),
        index(static_cast<int>(threadIdx.x) / width),
        lane(static_cast<int>(threadIdx.x) % width) {}

  // The sum of `value` over the group, in all its threads. Every thread of the block has to call it. A group of more
  // than a warp needs shared memory of one value per warp.
  template <typename T>
  __device__ T sum(T value, T* scratch = nullptr) const {
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
    for (int warp = 0; warp < width / kWarp; ++warp) {
      total += scratch[warp];
    }
    __syncthreads();  // before the next sum writes to scratch
    return total;
  }
  template <typename T>
  __device__ Pair<T> sum(const Pair<T>& value, T* scratch = nullptr) const {
    return {sum(value.first, scratch), sum(value.second, scratch)};
  }
};

// Calls body(slot, group, active) for `slots` slots, one per group of `width` threads, all groups the same number of
// times, so that body can add up over its group; not active: slot is 0 and has to be left alone.
template <typename Body>
__device__ void for_slots(int slots, int width, const Body& body) {
  const Group group(width, kThreads);
  for (int first = 0; first < slots; first += group.count) {
    const bool active = first + group.index < slots;
    body(active ? first + group.index : 0, group, active);
  }
}

}  // namespace toplight::cuda
