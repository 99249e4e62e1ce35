// slice_pool_upsample: x (B, C, H, W) -> (B, 2C, H, W), the slice means of x interpolated back to H x W; the first
// C channels vary along H only, the others along W only. Forward reads x once and writes y once; backward reads dy
// once and writes dx once, and needs no x.
#include "planes.h"

namespace toplight::cpu {
namespace {

// Scratch of one thread for `block` channels: profiles along H and W, and the slices between two of them.
template <typename T>
struct Profiles {
  Profiles(int64_t height, int64_t width, int64_t slices, int64_t block)
      : rows(height * block), columns(width * block), slices(slices * block) {}

  std::vector<T> rows;
  std::vector<T> columns;
  std::vector<T> slices;
};

// Sums over the other axis become the interpolated means, in place.
template <typename T>
void smooth(const Axis<T>& axis, int64_t across, int64_t block, std::vector<T>& slices, std::vector<T>& profile) {
  axis.pool(profile.data(), across, block, slices.data());
  axis.upsample(slices.data(), block, profile.data());
}

// The transpose: sums of dy over the other axis become the gradient of one position of x.
template <typename T>
void smooth_backward(
    const Axis<T>& axis,
    int64_t across,
    int64_t block,
    std::vector<T>& slices,
    std::vector<T>& profile) {
  axis.upsample_backward(profile.data(), block, slices.data());
  axis.pool_backward(slices.data(), across, block, profile.data());
}

template <typename scalar_t>
void forward_planes(const Tensor& x, int64_t n_h, int64_t n_v, Tensor& y) {
  using T = accumulate_t<scalar_t>;
  const Map map = map_of(x), out = map_of(y);
  const Axis<T> vertical(map.height, n_h), horizontal(map.width, n_v);
  const auto* source = x.const_data_ptr<scalar_t>();
  auto* target = y.mutable_data_ptr<scalar_t>();
  parallel_tasks(map.batch * map.channels, 3 * map.positions(), [&](int64_t begin, int64_t end) {
    Profiles<T> profiles(map.height, map.width, std::max(n_h, n_v), 1);
    std::vector<T> scratch(map.positions());
    const std::vector<T> no_rows(map.height), no_columns(map.width);
    for (int64_t plane = begin; plane < end; ++plane) {
      const int64_t b = plane / map.channels, c = plane % map.channels;
      const T* values = read_plane(source + map.offset(b, c), map, scratch.data());
      plane_sums(values, map.height, map.width, profiles.rows.data(), profiles.columns.data());
      smooth(vertical, map.width, 1, profiles.slices, profiles.rows);
      smooth(horizontal, map.height, 1, profiles.slices, profiles.columns);
      write_plane(profiles.rows.data(), no_columns.data(), map.height, map.width, target + out.offset(b, c));
      write_plane(
          no_rows.data(), profiles.columns.data(), map.height, map.width, target + out.offset(b, map.channels + c));
    }
  });
}

template <typename scalar_t>
void forward_channels_last(const Tensor& x, int64_t n_h, int64_t n_v, Tensor& y) {
  using T = accumulate_t<scalar_t>;
  const Map map = map_of(x), out = map_of(y);
  const Axis<T> vertical(map.height, n_h), horizontal(map.width, n_v);
  const int64_t block = channel_block(map.channels, map.height + map.width);
  const int64_t blocks = (map.channels + block - 1) / block;
  const auto* source = x.const_data_ptr<scalar_t>();
  auto* target = y.mutable_data_ptr<scalar_t>();
  parallel_tasks(map.batch * blocks, 3 * map.positions() * block, [&](int64_t begin, int64_t end) {
    Profiles<T> profiles(map.height, map.width, std::max(n_h, n_v), block);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t b = task / blocks, c = task % blocks * block;
      const int64_t width = std::min(block, map.channels - c);
      block_sums(source + map.offset(b, c), map, width, profiles.rows.data(), profiles.columns.data());
      smooth(vertical, map.width, width, profiles.slices, profiles.rows);
      smooth(horizontal, map.height, width, profiles.slices, profiles.columns);
      scalar_t* y_rows = target + out.offset(b, c);
      for (int64_t h = 0; h < map.height; ++h) {
        const T* row = profiles.rows.data() + h * width;
        for (int64_t w = 0; w < map.width; ++w, y_rows += out.channels) {
          const T* column = profiles.columns.data() + w * width;
          scalar_t* y_columns = y_rows + map.channels;
          for (int64_t k = 0; k < width; ++k) {
            y_rows[k] = static_cast<scalar_t>(row[k]);
            y_columns[k] = static_cast<scalar_t>(column[k]);
          }
        }
      }
    }
  });
}

Tensor slice_pool_upsample(const Tensor& x, int64_t n_h, int64_t n_v) {
  check_map(x, "slice_pool_upsample", "x");
  check_slices(n_h, n_v, "slice_pool_upsample");
  const bool channels_last = is_channels_last(x);
  Tensor y = empty_map({x.size(0), 2 * x.size(1), x.size(2), x.size(3)}, x, channels_last);
  dispatch_floating(x.scalar_type(), "slice_pool_upsample", [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    channels_last ? forward_channels_last<scalar_t>(x, n_h, n_v, y) : forward_planes<scalar_t>(x, n_h, n_v, y);
  });
  return y;
}

template <typename scalar_t>
void backward_planes(const Tensor& grad, int64_t n_h, int64_t n_v, Tensor& dx) {
  using T = accumulate_t<scalar_t>;
  const Map dy = map_of(grad), map = map_of(dx);
  const Axis<T> vertical(map.height, n_h), horizontal(map.width, n_v);
  const auto* source = grad.const_data_ptr<scalar_t>();
  auto* target = dx.mutable_data_ptr<scalar_t>();
  parallel_tasks(map.batch * map.channels, 3 * map.positions(), [&](int64_t begin, int64_t end) {
    Profiles<T> profiles(map.height, map.width, std::max(n_h, n_v), 1);
    std::vector<T> scratch(map.positions()), unused(std::max(map.height, map.width));
    for (int64_t plane = begin; plane < end; ++plane) {
      const int64_t b = plane / map.channels, c = plane % map.channels;
      const T* of_rows = read_plane(source + dy.offset(b, c), dy, scratch.data());
      plane_sums(of_rows, map.height, map.width, profiles.rows.data(), unused.data());
      const T* of_columns = read_plane(source + dy.offset(b, map.channels + c), dy, scratch.data());
      plane_sums(of_columns, map.height, map.width, unused.data(), profiles.columns.data());
      smooth_backward(vertical, map.width, 1, profiles.slices, profiles.rows);
      smooth_backward(horizontal, map.height, 1, profiles.slices, profiles.columns);
      write_plane(
          profiles.rows.data(), profiles.columns.data(), map.height, map.width, target + map.offset(b, c));
    }
  });
}

// Sums of the row channels over w and of the column channels over h, in one walk over the positions.
template <typename T, typename scalar_t>
void gradient_sums(const scalar_t* source, const Map& dy, int64_t block, Profiles<T>& profiles) {
  std::fill_n(profiles.rows.data(), dy.height * block, T(0));
  std::fill_n(profiles.columns.data(), dy.width * block, T(0));
  for (int64_t h = 0; h < dy.height; ++h) {
    T* row = profiles.rows.data() + h * block;
    for (int64_t w = 0; w < dy.width; ++w) {
      const scalar_t* of_rows = source + h * dy.height_stride + w * dy.width_stride;
      const scalar_t* of_columns = of_rows + dy.channels / 2;
      T* column = profiles.columns.data() + w * block;
      for (int64_t k = 0; k < block; ++k) {
        row[k] += static_cast<T>(of_rows[k]);
        column[k] += static_cast<T>(of_columns[k]);
      }
    }
  }
}

template <typename scalar_t>
void backward_channels_last(const Tensor& grad, int64_t n_h, int64_t n_v, Tensor& dx) {
  using T = accumulate_t<scalar_t>;
  const Map dy = map_of(grad), map = map_of(dx);
  const Axis<T> vertical(map.height, n_h), horizontal(map.width, n_v);
  const int64_t block = channel_block(map.channels, map.height + map.width);
  const int64_t blocks = (map.channels + block - 1) / block;
  const auto* source = grad.const_data_ptr<scalar_t>();
  auto* target = dx.mutable_data_ptr<scalar_t>();
  parallel_tasks(map.batch * blocks, 3 * map.positions() * block, [&](int64_t begin, int64_t end) {
    Profiles<T> profiles(map.height, map.width, std::max(n_h, n_v), block);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t b = task / blocks, c = task % blocks * block;
      const int64_t width = std::min(block, map.channels - c);
      gradient_sums(source + dy.offset(b, c), dy, width, profiles);
      smooth_backward(vertical, map.width, width, profiles.slices, profiles.rows);
      smooth_backward(horizontal, map.height, width, profiles.slices, profiles.columns);
      write_block(
          profiles.rows.data(),
          profiles.columns.data(),
          map.height,
          map.width,
          width,
          map.channels,
          target + map.offset(b, c));
    }
  });
}

Tensor slice_pool_upsample_backward(const Tensor& grad, int64_t n_h, int64_t n_v) {
  const char* op = "slice_pool_upsample_backward";
  check_map(grad, op, "grad");
  check_slices(n_h, n_v, op);
  STD_TORCH_CHECK(grad.size(1) % 2 == 0, op, ": grad must have an even number of channels, got ", grad.size(1));
  const bool channels_last = is_channels_last(grad);
  Tensor dx = empty_map({grad.size(0), grad.size(1) / 2, grad.size(2), grad.size(3)}, grad, channels_last);
  dispatch_floating(grad.scalar_type(), op, [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    channels_last ? backward_channels_last<scalar_t>(grad, n_h, n_v, dx)
                  : backward_planes<scalar_t>(grad, n_h, n_v, dx);
  });
  return dx;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(toplight_ext, CPU, m) {
  m.impl("slice_pool_upsample", TORCH_BOX(slice_pool_upsample));
  m.impl("slice_pool_upsample_backward", TORCH_BOX(slice_pool_upsample_backward));
}

}  // namespace toplight::cpu
