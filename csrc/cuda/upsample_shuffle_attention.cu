// upsample_shuffle_attention: rows (B, C_r, n_h) and columns (B, C_c, n_v), interpolated to H x W, concatenated on the
// channels, and shuffle attention of that: y (B, C_r + C_c, H, W).
//
// Forward reads the vectors and writes y once, backward reads the gradient once, for its sums over rows or columns, and
// writes vectors. A block takes a run of channels of the output; what it knows of each is a profile in shared memory.
#include "slice_attention.cuh"
#include "sums.cuh"

namespace toplight::cuda {
namespace {

// How a map reads the profile of a plane: value(row, column) = profile[row * of_row + column * of_column].
struct Steps {
  int of_row, of_column;
};

template <typename scalar_t>
struct Problem {
  Slices<scalar_t> slices;
  View view;  // of y, or of the gradient
  Cut cut;
  int pitch;  // of profiles in shared memory
};

template <typename scalar_t, bool kVector>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor<scalar_t>) attend_slices(
    scalar_t* y,  // (B, C, H, W)
    const __grid_constant__ Problem<scalar_t> problem) {
  using T = accumulate_t<scalar_t>;
  extern __shared__ __align__(kVectorBytes) unsigned char memory[];
  Arena arena{memory};
  const auto& [slices, view, cut, pitch] = problem;
  const Interpolations<T> interpolations(slices, arena);
  T* const profiles = arena.take<T>(cut.planes * pitch);
  Steps* const steps = arena.take<Steps>(cut.planes);
  const Run run(cut);
  interpolations.tabulate();
  for_slots(run.planes, slices.group_width, [&](int plane, const Group& group, bool active) {
    const int channel_index = slices.input_channel(run.first + plane);
    const Channel<scalar_t> channel(slices, interpolations, run.b, channel_index);
    T* const profile = profiles + plane * pitch;
    const int length = active ? channel.length() : 0;
    const auto gate = channel.measure(slices.attention, group, length, profile);
    for (int i = group.lane; i < length; i += group.width) {
      profile[i] *= gate.at(profile[i]);
    }
    if (active && group.lane == 0) {
      const bool constant = channel.length() == 1, is_row = slices.is_row(channel_index);
      steps[plane] = {!constant && is_row, !constant && !is_row};
    }
  });
  __syncthreads();
  write_run<kVector>(
      y + view.offset(run.b, run.first), view, cut, cut.whole(), run.planes, cut.width % kLanes<scalar_t> == 0,
      [&, profiles, steps](const Place& place) {
        const Steps step = steps[place.plane];
        return profiles[place.plane * problem.pitch + place.row * step.of_row + place.column * step.of_column];
      });
}

template <typename scalar_t, bool kVector>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor<scalar_t>) attend_slices_backward(
    const scalar_t* grad,  // (B, C, H, W)
    const __grid_constant__ Problem<scalar_t> problem,
    const __grid_constant__ Summation<scalar_t> summation,
    const __grid_constant__ SliceGradients<scalar_t> gradients) {
  using T = accumulate_t<scalar_t>;
  extern __shared__ __align__(kVectorBytes) unsigned char memory[];
  Arena arena{memory};
  const Slices<scalar_t>& slices = problem.slices;
  const Cut& cut = problem.cut;
  const int pitch = problem.pitch;
  const Interpolations<T> interpolations(slices, arena);
  T* const profiles = arena.take<T>(cut.planes * pitch);
  T* const profile_gradients = arena.take<T>(cut.planes * pitch);
  T* const scratch = arena.take<T>(kThreads);
  scalar_t* const tile = arena.take<scalar_t>(summation.shape.run_pitch);
  const Run run(cut);
  interpolations.tabulate();

  // The gradient of a profile is the sum over the other axis; that of a constant is the sum of the rows, once more.
  const auto sums_if = [&](int plane, bool of_rows) -> T* {
    const bool is_row = slices.is_row(slices.input_channel(run.first + plane));
    const bool needs_rows = is_row || interpolations.columns.axis.length == 1;
    return needs_rows == of_rows ? profile_gradients + plane * pitch : nullptr;
  };
  const scalar_t* const source = grad + problem.view.offset(run.b, run.first);
  sum_run<kVector>(
      summation, source, source, problem.view, cut, run.planes, tile, scratch,
      [&](int plane) { return sums_if(plane, true); }, [&](int plane) { return sums_if(plane, false); });

  for_slots(run.planes, slices.group_width, [&](int plane, const Group& group, bool active) {
    const int channel_index = slices.input_channel(run.first + plane);
    const Channel<scalar_t> channel(slices, interpolations, run.b, channel_index);
    const int length = active ? channel.length() : 0;
    T* const gradient = profile_gradients + plane * pitch;
    const bool constant = channel.length() == 1;
    T total = T(0);
    for (int row = group.lane; constant && active && row < cut.height; row += group.width) {
      total += gradient[row];
    }
    total = group.sum(total);
    if (constant && active && group.lane == 0) {
      gradient[0] = total;
    }
    const auto sums = channel.backward(slices.attention, group, length, profiles + plane * pitch, gradient);
    if (active && group.lane == 0) {
      write_sums(gradients.sums + run.b * slices.attention.channels + channel_index, sums);
    }
  });
  __syncthreads();
  gradients.write(slices, interpolations, run.b, run.first, run.planes, pitch, profile_gradients);
}

