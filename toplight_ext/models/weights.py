"""Weights files: safetensors, with one JSON entry that says how to rebuild the network."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ..errors import InputError
from .create import create_model
from .network import DualPathNetwork
from .state import check_state, soup
from .tensor_files import read_safetensors, write_safetensors

FORMAT = 1
_ENTRY = "toplight_ext"
_PARTS = ("visible", "infrared", "shared", "neck", "head")
_ARGUMENTS = inspect.signature(create_model).parameters.keys() - {"pretrained", "checkpointing"}


class Weights(NamedTuple):
    """The content of a weights file."""

    state: dict[str, Tensor]  # of the DualPathNetwork
    arguments: dict[str, Any]  # of create_model
    metadata: dict[str, Any]  # whatever else was given to save_weights


def save_weights(path: str | os.PathLike[str], model: DualPathNetwork, **metadata: Any) -> None:
    """Write a network made by `create_model`, atomically.

    Args:
        metadata: further fields to keep with the weights; what JSON can hold. Training keeps `stage`, `recipe`,
            `trained_on` (data set and split) and what the network is to be fed, for everything that uses it later:
            `size` (height, width in pixels), `mean` and `std` (red, green, blue, of pixels in 0..1) and `gray`
            (visible images lose their colour), the fields of `inference.Preprocessing`.

    Raises:
        InputError: the network is not from `create_model`, or a tensor is not finite.
        TypeError: a metadata field is nothing that JSON can hold.
    """
    arguments = getattr(model, "arguments", None)
    state = model.state_dict()
    if not arguments or any(key.partition(".")[0] not in _PARTS for key in state):
        raise InputError(
            f"{path}: save_weights takes the network that create_model made, not {type(model).__name__} "
            "or a wrapper of it"
        )
    check_state(state, state, f"{path} (not written)")
    entry = {"format": FORMAT, "model": arguments, "metadata": metadata}
    write_safetensors(Path(path), state, {_ENTRY: json.dumps(entry)})


def read_weights(path: str | os.PathLike[str]) -> Weights:
    """The tensors of a weights file and what is written beside them, without building the network.

    Raises:
        InputError: the file is absent, broken, not written by `save_weights`, or of a newer format.
    """
    state, entries = read_safetensors(Path(path))
    if _ENTRY not in entries:
        raise InputError(
            f"{path}: a safetensors file, but not written by toplight_ext.save_weights (no metadata entry "
            f"{_ENTRY!r}); give a backbone's own checkpoint to create_model(pretrained=...)"
        )
    try:
        entry = json.loads(entries[_ENTRY])
        version, arguments, metadata = entry["format"], dict(entry["model"]), dict(entry["metadata"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: its metadata entry {_ENTRY!r} is damaged ({error!r})") from error
    # Never the argument `pretrained`: a file must not make us read another file or download one.
    unknown = sorted(arguments.keys() - _ARGUMENTS)
    if version != FORMAT or unknown:
        raise InputError(
            f"{path}: weights format {version}, unknown model arguments {unknown}; this version reads format "
            f"{FORMAT}, a newer toplight_ext may read this file"
        )
    return Weights(state, arguments, metadata)


def load_weights(path: str | os.PathLike[str]) -> tuple[DualPathNetwork, dict[str, Any]]:
    """Rebuild the network of a weights file, in evaluation mode and float32, on the CPU.

    Returns:
        The network, and the metadata fields that were given to `save_weights`.

    Raises:
        InputError: the file is absent, broken, foreign, or its tensors are missing, unknown, misshapen or
            not finite; the message names file and tensor.
    """
    state, arguments, metadata = read_weights(path)
    return _rebuild(arguments, state, str(path)), metadata


def soup_weights(paths: Sequence[str | os.PathLike[str]], keep: int = 1) -> tuple[DualPathNetwork, dict[str, Any]]:
    """The uniform soup of weights files of one network: averaged, then the paths merged after `keep` blocks.

    BatchNorm statistics are averaged, not yet re-estimated.

    Returns:
        The network, in evaluation mode, and its metadata: the fields on which all files agree, and under
        `ingredients` the name and metadata of each file.

    Raises:
        InputError: no file, a file that `read_weights` refuses, or files of different networks.
    """
    if not paths:
        raise InputError("a soup needs at least one weights file")
    ingredients = [read_weights(path) for path in paths]
    arguments = ingredients[0].arguments
    for path, ingredient in zip(paths, ingredients, strict=True):
        if ingredient.arguments != arguments:
            raise InputError(
                f"{path}: its network {ingredient.arguments} is not that of {paths[0]}, {arguments}; "
                "a soup takes weights of one network"
            )
        check_state(ingredients[0].state, ingredient.state, str(path))
    arguments = {**arguments, "duplicated": min(keep, arguments["duplicated"])}
    state = soup([ingredient.state for ingredient in ingredients], keep)
    first, *others = [ingredient.metadata for ingredient in ingredients]
    common = {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}
    sources = [{"file": Path(path).name, **i.metadata} for path, i in zip(paths, ingredients, strict=True)]
    return _rebuild(arguments, state, f"soup of {paths[0]}"), {**common, "ingredients": sources}


def _rebuild(arguments: dict[str, Any], state: dict[str, Tensor], origin: str) -> DualPathNetwork:
    model = create_model(**arguments)
    check_state(model.state_dict(), state, origin)
    model.load_state_dict(state)
    return model.eval()
