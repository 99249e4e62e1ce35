"""How kernels are launched: with blocks fixed by the shape, or with the fastest of a few that are timed once.

Every configuration gives the same bits each time, but not those of another one, whose sums have another order, and
which is the fastest is up to the clock. So the first, fixed configuration is taken
- under torch.use_deterministic_algorithms(True), for the same bits in every process,
- while a CUDA graph is captured, when nothing can be timed,
- without a GPU: in the interpreter, and where kernels are compiled only.
"""

import functools
import math

import torch
import triton
from triton.runtime.jit import KernelInterface

from .plane import Strides, device_of

# Values of a map that a program keeps in registers, and how many of them a thread has; a double counts as two.
# 8 values of two bytes are one access of 16; a warp by itself needs no barriers.
TILES = ((512, 16), (1024, 16), (2048, 16), (4096, 16), (1024, 8), (2048, 8), (4096, 8), (8192, 16))
LARGEST_TILE = 8192
# The fixed choice: the smallest tile that holds a plane, up to this one.
FIXED_TILE = 2048
MOST_WARPS = 16
# Of a multiprocessor. Where a thread has several channels it is told how many it may use: left to itself the assembler
# spills two or three to have one more program at a time.
REGISTERS = 65536
SECTOR = 32  # bytes of memory that are read or written together

_fastest: dict[tuple, triton.Config] = {}


@functools.cache
def configurations(
    itemsize: int, channels: int, adjacent: bool = False, each: int = 1, whole: int = 0, **lengths: int
) -> tuple[triton.Config, ...]:
    """At most nine choices of blocks and warps, the fixed one first.

    A tile has BLOCK_C channels by one block per name in `lengths`; planes that do not fit are walked over.

    Args:
        itemsize: bytes per value of the map.
        channels: largest BLOCK_C.
        adjacent: whether channels lie beside one another; a tile then has a sector of them at least.
        each: values in the tile per channel and position.
        whole: largest tile that is made to have whole planes.
        lengths: block name to positions along that axis, the slower axis first.
    """
    wide = max(itemsize, 4) // 4
    most = triton.next_power_of_2(channels)
    least = min(most, SECTOR // itemsize) if adjacent else 1
    lengths = {name: triton.next_power_of_2(length) for name, length in lengths.items()}
    plane = each * math.prod(lengths.values())
    smallest = wide * least * plane
    found = {}
    # Where channels lie beside one another a thread has several, and keeps more numbers per channel than values.
    fixed = min(FIXED_TILE, max(TILES[0][0], smallest)), 8 if adjacent else 16
    for size, values in (fixed, *TILES):
        if smallest <= whole:
            size = max(size, smallest)
        blocks = {"BLOCK_C": min(most, max(least, size // (wide * plane)))}
        room = size // (wide * each * blocks["BLOCK_C"])
        for name, length in reversed(lengths.items()):
            blocks[name] = min(length, max(1, room))
            room //= blocks[name]
        warps = wide * each * math.prod(blocks.values()) // (32 * values)
        found[tuple(blocks.items()), max(1, min(MOST_WARPS, warps))] = None
    return tuple(
        triton.Config(dict(blocks), num_warps=warps, maxnreg=min(255, REGISTERS // (32 * warps)) if adjacent else None)
        for blocks, warps in found
    )


def map_configurations(map: torch.Tensor, strides: Strides, channels: int) -> tuple[triton.Config, ...]:
    """Those of programs that read or write tiles (BLOCK_C, BLOCK_H, BLOCK_W) of a map, of at most so many channels."""
    height, width = map.shape[2:]
    return configurations(map.element_size(), channels, strides.channel == 1, BLOCK_H=height, BLOCK_W=width)


def launch(
    kernel: KernelInterface,
    like: torch.Tensor,
    images: int,
    channels: int,
    arguments: tuple,
    constants: dict,
    choices: tuple[triton.Config, ...],
) -> None:
    """Run `kernel` on the device of `like`, a program for BLOCK_C channels of an image, in one of the `choices`.

    Timing is anew for other constants, type or device, not for another number of images. The kernel must only write
    what it has not read, since timing runs it many times.
    """

    def grid(blocks: dict) -> tuple[int]:
        return (images * triton.cdiv(channels, blocks["BLOCK_C"]),)

    with device_of(like):
        choice = choices[0] if _is_fixed(like) else _timed(kernel, like, grid, arguments, constants, choices)
        kernel[grid](*arguments, **constants, **choice.all_kwargs())


def _is_fixed(like: torch.Tensor) -> bool:
    return not like.is_cuda or torch.are_deterministic_algorithms_enabled() or torch.cuda.is_current_stream_capturing()


def _timed(kernel, like, grid, arguments, constants, choices) -> triton.Config:
    """The fastest configuration."""
    key = (kernel, like.device, like.dtype, *constants.values())
    if key not in _fastest:
        tuner = triton.autotune(list(choices), key=[])(kernel)
        tuner[grid](*arguments, **constants)
        _fastest[key] = tuner.best_config
    return _fastest[key]
