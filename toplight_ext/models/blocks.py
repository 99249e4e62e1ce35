"""The seven-block partition: which children of a public backbone form Block1 .. Block7."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import permutations

import torch
from torch import nn

from ..errors import InputError

BLOCKS = 7


@dataclass(frozen=True)
class Partition:
    """How a backbone is cut; every child is named by its dotted path, as in `get_submodule`.

    The children of all blocks run one after the other; nothing is named twice and nothing with parameters
    is left unnamed (`cut` checks it), so a checkpoint of the backbone maps completely.
    """

    source: str  # the package that has the network: "timm"
    blocks: tuple[tuple[str, ...], ...]  # seven tuples of child paths, in the order they run
    left_out: tuple[str, ...]  # the pool and classifier that neck and head replace
    strided: tuple[str, ...]  # modules with the last stride, set to 1 by last_stride=1


# MobileNetV3-Large as in the paper; the cut of Small follows it by analogy (our choice). timm runs conv_head
# after its pool; here it stays a 1x1 convolution on the map, where FDR follows it.
BACKBONES = {
    "mobilenetv3_large_100": Partition(
        source="timm",
        blocks=(
            ("conv_stem", "bn1", "blocks.0"),
            ("blocks.1.0",),
            ("blocks.1.1",),
            ("blocks.2",),
            ("blocks.3", "blocks.4"),
            ("blocks.5",),
            ("blocks.6", "conv_head", "norm_head", "act2"),
        ),
        left_out=("global_pool", "flatten", "classifier"),
        strided=("blocks.5.0.conv_dw",),
    ),
    "mobilenetv3_small_100": Partition(
        source="timm",
        blocks=(
            ("conv_stem", "bn1"),
            ("blocks.0",),
            ("blocks.1",),
            ("blocks.2",),
            ("blocks.3",),
            ("blocks.4",),
            ("blocks.5", "conv_head", "norm_head", "act2"),
        ),
        left_out=("global_pool", "flatten", "classifier"),
        strided=("blocks.4.0.conv_dw",),
    ),
}


def find_partition(name: str) -> Partition:
    """The partition of a known backbone.

    Raises:
        InputError: the name is unknown; the message lists the known ones.
    """
    if name not in BACKBONES:
        raise InputError(f"unknown model {name!r}; known are: {', '.join(sorted(BACKBONES))}")
    return BACKBONES[name]


def cut(root: nn.Module, partition: Partition) -> list[nn.Sequential]:
    """Cut `root` into its seven blocks, which hold the very modules of `root`.

    A child keeps its path as its name, dots become underscores: `blocks.1.0` of Block2 is `blocks_1_0`.

    Raises:
        InputError: not seven blocks, a child that is absent, named twice or inside another, or something with
            parameters or buffers that is in no block and not left out.
    """
    if len(partition.blocks) != BLOCKS:
        raise InputError(f"a partition has {BLOCKS} blocks, got {len(partition.blocks)}")
    paths = [path for block in partition.blocks for path in block]
    _check_cover(root, [*paths, *partition.left_out])
    return [
        nn.Sequential(OrderedDict((path.replace(".", "_"), root.get_submodule(path)) for path in block))
        for block in partition.blocks
    ]


def _check_cover(root: nn.Module, paths: list[str]) -> None:
    known = dict(root.named_modules())
    absent = [path for path in paths if path not in known]
    if absent:
        raise InputError(f"{type(root).__name__} has no child {', '.join(absent)}")
    for outer, inner in permutations(paths, 2):
        if f"{inner}.".startswith(f"{outer}."):
            raise InputError(f"the blocks overlap: {outer!r} and {inner!r} are both named")
    uncovered = [key for key in root.state_dict() if not _owner(key, paths)]
    if uncovered:
        raise InputError(f"{len(uncovered)} tensors in no block and not left out: {', '.join(uncovered[:5])}")


def _owner(key: str, paths: Iterable[str]) -> str | None:
    """The path among `paths` that the state-dict key belongs to."""
    return next((path for path in paths if key.startswith(path + ".")), None)


def block_of(key: str, partition: Partition) -> int | None:
    """The number (1..7) of the block that a key of the backbone's own state dict belongs to, or None."""
    return next((i for i, block in enumerate(partition.blocks, start=1) if _owner(key, block)), None)


def set_last_stride(root: nn.Module, partition: Partition, stride: int) -> None:
    """Keep the last stride of 2, or set it to 1 for a last map of twice the height and width."""
    if stride not in (1, 2):
        raise InputError(f"last_stride must be 1 or 2, got {stride}")
    if stride == 1:
        for path in partition.strided:
            root.get_submodule(path).stride = (1, 1)


def block_channels(blocks: Iterable[nn.Module], in_channels: int = 3) -> tuple[int, ...]:
    """Output channels of every block, found by a run on shapes alone."""
    x = torch.empty(1, in_channels, 64, 64, device="meta")
    channels = []
    with torch.no_grad():
        for block in blocks:
            x = copy.deepcopy(block).to("meta").eval()(x)
            channels.append(x.shape[1])
    return tuple(channels)
