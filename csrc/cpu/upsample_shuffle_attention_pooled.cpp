// upsample_shuffle_attention_pooled: the means (B, C_r + C_c) over H x W of what upsample_shuffle_attention would
// write, from the profiles alone. Nothing of the size of a map is read or written, forward or backward.
#include "slices.h"

namespace toplight::cpu {
namespace {

template <typename scalar_t, typename T>
void forward_pooled(const Slices<scalar_t>& slices, const Attention<T>& attention, Tensor& means) {
  const int64_t channels = slices.channels();
  auto* target = means.mutable_data_ptr<scalar_t>();
  parallel_tasks(slices.rows.batch * channels, 8 * slices.longest(), [&](int64_t begin, int64_t end) {
    std::vector<T> scratch(slices.longest()), profile(slices.longest());
    for (int64_t plane = begin; plane < end; ++plane) {
      const int64_t b = plane / channels, c = plane % channels, length = slices.axis(c).length();
      attend_profile(slices, attention, b, c, scratch, profile);
      const T total = sum<T>(length, [&](int64_t i) { return profile[i]; });
      target[b * channels + attention.output_channel(c)] = static_cast<scalar_t>(total / static_cast<T>(length));
    }
  });
}

template <typename scalar_t>
void backward_pooled(const Tensor& grad, SliceGradients<scalar_t>& gradients) {
  using T = accumulate_t<scalar_t>;
  const int64_t channels = gradients.slices.channels(), longest = gradients.slices.longest();
  const auto* source = grad.const_data_ptr<scalar_t>();
  const int64_t batch_stride = grad.stride(0), channel_stride = grad.stride(1);
  parallel_tasks(grad.size(0) * channels, 16 * longest, [&](int64_t begin, int64_t end) {
    std::vector<T> profile(longest);
    std::vector<T> scratch[3] = {std::vector<T>(longest), std::vector<T>(longest), std::vector<T>(longest)};
    for (int64_t plane = begin; plane < end; ++plane) {
      const int64_t b = plane / channels, c = plane % channels, length = gradients.slices.axis(c).length();
      const T dy = static_cast<T>(
          source[b * batch_stride + gradients.attention.output_channel(c) * channel_stride]);
      std::fill_n(profile.data(), length, dy / static_cast<T>(length));
      gradients.add(b, c, profile.data(), scratch);
    }
  });
}

Tensor upsample_shuffle_attention_pooled(
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
    bool shuffle) {
  const char* op = "upsample_shuffle_attention_pooled";
  check_slice_vectors(rows, columns, op);
  check_extent(height, width, op);
  const int64_t channels = rows.size(1) + columns.size(1);
  const auto parameters = check_parameters(
      {&channel_weight, &channel_bias, &spatial_weight, &spatial_bias, &norm_weight, &norm_bias},
      rows,
      channels,
      groups,
      op);
  Tensor means = empty({rows.size(0), channels}, rows.scalar_type(), rows);
  dispatch_floating(rows.scalar_type(), op, [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    const Slices<scalar_t> slices(rows, columns, height, width);
    const auto attention = attention_of<accumulate_t<scalar_t>>(parameters, channels, groups, eps, shuffle);
    forward_pooled(slices, attention, means);
  });
  return means;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> upsample_shuffle_attention_pooled_backward(
    const Tensor& grad,
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
    bool shuffle) {
  const char* op = "upsample_shuffle_attention_pooled_backward";
  check_slice_vectors(rows, columns, op);
  check_same(grad, rows, op, "grad");
  check_extent(height, width, op);
  const int64_t channels = rows.size(1) + columns.size(1);
  const auto parameters = check_parameters(
      {&channel_weight, &channel_bias, &spatial_weight, &spatial_bias, &norm_weight, &norm_bias},
      rows,
      channels,
      groups,
      op);
  check_size(grad, {rows.size(0), channels}, op, "grad");
  Tensor d_rows = empty({rows.size(0), rows.size(1), rows.size(2)}, rows.scalar_type(), rows);
  Tensor d_columns = empty({columns.size(0), columns.size(1), columns.size(2)}, rows.scalar_type(), rows);
  const SixTensors p = dispatch_floating(rows.scalar_type(), op, [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    using T = accumulate_t<scalar_t>;
    const Slices<scalar_t> slices(rows, columns, height, width);
    const auto attention = attention_of<T>(parameters, channels, groups, eps, shuffle);
    SliceGradients<scalar_t> gradients(slices, attention, d_rows, d_columns);
    backward_pooled(grad, gradients);
    return reduce_parameter_gradients(gradients.sums, attention, parameters[0]);
  });
  return {d_rows, d_columns, p[0], p[1], p[2], p[3], p[4], p[5]};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(toplight_ext, CPU, m) {
  m.impl("upsample_shuffle_attention_pooled", TORCH_BOX(upsample_shuffle_attention_pooled));
  m.impl("upsample_shuffle_attention_pooled_backward", TORCH_BOX(upsample_shuffle_attention_pooled_backward));
}

}  // namespace toplight::cpu
