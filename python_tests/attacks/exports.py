"""Attacks by exported networks: the metadata.json of a folder, and .onnx files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from toplight_ext.data import Modality
from toplight_ext.deploy import Contract, load_exported
from toplight_ext.deploy.contract import ENTRY
from toplight_ext.deploy.runtimes import METADATA, exported_files
from toplight_ext.inference import Preprocessing

from .confined import Attacks, Read

ATTACKS = Attacks()
_SIZE, _DIMENSIONS = (4, 2), 24


def _contract(**changes: Any) -> dict[str, Any]:
    return {**Contract("visible", Preprocessing(_SIZE), _DIMENSIONS, None, "w.safetensors").to_json(), **changes}


_LISTED = {
    "a path out of the folder": {"../outside/x.onnx": _contract()},
    "a whole path": {"/etc/passwd": _contract()},
    "a name of terminal commands": {"\x1b]0;owned\x07.onnx": _contract()},
    "a name with a NUL": {"a\0.onnx": _contract()},
    "pairs of numbers": [[1, _contract()]],
    "text": "abc",
    "no contract": {"a.onnx": None},
    "a batch of 2^30": {"a.onnx": _contract(batch=1 << 30)},
    "a batch of 10^30": {"a.onnx": _contract(batch=10**30)},
    "a stem that is none": {"a.onnx": _contract(stem=["visible"])},
    "another version": {"a.onnx": _contract(format=2)},
}


@ATTACKS.each({name: (files,) for name, files in _LISTED.items()})
def listed(folder: Path, files: Any) -> Read:
    """A folder of exported networks whose metadata.json lists {}."""
    (folder / METADATA).write_text(json.dumps({"files": files}))
    return lambda: exported_files(folder)


@ATTACKS.each({"lists without end": ("[" * 100_000,), "no JSON": ("<html>",), "a gigabyte": (None,), "a pipe": ("",)})
def metadata(folder: Path, text: str | None) -> Read:
    """A folder of exported networks whose metadata.json is {}."""
    if text == "":
        os.mkfifo(folder / METADATA)
        return lambda: exported_files(folder)
    (folder / METADATA).write_text(text or "{")
    if text is None:
        os.truncate(folder / METADATA, 1 << 30)
    return lambda: exported_files(folder)


def _network(path: Path, contract: Any = None, change: Callable[[onnx.ModelProto], Any] = lambda model: None) -> Path:
    """A network that flattens its images, as if it had been exported."""
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, *_SIZE])
    embedding = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", _DIMENSIONS])
    shift = numpy_helper.from_array(np.zeros(_DIMENSIONS, np.float32), "shift")
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"]),
        helper.make_node("Add", ["flat", "shift"], ["embedding"]),
    ]
    graph = helper.make_graph(nodes, "network", [images], [embedding], [shift])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    entry = contract if isinstance(contract, str) else json.dumps(contract or _contract())
    helper.set_model_props(model, {ENTRY: entry})
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


_PREPROCESSING = {
    "size 10^9": {"size": [10**9, 10**9]},
    "size 0": {"size": [0, 2]},
    "size as text": {"size": "42"},
    "mean NaN": {"mean": [float("nan")] * 3},
    "std 0": {"std": [0.0] * 3},
    "std infinite": {"std": [float("inf")] * 3},
    "gray as text": {"gray": "yes"},
    "another order of colours": {"colour_order": "BGR"},
}


@ATTACKS.each({name: (change,) for name, change in _PREPROCESSING.items()})
def preprocessing(folder: Path, change: dict[str, Any]) -> Read:
    """An .onnx file that wants to be fed images of {}."""
    contract = _contract()
    contract["preprocessing"] |= change
    path = _network(folder / "a.onnx", contract)
    return lambda: load_exported(path, threads=1)


@ATTACKS.each({"lists without end": ("[" * 100_000,), "no JSON": ("{",), "a number": ("3",), "null": ("null",)})
def entry(folder: Path, text: str) -> Read:
    """An .onnx file whose own metadata are {}."""
    path = _network(folder / "a.onnx", text)
    return lambda: load_exported(path, threads=1)


def _outside(location: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", str(4 * _DIMENSIONS))):
            added = tensor.external_data.add()
            added.key, added.value = key, value

    return change


@ATTACKS.each({"above its folder": ("../outside/secret",), "elsewhere": ("/etc/passwd",), "through a link": ("link",)})
def weights_outside(folder: Path, location: str) -> Read:
    """An .onnx file whose weights lie {}."""
    (folder.parent / "outside" / "secret").write_bytes(bytes(4 * _DIMENSIONS))
    (folder / "link").symlink_to(folder.parent / "outside" / "secret")
    path = _network(folder / "a.onnx", change=_outside(location))
    return lambda: load_exported(path, threads=1)


def _cut(length: int) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, length)


_DAMAGES = {
    "empty": _cut(0),
    "cut off": _cut(200),
    "random bytes": lambda path: path.write_bytes(np.random.default_rng(0).bytes(5000)),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "an endless device": lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
}


@ATTACKS.each({name: (damage,) for name, damage in _DAMAGES.items()})
def damaged(folder: Path, damage: Callable[[Path], Any]) -> Read:
    """An .onnx file that is {}."""
    path = _network(folder / "a.onnx")
    damage(path)
    return lambda: load_exported(path, threads=1)


def warm(folder: Path) -> None:
    """A network as it should be."""
    network = load_exported(_network(folder / "a.onnx"), threads=1)
    assert network.contract.input_of(Modality.VISIBLE, "a.onnx") == "images"
    (folder / METADATA).write_text(json.dumps({"files": {"a.onnx": _contract()}}))
    assert exported_files(folder) == [folder / "a.onnx"]
