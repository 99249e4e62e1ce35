"""Gradient reversal, backward: dx = -lambda * grad, for a grad of any rank and strides.

Bytes moved: grad is read, dx written. Operations per value: one multiplication.
Dimensions that lie behind one another are merged, so that a dense grad is one run of values, read 16 bytes at a time,
and one number repeated is one of stride 0.
"""

import torch
import triton
import triton.language as tl

from .launch import LARGEST_TILE, configurations, launch
from .plane import accumulate_type, is_channels_last, load_map, store_map


@triton.jit
def _backward(
    grad,  # gradient of the output, any strides
    dx,  # gradient of the input, dense, dimensions in the order of SIZES
    lambd,  # one value
    values,  # number of values
    SIZES: tl.constexpr,  # of the merged dimensions but the first, the last one first
    STRIDES: tl.constexpr,  # of grad, of the merged dimensions, the last one first
    ACC: tl.constexpr,  # type of the arithmetic
    BLOCK_C: tl.constexpr,  # values per program
):
    index = tl.program_id(0).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    rest = index
    offset = tl.zeros_like(index)
    for dim in tl.static_range(len(SIZES)):
        offset += rest % SIZES[dim] * STRIDES[dim]
        rest //= SIZES[dim]
    offset += rest * STRIDES[len(SIZES)]
    inside = index < values
    store_map(dx + index, -tl.load(lambd) * load_map(grad + offset, inside, ACC), inside)


def _merged(grad: torch.Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Sizes and strides of the dimensions, the last one first, merged where one goes on where the next one ends."""
    sizes, strides = [], []
    for size, stride in zip(reversed(grad.shape), reversed(grad.stride()), strict=True):
        if size == 1:
            continue
        if sizes and stride == sizes[-1] * strides[-1]:
            sizes[-1] *= size
        else:
            sizes.append(size)
            strides.append(stride)
    return tuple(sizes[:-1]), tuple(strides) or (1,)


def gradient_reversal_backward(grad: torch.Tensor, lambd: torch.Tensor) -> torch.Tensor:
    """dx of the shape of grad, channels_last if it is, else contiguous; lambd has one value."""
    channels_last = grad.dim() == 4 and is_channels_last(grad)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    dx = torch.empty_like(grad, memory_format=memory_format)
    if dx.numel():
        sizes, strides = _merged(grad.permute(0, 2, 3, 1) if channels_last else grad)
        constants = {"SIZES": sizes, "STRIDES": strides, "ACC": accumulate_type(grad)}
        choices = configurations(grad.element_size(), LARGEST_TILE)
        launch(_backward, grad, 1, dx.numel(), (grad, dx, lambd, dx.numel()), constants, choices)
    return dx
