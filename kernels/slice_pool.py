"""Slice pooling: x (B, C, H, W) -> rows (B, C, n_h) and columns (B, C, n_v), the means of its slices.

Bytes moved: forward reads x, backward writes dx; the vectors hardly count. Operations per value of x: two additions
forward, one backward.
A program takes some planes, walks over them once and keeps their row and column sums in registers.
All sums have a fixed order.
"""

import torch
import triton
import triton.language as tl

from .launch import launch, map_configurations
from .plane import accumulate_type, channel_starts, empty_map, program_planes, strides_of
from .profiles import axis_sums, write_map
from .slices import Axes, from_slices, to_slices, vector_strides_of


@triton.jit
def _forward(
    x,  # input map, (B, C, H, W), any strides
    rows,  # means of the horizontal slices, (B, C, n_h), dense
    columns,  # means of the vertical slices, (B, C, n_v), dense
    X: tl.constexpr,  # strides of x
    C: tl.constexpr,  # channels
    AXES: tl.constexpr,  # height, width and slices
    ACC: tl.constexpr,  # type of the arithmetic
    BLOCK_C: tl.constexpr,  # channels in a tile
    BLOCK_H: tl.constexpr,  # rows in a tile
    BLOCK_W: tl.constexpr,  # columns in a tile
):
    H: tl.constexpr = AXES.height
    W: tl.constexpr = AXES.width
    b, c, exists = program_planes(C, BLOCK_C)
    x = channel_starts(x, b, c, X)
    of_rows, of_columns = axis_sums(
        x, x, exists, X, True, H, W, triton.next_power_of_2(H), triton.next_power_of_2(W), ACC, BLOCK_H, BLOCK_W
    )
    plane = b * C + c
    to_slices(rows + plane * AXES.n_h, exists, of_rows, H, AXES.n_h, W, True, ACC)
    to_slices(columns + plane * AXES.n_v, exists, of_columns, W, AXES.n_v, H, True, ACC)


@triton.jit
def _backward(
    grad_rows,  # gradient of rows, (B, C, n_h), any strides
    grad_columns,  # gradient of columns, (B, C, n_v), any strides
    dx,  # gradient of x, (B, C, H, W), contiguous or channels_last
    ROWS: tl.constexpr,  # strides of grad_rows
    COLUMNS: tl.constexpr,  # strides of grad_columns
    DX: tl.constexpr,  # strides of dx
    C: tl.constexpr,  # channels
    AXES: tl.constexpr,  # height, width and slices
    ACC: tl.constexpr,  # type of the arithmetic
    BLOCK_C: tl.constexpr,  # channels in a tile
    BLOCK_H: tl.constexpr,  # rows in a tile
    BLOCK_W: tl.constexpr,  # columns in a tile
):
    H: tl.constexpr = AXES.height
    W: tl.constexpr = AXES.width
    b, c, exists = program_planes(C, BLOCK_C)
    rows = channel_starts(grad_rows, b, c, ROWS)
    columns = channel_starts(grad_columns, b, c, COLUMNS)
    of_rows = from_slices(rows, ROWS.slice, exists, triton.next_power_of_2(H), H, AXES.n_h, W, True, ACC)
    of_columns = from_slices(columns, COLUMNS.slice, exists, triton.next_power_of_2(W), W, AXES.n_v, H, True, ACC)
    write_map(channel_starts(dx, b, c, DX), exists, of_rows, of_columns, DX, H, W, BLOCK_H, BLOCK_W)


def slice_pool(x: torch.Tensor, n_h: int, n_v: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, C, H, W) -> (B, C, n_h), (B, C, n_v)."""
    images, channels, height, width = x.shape
    rows, columns = x.new_empty(images, channels, n_h), x.new_empty(images, channels, n_v)
    if x.numel():
        constants = {
            "X": strides_of(x),
            "C": channels,
            "AXES": Axes(height, width, n_h, n_v),
            "ACC": accumulate_type(x),
        }
        choices = map_configurations(x, constants["X"], channels)
        launch(_forward, x, images, channels, (x, rows, columns), constants, choices)
    return rows, columns


def slice_pool_backward(
    grad_rows: torch.Tensor, grad_columns: torch.Tensor, height: int, width: int, channels_last: bool
) -> torch.Tensor:
    """Gradient of x, (B, C, H, W), from those of the vectors."""
    images, channels, n_h = grad_rows.shape
    dx = empty_map((images, channels, height, width), grad_rows, channels_last)
    if dx.numel():
        constants = {
            "ROWS": vector_strides_of(grad_rows),
            "COLUMNS": vector_strides_of(grad_columns),
            "DX": strides_of(dx),
            "C": channels,
            "AXES": Axes(height, width, n_h, grad_columns.shape[2]),
            "ACC": accumulate_type(dx),
        }
        choices = map_configurations(dx, constants["DX"], channels)
        launch(_backward, dx, images, channels, (grad_rows, grad_columns, dx), constants, choices)
    return dx
