// Shuffle attention over one bundle: the planes of its channels, or their profiles where the map is constant along one
// axis. Channel and spatial halves may share a bundle: what differs is chosen lane by lane.
#pragma once

#include <array>

#include "kernels.h"
#include "tiles.h"

namespace toplight::cpu {

// The six parameters as the lanes of one bundle have them, and 1 for those in a spatial half, else 0.
template <typename T>
struct LaneParameters {
  Pack<T> channel_weight, channel_bias, spatial_weight, spatial_bias, norm_weight, norm_bias;
  Pack<T> spatial;
  bool any_spatial;
};

// Parameters, groups and eps of one call.
template <typename T>
class Attention {
 public:
  Attention(const AttentionArguments& arguments, int64_t channels)
      : arguments_(arguments),
        channels_(channels),
        group_(channels / arguments.groups),
        length_(group_ + Pack<T>::kLanes),
        spread_(7 * length_) {
    const int64_t half = group_ / 2;
    for (int64_t first = 0; first < length_; first += half) {
      const int64_t count = std::min(half, length_ - first);
      for (size_t i = 0; i < 6; ++i) {
        const T* values = arguments.parameters[i].template const_data_ptr<T>();
        std::copy_n(values, count, spread_ + i * length_ + first);
      }
      std::fill_n(spread_ + 6 * length_ + first, count, T(first / half % 2));
    }
  }

  int64_t channels() const {
    return channels_;
  }
  Pack<T> eps() const {
    return Pack<T>(static_cast<T>(arguments_.eps));
  }

  LaneParameters<T> parameters(const Lanes& lanes) const {
    const int64_t within = lanes.first % group_;
    const auto of = [&](int64_t i) { return Pack<T>::load(spread_ + i * length_ + within); };
    return {of(0), of(1), of(2), of(3), of(4), of(5), of(6), within + lanes.end > group_ / 2};
  }

  // Where the channels of bundles stand in the output.
  void output(const std::vector<Lanes>& bundles, std::vector<Lanes>& shuffled) const {
    shuffled.clear();
    for (const Lanes& lanes : bundles) {
      const int64_t first = shuffled_channel(lanes.first, channels_, arguments_.shuffle);
      shuffled.push_back({first, arguments_.shuffle ? 2 : 1, lanes.begin, lanes.end});
    }
  }

 private:
  const AttentionArguments& arguments_;
  int64_t channels_, group_;
  int64_t length_;  // a group, and what a bundle that begins in it can reach beyond
  Buffer<T> spread_;  // (7, length): the parameters of these channels, and whether they are in a spatial half
};

// Sums of kSums terms over positions, term(i, terms). Four at a time and in pieces, so that additions overlap and long
// sums keep their digits. Inlined, so that what the terms need stays in registers.
template <size_t kSums, typename T, typename Term>
[[gnu::always_inline]] inline std::array<Pack<T>, kSums> sum(int64_t count, const Term& term) {
  constexpr int64_t kAtOnce = 4, kPieceLength = 64;
  std::array<Pack<T>, kSums> total, terms;
  total.fill(Pack<T>(T(0)));
  for (int64_t begin = 0; begin < count; begin += kPieceLength) {
    const int64_t end = std::min(begin + kPieceLength, count);
    std::array<Pack<T>, kSums> piece[kAtOnce];
    for (auto& sums : piece) {
      sums.fill(Pack<T>(T(0)));
    }
    int64_t i = begin;
    for (; i + kAtOnce <= end; i += kAtOnce) {
      for (int64_t k = 0; k < kAtOnce; ++k) {
        term(i + k, terms);
        for (size_t j = 0; j < kSums; ++j) {
          piece[k][j] += terms[j];
        }
      }
    }
    for (; i < end; ++i) {
      term(i, terms);
      for (size_t j = 0; j < kSums; ++j) {
        piece[0][j] += terms[j];
      }
    }
    for (size_t j = 0; j < kSums; ++j) {
      total[j] += (piece[0][j] + piece[1][j]) + (piece[2][j] + piece[3][j]);
    }
  }
  return total;
}

// The gates of the planes in tile x, (count, lanes).
template <typename T>
[[gnu::always_inline]] inline Gate<Pack<T>> measure(
    const T* x,
    int64_t count,
    const LaneParameters<T>& parameters,
    Pack<T> eps) {
  constexpr int64_t kLanes = Pack<T>::kLanes;
  const auto at = [&](int64_t i) { return Pack<T>::load(x + i * kLanes); };
  const Pack<T> n(static_cast<T>(count));
  const auto [total] = sum<1, T>(count, [&](int64_t i, auto& terms) { terms[0] = at(i); });
  const Pack<T> mean = total / n;
  if (!parameters.any_spatial) {
    return channel_gate(mean, parameters.channel_weight, parameters.channel_bias);
  }
  const auto [deviations, squares] = sum<2, T>(count, [&](int64_t i, auto& terms) {
    terms[0] = at(i) - mean;
    terms[1] = terms[0] * terms[0];
  });
  const Gate<Pack<T>> spatial = spatial_gate(
      refined_moments(mean, deviations, squares, n),
      eps,
      parameters.spatial_weight,
      parameters.spatial_bias,
      parameters.norm_weight,
      parameters.norm_bias);
  const Gate<Pack<T>> channel = channel_gate(spatial.mean, parameters.channel_weight, parameters.channel_bias);
  return {
      spatial.mean,
      select(parameters.spatial, spatial.rstd, channel.rstd),
      select(parameters.spatial, spatial.slope, channel.slope),
      select(parameters.spatial, spatial.offset, channel.offset)};
}

// y = x * s; y may be x.
template <typename T>
void attend(const T* x, int64_t count, const LaneParameters<T>& parameters, Pack<T> eps, T* y) {
  constexpr int64_t kLanes = Pack<T>::kLanes;
  const Gate<Pack<T>> gate = measure(x, count, parameters, eps);
  if (!parameters.any_spatial) {
    const Pack<T> s = sigmoid(gate.offset);
    for (int64_t i = 0; i < count; ++i) {
      (Pack<T>::load(x + i * kLanes) * s).store(y + i * kLanes);
    }
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    const auto value = Pack<T>::load(x + i * kLanes);
    (value * spatial_gate_at(gate, value)).store(y + i * kLanes);
  }
}

// dx takes the place of dy; returns what the planes add to the gradients of the parameters. `dt` is scratch of the
// size of x.
template <typename T>
PlaneSums<Pack<T>> attend_backward(
    const T* x,
    T* dy,
    int64_t count,
    const LaneParameters<T>& parameters,
    Pack<T> eps,
    T* dt) {
  constexpr int64_t kLanes = Pack<T>::kLanes;
  const auto at = [](const T* tile, int64_t i) { return Pack<T>::load(tile + i * kLanes); };
  const Gate<Pack<T>> gate = measure(x, count, parameters, eps);
  const Pack<T> n(static_cast<T>(count));
  if (!parameters.any_spatial) {
    const Pack<T> s = sigmoid(gate.offset);
    const auto [sum_dy_x] = sum<1, T>(count, [&](int64_t i, auto& terms) { terms[0] = at(dy, i) * at(x, i); });
    const auto sums = channel_sums(gate, s, sum_dy_x);
    const auto gradient = channel_input_gradient(sums, parameters.channel_weight, n);
    for (int64_t i = 0; i < count; ++i) {
      (at(dy, i) * s + gradient.constant).store(dy + i * kLanes);
    }
    return sums;
  }
  const auto [bias, covariance] = sum<2, T>(count, [&](int64_t i, auto& terms) {
    const Pack<T> value = at(x, i), s = spatial_gate_at(gate, value);
    terms[0] = logit_gradient(at(dy, i), value, s);
    terms[1] = terms[0] * (value - gate.mean);
    (at(dy, i) * s).store(dy + i * kLanes);
    terms[0].store(dt + i * kLanes);
  });
  const PlaneSums<Pack<T>> sums{select(parameters.spatial, covariance * gate.rstd, bias * gate.mean), bias};
  const auto channel = channel_input_gradient(sums, parameters.channel_weight, n);
  const auto spatial = spatial_input_gradient(gate, sums, n);
  const InputGradient<Pack<T>> gradient{
      gate.slope, spatial.dt_mean, spatial.linear, select(parameters.spatial, spatial.constant, channel.constant)};
  for (int64_t i = 0; i < count; ++i) {
    input_gradient_from(gradient, at(x, i), gate.mean, at(dy, i), at(dt, i)).store(dy + i * kLanes);
  }
  return sums;
}

// What all planes add to the gradients of weight and bias of their half: (batch, channels) each.
template <typename T>
class AllPlaneSums {
 public:
  AllPlaneSums(int64_t batch, int64_t channels)
      : batch_(batch), channels_(channels), weight_(batch * channels), bias_(batch * channels) {}

