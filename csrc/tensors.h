// What every kernel does with its tensors before and after the arithmetic: argument checks, strides, the layout
// rule and allocation. Shared by the CPU and the CUDA library; only the stable ABI of LibTorch is used.
#pragma once

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <initializer_list>
#include <type_traits>
#include <vector>

#include "plane.h"

namespace toplight {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Sums and the six parameters are kept in this type.
template <typename scalar_t>
using accumulate_t = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;

inline ScalarType accumulate_type(ScalarType type) {
  return type == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

template <typename scalar_t>
struct TypeTag {
  using type = scalar_t;
};

// Calls body(TypeTag<scalar_t>{}) with the C++ type of `type`.
template <typename Body>
auto dispatch_floating(ScalarType type, const char* op, const Body& body) {
  switch (type) {
    case ScalarType::Float:
      return body(TypeTag<float>{});
    case ScalarType::Double:
      return body(TypeTag<double>{});
    case ScalarType::BFloat16:
      return body(TypeTag<torch::headeronly::BFloat16>{});
    case ScalarType::Half:
      return body(TypeTag<torch::headeronly::Half>{});
    default:
      STD_TORCH_CHECK(
          false, op, ": expected float32, float64, bfloat16 or float16, got ", torch::headeronly::toString(type));
  }
}

// Sizes and strides (in elements) of a (B, C, H, W) map.
struct Map {
  int64_t batch, channels, height, width;
  int64_t batch_stride, channel_stride, height_stride, width_stride;

  int64_t positions() const {
    return height * width;
  }
  int64_t offset(int64_t b, int64_t c) const {
    return b * batch_stride + c * channel_stride;
  }
};

inline Map map_of(const Tensor& map) {
  const auto n = map.sizes();
  const auto s = map.strides();
  return {n[0], n[1], n[2], n[3], s[0], s[1], s[2], s[3]};
}

// The layout rule: a map that is returned is channels_last exactly if this holds for the map it is made from.
inline bool is_channels_last(const Tensor& map) {
  if (map.is_contiguous()) {
    return false;
  }
  const auto n = map.sizes();
  const auto s = map.strides();
  int64_t expected = 1;
  for (const int64_t dim : {1, 3, 2, 0}) {
    if (n[dim] != 1 && s[dim] != expected) {
      return false;
    }
    expected *= n[dim];
  }
  return true;
}

// Asks for huge pages where a large tensor on the CPU is new memory: to clear it page by page would take several
// times as long as to fill it.
inline void advise_huge_pages(const Tensor& tensor) {
#ifdef __linux__
  constexpr uintptr_t kHugePage = 2 << 20;
  const auto bytes = static_cast<uintptr_t>(tensor.numel() * tensor.element_size());
  if (tensor.is_cpu() && bytes >= 2 * kHugePage) {
    const auto begin = reinterpret_cast<uintptr_t>(tensor.mutable_data_ptr());
    const uintptr_t first = (begin + kHugePage - 1) / kHugePage * kHugePage;
    madvise(reinterpret_cast<void*>(first), (begin + bytes - first) / kHugePage * kHugePage, MADV_HUGEPAGE);
  }
#endif
}

// Uninitialised and dense, of the type and on the device of `like`. torch::stable::empty has the dispatcher look the
// operator up by name at every call, which takes twice as long.
inline Tensor empty(torch::headeronly::IntHeaderOnlyArrayRef size, const Tensor& like, bool channels_last = false) {
  std::vector<int64_t> strides(size.size());
  int64_t stride = 1;
  const auto next = [&](size_t dim) {
    strides[dim] = stride;
    const bool overflows = __builtin_mul_overflow(stride, std::max<int64_t>(1, size[dim]), &stride);
    STD_TORCH_CHECK(!overflows, "a tensor of more values than can be counted: size ", size[dim], " in dimension ", dim);
  };
  if (channels_last) {
    for (const size_t dim : {1, 3, 2, 0}) {
      next(dim);
    }
  } else {
    for (size_t dim = size.size(); dim-- > 0;) {
      next(dim);
    }
  }
  int32_t type, device_type, device_index;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &type));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device_index));
  AtenTensorHandle handle;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      size.size(), size.data(), strides.data(), type, device_type, device_index, &handle));
  Tensor tensor(handle);
  advise_huge_pages(tensor);
  return tensor;
}

inline Tensor empty(std::initializer_list<int64_t> size, const Tensor& like, bool channels_last = false) {
  return empty(torch::headeronly::IntHeaderOnlyArrayRef(size.begin(), size.size()), like, channels_last);
}

// Checks. Each message names the op, the argument, what was given and what was expected.

// Longest side of a map that is cut into slices or made of them, and most slices of it: what a kernel keeps of an axis
// grows with both, whether there is a map in memory or not.
constexpr int64_t kLongest = 1 << 20;
// Most channels: no memory holds as many, and twice their number is still a number.
constexpr int64_t kMostChannels = int64_t(1) << 48;

