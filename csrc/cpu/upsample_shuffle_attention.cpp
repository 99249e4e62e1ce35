// upsample_shuffle_attention: vectors (B, C_r, n_h) and (B, C_c, n_v) -> map (B, C_r + C_c, H, W): interpolated along
// H and W, concatenated, attended to, shuffled. Every channel is computed on its H or W values; the map is written
// once and never read. Backward reads dy once and keeps nothing but the vectors.
#include "slices.h"

namespace toplight::cpu {
namespace {

template <typename scalar_t>
void forward(const Tensor& rows, const Tensor& columns, const AttentionArguments& arguments, Tensor& y) {
  using T = accumulate_t<scalar_t>;
  constexpr int64_t kLanes = Pack<T>::kLanes;
  const Map map = map_of(y);
  const SliceAttention<scalar_t> slices(rows, columns, map.height, map.width, arguments);
  const int64_t half = map.channels / 2;
  const Blocks blocks(map, half, kLanes, 2 * map.positions());
  auto* target = y.mutable_data_ptr<scalar_t>();
  for_blocks(map.batch, blocks, 2 * blocks.bundles() * map.positions() * kLanes, [&] {
    return [&,
            bundles = std::vector<Lanes>(),
            shuffled = std::vector<Lanes>(),
            walk = Walk<T>(2 * blocks.bundles(), map.height, map.width),
            profiles = Profiles<T>(2 * blocks.bundles(), map.height, map.width),
            gated = std::vector<Profile<T>>(),
            scratch = Buffer<T>(slices.longest() * kLanes)](int64_t b, int64_t block) mutable {
      blocks.lanes(block, {0, half}, bundles);
      slices.attention.output(bundles, shuffled);
      gated.clear();
      for (size_t j = 0; j < bundles.size(); ++j) {
        gated.push_back(
            slices.attend_profiles(b, bundles[j], {profiles.rows(j), profiles.columns(j)}, scratch.get()));
      }
      walk.write(gated, shuffled, map, target + b * map.batch_stride);
    };
  });
}

template <typename scalar_t>
void backward(
    const Tensor& grad,
    const Tensor& rows,
    const Tensor& columns,
    const AttentionArguments& arguments,
    Tensor& d_rows,
    Tensor& d_columns,
    ParameterTensors& d_parameters) {
  using T = accumulate_t<scalar_t>;
  constexpr int64_t kLanes = Pack<T>::kLanes;
  const Map dy = map_of(grad);
  const SliceAttention<scalar_t> slices(rows, columns, dy.height, dy.width, arguments);
  SliceGradients<scalar_t> gradients(slices, d_rows, d_columns);
  const int64_t half = dy.channels / 2;
  const Blocks blocks(dy, half, kLanes, 2 * dy.positions());
  const auto* source = grad.const_data_ptr<scalar_t>();
  for_blocks(dy.batch, blocks, 2 * blocks.bundles() * dy.positions() * kLanes, [&] {
    return [&,
            bundles = std::vector<Lanes>(),
            shuffled = std::vector<Lanes>(),
            walk = Walk<T>(2 * blocks.bundles(), dy.height, dy.width),
            profiles = Profiles<T>(2 * blocks.bundles(), dy.height, dy.width),
            scratch = Buffer<T>(3 * slices.longest() * kLanes)](int64_t b, int64_t block) mutable {
      blocks.lanes(block, {0, half}, bundles);
      slices.attention.output(bundles, shuffled);
      const auto sums = profiles.both(bundles.size());
      walk.sum(source + b * dy.batch_stride, dy, shuffled, sums);
      for (size_t j = 0; j < bundles.size(); ++j) {
        gradients.add(b, bundles[j], sums[j], scratch.get());
      }
    };
  });
  gradients.reduce(arguments, d_parameters);
}

}  // namespace

void upsample_shuffle_attention(
    const Tensor& rows,
    const Tensor& columns,
    const AttentionArguments& arguments,
    Tensor& y) {
  dispatch_floating(rows.scalar_type(), "upsample_shuffle_attention", [&](auto tag) {
    forward<typename decltype(tag)::type>(rows, columns, arguments, y);
  });
}

void upsample_shuffle_attention_backward(
    const Tensor& grad,
    const Tensor& rows,
    const Tensor& columns,
    const AttentionArguments& arguments,
    Tensor& d_rows,
    Tensor& d_columns,
    ParameterTensors& d_parameters) {
  dispatch_floating(rows.scalar_type(), "upsample_shuffle_attention_backward", [&](auto tag) {
    backward<typename decltype(tag)::type>(grad, rows, columns, arguments, d_rows, d_columns, d_parameters);
  });
}

}  // namespace toplight::cpu
