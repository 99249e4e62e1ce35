"""Other readings of FDR's embedding and up-sampling, which the paper names and does not describe.

Each is FDR with another embedding than `fdr.SliceEmbedding`. All stay one-dimensional: a row map
is constant along the width, so that its convolutions, BatchNorm and ReLU run on the vector of its positions and give
the same numbers; only BatchNorm's running variance, which is unbiased, counts fewer positions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import ops
from .fdr import FDR, in_front_of_norm
from .pooling import check_channels


class ConvolutionalEmbedding(nn.Module):
    """Convolution along the axis, BatchNorm, ReLU: (B, C, n) -> (B, C_embedded, n)."""

    kernel = 1

    def __init__(self, channels: int, out_channels: int, slices: int):
        super().__init__()
        convolution = nn.Conv1d(channels, out_channels, self.kernel, padding=self.kernel // 2, bias=False)
        self.convolution = in_front_of_norm(convolution)
        self.norm = nn.BatchNorm1d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.convolution(x)))


class WideConvolutionalEmbedding(ConvolutionalEmbedding):
    kernel = 3


class VectorEmbedding(nn.Module):
    """The slices concatenated on channels, one linear layer, BatchNorm, ReLU: (B, C, n) -> (B, C_embedded, 1).

    n * C * C_embedded weights.
    """

    def __init__(self, channels: int, out_channels: int, slices: int):
        super().__init__()
        # The product of a Conv1d over the slice axis with kernel n, which took 2 to 3 times as long on a CPU.
        self.linear = in_front_of_norm(nn.Linear(channels * slices, out_channels, bias=False))
        self.norm = nn.BatchNorm1d(out_channels)

    def forward(self, slices: Tensor) -> Tensor:
        return torch.relu(self.norm(self.linear(slices.flatten(1)))).unsqueeze(2)


class TransposedEmbedding(VectorEmbedding):
    """The same vector, then a transposed convolution: (B, C, n) -> (B, C_embedded, n).

    Depthwise, as learned up-sampling usually is: every channel has a profile of n weights along the axis. They
    start at 1, where they change nothing.
    """

    def __init__(self, channels: int, out_channels: int, slices: int):
        super().__init__(channels, out_channels, slices)
        # The product of a ConvTranspose1d from one position to n, with a kernel of n and one group per channel.
        self.profile = nn.Parameter(torch.ones(out_channels, slices))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.profile


class MixingEmbedding(nn.Module):
    """Every slice rebuilt from all slices, linearly, BatchNorm, ReLU: (B, C, n) -> (B, C_embedded, n).

    n^2 * C * C_embedded weights.
    """

    def __init__(self, channels: int, out_channels: int, slices: int):
        super().__init__()
        self.linear = in_front_of_norm(nn.Linear(channels * slices, out_channels * slices, bias=False))
        self.norm = nn.BatchNorm1d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.linear(x.flatten(1)).unflatten(1, (-1, x.shape[2]))))


class Reading(FDR):
    """FDR with the embedding that the class names; arguments as FDR's."""

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        slices: tuple[int, int] = (6, 3),
        groups: int | None = None,
    ):
        super().__init__(channels, out_channels, slices, groups)


class PointwiseFDR(Reading):
    """Reading A: every slice embedded by itself, then interpolated."""

    embedding = ConvolutionalEmbedding


class ProfileFDR(Reading):
    """Reading B: the slices interpolated to the size of the map, then embedded with a kernel of 3."""

    embedding = WideConvolutionalEmbedding

    def profiles(self, x: Tensor) -> tuple[Tensor, Tensor, tuple[int, int]]:
        check_channels(self, x)
        rows, columns = ops.slice_pool(x, self.slices)
        rows = self.embed_rows(F.interpolate(rows, x.shape[2], mode="linear"))
        columns = self.embed_columns(F.interpolate(columns, x.shape[3], mode="linear"))
        return rows, columns, x.shape[2:]


class VectorFDR(Reading):
    """Reading C: one vector of all slices, which stands for every position."""

    embedding = VectorEmbedding


class TransposedFDR(Reading):
    """Reading D: as C, re-enlarged by a learned transposed convolution along the axis."""

    embedding = TransposedEmbedding


class MixingFDR(Reading):
    """Reading E: as C, but embedded to as many positions as there were slices, then interpolated."""

    embedding = MixingEmbedding
