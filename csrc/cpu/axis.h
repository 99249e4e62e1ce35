// One axis of a map and its slices, on packs: a profile has a pack per position, (length, lanes), and a set of slices a
// pack per slice, (slices, lanes).
#pragma once

#include <vector>

#include "plane.h"
#include "tiles.h"

namespace toplight::cpu {

template <typename T>
class Axis {
 public:
  static constexpr int64_t kLanes = Pack<T>::kLanes;

  // `across`: length of the other axis, over which profiles are summed.
  Axis(int64_t length, int64_t slices, int64_t across) : length_(length), slices_(slices) {
    for (int64_t i = 0; i < slices; ++i) {
      intervals_.push_back(slice_interval(i, length, slices));
      shares_.push_back(T(1) / static_cast<T>((intervals_[i].end - intervals_[i].begin) * across));
    }
    for (int64_t position = 0; position < length; ++position) {
      taps_.push_back(upsample_tap<T>(position, length, slices));
      covering_.push_back(slice_interval(position, slices, length));
    }
    for (int64_t i = 0; i < slices; ++i) {
      supports_.push_back(upsample_support(i, length, slices));
      for (const auto& tap : taps_) {
        weights_.push_back(tap_weight(tap, i));
      }
    }
  }

  int64_t length() const {
    return length_;
  }
  int64_t slices() const {
    return slices_;
  }

  // Means over each slice, from sums over the other axis.
  void pool(const T* sums, T* means) const {
    for (int64_t i = 0; i < slices_; ++i) {
      Pack<T> total(T(0));
      for (int64_t position = intervals_[i].begin; position < intervals_[i].end; ++position) {
        total += Pack<T>::load(sums + position * kLanes);
      }
      (total * Pack<T>(shares_[i])).store(means + i * kLanes);
    }
  }

  // Gradient of one position of the map, from the gradients of the means.
  void pool_backward(const T* mean_gradients, T* profile) const {
    for (int64_t position = 0; position < length_; ++position) {
      const auto [first, last] = covering_[position];
      Pack<T> total(T(0));
      for (int64_t i = first; i < last; ++i) {
        total += Pack<T>(shares_[i]) * Pack<T>::load(mean_gradients + i * kLanes);
      }
      total.store(profile + position * kLanes);
    }
  }

  void upsample(const T* values, T* profile) const {
    for (int64_t position = 0; position < length_; ++position) {
      const auto& tap = taps_[position];
      const auto first = Pack<T>::load(values + tap.first * kLanes), second = Pack<T>::load(values + tap.second * kLanes);
      (first + Pack<T>(tap.weight) * (second - first)).store(profile + position * kLanes);
    }
  }

  void upsample_backward(const T* profile_gradient, T* gradients) const {
    for (int64_t i = 0; i < slices_; ++i) {
      const T* weights = weights_.data() + i * length_;
      Pack<T> total(T(0));
      for (int64_t position = supports_[i].begin; position < supports_[i].end; ++position) {
        total += Pack<T>(weights[position]) * Pack<T>::load(profile_gradient + position * kLanes);
      }
      total.store(gradients + i * kLanes);
    }
  }

 private:
  int64_t length_, slices_;
  // What bundle after bundle needs, since integer divisions would take as long as the arithmetic.
  std::vector<Interval<int64_t>> intervals_;  // positions of a slice
  std::vector<Interval<int64_t>> covering_;  // slices of a position
  std::vector<Interval<int64_t>> supports_;  // positions interpolated from a slice
  std::vector<T> shares_;  // what a position contributes to its slice
  std::vector<Tap<T, int64_t>> taps_;
  std::vector<T> weights_;  // (slices, length), of the taps
};

// Adds the sums of rows of a tile, over w, to row_sums[h], and over h to column_sums[w]. Either may be null.
template <typename T>
void add_axis_sums(const T* tile, Rows rows, int64_t width, T* row_sums, T* column_sums) {
  constexpr int64_t kLanes = Pack<T>::kLanes;
  for (int64_t h = rows.begin; h < rows.end; ++h, tile += width * kLanes) {
    Pack<T> total(T(0));
    for (int64_t w = 0; w < width; ++w) {
      const auto value = Pack<T>::load(tile + w * kLanes);
      total += value;
      if (column_sums) {
        (Pack<T>::load(column_sums + w * kLanes) + value).store(column_sums + w * kLanes);
      }
    }
    if (row_sums) {
      total.store(row_sums + h * kLanes);
    }
  }
}

}  // namespace toplight::cpu
