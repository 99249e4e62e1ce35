"""Fixed first layers by name: what a network sees of an image before anything is learned."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..colour import LUMA
from ..errors import InputError

_REACH = 2  # pixels from the middle of the gradient filter to its edge


class UnsignedGradients(nn.Module):
    """Edges without their sign: (B, 3, H, W) normalised colours -> (B, 3, H, W).

    Of the luma's gradient with length m and direction t: sqrt(m), sqrt(m) cos 2t and sqrt(m) sin 2t, brought to the
    range of normalised pixels. Two spectra agree in where edges are and how they run, not in which side of them is
    brighter; at the doubled angle (Bigun and Granlund, 1987) a direction and its opposite are one. The root keeps
    few strong edges from outweighing the many weak ones, as in RootSIFT (Arandjelovic and Zisserman, 2012).
    The combination is our choice. Sobel filter on a 3 x 3 binomial smoothing; edge pixels are repeated outside.
    """

    floor = 1e-4  # squared gradient, per pixel, below which it is noise: its direction fades out
    mean = 0.28  # of sqrt(m) and its spread over images in ImageNet's normalisation
    std = 0.2

    def forward(self, image: Tensor) -> Tensor:
        red, green, blue = image.unbind(1)
        luma = (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue).unsqueeze(1)
        luma = _smooth(_smooth(F.pad(luma, (_REACH,) * 4, mode="replicate"), 2), 3)
        dx, dy = _slope(_smooth(luma, 2), 3), _slope(_smooth(luma, 3), 2)
        square = dx * dx + dy * dy + self.floor
        scale = square.rsqrt() * square.sqrt().rsqrt() / self.std  # m^(-3/2), as pow is slow
        length = square * scale - self.mean / self.std
        return torch.cat((length, (dx * dx - dy * dy) * scale, 2 * dx * dy * scale), dim=1)


# Sums of shifted maps: a convolution with one input channel took 20 times as long on a CPU.


def _smooth(x: Tensor, dim: int) -> Tensor:
    """Binomial filter (1, 2, 1) / 4 along `dim`, which gets 2 shorter."""
    before, here, after = _neighbours(x, dim)
    return (before + after) / 4 + here / 2


def _slope(x: Tensor, dim: int) -> Tensor:
    """Central difference along `dim`, which gets 2 shorter."""
    before, _, after = _neighbours(x, dim)
    return (after - before) / 2


def _neighbours(x: Tensor, dim: int) -> list[Tensor]:
    length = x.shape[dim] - 2
    return [x.narrow(dim, start, length) for start in range(3)]


INPUTS: dict[str, Callable[[], nn.Module]] = {"colour": nn.Identity, "unsigned_gradients": UnsignedGradients}


def create_input(name: str) -> nn.Module:
    """The fixed first layer of that name.

    Raises:
        InputError: an unknown name.
    """
    if name not in INPUTS:
        raise InputError(f"unknown input {name!r}; known are: {', '.join(sorted(INPUTS))}")
    return INPUTS[name]()
