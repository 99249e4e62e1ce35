"""Checkpoints of the public code of AGW and its family, as networks of ours.

Theirs is one network: ResNet-50 with two stems, last stride 1 and BNNeck, with non-local blocks and generalised-mean
pooling (AGW) or without both (the baseline of the same code).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError
from ..text import plain
from .agw import NON_LOCAL_BLOCKS
from .create import create_model
from .network import DualPathNetwork
from .state import check_state
from .tensor_files import read_checkpoint


def create_agw(path: str | os.PathLike[str]) -> DualPathNetwork:
    """The network of a checkpoint of AGW's public code, in evaluation mode and on the CPU.

    What the checkpoint holds decides between AGW and the baseline. CAJ (channel-augmented joint learning) and the AGW
    of LLCM's code train the same network and are read as well. The file is read with weights_only.

    Raises:
        InputError: the file is absent, damaged, holds more than tensors and numbers, or is of another network:
            DEEN's and DDAG's, for two, share the names of AGW's layers and have layers of their own.
        MissingExtra: timm, which ResNet-50 comes from, is not installed.
    """
    state = read_checkpoint(Path(path))
    classifier = state.get("classifier.weight")
    if classifier is None or classifier.ndim != 2:
        expected = "it has no tensor classifier.weight of two dimensions"
        raise InputError(f"{path}: not a checkpoint of AGW's public code: {expected}")
    name, neck = ("agw", "gem") if any(key.startswith("NL_") for key in state) else ("resnet50", "gap")
    model = create_model(name, num_classes=len(classifier), neck=neck, last_stride=1)
    _load(model, state, str(path))
    return model.eval()


def load_agw(model: DualPathNetwork, path: str | os.PathLike[str]) -> None:
    """Load a checkpoint of AGW's public code into the same network of ours, with one duplicated block or more.

    Raises:
        InputError: as `create_agw`, or the checkpoint does not fit the model.
    """
    _load(model, read_checkpoint(Path(path)), str(path))


def _load(model: DualPathNetwork, given: Mapping[str, Tensor], origin: str) -> None:
    sources = {name: _sources(name) for name in model.state_dict()}
    state = _convert(given, sources)
    check_state(model.state_dict(), state, origin)
    used = {part for parts in sources.values() for part in parts}
    unknown = [name for name in given if name not in used and not _NOT_RUN.match(name)]
    if unknown:
        named = ", ".join(map(plain, unknown[:3]))
        raise InputError(
            f"{origin}: has tensors of layers that the network has not, {named} and so on: {len(unknown)} in all; "
            "is it a checkpoint of another method on AGW's code?"
        )
    model.load_state_dict(state)


def _convert(given: Mapping[str, Tensor], sources: Mapping[str, Iterable[str]]) -> dict[str, Tensor]:
    """The tensors under our names, of the parts that `sources` names; what they lack is left out."""
    return {
        name: torch.cat([given[part] for part in parts]) if len(parts) > 1 else given[parts[0]]
        for name, parts in sources.items()
        if all(part in given for part in parts)
    }


_BLOCK_KEY = re.compile(r"(visible|infrared|shared)\.block\d+\.(.+)")
_NON_LOCAL_KEY = re.compile(r"layer(\d)\.non_local(\d)\.(project|expand|norm)\.(.+)")
_STEMS = {"visible": "visible_module.visible", "infrared": "thermal_module.thermal"}
_DEPTHS = {"2": 4, "3": 6}  # bottlenecks in a layer
_PARTS = {"project": ("theta", "phi", "g.0"), "expand": ("W.0",), "norm": ("W.1",)}
# Their stems carry whole ResNets, and their shared ResNet a stem.
_NOT_RUN = re.compile(
    r"(visible_module\.visible|thermal_module\.thermal)\.(layer|fc)|base_resnet\.base\.(conv1|bn1|fc)\."
)


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
