// What every op does before its kernel, on any device: checks of the arguments, the layout rule, allocation, and the
// answer where a map has no value.
// Compiled into each device library, which registers its kernels under these functions.
#include "kernels.h"

#define ENTRY_PARAMETERS                                                                                  \
  const Tensor &channel_weight, const Tensor &channel_bias, const Tensor &spatial_weight,                 \
      const Tensor &spatial_bias, const Tensor &norm_weight, const Tensor &norm_bias, int64_t groups,     \
      double eps, bool shuffle
#define ENTRY_ARGUMENTS(map, channels) \
  arguments_of(                        \
      {&channel_weight, &channel_bias, &spatial_weight, &spatial_bias, &norm_weight, &norm_bias}, groups, eps, shuffle, \
      map, channels, op)

namespace toplight::TOPLIGHT_DEVICE {
namespace {

using MapAndParameters = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;
using VectorsAndParameters = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

AttentionArguments arguments_of(
    const std::array<const Tensor*, 6>& parameters,
    int64_t groups,
    double eps,
    bool shuffle,
    const Tensor& map,
    int64_t channels,
    const char* op) {
  return {check_parameters(parameters, map, channels, groups, op), groups, eps, shuffle};
}

ParameterTensors empty_like(const ParameterTensors& parameters) {
  const auto one = [&](size_t i) { return empty(parameters[i].sizes(), parameters[i]); };
  return {one(0), one(1), one(2), one(3), one(4), one(5)};
}

// The gradients of the parameters where there is no image.
void clear(ParameterTensors& gradients) {
  for (Tensor& gradient : gradients) {
    torch::stable::zero_(gradient);
  }
}

Tensor empty_like_map(const Tensor& map) {
  return empty(map.sizes(), map, is_channels_last(map));
}

// Rows and columns of one map; returns its channels.
int64_t check_slice_vectors(const Tensor& rows, const Tensor& columns, const char* op) {
  check_vectors(rows, op, "rows");
  check_vectors(columns, op, "columns");
  check_same(columns, rows, op, "columns");
  check_size(columns, {rows.size(0), columns.size(1), columns.size(2)}, op, "columns");
  return rows.size(1) + columns.size(1);
}

std::tuple<Tensor, Tensor> slice_pool_entry(const Tensor& x, int64_t n_h, int64_t n_v) {
  const char* op = "slice_pool";
  check_map(x, op, "x");
  check_extent(x.size(2), x.size(3), op);
  check_slices(n_h, n_v, op);
  Tensor rows = empty({x.size(0), x.size(1), n_h}, x);
  Tensor columns = empty({x.size(0), x.size(1), n_v}, x);
  if (x.numel() > 0) {
    slice_pool(x, rows, columns);
  }
  return {rows, columns};
}

Tensor slice_pool_backward_entry(
    const Tensor& grad_rows,
    const Tensor& grad_columns,
    int64_t height,
    int64_t width,
    bool channels_last) {
  const char* op = "slice_pool_backward";
  check_vectors(grad_rows, op, "grad_rows");
  check_vectors(grad_columns, op, "grad_columns");
  check_same(grad_columns, grad_rows, op, "grad_columns");
  check_size(grad_columns, {grad_rows.size(0), grad_rows.size(1), grad_columns.size(2)}, op, "grad_columns");
  check_extent(height, width, op);
  Tensor dx = empty({grad_rows.size(0), grad_rows.size(1), height, width}, grad_rows, channels_last);
  if (dx.numel() > 0) {
    slice_pool_backward(grad_rows, grad_columns, dx);
  }
  return dx;
}

Tensor slice_pool_upsample_entry(const Tensor& x, int64_t n_h, int64_t n_v) {
  const char* op = "slice_pool_upsample";
  check_map(x, op, "x");
  check_extent(x.size(2), x.size(3), op);
  check_slices(n_h, n_v, op);
  Tensor y = empty({x.size(0), 2 * x.size(1), x.size(2), x.size(3)}, x, is_channels_last(x));
  if (y.numel() > 0) {
    slice_pool_upsample(x, n_h, n_v, y);
  }
  return y;
}

Tensor slice_pool_upsample_backward_entry(const Tensor& grad, int64_t n_h, int64_t n_v) {
  const char* op = "slice_pool_upsample_backward";
  check_map(grad, op, "grad");
  check_extent(grad.size(2), grad.size(3), op);
  check_slices(n_h, n_v, op);
  STD_TORCH_CHECK(grad.size(1) % 2 == 0, op, ": grad must have an even number of channels, got ", grad.size(1));
  Tensor dx = empty({grad.size(0), grad.size(1) / 2, grad.size(2), grad.size(3)}, grad, is_channels_last(grad));
  if (dx.numel() > 0) {
    slice_pool_upsample_backward(grad, n_h, n_v, dx);
  }
  return dx;
}

Tensor shuffle_attention_entry(const Tensor& x, ENTRY_PARAMETERS) {
  const char* op = "shuffle_attention";
  check_map(x, op, "x");
  const auto arguments = ENTRY_ARGUMENTS(x, x.size(1));
  Tensor y = empty_like_map(x);
  if (y.numel() > 0) {
    shuffle_attention(x, arguments, y);
  }
  return y;
}

MapAndParameters shuffle_attention_backward_entry(const Tensor& grad, const Tensor& x, ENTRY_PARAMETERS) {
  const char* op = "shuffle_attention_backward";
  check_map(x, op, "x");
  check_same(grad, x, op, "grad");
  check_size(grad, {x.size(0), x.size(1), x.size(2), x.size(3)}, op, "grad");
  const auto arguments = ENTRY_ARGUMENTS(x, x.size(1));
  Tensor dx = empty_like_map(x);
  ParameterTensors p = empty_like(arguments.parameters);
  if (grad.numel() > 0) {
    shuffle_attention_backward(grad, x, arguments, dx, p);
  } else {
    clear(p);
  }
  return {dx, p[0], p[1], p[2], p[3], p[4], p[5]};
}

Tensor upsample_shuffle_attention_entry(
    const Tensor& rows,
    const Tensor& columns,
    int64_t height,
    int64_t width,
    ENTRY_PARAMETERS,
    bool channels_last) {
  const char* op = "upsample_shuffle_attention";
  const int64_t channels = check_slice_vectors(rows, columns, op);
  check_extent(height, width, op);
  const auto arguments = ENTRY_ARGUMENTS(rows, channels);
  Tensor y = empty({rows.size(0), channels, height, width}, rows, channels_last);
  if (y.numel() > 0) {
    upsample_shuffle_attention(rows, columns, arguments, y);
  }
  return y;
}

VectorsAndParameters upsample_shuffle_attention_backward_entry(
    const Tensor& grad,
    const Tensor& rows,
    const Tensor& columns,
    ENTRY_PARAMETERS) {
  const char* op = "upsample_shuffle_attention_backward";
  const int64_t channels = check_slice_vectors(rows, columns, op);
  check_map(grad, op, "grad");
  check_extent(grad.size(2), grad.size(3), op);
  check_same(grad, rows, op, "grad");
  check_size(grad, {rows.size(0), channels, grad.size(2), grad.size(3)}, op, "grad");
  const auto arguments = ENTRY_ARGUMENTS(rows, channels);
  Tensor d_rows = empty(rows.sizes(), rows), d_columns = empty(columns.sizes(), columns);
  ParameterTensors p = empty_like(arguments.parameters);
  if (grad.numel() > 0) {
    upsample_shuffle_attention_backward(grad, rows, columns, arguments, d_rows, d_columns, p);
  } else {
    clear(p);
  }
  return {d_rows, d_columns, p[0], p[1], p[2], p[3], p[4], p[5]};
}

Tensor upsample_shuffle_attention_pooled_entry(
    const Tensor& rows,
    const Tensor& columns,
    int64_t height,
    int64_t width,
    ENTRY_PARAMETERS) {
  const char* op = "upsample_shuffle_attention_pooled";
  const int64_t channels = check_slice_vectors(rows, columns, op);
  check_extent(height, width, op);
  const auto arguments = ENTRY_ARGUMENTS(rows, channels);
  Tensor means = empty({rows.size(0), channels}, rows);
  if (means.numel() > 0) {
    upsample_shuffle_attention_pooled(rows, columns, height, width, arguments, means);
  }
  return means;
}

VectorsAndParameters upsample_shuffle_attention_pooled_backward_entry(
    const Tensor& grad,
    const Tensor& rows,
    const Tensor& columns,
    int64_t height,
    int64_t width,
    ENTRY_PARAMETERS) {
  const char* op = "upsample_shuffle_attention_pooled_backward";
  const int64_t channels = check_slice_vectors(rows, columns, op);
  check_extent(height, width, op);
  check_same(grad, rows, op, "grad");
  check_size(grad, {rows.size(0), channels}, op, "grad");
  const auto arguments = ENTRY_ARGUMENTS(rows, channels);
  Tensor d_rows = empty(rows.sizes(), rows), d_columns = empty(columns.sizes(), columns);
  ParameterTensors p = empty_like(arguments.parameters);
  if (grad.numel() > 0) {
    upsample_shuffle_attention_pooled_backward(grad, rows, columns, height, width, arguments, d_rows, d_columns, p);
  } else {
    clear(p);
  }
  return {d_rows, d_columns, p[0], p[1], p[2], p[3], p[4], p[5]};
}

Tensor gradient_reversal_backward_entry(const Tensor& grad, const Tensor& lambd) {
  const char* op = "gradient_reversal_backward";
  STD_TORCH_CHECK(lambd.numel() == 1, op, ": lambd must be one value, got ", lambd.numel());
  STD_TORCH_CHECK(lambd.device() == grad.device(), op, ": lambd is on another device than grad");
  const ScalarType type = accumulate_type(grad.scalar_type());
  STD_TORCH_CHECK(
      lambd.scalar_type() == type,
      op, ": lambd must be ", torch::headeronly::toString(type), ", got ",
      torch::headeronly::toString(lambd.scalar_type()));
  Tensor dx = empty(grad.sizes(), grad, grad.dim() == 4 && is_channels_last(grad));
  if (dx.numel() > 0) {
    gradient_reversal_backward(grad, lambd, dx);
  }
  return dx;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(toplight_ext, TOPLIGHT_KEY, m) {
  m.impl("slice_pool", TORCH_BOX(&slice_pool_entry));
  m.impl("slice_pool_backward", TORCH_BOX(&slice_pool_backward_entry));
  m.impl("slice_pool_upsample", TORCH_BOX(&slice_pool_upsample_entry));
  m.impl("slice_pool_upsample_backward", TORCH_BOX(&slice_pool_upsample_backward_entry));
  m.impl("shuffle_attention", TORCH_BOX(&shuffle_attention_entry));
  m.impl("shuffle_attention_backward", TORCH_BOX(&shuffle_attention_backward_entry));
  m.impl("upsample_shuffle_attention", TORCH_BOX(&upsample_shuffle_attention_entry));
  m.impl("upsample_shuffle_attention_backward", TORCH_BOX(&upsample_shuffle_attention_backward_entry));
  m.impl("upsample_shuffle_attention_pooled", TORCH_BOX(&upsample_shuffle_attention_pooled_entry));
  m.impl("upsample_shuffle_attention_pooled_backward", TORCH_BOX(&upsample_shuffle_attention_pooled_backward_entry));
  m.impl("gradient_reversal_backward", TORCH_BOX(&gradient_reversal_backward_entry));
}

}  // namespace toplight::TOPLIGHT_DEVICE
