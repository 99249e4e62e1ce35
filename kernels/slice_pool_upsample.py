"""Slice pooling and re-enlargement: x (B, C, H, W) -> (B, 2C, H, W).

The first C channels are the means of n_h horizontal slices of x, interpolated back along H; the others those of
n_v vertical slices, along W. Each half is a linear map through its slices, result = sum_i give_i * sum(take_i * x),
with take the pooling weights and give the interpolation weights; backward exchanges the two.

Bytes moved, per value of x: forward reads x and writes 2 values; backward reads 2 values of grad and writes dx.
Versions: `_through_tile`, one launch, for planes that fit in a tile, which is read once and kept in registers;
`_reduce` then `_expand` for larger ones, the slices going through memory and the map being read twice, the second
time from the caches where it fits there.
All sums have a fixed order.
"""

import torch
import triton
import triton.language as tl

from .plane import (
    accumulate_type,
    device_of,
    empty_map,
    position_offset,
    strides_of,
    tile_shape,
    warps,
)


@triton.jit
def _pool_weight(i, position, length, slices, across, ACC: tl.constexpr):
    """Share of a value at each position in the mean of slice i, the slices being those of adaptive pooling."""
    begin = i * length // slices
    end = ((i + 1) * length + slices - 1) // slices
    share = tl.full((1,), 1.0, ACC) / ((end - begin) * across)
    return tl.where((position >= begin) & (position < end), share, 0.0)


@triton.jit
def _upsample_weight(i, position, length, slices, ACC: tl.constexpr):
    """Weight of slice i at each position, linear interpolation with align_corners=False.

    1 - |source coordinate - i|, as a fraction of integers with denominator 2 * length.
    """
    source = (2 * position + 1) * slices - length
    source = tl.minimum(tl.maximum(source, 0), 2 * length * (slices - 1))
    weight = tl.maximum(2 * length - tl.abs(source - 2 * length * i), 0)
    return weight.to(ACC) * (tl.full((1,), 0.5, ACC) / length)


@triton.jit
def _take_weight(i, position, length, slices, across, BACKWARD: tl.constexpr, ACC: tl.constexpr):
    if BACKWARD:
        return _upsample_weight(i, position, length, slices, ACC)
    return _pool_weight(i, position, length, slices, across, ACC)


@triton.jit
def _give_weight(i, position, length, slices, across, BACKWARD: tl.constexpr, ACC: tl.constexpr):
    if BACKWARD:
        return _pool_weight(i, position, length, slices, across, ACC)
    return _upsample_weight(i, position, length, slices, ACC)


@triton.jit
def _through_slices(
    values,  # tile of whole planes, (BLOCK_C, BLOCK_N)
    position,  # of every value along the axis, (BLOCK_N,)
    LENGTH: tl.constexpr,  # of the axis
    SLICES: tl.constexpr,  # along the axis
    ACROSS: tl.constexpr,  # length of the other axis
    BACKWARD: tl.constexpr,
    ACC: tl.constexpr,
):
    result = tl.zeros_like(values)
    for i in range(SLICES):
        take = _take_weight(i, position, LENGTH, SLICES, ACROSS, BACKWARD, ACC)
        give = _give_weight(i, position, LENGTH, SLICES, ACROSS, BACKWARD, ACC)
        result += tl.sum(values * take[None, :], 1)[:, None] * give[None, :]
    return result


