"""The dual-path network: blocks of its own per modality, the rest shared, a neck, and the BNNeck head."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from enum import Enum
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..nn import BNNeck
from .checkpointing import recomputed

Pair = tuple[Tensor | None, Tensor | None]


class Output(NamedTuple):
    """What the network gives for a batch: B rows, the visible images first, then the infrared ones."""

    features: Tensor  # (B, C), the pooled neck: for the metric losses
    embedding: Tensor  # (B, C), the features after BNNeck's BatchNorm: for retrieval
    logits: Tensor | None  # (B, num_classes), or None without a classifier
    path_maps: Pair | None = None  # (visible, infrared) after the duplicated blocks; None unless asked for
    final_maps: Pair | None = None  # (visible, infrared) after Block7; None unless asked for


class DualPathNetwork(nn.Module):
    """Seven blocks, of which the first `duplicated` exist once per modality; then neck and head.

    `visible` and `infrared` hold the blocks of each path, `shared` the others, all under the names block1 ..
    block7. duplicated: 0 is a single path (pretraining), 4 the two paths of TOP, 1 the stems after the soup.

    Args:
        blocks: the seven blocks; both paths start from the weights they come with.
        channels: output channels of each of them.
        duplicated: how many of the first blocks are duplicated, 0 to 7.
        neck: module with `out_channels` and `pooled`: (B, C, H, W) -> (B, out_channels).
        num_classes: identities of the classifier, 0 for none.
        arguments: those of `create_model`, stored with the weights to rebuild the network.
        checkpointing: whether training computes each block's activations again in the backward pass instead of
            keeping them: the same gradients for less memory and more time. May be changed at any time.
        input_layer: without parameters, goes before Block1 of both paths; None leaves the images as they are.
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        channels: tuple[int, ...],
        duplicated: int,
        neck: nn.Module,
        num_classes: int = 0,
        arguments: dict[str, Any] | None = None,
        checkpointing: bool = False,
        input_layer: nn.Module | None = None,
    ):
        super().__init__()
        if not 0 <= duplicated <= len(blocks):
            raise InputError(f"duplicated must be 0 to {len(blocks)} blocks, got {duplicated}")
        self.duplicated = duplicated
        self.arguments = arguments
        self.checkpointing = checkpointing
        self.pretrained_report = None
        self.channels = channels
        named = [(f"block{number}", block) for number, block in enumerate(blocks, start=1)]
        self.input = input_layer or nn.Identity()
        self.visible = nn.Sequential(OrderedDict(named[:duplicated]))
        self.infrared = copy.deepcopy(self.visible)
        self.shared = nn.Sequential(OrderedDict(named[duplicated:]))
        self.neck = neck
        self.head = BNNeck(neck.out_channels, num_classes)

    def forward(self, visible: Tensor | None = None, infrared: Tensor | None = None, maps: bool = False) -> Output:
        """(B_v, 3, H, W) visible and (B_i, 3, H, W) infrared images, either may be left out.

        Both go through the shared blocks in one batch, so that shared BatchNorms see both modalities.

        Args:
            maps: also return the maps that the domain heads of TOP need.
        """
        if visible is None and infrared is None:
            raise InputError("the network needs visible images, infrared images or both; got neither")
        path_maps = (
            None if visible is None else self._run(self.visible, self.input(visible)),
            None if infrared is None else self._run(self.infrared, self.input(infrared)),
        )
        present = [x for x in path_maps if x is not None]
        x = self._run(self.shared, torch.cat(present) if len(present) == 2 else present[0])
        features = self.neck.pooled(x)
        embedding, logits = self.head(features)
        if not maps:
            return Output(features, embedding, logits)
        parts = iter(x.split([part.shape[0] for part in present]))
        final_maps = (None if visible is None else next(parts), None if infrared is None else next(parts))
        return Output(features, embedding, logits, path_maps, final_maps)

    def embed(self, x: Tensor, modality: Enum | str) -> Tensor:
        """(B, 3, H, W) images of one modality -> (B, C) embedding after BNNeck, not normalised.

        Args:
            modality: `toplight_ext.data.Modality`, or its value "visible" or "infrared".
        """
        return self.head.norm(self.neck.pooled(self.last_map(x, modality)))

    def last_map(self, x: Tensor, modality: Enum | str) -> Tensor:
        """As `embed`, the map after Block7, which the neck is given."""
        value = modality.value if isinstance(modality, Enum) else modality
        if value not in ("visible", "infrared"):
            raise InputError(f"modality must be Modality.VISIBLE or Modality.INFRARED, got {modality!r}")
        return self.shared((self.visible if value == "visible" else self.infrared)(self.input(x)))

    def _run(self, blocks: nn.Sequential, x: Tensor) -> Tensor:
        return recomputed(blocks, x) if self.checkpointing and torch.is_grad_enabled() else blocks(x)
