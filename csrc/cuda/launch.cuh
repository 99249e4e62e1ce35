// Where a kernel runs, and how it is started: current stream, device limits, every launch checked.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <limits>

namespace toplight::cuda {

constexpr int kThreads = 256;
// What the compiler shall leave registers for: half of the threads a multiprocessor can hold, of doubles a quarter.
template <typename scalar_t>
constexpr int kBlocksPerMultiprocessor = sizeof(scalar_t) == 8 ? 2 : 4;

// Kernels are launched on the device of a tensor and on the stream that is current there, for as long as this lives.
class Device {
 public:
  explicit Device(int32_t index) : guard_(index), index_(index) {
    void* stream = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index, &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }

  int multiprocessors() const {
    return attribute(cudaDevAttrMultiProcessorCount);
  }

  // Bytes of shared memory that a block can ask for.
  int shared_memory() const {
    return attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  }

  template <typename... Parameters, typename... Arguments>
  void launch(void (*kernel)(Parameters...), int64_t blocks, size_t shared_bytes, const Arguments&... arguments) const {
    STD_TORCH_CHECK(blocks <= std::numeric_limits<int32_t>::max(), "a map this large needs too many blocks: ", blocks);
    // Above this a kernel has to ask for its shared memory by name.
    constexpr size_t kGrantedUnasked = 48 * 1024;
    if (shared_bytes > kGrantedUnasked) {
      STD_CUDA_CHECK(cudaFuncSetAttribute(
          kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)));
    }
    kernel<<<static_cast<unsigned>(blocks), kThreads, shared_bytes, stream_>>>(arguments...);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }

 private:
  int attribute(cudaDeviceAttr name) const {
    int value = 0;
    STD_CUDA_CHECK(cudaDeviceGetAttribute(&value, name, index_));
    return value;
  }

  torch::stable::accelerator::DeviceGuard guard_;
  int32_t index_;
  cudaStream_t stream_;
};

}  // namespace toplight::cuda
