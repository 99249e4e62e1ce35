// shuffle_attention on the host: arguments, shape of the launches. The kernels are in shuffle_attention.cuh.
#include "shuffle_attention.cuh"

#include <tuple>
#include <utility>

namespace toplight::cuda {
namespace {

// Cuts the channels into blocks that fit in shared memory; returns whether they are staged, and the bytes of a block.
template <typename scalar_t, typename T>
std::pair<bool, size_t> divide(Problem<T>& problem, const Device& device, int64_t images, bool backward) {
  const int64_t half = problem.channels / kHalves, slot_bytes = backward ? sizeof(PlaneBackward<T>) : sizeof(PlaneGate<T>);
  const int64_t limit = device.shared_memory();
  int64_t bytes = 0;
  const auto fits = [&](int64_t planes) {
    if (planes * problem.x.positions() > limit) {
      return false;
    }
    problem.planes = static_cast<int>(planes);
    problem.blocks = static_cast<int>((half + planes - 1) / planes);
    problem.x_tile = tile_shape<scalar_t>(problem.x, planes);
    problem.grad_tile = tile_shape<scalar_t>(problem.grad, problem.shuffle ? kHalves * planes : planes);
    const int64_t x_bytes = int64_t(kHalves) * problem.x_tile.run_pitch * sizeof(scalar_t);
    const int64_t grad_bytes =
        int64_t(problem.shuffle ? 1 : kHalves) * problem.grad_tile.run_pitch * sizeof(scalar_t);
    const int64_t tiles = x_bytes + (backward ? grad_bytes : 0);
    bytes = tiles + kHalves * planes * slot_bytes;
    problem.x_tile_bytes = static_cast<int>(x_bytes);
    problem.tile_bytes = static_cast<int>(tiles);
    return bytes <= limit;
  };
  const int runs = backward ? 2 * kHalves : kHalves;
  const int64_t planes = planes_per_run<scalar_t>(
      problem.x, images, half, runs, kHalves * slot_bytes, device.multiprocessors());
  if (fits(planes) || fits(std::min<int64_t>(half, kVector<scalar_t>)) || fits(1)) {
    return {true, bytes};
  }
  problem.planes = 1;
  problem.blocks = problem.channels;
  problem.x_tile_bytes = problem.tile_bytes = 0;
  return {false, slot_bytes};
}

template <typename T>
Problem<T> problem_of(
    const Tensor& x,
    const Tensor& grad,
    const Tensor& out,
    const ParameterTensors& parameters,
    int64_t groups,
    double eps,
    bool shuffle) {
  Problem<T> problem{view_of(x), view_of(grad), view_of(out), parameters_of<T>(parameters), static_cast<T>(eps)};
  problem.channels = static_cast<int>(x.size(1));
  problem.groups = static_cast<int>(groups);
  problem.shuffle = shuffle;
  // A few threads measure a small plane, so that a warp takes several; a block measures a large one.
  constexpr int kFew = 8, kFewUpTo = 8 * kFew, kWarpUpTo = 32 * kWarp;
  const int n = problem.x.positions();
  problem.group_width = n <= kFewUpTo ? kFew : n <= kWarpUpTo ? kWarp : kThreads;
  return problem;
}

Tensor shuffle_attention(
    const Tensor& x,
    const Tensor& channel_weight,
    const Tensor& channel_bias,
    const Tensor& spatial_weight,
    const Tensor& spatial_bias,
    const Tensor& norm_weight,
    const Tensor& norm_bias,
    int64_t groups,
    double eps,
    bool shuffle) {
  const char* op = "shuffle_attention";
  check_map(x, op, "x");
  const auto parameters = check_parameters(
      {&channel_weight, &channel_bias, &spatial_weight, &spatial_bias, &norm_weight, &norm_bias},
      x,
      x.size(1),
      groups,
      op);
  Tensor y = empty_map({x.size(0), x.size(1), x.size(2), x.size(3)}, x, is_channels_last(x));
  if (x.numel() == 0) {
    return y;
  }
  dispatch_floating(x.scalar_type(), op, [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    const Device device(x.get_device_index());
    auto problem = problem_of<accumulate_t<scalar_t>>(x, x, y, parameters, groups, eps, shuffle);
    const auto [staged, bytes] = divide<scalar_t>(problem, device, x.size(0), false);
    device.launch(
        staged ? forward<scalar_t, true> : forward<scalar_t, false>,
        x.size(0) * problem.blocks,
        bytes,
        x.const_data_ptr<scalar_t>(),
        y.mutable_data_ptr<scalar_t>(),
        problem);
  });
  return y;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> shuffle_attention_backward(
    const Tensor& grad,
    const Tensor& x,
    const Tensor& channel_weight,
    const Tensor& channel_bias,
    const Tensor& spatial_weight,
    const Tensor& spatial_bias,
    const Tensor& norm_weight,
    const Tensor& norm_bias,
    int64_t groups,
    double eps,
    bool shuffle) {
  const char* op = "shuffle_attention_backward";
  check_map(x, op, "x");
  check_same(grad, x, op, "grad");
  check_size(grad, {x.size(0), x.size(1), x.size(2), x.size(3)}, op, "grad");
  const auto parameters = check_parameters(
      {&channel_weight, &channel_bias, &spatial_weight, &spatial_bias, &norm_weight, &norm_bias},
      x,
      x.size(1),
      groups,
      op);
  const int64_t images = x.size(0), channels = x.size(1), values = channels / (kHalves * groups);
  Tensor dx = empty_map({images, channels, x.size(2), x.size(3)}, x, is_channels_last(x));
  const ScalarType type = accumulate_type(x.scalar_type());
  const auto one = [&] { return empty({1, values, 1, 1}, type, x); };
  const ParameterTensors gradients{one(), one(), one(), one(), one(), one()};
  const Tensor sums = empty({images, channels, 2}, type, x);
  dispatch_floating(x.scalar_type(), op, [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    using T = accumulate_t<scalar_t>;
    const Device device(x.get_device_index());
    auto* plane_sums = reinterpret_cast<PlaneSums<T>*>(sums.mutable_data_ptr<T>());
    if (images > 0) {
      auto problem = problem_of<T>(x, grad, dx, parameters, groups, eps, shuffle);
      const auto [staged, bytes] = divide<scalar_t>(problem, device, images, true);
      device.launch(
          staged ? backward<scalar_t, true> : backward<scalar_t, false>,
          images * problem.blocks,
          bytes,
          grad.const_data_ptr<scalar_t>(),
          x.const_data_ptr<scalar_t>(),
          dx.mutable_data_ptr<scalar_t>(),
          plane_sums,
          problem);
    }
    const auto target = [&](int i) { return gradients[i].mutable_data_ptr<T>(); };
    const ParameterGradientPointers<T> targets{target(0), target(1), target(2), target(3), target(4), target(5)};
    device.launch(
        reduce_parameter_gradients<T>, values, 0, plane_sums, images * groups, parameters_of<T>(parameters), targets);
  });
  const auto& p = gradients;
  return {dx, p[0], p[1], p[2], p[3], p[4], p[5]};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(toplight_ext, CUDA, m) {
  m.impl("shuffle_attention", TORCH_BOX(&shuffle_attention));
  m.impl("shuffle_attention_backward", TORCH_BOX(&shuffle_attention_backward));
}

}  // namespace toplight::cuda
