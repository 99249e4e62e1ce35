// The two axes of the planes of a map, with what slices and profiles have to do with one another on each.
//
// A profile is one number per position of an axis, a slice is what slice_interval() cuts out of it; plane.h has the
// arithmetic. What needs divisions is worked out once per block, in tables in shared memory, and serves all its planes.
#pragma once

#include "map.cuh"
#include "plane.h"

namespace toplight::cuda {

struct Axis {
  int length;
  int slices;
  int across;  // values of the plane per position
};

inline Axis axis_of(int64_t length, int64_t slices, int64_t across) {
  STD_TORCH_CHECK(
      2 * (length + 1) * (slices + 1) <= std::numeric_limits<int32_t>::max(),
      slices, " slices of an axis of ", length, " positions are too many for the GPU");
  return {static_cast<int>(length), static_cast<int>(slices), static_cast<int>(across)};
}

// From the sums over the values of every position to the mean of every slice, and back.
template <typename T>
struct Pooling {
  Axis axis;
  Interval<int>* positions;  // (slices) of every slice
  Interval<int>* containing;  // (length) slices that contain a position
  T* scale;  // (slices) one over the number of values

  __host__ __device__ Pooling(const Axis& axis, Arena& arena)
      : axis(axis),
        positions(arena.take<Interval<int>>(axis.slices)),
        containing(arena.take<Interval<int>>(axis.length)),
        scale(arena.take<T>(axis.slices)) {}

  // For all threads of a block, which then have to be synchronised.
  __device__ void tabulate() const {
    for (int i = threadIdx.x; i < axis.slices; i += kThreads) {
      const auto interval = slice_interval(i, axis.length, axis.slices);
      positions[i] = interval;
      scale[i] = T(1) / static_cast<T>((interval.end - interval.begin) * axis.across);
    }
    for (int i = threadIdx.x; i < axis.length; i += kThreads) {
      containing[i] = slice_interval(i, axis.slices, axis.length);
    }
  }

  // The mean of one slice.
  __device__ T forward(const T* sums, int slice) const {
    const auto [begin, end] = positions[slice];
    T total = T(0);
    for (int i = begin; i < end; ++i) {
      total += sums[i];
    }
    return total * scale[slice];
  }
  // The gradient of every value at one position, from those of the slices.
  __device__ T backward(const T* gradients, int position) const {
    const auto [begin, end] = containing[position];
    T total = T(0);
    for (int i = begin; i < end; ++i) {
      total += gradients[i] * scale[i];
    }
    return total;
  }
};

// From slices to a profile, and back.
template <typename T>
struct Interpolation {
  Axis axis;
  Tap<T, int>* taps;  // (length)
  Interval<int>* support;  // (slices) positions whose taps can touch a slice

  __host__ __device__ Interpolation(const Axis& axis, Arena& arena)
      : axis(axis), taps(arena.take<Tap<T, int>>(axis.length)), support(arena.take<Interval<int>>(axis.slices)) {}

  // For all threads of a block, which then have to be synchronised.
  __device__ void tabulate() const {
    for (int i = threadIdx.x; i < axis.length; i += kThreads) {
      taps[i] = upsample_tap<T>(i, axis.length, axis.slices);
    }
    for (int i = threadIdx.x; i < axis.slices; i += kThreads) {
      support[i] = upsample_support(i, axis.length, axis.slices);
    }
  }

  // The value at one position from slice(index).
  template <typename Slice>
  __device__ T forward(const Slice& slice, int position) const {
    const Tap<T, int> tap = taps[position];
    const T first = slice(tap.first);
    return first + tap.weight * (slice(tap.second) - first);
  }
  // The gradient of one slice from those of the positions.
  __device__ T backward(const T* gradients, int slice) const {
    const auto [begin, end] = support[slice];
    T total = T(0);
    for (int i = begin; i < end; ++i) {
      total += tap_weight(taps[i], slice) * gradients[i];
    }
    return total;
  }
};

// Fills `target`, (planes, of_rows + of_columns), with value(plane, is_row, index), index counting within either part.
template <typename T, typename Value>
__device__ void fill_both(
    int planes,
    int of_rows,
    int of_columns,
    const Divisor& by_both,  // of_rows + of_columns
    T* target,
    const Value& value) {
  for (int i = threadIdx.x; i < planes * (of_rows + of_columns); i += kThreads) {
    const int plane = by_both.quotient(i), index = i - plane * (of_rows + of_columns);
    target[i] = index < of_rows ? value(plane, true, index) : value(plane, false, index - of_rows);
  }
}

}  // namespace toplight::cuda
