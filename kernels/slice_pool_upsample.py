"""Slice pooling and re-enlargement: x (B, C, H, W) -> (B, 2C, H, W).

The first C channels are the means of n_h horizontal slices of x, interpolated back along H; the others those of n_v
vertical slices, along W. Backward is the transposed map: interpolation and pooling change places.

Bytes moved, per value of x: forward reads x and writes 2 values; backward reads 2 values of grad and writes dx.
Operations per value read or written: one or two additions; the slices are products with small matrices.
A program takes some planes, walks over them once to add rows and columns, takes the sums through the slices in
registers, and walks once more to write; nothing in between goes through memory. All sums have a fixed order.
"""

import torch
import triton
import triton.language as tl

from .launch import launch, map_configurations
from .plane import accumulate_type, channel_starts, empty_map, is_channels_last, program_planes, strides_of
from .profiles import axis_sums, write_map
from .slices import Axes, through_slices


@triton.jit
def _through_slices(
    source,  # x (B, C, H, W), or backward the gradient (B, 2C, H, W), any strides
    target,  # y (B, 2C, H, W), or backward dx (B, C, H, W), contiguous or channels_last
    X: tl.constexpr,  # strides of source
    Y: tl.constexpr,  # strides of target
    C: tl.constexpr,  # channels of x
    AXES: tl.constexpr,  # height, width and slices
    BACKWARD: tl.constexpr,  # whether gradients go the other way
    ACC: tl.constexpr,  # type of the arithmetic
    BLOCK_C: tl.constexpr,  # channels of x in a tile
    BLOCK_H: tl.constexpr,  # rows in a tile
    BLOCK_W: tl.constexpr,  # columns in a tile
):
    H: tl.constexpr = AXES.height
    W: tl.constexpr = AXES.width
    LENGTH_H: tl.constexpr = triton.next_power_of_2(H)
    LENGTH_W: tl.constexpr = triton.next_power_of_2(W)
    b, c, exists = program_planes(C, BLOCK_C)
    first = channel_starts(source, b, c, X)
    second = first
    if BACKWARD:
        second = channel_starts(source, b, C + c, X)
    target_of_rows = channel_starts(target, b, c, Y)
    rows, columns = axis_sums(first, second, exists, X, not BACKWARD, H, W, LENGTH_H, LENGTH_W, ACC, BLOCK_H, BLOCK_W)
    rows = through_slices(rows, H, AXES.n_h, W, not BACKWARD, ACC)
    columns = through_slices(columns, W, AXES.n_v, H, not BACKWARD, ACC)
    if BACKWARD:
        write_map(target_of_rows, exists, rows, columns, Y, H, W, BLOCK_H, BLOCK_W)
    else:
        write_map(target_of_rows, exists, rows, tl.zeros_like(columns), Y, H, W, BLOCK_H, BLOCK_W)
        write_map(channel_starts(target, b, C + c, Y), exists, tl.zeros_like(rows), columns, Y, H, W, BLOCK_H, BLOCK_W)


def _launch(source: torch.Tensor, target: torch.Tensor, n_h: int, n_v: int, backward: bool) -> None:
    """Fills `target` from `source`; forward target is the map of 2C channels, backward source."""
    images, _, height, width = source.shape
    channels = min(source.shape[1], target.shape[1])
    constants = {
        "X": strides_of(source),
        "Y": strides_of(target),
        "C": channels,
        "AXES": Axes(height, width, n_h, n_v),
        "BACKWARD": backward,
        "ACC": accumulate_type(source),
    }
    choices = map_configurations(source, constants["X"], channels)
    launch(_through_slices, source, images, channels, (source, target), constants, choices)


def slice_pool_upsample(x: torch.Tensor, n_h: int, n_v: int) -> torch.Tensor:
    """(B, C, H, W) -> (B, 2C, H, W)."""
    images, channels, height, width = x.shape
    y = empty_map((images, 2 * channels, height, width), x, is_channels_last(x))
    if y.numel():
        _launch(x, y, n_h, n_v, backward=False)
    return y


def slice_pool_upsample_backward(grad: torch.Tensor, n_h: int, n_v: int) -> torch.Tensor:
    """Gradient of x, (B, C, H, W), from that of y, (B, 2C, H, W)."""
    images, channels, height, width = grad.shape
    dx = empty_map((images, channels // 2, height, width), grad, is_channels_last(grad))
    if dx.numel():
        _launch(grad, dx, n_h, n_v, backward=True)
    return dx
