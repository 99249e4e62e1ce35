// The gradients of the six parameters of shuffle attention from what the planes left: no atomics, a fixed order.
#pragma once

#include "attention.cuh"
#include "launch.cuh"

namespace toplight::cuda {

template <typename T>
struct ParameterGradientPointers {
  T *channel_weight, *channel_bias, *spatial_weight, *spatial_bias, *norm_weight, *norm_bias;
};

// There are few parameters and many planes, so that what counts is how many reads of a block are on their way.
constexpr int kReducingThreads = 1024;

// One parameter index per block: adds the sums of the planes over images and groups.
template <typename T>
__global__ void __launch_bounds__(kReducingThreads) reduce_parameter_gradients(
    const PlaneSums<T>* __restrict__ sums,  // (B, groups, 2, values), the halves of every group
    int64_t pairs,  // B * groups
    const __grid_constant__ Parameters<T> parameters,  // (values) each
    const __grid_constant__ ParameterGradientPointers<T> gradients) {  // (values) each
  __shared__ T scratch[kMostWarps];
  const Group block(kReducingThreads, kReducingThreads);
  const int64_t values = gridDim.x, index = blockIdx.x;
  Pair<T> channel{}, spatial{};  // of weight and bias
#pragma unroll 4
  for (int64_t pair = threadIdx.x; pair < pairs; pair += kReducingThreads) {
    const PlaneSums<T> of_channel = sums[2 * pair * values + index], of_spatial = sums[(2 * pair + 1) * values + index];
    channel += {of_channel.weight, of_channel.bias};
    spatial += {of_spatial.weight, of_spatial.bias};
  }
  channel = block.sum(channel, scratch);
  spatial = block.sum(spatial, scratch);
  if (threadIdx.x == 0) {
    const auto gradient = parameter_gradients<T>(
        {channel.first, channel.second}, {spatial.first, spatial.second},
        parameters.spatial_weight[index], parameters.norm_weight[index], parameters.norm_bias[index]);
    gradients.channel_weight[index] = gradient.channel_weight;
    gradients.channel_bias[index] = gradient.channel_bias;
    gradients.spatial_weight[index] = gradient.spatial_weight;
    gradients.spatial_bias[index] = gradient.spatial_bias;
    gradients.norm_weight[index] = gradient.norm_weight;
    gradients.norm_bias[index] = gradient.norm_bias;
  }
}

// The sums of all planes, (B, C), as a buffer to fill and then to reduce.
template <typename T>
class PlaneSumsBuffer {
 public:
  PlaneSumsBuffer(const AttentionArguments& arguments, int64_t images, int64_t channels)
      : arguments_(arguments),
        images_(images),
        values_(channels / (2 * arguments.groups)),
        buffer_(empty({images, channels, 2}, arguments.parameters[0])) {}

  PlaneSums<T>* data() const {
    return reinterpret_cast<PlaneSums<T>*>(buffer_.mutable_data_ptr<T>());
  }

  void reduce(const Device& device, ParameterTensors& gradients) const {
    const auto target = [&](int i) { return gradients[i].mutable_data_ptr<T>(); };
    device.launch<kReducingThreads>(
        reduce_parameter_gradients<T>,
        values_,
        0,
        data(),
        images_ * arguments_.groups,
        parameters_of<T>(arguments_.parameters),
        ParameterGradientPointers<T>{target(0), target(1), target(2), target(3), target(4), target(5)});
  }

 private:
  const AttentionArguments& arguments_;
  int64_t images_, values_;
  Tensor buffer_;
};

}  // namespace toplight::cuda
