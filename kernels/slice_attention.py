"""Shuffle attention of re-enlarged slices, as upsample_shuffle_attention and its pooled form share it.

A row channel varies along H only, a column channel along W only: its mean, its variance and its gate are those of its
profile of H or W values. A tile is (BLOCK_C, LENGTH), the profiles of the channels that BLOCK_C output channels show,
of either kind.
"""

import torch
import triton
import triton.language as tl

from .attention import (
    Attention,
    attention_of,
    empty_plane_sums,
    input_gradient,
    logit_gradient,
    moments,
    plane_gate,
    store_plane_sums,
)
from .plane import accumulate_type, channel_starts
from .slices import Axes, from_slices, to_slices, vector_strides_of


@triton.constexpr_function
def longest(height: int, width: int) -> int:
    """Length of profiles of either axis."""
    return triton.next_power_of_2(max(height, width))


@triton.jit
def slice_profiles(
    rows,  # (B, C_R, n_h), any strides
    columns,  # (B, C - C_R, n_v), any strides
    b,  # image
    c,  # channels, (BLOCK_C,)
    exists,  # which channels exist, (BLOCK_C,)
    ROWS: tl.constexpr,  # strides of rows
    COLUMNS: tl.constexpr,  # strides of columns
    C_R: tl.constexpr,  # row channels; the others are column channels
    AXES: tl.constexpr,  # height, width and slices
    ACC: tl.constexpr,  # type of the arithmetic
):
    """Interpolated slices (BLOCK_C, LENGTH), 0 outside; what is inside; number of values per channel (BLOCK_C,)."""
    H: tl.constexpr = AXES.height
    W: tl.constexpr = AXES.width
    LENGTH: tl.constexpr = longest(H, W)
    is_row = c < C_R
    rows = channel_starts(rows, b, c, ROWS)
    columns = channel_starts(columns, b, c - C_R, COLUMNS)
    profile = from_slices(rows, ROWS.slice, exists & is_row, LENGTH, H, AXES.n_h, W, False, ACC)
    profile += from_slices(columns, COLUMNS.slice, exists & (c >= C_R), LENGTH, W, AXES.n_v, H, False, ACC)
    count = tl.where(is_row, H, W)
    inside = exists[:, None] & (tl.arange(0, LENGTH)[None, :] < count[:, None])
    return tl.where(inside, profile, 0.0), inside, count


@triton.jit
def profiles_backward(
    dy,  # gradient of the gated profiles, (BLOCK_C, LENGTH), 0 outside
    profile,  # of slice_profiles
    inside,
    count,
    d_rows,  # gradient of rows, (B, C_R, n_h), dense
    d_columns,  # gradient of columns, (B, C - C_R, n_v), dense
    sums,  # of store_plane_sums
    parameters,  # the six parameters
    pairs,  # images times groups
    b,  # image
    c,  # channels, (BLOCK_C,)
    exists,  # which channels exist, (BLOCK_C,)
    C_R: tl.constexpr,  # row channels
    AXES: tl.constexpr,  # height, width and slices
    A: tl.constexpr,  # Attention
    ACC: tl.constexpr,  # type of the arithmetic
):
    """Writes the gradients of the slices, and what the planes add to those of the parameters."""
    mean, variance = moments(profile, inside, count)
    gate = plane_gate(mean, variance, c, exists, parameters, A, ACC)
    dt = logit_gradient(dy, profile, gate)
    sum_dt = tl.sum(dt, 1)
    sum_dt_centred = tl.sum(dt * (profile - mean[:, None]), 1)
    store_plane_sums(sums, b, c, exists, pairs, gate, sum_dt, sum_dt_centred, A)
    gradient = input_gradient(dy, profile, gate, sum_dt, sum_dt_centred, count)
    gradient = tl.where(inside, gradient, 0.0)
    d_rows += (b * C_R + c) * AXES.n_h
    d_columns += (b * (A.channels - C_R) + c - C_R) * AXES.n_v
    to_slices(d_rows, exists & (c < C_R), gradient, AXES.height, AXES.n_h, AXES.width, False, ACC)
    to_slices(d_columns, exists & (c >= C_R), gradient, AXES.width, AXES.n_v, AXES.height, False, ACC)


def slice_constants(rows: torch.Tensor, columns: torch.Tensor, size: tuple[int, int], options: tuple) -> dict:
    """The constants that all kernels on these vectors have; options are groups, eps, shuffle."""
    return {
        "ROWS": vector_strides_of(rows),
        "COLUMNS": vector_strides_of(columns),
        "C_R": rows.shape[1],
        "AXES": Axes(*size, rows.shape[2], columns.shape[2]),
        "A": attention_of(rows.shape[1] + columns.shape[1], *options),
        "ACC": accumulate_type(rows),
    }


def empty_slice_gradients(
    rows: torch.Tensor, columns: torch.Tensor, attention: Attention, parameter: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Memory for what `profiles_backward` writes: d_rows, d_columns, sums."""
    sums = empty_plane_sums(rows.shape[0], attention, parameter)
    return rows.new_empty(rows.shape), columns.new_empty(columns.shape), sums
