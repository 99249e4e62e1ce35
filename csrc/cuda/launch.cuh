// Where a kernel runs, and how it is started: current stream, device limits, every launch checked.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#include <torch/headeronly/util/Exception.h>

#include <array>
#include <cstdint>
#include <limits>
#include <mutex>
#include <set>
#include <utility>

namespace toplight::cuda {

constexpr int kThreads = 256;
// What the compiler shall leave registers for: half of the threads a multiprocessor can hold, of doubles a quarter.
template <typename scalar_t>
constexpr int kBlocksPerMultiprocessor = sizeof(scalar_t) == 8 ? 2 : 4;

struct Limits {
  int multiprocessors;
  int shared_memory;  // bytes that a block can ask for
};

// Asked of the driver once per device: a query costs as much as a small kernel runs.
inline const Limits& limits_of(int32_t device) {
  constexpr int32_t kDevices = 64;
  static std::array<Limits, kDevices> limits;
  static std::array<std::once_flag, kDevices> known;
  STD_TORCH_CHECK(
      device >= 0 && device < kDevices, "no more than ", kDevices, " GPUs are supported, got number ", device);
  std::call_once(known[device], [device] {
    Limits& found = limits[device];
    STD_CUDA_CHECK(cudaDeviceGetAttribute(&found.multiprocessors, cudaDevAttrMultiProcessorCount, device));
    STD_CUDA_CHECK(cudaDeviceGetAttribute(&found.shared_memory, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  });
  return limits[device];
}

// Lets a kernel have all the shared memory of a block on the current device; asked of the driver once for each.
inline void allow_all_shared_memory(const void* kernel, int32_t device) {
  static std::mutex mutex;
  static std::set<std::pair<const void*, int32_t>> allowed;
  const std::lock_guard<std::mutex> lock(mutex);
  if (!allowed.contains({kernel, device})) {
    STD_CUDA_CHECK(cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, limits_of(device).shared_memory));
    allowed.insert({kernel, device});
  }
}

// Kernels are launched on the device of a tensor and on the stream that is current there, for as long as this lives.
class Device {
 public:
  explicit Device(int32_t index) : guard_(index), index_(index) {
    void* stream = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index, &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }

  const Limits& limits() const {
    return limits_of(index_);
  }

  template <int kThreadsPerBlock = kThreads, typename... Parameters, typename... Arguments>
  void launch(void (*kernel)(Parameters...), int64_t blocks, size_t shared_bytes, const Arguments&... arguments) const {
    STD_TORCH_CHECK(blocks <= std::numeric_limits<int32_t>::max(), "a map this large needs too many blocks: ", blocks);
    STD_TORCH_CHECK(
        static_cast<int64_t>(shared_bytes) <= limits().shared_memory,
        "a map this high or wide needs ", shared_bytes, " bytes of shared memory, a block has ",
        limits().shared_memory);
    // Above this a kernel has to ask for its shared memory by name.
    constexpr size_t kGrantedUnasked = 48 * 1024;
    if (shared_bytes > kGrantedUnasked) {
      allow_all_shared_memory(reinterpret_cast<const void*>(kernel), index_);
    }
    kernel<<<static_cast<unsigned>(blocks), kThreadsPerBlock, shared_bytes, stream_>>>(arguments...);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  int32_t index_;
  cudaStream_t stream_;
};

}  // namespace toplight::cuda
