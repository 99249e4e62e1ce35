"""Shuffle attention (SA-Net): y = x * sigmoid(t), t one number per plane or one per value, then channel shuffle.

A tile has the same BLOCK_C channels of both halves of C, which the channel shuffle interleaves, so that what a program
writes lies together. Where channels lie beside one another, its rows are put into the order of the output in registers.

Bytes moved, per value of x: forward reads x and writes y; backward reads grad and x and writes dx. Operations per
value: about 15 forward, 40 backward, with one exponential and one division each.
A plane that fits in a tile is read once and kept in registers: its loops have one step, and the compiler merges their
equal loads. A larger plane is read twice forward and three times backward, from the caches where it fits there.
All sums have a fixed order.
"""

import torch
import triton
import triton.language as tl

from .attention import (
    Attention,
    attention_of,
    empty_plane_sums,
    gate_at,
    input_gradient,
    logit_gradient,
    moments,
    parameter_gradients,
    plane_gate,
    store_plane_sums,
)
from .launch import configurations, launch
from .plane import (
    Strides,
    accumulate_type,
    channel_starts,
    empty_map,
    is_channels_last,
    load_map,
    store_map,
    strides_of,
)

LARGEST_TILE = 16384  # values of all maps that a program keeps in registers to have whole planes


@triton.jit
def _planes(A: tl.constexpr, BLOCK_C: tl.constexpr):
    """Of this program: image, channels (2 * BLOCK_C,), first half before second, and which of them exist."""
    blocks: tl.constexpr = triton.cdiv(A.channels // 2, BLOCK_C)
    row = tl.arange(0, 2 * BLOCK_C)
    j = tl.program_id(0) % blocks * BLOCK_C + row % BLOCK_C
    c = row // BLOCK_C * (A.channels // 2) + j
    return (tl.program_id(0) // blocks).to(tl.int64), c, j < A.channels // 2


@triton.jit
def _output_planes(c, exists, A: tl.constexpr, INTERLEAVE: tl.constexpr, BLOCK_C: tl.constexpr):
    """Output channels of a tile, and which of them exist: in the order of the channels c, or in their own."""
    if INTERLEAVE:
        blocks: tl.constexpr = triton.cdiv(A.channels // 2, BLOCK_C)
        output = tl.program_id(0) % blocks * (2 * BLOCK_C) + tl.arange(0, 2 * BLOCK_C)
        return output, output < A.channels
    if A.shuffle:
        return c % (A.channels // 2) * 2 + c // (A.channels // 2), exists
    return c, exists


@triton.jit
def _transpose_rows(tile, ROWS: tl.constexpr):
    """Row r * COLUMNS + c of a tile becomes row c * ROWS + r."""
    parts = tl.reshape(tile, (ROWS, tile.shape[0] // ROWS, tile.shape[1]))
    return tl.reshape(tl.permute(parts, (1, 0, 2)), tile.shape)


@triton.jit
def _addresses(
    planes,  # pointers to the planes, (P,)
    n,  # positions, (BLOCK_N,)
    exists,  # which channels exist, (P,)
    X: tl.constexpr,  # strides of the map
    H: tl.constexpr,  # height
    W: tl.constexpr,  # width
):
    """Pointers (P, BLOCK_N), and which of them are inside the map."""
    if X.height == W * X.width:
        offsets = n.to(tl.int64) * X.width
    else:
        offsets = (n // W).to(tl.int64) * X.height + (n % W).to(tl.int64) * X.width
    return planes[:, None] + offsets[None, :], exists[:, None] & (n < H * W)[None, :]


@triton.jit
def _load(
    planes, n, exists, X: tl.constexpr, H: tl.constexpr, W: tl.constexpr, ACC: tl.constexpr
):  # arguments as those of _addresses
    pointers, inside = _addresses(planes, n, exists, X, H, W)
    return load_map(pointers, inside, ACC)


@triton.jit
def _moments(
    x,  # pointers to the planes, (P,)
    exists,  # which channels exist, (P,)
    X: tl.constexpr,  # strides of x
    H: tl.constexpr,  # height
    W: tl.constexpr,  # width
    ACC: tl.constexpr,  # type of the arithmetic
    BLOCK_N: tl.constexpr,  # positions in a tile
):
    """Mean and variance per plane, (P,), x being read once: the moments of the tiles, merged."""
    mean = tl.zeros(exists.shape, ACC)
    squares = tl.zeros(exists.shape, ACC)
    before = tl.zeros((1,), ACC)
    for start in range(0, H * W, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        count = tl.full((1,), 0.0, ACC) + tl.minimum(H * W - start, BLOCK_N)
        values = _load(x, n, exists, X, H, W, ACC)
        tile_mean, tile_variance = moments(values, exists[:, None] & (n < H * W)[None, :], count)
        share = count / (before + count)
        delta = tile_mean - mean
        mean += delta * share
        squares += tile_variance * count + delta * delta * before * share
        before += count
    return mean, squares / (H * W)


@triton.jit
def _forward(
    x,  # input map, (B, C, H, W), any strides
    y,  # output map, (B, C, H, W), contiguous or channels_last
    parameters,  # the six parameters, (half,) each, in the order of the op's arguments
    X: tl.constexpr,  # strides of x
    Y: tl.constexpr,  # strides of y
    A: tl.constexpr,  # Attention
    H: tl.constexpr,  # height
    W: tl.constexpr,  # width
    INTERLEAVE: tl.constexpr,  # whether a tile is written in the order of the output
    ACC: tl.constexpr,  # type of the arithmetic
    BLOCK_C: tl.constexpr,  # channels of each half of C in a tile
    BLOCK_N: tl.constexpr,  # positions in a tile
):
    b, c, exists = _planes(A, BLOCK_C)
    output, output_exists = _output_planes(c, exists, A, INTERLEAVE, BLOCK_C)
    x = channel_starts(x, b, c, X)
    y = channel_starts(y, b, output, Y)
    mean, variance = _moments(x, exists, X, H, W, ACC, BLOCK_N)
    gate = plane_gate(mean, variance, c, exists, parameters, A, ACC)
    for start in range(0, H * W, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        values = _load(x, n, exists, X, H, W, ACC)
        values *= gate_at(values, gate)
        if INTERLEAVE:
            values = _transpose_rows(values, 2)
        pointers, inside = _addresses(y, n, output_exists, Y, H, W)
        store_map(pointers, values, inside)


@triton.jit
def _backward(
    grad,  # gradient of the output map, (B, C, H, W), channels as the output has them, any strides
    x,  # input map, (B, C, H, W), any strides
    dx,  # gradient of x, (B, C, H, W), contiguous or channels_last
    sums,  # of store_plane_sums
    parameters,  # the six parameters, (half,) each, in the order of the op's arguments
    pairs,  # images times groups
    GRAD: tl.constexpr,  # strides of grad
    X: tl.constexpr,  # strides of x
    DX: tl.constexpr,  # strides of dx
    A: tl.constexpr,  # Attention
    H: tl.constexpr,  # height
    W: tl.constexpr,  # width
    INTERLEAVE: tl.constexpr,  # whether a tile of grad is read in the order of the output
    ACC: tl.constexpr,  # type of the arithmetic
    BLOCK_C: tl.constexpr,  # channels of each half of C in a tile
    BLOCK_N: tl.constexpr,  # positions in a tile
):
    b, c, exists = _planes(A, BLOCK_C)
    output, output_exists = _output_planes(c, exists, A, INTERLEAVE, BLOCK_C)
    grad = channel_starts(grad, b, output, GRAD)
    x = channel_starts(x, b, c, X)
    dx = channel_starts(dx, b, c, DX)
    mean, variance = _moments(x, exists, X, H, W, ACC, BLOCK_N)
    gate = plane_gate(mean, variance, c, exists, parameters, A, ACC)
    sum_dt = tl.zeros((2 * BLOCK_C, BLOCK_N), ACC)
    sum_dt_centred = tl.zeros((2 * BLOCK_C, BLOCK_N), ACC)
    for start in range(0, H * W, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        values = _load(x, n, exists, X, H, W, ACC)
        dy = _load(grad, n, output_exists, GRAD, H, W, ACC)
        if INTERLEAVE:
            dy = _transpose_rows(dy, BLOCK_C)
        dt = logit_gradient(dy, values, gate)
        sum_dt += dt
        sum_dt_centred += dt * (values - mean[:, None])
    sum_dt = tl.sum(sum_dt, 1)
    sum_dt_centred = tl.sum(sum_dt_centred, 1)
    for start in range(0, H * W, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        values = _load(x, n, exists, X, H, W, ACC)
        dy = _load(grad, n, output_exists, GRAD, H, W, ACC)
        if INTERLEAVE:
            dy = _transpose_rows(dy, BLOCK_C)
        pointers, inside = _addresses(dx, n, exists, DX, H, W)
        store_map(pointers, input_gradient(dy, values, gate, sum_dt, sum_dt_centred, H * W), inside)
    store_plane_sums(sums, b, c, exists, pairs, gate, sum_dt, sum_dt_centred, A)


def _launch(kernel, x, maps: int, arguments: tuple, outer: Strides, attention: Attention, constants: dict) -> None:
    """A launch whose tiles keep `maps` maps; `outer` are the strides of the map with the channels of the output."""
    images, channels, height, width = x.shape
    strides = strides_of(x)
    constants |= {
        "X": strides,
        "A": attention,
        "H": height,
        "W": width,
        "INTERLEAVE": attention.shuffle and outer.channel == 1,
        "ACC": accumulate_type(x),
    }
    adjacent = 1 in (strides.channel, outer.channel)
    whole = LARGEST_TILE // maps
    if adjacent:  # a thread has 16 bytes of channels, and keeps the gate of each
        whole = whole * min(x.element_size(), 4) // 8
    choices = configurations(x.element_size(), channels // 2, adjacent, each=2, whole=whole, BLOCK_N=height * width)
    launch(kernel, x, images, channels // 2, arguments, constants, choices)


def shuffle_attention(
    x: torch.Tensor,
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
    """(B, C, H, W) -> (B, C, H, W); parameters (1, C / (2 * groups), 1, 1)."""
    given = (channel_weight, channel_bias, spatial_weight, spatial_bias, norm_weight, norm_bias)
    parameters = tuple(parameter.contiguous() for parameter in given)
    y = empty_map(x.shape, x, is_channels_last(x))
    if x.numel():
        attention, outer = attention_of(x.shape[1], groups, eps, shuffle), strides_of(y)
        _launch(_forward, x, 1, (x, y, parameters), outer, attention, {"Y": outer})
    return y


def shuffle_attention_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
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
    """Gradients of x and of the six parameters, each of the shape of what it belongs to."""
    given = (channel_weight, channel_bias, spatial_weight, spatial_bias, norm_weight, norm_bias)
    parameters = tuple(parameter.contiguous() for parameter in given)
    dx = empty_map(x.shape, x, is_channels_last(x))
    attention, outer = attention_of(x.shape[1], groups, eps, shuffle), strides_of(grad)
    sums = empty_plane_sums(x.shape[0], attention, channel_weight)
    arguments = (grad, x, dx, sums, parameters, sums.shape[2])
    if x.numel():
        _launch(_backward, x, 2, arguments, outer, attention, {"GRAD": outer, "DX": strides_of(dx)})
    return dx, *parameter_gradients(sums, parameters)
