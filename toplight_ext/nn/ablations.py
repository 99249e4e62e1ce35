"""What TOPLight compares FDR with (its Table 5): other attentions, and FDR with a part left out or exchanged."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import ops
from ..ops._registration import is_channels_last, memory_format
from ..ops.slice_pool_upsample import upsample_reference
from .attention import ShuffleAttention
from .fdr import FDR, SliceEmbedding
from .pooling import Neck, check_channels

# They ask for sizes and strides, which torch.fx.symbolic_trace does not know.
torch.fx.wrap("is_channels_last")
torch.fx.wrap("memory_format")
torch.fx.wrap("upsample_reference")

REDUCTION = 16  # of the channels between the two layers of a gate, in all three papers


def _hidden(channels: int) -> int:
    return max(channels // REDUCTION, 1)


class GlobalContext(Neck):
    """Global context block (GCNet, Cao et al., 2019): every position gets the same attended sum of all.

    x + transform(sum over positions of softmax(key(x)) x), transform = linear, LayerNorm, ReLU, linear from C
    to C / 16 and back. Its last layer starts at 0, so that a fresh block changes nothing.
    """

    def __init__(self, channels: int):
        super().__init__(channels)
        hidden = _hidden(channels)
        self.key = nn.Conv2d(channels, 1, 1)
        self.transform = nn.Sequential(
            nn.Linear(channels, hidden), nn.LayerNorm(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, channels)
        )
        nn.init.zeros_(self.transform[-1].weight)
        nn.init.zeros_(self.transform[-1].bias)

    def context(self, x: Tensor) -> Tensor:
        """(B, C): what is added to every position."""
        weights = self.key(x).flatten(2).softmax(2)
        return self.transform((x.flatten(2) @ weights.mT).squeeze(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.context(x)[:, :, None, None]

    def pooled(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) + self.context(x)


class SqueezeExcitation(Neck):
    """SE (Hu et al., 2018): x * sigmoid(two linear layers on the mean of every channel, C / 16 wide between)."""

    def __init__(self, channels: int):
        super().__init__(channels)
        hidden = _hidden(channels)
        self.gate = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, channels), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x.mean((2, 3)))[:, :, None, None]

    def pooled(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3))
        return mean * self.gate(mean)


class CBAM(Neck):
    """CBAM (Woo et al., 2018): a gate per channel, then a gate per position.

    The channel gate is the sigmoid of one perceptron, C / 16 wide, on the mean and on the maximum of every
    channel, summed; the spatial gate that of a 7 x 7 convolution of the mean and the maximum over channels, with
    BatchNorm after it as in its authors' code. No layer has a bias.
    """

    def __init__(self, channels: int):
        super().__init__(channels)
        hidden = _hidden(channels)
        self.perceptron = nn.Sequential(
            nn.Linear(channels, hidden, bias=False), nn.ReLU(inplace=True), nn.Linear(hidden, channels, bias=False)
        )
        self.spatial = nn.Sequential(nn.Conv2d(2, 1, 7, padding=3, bias=False), nn.BatchNorm2d(1))

    def forward(self, x: Tensor) -> Tensor:
        logits = self.perceptron(x.mean((2, 3))) + self.perceptron(x.amax((2, 3)))
        x = x * logits.sigmoid()[:, :, None, None]
        summary = torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), dim=1)
        return x * self.spatial(summary).sigmoid()


class FDRWithoutUpsampling(FDR):
    """FDR whose up-sampling layers, embedding and interpolation, are left out: (B, C, H, W) -> (B, 2C, n_h, n_v).

    The slice means meet the attention at their own n_h and n_v positions. What of the layers this row of the
    paper leaves out is not published; were only the interpolation left out, the pooled feature of our FDR would
    stay the same.
    """

    def __init__(self, channels: int, slices: tuple[int, int] = (6, 3), groups: int | None = None):
        super().__init__(channels, slices=slices, groups=groups, embed=False)

    def profiles(self, x: Tensor) -> tuple[Tensor, Tensor, tuple[int, int]]:
        return *super().profiles(x)[:2], self.slices


class HorizontalFDR(Neck):
    """FDR with H_s, the horizontal slices, only: (B, C, H, W) -> (B, C, H, W), constant along the width.

    All C channels come from the rows, so that the feature has the size of FDR's (our choice).
    """

    def __init__(self, channels: int, slices: tuple[int, int] = (6, 3), groups: int | None = None):
        super().__init__(channels)
        self.bands = slices[0]
        self.attention = ShuffleAttention(channels, groups)
        self.embed_rows = SliceEmbedding(channels, channels, self.bands)

    def attended(self, x: Tensor) -> Tensor:
        """(B, C, H, 1): the map, whose columns are all the same, as one of them."""
        check_channels(self, x)
        rows, _ = ops.slice_pool(x, (self.bands, 1))
        return self.attention(F.interpolate(self.embed_rows(rows), x.shape[2], mode="linear").unsqueeze(3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.attended(x).expand(-1, -1, -1, x.shape[3])
        return y.contiguous(memory_format=memory_format(is_channels_last(x)))

    def pooled(self, x: Tensor) -> Tensor:
        return self.attended(x).mean((2, 3))


class AttendedFDR(FDR):
    """FDR with another attention in place of shuffle attention, on the re-enlarged map.

    Args:
        attention: makes it for a number of channels.
        channels, slices: of FDR.
    """

    def __init__(self, attention: Callable[[int], Neck], channels: int, slices: tuple[int, int] = (6, 3)):
        super().__init__(channels, slices=slices, groups=1)
        self.attention = attention(self.out_channels)

    def rebuilt(self, x: Tensor) -> Tensor:
        """Steps 1 to 3 of FDR: the map before its attention."""
        y = upsample_reference(*self.profiles(x))
        return y.contiguous(memory_format=memory_format(is_channels_last(x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(self.rebuilt(x))

    def pooled(self, x: Tensor) -> Tensor:
        return self.attention.pooled(self.rebuilt(x))
