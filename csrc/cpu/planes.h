// How the CPU kernels walk over a map: reading and writing planes of any stride and type, sums in a fixed order,
// and slices along an axis. Kernels see T (float or double) only.
//
// Two paths, chosen by the layout: one plane after the other (NCHW and any strides), and for channels_last a block
// of neighbouring channels at once, so that inner loops always run over adjacent memory.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "plane.h"
#include "tensors.h"

namespace toplight::cpu {

// Sums run in this many lanes that are added in a fixed order, so that the compiler may use vectors and yet the
// bits depend neither on their width nor on the number of threads.
constexpr int64_t kLanes = 16;

// Below this many values a task is not worth a thread of its own.
constexpr int64_t kValuesPerThread = 16384;

// body(task) for every task, each of about `values` values.
template <typename Body>
void parallel_tasks(int64_t tasks, int64_t values, const Body& body) {
  const int64_t grain = std::max<int64_t>(1, kValuesPerThread / std::max<int64_t>(1, values));
  torch::stable::parallel_for(0, tasks, grain, body);
}

// Channels per block of the channels_last path: whole cache lines, while a block of `rows` rows fits the cache.
inline int64_t channel_block(int64_t channels, int64_t rows) {
  constexpr int64_t kBlockValues = 32768, kSmallest = 16, kLargest = 128;
  const int64_t fitting = kBlockValues / rows / kSmallest * kSmallest;
  return std::min(channels, std::clamp(fitting, kSmallest, kLargest));
}

template <typename T, typename Term>
T sum(int64_t count, const Term& term) {
  T lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      lanes[lane] += term(i + lane);
    }
  }
  T total = T(0);
  for (; i < count; ++i) {
    total += term(i);
  }
  for (int64_t step = kLanes / 2; step > 0; step /= 2) {
    for (int64_t lane = 0; lane < step; ++lane) {
      lanes[lane] += lanes[lane + step];
    }
  }
  return total + lanes[0];
}

// The plane at `source` as dense values: in place where it lies so, else copied to `scratch`.
template <typename T, typename scalar_t>
const T* read_plane(const scalar_t* source, const Map& map, T* scratch) {
  const bool dense_rows = map.width_stride == 1 || map.width == 1;
  if constexpr (std::is_same_v<T, scalar_t>) {
    if (dense_rows && (map.height_stride == map.width || map.height == 1)) {
      return source;
    }
  }
  T* target = scratch;
  for (int64_t h = 0; h < map.height; ++h, target += map.width) {
    const scalar_t* row = source + h * map.height_stride;
    if (dense_rows) {
      for (int64_t w = 0; w < map.width; ++w) {
        target[w] = static_cast<T>(row[w]);
      }
    } else {
      for (int64_t w = 0; w < map.width; ++w) {
        target[w] = static_cast<T>(row[w * map.width_stride]);
      }
    }
  }
  return scratch;
}

// Sums of a dense plane: row_sums[h] over w, column_sums[w] over h.
template <typename T>
void plane_sums(const T* plane, int64_t height, int64_t width, T* row_sums, T* column_sums) {
  std::fill_n(column_sums, width, T(0));
  for (int64_t h = 0; h < height; ++h) {
    const T* row = plane + h * width;
    row_sums[h] = sum<T>(width, [&](int64_t w) { return row[w]; });
    for (int64_t w = 0; w < width; ++w) {
      column_sums[w] += row[w];
    }
  }
}

// The same for `block` neighbouring channels of a channels_last map: `source` is the first of them at position 0,
// row_sums is (height, block), column_sums (width, block).
template <typename T, typename scalar_t>
void block_sums(const scalar_t* source, const Map& map, int64_t block, T* row_sums, T* column_sums) {
  std::fill_n(row_sums, map.height * block, T(0));
  std::fill_n(column_sums, map.width * block, T(0));
  for (int64_t h = 0; h < map.height; ++h) {
    T* row_sum = row_sums + h * block;
    for (int64_t w = 0; w < map.width; ++w) {
      const scalar_t* values = source + h * map.height_stride + w * map.width_stride;
      T* column_sum = column_sums + w * block;
      for (int64_t k = 0; k < block; ++k) {
        const T value = static_cast<T>(values[k]);
        row_sum[k] += value;
        column_sum[k] += value;
      }
    }
  }
}

