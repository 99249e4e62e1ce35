// The kernels of shuffle_attention: y = x * gate(x), channels shuffled; see plane.h for the gate.
//
// Forward reads x and writes y; backward reads the gradient and x and writes dx, measuring x again.
// Versions of either kernel:
//   staged: a block copies the same channels of both halves of C into shared memory, 16 bytes at a time; the shuffle
//     interleaves the halves, so what the block writes lies together too. A few threads or a warp measure a plane;
//   direct: for planes larger than that; a block takes one, and reads it from memory in every pass.
// No atomics: a plane leaves two sums for the gradients of the parameters, and a second kernel adds these over images
// and groups in a fixed order.
#pragma once

#include "plane.h"
#include "reduce.cuh"
#include "tile.cuh"

namespace toplight::cuda {

constexpr int kHalves = 2;

template <typename T>
struct Problem {
  View x, grad, out;  // out is y, or dx
  Parameters<T> parameters;
  T eps;
  int channels, groups;
  bool shuffle;
  int planes;  // channels of each half per block; 1 where a block takes one plane
  int blocks;  // blocks per image
  int group_width;  // threads that measure a plane
  TileShape x_tile, grad_tile;
  int x_tile_bytes, tile_bytes;

  __device__ int half() const {
    return channels / kHalves;
  }
};

// What the planes of one block are: `runs` runs of `planes` channels, slot being run * planes + plane.
struct Slots {
  int64_t b;
  int first;  // channel
  int runs;
  int planes;

  template <typename T>
  __device__ Slots(const Problem<T>& problem, bool staged)
      : b(blockIdx.x / problem.blocks),
        first(blockIdx.x % problem.blocks * problem.planes),
        runs(staged ? kHalves : 1),
        planes(staged ? min(problem.planes, problem.half() - first) : 1) {}

  __device__ int count() const {
    return runs * planes;
  }
  template <typename T>
  __device__ int channel(const Problem<T>& problem, int run, int plane) const {
    return run * problem.half() + first + plane;
  }
};

// The gate of a plane, and its value where that is one for the whole plane (the channel half, rstd = 0).
template <typename T>
struct PlaneGate {
  Gate<T> gate;
  T constant;

