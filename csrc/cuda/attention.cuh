// The gates of shuffle attention, and what a plane adds to the gradients of its parameters; plane.h has the formulas.
#pragma once

#include "kernels.h"
#include "memory.cuh"
#include "plane.h"
#include "reduce.cuh"

namespace toplight::cuda {

// The arguments of a call, on the device.
template <typename T>
struct Attention {
  Parameters<T> parameters;
  T eps;
  int channels, groups;
  bool shuffle;

  Attention(const AttentionArguments& arguments, int64_t channels)
      : parameters(parameters_of<T>(arguments.parameters)),
        eps(static_cast<T>(arguments.eps)),
        channels(static_cast<int>(channels)),
        groups(static_cast<int>(arguments.groups)),
        shuffle(arguments.shuffle) {}

  __device__ Role<int> role(int channel) const {
    return channel_role(channel, channels, groups);
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

// plane_gate() of plane.h, with the parameters read as small tensors are.
template <typename T>
__device__ PlaneGate<T> gate_of(const Attention<T>& attention, const Role<int>& role, const Moments<T>& moments) {
  const Parameters<T>& p = attention.parameters;
  const int i = role.parameter;
  const Gate<T> gate = role.spatial
      ? spatial_gate(
            moments,
            attention.eps,
            read_small(p.spatial_weight + i),
            read_small(p.spatial_bias + i),
            read_small(p.norm_weight + i),
            read_small(p.norm_bias + i))
      : channel_gate(moments.mean, read_small(p.channel_weight + i), read_small(p.channel_bias + i));
  return {gate, sigmoid(gate.offset)};
}

// Deviation from a first mean and its square; refined_moments() wants their sums.
template <typename T>
__device__ Pair<T> deviation_at(T x, T first_mean) {
  const T deviation = x - first_mean;
  return {deviation, deviation * deviation};
}

// What one value adds to weight and bias of the sums of its plane; in the channel half sum(dy * x) stands for the bias.
template <typename T>
__device__ Pair<T> sums_at(const Role<int>& role, const PlaneGate<T>& gate, T x, T dy) {
  const T term = role.spatial ? logit_gradient(dy, x, gate.at(x)) : dy * x;
  return {term * ((x - gate.gate.mean) * gate.gate.rstd), term};
}

template <typename T>
struct PlaneGradient {
  PlaneSums<T> sums;  // towards the parameters
  InputGradient<T> input;
};

// From the totals of sums_at() over the `count` values of a plane.
template <typename T>
__device__ PlaneGradient<T> plane_gradient(
    const Attention<T>& attention,
    const Role<int>& role,
    const PlaneGate<T>& gate,
    const Pair<T>& totals,
    T count) {
  if (role.spatial) {
    const PlaneSums<T> sums{totals.first, totals.second};
    return {sums, spatial_input_gradient(gate.gate, sums, count)};
  }
  const PlaneSums<T> sums = channel_sums(gate.gate, gate.constant, totals.second);
  const T weight = read_small(attention.parameters.channel_weight + role.parameter);
  return {sums, channel_input_gradient(sums, weight, count)};
}

template <typename T>
__device__ void write_sums(PlaneSums<T>* target, const PlaneSums<T>& sums) {
  write_small(&target->weight, sums.weight);
  write_small(&target->bias, sums.bias);
}

}  // namespace toplight::cuda
