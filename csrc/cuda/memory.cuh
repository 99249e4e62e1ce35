// How kernels touch memory. Maps and small tensors go through different instructions, so that the machine code shows
// which is which (benchmarks/check_sass.py): a kernel with kVector = true reads and writes maps 16 bytes at a time.
#pragma once

#include <cuda_pipeline_primitives.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace toplight::cuda {

constexpr int kVectorBytes = 16;

// Values in a vector.
template <typename scalar_t>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(scalar_t));

constexpr __host__ __device__ int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Maps are copied into shared memory past the registers: all that a block reads is on its way at once.
template <typename scalar_t>
__device__ void copy_vector(scalar_t* shared, const scalar_t* global) {
  __pipeline_memcpy_async(shared, global, kVectorBytes);
}

// For all threads of a block, until what they copied is there.
__device__ inline void wait_for_copies() {
  __pipeline_commit();
  __pipeline_wait_prior(0);
  __syncthreads();
}

template <typename scalar_t>
__device__ void write_vector(scalar_t* global, const scalar_t (&lanes)[kLanes<scalar_t>]) {
  uint4 vector;
  std::memcpy(&vector, lanes, kVectorBytes);
  *reinterpret_cast<uint4*>(global) = vector;
}

// The unsigned integer of the size of a value.
template <typename V>
using Bits = std::conditional_t<
    sizeof(V) == 2,
    unsigned short,
    std::conditional_t<sizeof(V) == 4, unsigned int, unsigned long long>>;

// Vectors of slices and parameters: read through the read-only cache, since many threads read the same.
template <typename V>
__device__ V read_small(const V* global) {
  const Bits<V> bits = __ldg(reinterpret_cast<const Bits<V>*>(global));
  V value;
  std::memcpy(&value, &bits, sizeof(V));
  return value;
}

// Vectors and sums: past the first cache, since only another kernel reads them.
template <typename V>
__device__ void write_small(V* global, V value) {
  Bits<V> bits;
  std::memcpy(&bits, &value, sizeof(V));
  __stcg(reinterpret_cast<Bits<V>*>(global), bits);
}

// Hands out the shared memory of a block. Where the host does the same from nowhere(), `used` is what a launch needs.
struct Arena {
  unsigned char* base;
  int64_t used = 0;

  template <typename V>
  __host__ __device__ V* take(int64_t count) {
    V* values = reinterpret_cast<V*>(base + used);
    used += round_up(count * static_cast<int64_t>(sizeof(V)), kVectorBytes);
    return values;
  }
};

inline Arena nowhere() {
  return {reinterpret_cast<unsigned char*>(kVectorBytes)};
}

}  // namespace toplight::cuda