  __device__ T at(T x) const {
    return gate.rstd == T(0) ? constant : spatial_gate_at(gate, x);
  }
};

// Measures a plane of values x(position); all threads of the group get the gate.
template <typename T, typename Value>
__device__ PlaneGate<T> measure(
    const Problem<T>& problem,
    const Group& group,
    bool active,
    const Role<int>& role,
    const Value& x,
    T* scratch) {
  const int n = problem.x.positions();
  T total = T(0);
  for (int i = group.lane; active && i < n; i += group.width) {
    total += x(i);
  }
  const T mean = group.sum(total, scratch) / static_cast<T>(n);
  T deviations = T(0), squares = T(0);
  for (int i = group.lane; active && role.spatial && i < n; i += group.width) {
    const T centred = x(i) - mean;
    deviations += centred;
    squares += centred * centred;
  }
  deviations = group.sum(deviations, scratch);
  squares = group.sum(squares, scratch);
  const auto moments = refined_moments(mean, deviations, squares, static_cast<T>(n));
  const Gate<T> gate = plane_gate(problem.parameters, role, moments, problem.eps);
  return {gate, sigmoid(gate.offset)};
}

// Calls body(slot, run, plane, group, active) for the slots of a block, one per group of threads, all groups at once.
template <typename Body>
__device__ void for_slots(const Slots& slots, int group_width, const Body& body) {
  const Group group(group_width);
  for (int first = 0; first < slots.count(); first += group.count) {
    const bool active = first + group.index < slots.count();
    const int slot = active ? first + group.index : 0;
    body(slot, slot / slots.planes, slot % slots.planes, group, active);
  }
}

// Writes value(run, plane, position) of every plane of a block to where its channel stands in `out`.
template <typename T, typename scalar_t, typename Value>
__device__ void write_slots(
    const Problem<T>& problem,
    const Slots& slots,
    bool shuffle,
    scalar_t* out,
    const Value& value) {
  const View& view = problem.out;
  if (slots.runs == 1) {
    const int channel = shuffled_channel(slots.first, problem.channels, shuffle);
    write_run(out + view.offset(slots.b, channel), view, 1, [&](const Place& p) { return value(0, 0, p.position); });
  } else if (shuffle) {
    write_run(
        out + view.offset(slots.b, kHalves * slots.first), view, slots.count(),
        [&](const Place& p) { return value(p.plane % kHalves, p.plane / kHalves, p.position); });
  } else {
    for (int run = 0; run < kHalves; ++run) {
      write_run(
          out + view.offset(slots.b, slots.channel(problem, run, 0)), view, slots.planes,
          [&, run](const Place& p) { return value(run, p.plane, p.position); });
    }
  }
}

template <typename scalar_t, bool kStaged>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor<scalar_t>) forward(
    const scalar_t* __restrict__ x,  // (B, C, H, W)
    scalar_t* __restrict__ y,  // (B, C, H, W)
    const Problem<accumulate_t<scalar_t>> problem) {
  using T = accumulate_t<scalar_t>;
  extern __shared__ __align__(kVectorBytes) unsigned char memory[];
  __shared__ T scratch[kThreads / kWarp];
  scalar_t* tile = reinterpret_cast<scalar_t*>(memory);
  auto* gates = reinterpret_cast<PlaneGate<T>*>(memory + problem.tile_bytes);  // (slots)
  const Slots slots(problem, kStaged);

  const View& view = problem.x;
  const scalar_t* source = x + view.offset(slots.b, slots.first);
  if (kStaged) {
    for (int run = 0; run < kHalves; ++run) {
      const scalar_t* first = source + view.offset(0, run * problem.half());
      read_run(first, view, slots.planes, problem.x_tile, tile + run * problem.x_tile.run_pitch);
    }
    __syncthreads();
  }
  const auto value = [&](int run, int plane, int position) {
    return static_cast<T>(kStaged ? tile[problem.x_tile.at(run, plane, position)] : source[view.offset_of(position)]);
  };

  for_slots(slots, problem.group_width, [&](int slot, int run, int plane, const Group& group, bool active) {
    const auto role = channel_role(slots.channel(problem, run, plane), problem.channels, problem.groups);
    const auto plane_value = [&](int position) { return value(run, plane, position); };
    const auto gate = measure(problem, group, active, role, plane_value, scratch);
    if (active && group.lane == 0) {
      gates[slot] = gate;
    }
  });
  __syncthreads();
  write_slots(problem, slots, problem.shuffle, y, [&](int run, int plane, int position) {
    const T v = value(run, plane, position);
    return v * gates[run * slots.planes + plane].at(v);
  });
}

template <typename T>
struct PlaneBackward {
  PlaneGate<T> gate;
  InputGradient<T> gradient;
};

