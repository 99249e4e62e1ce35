// Where a gallery image stands among the positives of a query.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <tuple>
#include <utility>
#include <vector>

namespace toplight {

// The positives of a query in rank order, and the gaps between them.
template <class T>
class Gaps {
 public:
  // `positives`: distance and gallery position, in rank order; at least one.
  void assign(const std::vector<std::pair<T, int64_t>>& positives) {
    const size_t count = positives.size();
    distances_.resize(count + 1);
    positions_.resize(count);
    for (size_t k = 0; k < count; ++k) std::tie(distances_[k], positions_[k]) = positives[k];
    distances_[count] = std::numeric_limits<T>::infinity();

    // Positives that lie too close or too far apart for steps between them share one bucket.
    const T scale = T(buckets - 3) / (distances_[count - 1] - distances_[0]);
    scale_ = std::isfinite(scale) ? scale : 0;
    nearest_ = scale_ > 0 ? distances_[0] : 0;
    bucket_.resize(count);
    find_buckets(distances_.data(), count, bucket_.data());
    size_t k = 0;
    for (int b = 0; b <= buckets; ++b) {
      while (k < count && bucket_[k] < b) ++k;
      first_[b] = k;
    }
  }

  // The buckets of a row of distances, for find(). Equal steps of distance from the first positive to the last,
  // and the outer ones for what lies beyond; a bucket never decreases with the distance.
  // One loop without branches, which the compiler vectorises: a processor would not foresee their outcome.
  void find_buckets(const T* distance, int64_t count, int32_t* bucket) const {
    const T nearest = nearest_, scale = scale_;
    for (int64_t i = 0; i < count; ++i) {
      T step = (distance[i] - nearest) * scale + 1;
      step = step > 0 ? step : 0;
      bucket[i] = int32_t(step < buckets - 1 ? step : buckets - 1);
    }
  }

  // How many positives come before the image or are it: the index of the gap where it belongs.
  size_t find(T distance, int32_t bucket, int64_t image) const {
    // Most buckets hold no positive, so that there is nothing to search.
    size_t gap = first_[bucket];
    for (size_t rest = first_[bucket + 1] - gap; rest > 0; rest /= 2) {
      const size_t half = (rest + 1) / 2;
      gap += half * (distances_[gap + half - 1] < distance);
    }
    return distances_[gap] == distance ? gap_of_tied(gap, image) : gap;
  }

 private:
  static constexpr int buckets = 256;

  // For an image at the distance of the positives from `first` on, which is rare, and so kept out of the loop.
  __attribute__((noinline)) size_t gap_of_tied(size_t first, int64_t image) const {
    const auto tied_end = std::upper_bound(distances_.begin() + first, distances_.end() - 1, distances_[first]);
    const auto end = positions_.begin() + (tied_end - distances_.begin());
    return std::upper_bound(positions_.begin() + first, end, image) - positions_.begin();
  }

  std::vector<T> distances_;        // then infinity
  std::vector<int64_t> positions_;  // increasing where distances tie
  T nearest_ = 0, scale_ = 0;
  std::array<size_t, buckets + 1> first_;  // the first positive of each bucket or after it
  std::vector<int32_t> bucket_;            // of the positives
};

}  // namespace toplight
