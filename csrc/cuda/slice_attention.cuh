// Shuffle attention of re-enlarged slices, channel by channel: a channel of the map that upsample_shuffle_attention
// would attend to is a profile of H (or W) values, repeated along the other axis, so that everything it measures and
// every gradient comes from its profile. A group of threads takes a channel.
#pragma once

#include <bit>

#include "attention.cuh"
#include "axis.cuh"
#include "parameter_gradients.cuh"

namespace toplight::cuda {

// The vectors of a call. With one slice a map is constant and its profile one value, for all H x W positions.
template <typename scalar_t>
struct Slices {
  using T = accumulate_t<scalar_t>;

  Attention<T> attention;
  const scalar_t* rows;  // (B, C_r, n_h)
  const scalar_t* columns;  // (B, C_c, n_v)
  VectorView row_view, column_view;
  int row_channels;
  Axis row_axis, column_axis;
  int pitch;  // the longest profile
  int group_width;  // threads that take a channel

  Slices(
      const Tensor& rows_,
      const Tensor& columns_,
      int64_t height,
      int64_t width,
      const AttentionArguments& arguments)
      : attention(arguments, rows_.size(1) + columns_.size(1)),
        rows(rows_.const_data_ptr<scalar_t>()),
        columns(columns_.const_data_ptr<scalar_t>()),
        row_view(vector_view_of(rows_)),
        column_view(vector_view_of(columns_)),
        row_channels(static_cast<int>(rows_.size(1))),
        row_axis(profile_axis(height, rows_.size(2))),
        column_axis(profile_axis(width, columns_.size(2))),
        pitch(std::max(row_axis.length, column_axis.length)),
        group_width(std::min(static_cast<int>(std::bit_ceil((pitch + 1u) / 2)), kWarp)) {}

  static Axis profile_axis(int64_t length, int64_t slices) {
    return axis_of(slices == 1 ? 1 : length, slices, 1);
  }
  __device__ int input_channel(int output_channel) const {
    return unshuffled_channel(output_channel, attention.channels, attention.shuffle);
  }
  __device__ bool is_row(int channel) const {
    return channel < row_channels;
  }
};

// Tables of both axes.
template <typename T>
struct Interpolations {
  Interpolation<T> rows, columns;

  template <typename scalar_t>
  __host__ __device__ Interpolations(const Slices<scalar_t>& slices, Arena& arena)
      : rows(slices.row_axis, arena), columns(slices.column_axis, arena) {}

  // For all threads of a block; ends synchronised.
  __device__ void tabulate() const {
    rows.tabulate();
    columns.tabulate();
    __syncthreads();
  }
  // By offsets, since of a choice between two pointers the compiler no longer knows that both are to shared memory.
  __device__ Interpolation<T> of(bool is_row) const {
    Interpolation<T> chosen = rows;
    if (!is_row) {
      chosen.axis = columns.axis;
      chosen.taps += columns.taps - rows.taps;
      chosen.support += columns.support - rows.support;
    }
    return chosen;
  }
};

// One channel of the input of the attention.
template <typename scalar_t>
struct Channel {
  using T = accumulate_t<scalar_t>;

  Role<int> role;
  Interpolation<T> interpolation;
  const scalar_t* source;
  int64_t stride;

  __device__ Channel(const Slices<scalar_t>& slices, const Interpolations<T>& interpolations, int64_t b, int channel)
      : role(slices.attention.role(channel)),
        interpolation(interpolations.of(slices.is_row(channel))),
        source(
            slices.is_row(channel) ? slices.rows + slices.row_view.offset(b, channel, 0)
                                   : slices.columns + slices.column_view.offset(b, channel - slices.row_channels, 0)),
        stride(slices.is_row(channel) ? slices.row_view.slice_stride : slices.column_view.slice_stride) {}

