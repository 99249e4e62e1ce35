"""create_model: a public backbone, cut, with its neck and head."""

from __future__ import annotations

import contextlib
import logging
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from ..errors import InputError
from ..extras import require
from ..nn import Neck, ShuffleAttention, create_input, create_neck
from ..text import plain
from .backbones import find_partition
from .blocks import BLOCKS, Partition, block_of, block_sizes, cut, is_within, set_last_stride
from .network import DualPathNetwork
from .state import check_state, duplicated_blocks
from .tensor_files import read_checkpoint

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PretrainedReport:
    """What of a backbone's checkpoint went where."""

    file: str
    loaded: tuple[int, ...]  # tensors loaded into Block1 .. Block7
    left_out: tuple[str, ...]  # names of those of the pool and classifier, which the network does not have

    def __str__(self) -> str:
        blocks = ", ".join(f"Block{i}: {count}" for i, count in enumerate(self.loaded, start=1))
        return f"{self.file}: tensors loaded into {blocks}; left out: {', '.join(self.left_out) or 'none'}"


def create_model(
    name: str,
    num_classes: int = 0,
    neck: str = "fdr",
    slices: tuple[int, int] = (6, 3),
    groups: int | None = None,
    embed: bool = True,
    input_layer: str = "colour",
    last_stride: int = 2,
    duplicated: int = 1,
    pretrained: bool | str | os.PathLike[str] = False,
    checkpointing: bool = False,
) -> DualPathNetwork:
    """The dual-path network on a public backbone.

    Args:
        name: of the backbone: one of `BACKBONES`, whose names are those of timm and torchvision.
        num_classes: identities of the classifier, 0 for none.
        neck: one of `toplight_ext.nn.NECKS`: "fdr", "gap" for global average pooling, ...
        slices, groups, embed: of the neck; each neck uses those that it has.
        input_layer: one of `toplight_ext.nn.INPUTS`: "colour" for the images as they are, "unsigned_gradients".
        last_stride: 2, or 1 for a last map of twice the height and width, where the backbone has a last stride.
        duplicated: how many of the first blocks exist once per modality: 0 for pretraining, 4 for TOP, 1
            after the soup.
        pretrained: True for the backbone's public weights by name, or the path of a checkpoint of it
            (.safetensors or .pth), loaded strictly. For a path, what went where is logged and kept as the
            model's `pretrained_report`.
        checkpointing: whether training computes each block's activations again in the backward pass instead of
            keeping them; not stored with the weights.

    Raises:
        InputError: an unknown name or neck, a value out of range, a checkpoint that does not fit.
        MissingExtra: the package of the backbone is not installed.
    """
    partition = find_partition(name)
    report = None
    with _in_memory():
        root = create_backbone(name, partition, pretrained=pretrained is True)
        if not isinstance(pretrained, bool):
            report = load_pretrained(root, partition, Path(pretrained))
            _log.info("%s", report)
        set_last_stride(root, partition, last_stride)
        blocks = cut(root, partition)
        channels = tuple(size[0] for size in block_sizes(blocks, (64, 64)))
    built_neck = create_neck(neck, channels[-1], slices=slices, groups=groups, embed=embed)
    arguments = {
        "name": name,
        "num_classes": num_classes,
        "neck": neck,
        "slices": list(slices),
        "groups": _groups(built_neck, groups),
        "embed": embed,
        "input_layer": input_layer,
        "last_stride": last_stride,
        "duplicated": duplicated,
    }
    model = DualPathNetwork(
        blocks, channels, duplicated, built_neck, num_classes, arguments, checkpointing, create_input(input_layer)
    )
    model.pretrained_report = report
    return model


def _in_memory() -> contextlib.AbstractContextManager:
    """Inside, tensors have memory, also within `torch.device("meta")`: some networks of timm compute as they are made.

    So of a network on "meta" the neck and the head take no memory, whose sizes the arguments choose.
    """
    return torch.device("cpu") if torch.get_default_device().type == "meta" else contextlib.nullcontext()


def create_backbone(name: str, partition: Partition, pretrained: bool = False) -> nn.Module:
    """The plain network from its own package, for images of any size, with or without its public weights.

    Raises:
        InputError: public weights of a network that has none to be loaded by name, or they cannot be downloaded.
        MissingExtra: the package is not installed.
    """
    instead = "give pretrained (model.pretrained in a recipe) the path of a checkpoint"
    if callable(partition.source):
        if pretrained:
            raise InputError(f"{name} has no weights to be loaded by name; {instead}")
        return partition.source(**partition.options)
    package = require("timm" if partition.source == "timm" else "torchvision.models", extra="train")
    try:
        return _from_package(package, partition, partition.network or name, pretrained)
    except Exception as error:  # of many kinds: those of the packages' own downloads
        if not pretrained:
            raise
        raise InputError(f"{name}: its public weights cannot be loaded ({plain(error, 200)}); {instead}") from error


def _from_package(package: ModuleType, partition: Partition, name: str, pretrained: bool) -> nn.Module:
    if partition.source == "torchvision":
        return package.get_model(name, weights="DEFAULT" if pretrained else None, **partition.options)
    root = package.create_model(name, pretrained=pretrained, num_classes=0, **partition.options)
    for layer in root.modules():
        if isinstance(layer, package.layers.PatchEmbed):
            layer.dynamic_img_pad = True  # sizes that are no multiple of the patch are padded, as a convolution does
    return root


def _groups(neck: Neck, given: int | None) -> int | None:
    """The groups that the neck's shuffle attention resolved to, so that rebuilding it does not warn again."""
    return next((layer.groups for layer in neck.modules() if isinstance(layer, ShuffleAttention)), given)


def load_pretrained(root: nn.Module, partition: Partition, path: Path) -> PretrainedReport:
    """Load a checkpoint of the plain backbone into it, without the parts left out, and report the mapping.

    Raises:
        InputError: the file cannot be read, or its tensors are not exactly those of the backbone.
    """
    state = read_checkpoint(path)
    if duplicated_blocks(state) or any(key.startswith("shared.block") for key in state):
        raise InputError(
            f"{path}: weights of a dual-path network, and no checkpoint of the plain backbone; load_weights rebuilds "
            "their network, and a recipe starts from them by its key weights"
        )
    left_out = tuple(key for key in state if is_within(key, partition.left_out))
    state = {key: tensor for key, tensor in state.items() if key not in left_out}
    expected = {key: tensor for key, tensor in root.state_dict().items() if not is_within(key, partition.left_out)}
    check_state(expected, state, str(path))
    root.load_state_dict(state, strict=False)  # without what is left out, and checked above
    counts = Counter(block_of(key, partition) for key in state)
    return PretrainedReport(str(path), tuple(counts[number] for number in range(1, BLOCKS + 1)), left_out)
