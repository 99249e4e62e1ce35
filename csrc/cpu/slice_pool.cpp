// slice_pool: x (B, C, H, W) -> rows (B, C, n_h), columns (B, C, n_v), the means of horizontal and vertical slices.
// One pass over x; backward writes dx once.
#include "kernels.h"
#include "profiles.h"

namespace toplight::cpu {
namespace {

template <typename scalar_t>
void pool(const Tensor& x, Tensor& rows, Tensor& columns) {
  using T = accumulate_t<scalar_t>;
  constexpr int64_t kLanes = Pack<T>::kLanes;
  const Map map = map_of(x), rows_map = row_map(rows), columns_map = row_map(columns);
  const Axis<T> vertical(map.height, rows_map.width, map.width), horizontal(map.width, columns_map.width, map.height);
  const Blocks blocks(map, map.channels, kLanes, map.positions());
  const auto* source = x.const_data_ptr<scalar_t>();
  auto* rows_target = rows.mutable_data_ptr<scalar_t>();
  auto* columns_target = columns.mutable_data_ptr<scalar_t>();
  for_blocks(map.batch, blocks, map.positions() * blocks.bundles() * kLanes, [&] {
    return [&,
            bundles = std::vector<Lanes>(),
            walk = Walk<T>(blocks.bundles(), map.height, map.width),
            sums = Profiles<T>(blocks.bundles(), map.height, map.width),
            means = Profiles<T>(blocks.bundles(), vertical.slices(), horizontal.slices())](
               int64_t b, int64_t block) mutable {
      blocks.lanes(block, {0}, bundles);
      walk.sum(source + b * map.batch_stride, map, bundles, sums.both(bundles.size()));
      for (size_t j = 0; j < bundles.size(); ++j) {
        vertical.pool(sums.rows(j), means.rows(j));
        horizontal.pool(sums.columns(j), means.columns(j));
      }
      write_tiles(means.rows(0), bundles, kOneRow, rows_map, rows_target + b * rows_map.batch_stride);
      write_tiles(means.columns(0), bundles, kOneRow, columns_map, columns_target + b * columns_map.batch_stride);
    };
  });
}

template <typename scalar_t>
void pool_backward(const Tensor& grad_rows, const Tensor& grad_columns, Tensor& dx) {
  using T = accumulate_t<scalar_t>;
  constexpr int64_t kLanes = Pack<T>::kLanes;
  const Map map = map_of(dx), rows_map = row_map(grad_rows), columns_map = row_map(grad_columns);
  const Axis<T> vertical(map.height, rows_map.width, map.width), horizontal(map.width, columns_map.width, map.height);
  const Blocks blocks(map, map.channels, kLanes, map.positions());
  const auto* rows_source = grad_rows.const_data_ptr<scalar_t>();
  const auto* columns_source = grad_columns.const_data_ptr<scalar_t>();
  auto* target = dx.mutable_data_ptr<scalar_t>();
  for_blocks(map.batch, blocks, map.positions() * blocks.bundles() * kLanes, [&] {
    return [&,
            bundles = std::vector<Lanes>(),
            walk = Walk<T>(blocks.bundles(), map.height, map.width),
            gradients = Profiles<T>(blocks.bundles(), vertical.slices(), horizontal.slices()),
            profiles = Profiles<T>(blocks.bundles(), map.height, map.width)](int64_t b, int64_t block) mutable {
      blocks.lanes(block, {0}, bundles);
      read_tiles(rows_source + b * rows_map.batch_stride, rows_map, bundles, kOneRow, gradients.rows(0));
      read_tiles(columns_source + b * columns_map.batch_stride, columns_map, bundles, kOneRow, gradients.columns(0));
      for (size_t j = 0; j < bundles.size(); ++j) {
        vertical.pool_backward(gradients.rows(j), profiles.rows(j));
        horizontal.pool_backward(gradients.columns(j), profiles.columns(j));
      }
      walk.write(profiles.both(bundles.size()), bundles, map, target + b * map.batch_stride);
    };
  });
}

}  // namespace

void slice_pool(const Tensor& x, Tensor& rows, Tensor& columns) {
  dispatch_floating(x.scalar_type(), "slice_pool", [&](auto tag) {
    pool<typename decltype(tag)::type>(x, rows, columns);
  });
}

void slice_pool_backward(const Tensor& grad_rows, const Tensor& grad_columns, Tensor& dx) {
  dispatch_floating(dx.scalar_type(), "slice_pool_backward", [&](auto tag) {
    pool_backward<typename decltype(tag)::type>(grad_rows, grad_columns, dx);
  });
}

}  // namespace toplight::cpu
