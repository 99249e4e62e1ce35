// gradient_reversal_backward: -lambda * grad, for a grad of any rank and strides; lambda is a tensor of one value.
#include "kernels.h"
#include "tiles.h"

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

}  // namespace

void gradient_reversal_backward(const Tensor& grad, const Tensor& lambd, Tensor& dx) {
  dispatch_floating(grad.scalar_type(), "gradient_reversal_backward", [&](auto tag) {
    reverse<typename decltype(tag)::type>(grad, lambd, dx);
  });
}

}  // namespace toplight::cpu
