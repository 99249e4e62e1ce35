// gradient_reversal_backward: dx = -lambda * grad, for a grad of any rank and strides; lambda is read on the device.
#include "kernels.h"
#include "launch.cuh"
#include "memory.cuh"

namespace toplight::cuda {
namespace {

constexpr int kMostDimensions = 12;

// Sizes and strides, innermost first; neighbours that can be walked as one are one.
struct Strided {
  int dimensions;
  int64_t sizes[kMostDimensions], strides[kMostDimensions];

  __device__ int64_t offset(int64_t index) const {
    int64_t offset = 0;
    for (int dim = 0; dim + 1 < dimensions; ++dim) {
      offset += index % sizes[dim] * strides[dim];
      index /= sizes[dim];
    }
    return offset + index * strides[dimensions - 1];
  }
};

Strided strided(const Tensor& tensor) {
  Strided merged{1, {1}, {0}};
  for (int64_t dim = tensor.dim() - 1; dim >= 0; --dim) {
    const int64_t size = tensor.size(dim), stride = tensor.stride(dim);
    int64_t& last_size = merged.sizes[merged.dimensions - 1];
    int64_t& last_stride = merged.strides[merged.dimensions - 1];
    if (last_size == 1) {
      last_size = size;
      last_stride = stride;
    } else if (size != 1 && stride == last_size * last_stride) {
      last_size *= size;
    } else if (size != 1) {
      STD_TORCH_CHECK(
          merged.dimensions < kMostDimensions,
          "gradient_reversal_backward: a gradient strided in more than ", kMostDimensions, " dimensions");
      merged.sizes[merged.dimensions] = size;
      merged.strides[merged.dimensions++] = stride;
    }
  }
  return merged;
}

// Vectors, or values, per thread: all its reads are on their way at once.
constexpr int kPerThread = 4;

template <typename scalar_t, bool kVector>
__global__ void __launch_bounds__(kThreads) reverse(
    const scalar_t* grad,
    const accumulate_t<scalar_t>* lambd,  // (1)
    scalar_t* dx,  // as dense as grad if kVector, else contiguous
    int64_t count,
    const __grid_constant__ Strided strides) {  // of grad, unless kVector
  using T = accumulate_t<scalar_t>;
  const T factor = -read_small(lambd);
  const int64_t first = int64_t{blockIdx.x} * kThreads * kPerThread + threadIdx.x;
  const auto reversed = [&](scalar_t value) { return static_cast<scalar_t>(factor * static_cast<T>(value)); };
  if constexpr (kVector) {
    constexpr int kVectorLanes = kLanes<scalar_t>;
    const int64_t vectors = count / kVectorLanes;
    uint4 vector[kPerThread];
#pragma unroll
    for (int k = 0; k < kPerThread; ++k) {
      const int64_t i = first + k * kThreads;
      vector[k] = i < vectors ? reinterpret_cast<const uint4*>(grad)[i] : uint4{};
    }
#pragma unroll
    for (int k = 0; k < kPerThread; ++k) {
      const int64_t i = first + k * kThreads;
      scalar_t lanes[kVectorLanes];
      std::memcpy(lanes, &vector[k], kVectorBytes);
#pragma unroll
      for (scalar_t& lane : lanes) {
        lane = reversed(lane);
      }
      if (i < vectors) {
        write_vector(dx + i * kVectorLanes, lanes);
      }
    }
  } else {
#pragma unroll 1
    for (int k = 0; k < kPerThread; ++k) {
      const int64_t i = first + k * kThreads;
      if (i < count) {
        dx[i] = reversed(grad[strides.offset(i)]);
      }
    }
  }
}

template <typename scalar_t>
void run(const Tensor& grad, const Tensor& lambd, Tensor& dx) {
  const Device device(grad.get_device_index());
  const auto* source = grad.const_data_ptr<scalar_t>();
  auto* target = dx.mutable_data_ptr<scalar_t>();
  const int64_t count = grad.numel();
  // A channels_last gradient is walked as it lies, since dx lies alike.
  const bool dense = grad.is_contiguous() || (grad.dim() == 4 && is_channels_last(grad));
  const bool aligned = reinterpret_cast<uintptr_t>(source) % kVectorBytes == 0;
  const Strided strides = dense ? Strided{1, {count}, {1}} : strided(grad);
  const auto launch = [&](auto kernel, int64_t units) {
    const int64_t per_block = kThreads * kPerThread;
    device.launch(
        kernel, (units + per_block - 1) / per_block, 0, source,
        lambd.const_data_ptr<accumulate_t<scalar_t>>(), target, count, strides);
  };
  if constexpr (sizeof(scalar_t) < sizeof(double)) {
    if (dense && aligned && count % kLanes<scalar_t> == 0) {
      return launch(reverse<scalar_t, true>, count / kLanes<scalar_t>);
    }
  }
  launch(reverse<scalar_t, false>, count);
}

}  // namespace

void gradient_reversal_backward(const Tensor& grad, const Tensor& lambd, Tensor& dx) {
  dispatch_floating(grad.scalar_type(), "gradient_reversal_backward", [&](auto tag) {
    run<typename decltype(tag)::type>(grad, lambd, dx);
  });
}

}  // namespace toplight::cuda
