// The arithmetic that the CPU and the CUDA kernels share, one scalar step per function.
//
// A plane is the N = H * W values of one image and channel. Slices pool an axis of a plane and are interpolated
// back to it; shuffle attention multiplies every value x of a plane by a gate s = sigmoid(t) in (0, 1):
//   channel half: t = channel_weight * mean + channel_bias, one number for the plane;
//   spatial half: t = spatial_weight * (norm_weight * xhat + norm_bias) + spatial_bias, with
//                 xhat = (x - mean) * rstd, rstd = 1 / sqrt(variance + eps), the variance being the biased one.
// A map that is constant along one axis has the mean and variance of its profile along the other, so the same
// functions serve a profile of H (or W) values, N being their number.
//
// T is the accumulation type: double for double, float for everything else; on the CPU, where it stands for a value of
// several planes, a Pack of them. I is the type of axis positions: 64 bits on the CPU, 32 where a GPU divides.
// Overflow needs 2 * length * slices to exceed it.
#pragma once

#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define TOPLIGHT_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define TOPLIGHT_HOST_DEVICE inline
#endif

namespace toplight {

template <typename I>
struct Interval {
  I begin;  // first position
  I end;  // one past the last position
};

// The positions that slice `index` of `slices` averages on an axis of `length` positions, as adaptive average
// pooling cuts it: neighbours overlap where slices does not divide length.
// With length and slices exchanged it is the transposed relation: the slices that contain position `index`.
template <typename I>
TOPLIGHT_HOST_DEVICE Interval<I> slice_interval(I index, I length, I slices) {
  return {index * length / slices, ((index + 1) * length + slices - 1) / slices};
}

// Linear interpolation at one position: slice[first] + weight * (slice[second] - slice[first]), which leaves equal
// slices as they are: in a profile that hardly varies, rstd would enlarge the difference.
template <typename T, typename I>
struct Tap {
  I first;
  I second;
  T weight;
};

// Interpolation from `slices` values to `length` positions with align_corners=False. The source coordinate
// (position + 0.5) * slices / length - 0.5 is kept as a fraction of integers, so the weight is rounded once.
template <typename T, typename I>
TOPLIGHT_HOST_DEVICE Tap<T, I> upsample_tap(I position, I length, I slices) {
  const I denominator = 2 * length;
  const I numerator = (2 * position + 1) * slices - length;
  if (numerator <= 0) {
    return {I(0), I(0), T(0)};
  }
  const I first = numerator / denominator;
  if (first >= slices - 1) {
    return {slices - 1, slices - 1, T(0)};
  }
  return {first, first + 1, T(numerator - first * denominator) / T(denominator)};
}

// What slice `index` contributes to the position of `tap`.
template <typename T, typename I>
TOPLIGHT_HOST_DEVICE T tap_weight(const Tap<T, I>& tap, I index) {
  return (tap.first == index ? T(1) - tap.weight : T(0)) + (tap.second == index ? tap.weight : T(0));
}

// The positions whose taps can touch slice `index`: all that the gradient of this slice has to visit.
template <typename I>
TOPLIGHT_HOST_DEVICE Interval<I> upsample_support(I index, I length, I slices) {
  const I denominator = 2 * slices;
  // Both bounds come from |source coordinate - index| < 1; the quotients are of non-negative numbers.
  const I above = length * (2 * index - 1) - slices;
  const I below = length * (2 * index + 3) - slices;
  const I begin = index == 0 || above < 0 ? I(0) : above / denominator + 1;
  const I end = index == slices - 1 || below < 0 ? length : (below + denominator - 1) / denominator;
  return {begin, end < length ? end : length};
}

template <typename T>
TOPLIGHT_HOST_DEVICE T sigmoid(T value) {
#ifdef __CUDA_ARCH__
  // By the special function unit, 5 instructions instead of 20: the error is below 2e-7, relative to s below 5e-7 where
  // |value| < 4, from the error bounds of __expf and __fdividef in the CUDA programming guide.
  if constexpr (sizeof(T) == sizeof(float)) {
    return __fdividef(1.0f, 1.0f + __expf(-value));
  }
#endif
  using std::exp;
  return T(1) / (T(1) + exp(-value));
}

// Where a channel of a map of `channels` in `groups` groups stands: every group is a channel half, then a
// spatial half, and the parameters of a half are shared by all groups.
template <typename I>
struct Role {
  I parameter;  // index into the parameters, 0 .. channels / (2 * groups) - 1
  bool spatial;  // spatial half, not channel half
};

template <typename I>
TOPLIGHT_HOST_DEVICE Role<I> channel_role(I channel, I channels, I groups) {
  const I half = channels / (2 * groups);
  const I within = channel % (2 * half);
  return {within < half ? within : within - half, within >= half};
}

// Output channel of input channel `channel`: the channel shuffle with two groups interleaves the halves.
template <typename I>
TOPLIGHT_HOST_DEVICE I shuffled_channel(I channel, I channels, bool shuffle) {
  const I half = channels / 2;
  return shuffle ? 2 * (channel % half) + channel / half : channel;
}

// The inverse: the input channel that output channel `channel` shows.
template <typename I>
TOPLIGHT_HOST_DEVICE I unshuffled_channel(I channel, I channels, bool shuffle) {
  return shuffle ? channel % 2 * (channels / 2) + channel / 2 : channel;
}

// The six parameters, each of channels / (2 * groups) values lying densely.
template <typename T>
struct Parameters {
  const T* channel_weight;
  const T* channel_bias;
  const T* spatial_weight;
  const T* spatial_bias;
  const T* norm_weight;
  const T* norm_bias;
};

// NaN in `a` gives b.
template <typename T>
TOPLIGHT_HOST_DEVICE T larger(T a, T b) {
  return a > b ? a : b;
}

template <typename T>
struct Moments {
  T mean;
  T variance;
};

// Mean and biased variance of a plane from a first mean and the sums of (x - first) and of (x - first)^2. What the
// first mean has lost to rounding is in the first of the two sums; in a plane that hardly varies, rstd enlarges it.
template <typename T>
TOPLIGHT_HOST_DEVICE Moments<T> refined_moments(T first, T sum_deviations, T sum_squares, T count) {
  const T lost = sum_deviations / count;
  const T variance = sum_squares / count - lost * lost;
  return {first + lost, larger(variance, T(0))};
}

// The gate of one plane: sigmoid(slope * (x - mean) + offset). In the channel half slope and rstd are 0 and the
// gate is sigmoid(offset) for the whole plane.
template <typename T>
struct Gate {
  T mean;
  T rstd;
  T slope;
  T offset;
};

template <typename T>
TOPLIGHT_HOST_DEVICE Gate<T> channel_gate(T mean, T channel_weight, T channel_bias) {
  return {mean, T(0), T(0), channel_weight * mean + channel_bias};
}

template <typename T>
TOPLIGHT_HOST_DEVICE Gate<T> spatial_gate(
    const Moments<T>& moments,
    T eps,
    T spatial_weight,
    T spatial_bias,
    T norm_weight,
    T norm_bias) {
  using std::sqrt;
  const T rstd = T(1) / sqrt(moments.variance + eps);
  return {moments.mean, rstd, spatial_weight * norm_weight * rstd, spatial_weight * norm_bias + spatial_bias};
}

// Either of the two, for the channel in that role. The channel half uses the mean alone.
template <typename T, typename I>
TOPLIGHT_HOST_DEVICE Gate<T> plane_gate(
    const Parameters<T>& parameters,
    const Role<I>& role,
    const Moments<T>& moments,
    T eps) {
  const I i = role.parameter;
  if (role.spatial) {
    return spatial_gate(
        moments,
        eps,
        parameters.spatial_weight[i],
        parameters.spatial_bias[i],
        parameters.norm_weight[i],
        parameters.norm_bias[i]);
  }
  return channel_gate(moments.mean, parameters.channel_weight[i], parameters.channel_bias[i]);
}

// s at one value of the spatial half.
template <typename T>
TOPLIGHT_HOST_DEVICE T spatial_gate_at(const Gate<T>& gate, T x) {
  return sigmoid(gate.slope * (x - gate.mean) + gate.offset);
}

// A product that is rounded even where a GPU would fuse it with the sum it goes into.
template <typename T>
TOPLIGHT_HOST_DEVICE T rounded_product(T a, T b) {
#ifdef __CUDA_ARCH__
  if constexpr (sizeof(T) == sizeof(float)) {
    return __fmul_rn(a, b);
  } else {
    return __dmul_rn(a, b);
  }
#else
  return a * b;
#endif
}

// Gradient of the loss to t at one value: dt = dy * x * s * (1 - s). Its mean is taken off it later, and what a fused
// product would leave there grows with the slope.
template <typename T>
TOPLIGHT_HOST_DEVICE T logit_gradient(T dy, T x, T s) {
  return rounded_product(dy * x * s, T(1) - s);
}

// What one plane adds to the gradients of the parameters of its half:
//   channel half: weight = dt * mean, bias = dt, with dt = sum(dy * x) * s * (1 - s);
//   spatial half: weight = sum(dt * xhat), bias = sum(dt).
// The sums over images and groups go through parameter_gradients.
template <typename T>
struct PlaneSums {
  T weight;
  T bias;
};

template <typename T>
TOPLIGHT_HOST_DEVICE PlaneSums<T> channel_sums(const Gate<T>& gate, T s, T sum_dy_x) {
  const T dt = sum_dy_x * s * (T(1) - s);
  return {dt * gate.mean, dt};
}

// What one plane needs besides x, dy and s for dx; slope, dt_mean and linear are 0 in the channel half.
template <typename T>
struct InputGradient {
  T slope;
  T dt_mean;
  T linear;
  T constant;
};

template <typename T>
TOPLIGHT_HOST_DEVICE InputGradient<T> channel_input_gradient(const PlaneSums<T>& sums, T channel_weight, T count) {
  return {T(0), T(0), T(0), sums.bias * channel_weight / count};
}

template <typename T>
TOPLIGHT_HOST_DEVICE InputGradient<T> spatial_input_gradient(const Gate<T>& gate, const PlaneSums<T>& sums, T count) {
  return {gate.slope, sums.bias / count, gate.rstd * (sums.weight / count), T(0)};
}

// dx at one value, from what comes straight through, direct = dy * s, and dt. The mean is taken off dt before the slope,
// which is large where a plane hardly varies, comes in.
template <typename T>
TOPLIGHT_HOST_DEVICE T input_gradient_from(const InputGradient<T>& gradient, T x, T mean, T direct, T dt) {
  return direct + gradient.constant + gradient.slope * (dt - gradient.dt_mean - gradient.linear * (x - mean));
}

template <typename T>
TOPLIGHT_HOST_DEVICE T input_gradient_at(const InputGradient<T>& gradient, T x, T mean, T dy, T s) {
  return input_gradient_from(gradient, x, mean, dy * s, logit_gradient(dy, x, s));
}

// Gradients of the six parameters at one index, from the plane sums added over images and groups.
template <typename T>
struct ParameterGradients {
  T channel_weight;
  T channel_bias;
  T spatial_weight;
  T spatial_bias;
  T norm_weight;
  T norm_bias;
};

template <typename T>
TOPLIGHT_HOST_DEVICE ParameterGradients<T> parameter_gradients(
    const PlaneSums<T>& channel,
    const PlaneSums<T>& spatial,
    T spatial_weight,
    T norm_weight,
    T norm_bias) {
  return {
      channel.weight,
      channel.bias,
      norm_weight * spatial.weight + norm_bias * spatial.bias,
      spatial.bias,
      spatial_weight * spatial.weight,
      spatial_weight * spatial.bias};
}

}  // namespace toplight
