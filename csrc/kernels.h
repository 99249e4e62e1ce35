// The kernels that a device library defines, one function per op: they fill tensors that entry.cpp has checked and
// allocated. Maps may have any strides; what is written is dense, in the layout of the layout rule. No map is empty, but
// all channels may be rows or all columns.
#pragma once

#include "tensors.h"

namespace toplight::TOPLIGHT_DEVICE {

// What the attention ops are given besides maps and vectors.
struct AttentionArguments {
  ParameterTensors parameters;
  int64_t groups;
  double eps;
  bool shuffle;
};

// The number of slices is the size of rows and columns, (B, C, n_h) and (B, C, n_v).
void slice_pool(const Tensor& x, Tensor& rows, Tensor& columns);
void slice_pool_backward(const Tensor& grad_rows, const Tensor& grad_columns, Tensor& dx);

void slice_pool_upsample(const Tensor& x, int64_t n_h, int64_t n_v, Tensor& y);
void slice_pool_upsample_backward(const Tensor& grad, int64_t n_h, int64_t n_v, Tensor& dx);

// The gradients of the parameters are written in full.
void shuffle_attention(const Tensor& x, const AttentionArguments& arguments, Tensor& y);
void shuffle_attention_backward(
    const Tensor& grad,
    const Tensor& x,
    const AttentionArguments& arguments,
    Tensor& dx,
    ParameterTensors& d_parameters);

void upsample_shuffle_attention(
    const Tensor& rows,
    const Tensor& columns,
    const AttentionArguments& arguments,
    Tensor& y);
void upsample_shuffle_attention_backward(
    const Tensor& grad,
    const Tensor& rows,
    const Tensor& columns,
    const AttentionArguments& arguments,
    Tensor& d_rows,
    Tensor& d_columns,
    ParameterTensors& d_parameters);

// means, (B, C_r + C_c), are over height x width.
void upsample_shuffle_attention_pooled(
    const Tensor& rows,
    const Tensor& columns,
    int64_t height,
    int64_t width,
    const AttentionArguments& arguments,
    Tensor& means);
void upsample_shuffle_attention_pooled_backward(
    const Tensor& grad,
    const Tensor& rows,
    const Tensor& columns,
    int64_t height,
    int64_t width,
    const AttentionArguments& arguments,
    Tensor& d_rows,
    Tensor& d_columns,
    ParameterTensors& d_parameters);

// dx lies as grad does where that is dense in one of the two layouts, else contiguously.
void gradient_reversal_backward(const Tensor& grad, const Tensor& lambd, Tensor& dx);

}  // namespace toplight::TOPLIGHT_DEVICE