  __device__ int length() const {
    return interpolation.axis.length;
  }
  __device__ T value(int position) const {
    return interpolation.forward(
        [&](int slice) { return static_cast<T>(read_small(source + slice * stride)); }, position);
  }

  // Fills `profile` and measures it; all threads of the group get the gate, and a thread touches the values at
  // lane, lane + width, ... only. `length` is 0 for a group that has no channel.
  __device__ PlaneGate<T> measure(const Attention<T>& attention, const Group& group, int length, T* profile) const {
    const T count = static_cast<T>(this->length());
    T total = T(0);
    for (int i = group.lane; i < length; i += group.width) {
      total += profile[i] = value(i);
    }
    const T mean = group.sum(total) / count;
    Pair<T> deviations{};
    for (int i = group.lane; i < length; i += group.width) {
      deviations += deviation_at(profile[i], mean);
    }
    const auto [deviation, squares] = group.sum(deviations);
    return gate_of(attention, role, refined_moments(mean, deviation, squares, count));
  }

  // Makes `gradient`, that of the gated profile, one of the profile; returns what goes to the parameters.
  __device__ PlaneSums<T> backward(
      const Attention<T>& attention,
      const Group& group,
      int length,
      T* profile,
      T* gradient) const {
    const PlaneGate<T> gate = measure(attention, group, length, profile);
    Pair<T> totals{};
    for (int i = group.lane; i < length; i += group.width) {
      totals += sums_at(role, gate, profile[i], gradient[i]);
    }
    totals = group.sum(totals);
    const auto [sums, input] = plane_gradient(attention, role, gate, totals, static_cast<T>(this->length()));
    for (int i = group.lane; i < length; i += group.width) {
      const T x = profile[i];
      gradient[i] = input_gradient_at(input, x, gate.gate.mean, gradient[i], gate.at(x));
    }
    return sums;
  }
};

// Where backward writes to.
template <typename scalar_t>
struct SliceGradients {
  scalar_t* rows;  // (B, C_r, n_h)
  scalar_t* columns;  // (B, C_c, n_v)
  PlaneSums<accumulate_t<scalar_t>>* sums;  // (B, C)
  int most_slices;  // n_h or n_v
  Divisor by_most_slices;

  SliceGradients(Tensor& rows_, Tensor& columns_, PlaneSums<accumulate_t<scalar_t>>* sums)
      : rows(rows_.mutable_data_ptr<scalar_t>()),
        columns(columns_.mutable_data_ptr<scalar_t>()),
        sums(sums),
        most_slices(static_cast<int>(std::max(rows_.size(2), columns_.size(2)))),
        by_most_slices(most_slices) {}

  // From the gradients of the profiles, (planes, pitch), of the output channels from `first` on.
  template <typename T>
  __device__ void write(
      const Slices<scalar_t>& slices,
      const Interpolations<T>& interpolations,
      int64_t b,
      int first,
      int planes,
      int pitch,
      const T* profiles) const {
    for (int i = threadIdx.x; i < planes * most_slices; i += kThreads) {
      const int plane = by_most_slices.quotient(i), slice = i - plane * most_slices;
      const int channel = slices.input_channel(first + plane);
      const T* const profile = profiles + plane * pitch;
      if (!slices.is_row(channel)) {
        const int64_t channels = slices.attention.channels - slices.row_channels, n_v = slices.column_axis.slices;
        if (slice < n_v) {
          const T gradient = interpolations.columns.backward(profile, slice);
          const int64_t column_channel = b * channels + channel - slices.row_channels;
          write_small(columns + column_channel * n_v + slice, static_cast<scalar_t>(gradient));
        }
      } else if (const int64_t n_h = slices.row_axis.slices; slice < n_h) {
        const T gradient = interpolations.rows.backward(profile, slice);
        write_small(rows + (b * slices.row_channels + channel) * n_h + slice, static_cast<scalar_t>(gradient));
      }
    }
  }
};

}  // namespace toplight::cuda