// `tiles` is 1 where the map is read.
template <typename scalar_t>
Problem<scalar_t> problem_of(
    const Slices<scalar_t>& slices,
    const Tensor& map,
    int tiles,
    int pitch,
    int64_t plane_bytes,
    const Device& device) {
  Demand demand{map.size(0), map.size(1), tiles};
  demand.plane_bytes = plane_bytes;
  Arena tables = nowhere();
  Interpolations<accumulate_t<scalar_t>>(slices, tables);
  demand.block_bytes = tables.used;
  const View view = view_of(map);
  demand.add<scalar_t>(map, view);
  return {slices, view, cut_maps<scalar_t>(demand, map.size(2), map.size(3), device), pitch};
}

template <typename scalar_t>
void run_forward(const Tensor& rows, const Tensor& columns, const AttentionArguments& arguments, Tensor& y) {
  using T = accumulate_t<scalar_t>;
  const Device device(y.get_device_index());
  const Slices<scalar_t> slices(rows, columns, y.size(2), y.size(3), arguments);
  const int64_t plane_bytes = slices.pitch * int64_t{sizeof(T)} + int64_t{sizeof(Steps)};
  const auto problem = problem_of(slices, y, 0, slices.pitch, plane_bytes, device);
  Arena arena = nowhere();
  Interpolations<T>(slices, arena);
  arena.take<T>(int64_t{problem.cut.planes} * problem.pitch);
  arena.take<Steps>(problem.cut.planes);
  with_vectors<scalar_t>(problem.cut, [&](auto vector) {
    device.launch(
        attend_slices<scalar_t, vector.value>,
        y.size(0) * problem.cut.blocks,
        arena.used,
        y.mutable_data_ptr<scalar_t>(),
        problem);
  });
}

template <typename scalar_t>
void run_backward(
    const Tensor& grad,
    const Tensor& rows,
    const Tensor& columns,
    const AttentionArguments& arguments,
    Tensor& d_rows,
    Tensor& d_columns,
    ParameterTensors& d_parameters) {
  using T = accumulate_t<scalar_t>;
  const Device device(grad.get_device_index());
  const PlaneSumsBuffer<T> sums(arguments, grad.size(0), grad.size(1));
  const int64_t height = grad.size(2), width = grad.size(3), pitch = std::max(height, width);
  const Slices<scalar_t> slices(rows, columns, height, width, arguments);
  const auto problem = problem_of(slices, grad, 1, static_cast<int>(pitch), 2 * pitch * int64_t{sizeof(T)}, device);
  const Summation<scalar_t> summation(problem.view, problem.cut);
  Arena arena = nowhere();
  Interpolations<T>(slices, arena);
  arena.take<T>(problem.cut.planes * pitch);
  arena.take<T>(problem.cut.planes * pitch);
  arena.take<T>(kThreads);
  arena.take<scalar_t>(summation.shape.run_pitch);
  with_vectors<scalar_t>(problem.cut, [&](auto vector) {
    device.launch(
        attend_slices_backward<scalar_t, vector.value>,
        grad.size(0) * problem.cut.blocks,
        arena.used,
        grad.const_data_ptr<scalar_t>(),
        problem,
        summation,
        SliceGradients<scalar_t>(d_rows, d_columns, sums.data()));
  });
  sums.reduce(device, d_parameters);
}

}  // namespace

void upsample_shuffle_attention(
    const Tensor& rows,
    const Tensor& columns,
    const AttentionArguments& arguments,
    Tensor& y) {
  dispatch_floating(y.scalar_type(), "upsample_shuffle_attention", [&](auto tag) {
    run_forward<typename decltype(tag)::type>(rows, columns, arguments, y);
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
  dispatch_floating(grad.scalar_type(), "upsample_shuffle_attention_backward", [&](auto tag) {
    run_backward<typename decltype(tag)::type>(grad, rows, columns, arguments, d_rows, d_columns, d_parameters);
  });
}

}  // namespace toplight::cuda