template <typename scalar_t, bool kStaged>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor<scalar_t>) backward(
    const scalar_t* __restrict__ grad,  // (B, C, H, W), channels as the output has them
    const scalar_t* __restrict__ x,  // (B, C, H, W)
    scalar_t* __restrict__ dx,  // (B, C, H, W)
    PlaneSums<accumulate_t<scalar_t>>* __restrict__ sums,  // (B, C)
    const Problem<accumulate_t<scalar_t>> problem) {
  using T = accumulate_t<scalar_t>;
  extern __shared__ __align__(kVectorBytes) unsigned char memory[];
  __shared__ T scratch[kThreads / kWarp];
  scalar_t* tile = reinterpret_cast<scalar_t*>(memory);
  scalar_t* grad_tile = reinterpret_cast<scalar_t*>(memory + problem.x_tile_bytes);
  auto* results = reinterpret_cast<PlaneBackward<T>*>(memory + problem.tile_bytes);  // (slots)
  const Slots slots(problem, kStaged);

  const View &view = problem.x, &dy_view = problem.grad;
  const scalar_t* source = x + view.offset(slots.b, slots.first);
  const int dy_first = kStaged ? (problem.shuffle ? kHalves : 1) * slots.first
                               : shuffled_channel(slots.first, problem.channels, problem.shuffle);
  const scalar_t* dy_source = grad + dy_view.offset(slots.b, dy_first);
  if (kStaged) {
    for (int run = 0; run < kHalves; ++run) {
      const scalar_t* first = source + view.offset(0, run * problem.half());
      read_run(first, view, slots.planes, problem.x_tile, tile + run * problem.x_tile.run_pitch);
      const scalar_t* dy = dy_source + dy_view.offset(0, run * problem.half());
      if (!problem.shuffle) {
        read_run(dy, dy_view, slots.planes, problem.grad_tile, grad_tile + run * problem.grad_tile.run_pitch);
      }
    }
    if (problem.shuffle) {
      read_run(dy_source, dy_view, slots.count(), problem.grad_tile, grad_tile);
    }
    __syncthreads();
  }
  const auto value = [&](int run, int plane, int position) {
    return static_cast<T>(kStaged ? tile[problem.x_tile.at(run, plane, position)] : source[view.offset_of(position)]);
  };
  const auto upstream = [&](int run, int plane, int position) {
    if (!kStaged) {
      return static_cast<T>(dy_source[dy_view.offset_of(position)]);
    }
    const TileShape& shape = problem.grad_tile;
    return static_cast<T>(
        grad_tile[problem.shuffle ? shape.at(0, kHalves * plane + run, position) : shape.at(run, plane, position)]);
  };

  for_slots(slots, problem.group_width, [&](int slot, int run, int plane, const Group& group, bool active) {
    const int channel = slots.channel(problem, run, plane), n = view.positions();
    const auto role = channel_role(channel, problem.channels, problem.groups);
    const auto plane_value = [&](int position) { return value(run, plane, position); };
    const auto gate = measure(problem, group, active, role, plane_value, scratch);
    T bias = T(0), weight = T(0);
    for (int i = group.lane; active && i < n; i += group.width) {
      const T v = value(run, plane, i), dy = upstream(run, plane, i);
      const T term = role.spatial ? logit_gradient(dy, v, gate.at(v)) : dy * v;
      bias += term;
      weight += term * (v - gate.gate.mean) * gate.gate.rstd;
    }
    bias = group.sum(bias, scratch);
    weight = group.sum(weight, scratch);
    if (!active || group.lane != 0) {
      return;
    }
    const T count = static_cast<T>(n);
    const PlaneSums<T> plane_sums =
        role.spatial ? PlaneSums<T>{weight, bias} : channel_sums(gate.gate, gate.constant, bias);
    sums[slots.b * problem.channels + channel] = plane_sums;
    results[slot] = {
        gate,
        role.spatial
            ? spatial_input_gradient(gate.gate, plane_sums, count)
            : channel_input_gradient(plane_sums, problem.parameters.channel_weight[role.parameter], count)};
  });
  __syncthreads();
  write_slots(problem, slots, false, dx, [&](int run, int plane, int position) {
    const T v = value(run, plane, position), dy = upstream(run, plane, position);
    const auto& [gate, gradient] = results[run * slots.planes + plane];
    return input_gradient_at(gradient, v, gate.gate.mean, dy, gate.at(v));
  });
}

template <typename T>
struct ParameterGradientPointers {
  T *channel_weight, *channel_bias, *spatial_weight, *spatial_bias, *norm_weight, *norm_bias;
};

// One parameter index per block: adds the sums of the planes over images and groups.
template <typename T>
__global__ void __launch_bounds__(kThreads) reduce_parameter_gradients(
    const PlaneSums<T>* __restrict__ sums,  // (B, groups, 2, values), the halves of every group
    int64_t pairs,  // B * groups
    Parameters<T> parameters,  // (values) each
    ParameterGradientPointers<T> gradients) {  // (values) each
  __shared__ T scratch[kThreads / kWarp];
  const Group block(kThreads);
  const int64_t values = gridDim.x, index = blockIdx.x;
  PlaneSums<T> totals[kHalves] = {};
  for (int64_t pair = threadIdx.x; pair < pairs; pair += kThreads) {
    for (int half = 0; half < kHalves; ++half) {
      const PlaneSums<T> plane = sums[(pair * kHalves + half) * values + index];
      totals[half].weight += plane.weight;
      totals[half].bias += plane.bias;
    }
  }
  for (PlaneSums<T>& total : totals) {
    total = {block.sum(total.weight, scratch), block.sum(total.bias, scratch)};
  }
  if (threadIdx.x == 0) {
    const auto gradient = parameter_gradients(
        totals[0],
        totals[1],
        parameters.spatial_weight[index],
        parameters.norm_weight[index],
        parameters.norm_bias[index]);
    gradients.channel_weight[index] = gradient.channel_weight;
    gradients.channel_bias[index] = gradient.channel_bias;
    gradients.spatial_weight[index] = gradient.spatial_weight;
    gradients.spatial_bias[index] = gradient.spatial_bias;
    gradients.norm_weight[index] = gradient.norm_weight;
    gradients.norm_bias[index] = gradient.norm_bias;
  }
}

}  // namespace toplight::cuda
