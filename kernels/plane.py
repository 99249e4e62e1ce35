"""How maps lie in memory, and the two functions through which every kernel touches them.

A map is (B, C, H, W), a plane the H * W values of one image and channel.
"""

import contextlib
from typing import NamedTuple

import torch
import triton
import triton.language as tl


class Strides(NamedTuple):
    """Strides of a (B, C, H, W) map in elements."""

    batch: int
    channel: int
    height: int
    width: int


def strides_of(map: torch.Tensor) -> Strides:
    """The strides of a map; dimensions of size 1, whose strides never count, get those of dense ones."""
    images, channels, rows, columns = map.shape
    batch, channel, height, width = map.stride()
    if columns == 1:
        width = height if rows > 1 else 1
    if rows == 1:
        height = columns * width
    batch = batch if images > 1 else channels * rows * columns
    return Strides(batch, channel if channels > 1 else rows * columns, height, width)


def is_channels_last(map: torch.Tensor) -> bool:
    """The layout rule: a map that is returned is channels_last exactly if this holds for the one it is made from."""
    return map.is_contiguous(memory_format=torch.channels_last) and not map.is_contiguous()


def empty_map(shape: tuple[int, ...], like: torch.Tensor, channels_last: bool) -> torch.Tensor:
    """An uninitialised map of the dtype and device of `like`."""
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=memory_format)


def accumulate_type(map: torch.Tensor) -> tl.dtype:
    """float64 for float64, float32 for everything else, as a triton type."""
    return tl.float64 if map.dtype == torch.float64 else tl.float32


def device_of(map: torch.Tensor) -> contextlib.AbstractContextManager:
    """Triton launches on the current device: make it the one of the map."""
    return torch.cuda.device(map.device) if map.is_cuda else contextlib.nullcontext()


# Maps are loaded and stored by these two functions, and nothing else is in this file: by the line table of the
# machine code benchmarks/compile_kernels.py tells accesses to maps, which are to be 16 bytes wide, from all others.
@triton.jit
def load_map(pointers, inside, ACC: tl.constexpr):
    return tl.load(pointers, mask=inside, other=0.0).to(ACC)


@triton.jit
def store_map(pointers, values, inside):
    tl.store(pointers, values, mask=inside)


@triton.jit
def program_planes(
    C: tl.constexpr,  # channels
    BLOCK_C: tl.constexpr,  # channels per program
):
    """Image, channels (BLOCK_C,) and which of them exist, of this program."""
    blocks: tl.constexpr = triton.cdiv(C, BLOCK_C)
    c = tl.program_id(0) % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    return (tl.program_id(0) // blocks).to(tl.int64), c, c < C


@triton.jit
def channel_starts(
    values,  # a map or vectors
    b,  # image
    c,  # channels, (P,)
    X: tl.constexpr,  # their strides
):
    """Pointers to the first value of each channel, (P,). 64 bits, as all addresses."""
    return values + b * X.batch + c.to(tl.int64) * X.channel
