// slice_pool: x (B, C, H, W) -> rows (B, C, n_h) and columns (B, C, n_v), the means of slices; see plane.h.
//
// Forward reads x once and writes the vectors, backward reads those of the gradient and writes dx once. A block takes a
// run of planes: forward through a tile in shared memory, backward from profiles that stay there.
#include "axis.cuh"
#include "kernels.h"
#include "sums.cuh"

namespace toplight::cuda {
namespace {

struct Problem {
  View view;  // of x, or of dx
  Cut cut;
  Axis rows, columns;
};

// Shared memory of a block.
template <typename T>
struct Shared {
  Pooling<T> vertical, horizontal;
  T* profiles;  // (planes, H + W)

  __host__ __device__ Shared(const Problem& problem, Arena& arena)
      : vertical(problem.rows, arena),
        horizontal(problem.columns, arena),
        profiles(arena.take<T>(int64_t{problem.cut.planes} * (problem.rows.length + problem.columns.length))) {}

  __device__ void tabulate() const {
    vertical.tabulate();
    horizontal.tabulate();
  }
  __device__ T* row_profile(int plane) const {
    return profiles + plane * (vertical.axis.length + horizontal.axis.length);
  }
  __device__ T* column_profile(int plane) const {
    return row_profile(plane) + vertical.axis.length;
  }
};

template <typename scalar_t, bool kVector>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor<scalar_t>) pool(
    const scalar_t* x,  // (B, C, H, W)
    scalar_t* rows,  // (B, C, n_h)
    scalar_t* columns,  // (B, C, n_v)
    const __grid_constant__ Problem problem,
    const __grid_constant__ Summation<scalar_t> summation,
    const Divisor by_rows,  // n_h
    const Divisor by_columns) {  // n_v
  using T = accumulate_t<scalar_t>;
  extern __shared__ __align__(kVectorBytes) unsigned char memory[];
  Arena arena{memory};
  const Shared<T> shared(problem, arena);
  T* const scratch = arena.take<T>(kThreads);
  scalar_t* const tile = arena.take<scalar_t>(summation.shape.run_pitch);
  const Cut& cut = problem.cut;
  const Run run(cut);
  const scalar_t* const source = x + problem.view.offset(run.b, run.first);
  shared.tabulate();
  sum_run<kVector>(
      summation, source, source, problem.view, cut, run.planes, tile, scratch,
      [&](int plane) { return shared.row_profile(plane); },
      [&](int plane) { return shared.column_profile(plane); });

  // The slices of neighbouring planes lie one after the other.
  const int64_t first = run.b * cut.channels + run.first;
  const int n_h = problem.rows.slices, n_v = problem.columns.slices;
  for (int i = threadIdx.x; i < run.planes * n_h; i += kThreads) {
    const int plane = by_rows.quotient(i);
    const T mean = shared.vertical.forward(shared.row_profile(plane), i - plane * n_h);
    write_small(rows + first * n_h + i, static_cast<scalar_t>(mean));
  }
  for (int i = threadIdx.x; i < run.planes * n_v; i += kThreads) {
    const int plane = by_columns.quotient(i);
    const T mean = shared.horizontal.forward(shared.column_profile(plane), i - plane * n_v);
    write_small(columns + first * n_v + i, static_cast<scalar_t>(mean));
  }
}

template <typename scalar_t, bool kVector>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor<scalar_t>) pool_backward(
    const scalar_t* grad_rows,  // (B, C, n_h)
    const scalar_t* grad_columns,  // (B, C, n_v)
    scalar_t* dx,  // (B, C, H, W)
    const __grid_constant__ Problem problem,
    const __grid_constant__ VectorView of_rows,
    const __grid_constant__ VectorView of_columns,
    const Divisor by_slices,  // n_h + n_v
    const Divisor by_profile) {  // H + W
  using T = accumulate_t<scalar_t>;
  extern __shared__ __align__(kVectorBytes) unsigned char memory[];
  Arena arena{memory};
  const Shared<T> shared(problem, arena);
  const int n_h = problem.rows.slices, n_v = problem.columns.slices;
  T* const slices = arena.take<T>(problem.cut.planes * (n_h + n_v));
  const Run run(problem.cut);
  shared.tabulate();
  fill_both(run.planes, n_h, n_v, by_slices, slices, [&](int plane, bool is_row, int index) {
    const VectorView& view = is_row ? of_rows : of_columns;
    const scalar_t* const source = is_row ? grad_rows : grad_columns;
    return static_cast<T>(read_small(source + view.offset(run.b, run.first + plane, index)));
  });
  __syncthreads();
  const int height = problem.rows.length, width = problem.columns.length;
  fill_both(run.planes, height, width, by_profile, shared.profiles, [&](int plane, bool is_row, int index) {
    const T* const of_plane = slices + plane * (n_h + n_v);
    return is_row ? shared.vertical.backward(of_plane, index) : shared.horizontal.backward(of_plane + n_h, index);
  });
  __syncthreads();
  write_run<kVector>(
      dx + problem.view.offset(run.b, run.first), problem.view, problem.cut, problem.cut.whole(), run.planes,
      width % kLanes<scalar_t> == 0,
      [&](const Place& place) {
        return shared.row_profile(place.plane)[place.row] + shared.column_profile(place.plane)[place.column];
      });
}

