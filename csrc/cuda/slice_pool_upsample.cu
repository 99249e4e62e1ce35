// slice_pool_upsample: x (B, C, H, W) -> (B, 2C, H, W); see plane.h for the slices.
//
// Per value of x, forward reads x and writes two values, backward reads two values of the gradient and writes dx. Both
// add up rows and columns of a plane, go through the slices of either axis back to H and W numbers, and write those
// out: one kernel, in which the way through the slices is turned round for backward.
#include "axis.cuh"
#include "kernels.h"
#include "sums.cuh"

namespace toplight::cuda {
namespace {

struct Problem {
  View source, target;
  Cut cut;  // of the channels of x
  Axis rows, columns;
  Divisor by_slices, by_profile;  // n_h + n_v and H + W

  __host__ __device__ int slices() const {
    return rows.slices + columns.slices;
  }
  __host__ __device__ int profile() const {
    return rows.length + columns.length;
  }
};

// Shared memory of a block.
template <typename T>
struct Shared {
  Pooling<T> pool_rows, pool_columns;
  Interpolation<T> interpolate_rows, interpolate_columns;
  T* slices;  // (planes, n_h + n_v)
  T* profiles;  // (planes, H + W)
  T* scratch;  // (kThreads)

  __host__ __device__ Shared(const Problem& problem, Arena& arena)
      : pool_rows(problem.rows, arena),
        pool_columns(problem.columns, arena),
        interpolate_rows(problem.rows, arena),
        interpolate_columns(problem.columns, arena),
        slices(arena.take<T>(int64_t{problem.cut.planes} * problem.slices())),
        profiles(arena.take<T>(int64_t{problem.cut.planes} * problem.profile())),
        scratch(arena.take<T>(kThreads)) {}

  __device__ void tabulate() const {
    pool_rows.tabulate();
    pool_columns.tabulate();
    interpolate_rows.tabulate();
    interpolate_columns.tabulate();
  }
};

template <typename scalar_t, bool kBackward, bool kVector>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor<scalar_t>) through_slices(
    const scalar_t* source,  // x, or backward the gradient, (B, 2C, H, W)
    scalar_t* target,  // (B, 2C, H, W), or backward dx
    const __grid_constant__ Problem problem,
    const __grid_constant__ Summation<scalar_t> summation) {
  using T = accumulate_t<scalar_t>;
  extern __shared__ __align__(kVectorBytes) unsigned char memory[];
  Arena arena{memory};
  const Shared<T> shared(problem, arena);
  scalar_t* const tile = arena.take<scalar_t>((kBackward ? 2 : 1) * summation.shape.run_pitch);
  const Cut& cut = problem.cut;
  const Run run(cut);
  const int height = problem.rows.length;
  const auto row_profile = [&](int plane) { return shared.profiles + plane * problem.profile(); };
  const auto column_profile = [&](int plane) { return row_profile(plane) + height; };

  shared.tabulate();
  const scalar_t* const of_rows = source + problem.source.offset(run.b, run.first);
  const scalar_t* const of_columns = kBackward ? of_rows + problem.source.offset(0, cut.channels) : of_rows;
  sum_run<kVector>(
      summation, of_rows, of_columns, problem.source, cut, run.planes, tile, shared.scratch, row_profile,
      column_profile);

  const int n_h = problem.rows.slices, n_v = problem.columns.slices;
  fill_both(run.planes, n_h, n_v, problem.by_slices, shared.slices, [&](int plane, bool is_row, int slice) {
    if constexpr (kBackward) {
      return is_row ? shared.interpolate_rows.backward(row_profile(plane), slice)
                    : shared.interpolate_columns.backward(column_profile(plane), slice);
    } else {
      return is_row ? shared.pool_rows.forward(row_profile(plane), slice)
                    : shared.pool_columns.forward(column_profile(plane), slice);
    }
  });
  __syncthreads();
  const auto back = [&](int plane, bool is_row, int position) {
    const T* const slices = shared.slices + plane * problem.slices() + (is_row ? 0 : n_h);
    if constexpr (kBackward) {
      return is_row ? shared.pool_rows.backward(slices, position) : shared.pool_columns.backward(slices, position);
    } else {
      const auto slice = [&](int index) { return slices[index]; };
      return is_row ? shared.interpolate_rows.forward(slice, position)
                    : shared.interpolate_columns.forward(slice, position);
    }
  };
  fill_both(run.planes, height, problem.columns.length, problem.by_profile, shared.profiles, back);
  __syncthreads();

  const View& view = problem.target;
  scalar_t* const first = target + view.offset(run.b, run.first);
  const bool uniform = cut.width % kLanes<scalar_t> == 0;
  const auto row = [&](const Place& place) { return row_profile(place.plane)[place.row]; };
  const auto column = [&](const Place& place) { return column_profile(place.plane)[place.column]; };
  const auto write = [&](scalar_t* start, const auto& value) {
    write_run<kVector>(start, view, cut, cut.whole(), run.planes, uniform, value);
  };
  if constexpr (kBackward) {
    write(first, [&](const Place& place) { return row(place) + column(place); });
  } else {
    write(first, row);
    write(first + view.offset(0, cut.channels), column);
  }
}

template <typename scalar_t, bool kBackward>
void run(const Tensor& source, const Tensor& target, int64_t n_h, int64_t n_v) {
  using T = accumulate_t<scalar_t>;
  const Device device(source.get_device_index());
  const int64_t height = source.size(2), width = source.size(3);
  constexpr int kTiles = kBackward ? 2 : 1;
  Problem problem{
      view_of(source), view_of(target), {}, axis_of(height, n_h, width), axis_of(width, n_v, height)};
  problem.by_slices = Divisor(problem.slices());
  problem.by_profile = Divisor(problem.profile());
  Demand demand{source.size(0), (kBackward ? target : source).size(1), kTiles};
  demand.plane_bytes = (problem.profile() + problem.slices()) * static_cast<int64_t>(sizeof(T));
  Arena tables = nowhere();
  Shared<T>(problem, tables);  // of no planes yet
  demand.block_bytes = tables.used;
  demand.add<scalar_t>(source, problem.source);
  demand.add<scalar_t>(target, problem.target);
  problem.cut = cut_maps<scalar_t>(demand, height, width, device);
  const Summation<scalar_t> summation(problem.source, problem.cut);
  Arena arena = nowhere();
  Shared<T>(problem, arena);
  arena.take<scalar_t>(int64_t{kTiles} * summation.shape.run_pitch);
  with_vectors<scalar_t>(problem.cut, [&](auto vector) {
    device.launch(
        through_slices<scalar_t, kBackward, vector.value>,
        source.size(0) * problem.cut.blocks,
        arena.used,
        source.const_data_ptr<scalar_t>(),
        target.mutable_data_ptr<scalar_t>(),
        problem,
        summation);
  });
}

template <bool kBackward>
void dispatch(const Tensor& source, const Tensor& target, int64_t n_h, int64_t n_v) {
  dispatch_floating(source.scalar_type(), "slice_pool_upsample", [&](auto tag) {
    run<typename decltype(tag)::type, kBackward>(source, target, n_h, n_v);
  });
}

}  // namespace

void slice_pool_upsample(const Tensor& x, int64_t n_h, int64_t n_v, Tensor& y) {
  dispatch<false>(x, y, n_h, n_v);
}

void slice_pool_upsample_backward(const Tensor& grad, int64_t n_h, int64_t n_v, Tensor& dx) {
  dispatch<true>(grad, dx, n_h, n_v);
}

}  // namespace toplight::cuda