  void set(int64_t b, const Lanes& lanes, const PlaneSums<Pack<T>>& sums) {
    const int64_t first = b * channels_ + lanes.first;
    if (lanes.count() == Pack<T>::kLanes) {
      sums.weight.store(weight_ + first);
      sums.bias.store(bias_ + first);
      return;
    }
    for (int64_t lane = lanes.begin; lane < lanes.end; ++lane) {
      weight_.get()[first + lane] = sums.weight.v[lane];
      bias_.get()[first + lane] = sums.bias.v[lane];
    }
  }

  // Adds them over images, then over groups, in the order in which they stand.
  void reduce(const AttentionArguments& arguments, ParameterTensors& d_parameters) const {
    const int64_t count = channels_ / (2 * arguments.groups);
    const auto weight = over_images(weight_), bias = over_images(bias_);
    std::vector<PlaneSums<double>> sums(2 * count, {0, 0});
    for (int64_t first = 0; first < channels_; first += 2 * count) {
      for (int64_t i = 0; i < 2 * count; ++i) {
        sums[i].weight += weight[first + i];
        sums[i].bias += bias[first + i];
      }
    }
    const auto parameters = parameters_of<T>(arguments.parameters);
    for (int64_t i = 0; i < count; ++i) {
      const auto gradients = parameter_gradients<double>(
          sums[i], sums[count + i], parameters.spatial_weight[i], parameters.norm_weight[i], parameters.norm_bias[i]);
      const double values[6] = {
          gradients.channel_weight,
          gradients.channel_bias,
          gradients.spatial_weight,
          gradients.spatial_bias,
          gradients.norm_weight,
          gradients.norm_bias};
      for (size_t k = 0; k < 6; ++k) {
        d_parameters[k].template mutable_data_ptr<T>()[i] = static_cast<T>(values[k]);
      }
    }
  }

 private:
  // Double, since a sum of so many floats one after the other would lose digits.
  std::vector<double> over_images(const Buffer<T>& sums) const {
    std::vector<double> total(channels_);
    for (int64_t b = 0; b < batch_; ++b) {
      const T* image = sums + b * channels_;
      for (int64_t channel = 0; channel < channels_; ++channel) {
        total[channel] += image[channel];
      }
    }
    return total;
  }

  int64_t batch_, channels_;
  Buffer<T> weight_, bias_;
};

}  // namespace toplight::cpu
