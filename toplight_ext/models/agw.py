"""AGW (Ye et al., 2021), the baseline that visible-infrared methods are measured against, on the ResNet-50 of timm.

ResNet-50 with non-local blocks, last stride 1, two stems, generalised-mean pooling ("gem") and BNNeck; trained with
the identity loss and `losses.weighted_regularised_triplet`. Follows its public code
(https://github.com/mangye16/Cross-Modal-Re-ID-baseline) where that differs from the paper.
"""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InputError
from .layouts import Child, maps
from .network import DualPathNetwork
from .state import check_state

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


def load_agw(model: DualPathNetwork, path: str | os.PathLike[str]) -> None:
    """Load a checkpoint of AGW's public code into the same network of ours, with one duplicated block or more.

    Their stems carry whole ResNets, and their shared ResNet a stem; what of these does not run is left out.

    Raises:
        InputError: the file is absent, damaged, holds more than tensors and numbers, or does not fit the model.
    """
    state = _convert(_read(Path(path)), model.state_dict())
    check_state(model.state_dict(), state, str(path))
    model.load_state_dict(state)


def _convert(state: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """The tensors of AGW's public code under `names`, those of our network; what they lack is left out."""
    sources = {name: _sources(name) for name in names}
    return {
        name: torch.cat([state[part] for part in parts]) if len(parts) > 1 else state[parts[0]]
        for name, parts in sources.items()
        if all(part in state for part in parts)
    }


_BLOCK_KEY = re.compile(r"(visible|infrared|shared)\.block\d+\.(.+)")
_NON_LOCAL_KEY = re.compile(r"layer(\d)\.non_local(\d)\.(project|expand|norm)\.(.+)")
_STEMS = {"visible": "visible_module.visible", "infrared": "thermal_module.thermal"}
_DEPTHS = {"2": 4, "3": 6}  # bottlenecks in a layer
_PARTS = {"project": ("theta", "phi", "g.0"), "expand": ("W.0",), "norm": ("W.1",)}


def _sources(name: str) -> tuple[str, ...]:
    """The names in AGW's public code of what one tensor of ours is made of."""
    match = _BLOCK_KEY.fullmatch(name)
    if not match:
        return (name.replace("head.norm.", "bottleneck.").replace("head.classifier.", "classifier."),)
    path, key = match[1], re.sub(r"^(layer\d)_", r"\1.", match[2])
    if inner := _NON_LOCAL_KEY.fullmatch(key):
        layer, index, part, rest = inner.groups()
        number = int(index) - _DEPTHS[layer] + NON_LOCAL_BLOCKS[f"layer{layer}"]
        return tuple(f"NL_{layer}.{number}.{source}.{rest}" for source in _PARTS[part])
    if key.startswith("layer"):
        return (f"base_resnet.base.{key}",)
    return (f"{_STEMS[path]}.{key}" if path in _STEMS else name,)  # for a single path they have no stem


# Their checkpoints hold the scores of their epoch as NumPy numbers, made by a function that NumPy 2 moved.
_scalar = np.float64(0).__reduce__()[0]
_NUMPY_NUMBERS = [
    (_scalar, "numpy.core.multiarray.scalar"),
    (_scalar, "numpy._core.multiarray.scalar"),
    np.dtype,
    type(np.dtype(np.float64)),
    type(np.dtype(np.float32)),
]


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with torch.serialization.safe_globals(_NUMPY_NUMBERS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds on foreign files
        raise InputError(
            f"{path}: damaged, or not a checkpoint of tensors and numbers alone ({type(error).__name__})"
        ) from error
    state = content.get("net") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise InputError(f"{path}: not a checkpoint of AGW's public code: it has no state dict under 'net'")
    return {key.removeprefix("module."): tensor for key, tensor in state.items()}
