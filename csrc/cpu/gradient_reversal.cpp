// gradient_reversal_backward: -lambda * grad, for a grad of any rank and strides; lambda is a tensor of one value.
#include <vector>

#include "planes.h"

namespace toplight::cpu {
namespace {

// Whether the values lie without gaps in the order in which the result will lie.
bool is_dense(const Tensor& grad) {
  return grad.is_contiguous() || (grad.dim() == 4 && is_channels_last(grad));
}

// Where value `index`, counted in contiguous order, of a strided tensor lies.
int64_t offset_of(int64_t index, const Tensor& tensor) {
  const auto sizes = tensor.sizes(), strides = tensor.strides();
  int64_t offset = 0;
  for (int64_t dim = tensor.dim() - 1; dim >= 0; --dim) {
    offset += index % sizes[dim] * strides[dim];
    index /= sizes[dim];
  }
  return offset;
}

template <typename scalar_t>
void reverse(const Tensor& grad, const Tensor& lambd, Tensor& dx) {
  using T = accumulate_t<scalar_t>;
  const T factor = -*lambd.const_data_ptr<T>();
  const auto* source = grad.const_data_ptr<scalar_t>();
  auto* target = dx.mutable_data_ptr<scalar_t>();
  const auto scale = [&](int64_t count, const scalar_t* values, int64_t stride, scalar_t* scaled) {
    for (int64_t i = 0; i < count; ++i) {
      scaled[i] = static_cast<scalar_t>(factor * static_cast<T>(values[i * stride]));
    }
  };
  if (is_dense(grad)) {
    parallel_tasks(grad.numel(), 1, [&](int64_t begin, int64_t end) {
      scale(end - begin, source + begin, 1, target + begin);
    });
    return;
  }
  const int64_t length = grad.size(grad.dim() - 1), stride = grad.stride(grad.dim() - 1);
  parallel_tasks(grad.numel() / length, length, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      scale(length, source + offset_of(row * length, grad), stride, target + row * length);
    }
  });
}

Tensor gradient_reversal_backward(const Tensor& grad, const Tensor& lambd) {
  const char* op = "gradient_reversal_backward";
  STD_TORCH_CHECK(lambd.numel() == 1, op, ": lambd must be one value, got ", lambd.numel());
  STD_TORCH_CHECK(lambd.device() == grad.device(), op, ": lambd is on another device than grad");
  STD_TORCH_CHECK(
      lambd.scalar_type() == accumulate_type(grad.scalar_type()),
      op, ": lambd must be ", torch::headeronly::toString(accumulate_type(grad.scalar_type())), ", got ",
      torch::headeronly::toString(lambd.scalar_type()));
  using torch::headeronly::MemoryFormat;
  const bool channels_last = grad.dim() == 4 && is_channels_last(grad);
  Tensor dx = torch::stable::empty(
      grad.sizes(),
      grad.scalar_type(),
      std::nullopt,
      grad.device(),
      std::nullopt,
      channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
  dispatch_floating(grad.scalar_type(), op, [&](auto tag) {
    reverse<typename decltype(tag)::type>(grad, lambd, dx);
  });
  return dx;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(toplight_ext, CPU, m) {
  m.impl("gradient_reversal_backward", TORCH_BOX(gradient_reversal_backward));
}

}  // namespace toplight::cpu
