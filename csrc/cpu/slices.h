// The vectors of upsample_shuffle_attention and its pooled form: every channel is re-enlarged to the profile of H or W
// values that its map would repeat along the other axis, and gated as such. A bundle may have channels of both kinds.
#pragma once

#include "attention.h"
#include "profiles.h"

namespace toplight::cpu {

// Row or column vectors (B, C, slices), C being the channels of the map from `first` on.
template <typename scalar_t>
struct Direction {
  using T = accumulate_t<scalar_t>;

  Direction(const Tensor& vectors, int64_t first, int64_t length)
      : map(row_map(vectors)), data(vectors.const_data_ptr<scalar_t>()), first(first), axis(length, map.width, 1) {}

  // The lanes of a bundle that are of this direction, as channels of the vectors; empty if begin >= end.
  Lanes part(const Lanes& lanes) const {
    const int64_t before = first - lanes.first;
    return {-before, 1, std::max(lanes.begin, before), std::min(lanes.end, before + map.channels)};
  }

  // The profiles of image b, (length, lanes). `slices` is scratch.
  void read_profile(int64_t b, const Lanes& part, T* slices, T* profile) const {
    read_tiles<T>(data + b * map.batch_stride, map, std::span(&part, 1), kOneRow, slices);
    axis.upsample(slices, profile);
  }

  Map map;
  const scalar_t* data;
  int64_t first;
  Axis<T> axis;
};

// The vectors and the attention of one call.
template <typename scalar_t>
class SliceAttention {
 public:
  using T = accumulate_t<scalar_t>;

  SliceAttention(
      const Tensor& rows,
      const Tensor& columns,
      int64_t height,
      int64_t width,
      const AttentionArguments& arguments)
      : attention(arguments, rows.size(1) + columns.size(1)),
        rows(rows, 0, height),
        columns(columns, rows.size(1), width) {}

  int64_t longest() const {
    return std::max(
        std::max(rows.axis.length(), rows.axis.slices()), std::max(columns.axis.length(), columns.axis.slices()));
  }

  // Gated profiles of a bundle of image b, written to `target`: 0 in the lanes of the other direction, and no profile
  // where the bundle has no channel of a direction. `slices` is scratch.
  Profile<T> attend_profiles(int64_t b, const Lanes& lanes, const Profile<T>& target, T* slices) const {
    const auto along = [&](const Direction<scalar_t>& direction, T* profile) -> T* {
      const Lanes part = direction.part(lanes);
      if (part.begin >= part.end) {
        return nullptr;
      }
      direction.read_profile(b, part, slices, profile);
      attend(profile, direction.axis.length(), attention.parameters(lanes), attention.eps(), profile);
      for (int64_t i = 0; part.count() < lanes.count() && i < direction.axis.length(); ++i) {
        T* values = profile + i * Pack<T>::kLanes;
        std::fill(values, values + part.begin, T(0));
        std::fill(values + part.end, values + Pack<T>::kLanes, T(0));
      }
      return profile;
    };
    return {along(rows, target.rows), along(columns, target.columns)};
  }

  Attention<T> attention;
  Direction<scalar_t> rows, columns;
};

// Where the backward of one call writes to.
template <typename scalar_t>
class SliceGradients {
 public:
  using T = accumulate_t<scalar_t>;

  SliceGradients(const SliceAttention<scalar_t>& slices, Tensor& d_rows, Tensor& d_columns)
      : slices_(slices),
        rows_(row_map(d_rows)),
        columns_(row_map(d_columns)),
        d_rows_(d_rows.mutable_data_ptr<scalar_t>()),
        d_columns_(d_columns.mutable_data_ptr<scalar_t>()),
        sums_(rows_.batch, slices.attention.channels()) {}

  // From the gradients of the gated profiles of a bundle of image b, dy summed over the other axis; they are
  // overwritten. `scratch` is three times as many packs as slices.longest().
  void add(int64_t b, const Lanes& lanes, const Profile<T>& gradient, T* scratch) {
    add_along(slices_.rows, b, lanes, gradient.rows, rows_, d_rows_, scratch);
    add_along(slices_.columns, b, lanes, gradient.columns, columns_, d_columns_, scratch);
  }

  void reduce(const AttentionArguments& arguments, ParameterTensors& d_parameters) const {
    sums_.reduce(arguments, d_parameters);
  }

 private:
  void add_along(
      const Direction<scalar_t>& direction,
      int64_t b,
      const Lanes& lanes,
      T* gradient,
      const Map& map,
      scalar_t* target,
      T* scratch) {
    const Lanes part = direction.part(lanes);
    if (part.begin >= part.end) {
      return;
    }
    const int64_t size = slices_.longest() * Pack<T>::kLanes;
    T *profile = scratch, *dt = scratch + size, *vectors = scratch + 2 * size;
    const Attention<T>& attention = slices_.attention;
    direction.read_profile(b, part, vectors, profile);
    const auto sums = attend_backward(
        profile, gradient, direction.axis.length(), attention.parameters(lanes), attention.eps(), dt);
    sums_.set(b, {lanes.first, 1, part.begin, part.end}, sums);
    direction.axis.upsample_backward(gradient, vectors);
    write_tiles<T>(vectors, std::span(&part, 1), kOneRow, map, target + b * map.batch_stride);
  }

  const SliceAttention<scalar_t>& slices_;
  Map rows_, columns_;
  scalar_t *d_rows_, *d_columns_;
  AllPlaneSums<T> sums_;
};

}  // namespace toplight::cpu
