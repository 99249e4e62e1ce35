"""The slices of an axis: how pooling cuts them, how interpolation joins them, both as small matrix products.

A profile is what a plane has along one axis, (BLOCK_C, positions); its slices are (BLOCK_C, slices) or vectors
(B, C, slices) in memory. Pooling and interpolation are linear: a matrix (positions, slices) of weights takes a profile
to its slices, transposed it takes slices to a profile. The gradient of one of the two maps is the transposed map.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

PRODUCTS = 4096  # values of a matrix product that a program keeps at once


class Axes(NamedTuple):
    """Height and width of a plane, and the slices along them."""

    height: int
    width: int
    n_h: int
    n_v: int


class VectorStrides(NamedTuple):
    """Strides of (B, C, slices) vectors in elements."""

    batch: int
    channel: int
    slice: int


def vector_strides_of(vectors: torch.Tensor) -> VectorStrides:
    """The strides of vectors; dimensions of size 1, whose strides never count, get those of dense ones."""
    images, channels, count = vectors.shape
    batch, channel, slice = vectors.stride()
    return VectorStrides(
        batch if images > 1 else channels * count, channel if channels > 1 else count, slice if count > 1 else 1
    )


@triton.constexpr_function
def slices_at_once(slices: int, profiles: int) -> int:
    """How many slices of so many values of profiles one matrix product takes."""
    return max(1, min(triton.next_power_of_2(slices), PRODUCTS // profiles))


@triton.jit
def pool_weights(
    i,  # slices
    position,  # of the axis, to be broadcast with i
    LENGTH: tl.constexpr,  # of the axis
    SLICES: tl.constexpr,  # along the axis
    ACROSS: tl.constexpr,  # length of the other axis, over which the profile is a sum
    ACC: tl.constexpr,  # type of the arithmetic
):
    """Share of a value in the mean of a slice, the slices being those of adaptive average pooling."""
    begin = i * LENGTH // SLICES
    end = ((i + 1) * LENGTH + SLICES - 1) // SLICES
    share = tl.full((1, 1), 1.0, ACC) / ((end - begin) * ACROSS)
    return tl.where((position >= begin) & (position < end), share, 0.0)


@triton.jit
def upsample_weights(
    i,  # slices
    position,  # of the axis, to be broadcast with i
    LENGTH: tl.constexpr,  # of the axis
    SLICES: tl.constexpr,  # along the axis
    ACC: tl.constexpr,  # type of the arithmetic
):
    """Weight of a slice at a position, linear interpolation with align_corners=False.

    1 - |source coordinate - i|, as a fraction of integers with denominator 2 * LENGTH.
    """
    source = (2 * position + 1) * SLICES - LENGTH
    source = tl.minimum(tl.maximum(source, 0), 2 * LENGTH * (SLICES - 1))
    weight = tl.maximum(2 * LENGTH - tl.abs(source - 2 * LENGTH * i), 0)
    return weight.to(ACC) * (tl.full((1, 1), 0.5, ACC) / LENGTH)


@triton.jit
def slice_weights(
    i, position, LENGTH: tl.constexpr, SLICES: tl.constexpr, ACROSS: tl.constexpr, POOL: tl.constexpr, ACC: tl.constexpr
):
    """Those of pooling, or those of interpolation."""
    if POOL:
        return pool_weights(i, position, LENGTH, SLICES, ACROSS, ACC)
    return upsample_weights(i, position, LENGTH, SLICES, ACC)


@triton.jit
def multiply(a, b):
    """Matrix product. tl.dot would round float32 to the tensor cores' type, and wants larger matrices."""
    return tl.sum(a[:, :, None] * b[None, :, :], 1)


@triton.jit
def through_slices(
    profile,  # (BLOCK_C, at least LENGTH), 0 beyond
    LENGTH: tl.constexpr,  # of the axis
    SLICES: tl.constexpr,  # along the axis
    ACROSS: tl.constexpr,  # length of the other axis
    POOL: tl.constexpr,  # pools and interpolates; otherwise the transposed map
    ACC: tl.constexpr,  # type of the arithmetic
):
    """Profile of the same shape. The slices stay in registers."""
    BLOCK_S: tl.constexpr = slices_at_once(SLICES, profile.numel)
    position = tl.arange(0, profile.shape[1])
    result = tl.zeros_like(profile)
    for first in range(0, SLICES, BLOCK_S):
        i = first + tl.arange(0, BLOCK_S)
        take = slice_weights(i[None, :], position[:, None], LENGTH, SLICES, ACROSS, POOL, ACC)
        give = slice_weights(i[:, None], position[None, :], LENGTH, SLICES, ACROSS, not POOL, ACC)
        result += multiply(multiply(profile, take), give)
    return result


@triton.jit
def from_slices(
    vectors,  # pointers to the first slice of each channel, (BLOCK_C,)
    STRIDE: tl.constexpr,  # between slices
    exists,  # which channels to read, (BLOCK_C,)
    SIZE: tl.constexpr,  # of the profile, at least LENGTH
    LENGTH: tl.constexpr,  # of the axis
    SLICES: tl.constexpr,  # along the axis
    ACROSS: tl.constexpr,  # length of the other axis
    POOL: tl.constexpr,  # with the weights of pooling; otherwise those of interpolation
    ACC: tl.constexpr,  # type of the arithmetic
):
    """Profile (BLOCK_C, SIZE) from slices in memory: sums over slices, 0 where there is no channel."""
    BLOCK_S: tl.constexpr = slices_at_once(SLICES, vectors.numel * SIZE)
    origin = tl.zeros((vectors.shape[0], 1), ACC)
    if not POOL:  # from the first slice on, so that equal slices stay equal
        origin += tl.load(vectors, mask=exists, other=0.0).to(ACC)[:, None]
    profile = tl.zeros((vectors.shape[0], SIZE), ACC) + origin
    for first in range(0, SLICES, BLOCK_S):
        i = first + tl.arange(0, BLOCK_S)
        inside = exists[:, None] & (i < SLICES)[None, :]
        slices = tl.load(vectors[:, None] + i.to(tl.int64)[None, :] * STRIDE, mask=inside, other=0.0).to(ACC)
        give = slice_weights(i[:, None], tl.arange(0, SIZE)[None, :], LENGTH, SLICES, ACROSS, POOL, ACC)
        profile += multiply(tl.where(inside, slices - origin, 0.0), give)
    return profile


@triton.jit
def to_slices(
    vectors,  # pointers to the first slice of each channel, (BLOCK_C,), slices lying beside one another
    exists,  # which channels to write, (BLOCK_C,)
    profile,  # (BLOCK_C, at least LENGTH), 0 beyond
    LENGTH: tl.constexpr,  # of the axis
    SLICES: tl.constexpr,  # along the axis
    ACROSS: tl.constexpr,  # length of the other axis
    POOL: tl.constexpr,  # with the weights of pooling; otherwise those of interpolation
    ACC: tl.constexpr,  # type of the arithmetic
):
    """Writes the slices of a profile: sums over positions."""
    BLOCK_S: tl.constexpr = slices_at_once(SLICES, profile.numel)
    position = tl.arange(0, profile.shape[1])
    for first in range(0, SLICES, BLOCK_S):
        i = first + tl.arange(0, BLOCK_S)
        take = slice_weights(i[None, :], position[:, None], LENGTH, SLICES, ACROSS, POOL, ACC)
        inside = exists[:, None] & (i < SLICES)[None, :]
        tl.store(vectors[:, None] + i[None, :], multiply(profile, take), mask=inside)
