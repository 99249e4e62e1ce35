// slice_pool: x (B, C, H, W) -> rows (B, C, n_h), columns (B, C, n_v), the means of horizontal and vertical slices.
// One pass over x; backward writes dx once.
#include "planes.h"

namespace toplight::cpu {
namespace {

// The slices of `block` channels as (slices, block) and the dense (B, C, slices) vectors.
template <typename T, typename scalar_t>
void write_slices(const T* slices, const Axis<T>& axis, int64_t block, scalar_t* target) {
  for (int64_t k = 0; k < block; ++k) {
    write_vector(slices + k, axis.slices(), block, target + k * axis.slices());
  }
}

template <typename scalar_t>
void pool_planes(const Tensor& x, int64_t n_h, int64_t n_v, Tensor& rows, Tensor& columns) {
  using T = accumulate_t<scalar_t>;
  const Map map = map_of(x);
  const Axis<T> vertical(map.height, n_h), horizontal(map.width, n_v);
  const auto* source = x.const_data_ptr<scalar_t>();
  auto* rows_out = rows.mutable_data_ptr<scalar_t>();
  auto* columns_out = columns.mutable_data_ptr<scalar_t>();
  parallel_tasks(map.batch * map.channels, map.positions(), [&](int64_t begin, int64_t end) {
    std::vector<T> scratch(map.positions()), sums(map.height + map.width), means(std::max(n_h, n_v));
    for (int64_t plane = begin; plane < end; ++plane) {
      const int64_t offset = map.offset(plane / map.channels, plane % map.channels);
      const T* values = read_plane(source + offset, map, scratch.data());
      T* const column_sums = sums.data() + map.height;
      plane_sums(values, map.height, map.width, sums.data(), column_sums);
      vertical.pool(sums.data(), map.width, 1, means.data());
      write_slices(means.data(), vertical, 1, rows_out + plane * n_h);
      horizontal.pool(column_sums, map.height, 1, means.data());
      write_slices(means.data(), horizontal, 1, columns_out + plane * n_v);
    }
  });
}

template <typename scalar_t>
void pool_channels_last(const Tensor& x, int64_t n_h, int64_t n_v, Tensor& rows, Tensor& columns) {
  using T = accumulate_t<scalar_t>;
  const Map map = map_of(x);
  const Axis<T> vertical(map.height, n_h), horizontal(map.width, n_v);
  const int64_t block = channel_block(map.channels, map.height + map.width);
  const int64_t blocks = (map.channels + block - 1) / block;
  const auto* source = x.const_data_ptr<scalar_t>();
  auto* rows_out = rows.mutable_data_ptr<scalar_t>();
  auto* columns_out = columns.mutable_data_ptr<scalar_t>();
  parallel_tasks(map.batch * blocks, map.positions() * block, [&](int64_t begin, int64_t end) {
    std::vector<T> sums((map.height + map.width) * block), means(std::max(n_h, n_v) * block);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t b = task / blocks, c = task % blocks * block;
      const int64_t width = std::min(block, map.channels - c);
      T* const column_sums = sums.data() + map.height * width;
      block_sums(source + map.offset(b, c), map, width, sums.data(), column_sums);
      vertical.pool(sums.data(), map.width, width, means.data());
      write_slices(means.data(), vertical, width, rows_out + (b * map.channels + c) * n_h);
      horizontal.pool(column_sums, map.height, width, means.data());
      write_slices(means.data(), horizontal, width, columns_out + (b * map.channels + c) * n_v);
    }
  });
}

std::tuple<Tensor, Tensor> slice_pool(const Tensor& x, int64_t n_h, int64_t n_v) {
  check_map(x, "slice_pool", "x");
  check_slices(n_h, n_v, "slice_pool");
  Tensor rows = empty({x.size(0), x.size(1), n_h}, x.scalar_type(), x);
  Tensor columns = empty({x.size(0), x.size(1), n_v}, x.scalar_type(), x);
  dispatch_floating(x.scalar_type(), "slice_pool", [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    is_channels_last(x) ? pool_channels_last<scalar_t>(x, n_h, n_v, rows, columns)
                        : pool_planes<scalar_t>(x, n_h, n_v, rows, columns);
  });
  return {rows, columns};
}

// The gradient along one axis of `block` channels of image b from channel c on, as a (length, block) profile.
template <typename T, typename scalar_t>
void read_pool_gradient(
    const scalar_t* gradients,
    const Vectors& vectors,
    int64_t b,
    int64_t c,
    int64_t block,
    const Axis<T>& axis,
    int64_t across,
    T* slices,
    T* profile) {
  for (int64_t i = 0; i < axis.slices(); ++i) {
    read_vector(
        gradients + vectors.offset(b, c) + i * vectors.slice_stride, block, vectors.channel_stride, slices + i * block);
  }
  axis.pool_backward(slices, across, block, profile);
}

template <typename scalar_t>
void pool_backward(const Tensor& grad_rows, const Tensor& grad_columns, bool channels_last, Tensor& dx) {
  using T = accumulate_t<scalar_t>;
  const Map map = map_of(dx);
  const Vectors rows = vectors_of(grad_rows), columns = vectors_of(grad_columns);
  const Axis<T> vertical(map.height, rows.slices), horizontal(map.width, columns.slices);
  const int64_t block = channels_last ? channel_block(map.channels, map.height + map.width) : 1;
  const int64_t blocks = (map.channels + block - 1) / block;
  const auto* rows_in = grad_rows.const_data_ptr<scalar_t>();
  const auto* columns_in = grad_columns.const_data_ptr<scalar_t>();
  auto* target = dx.mutable_data_ptr<scalar_t>();
  parallel_tasks(map.batch * blocks, map.positions() * block, [&](int64_t begin, int64_t end) {
    std::vector<T> slices(std::max(rows.slices, columns.slices) * block);
    std::vector<T> row_profile(map.height * block), column_profile(map.width * block);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t b = task / blocks, c = task % blocks * block;
      const int64_t width = std::min(block, map.channels - c);
      read_pool_gradient(rows_in, rows, b, c, width, vertical, map.width, slices.data(), row_profile.data());
      read_pool_gradient(
          columns_in, columns, b, c, width, horizontal, map.height, slices.data(), column_profile.data());
      scalar_t* y = target + map.offset(b, c);
      if (channels_last) {
        write_block(row_profile.data(), column_profile.data(), map.height, map.width, width, map.channels, y);
      } else {
        write_plane(row_profile.data(), column_profile.data(), map.height, map.width, y);
      }
    }
  });
}

Tensor slice_pool_backward(
    const Tensor& grad_rows,
    const Tensor& grad_columns,
    int64_t height,
    int64_t width,
    bool channels_last) {
  const char* op = "slice_pool_backward";
  check_vectors(grad_rows, op, "grad_rows");
  check_vectors(grad_columns, op, "grad_columns");
  check_same(grad_columns, grad_rows, op, "grad_columns");
  check_size(grad_columns, {grad_rows.size(0), grad_rows.size(1), grad_columns.size(2)}, op, "grad_columns");
  check_extent(height, width, op);
  Tensor dx = empty_map({grad_rows.size(0), grad_rows.size(1), height, width}, grad_rows, channels_last);
  dispatch_floating(dx.scalar_type(), op, [&](auto tag) {
    pool_backward<typename decltype(tag)::type>(grad_rows, grad_columns, channels_last, dx);
  });
  return dx;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(toplight_ext, CPU, m) {
  m.impl("slice_pool", TORCH_BOX(slice_pool));
  m.impl("slice_pool_backward", TORCH_BOX(slice_pool_backward));
}

}  // namespace toplight::cpu
