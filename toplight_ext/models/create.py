"""create_model: a public backbone, cut, with its neck and head."""

from __future__ import annotations

import logging
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ..errors import InputError
from ..extras import require
from ..nn import FDR, GlobalAveragePool
from .blocks import BLOCKS, Partition, block_channels, block_of, cut, find_partition, set_last_stride
from .network import DualPathNetwork
from .state import check_state
from .tensor_files import read_checkpoint

_log = logging.getLogger(__name__)

NECKS = ("fdr", "gap")


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
    last_stride: int = 2,
    duplicated: int = 1,
    pretrained: bool | str | os.PathLike[str] = False,
) -> DualPathNetwork:
    """The dual-path network on a public backbone.

    Args:
        name: of the backbone, as in timm: mobilenetv3_large_100 or mobilenetv3_small_100.
        num_classes: identities of the classifier, 0 for none.
        neck: "fdr", or "gap" for global average pooling.
        slices, groups, embed: of FDR, which alone uses them.
        last_stride: 2, or 1 for a last map of twice the height and width.
        duplicated: how many of the first blocks exist once per modality: 0 for pretraining, 4 for TOP, 1
            after the soup.
        pretrained: True for the backbone's public weights by name, or the path of a checkpoint of it
            (.safetensors or .pth), loaded strictly. For a path, what went where is logged and kept as the
            model's `pretrained_report`.

    Raises:
        InputError: an unknown name or neck, a value out of range, a checkpoint that does not fit.
        MissingExtra: the package of the backbone is not installed.
    """
    partition = find_partition(name)
    if neck not in NECKS:
        raise InputError(f"unknown neck {neck!r}; known are: {', '.join(NECKS)}")
    source = require(partition.source, extra="train")
    root = source.create_model(name, pretrained=pretrained is True, num_classes=0)
    report = None
    if not isinstance(pretrained, bool):
        report = load_pretrained(root, partition, Path(pretrained))
        _log.info("%s", report)
    set_last_stride(root, partition, last_stride)
    blocks = cut(root, partition)
    channels = block_channels(blocks)
    built_neck: nn.Module = GlobalAveragePool(channels[-1])
    if neck == "fdr":
        built_neck = FDR(channels[-1], slices=slices, groups=groups, embed=embed)
        groups = built_neck.attention.groups
    arguments = {
        "name": name,
        "num_classes": num_classes,
        "neck": neck,
        "slices": list(slices),
        "groups": groups,
        "embed": embed,
        "last_stride": last_stride,
        "duplicated": duplicated,
    }
    model = DualPathNetwork(blocks, channels, duplicated, built_neck, num_classes, arguments)
    model.pretrained_report = report
    return model


def load_pretrained(root: nn.Module, partition: Partition, path: Path) -> PretrainedReport:
    """Load a checkpoint of the plain backbone into it, without the parts left out, and report the mapping.

    Raises:
        InputError: the file cannot be read, or its tensors are not exactly those of the backbone.
    """
    state = read_checkpoint(path)
    prefixes = tuple(f"{part}." for part in partition.left_out)
    left_out = tuple(key for key in state if key.startswith(prefixes))
    state = {key: tensor for key, tensor in state.items() if key not in left_out}
    check_state(root.state_dict(), state, str(path))
    root.load_state_dict(state)
    counts = Counter(block_of(key, partition) for key in state)
    return PretrainedReport(str(path), tuple(counts[number] for number in range(1, BLOCKS + 1)), left_out)
