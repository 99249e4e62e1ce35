"""The necks by the names that recipes and `create_model` give them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from ..errors import InputError
from .ablations import CBAM, AttendedFDR, FDRWithoutUpsampling, GlobalContext, HorizontalFDR, SqueezeExcitation
from .attention import ShuffleAttention
from .fdr import FDR
from .pooling import GeneralizedMeanPool, GlobalAveragePool, HorizontalAveragePool, Neck, PartPool
from .readings import MixingFDR, PointwiseFDR, ProfileFDR, TransposedFDR, VectorFDR

Slices = tuple[int, int]


def _hap(channels: int, slices: Slices = (6, 3)) -> Neck:
    return HorizontalAveragePool(channels, bands=slices[0])


def _unshuffled(channels: int, groups: int | None = None) -> Neck:
    return ShuffleAttention(channels, groups, shuffle=False)


def _fdr_se(channels: int, slices: Slices = (6, 3)) -> Neck:
    return AttendedFDR(SqueezeExcitation, channels, slices)


def _fdr_cbam(channels: int, slices: Slices = (6, 3)) -> Neck:
    return AttendedFDR(CBAM, channels, slices)


def _fdr_unattended(channels: int, slices: Slices = (6, 3)) -> Neck:
    return AttendedFDR(GlobalAveragePool, channels, slices)


def _fdr_unshuffled(channels: int, slices: Slices = (6, 3), groups: int | None = None) -> Neck:
    neck = FDR(channels, slices=slices, groups=groups)
    neck.attention.shuffle = False
    return neck


NECKS: dict[str, Callable[..., Neck]] = {
    # Table 5a of the paper, GeM and parts
    "gap": GlobalAveragePool,
    "gem": GeneralizedMeanPool,
    "parts": PartPool,
    "context": GlobalContext,
    "hap": _hap,
    "fdr_without_upsampling": FDRWithoutUpsampling,
    "fdr_horizontal": HorizontalFDR,
    "fdr": FDR,
    # Tables 3 and 5b: the attention of FDR left out or exchanged, or each attention alone
    "fdr_unattended": _fdr_unattended,
    "fdr_se": _fdr_se,
    "fdr_cbam": _fdr_cbam,
    "fdr_unshuffled": _fdr_unshuffled,
    "se": SqueezeExcitation,
    "cbam": CBAM,
    "shuffle_attention_unshuffled": _unshuffled,
    "shuffle_attention": ShuffleAttention,
    # other readings of FDR's embedding: A, B, C, D, E
    "fdr_pointwise": PointwiseFDR,
    "fdr_profile": ProfileFDR,
    "fdr_vector": VectorFDR,
    "fdr_transposed": TransposedFDR,
    "fdr_mixing": MixingFDR,
}


def create_neck(name: str, channels: int, **settings: Any) -> Neck:
    """The neck of that name on maps of `channels` channels.

    Args:
        settings: `slices`, `groups`, `embed`, ...: a neck takes those it has and leaves the others, so that
            recipes which compare necks differ in the name alone.

    Raises:
        InputError: an unknown name, a setting that no neck has, or a value that the neck refuses.
    """
    if name not in NECKS:
        raise InputError(f"unknown neck {name!r}; known are: {', '.join(sorted(NECKS))}")
    unknown = settings.keys() - {setting for neck in NECKS for setting in _settings(neck)}
    if unknown:
        raise InputError(f"no neck has the setting {', '.join(sorted(unknown))}")
    return NECKS[name](channels, **{key: value for key, value in settings.items() if key in _settings(name)})


def _settings(name: str) -> list[str]:
    """What the constructor takes beside the channels."""
    return list(inspect.signature(NECKS[name]).parameters)[1:]