inline void check_channels(const Tensor& given, const char* op, const char* name) {
  STD_TORCH_CHECK(given.size(1) <= kMostChannels, op, ": ", name, " has ", given.size(1), " channels");
}

inline void check_map(const Tensor& map, const char* op, const char* name) {
  STD_TORCH_CHECK(map.dim() == 4, op, ": ", name, " must be (B, C, H, W), got ", map.dim(), " dimensions");
  check_channels(map, op, name);
  STD_TORCH_CHECK(
      map.size(2) > 0 && map.size(3) > 0,
      op, ": ", name, " must have H >= 1 and W >= 1, got ", map.size(2), " x ", map.size(3));
}

inline void check_vectors(const Tensor& vectors, const char* op, const char* name) {
  STD_TORCH_CHECK(vectors.dim() == 3, op, ": ", name, " must be (B, C, slices), got ", vectors.dim(), " dimensions");
  check_channels(vectors, op, name);
  STD_TORCH_CHECK(
      vectors.size(2) >= 1 && vectors.size(2) <= kLongest,
      op, ": ", name, " must have at least one slice and at most ", kLongest, ", got ", vectors.size(2));
}

inline void check_same(const Tensor& given, const Tensor& expected, const char* op, const char* name) {
  STD_TORCH_CHECK(given.device() == expected.device(), op, ": ", name, " is on another device than the first argument");
  STD_TORCH_CHECK(
      given.scalar_type() == expected.scalar_type(),
      op, ": ", name, " is ", torch::headeronly::toString(given.scalar_type()),
      ", the first argument is ", torch::headeronly::toString(expected.scalar_type()));
}

inline void check_size(const Tensor& given, std::initializer_list<int64_t> size, const char* op, const char* name) {
  STD_TORCH_CHECK(
      given.dim() == static_cast<int64_t>(size.size()),
      op, ": ", name, " must have ", size.size(), " dimensions, got ", given.dim());
  int64_t dim = 0;
  for (const int64_t expected : size) {
    STD_TORCH_CHECK(
        given.size(dim) == expected,
        op, ": ", name, " must have size ", expected, " in dimension ", dim, ", got ", given.size(dim));
    ++dim;
  }
}

inline void check_slices(int64_t n_h, int64_t n_v, const char* op) {
  STD_TORCH_CHECK(
      n_h >= 1 && n_v >= 1 && n_h <= kLongest && n_v <= kLongest,
      op, ": slices must be at least 1 and at most ", kLongest, ", got (", n_h, ", ", n_v, ")");
}

inline void check_extent(int64_t height, int64_t width, const char* op) {
  STD_TORCH_CHECK(
      height >= 1 && width >= 1 && height <= kLongest && width <= kLongest,
      op, ": size must be at least 1 x 1 and at most ", kLongest, " a side, got ", height, " x ", width);
}

inline void check_groups(int64_t channels, int64_t groups, const char* op) {
  STD_TORCH_CHECK(
      groups >= 1 && channels >= 2 && channels % groups == 0 && channels / groups % 2 == 0,
      op, ": C = ", channels, " must be divisible by 2 * G, G = ", groups);
}

// The parameters of shuffle attention: one dense tensor of C / (2 * groups) values each.
using ParameterTensors = std::array<Tensor, 6>;

inline ParameterTensors check_parameters(
    const std::array<const Tensor*, 6>& parameters,
    const Tensor& map,
    int64_t channels,
    int64_t groups,
    const char* op) {
  static constexpr const char* names[6] = {
      "channel_weight", "channel_bias", "spatial_weight", "spatial_bias", "norm_weight", "norm_bias"};
  check_groups(channels, groups, op);
  const ScalarType type = accumulate_type(map.scalar_type());
  const auto checked = [&](size_t i) {
    const Tensor& parameter = *parameters[i];
    STD_TORCH_CHECK(parameter.device() == map.device(), op, ": ", names[i], " is on another device than the map");
    STD_TORCH_CHECK(
        parameter.scalar_type() == type,
        op, ": ", names[i], " must be ", torch::headeronly::toString(type), ", got ",
        torch::headeronly::toString(parameter.scalar_type()));
    check_size(parameter, {1, channels / (2 * groups), 1, 1}, op, names[i]);
    return parameter.is_contiguous() ? parameter : torch::stable::contiguous(parameter);
  };
  return {checked(0), checked(1), checked(2), checked(3), checked(4), checked(5)};
}

template <typename T>
Parameters<T> parameters_of(const ParameterTensors& tensors) {
  return {
      tensors[0].const_data_ptr<T>(),
      tensors[1].const_data_ptr<T>(),
      tensors[2].const_data_ptr<T>(),
      tensors[3].const_data_ptr<T>(),
      tensors[4].const_data_ptr<T>(),
      tensors[5].const_data_ptr<T>()};
}

}  // namespace toplight
