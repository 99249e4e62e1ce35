// slice_pool_upsample: x (B, C, H, W) -> (B, 2C, H, W), the slice means of x interpolated back to H x W; the first
// C channels vary along H only, the others along W only. Forward reads x once and writes y once; backward reads dy
// once and writes dx once, and needs no x.
#include "kernels.h"
#include "profiles.h"

namespace toplight::cpu {
namespace {

template <typename scalar_t>
void forward(const Tensor& x, int64_t n_h, int64_t n_v, Tensor& y) {
  using T = accumulate_t<scalar_t>;
  constexpr int64_t kLanes = Pack<T>::kLanes;
  const Map map = map_of(x), out = map_of(y);
  const Axis<T> vertical(map.height, n_h, map.width), horizontal(map.width, n_v, map.height);
  const Blocks blocks(map, map.channels, kLanes, 2 * map.positions());
  const auto* source = x.const_data_ptr<scalar_t>();
  auto* target = y.mutable_data_ptr<scalar_t>();
  for_blocks(map.batch, blocks, 3 * map.positions() * blocks.bundles() * kLanes, [&] {
    return [&,
            bundles = std::vector<Lanes>(),
            halves = std::vector<Lanes>(),
            walk = Walk<T>(2 * blocks.bundles(), map.height, map.width),
            profiles = Profiles<T>(blocks.bundles(), map.height, map.width),
            slices = Buffer<T>(std::max(n_h, n_v) * kLanes)](int64_t b, int64_t block) mutable {
      blocks.lanes(block, {0}, bundles);
      blocks.lanes(block, {0, map.channels}, halves);
      walk.sum(source + b * map.batch_stride, map, bundles, profiles.both(bundles.size()));
      for (size_t j = 0; j < bundles.size(); ++j) {
        vertical.pool(profiles.rows(j), slices.get());
        vertical.upsample(slices.get(), profiles.rows(j));
        horizontal.pool(profiles.columns(j), slices.get());
        horizontal.upsample(slices.get(), profiles.columns(j));
      }
      walk.write(profiles.rows_then_columns(bundles.size()), halves, out, target + b * out.batch_stride);
    };
  });
}

template <typename scalar_t>
void backward(const Tensor& grad, int64_t n_h, int64_t n_v, Tensor& dx) {
  using T = accumulate_t<scalar_t>;
  constexpr int64_t kLanes = Pack<T>::kLanes;
  const Map dy = map_of(grad), map = map_of(dx);
  const Axis<T> vertical(map.height, n_h, map.width), horizontal(map.width, n_v, map.height);
  const Blocks blocks(map, map.channels, kLanes, 2 * map.positions());
  const auto* source = grad.const_data_ptr<scalar_t>();
  auto* target = dx.mutable_data_ptr<scalar_t>();
  for_blocks(map.batch, blocks, 3 * map.positions() * blocks.bundles() * kLanes, [&] {
    return [&,
            bundles = std::vector<Lanes>(),
            halves = std::vector<Lanes>(),
            walk = Walk<T>(2 * blocks.bundles(), map.height, map.width),
            profiles = Profiles<T>(blocks.bundles(), map.height, map.width),
            slices = Buffer<T>(std::max(n_h, n_v) * kLanes)](int64_t b, int64_t block) mutable {
      blocks.lanes(block, {0}, bundles);
      blocks.lanes(block, {0, map.channels}, halves);
      walk.sum(source + b * dy.batch_stride, dy, halves, profiles.rows_then_columns(bundles.size()));
      for (size_t j = 0; j < bundles.size(); ++j) {
        vertical.upsample_backward(profiles.rows(j), slices.get());
        vertical.pool_backward(slices.get(), profiles.rows(j));
        horizontal.upsample_backward(profiles.columns(j), slices.get());
        horizontal.pool_backward(slices.get(), profiles.columns(j));
      }
      walk.write(profiles.both(bundles.size()), bundles, map, target + b * map.batch_stride);
    };
  });
}

}  // namespace

void slice_pool_upsample(const Tensor& x, int64_t n_h, int64_t n_v, Tensor& y) {
  dispatch_floating(x.scalar_type(), "slice_pool_upsample", [&](auto tag) {
    forward<typename decltype(tag)::type>(x, n_h, n_v, y);
  });
}

void slice_pool_upsample_backward(const Tensor& grad, int64_t n_h, int64_t n_v, Tensor& dx) {
  dispatch_floating(grad.scalar_type(), "slice_pool_upsample_backward", [&](auto tag) {
    backward<typename decltype(tag)::type>(grad, n_h, n_v, dx);
  });
}

}  // namespace toplight::cpu
