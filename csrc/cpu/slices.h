// The vectors of upsample_shuffle_attention and its pooled form: every channel is re-enlarged to the profile of H or W
// values that its map would repeat along the other axis, and gated as such.
#pragma once

#include "attention.h"

namespace toplight::cpu {

inline void check_slice_vectors(const Tensor& rows, const Tensor& columns, const char* op) {
  check_vectors(rows, op, "rows");
  check_vectors(columns, op, "columns");
  check_same(columns, rows, op, "columns");
  check_size(columns, {rows.size(0), columns.size(1), columns.size(2)}, op, "columns");
}

// The vectors of one call and the axes that they are slices of.
template <typename scalar_t>
struct Slices {
  using T = accumulate_t<scalar_t>;

  Slices(const Tensor& rows_, const Tensor& columns_, int64_t height, int64_t width)
      : rows(vectors_of(rows_)),
        columns(vectors_of(columns_)),
        rows_data(rows_.const_data_ptr<scalar_t>()),
        columns_data(columns_.const_data_ptr<scalar_t>()),
        vertical(height, rows.slices),
        horizontal(width, columns.slices) {}

  int64_t channels() const {
    return rows.channels + columns.channels;
  }
  bool is_row(int64_t c) const {
    return c < rows.channels;
  }
  const Axis<T>& axis(int64_t c) const {
    return is_row(c) ? vertical : horizontal;
  }
  int64_t longest() const {
    return std::max(
        std::max(vertical.length(), vertical.slices()), std::max(horizontal.length(), horizontal.slices()));
  }

  // The values of channel c of image b along its axis; `slices` is scratch.
  void read_profile(int64_t b, int64_t c, T* slices, T* profile) const {
    const Vectors& vectors = is_row(c) ? rows : columns;
    const scalar_t* data = is_row(c) ? rows_data : columns_data;
    const int64_t offset = vectors.offset(b, is_row(c) ? c : c - rows.channels);
    read_vector(data + offset, vectors.slices, vectors.slice_stride, slices);
    axis(c).upsample(slices, 1, profile);
  }

  Vectors rows, columns;
  const scalar_t* rows_data;
  const scalar_t* columns_data;
  Axis<T> vertical, horizontal;
};

// Channel c of image b, re-enlarged and gated, as a profile along its axis.
template <typename scalar_t, typename T>
void attend_profile(
    const Slices<scalar_t>& slices,
    const Attention<T>& attention,
    int64_t b,
    int64_t c,
    std::vector<T>& scratch,
    std::vector<T>& profile) {
  slices.read_profile(b, c, scratch.data(), profile.data());
  std::copy_n(profile.data(), slices.axis(c).length(), scratch.data());
  attend(scratch.data(), slices.axis(c).length(), attention, attention.role(c), profile.data());
}

// Where the backward of one call writes to; the tensors are dense.
template <typename scalar_t>
struct SliceGradients {
  using T = accumulate_t<scalar_t>;

  SliceGradients(const Slices<scalar_t>& slices_, const Attention<T>& attention_, Tensor& rows_, Tensor& columns_)
      : slices(slices_),
        attention(attention_),
        rows(rows_.mutable_data_ptr<scalar_t>()),
        columns(columns_.mutable_data_ptr<scalar_t>()),
        sums(slices_.rows.batch * slices_.channels()) {}

  // From the gradient of the gated profile of channel c of image b, dy summed over the other axis. The scratch
  // vectors have slices.longest() values.
  void add(int64_t b, int64_t c, const T* profile_gradient, std::vector<T> (&scratch)[3]) {
    const Axis<T>& axis = slices.axis(c);
    T* const profile = scratch[0].data();
    T* const gradient = scratch[1].data();
    T* const gates = scratch[2].data();
    slices.read_profile(b, c, gates, profile);
    sums[b * slices.channels() + c] = attend_backward(
        profile, profile_gradient, axis.length(), attention, attention.role(c), gates, gradient);
    axis.upsample_backward(gradient, 1, gates);
    scalar_t* const target = slices.is_row(c)
        ? rows + (b * slices.rows.channels + c) * axis.slices()
        : columns + (b * slices.columns.channels + c - slices.rows.channels) * axis.slices();
    write_vector(gates, axis.slices(), 1, target);
  }

  const Slices<scalar_t>& slices;
  const Attention<T>& attention;
  scalar_t* rows;
  scalar_t* columns;
  std::vector<PlaneSums<T>> sums;
};

}  // namespace toplight::cpu
