// Shuffle attention over dense values: one plane of a map, or the profile of a map that is constant along one axis.
#pragma once

#include <array>
#include <tuple>
#include <vector>

#include "planes.h"

namespace toplight::cpu {

// Parameters, groups and eps of one call, and the role of every channel in it.
template <typename T>
struct Attention {
  Parameters<T> parameters;
  int64_t channels;
  int64_t groups;
  T eps;
  bool shuffle;

  Role<int64_t> role(int64_t channel) const {
    return channel_role(channel, channels, groups);
  }
  int64_t output_channel(int64_t channel) const {
    return shuffled_channel(channel, channels, shuffle);
  }
};

template <typename T>
Attention<T> attention_of(
    const ParameterTensors& parameters,
    int64_t channels,
    int64_t groups,
    double eps,
    bool shuffle) {
  return {parameters_of<T>(parameters), channels, groups, static_cast<T>(eps), shuffle};
}

template <typename T>
Gate<T> measure_gate(const T* x, int64_t count, const Attention<T>& attention, const Role<int64_t>& role) {
  const T n = static_cast<T>(count);
  const T mean = sum<T>(count, [&](int64_t i) { return x[i]; }) / n;
  Moments<T> moments{mean, T(0)};
  if (role.spatial) {
    const T deviations = sum<T>(count, [&](int64_t i) { return x[i] - mean; });
    const T squares = sum<T>(count, [&](int64_t i) { return (x[i] - mean) * (x[i] - mean); });
    moments = refined_moments(mean, deviations, squares, n);
  }
  return plane_gate(attention.parameters, role, moments, attention.eps);
}

// y = x * s.
template <typename T, typename scalar_t>
void attend(const T* x, int64_t count, const Attention<T>& attention, const Role<int64_t>& role, scalar_t* y) {
  const Gate<T> gate = measure_gate(x, count, attention, role);
  if (role.spatial) {
    for (int64_t i = 0; i < count; ++i) {
      y[i] = static_cast<scalar_t>(x[i] * spatial_gate_at(gate, x[i]));
    }
  } else {
    const T s = sigmoid(gate.offset);
    for (int64_t i = 0; i < count; ++i) {
      y[i] = static_cast<scalar_t>(x[i] * s);
    }
  }
}

// dx from x and dy; returns what the plane adds to the parameter gradients. `gates` is scratch of `count` values.
template <typename T, typename scalar_t>
PlaneSums<T> attend_backward(
    const T* x,
    const T* dy,
    int64_t count,
    const Attention<T>& attention,
    const Role<int64_t>& role,
    T* gates,
    scalar_t* dx) {
  const Gate<T> gate = measure_gate(x, count, attention, role);
  const T n = static_cast<T>(count);
  if (!role.spatial) {
    const T s = sigmoid(gate.offset);
    const auto sums = channel_sums(gate, s, sum<T>(count, [&](int64_t i) { return dy[i] * x[i]; }));
    const auto gradient = channel_input_gradient(sums, attention.parameters.channel_weight[role.parameter], n);
    for (int64_t i = 0; i < count; ++i) {
      dx[i] = static_cast<scalar_t>(dy[i] * s + gradient.constant);
    }
    return sums;
  }
  for (int64_t i = 0; i < count; ++i) {
    gates[i] = spatial_gate_at(gate, x[i]);
  }
  const auto dt = [&](int64_t i) { return logit_gradient(dy[i], x[i], gates[i]); };
  const T bias = sum<T>(count, dt);
  const T weight = sum<T>(count, [&](int64_t i) { return dt(i) * ((x[i] - gate.mean) * gate.rstd); });
  const PlaneSums<T> sums{weight, bias};
  const auto gradient = spatial_input_gradient(gate, sums, n);
  for (int64_t i = 0; i < count; ++i) {
    dx[i] = static_cast<scalar_t>(input_gradient_at(gradient, x[i], gate.mean, dy[i], gates[i]));
  }
  return sums;
}

using SixTensors = std::array<Tensor, 6>;

// Adds the sums of all planes, (batch, channels), over images and groups in the order in which they stand.
template <typename T>
SixTensors reduce_parameter_gradients(
    const std::vector<PlaneSums<T>>& planes,
    const Attention<T>& attention,
    const Tensor& like) {
  const int64_t count = attention.channels / (2 * attention.groups);
  // Double, since a sum of batch * groups floats one after the other would lose digits.
  std::vector<PlaneSums<double>> totals(2 * count, PlaneSums<double>{0, 0});
  for (size_t first = 0; first < planes.size(); first += 2 * count) {
    for (int64_t i = 0; i < 2 * count; ++i) {
      totals[i].weight += planes[first + i].weight;
      totals[i].bias += planes[first + i].bias;
    }
  }
  const auto one = [&] { return empty({1, count, 1, 1}, like.scalar_type(), like); };
  SixTensors tensors{one(), one(), one(), one(), one(), one()};
  std::array<T*, 6> targets;
  for (size_t i = 0; i < 6; ++i) {
    targets[i] = tensors[i].template mutable_data_ptr<T>();
  }
  const auto& parameters = attention.parameters;
  for (int64_t i = 0; i < count; ++i) {
    const auto gradients = parameter_gradients<double>(
        totals[i],
        totals[count + i],
        parameters.spatial_weight[i],
        parameters.norm_weight[i],
        parameters.norm_bias[i]);
    targets[0][i] = static_cast<T>(gradients.channel_weight);
    targets[1][i] = static_cast<T>(gradients.channel_bias);
    targets[2][i] = static_cast<T>(gradients.spatial_weight);
    targets[3][i] = static_cast<T>(gradients.spatial_bias);
    targets[4][i] = static_cast<T>(gradients.norm_weight);
    targets[5][i] = static_cast<T>(gradients.norm_bias);
  }
  return tensors;
}

}  // namespace toplight::cpu
