"""What a neck is, and the necks that only pool."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from .. import ops
from ..errors import InputError
from ..ops._registration import accumulation_dtype


def check_channels(module: Neck, x: Tensor) -> None:
    """Raise InputError unless the map `x` has the channels that the module was made for."""
    # What torch.fx traces with is no tensor and has no sizes; of anything else that is no map the ops say so.
    if isinstance(x, Tensor) and x.dim() == 4 and x.shape[1] != module.channels:
        raise InputError(
            f"{type(module).__name__} was made for {module.channels} channels, got a map of shape {tuple(x.shape)}"
        )


class Neck(nn.Module):
    """What stands between the last block of a backbone and its head.

    `forward` gives the map, (B, C, H, W) -> (B, C_out, H, W), `pooled` the feature (B, out_channels) of an
    image: the map's global average, unless the neck pools in a way of its own; its `forward` then leaves the
    map as it is.

    Args:
        channels: C of the input.
        out_channels: of the feature; defaults to C.
    """

    def __init__(self, channels: int, out_channels: int | None = None):
        super().__init__()
        self.channels = channels
        self.out_channels = channels if out_channels is None else out_channels
        if min(self.channels, self.out_channels) < 1:
            given = f"{self.channels} and {self.out_channels}"
            raise InputError(f"{type(self).__name__}: channels and out_channels must be at least 1, got {given}")

    def forward(self, x: Tensor) -> Tensor:
        return x

    def pooled(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_channels)."""
        return self(x).mean((2, 3))

    def extra_repr(self) -> str:
        return f"{self.channels}, {self.out_channels}"


class Pooled(nn.Module):
    """A neck in the place of a network's global pool: (B, C, H, W) -> (B, out_channels, 1, 1), as that returns it.

    What to put where another code base has `nn.AdaptiveAvgPool2d(1)`: the same features as the neck's map followed
    by that pool, without the map.
    """

    def __init__(self, neck: Neck):
        super().__init__()
        self.neck = neck

    def forward(self, x: Tensor) -> Tensor:
        return self.neck.pooled(x)[:, :, None, None]


class GlobalAveragePool(Neck):
    """Leaves the map as it is and pools its global average."""


class GeneralizedMeanPool(Neck):
    """GeM (Radenovic et al., 2019): the p-th root of the mean p-th power of every channel, with p = 3.

    p is fixed, as in the public code of AGW. Negative values, which some activations leave, count as 0: their
    mean power could be negative, and has no root.
    """

    p = 3.0
    eps = 1e-12  # keeps the root's gradient finite where a channel is 0 throughout

    def pooled(self, x: Tensor) -> Tensor:
        # The cube of a half-precision activation may overflow.
        powers = x.to(accumulation_dtype(x.dtype)).clamp(min=0).pow(self.p)
        return (powers.mean((2, 3)) + self.eps).pow(1 / self.p).to(x.dtype)


class HorizontalAveragePool(Neck):
    """HAP: the averages of `bands` horizontal bands, concatenated: (B, C, H, W) -> (B, bands * C).

    The paper names the pool and no more; bands as adaptive pooling cuts them, and their concatenation, without
    which they would add up to the global average, are our choice.

    Raises:
        InputError: fewer than one band.
    """

    def __init__(self, channels: int, bands: int = 6):
        if bands < 1:
            raise InputError(f"horizontal average pooling needs at least one band, got {bands}")
        super().__init__(channels, bands * channels)
        self.bands = bands

    def pooled(self, x: Tensor) -> Tensor:
        rows, _ = ops.slice_pool(x, (self.bands, 1))
        return rows.flatten(1)


class PartPool(Neck):
    """The means over a grid, each cell reduced to `part_channels`: (B, C, H, W) -> (B, n_h * n_v * part_channels).

    Keeps the layout that the global average throws away. PCB (Sun et al., 2018) reduces each horizontal part by a
    1x1 convolution of its own; a grid, and one convolution for all its parts, are our choice. The feature is
    ordered by channel, then part.

    Args:
        slices: (n_h, n_v), parts along height and width, as adaptive pooling cuts them.
        part_channels: of every part.

    Raises:
        InputError: fewer than one part or channel.
    """

    def __init__(self, channels: int, slices: tuple[int, int] = (6, 3), part_channels: int = 128):
        if min(*slices, part_channels) < 1:
            raise InputError(f"parts: slices and part_channels must be positive, got {slices} and {part_channels}")
        super().__init__(channels, slices[0] * slices[1] * part_channels)
        self.slices = tuple(slices)
        self.reduce = nn.Conv2d(channels, part_channels, 1, bias=False)

    def pooled(self, x: Tensor) -> Tensor:
        # Both are linear: reducing the parts' means is reducing the map and taking the means, for less work.
        return self.reduce(F.adaptive_avg_pool2d(x, self.slices)).flatten(1)
