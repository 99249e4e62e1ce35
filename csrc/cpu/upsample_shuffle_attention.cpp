// upsample_shuffle_attention: rows (B, C_r, n_h) and columns (B, C_c, n_v) interpolated to H x W, concatenated on the
// channels, and shuffle attention, in one write of y (B, C_r + C_c, H, W). A row channel is constant along W and a
// column channel along H, so mean, variance and gate come from the profile of H or W values. Backward reads dy once.
#include "slices.h"

namespace toplight::cpu {
namespace {

template <typename scalar_t, typename T>
void forward_planes(const Slices<scalar_t>& slices, const Attention<T>& attention, Tensor& y) {
  const Map map = map_of(y);
  auto* target = y.mutable_data_ptr<scalar_t>();
  parallel_tasks(map.batch * map.channels, map.positions(), [&](int64_t begin, int64_t end) {
    std::vector<T> scratch(slices.longest()), profile(slices.longest());
    const std::vector<T> none(slices.longest());
    for (int64_t plane = begin; plane < end; ++plane) {
      const int64_t b = plane / map.channels, c = plane % map.channels;
      attend_profile(slices, attention, b, c, scratch, profile);
      const bool row = slices.is_row(c);
      write_plane(
          row ? profile.data() : none.data(),
          row ? none.data() : profile.data(),
          map.height,
          map.width,
          target + map.offset(b, attention.output_channel(c)));
    }
  });
}

template <typename scalar_t, typename T>
void forward_channels_last(const Slices<scalar_t>& slices, const Attention<T>& attention, Tensor& y) {
  const Map map = map_of(y);
  const int64_t block = channel_block(map.channels, map.height + map.width);
  const int64_t blocks = (map.channels + block - 1) / block;
  auto* target = y.mutable_data_ptr<scalar_t>();
  parallel_tasks(map.batch * blocks, map.positions() * block, [&](int64_t begin, int64_t end) {
    std::vector<T> scratch(slices.longest()), profile(slices.longest());
    // A channel stands in one of the two and is 0 in the other.
    std::vector<T> rows(map.height * block), columns(map.width * block);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t b = task / blocks, first = task % blocks * block;
      const int64_t width = std::min(block, map.channels - first);
      std::fill(rows.begin(), rows.end(), T(0));
      std::fill(columns.begin(), columns.end(), T(0));
      for (int64_t k = 0; k < width; ++k) {
        const int64_t c = unshuffled_channel(first + k, map.channels, attention.shuffle);
        attend_profile(slices, attention, b, c, scratch, profile);
        T* const profiles = slices.is_row(c) ? rows.data() : columns.data();
        for (int64_t i = 0; i < slices.axis(c).length(); ++i) {
          profiles[i * width + k] = profile[i];
        }
      }
      write_block(
          rows.data(), columns.data(), map.height, map.width, width, map.channels, target + map.offset(b, first));
    }
  });
}

template <typename scalar_t>
void backward_planes(const Tensor& grad, SliceGradients<scalar_t>& gradients) {
  using T = accumulate_t<scalar_t>;
  const Map dy = map_of(grad);
  const auto* source = grad.const_data_ptr<scalar_t>();
  const int64_t longest = gradients.slices.longest();
  parallel_tasks(dy.batch * dy.channels, dy.positions(), [&](int64_t begin, int64_t end) {
    std::vector<T> plane_scratch(dy.positions()), row_sums(dy.height), column_sums(dy.width);
    std::vector<T> scratch[3] = {std::vector<T>(longest), std::vector<T>(longest), std::vector<T>(longest)};
    for (int64_t plane = begin; plane < end; ++plane) {
      const int64_t b = plane / dy.channels, c = plane % dy.channels;
      const int64_t offset = dy.offset(b, gradients.attention.output_channel(c));
      const T* values = read_plane(source + offset, dy, plane_scratch.data());
      plane_sums(values, dy.height, dy.width, row_sums.data(), column_sums.data());
      gradients.add(b, c, gradients.slices.is_row(c) ? row_sums.data() : column_sums.data(), scratch);
    }
  });
}

template <typename scalar_t>
void backward_channels_last(const Tensor& grad, SliceGradients<scalar_t>& gradients) {
  using T = accumulate_t<scalar_t>;
  const Map dy = map_of(grad);
  const int64_t block = channel_block(dy.channels, dy.height + dy.width);
  const int64_t blocks = (dy.channels + block - 1) / block;
  const auto* source = grad.const_data_ptr<scalar_t>();
  const int64_t longest = gradients.slices.longest();
  parallel_tasks(dy.batch * blocks, dy.positions() * block, [&](int64_t begin, int64_t end) {
    std::vector<T> row_sums(dy.height * block), column_sums(dy.width * block), profile(longest);
    std::vector<T> scratch[3] = {std::vector<T>(longest), std::vector<T>(longest), std::vector<T>(longest)};
    for (int64_t task = begin; task < end; ++task) {
      const int64_t b = task / blocks, first = task % blocks * block;
      const int64_t width = std::min(block, dy.channels - first);
      block_sums(source + dy.offset(b, first), dy, width, row_sums.data(), column_sums.data());
      for (int64_t k = 0; k < width; ++k) {
        const int64_t c = unshuffled_channel(first + k, dy.channels, gradients.attention.shuffle);
        const T* sums = gradients.slices.is_row(c) ? row_sums.data() : column_sums.data();
        read_vector(sums + k, gradients.slices.axis(c).length(), width, profile.data());
        gradients.add(b, c, profile.data(), scratch);
      }
    }
  });
}

Tensor upsample_shuffle_attention(
    const Tensor& rows,
    const Tensor& columns,
    int64_t height,
    int64_t width,
    const Tensor& channel_weight,
    const Tensor& channel_bias,
    const Tensor& spatial_weight,
    const Tensor& spatial_bias,
    const Tensor& norm_weight,
    const Tensor& norm_bias,
    int64_t groups,
    double eps,
    bool shuffle,
    bool channels_last) {
  const char* op = "upsample_shuffle_attention";
  check_slice_vectors(rows, columns, op);
  check_extent(height, width, op);
  const int64_t channels = rows.size(1) + columns.size(1);
  const auto parameters = check_parameters(
      {&channel_weight, &channel_bias, &spatial_weight, &spatial_bias, &norm_weight, &norm_bias},
      rows,
      channels,
      groups,
      op);
  Tensor y = empty_map({rows.size(0), channels, height, width}, rows, channels_last);
  dispatch_floating(rows.scalar_type(), op, [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    const Slices<scalar_t> slices(rows, columns, height, width);
    const auto attention = attention_of<accumulate_t<scalar_t>>(parameters, channels, groups, eps, shuffle);
    channels_last ? forward_channels_last(slices, attention, y) : forward_planes(slices, attention, y);
  });
  return y;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> upsample_shuffle_attention_backward(
    const Tensor& grad,
    const Tensor& rows,
    const Tensor& columns,
    const Tensor& channel_weight,
    const Tensor& channel_bias,
    const Tensor& spatial_weight,
    const Tensor& spatial_bias,
    const Tensor& norm_weight,
    const Tensor& norm_bias,
    int64_t groups,
    double eps,
    bool shuffle) {
  const char* op = "upsample_shuffle_attention_backward";
  check_slice_vectors(rows, columns, op);
  check_same(grad, rows, op, "grad");
  check_map(grad, op, "grad");
  const int64_t channels = rows.size(1) + columns.size(1);
  const auto parameters = check_parameters(
      {&channel_weight, &channel_bias, &spatial_weight, &spatial_bias, &norm_weight, &norm_bias},
      rows,
      channels,
      groups,
      op);
  check_size(grad, {rows.size(0), channels, grad.size(2), grad.size(3)}, op, "grad");
  Tensor d_rows = empty({rows.size(0), rows.size(1), rows.size(2)}, rows.scalar_type(), rows);
  Tensor d_columns = empty({columns.size(0), columns.size(1), columns.size(2)}, rows.scalar_type(), rows);
  const SixTensors p = dispatch_floating(rows.scalar_type(), op, [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    using T = accumulate_t<scalar_t>;
    const Slices<scalar_t> slices(rows, columns, grad.size(2), grad.size(3));
    const auto attention = attention_of<T>(parameters, channels, groups, eps, shuffle);
    SliceGradients<scalar_t> gradients(slices, attention, d_rows, d_columns);
    is_channels_last(grad) ? backward_channels_last(grad, gradients) : backward_planes(grad, gradients);
    return reduce_parameter_gradients(gradients.sums, attention, parameters[0]);
  });
  return {d_rows, d_columns, p[0], p[1], p[2], p[3], p[4], p[5]};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(toplight_ext, CPU, m) {
  m.impl("upsample_shuffle_attention", TORCH_BOX(upsample_shuffle_attention));
  m.impl("upsample_shuffle_attention_backward", TORCH_BOX(upsample_shuffle_attention_backward));
}

}  // namespace toplight::cpu
