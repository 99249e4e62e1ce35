"""Multiply-adds of a network, found on shapes alone: for one image, and in the way of the paper."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from .backbones import find_partition
from .blocks import cut, skeleton
from .create import create_backbone

PAPER_SIZE = (288, 144)  # height, width
_PAPER_CLASSES = 1000


def count_flops(model: nn.Module, size: tuple[int, int] = PAPER_SIZE) -> int:
    """Multiply-adds of `model` for one RGB image, through one path of a dual-path network.

    Papers print this number as FLOPs; it is half of what `torch.utils.flop_counter.FlopCounterMode` counts:
    convolutions and matrix products, those of attention included. Normalisation, activations, pooling and
    interpolation count nothing, and so do our own ops, which are made of them.

    Args:
        model: on any device; it is neither run nor changed.
        size: (height, width) of the image.
    """
    return _run(model, (1, 3, *size))[0]


def count_paper_flops(name: str) -> int:
    """Multiply-adds of the backbone `name` as the paper seems to count them.

    At 288x144 with last stride 2; the first convolution twice, as two paths have it; the last 1x1 convolution on
    the map; two for each number that a BatchNorm writes; the 1000 classes of ImageNet. The paper does not say how
    it counts: of the usual ways this one is nearest to its figures, within 1 % for five of eight.

    Raises:
        InputError: the name is unknown.
        MissingExtra: the package of the backbone is not installed.
    """
    partition = find_partition(name)
    with torch.device("meta"):
        body = nn.Sequential(*cut(create_backbone(name, partition), partition))
    stem = next(layer for layer in body.modules() if isinstance(layer, nn.Conv2d))
    normalised = {torch.ops.aten._native_batch_norm_legit_no_training: _batch_norm_flops}
    counted, features = _run(body, (1, 3, *PAPER_SIZE), normalised)
    stem_again, _ = _run(stem, (1, stem.in_channels, *PAPER_SIZE))
    return counted + stem_again + features.shape[1] * _PAPER_CLASSES


def _batch_norm_flops(x_shape: torch.Size, *_, **__) -> int:
    return 2 * 2 * x_shape.numel()  # two multiply-adds, of two FLOPs each


def _run(
    model: nn.Module, shape: tuple[int, ...], formulas: Mapping[object, Callable[..., int]] | None = None
) -> tuple[int, Any]:
    """The multiply-adds for an input of that shape, and what the model gives, on shapes alone."""
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter, torch.no_grad():
        output = skeleton(model)(torch.empty(shape, dtype=dtype, device="meta"))
    return counter.get_total_flops() // 2, output
