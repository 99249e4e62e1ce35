"""AGW (Ye et al., 2021), the baseline that visible-infrared methods are measured against, on the ResNet-50 of timm.

ResNet-50 with non-local blocks, last stride 1, two stems, generalised-mean pooling ("gem") and BNNeck; trained with
the identity loss and `losses.weighted_regularised_triplet`. Follows its public code
(https://github.com/mangye16/Cross-Modal-Re-ID-baseline) where that differs from the paper.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import MutableMapping, Sequence

from torch import Tensor, nn

from .layouts import Child, maps

# Layer of ResNet-50 -> how many of its last bottlenecks have a non-local block behind them.
NON_LOCAL_BLOCKS = {"layer2": 2, "layer3": 3}


class NonLocal(nn.Module):
    """Non-local block (Wang et al., 2018) in its dot-product form with one inner channel, as in AGW's public code.

    x + BatchNorm(expand(theta * mean over positions of (phi * g))), with theta, phi and g three linear functions
    of x at a position: without a softmax the pairs of positions need not be formed. BatchNorm starts at 0, so
    that a fresh block changes nothing.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.project = nn.Conv2d(channels, 3, 1)  # to theta, phi and g
        self.expand = nn.Conv2d(1, channels, 1)
        self.norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        theta, phi, g = self.project(x).split(1, dim=1)
        return x + self.norm(self.expand(theta * (phi * g).mean((2, 3), keepdim=True)))


def non_local(blocks: Sequence[MutableMapping[str, Child]]) -> list[nn.Module]:
    """Layout of a partition (layouts.py): maps, with AGW's non-local blocks among the bottlenecks of a ResNet."""
    for children in blocks:
        for layer in children.keys() & NON_LOCAL_BLOCKS.keys():
            children[layer] = _with_non_local(children[layer], NON_LOCAL_BLOCKS[layer])
    return maps(blocks)


def _with_non_local(bottlenecks: nn.Sequential, count: int) -> nn.Sequential:
    children = OrderedDict()
    for index, bottleneck in enumerate(bottlenecks):
        children[str(index)] = bottleneck
        if index >= len(bottlenecks) - count:
            children[f"non_local{index}"] = NonLocal(bottleneck.conv3.out_channels)
    return nn.Sequential(children)
