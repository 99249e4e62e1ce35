"""LightCNN-29 (Wu et al., 2018), the usual backbone of visible-infrared face recognition.

Its children have the names of its authors' code (https://github.com/AlfredXiangWu/LightCNN), so that their
checkpoints load as they are. Made for aligned gray faces of 128 x 128 with values 0 to 1.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..colour import LUMA

_SIDE = 8  # of the last map, for faces of 128 x 128
_FEATURES = 256


class Luma(nn.Module):
    """Colour to gray, (B, 3, H, W) -> (B, 1, H, W), by the weights of ITU-R BT.601; gray stays what it is."""

    weights: Tensor

    def __init__(self):
        super().__init__()
        self.register_buffer("weights", torch.tensor(LUMA).reshape(3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        return (image * self.weights).sum(1, keepdim=True)


class MaxFeatureMap(nn.Module):
    """The larger of the two halves of a layer's output channels, position by position."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.filter = layer

    def forward(self, x: Tensor) -> Tensor:
        return torch.maximum(*self.filter(x).chunk(2, dim=1))


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions beside the identity."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = _convolution(channels, channels, 3)
        self.conv2 = _convolution(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.conv1(x))


class MaxPlusAveragePool(nn.Module):
    """Halves height and width by the sum of maximum and mean over 2 x 2 positions."""

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 2) + F.avg_pool2d(x, 2)


class FullyConnected(nn.Linear):
    """A linear layer over all positions, (B, 128, h, w) -> (B, out_features, 1, 1).

    A map that is not 8 x 8 is first made so by adaptive average pooling (our choice).
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.adaptive_avg_pool2d(x, _SIDE).flatten(1))[:, :, None, None]


def lightcnn29() -> nn.Sequential:
    """The network of the paper: maximum pooling, and an embedding that is a maximum of two linear layers."""
    pools = [nn.MaxPool2d(2, ceil_mode=True) for _ in range(4)]
    return _network(pools, MaxFeatureMap(FullyConnected(_SIDE * _SIDE * 128, 2 * _FEATURES)))


def lightcnn29_v2() -> nn.Sequential:
    """Its authors' second version: maximum plus average pooling, and a linear embedding."""
    return _network([MaxPlusAveragePool() for _ in range(4)], FullyConnected(_SIDE * _SIDE * 128, _FEATURES))


def _network(pools: list[nn.Module], embedding: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            gray=Luma(),
            conv1=_convolution(1, 48, 5),
            pool1=pools[0],
            block1=_residual_blocks(1, 48),
            group1=_group(48, 96),
            pool2=pools[1],
            block2=_residual_blocks(2, 96),
            group2=_group(96, 192),
            pool3=pools[2],
            block3=_residual_blocks(3, 192),
            group3=_group(192, 128),
            block4=_residual_blocks(4, 128),
            group4=_group(128, 128),
            pool4=pools[3],
            fc=embedding,
            fc2=nn.Identity(),  # the place of the classifier
        )
    )


def _convolution(in_channels: int, out_channels: int, kernel: int) -> MaxFeatureMap:
    return MaxFeatureMap(nn.Conv2d(in_channels, 2 * out_channels, kernel, padding=kernel // 2))


def _residual_blocks(count: int, channels: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(channels) for _ in range(count)))


def _group(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(conv_a=_convolution(in_channels, in_channels, 1), conv=_convolution(in_channels, out_channels, 3))
    )
