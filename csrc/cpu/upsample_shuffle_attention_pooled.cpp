// upsample_shuffle_attention_pooled: the means (B, C_r + C_c) over H x W of what upsample_shuffle_attention would
// write, from the profiles alone. Nothing of the size of a map is read or written, forward or backward.
#include "slices.h"

namespace toplight::cpu {
namespace {

// (B, C) as maps of one position.
Map point_map(const Tensor& points) {
  return {points.size(0), points.size(1), 1, 1, points.stride(0), points.stride(1), 0, 0};
}

template <typename scalar_t>
void forward(
    const Tensor& rows,
    const Tensor& columns,
    int64_t height,
    int64_t width,
    const AttentionArguments& arguments,
    Tensor& means) {
  using T = accumulate_t<scalar_t>;
  constexpr int64_t kLanes = Pack<T>::kLanes;
  const SliceAttention<scalar_t> slices(rows, columns, height, width, arguments);
  const Map map = point_map(means);
  const int64_t half = map.channels / 2;
  const Blocks blocks(map, half, kLanes, 2 * slices.longest());
  auto* target = means.mutable_data_ptr<scalar_t>();
  const auto mean_of = [](const T* profile, int64_t length) {
    const auto [total] =
        sum<1, T>(length, [&](int64_t i, auto& terms) { terms[0] = Pack<T>::load(profile + i * kLanes); });
    return total / Pack<T>(static_cast<T>(length));
  };
  for_blocks(map.batch, blocks, 8 * blocks.bundles() * slices.longest() * kLanes, [&] {
    return [&,
            bundles = std::vector<Lanes>(),
            shuffled = std::vector<Lanes>(),
            tiles = Buffer<T>(2 * blocks.bundles() * kLanes),
            profiles = Profiles<T>(1, height, width),
            scratch = Buffer<T>(slices.longest() * kLanes)](int64_t b, int64_t block) mutable {
      blocks.lanes(block, {0, half}, bundles);
      slices.attention.output(bundles, shuffled);
      for (size_t j = 0; j < bundles.size(); ++j) {
        const auto gated =
            slices.attend_profiles(b, bundles[j], {profiles.rows(0), profiles.columns(0)}, scratch.get());
        Pack<T> mean(T(0));
        if (gated.rows) {
          mean += mean_of(gated.rows, height);
        }
        if (gated.columns) {
          mean += mean_of(gated.columns, width);
        }
        mean.store(tiles + j * kLanes);
      }
      write_tiles<T>(tiles.get(), shuffled, kOneRow, map, target + b * map.batch_stride);
    };
  });
}

template <typename scalar_t>
void backward(
    const Tensor& grad,
    const Tensor& rows,
    const Tensor& columns,
    int64_t height,
    int64_t width,
    const AttentionArguments& arguments,
    Tensor& d_rows,
    Tensor& d_columns,
    ParameterTensors& d_parameters) {
  using T = accumulate_t<scalar_t>;
  constexpr int64_t kLanes = Pack<T>::kLanes;
  const SliceAttention<scalar_t> slices(rows, columns, height, width, arguments);
  SliceGradients<scalar_t> gradients(slices, d_rows, d_columns);
  const Map map = point_map(grad);
  const int64_t half = map.channels / 2;
  const Blocks blocks(map, half, kLanes, 2 * slices.longest());
  const auto* source = grad.const_data_ptr<scalar_t>();
  const auto spread = [](const T* dy, int64_t length, T* profile) {
    const auto share = Pack<T>::load(dy) / Pack<T>(static_cast<T>(length));
    for (int64_t i = 0; i < length; ++i) {
      share.store(profile + i * kLanes);
    }
  };
  for_blocks(map.batch, blocks, 16 * blocks.bundles() * slices.longest() * kLanes, [&] {
    return [&,
            bundles = std::vector<Lanes>(),
            shuffled = std::vector<Lanes>(),
            tiles = Buffer<T>(2 * blocks.bundles() * kLanes),
            profiles = Profiles<T>(1, height, width),
            scratch = Buffer<T>(3 * slices.longest() * kLanes)](int64_t b, int64_t block) mutable {
      blocks.lanes(block, {0, half}, bundles);
      slices.attention.output(bundles, shuffled);
      read_tiles<T>(source + b * map.batch_stride, map, shuffled, kOneRow, tiles.get());
      for (size_t j = 0; j < bundles.size(); ++j) {
        spread(tiles + j * kLanes, height, profiles.rows(0));
        spread(tiles + j * kLanes, width, profiles.columns(0));
        gradients.add(b, bundles[j], {profiles.rows(0), profiles.columns(0)}, scratch.get());
      }
    };
  });
  gradients.reduce(arguments, d_parameters);
}

}  // namespace

void upsample_shuffle_attention_pooled(
    const Tensor& rows,
    const Tensor& columns,
    int64_t height,
    int64_t width,
    const AttentionArguments& arguments,
    Tensor& means) {
  dispatch_floating(rows.scalar_type(), "upsample_shuffle_attention_pooled", [&](auto tag) {
    forward<typename decltype(tag)::type>(rows, columns, height, width, arguments, means);
  });
}

void upsample_shuffle_attention_pooled_backward(
    const Tensor& grad,
    const Tensor& rows,
    const Tensor& columns,
    int64_t height,
    int64_t width,
    const AttentionArguments& arguments,
    Tensor& d_rows,
    Tensor& d_columns,
    ParameterTensors& d_parameters) {
  dispatch_floating(rows.scalar_type(), "upsample_shuffle_attention_pooled_backward", [&](auto tag) {
    backward<typename decltype(tag)::type>(
        grad, rows, columns, height, width, arguments, d_rows, d_columns, d_parameters);
  });
}

}  // namespace toplight::cpu
