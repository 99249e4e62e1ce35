"""What both kernels share: how a tile of planes lies in memory, and how large it is.

A plane is the N = H * W values of one image and channel; a position n in it is row n // W, column n % W.
A kernel keeps a tile of some planes by up to BLOCK_N positions in registers.
"""

import contextlib
from typing import NamedTuple

import torch
import triton
import triton.language as tl

TILE = 2048  # elements that a program keeps in registers, of all its tiles; a double counts as two
LARGEST_TILE = 8 * TILE  # what it keeps at most, to have whole planes
LARGEST_WIDE_TILE = 4 * TILE  # the same where channels lie beside one another, which takes more registers
WIDE_CHANNELS = (16, 8)  # channels that such a tile has, by preference, of doubles half; 8 floats are a memory sector


class Strides(NamedTuple):
    """Strides of a (B, C, H, W) map in elements, and whether position n simply lies at n * width."""

    batch: int
    channel: int
    height: int
    width: int
    flat: bool


def strides_of(map: torch.Tensor) -> Strides:
    """The strides of a map; those of dimensions of size 1 never count."""
    batch, channel, height, width = map.stride()
    if map.shape[3] == 1:
        return Strides(batch, channel, height, height, True)
    return Strides(batch, channel, height, width, map.shape[2] == 1 or height == map.shape[3] * width)


def is_channels_last(map: torch.Tensor) -> bool:
    """The layout rule: a map that is returned is channels_last exactly if this holds for the one it is made from."""
    return map.is_contiguous(memory_format=torch.channels_last) and not map.is_contiguous()


def empty_map(shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    """An uninitialised map in the layout that the layout rule gives for `like`."""
    memory_format = torch.channels_last if is_channels_last(like) else torch.contiguous_format
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=memory_format)


def tile_shape(map: torch.Tensor, channels: int, tiles: int) -> tuple[int, int]:
    """(BLOCK_C, BLOCK_N) of a program that keeps `tiles` tiles of the planes of `map`.

    At most `channels` channels; BLOCK_N < H * W where a plane does not fit. A tile is wide in positions, or in
    channels where these lie beside one another.
    """
    size = 2 if map.dtype == torch.float64 else 1
    registers = tiles * size
    block_n = triton.next_power_of_2(map.shape[2] * map.shape[3])
    most = triton.next_power_of_2(channels)
    if map.stride(1) != 1 or map.shape[1] == 1:
        block_c = min(most, max(1, TILE // (registers * block_n)))
        return block_c, block_n if registers * block_n <= LARGEST_TILE else TILE // registers
    wide = [min(block_c // size, most) for block_c in WIDE_CHANNELS]
    for block_c in wide:
        if registers * block_c * block_n <= LARGEST_WIDE_TILE:
            return block_c, block_n
    return wide[0], TILE // (registers * wide[0])


def warps(elements: int) -> int:
    """Warps per program that keeps that many elements: 8 in a thread, up to 16 warps."""
    return max(1, min(16, elements // 256))


def accumulate_type(map: torch.Tensor) -> tl.dtype:
    """float64 for float64, float32 for everything else, as a triton type."""
    return tl.float64 if map.dtype == torch.float64 else tl.float32


def device_of(map: torch.Tensor) -> contextlib.AbstractContextManager:
    """Triton launches on the current device: make it the one of the map."""
    return torch.cuda.device(map.device) if map.is_cuda else contextlib.nullcontext()


@triton.jit
def position_offset(n, W: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, FLAT: tl.constexpr):
    """Where positions n of a plane lie, in elements from its start. 64 bits, as all addresses."""
    if FLAT:
        return n.to(tl.int64) * STRIDE_W
    return (n // W).to(tl.int64) * STRIDE_H + (n % W).to(tl.int64) * STRIDE_W
