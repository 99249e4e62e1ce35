"""The seven-block partition: which children of a public backbone form Block1 .. Block7."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

import torch
from torch import nn

from ..errors import InputError
from .layouts import Child, maps

BLOCKS = 7


@dataclass(frozen=True)
class Partition:
    """How a backbone is cut; every child is named by its dotted path, as in `get_submodule`.

    The children of all blocks run one after the other; nothing is named twice and nothing with parameters
    is left unnamed (`cut` checks it), so a checkpoint of the backbone maps completely. A tensor that belongs to
    no child, such as a class token, is named like one.
    """

    blocks: tuple[tuple[str, ...], ...]  # seven tuples of child paths, in the order they run
    left_out: tuple[str, ...]  # the pool and classifier that neck and head replace
    strided: str | None = None  # the child with the last stride, which last_stride=1 takes out; None: there is none
    layout: Callable[[Sequence[dict[str, Child]]], list[nn.Module]] = maps  # what its children hand on: layouts.py
    source: str | Callable[..., nn.Module] = "timm"  # or "torchvision": who has the network; or what makes it
    network: str | None = None  # its name there, where it is not the name of the backbone
    options: Mapping[str, Any] = field(default_factory=dict)  # of its constructor, to take any input size


def cut(root: nn.Module, partition: Partition) -> list[nn.Module]:
    """Cut `root` into its seven blocks, which hold the very modules of `root` and take and give maps (B, C, H, W).

    A child keeps its path as its name, dots become underscores: `blocks.1.0` of Block2 is `blocks_1_0`.

    Raises:
        InputError: not seven blocks, a child that is absent, named twice or inside another, or something with
            parameters or buffers that is in no block and not left out.
    """
    if len(partition.blocks) != BLOCKS:
        raise InputError(f"a partition has {BLOCKS} blocks, got {len(partition.blocks)}")
    _check_cover(root, [*(path for block in partition.blocks for path in block), *partition.left_out])
    return partition.layout(
        [OrderedDict((path.replace(".", "_"), _child(root, path)) for path in block) for block in partition.blocks]
    )


def _child(root: nn.Module, path: str) -> Child:
    parent, _, name = path.rpartition(".")
    return getattr(root.get_submodule(parent), name)


def _check_cover(root: nn.Module, paths: list[str]) -> None:
    known = {*dict(root.named_modules()), *dict(root.named_parameters()), *dict(root.named_buffers())}
    absent = [path for path in paths if path not in known]
    if absent:
        raise InputError(f"{type(root).__name__} has no child {', '.join(absent)}")
    for outer, inner in permutations(paths, 2):
        if f"{inner}.".startswith(f"{outer}."):
            raise InputError(f"the blocks overlap: {outer!r} and {inner!r} are both named")
    uncovered = [key for key in root.state_dict() if not is_within(key, paths)]
    if uncovered:
        raise InputError(f"{len(uncovered)} tensors in no block and not left out: {', '.join(uncovered[:5])}")


def is_within(key: str, paths: Iterable[str]) -> bool:
    """Whether a key of the backbone's own state dict belongs to one of the children."""
    return any(f"{key}.".startswith(f"{path}.") for path in paths)


def block_of(key: str, partition: Partition) -> int | None:
    """The number (1..7) of the block that a key of the backbone's own state dict belongs to, or None."""
    return next((i for i, block in enumerate(partition.blocks, start=1) if is_within(key, block)), None)


def set_last_stride(root: nn.Module, partition: Partition, stride: int) -> None:
    """Keep the last stride of 2, or set it to 1 for a last map of twice the height and width.

    Raises:
        InputError: another stride, or 1 for a backbone that has none to take out.
    """
    if stride not in (1, 2):
        raise InputError(f"last_stride must be 1 or 2, got {stride}")
    if stride == 2:
        return
    if partition.strided is None:
        raise InputError(f"last_stride=1: {type(root).__name__} has no strided convolution to set to 1; use 2")
    for layer in root.get_submodule(partition.strided).modules():
        if isinstance(layer, nn.Conv2d) and layer.stride == (2, 2):
            layer.stride = (1, 1)
            if layer.kernel_size[0] % 2 == 0:  # as ConvNeXt's 2x2, which would lose a row and a column
                layer.padding = "same"


def skeleton(module: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose tensors have shapes and no values: it runs on the device "meta"."""
    memo: dict[int, Any] = {id(parameter): _hollow(parameter) for parameter in module.parameters()}
    memo |= {id(buffer): buffer.to("meta") for buffer in module.buffers()}
    return copy.deepcopy(module, memo).eval()


def _hollow(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(parameter.detach().to("meta"), requires_grad=False)


def block_sizes(blocks: Iterable[nn.Module], size: tuple[int, int]) -> list[tuple[int, int, int]]:
    """Output (channels, height, width) of every block for images of `size` (height, width), found on shapes alone."""
    x = torch.empty(1, 3, *size, device="meta")
    sizes = []
    for block in blocks:
        x = skeleton(block)(x)
        sizes.append(tuple(x.shape[1:]))
    return sizes
