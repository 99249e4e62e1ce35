"""Global average pool of upsample_shuffle_attention, (B, C), without its map.

Bytes moved: vectors only, forward and backward. The mean of a plane is that of its profile.
All sums have a fixed order.
"""

import torch
import triton
import triton.language as tl

from .attention import gate_at, moments, parameter_gradients, plane_gate, unshuffled_channel
from .launch import configurations, launch
from .plane import program_planes
from .slice_attention import (
    empty_slice_gradients,
    longest,
    profiles_backward,
    slice_constants,
    slice_profiles,
)


@triton.jit
def _forward(
    rows,  # (B, C_R, n_h), any strides
    columns,  # (B, C - C_R, n_v), any strides
    means,  # (B, C), dense
    parameters,  # the six parameters, (half,) each, in the order of the op's arguments
    ROWS: tl.constexpr,  # strides of rows
    COLUMNS: tl.constexpr,  # strides of columns
    C_R: tl.constexpr,  # row channels; the others are column channels
    AXES: tl.constexpr,  # height, width and slices
    A: tl.constexpr,  # Attention
    ACC: tl.constexpr,  # type of the arithmetic
    BLOCK_C: tl.constexpr,  # channels in a tile
):
    b, output, exists = program_planes(A.channels, BLOCK_C)
    c = unshuffled_channel(output, A)
    profile, inside, count = slice_profiles(rows, columns, b, c, exists, ROWS, COLUMNS, C_R, AXES, ACC)
    mean, variance = moments(profile, inside, count)
    profile *= gate_at(profile, plane_gate(mean, variance, c, exists, parameters, A, ACC))
    tl.store(means + b * A.channels + output, tl.sum(profile, 1) / count, mask=exists)


@triton.jit
def _backward(
    grad,  # gradient of the means, (B, C), any strides
    rows,  # (B, C_R, n_h), any strides
    columns,  # (B, C - C_R, n_v), any strides
    d_rows,  # gradient of rows, dense
    d_columns,  # gradient of columns, dense
    sums,  # of store_plane_sums
    parameters,  # the six parameters, (half,) each, in the order of the op's arguments
    pairs,  # images times groups
    GRAD: tl.constexpr,  # the two strides of grad
    ROWS: tl.constexpr,  # strides of rows
    COLUMNS: tl.constexpr,  # strides of columns
    C_R: tl.constexpr,  # row channels; the others are column channels
    AXES: tl.constexpr,  # height, width and slices
    A: tl.constexpr,  # Attention
    ACC: tl.constexpr,  # type of the arithmetic
    BLOCK_C: tl.constexpr,  # channels in a tile
):
    b, output, exists = program_planes(A.channels, BLOCK_C)
    c = unshuffled_channel(output, A)
    profile, inside, count = slice_profiles(rows, columns, b, c, exists, ROWS, COLUMNS, C_R, AXES, ACC)
    dy = tl.load(grad + b * GRAD[0] + output.to(tl.int64) * GRAD[1], mask=exists, other=0.0).to(ACC) / count
    dy = tl.where(inside, dy[:, None], 0.0)
    profiles_backward(
        dy, profile, inside, count, d_rows, d_columns, sums, parameters, pairs, b, c, exists, C_R, AXES, A, ACC
    )


def _choices(rows: torch.Tensor, channels: int, height: int, width: int) -> tuple[triton.Config, ...]:
    return configurations(rows.element_size(), channels, each=longest(height, width))


def upsample_shuffle_attention_pooled(
    rows: torch.Tensor,
    columns: torch.Tensor,
    height: int,
    width: int,
    channel_weight: torch.Tensor,
    channel_bias: torch.Tensor,
    spatial_weight: torch.Tensor,
    spatial_bias: torch.Tensor,
    norm_weight: torch.Tensor,
    norm_bias: torch.Tensor,
    groups: int,
    eps: float,
    shuffle: bool,
) -> torch.Tensor:
    """(B, C_r, n_h), (B, C_c, n_v) -> (B, C_r + C_c); parameters (1, C / (2 * groups), 1, 1)."""
    given = (channel_weight, channel_bias, spatial_weight, spatial_bias, norm_weight, norm_bias)
    parameters = tuple(parameter.contiguous() for parameter in given)
    images, channels = rows.shape[0], rows.shape[1] + columns.shape[1]
    means = rows.new_empty(images, channels)
    if means.numel():
        constants = slice_constants(rows, columns, (height, width), (groups, eps, shuffle))
        choices = _choices(rows, channels, height, width)
        launch(_forward, rows, images, channels, (rows, columns, means, parameters), constants, choices)
    return means


def upsample_shuffle_attention_pooled_backward(
    grad: torch.Tensor,
    rows: torch.Tensor,
    columns: torch.Tensor,
    height: int,
    width: int,
    channel_weight: torch.Tensor,
    channel_bias: torch.Tensor,
    spatial_weight: torch.Tensor,
    spatial_bias: torch.Tensor,
    norm_weight: torch.Tensor,
    norm_bias: torch.Tensor,
    groups: int,
    eps: float,
    shuffle: bool,
) -> tuple[torch.Tensor, ...]:
    """Gradients of rows, columns and the six parameters, each of the shape of what it belongs to."""
    given = (channel_weight, channel_bias, spatial_weight, spatial_bias, norm_weight, norm_bias)
    parameters = tuple(parameter.contiguous() for parameter in given)
    constants = slice_constants(rows, columns, (height, width), (groups, eps, shuffle)) | {"GRAD": grad.stride()}
    d_rows, d_columns, sums = empty_slice_gradients(rows, columns, constants["A"], channel_weight)
    if grad.numel():
        arguments = (grad, rows, columns, d_rows, d_columns, sums, parameters, sums.shape[2])
        choices = _choices(rows, grad.shape[1], height, width)
        launch(_backward, rows, *grad.shape, arguments, constants, choices)
    return d_rows, d_columns, *parameter_gradients(sums, parameters)