@triton.jit
def _through_tile(
    source,  # x (B, C, H, W), or backward the gradient (B, 2C, H, W), any strides
    target,  # y (B, 2C, H, W), or backward dx (B, C, H, W), contiguous or channels_last
    blocks,  # programs per image, ceil(C / BLOCK_C)
    source_batch,  # stride of source, in elements, as all strides
    target_batch,  # stride of target
    SOURCE_CHANNEL: tl.constexpr,  # strides of source
    SOURCE_HEIGHT: tl.constexpr,
    SOURCE_WIDTH: tl.constexpr,
    SOURCE_FLAT: tl.constexpr,  # whether position n of source lies at n * SOURCE_WIDTH
    TARGET_CHANNEL: tl.constexpr,  # strides of target; position n lies at n * TARGET_WIDTH
    TARGET_WIDTH: tl.constexpr,
    C: tl.constexpr,  # channels of x
    H: tl.constexpr,  # height
    W: tl.constexpr,  # width
    N_H: tl.constexpr,  # slices along H
    N_V: tl.constexpr,  # slices along W
    BACKWARD: tl.constexpr,  # whether gradients go the other way
    ACC: tl.constexpr,  # type of the arithmetic
    BLOCK_C: tl.constexpr,  # channels in a tile
    BLOCK_N: tl.constexpr,  # positions in a tile, at least H * W
):
    program = tl.program_id(0)
    b = (program // blocks).to(tl.int64)
    c = (program % blocks) * BLOCK_C + tl.arange(0, BLOCK_C)
    n = tl.arange(0, BLOCK_N)
    inside = (c < C)[:, None] & (n < H * W)[None, :]
    read = source + b * source_batch + c.to(tl.int64)[:, None] * SOURCE_CHANNEL
    read += position_offset(n, W, SOURCE_HEIGHT, SOURCE_WIDTH, SOURCE_FLAT)[None, :]
    write = target + b * target_batch + c.to(tl.int64)[:, None] * TARGET_CHANNEL
    write += n.to(tl.int64)[None, :] * TARGET_WIDTH

    of_rows = tl.load(read, mask=inside, other=0.0).to(ACC)
    of_columns = of_rows
    if BACKWARD:
        of_columns = tl.load(read + C * SOURCE_CHANNEL, mask=inside, other=0.0).to(ACC)
    rows = _through_slices(of_rows, n // W, H, N_H, W, BACKWARD, ACC)
    if BACKWARD:
        rows += _through_slices(of_columns, n % W, W, N_V, H, BACKWARD, ACC)
        tl.store(write, rows, mask=inside)
    else:
        tl.store(write, rows, mask=inside)
        columns = _through_slices(of_columns, n % W, W, N_V, H, BACKWARD, ACC)
        tl.store(write + C * TARGET_CHANNEL, columns, mask=inside)


@triton.jit
def _reduce(
    source,  # x (B, C, H, W), or backward the gradient (B, 2C, H, W), any strides
    slices,  # sum(take * source) of every slice, (B, C, N_H + N_V)
    blocks,  # blocks of channels per image, ceil(C / BLOCK_C)
    source_batch,  # stride of source, in elements, as all strides
    SOURCE_CHANNEL: tl.constexpr,  # strides of source
    SOURCE_HEIGHT: tl.constexpr,
    SOURCE_WIDTH: tl.constexpr,
    SOURCE_FLAT: tl.constexpr,  # whether position n of source lies at n * SOURCE_WIDTH
    C: tl.constexpr,  # channels of x
    H: tl.constexpr,  # height
    W: tl.constexpr,  # width
    N_H: tl.constexpr,  # slices along H
    N_V: tl.constexpr,  # slices along W
    BACKWARD: tl.constexpr,  # whether gradients go the other way
    ACC: tl.constexpr,  # type of the arithmetic
    BLOCK_C: tl.constexpr,  # channels in a tile
    BLOCK_N: tl.constexpr,  # positions in a tile
):
    """One slice of BLOCK_C planes per program; only what the slice covers is loaded."""
    program = tl.program_id(0) // (N_H + N_V)
    slice = tl.program_id(0) % (N_H + N_V)
    is_row = slice < N_H
    i = tl.where(is_row, slice, slice - N_H)
    length = tl.where(is_row, H, W)
    count = tl.where(is_row, N_H, N_V)
    across = tl.where(is_row, W, H)

    b = (program // blocks).to(tl.int64)
    c = ((program % blocks) * BLOCK_C + tl.arange(0, BLOCK_C)).to(tl.int64)
    channel = c
    if BACKWARD:
        channel = tl.where(is_row, c, C + c)
    planes = source + b * source_batch + channel * SOURCE_CHANNEL
    total = tl.zeros((BLOCK_C, BLOCK_N), ACC)
    for start in range(0, H * W, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        take = _take_weight(i, tl.where(is_row, n // W, n % W), length, count, across, BACKWARD, ACC)
        inside = (c < C)[:, None] & ((n < H * W) & (take > 0))[None, :]
        offsets = position_offset(n, W, SOURCE_HEIGHT, SOURCE_WIDTH, SOURCE_FLAT)
        values = tl.load(planes[:, None] + offsets[None, :], mask=inside, other=0.0)
        total += values.to(ACC) * take[None, :]
    tl.store(slices + (b * C + c) * (N_H + N_V) + slice, tl.sum(total, 1), mask=c < C)


@triton.jit
def _enlarge(
    slices,  # pointers to the first slice of the axis, (BLOCK_C,)
    exists,  # which planes exist, (BLOCK_C,)
    position,  # of every value along the axis, (BLOCK_N,)
    LENGTH: tl.constexpr,  # of the axis
    SLICES: tl.constexpr,  # along the axis
    ACROSS: tl.constexpr,  # length of the other axis
    BACKWARD: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    result = tl.zeros((BLOCK_C, BLOCK_N), ACC)
    for i in range(SLICES):
        give = _give_weight(i, position, LENGTH, SLICES, ACROSS, BACKWARD, ACC)
        result += tl.load(slices + i, mask=exists, other=0.0)[:, None] * give[None, :]
    return result


@triton.jit
def _expand(
    slices,  # sum(take * source) of every slice, (B, C, N_H + N_V)
    target,  # y (B, 2C, H, W), or backward dx (B, C, H, W), contiguous or channels_last
    blocks,  # blocks of channels per image, ceil(C / BLOCK_C)
    target_batch,  # stride of target, in elements, as all strides
    TARGET_CHANNEL: tl.constexpr,  # strides of target; position n lies at n * TARGET_WIDTH
    TARGET_WIDTH: tl.constexpr,
    C: tl.constexpr,  # channels of x
    H: tl.constexpr,  # height
    W: tl.constexpr,  # width
    N_H: tl.constexpr,  # slices along H
    N_V: tl.constexpr,  # slices along W
    BACKWARD: tl.constexpr,  # whether gradients go the other way
    ACC: tl.constexpr,  # type of the arithmetic
    BLOCK_C: tl.constexpr,  # channels in a tile
    BLOCK_N: tl.constexpr,  # positions in a tile
):
    tiles: tl.constexpr = (H * W + BLOCK_N - 1) // BLOCK_N
    program = tl.program_id(0) // tiles
    n = (tl.program_id(0) % tiles) * BLOCK_N + tl.arange(0, BLOCK_N)
    b = (program // blocks).to(tl.int64)
    c = ((program % blocks) * BLOCK_C + tl.arange(0, BLOCK_C)).to(tl.int64)
    inside = (c < C)[:, None] & (n < H * W)[None, :]
    write = target + b * target_batch + (c * TARGET_CHANNEL)[:, None] + n.to(tl.int64)[None, :] * TARGET_WIDTH
    plane = slices + (b * C + c) * (N_H + N_V)

    rows = _enlarge(plane, c < C, n // W, H, N_H, W, BACKWARD, ACC, BLOCK_C, BLOCK_N)
    columns = _enlarge(plane + N_H, c < C, n % W, W, N_V, H, BACKWARD, ACC, BLOCK_C, BLOCK_N)
    if BACKWARD:
        tl.store(write, rows + columns, mask=inside)
    else:
        tl.store(write, rows, mask=inside)
        tl.store(write + C * TARGET_CHANNEL, columns, mask=inside)


def _launch(source: torch.Tensor, target: torch.Tensor, n_h: int, n_v: int, backward: bool) -> None:
    """Fills `target` from `source`; forward target is the map of 2C channels, backward source."""
    images, _, height, width = source.shape
    channels = min(source.shape[1], target.shape[1])
    tiles = 2 if backward else 1
    block_c, block_n = tile_shape(source, channels, tiles)
    whole = block_n >= height * width
    blocks = triton.cdiv(channels, block_c)
    read, written = strides_of(source), strides_of(target)
    plan = {
        "C": channels,
        "H": height,
        "W": width,
        "N_H": n_h,
        "N_V": n_v,
        "BACKWARD": backward,
        "ACC": accumulate_type(source),
        "BLOCK_C": block_c,
        "BLOCK_N": block_n,
        "num_warps": warps((tiles if whole else 1) * block_c * block_n),
    }
    with device_of(source):
        if whole:
            _through_tile[(images * blocks,)](
                source, target, blocks, read.batch, written.batch,
                *read[1:], written.channel, written.width, **plan,
            )  # fmt: skip
            return
        dtype = torch.float64 if source.dtype == torch.float64 else torch.float32
        slices = torch.empty(images, channels, n_h + n_v, dtype=dtype, device=source.device)
        _reduce[(images * blocks * (n_h + n_v),)](source, slices, blocks, read.batch, *read[1:], **plan)
        _expand[(images * blocks * triton.cdiv(height * width, block_n),)](
            slices, target, blocks, written.batch, written.channel, written.width, **plan
        )


def slice_pool_upsample(x: torch.Tensor, n_h: int, n_v: int) -> torch.Tensor:
    """(B, C, H, W) -> (B, 2C, H, W)."""
    images, channels, height, width = x.shape
    y = empty_map((images, 2 * channels, height, width), x)
    if y.numel():
        _launch(x, y, n_h, n_v, backward=False)
    return y


def slice_pool_upsample_backward(grad: torch.Tensor, n_h: int, n_v: int) -> torch.Tensor:
    """Gradient of x, (B, C, H, W), from that of y, (B, 2C, H, W)."""
    images, channels, height, width = grad.shape
    dx = empty_map((images, channels // 2, height, width), grad)
    if dx.numel():
        _launch(grad, dx, n_h, n_v, backward=True)
    return dx
