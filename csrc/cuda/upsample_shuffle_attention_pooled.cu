// upsample_shuffle_attention_pooled: the means (B, C) over H x W of what upsample_shuffle_attention would write, from
// the vectors alone, forward and backward.
//
// Nothing of the size of a map is touched, so that latency counts: every group of threads of a block takes one channel.
#include "slice_attention.cuh"

namespace toplight::cuda {
namespace {

template <typename scalar_t>
struct Problem {
  Slices<scalar_t> slices;
  int planes, blocks;  // channels per block, blocks per image

  Problem(const Slices<scalar_t>& slices, int profiles) : slices(slices) {
    constexpr int kProfileBytes = 32 * 1024;
    const int64_t bytes = int64_t{slices.pitch} * profiles * sizeof(accumulate_t<scalar_t>);
    planes = static_cast<int>(std::clamp<int64_t>(kProfileBytes / bytes, 1, kThreads / slices.group_width));
    blocks = (slices.attention.channels + planes - 1) / planes;
  }
};

// The output channels of this block.
struct ChannelRun {
  int64_t b;
  int first, planes;

  template <typename scalar_t>
  __device__ explicit ChannelRun(const Problem<scalar_t>& problem)
      : b(blockIdx.x / problem.blocks),
        first(static_cast<int>(blockIdx.x % problem.blocks) * problem.planes),
        planes(min(problem.planes, problem.slices.attention.channels - first)) {}
};

template <typename scalar_t>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor<scalar_t>) attend_pooled(
    scalar_t* means,  // (B, C)
    const __grid_constant__ Problem<scalar_t> problem) {
  using T = accumulate_t<scalar_t>;
  extern __shared__ __align__(kVectorBytes) unsigned char memory[];
  Arena arena{memory};
  const Slices<scalar_t>& slices = problem.slices;
  const Interpolations<T> interpolations(slices, arena);
  T* const profiles = arena.take<T>(problem.planes * slices.pitch);
  const ChannelRun run(problem);
  interpolations.tabulate();
  for_slots(run.planes, slices.group_width, [&](int plane, const Group& group, bool active) {
    const Channel<scalar_t> channel(slices, interpolations, run.b, slices.input_channel(run.first + plane));
    const int length = active ? channel.length() : 0;
    T* const profile = profiles + plane * slices.pitch;
    const auto gate = channel.measure(slices.attention, group, length, profile);
    T total = T(0);
    for (int i = group.lane; i < length; i += group.width) {
      total += profile[i] * gate.at(profile[i]);
    }
    total = group.sum(total);
    if (active && group.lane == 0) {
      const T mean = total / static_cast<T>(length);
      write_small(means + run.b * slices.attention.channels + run.first + plane, static_cast<scalar_t>(mean));
    }
  });
}

template <typename scalar_t>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor<scalar_t>) attend_pooled_backward(
    const scalar_t* grad,  // (B, C)
    int64_t batch_stride,  // of grad
    int64_t channel_stride,
    const __grid_constant__ Problem<scalar_t> problem,
    const __grid_constant__ SliceGradients<scalar_t> gradients) {
  using T = accumulate_t<scalar_t>;
  extern __shared__ __align__(kVectorBytes) unsigned char memory[];
  Arena arena{memory};
  const Slices<scalar_t>& slices = problem.slices;
  const Interpolations<T> interpolations(slices, arena);
  T* const profiles = arena.take<T>(problem.planes * slices.pitch);
  T* const profile_gradients = arena.take<T>(problem.planes * slices.pitch);
  const ChannelRun run(problem);
  interpolations.tabulate();
  for_slots(run.planes, slices.group_width, [&](int plane, const Group& group, bool active) {
    const int output = run.first + plane, channel_index = slices.input_channel(output);
    const Channel<scalar_t> channel(slices, interpolations, run.b, channel_index);
    const int length = active ? channel.length() : 0;
    T* const gradient = profile_gradients + plane * slices.pitch;
    const T dy = static_cast<T>(read_small(grad + run.b * batch_stride + output * channel_stride));
    for (int i = group.lane; i < length; i += group.width) {
      gradient[i] = dy / static_cast<T>(length);
    }
    T* const profile = profiles + plane * slices.pitch;
    const auto sums = channel.backward(slices.attention, group, length, profile, gradient);
    if (active && group.lane == 0) {
      write_sums(gradients.sums + run.b * slices.attention.channels + channel_index, sums);
    }
  });
  __syncthreads();
  gradients.write(slices, interpolations, run.b, run.first, run.planes, slices.pitch, profile_gradients);
}

template <typename scalar_t>
void run_forward(
    const Tensor& rows,
    const Tensor& columns,
    int64_t height,
    int64_t width,
    const AttentionArguments& arguments,
    Tensor& means) {
  using T = accumulate_t<scalar_t>;
  const Device device(means.get_device_index());
  const Problem<scalar_t> problem(Slices<scalar_t>(rows, columns, height, width, arguments), 1);
  Arena arena = nowhere();
  Interpolations<T>(problem.slices, arena);
  arena.take<T>(int64_t{problem.planes} * problem.slices.pitch);
  device.launch(
      attend_pooled<scalar_t>, means.size(0) * problem.blocks, arena.used, means.mutable_data_ptr<scalar_t>(), problem);
}

template <typename scalar_t>
void run_backward(
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
  const Device device(grad.get_device_index());
  const PlaneSumsBuffer<T> sums(arguments, grad.size(0), grad.size(1));
  const Problem<scalar_t> problem(Slices<scalar_t>(rows, columns, height, width, arguments), 2);
  Arena arena = nowhere();
  Interpolations<T>(problem.slices, arena);
  arena.take<T>(int64_t{problem.planes} * problem.slices.pitch);
  arena.take<T>(int64_t{problem.planes} * problem.slices.pitch);
  device.launch(
      attend_pooled_backward<scalar_t>,
      grad.size(0) * problem.blocks,
      arena.used,
      grad.const_data_ptr<scalar_t>(),
      grad.stride(0),
      grad.stride(1),
      problem,
      SliceGradients<scalar_t>(d_rows, d_columns, sums.data()));
  sums.reduce(device, d_parameters);
}

}  // namespace

void upsample_shuffle_attention_pooled(
    const Tensor& rows,
    const Tensor& columns,
    int64_t height,
    int64_t width,
    const AttentionArguments& arguments,
    Tensor& means) {
  dispatch_floating(means.scalar_type(), "upsample_shuffle_attention_pooled", [&](auto tag) {
    run_forward<typename decltype(tag)::type>(rows, columns, height, width, arguments, means);
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
  dispatch_floating(grad.scalar_type(), "upsample_shuffle_attention_pooled_backward", [&](auto tag) {
    run_backward<typename decltype(tag)::type>(
        grad, rows, columns, height, width, arguments, d_rows, d_columns, d_parameters);
  });
}

}  // namespace toplight::cuda
