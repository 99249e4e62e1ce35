"""The plain neck: global average pooling, with the interface of FDR."""

from __future__ import annotations

from torch import Tensor, nn


class GlobalAveragePool(nn.Module):
    """A neck that leaves the map as it is; `pooled` is its global average, (B, C, H, W) -> (B, C)."""

    def __init__(self, channels: int):
        super().__init__()
        self.channels = self.out_channels = channels

    def forward(self, x: Tensor) -> Tensor:
        return x

    def pooled(self, x: Tensor) -> Tensor:
        """(B, C): the mean over height and width."""
        return x.mean((2, 3))
