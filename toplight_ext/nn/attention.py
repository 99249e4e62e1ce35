"""Shuffle attention as a module, and the choice of its number of groups."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from .. import ops
from ..ops.shuffle_attention import check_groups, valid_groups
from .pooling import Neck, check_channels

DEFAULT_GROUPS = 64


def resolve_groups(channels: int, groups: int | None) -> int:
    """The number of groups G to use for `channels` C, which must be divisible by 2G.

    Left out (None) it is 64, or the largest valid number below 64, with a warning that names it.

    Raises:
        InputError: C is odd, or C is not divisible by 2G for the G given.
    """
    if groups is not None or channels < 2 or channels % 2:
        wanted = DEFAULT_GROUPS if groups is None else groups
        check_groups("shuffle attention", channels, wanted)
        return wanted
    largest = max(g for g in valid_groups(channels) if g <= DEFAULT_GROUPS)
    if largest < DEFAULT_GROUPS:
        warnings.warn(
            f"shuffle attention: {channels} channels are not divisible by 2 * {DEFAULT_GROUPS} groups; "
            f"using {largest} groups, give groups={largest} to silence this",
            stacklevel=3,
        )
    return largest


class ShuffleAttention(Neck):
    """Shuffle attention (SA-Net, Zhang and Yang, 2021): channel and spatial gates per group, then a shuffle.

    (B, C, H, W) -> (B, C, H, W) with 3 * C / G parameters, shared over the groups.

    Args:
        channels: C, divisible by twice the number of groups.
        groups: G; left out, 64 or with a warning the largest valid number below.
        shuffle: whether the halves of all groups are interleaved at the end.

    Raises:
        InputError: C is not divisible by 2G; a map has other than C channels.
    """

    eps = 1e-5  # GroupNorm's, as in SA-Net

    def __init__(self, channels: int, groups: int | None = None, shuffle: bool = True):
        super().__init__(channels)
        self.groups = resolve_groups(channels, groups)
        self.shuffle = shuffle
        shape = (1, channels // (2 * self.groups), 1, 1)
        self.channel_weight = nn.Parameter(torch.zeros(shape))
        self.channel_bias = nn.Parameter(torch.ones(shape))
        self.spatial_weight = nn.Parameter(torch.zeros(shape))
        self.spatial_bias = nn.Parameter(torch.ones(shape))
        self.norm_weight = nn.Parameter(torch.ones(shape))
        self.norm_bias = nn.Parameter(torch.zeros(shape))

    def op_arguments(self) -> tuple[Tensor | int | float | bool, ...]:
        """The six parameters, groups, eps and shuffle, in the order in which the ops take them."""
        return (
            self.channel_weight,
            self.channel_bias,
            self.spatial_weight,
            self.spatial_bias,
            self.norm_weight,
            self.norm_bias,
            self.groups,
            self.eps,
            self.shuffle,
        )

    def forward(self, x: Tensor) -> Tensor:
        check_channels(self, x)
        return ops.shuffle_attention(x, *self.op_arguments())

    def extra_repr(self) -> str:
        return f"{self.channels}, groups={self.groups}, shuffle={self.shuffle}"
