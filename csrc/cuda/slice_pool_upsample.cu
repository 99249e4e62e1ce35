// slice_pool_upsample: x (B, C, H, W) -> (B, 2C, H, W); see plane.h for the slices.
//
// Per value of x, forward reads x and writes two values, backward reads two values of the gradient and writes dx.
// Both go: sums over rows and columns of a plane, through the slices of either axis, back to H and W values, out.
// Versions of the one kernel:
//   staged: a block copies some planes into shared memory, 16 bytes at a time, so the map is read once;
//   direct: for planes larger than that; a block takes one, straight from memory, reading x twice forward.
// No atomics; every sum has a fixed order.
#include "plane.h"
#include "reduce.cuh"
#include "tile.cuh"

namespace toplight::cuda {
namespace {

// One axis of the planes.
struct Axis {
  int length;
  int slices;
  int across;  // length of the other axis
};

struct Problem {
  View source, target;
  int channels;  // of x
  Axis rows, columns;
  int planes;  // channels per block
  int blocks;  // blocks per image
  TileShape tile;
  int tile_bytes;

  __host__ __device__ int profile() const {
    return rows.length + columns.length;
  }
  __host__ __device__ int slices() const {
    return rows.slices + columns.slices;
  }
};

// Value of slice `index` from the sums over the other axis: the mean of its positions.
template <typename T>
__device__ T pool(const T* sums, const Axis& axis, int index) {
  const auto [begin, end] = slice_interval(index, axis.length, axis.slices);
  T total = T(0);
  for (int position = begin; position < end; ++position) {
    total += sums[position];
  }
  return total / static_cast<T>((end - begin) * axis.across);
}

template <typename T>
__device__ T upsample(const T* slices, const Axis& axis, int position) {
  const auto tap = upsample_tap<T>(position, axis.length, axis.slices);
  return (T(1) - tap.weight) * slices[tap.first] + tap.weight * slices[tap.second];
}

// Gradient of slice `index` from the gradients of the positions, summed over the other axis.
template <typename T>
__device__ T upsample_backward(const T* sums, const Axis& axis, int index) {
  const auto [begin, end] = upsample_support(index, axis.length, axis.slices);
  T total = T(0);
  for (int position = begin; position < end; ++position) {
    total += tap_weight(upsample_tap<T>(position, axis.length, axis.slices), index) * sums[position];
  }
  return total;
}

// Gradient of one position of x from those of the slices that contain it.
template <typename T>
__device__ T pool_backward(const T* slices, const Axis& axis, int position) {
  const auto [first, last] = slice_interval(position, axis.slices, axis.length);
  T total = T(0);
  for (int index = first; index < last; ++index) {
    const auto [begin, end] = slice_interval(index, axis.length, axis.slices);
    total += slices[index] / static_cast<T>((end - begin) * axis.across);
  }
  return total;
}

// Sums over w of every row, and over h of every column, of the planes of a block: (planes, H + W). `planar` says that
// neighbouring positions, not neighbouring planes, lie beside one another in what rows and columns read.
template <typename T, typename Rows, typename Columns>
__device__ void sum_axes(
    const Problem& problem,
    int planes,
    bool planar,
    const Rows& row_value,
    const Columns& column_value,
    T* sums,
    T* scratch) {
  const int height = problem.rows.length, width = problem.columns.length, profile = problem.profile();
  const Group group(!planar ? 1 : width > 16 ? kWarp : 8);
  for (int first = 0; first < planes * height; first += group.count) {
    const int unit = first + group.index;
    const int plane = planar ? unit / height : unit % planes, row = planar ? unit % height : unit / planes;
    T total = T(0);
    if (unit < planes * height) {
      for (int column = group.lane; column < width; column += group.width) {
        total += row_value(plane, row, column);
      }
    }
    total = group.sum(total, scratch);
    if (unit < planes * height && group.lane == 0) {
      sums[plane * profile + row] = total;
    }
  }
  for (int unit = threadIdx.x; unit < planes * width; unit += kThreads) {
    const int plane = planar ? unit / width : unit % planes, column = planar ? unit % width : unit / planes;
    T total = T(0);
    for (int row = 0; row < height; ++row) {
      total += column_value(plane, row, column);
    }
    sums[plane * profile + height + column] = total;
  }
}

template <typename scalar_t, bool kBackward, bool kStaged>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor<scalar_t>) through_slices(
    const scalar_t* __restrict__ source,  // x, or backward the gradient, (B, 2C, H, W)
    scalar_t* __restrict__ target,  // (B, 2C, H, W), or backward dx
    const Problem problem) {
  using T = accumulate_t<scalar_t>;
  extern __shared__ __align__(kVectorBytes) unsigned char memory[];
  scalar_t* tile = reinterpret_cast<scalar_t*>(memory);  // (1 or 2 runs, planes)
  T* profiles = reinterpret_cast<T*>(memory + problem.tile_bytes);  // (planes, H + W)
  T* slices = profiles + problem.planes * problem.profile();  // (planes, n_h + n_v)
  T* scratch = slices + problem.planes * problem.slices();

  const Axis rows = problem.rows, columns = problem.columns;
  const int64_t b = blockIdx.x / problem.blocks;
  const int c = blockIdx.x % problem.blocks * problem.planes;
  const int planes = min(problem.planes, problem.channels - c);
  const View& view = problem.source;
  const scalar_t* of_rows = source + view.offset(b, c);
  const scalar_t* of_columns = kBackward ? of_rows + view.offset(0, problem.channels) : of_rows;
  if (kStaged) {
    const TileShape& shape = problem.tile;
    read_run(of_rows, view, planes, shape, tile);
    if (kBackward) {
      read_run(of_columns, view, planes, shape, tile + shape.run_pitch);
    }
    __syncthreads();
    const auto value = [&](int run) {
      return [&, run](int plane, int row, int column) {
        return static_cast<T>(tile[shape.at(run, plane, row * columns.length + column)]);
      };
    };
    sum_axes(problem, planes, shape.position_pitch == 1, value(0), value(kBackward ? 1 : 0), profiles, scratch);
  } else {
    const auto value = [&](const scalar_t* first) {
      return [&, first](int plane, int row, int column) {
        return static_cast<T>(
            first[plane * view.channel_stride + row * view.height_stride + column * view.width_stride]);
      };
    };
    sum_axes(problem, planes, true, value(of_rows), value(of_columns), profiles, scratch);
  }
  __syncthreads();

  for (int unit = threadIdx.x; unit < planes * problem.slices(); unit += kThreads) {
    const int plane = unit / problem.slices(), index = unit % problem.slices();
    const bool is_row = index < rows.slices;
    const Axis& axis = is_row ? rows : columns;
    const T* sums = profiles + plane * problem.profile() + (is_row ? 0 : rows.length);
    const int within = is_row ? index : index - rows.slices;
    slices[unit] = kBackward ? upsample_backward(sums, axis, within) : pool(sums, axis, within);
  }
  __syncthreads();
  for (int unit = threadIdx.x; unit < planes * problem.profile(); unit += kThreads) {
    const int plane = unit / problem.profile(), position = unit % problem.profile();
    const bool is_row = position < rows.length;
    const Axis& axis = is_row ? rows : columns;
    const T* values = slices + plane * problem.slices() + (is_row ? 0 : rows.slices);
    const int within = is_row ? position : position - rows.length;
    profiles[unit] = kBackward ? pool_backward(values, axis, within) : upsample(values, axis, within);
  }
  __syncthreads();

  const View& out = problem.target;
  scalar_t* first = target + out.offset(b, c);
  const auto row = [&](const Place& place) { return profiles[place.plane * problem.profile() + place.row]; };
  const auto column = [&](const Place& place) {
    return profiles[place.plane * problem.profile() + rows.length + place.column];
  };
  if (kBackward) {
    write_run(first, out, planes, [&](const Place& place) { return row(place) + column(place); });
  } else {
    write_run(first, out, planes, row);
    write_run(first + out.offset(0, problem.channels), out, planes, column);
  }
}

// Bytes of shared memory of a block, the tile included.
template <typename scalar_t>
int64_t shared_bytes(const Problem& problem) {
  const int64_t values = problem.planes * int64_t(problem.profile() + problem.slices()) + kThreads / kWarp;
  return problem.tile_bytes + values * static_cast<int64_t>(sizeof(accumulate_t<scalar_t>));
}

template <typename scalar_t, bool kBackward>
void run(const Tensor& source, const Tensor& target, Problem problem) {
  const Device device(source.get_device_index());
  const int64_t images = source.size(0), channels = problem.channels;
  const int limit = device.shared_memory();
  constexpr int kRuns = kBackward ? 2 : 1;
  const int64_t extra = (problem.profile() + problem.slices()) * int64_t(sizeof(accumulate_t<scalar_t>));
  const int64_t planes =
      planes_per_run<scalar_t>(problem.source, images, channels, kRuns, extra, device.multiprocessors());
  const auto divide = [&](int64_t planes) {
    problem.planes = static_cast<int>(planes);
    problem.blocks = static_cast<int>((channels + planes - 1) / planes);
  };
  const auto staged_with = [&](int64_t planes) {
    if (planes * problem.source.positions() > limit) {
      return false;
    }
    divide(planes);
    problem.tile = tile_shape<scalar_t>(problem.source, planes);
    problem.tile_bytes = kRuns * problem.tile.run_pitch * static_cast<int>(sizeof(scalar_t));
    return shared_bytes<scalar_t>(problem) <= limit;
  };
  const bool staged =
      staged_with(planes) || staged_with(std::min<int64_t>(channels, kVector<scalar_t>)) || staged_with(1);
  if (!staged) {
    divide(1);
    problem.tile_bytes = 0;
    STD_TORCH_CHECK(
        shared_bytes<scalar_t>(problem) <= limit,
        "slice_pool_upsample: H + W + slices = ", problem.profile() + problem.slices(), " is too large for the GPU");
  }
  const auto kernel = staged ? through_slices<scalar_t, kBackward, true> : through_slices<scalar_t, kBackward, false>;
  device.launch(
      kernel,
      images * problem.blocks,
      static_cast<size_t>(shared_bytes<scalar_t>(problem)),
      source.const_data_ptr<scalar_t>(),
      target.mutable_data_ptr<scalar_t>(),
      problem);
}

template <bool kBackward>
void dispatch(const Tensor& source, const Tensor& target, int64_t n_h, int64_t n_v, const char* op) {
  const int64_t height = source.size(2), width = source.size(3);
  constexpr int64_t kLargest = std::numeric_limits<int32_t>::max();
  STD_TORCH_CHECK(
      2 * (height + 1) * (n_h + 1) <= kLargest && 2 * (width + 1) * (n_v + 1) <= kLargest,
      op, ": (", n_h, ", ", n_v, ") slices of ", height, " x ", width, " positions are too many for the GPU");
  Problem problem{view_of(source), view_of(target)};
  problem.channels = static_cast<int>((kBackward ? target : source).size(1));
  const auto h = static_cast<int>(height), w = static_cast<int>(width);
  problem.rows = {h, static_cast<int>(n_h), w};
  problem.columns = {w, static_cast<int>(n_v), h};
  dispatch_floating(source.scalar_type(), op, [&](auto tag) {
    run<typename decltype(tag)::type, kBackward>(source, target, problem);
  });
}

Tensor slice_pool_upsample(const Tensor& x, int64_t n_h, int64_t n_v) {
  const char* op = "slice_pool_upsample";
  check_map(x, op, "x");
  check_slices(n_h, n_v, op);
  Tensor y = empty_map({x.size(0), 2 * x.size(1), x.size(2), x.size(3)}, x, is_channels_last(x));
  if (y.numel() > 0) {
    dispatch<false>(x, y, n_h, n_v, op);
  }
  return y;
}

Tensor slice_pool_upsample_backward(const Tensor& grad, int64_t n_h, int64_t n_v) {
  const char* op = "slice_pool_upsample_backward";
  check_map(grad, op, "grad");
  check_slices(n_h, n_v, op);
  STD_TORCH_CHECK(grad.size(1) % 2 == 0, op, ": grad must have an even number of channels, got ", grad.size(1));
  Tensor dx = empty_map({grad.size(0), grad.size(1) / 2, grad.size(2), grad.size(3)}, grad, is_channels_last(grad));
  if (dx.numel() > 0) {
    dispatch<true>(grad, dx, n_h, n_v, op);
  }
  return dx;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(toplight_ext, CUDA, m) {
  m.impl("slice_pool_upsample", TORCH_BOX(&slice_pool_upsample));
  m.impl("slice_pool_upsample_backward", TORCH_BOX(&slice_pool_upsample_backward));
}

}  // namespace toplight::cuda
