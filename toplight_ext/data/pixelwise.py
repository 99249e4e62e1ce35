"""What looks at one pixel at a time: colour and grey as one affine map, erasing, normalisation.

In PyTorch, on CPU and GPU, after DALI: DALI has each of these operators, but on a CPU its colour map alone costs
more than all of this (docs/data.md).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ..transfers import to_device

_PART = 4  # images at once on a CPU, so that what one operation wrote is in the cache for the next


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch works in the calling thread alone, as it should while DALI's threads have the cores.

    Otherwise each operation waits for helpers that get no core: batches came at a third of the rate.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@one_thread()
def finish(images: Tensor, arguments: Mapping[str, np.ndarray], mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """The images as the network sees them.

    Args:
        images: uint8 (B, H, W, 3).
        arguments: by name, each optional: "matrix" (B, 3, 4), the affine map of a pixel in 0..255; "boxes" (B, 4),
            the pixels from (top, left) to before (bottom, right) that are erased; "fill" (B, 3), with what, in
            0..255; the mean if absent.
        mean, std: of the red, green and blue channel, for pixels in 0..1.

    Returns:
        float32 (B, 3, H, W), contiguous, on the images' device.
    """
    count, height, width, _ = images.shape
    finished = torch.empty((count, 3, height, width), device=images.device)
    mean, std = (255 * _beside(images, values) for values in (mean, std))
    matrix = _beside(images, arguments["matrix"]) if "matrix" in arguments else None
    fill = _beside(images, arguments["fill"]) if "fill" in arguments else mean.expand(count, 3)
    step = count if images.is_cuda else _PART
    for start in range(0, count, step):
        rows = slice(start, start + step)
        pixels = finished[rows].copy_(images[rows].permute(0, 3, 1, 2))
        if matrix is not None:
            pixels = _coloured(pixels, matrix[rows])
        if "boxes" in arguments:
            _erase(pixels, arguments["boxes"][rows], fill[rows])
        torch.sub(pixels, mean[:, None, None], out=finished[rows]).div_(std[:, None, None])
    return finished


def _beside(images: Tensor, values: np.ndarray | Sequence[float]) -> Tensor:
    """The values as float32 where the images are."""
    return to_device(torch.from_numpy(np.asarray(values, np.float32)), images.device)


def _coloured(pixels: Tensor, matrix: Tensor) -> Tensor:
    with torch.autocast(pixels.device.type, enabled=False):  # half precision has not the digits for 256 levels
        mapped = torch.baddbmm(matrix[:, :, 3:], matrix[:, :, :3], pixels.flatten(2))
    return mapped.clamp_(0, 255).view_as(pixels)


def _erase(pixels: Tensor, boxes: np.ndarray, fill: Tensor) -> None:
    for image, (top, left, bottom, right), values in zip(pixels, boxes.tolist(), fill, strict=True):
        if bottom > top:
            image[:, top:bottom, left:right] = values[:, None, None]
