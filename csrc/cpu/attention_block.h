// Shuffle attention over a block of neighbouring channels of a channels_last map: every loop runs over the channels.
// The two halves of a group stand in one block, so both go through the formula of the spatial half; the slope of a
// channel half is 0.
#pragma once

#include "attention.h"

namespace toplight::cpu {

// Everything known of `block` neighbouring channels before their values are gated, one entry per channel.
template <typename T>
struct ChannelGates {
  explicit ChannelGates(int64_t block)
      : mean(block), rstd(block), slope(block), offset(block), row(block), first(block), second(block) {}

  std::vector<T> mean, rstd, slope, offset;
  std::vector<T> row, first, second;  // sums over one row of the map, and over all of it

  // s for the channels of one position.
  void evaluate(const T* x, int64_t block, T* __restrict s) const {
    const T* __restrict means = mean.data();
    const T* __restrict slopes = slope.data();
    const T* __restrict offsets = offset.data();
    for (int64_t k = 0; k < block; ++k) {
      s[k] = spatial_gate_at(Gate<T>{means[k], T(0), slopes[k], offsets[k]}, x[k]);
    }
  }
};

// Sums over all positions, added row by row so that long sums keep their digits: body(position, row) adds the values
// of one position to `row`; the rows are collected in `total`.
template <typename T, typename Body>
void sum_rows(const Map& map, int64_t block, std::vector<T>& row, std::vector<T>& total, const Body& body) {
  std::fill_n(total.data(), block, T(0));
  for (int64_t h = 0; h < map.height; ++h) {
    std::fill_n(row.data(), block, T(0));
    for (int64_t w = 0; w < map.width; ++w) {
      body(h * map.width + w, row.data());
    }
    for (int64_t k = 0; k < block; ++k) {
      total[k] += row[k];
    }
  }
}

// Copies `block` channels to `tile` (positions, block) and measures their gates.
template <typename T, typename scalar_t>
void measure_block(
    const scalar_t* source,
    const Map& map,
    int64_t channel,
    int64_t block,
    const Attention<T>& attention,
    T* tile,
    ChannelGates<T>& gates) {
  sum_rows(map, block, gates.row, gates.first, [&](int64_t position, T* row) {
    const scalar_t* values = source + position * map.channels;
    T* copied = tile + position * block;
    for (int64_t k = 0; k < block; ++k) {
      copied[k] = static_cast<T>(values[k]);
      row[k] += copied[k];
    }
  });
  const T count = static_cast<T>(map.positions());
  for (int64_t k = 0; k < block; ++k) {
    gates.mean[k] = gates.first[k] / count;
  }
  const T* means = gates.mean.data();
  sum_rows(map, block, gates.row, gates.first, [&](int64_t position, T* row) {
    const T* values = tile + position * block;
    for (int64_t k = 0; k < block; ++k) {
      row[k] += values[k] - means[k];
    }
  });
  sum_rows(map, block, gates.row, gates.second, [&](int64_t position, T* row) {
    const T* values = tile + position * block;
    for (int64_t k = 0; k < block; ++k) {
      row[k] += (values[k] - means[k]) * (values[k] - means[k]);
    }
  });
  for (int64_t k = 0; k < block; ++k) {
    const auto moments = refined_moments(gates.mean[k], gates.first[k], gates.second[k], count);
    const auto gate = plane_gate(attention.parameters, attention.role(channel + k), moments, attention.eps);
    gates.mean[k] = gate.mean;
    gates.rstd[k] = gate.rstd;
    gates.slope[k] = gate.slope;
    gates.offset[k] = gate.offset;
  }
}

// InputGradient of every channel of a block.
template <typename T>
struct InputGradients {
  explicit InputGradients(int64_t block) : slope(block), dt_mean(block), linear(block), constant(block) {}

  std::vector<T> slope, dt_mean, linear, constant;

  void set(int64_t k, const InputGradient<T>& gradient) {
    slope[k] = gradient.slope;
    dt_mean[k] = gradient.dt_mean;
    linear[k] = gradient.linear;
    constant[k] = gradient.constant;
  }

  // dx for the channels of one position.
  template <typename scalar_t>
  void write(const T* x, const T* means, const T* dy, const T* s, int64_t block, scalar_t* __restrict dx) const {
    const T* __restrict slopes = slope.data();
    const T* __restrict dt_means = dt_mean.data();
    const T* __restrict linears = linear.data();
    const T* __restrict constants = constant.data();
    for (int64_t k = 0; k < block; ++k) {
      const InputGradient<T> gradient{slopes[k], dt_means[k], linears[k], constants[k]};
      dx[k] = static_cast<scalar_t>(input_gradient_at(gradient, x[k], means[k], dy[k], s[k]));
    }
  }
};

// dx of `block` channels that measure_block has copied and measured. `dy` is (positions, block), `s` scratch of the
// same size; `dx` starts at the first channel.
template <typename T, typename scalar_t>
void backward_block(
    const T* tile,
    const T* dy,
    T* s,
    const Map& map,
    int64_t channel,
    int64_t block,
    const Attention<T>& attention,
    ChannelGates<T>& gates,
    PlaneSums<T>* sums,
    scalar_t* dx) {
  const T* means = gates.mean.data();
  const T* rstds = gates.rstd.data();
  // dt is summed in the channel half too, where s * (1 - s) is one factor of the sum.
  sum_rows(map, block, gates.row, gates.first, [&](int64_t position, T* row) {
    const int64_t i = position * block;
    gates.evaluate(tile + i, block, s + i);
    for (int64_t k = 0; k < block; ++k) {
      row[k] += logit_gradient(dy[i + k], tile[i + k], s[i + k]);
    }
  });
  sum_rows(map, block, gates.row, gates.second, [&](int64_t position, T* row) {
    const int64_t i = position * block;
    for (int64_t k = 0; k < block; ++k) {
      const T dt = logit_gradient(dy[i + k], tile[i + k], s[i + k]);
      row[k] += dt * ((tile[i + k] - means[k]) * rstds[k]);
    }
  });
  const T count = static_cast<T>(map.positions());
  InputGradients<T> gradients(block);
  for (int64_t k = 0; k < block; ++k) {
    const auto role = attention.role(channel + k);
    const Gate<T> gate{means[k], rstds[k], gates.slope[k], gates.offset[k]};
    sums[k] = {role.spatial ? gates.second[k] : gates.first[k] * means[k], gates.first[k]};
    gradients.set(
        k,
        role.spatial
            ? spatial_input_gradient(gate, sums[k], count)
            : channel_input_gradient(sums[k], attention.parameters.channel_weight[role.parameter], count));
  }
  for (int64_t position = 0; position < map.positions(); ++position) {
    const int64_t i = position * block;
    gradients.write(tile + i, means, dy + i, s + i, block, dx + position * map.channels);
  }
}

}  // namespace toplight::cpu