// The slices of one axis, with everything that depends on its length alone. All functions work on `block` values
// per position or slice at once: profiles are (length, block), slices (slices, block); block is 1 for one plane.
template <typename T>
class Axis {
 public:
  Axis(int64_t length, int64_t slices) : length_(length), slices_(slices) {
    for (int64_t i = 0; i < slices; ++i) {
      intervals_.push_back(slice_interval(i, length, slices));
    }
    for (int64_t position = 0; position < length; ++position) {
      taps_.push_back(upsample_tap<T>(position, length, slices));
    }
  }

  int64_t length() const {
    return length_;
  }
  int64_t slices() const {
    return slices_;
  }

  // Means over each slice from sums over the other axis, which has `across` positions.
  void pool(const T* sums, int64_t across, int64_t block, T* means) const {
    for (int64_t i = 0; i < slices_; ++i) {
      const auto [begin, end] = intervals_[i];
      const T count = static_cast<T>((end - begin) * across);
      T* mean = means + i * block;
      std::copy_n(sums + begin * block, block, mean);
      for (int64_t position = begin + 1; position < end; ++position) {
        accumulate(T(1), sums + position * block, block, mean);
      }
      for (int64_t k = 0; k < block; ++k) {
        mean[k] /= count;
      }
    }
  }

  // Gradient of one position of the map from the gradients of the means.
  void pool_backward(const T* mean_gradients, int64_t across, int64_t block, T* profile) const {
    for (int64_t position = 0; position < length_; ++position) {
      T* target = profile + position * block;
      std::fill_n(target, block, T(0));
      const auto [first, last] = slice_interval(position, slices_, length_);
      for (int64_t i = first; i < last; ++i) {
        const T count = static_cast<T>((intervals_[i].end - intervals_[i].begin) * across);
        accumulate(T(1) / count, mean_gradients + i * block, block, target);
      }
    }
  }

  void upsample(const T* values, int64_t block, T* profile) const {
    for (int64_t position = 0; position < length_; ++position) {
      const auto& tap = taps_[position];
      const T* first = values + tap.first * block;
      const T* second = values + tap.second * block;
      T* target = profile + position * block;
      for (int64_t k = 0; k < block; ++k) {
        target[k] = (T(1) - tap.weight) * first[k] + tap.weight * second[k];
      }
    }
  }

  void upsample_backward(const T* profile_gradient, int64_t block, T* gradients) const {
    for (int64_t i = 0; i < slices_; ++i) {
      T* target = gradients + i * block;
      std::fill_n(target, block, T(0));
      const auto [begin, end] = upsample_support(i, length_, slices_);
      for (int64_t position = begin; position < end; ++position) {
        accumulate(tap_weight(taps_[position], i), profile_gradient + position * block, block, target);
      }
    }
  }

 private:
  static void accumulate(T factor, const T* values, int64_t block, T* total) {
    for (int64_t k = 0; k < block; ++k) {
      total[k] += factor * values[k];
    }
  }

  int64_t length_;
  int64_t slices_;
  std::vector<Interval<int64_t>> intervals_;
  std::vector<Tap<T, int64_t>> taps_;
};

// `slices` values of one image and channel, strided, to dense T and back.
template <typename T, typename scalar_t>
void read_vector(const scalar_t* source, int64_t slices, int64_t stride, T* target) {
  for (int64_t i = 0; i < slices; ++i) {
    target[i] = static_cast<T>(source[i * stride]);
  }
}

template <typename T, typename scalar_t>
void write_vector(const T* source, int64_t slices, int64_t stride, scalar_t* target) {
  for (int64_t i = 0; i < slices; ++i) {
    target[i] = static_cast<scalar_t>(source[i * stride]);
  }
}

// y[h, w] = row_profile[h] + column_profile[w], for one dense plane.
template <typename T, typename scalar_t>
void write_plane(const T* row_profile, const T* column_profile, int64_t height, int64_t width, scalar_t* y) {
  for (int64_t h = 0; h < height; ++h, y += width) {
    for (int64_t w = 0; w < width; ++w) {
      y[w] = static_cast<scalar_t>(row_profile[h] + column_profile[w]);
    }
  }
}

// The same for `block` neighbouring channels of a channels_last map of `channels` channels.
template <typename T, typename scalar_t>
void write_block(
    const T* row_profiles,
    const T* column_profiles,
    int64_t height,
    int64_t width,
    int64_t block,
    int64_t channels,
    scalar_t* y) {
  for (int64_t h = 0; h < height; ++h) {
    const T* row = row_profiles + h * block;
    for (int64_t w = 0; w < width; ++w, y += channels) {
      const T* column = column_profiles + w * block;
      for (int64_t k = 0; k < block; ++k) {
        y[k] = static_cast<scalar_t>(row[k] + column[k]);
      }
    }
  }
}

}  // namespace toplight::cpu