// What both directions need to know of a map, its vectors and the sums in between.
template <typename scalar_t>
Problem problem_of(const Tensor& map, int64_t n_h, int64_t n_v, int tiles, const Device& device) {
  const int64_t height = map.size(2), width = map.size(3);
  Problem problem{view_of(map), {}, axis_of(height, n_h, width), axis_of(width, n_v, height)};
  Demand demand{map.size(0), map.size(1), tiles};
  demand.plane_bytes = (height + width + n_h + n_v) * static_cast<int64_t>(sizeof(accumulate_t<scalar_t>));
  Arena tables = nowhere();
  Shared<accumulate_t<scalar_t>>(problem, tables);  // of no planes yet
  demand.block_bytes = tables.used;
  demand.add<scalar_t>(map, problem.view);
  problem.cut = cut_maps<scalar_t>(demand, height, width, device);
  return problem;
}

template <typename scalar_t>
void run_forward(const Tensor& x, Tensor& rows, Tensor& columns) {
  using T = accumulate_t<scalar_t>;
  const Device device(x.get_device_index());
  const Problem problem = problem_of<scalar_t>(x, rows.size(2), columns.size(2), 1, device);
  const Summation<scalar_t> summation(problem.view, problem.cut);
  Arena arena = nowhere();
  Shared<T>(problem, arena);
  arena.take<T>(kThreads);
  arena.take<scalar_t>(summation.shape.run_pitch);
  with_vectors<scalar_t>(problem.cut, [&](auto vector) {
    device.launch(
        pool<scalar_t, vector.value>,
        x.size(0) * problem.cut.blocks,
        arena.used,
        x.const_data_ptr<scalar_t>(),
        rows.mutable_data_ptr<scalar_t>(),
        columns.mutable_data_ptr<scalar_t>(),
        problem,
        summation,
        Divisor(problem.rows.slices),
        Divisor(problem.columns.slices));
  });
}

template <typename scalar_t>
void run_backward(const Tensor& grad_rows, const Tensor& grad_columns, Tensor& dx) {
  using T = accumulate_t<scalar_t>;
  const Device device(dx.get_device_index());
  const Problem problem = problem_of<scalar_t>(dx, grad_rows.size(2), grad_columns.size(2), 0, device);
  const int slices = problem.rows.slices + problem.columns.slices;
  Arena arena = nowhere();
  Shared<T>(problem, arena);
  arena.take<T>(int64_t{problem.cut.planes} * slices);
  with_vectors<scalar_t>(problem.cut, [&](auto vector) {
    device.launch(
        pool_backward<scalar_t, vector.value>,
        dx.size(0) * problem.cut.blocks,
        arena.used,
        grad_rows.const_data_ptr<scalar_t>(),
        grad_columns.const_data_ptr<scalar_t>(),
        dx.mutable_data_ptr<scalar_t>(),
        problem,
        vector_view_of(grad_rows),
        vector_view_of(grad_columns),
        Divisor(slices),
        Divisor(problem.rows.length + problem.columns.length));
  });
}

}  // namespace

void slice_pool(const Tensor& x, Tensor& rows, Tensor& columns) {
  dispatch_floating(x.scalar_type(), "slice_pool", [&](auto tag) {
    run_forward<typename decltype(tag)::type>(x, rows, columns);
  });
}

void slice_pool_backward(const Tensor& grad_rows, const Tensor& grad_columns, Tensor& dx) {
  dispatch_floating(dx.scalar_type(), "slice_pool_backward", [&](auto tag) {
    run_backward<typename decltype(tag)::type>(grad_rows, grad_columns, dx);
  });
}

}  // namespace toplight::cuda
