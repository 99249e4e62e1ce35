"""Weights files: safetensors, with one JSON entry that says how to rebuild the network."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import InputError, MissingExtra
from ..text import plain
from .create import create_model
from .network import DualPathNetwork
from .state import check_state, soup
from .tensor_files import read_safetensors, write_safetensors

FORMAT = 1
_ENTRY = "toplight_ext"
_PARTS = ("visible", "infrared", "shared", "neck", "head")
_LONGEST_NAME = 200  # of a data set or a split
_MOST_SETS = 100  # our choice: ten times the trials of RegDB
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
            `trained_on` (as `training_sets` gives it) and what the network is to be fed, for everything that uses it:
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
        if "trained_on" in metadata:
            metadata["trained_on"] = training_sets(metadata["trained_on"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: its metadata entry {_ENTRY!r} is damaged ({plain(repr(error), 200)})") from error
    # Never the argument `pretrained`: a file must not make us read another file or download one.
    unknown = sorted(arguments.keys() - _ARGUMENTS)
    if version != FORMAT or unknown:
        raise InputError(
            f"{path}: weights format {plain(version)}, unknown model arguments {plain(unknown)}; this version reads "
            f"format {FORMAT}, a newer toplight_ext may read this file"
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
        The network, in evaluation mode, and its metadata: the fields on which all files agree, under `trained_on`
        what any of them was trained on, and under `ingredients` the name and metadata of each file.

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
                f"{path}: its network is not that of {paths[0]}: {_differences(ingredient.arguments, arguments)}; "
                "a soup takes weights of one network"
            )
        check_state(ingredients[0].state, ingredient.state, str(path))
    _empty_network(arguments, ingredients[0].state, str(paths[0]))
    arguments = {**arguments, "duplicated": min(keep, arguments.get("duplicated", 1))}
    state = soup([ingredient.state for ingredient in ingredients], keep)
    first, *others = [ingredient.metadata for ingredient in ingredients]
    common = {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}
    sets = training_sets([known for i in ingredients for known in i.metadata.get("trained_on", ())])
    common |= {"trained_on": sets} if sets else {}
    sources = [{"file": Path(path).name, **i.metadata} for path, i in zip(paths, ingredients, strict=True)]
    return _rebuild(arguments, state, f"soup of {paths[0]}"), {**common, "ingredients": sources}


def training_sets(recorded: Any) -> list[dict[str, str | None]]:
    """The metadata field `trained_on`: `dataset` and `split` of all that a network's weights have seen, each once.

    What it started from saw the first of them, what it was trained on itself is the last.

    Args:
        recorded: such entries, or one alone, as older files have it, or None.

    Raises:
        ValueError, KeyError or TypeError: it is something else, or more than a file may have.
    """
    entries = recorded if isinstance(recorded, list) else [] if recorded is None else [recorded]
    found = dict.fromkeys((entry["dataset"], entry["split"]) for entry in reversed(entries))
    if not all(_is_name(dataset) and (split is None or _is_name(split)) for dataset, split in found):
        raise ValueError("trained_on: expected the names of data sets and of their splits")
    if len(found) > _MOST_SETS:
        raise InputError(f"trained_on: {len(found)} data sets or splits are more than {_MOST_SETS}")
    return [{"dataset": dataset, "split": split} for dataset, split in reversed(found)]


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _LONGEST_NAME


def _differences(given: dict[str, Any], expected: dict[str, Any]) -> str:
    keys = sorted(key for key in given.keys() | expected.keys() if given.get(key) != expected.get(key))
    return plain(", ".join(f"{key} {given.get(key)!r} instead of {expected.get(key)!r}" for key in keys), 300)


def _rebuild(arguments: dict[str, Any], state: dict[str, Tensor], origin: str) -> DualPathNetwork:
    model = _empty_network(arguments, state, origin)
    # What is no part of the state dict has to be computed, and cannot be without memory.
    complete = all(name in state for name, _ in model.named_buffers())
    model = model.to_empty(device="cpu") if complete else create_model(**arguments)
    model.load_state_dict(state)
    return model.eval()


def _empty_network(arguments: dict[str, Any], state: dict[str, Tensor], origin: str) -> DualPathNetwork:
    """The network of these arguments, its neck and head without memory for their numbers, if the state fits it.

    So a file is refused before it has taken more memory than it has bytes, whatever size of network it records.
    """
    try:
        with torch.device("meta"):
            model = create_model(**arguments)
    except MissingExtra:
        raise
    except Exception as error:  # arguments of a stranger: any type, any size
        raise InputError(f"{origin}: no network can be made of what it records: {plain(error, 200)}") from error
    check_state(model.state_dict(), state, origin)
    return model
