// slice_pool_upsample: x (B, C, H, W) -> (B, 2C, H, W), the slice means of x interpolated back to H x W; the first
// C channels vary along H only, the others along W only. Forward reads x once and writes y once; backward reads dy
// once and writes dx once, and needs no x.
#include "kernels.h"
#include "profiles.h"

namespace toplight::cpu {
namespace {

// A profile of sums over the other axis to the interpolated means of its slices, or backward: to the gradient of x.
template <bool kBackward, typename T>
void smooth(const Axis<T>& axis, T* slices, T* profile) {
  if constexpr (kBackward) {
    axis.upsample_backward(profile, slices);
    axis.pool_backward(slices, profile);
  } else {
    axis.pool(profile, slices);
    axis.upsample(slices, profile);
  }
}

// x to y, or backward the gradient of y to that of x: what has 2C channels has them as row channels, then column ones.
template <bool kBackward, typename scalar_t>
void through_slices(const Tensor& from, int64_t n_h, int64_t n_v, Tensor& to) {
  using T = accumulate_t<scalar_t>;
  constexpr int64_t kLanes = Pack<T>::kLanes;
  const Map in = map_of(from), out = map_of(to);
  const int64_t channels = std::min(in.channels, out.channels);
  const Axis<T> vertical(in.height, n_h, in.width), horizontal(in.width, n_v, in.height);
  const Blocks blocks(in, channels, kLanes, 2 * in.positions());
  const auto* source = from.const_data_ptr<scalar_t>();
  auto* target = to.mutable_data_ptr<scalar_t>();
  for_blocks(in.batch, blocks, 3 * in.positions() * blocks.bundles() * kLanes, [&] {
    return [&,
            single = std::vector<Lanes>(),
            doubled = std::vector<Lanes>(),
            walk = Walk<T>(2 * blocks.bundles(), in.height, in.width),
            profiles = Profiles<T>(blocks.bundles(), in.height, in.width),
            slices = Buffer<T>(std::max(n_h, n_v) * kLanes)](int64_t b, int64_t block) mutable {
      blocks.lanes(block, {0}, single);
      blocks.lanes(block, {0, channels}, doubled);
      const int64_t count = single.size();
      walk.sum(
          source + b * in.batch_stride,
          in,
          kBackward ? doubled : single,
          kBackward ? profiles.rows_then_columns(count) : profiles.both(count));
      for (int64_t j = 0; j < count; ++j) {
        smooth<kBackward>(vertical, slices.get(), profiles.rows(j));
        smooth<kBackward>(horizontal, slices.get(), profiles.columns(j));
      }
      walk.write(
          kBackward ? profiles.both(count) : profiles.rows_then_columns(count),
          kBackward ? single : doubled,
          out,
          target + b * out.batch_stride);
    };
  });
}

}  // namespace

void slice_pool_upsample(const Tensor& x, int64_t n_h, int64_t n_v, Tensor& y) {
  dispatch_floating(x.scalar_type(), "slice_pool_upsample", [&](auto tag) {
    through_slices<false, typename decltype(tag)::type>(x, n_h, n_v, y);
  });
}

void slice_pool_upsample_backward(const Tensor& grad, int64_t n_h, int64_t n_v, Tensor& dx) {
  dispatch_floating(grad.scalar_type(), "slice_pool_upsample_backward", [&](auto tag) {
    through_slices<true, typename decltype(tag)::type>(grad, n_h, n_v, dx);
  });
}

}  // namespace toplight::cpu
