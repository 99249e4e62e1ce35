"""Interpolated slices, concatenated, with shuffle attention: rows (B, C_r, n_h), columns (B, C_c, n_v) -> (B, C, H, W).

Bytes moved: forward writes y, backward reads grad; the vectors hardly count. Operations per value of the map: one
addition forward, two backward; gates and slices cost H or W values per channel, not H * W.
A program takes output channels that lie together, of either kind. All sums have a fixed order.
"""

import torch
import triton
import triton.language as tl

from .attention import gate_at, moments, parameter_gradients, plane_gate, unshuffled_channel
from .launch import launch, map_configurations
from .plane import channel_starts, empty_map, program_planes, strides_of
from .profiles import axis_sums, write_map
from .slice_attention import empty_slice_gradients, profiles_backward, slice_constants, slice_profiles


@triton.jit
def _forward(
    rows,  # (B, C_R, n_h), any strides
    columns,  # (B, C - C_R, n_v), any strides
    y,  # output map, (B, C, H, W), contiguous or channels_last
    parameters,  # the six parameters, (half,) each, in the order of the op's arguments
    ROWS: tl.constexpr,  # strides of rows
    COLUMNS: tl.constexpr,  # strides of columns
    Y: tl.constexpr,  # strides of y
    C_R: tl.constexpr,  # row channels; the others are column channels
    AXES: tl.constexpr,  # height, width and slices
    A: tl.constexpr,  # Attention
    ACC: tl.constexpr,  # type of the arithmetic
    BLOCK_C: tl.constexpr,  # channels in a tile
    BLOCK_H: tl.constexpr,  # rows in a tile
    BLOCK_W: tl.constexpr,  # columns in a tile
):
    b, output, exists = program_planes(A.channels, BLOCK_C)
    c = unshuffled_channel(output, A)
    profile, inside, count = slice_profiles(rows, columns, b, c, exists, ROWS, COLUMNS, C_R, AXES, ACC)
    mean, variance = moments(profile, inside, count)
    profile *= gate_at(profile, plane_gate(mean, variance, c, exists, parameters, A, ACC))
    is_row = (c < C_R)[:, None]
    of_rows, of_columns = tl.where(is_row, profile, 0.0), tl.where(is_row, 0.0, profile)
    y = channel_starts(y, b, output, Y)
    write_map(y, exists, of_rows, of_columns, Y, AXES.height, AXES.width, BLOCK_H, BLOCK_W)


@triton.jit
def _backward(
    grad,  # gradient of y, (B, C, H, W), any strides
    rows,  # (B, C_R, n_h), any strides
    columns,  # (B, C - C_R, n_v), any strides
    d_rows,  # gradient of rows, dense
    d_columns,  # gradient of columns, dense
    sums,  # of store_plane_sums
    parameters,  # the six parameters, (half,) each, in the order of the op's arguments
    pairs,  # images times groups
    ROWS: tl.constexpr,  # strides of rows
    COLUMNS: tl.constexpr,  # strides of columns
    GRAD: tl.constexpr,  # strides of grad
    C_R: tl.constexpr,  # row channels; the others are column channels
    AXES: tl.constexpr,  # height, width and slices
    A: tl.constexpr,  # Attention
    ACC: tl.constexpr,  # type of the arithmetic
    BLOCK_C: tl.constexpr,  # channels in a tile
    BLOCK_H: tl.constexpr,  # rows in a tile
    BLOCK_W: tl.constexpr,  # columns in a tile
):
    b, output, exists = program_planes(A.channels, BLOCK_C)
    c = unshuffled_channel(output, A)
    profile, inside, count = slice_profiles(rows, columns, b, c, exists, ROWS, COLUMNS, C_R, AXES, ACC)
    H: tl.constexpr = AXES.height
    W: tl.constexpr = AXES.width
    LENGTH: tl.constexpr = profile.shape[1]
    grad = channel_starts(grad, b, output, GRAD)
    of_rows, of_columns = axis_sums(grad, grad, exists, GRAD, True, H, W, LENGTH, LENGTH, ACC, BLOCK_H, BLOCK_W)
    dy = tl.where((c < C_R)[:, None], of_rows, of_columns)
    profiles_backward(
        dy, profile, inside, count, d_rows, d_columns, sums, parameters, pairs, b, c, exists, C_R, AXES, A, ACC
    )


def upsample_shuffle_attention(
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
    channels_last: bool,
) -> torch.Tensor:
    """(B, C_r, n_h), (B, C_c, n_v) -> (B, C_r + C_c, H, W); parameters (1, C / (2 * groups), 1, 1)."""
    given = (channel_weight, channel_bias, spatial_weight, spatial_bias, norm_weight, norm_bias)
    parameters = tuple(parameter.contiguous() for parameter in given)
    images, channels = rows.shape[0], rows.shape[1] + columns.shape[1]
    y = empty_map((images, channels, height, width), rows, channels_last)
    if y.numel():
        constants = slice_constants(rows, columns, (height, width), (groups, eps, shuffle)) | {"Y": strides_of(y)}
        choices = map_configurations(y, constants["Y"], channels)
        launch(_forward, y, images, channels, (rows, columns, y, parameters), constants, choices)
    return y


def upsample_shuffle_attention_backward(
    grad: torch.Tensor,
    rows: torch.Tensor,
    columns: torch.Tensor,
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
    constants = slice_constants(rows, columns, grad.shape[2:], (groups, eps, shuffle)) | {"GRAD": strides_of(grad)}
    d_rows, d_columns, sums = empty_slice_gradients(rows, columns, constants["A"], channel_weight)
    if grad.numel():
        arguments = (grad, rows, columns, d_rows, d_columns, sums, parameters, sums.shape[2])
        choices = map_configurations(grad, constants["GRAD"], grad.shape[1])
        launch(_backward, grad, *grad.shape[:2], arguments, constants, choices)
    return d_rows, d_columns, *parameter_gradients(sums, parameters)
