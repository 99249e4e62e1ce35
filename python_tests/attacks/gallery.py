"""Attacks by gallery indices."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from toplight_ext.deploy import GalleryIndex, search, write_index
from toplight_ext.evaluation import Features, save_features

from .confined import Attacks, Read, command, lay_no_file

ATTACKS = Attacks()
_ROWS, _COLUMNS = 20, 8


def _features(rows: int = _ROWS) -> Features:
    values = np.random.default_rng(rows).normal(size=(rows, _COLUMNS)).astype(np.float32)
    texts = np.array([f"{i}.png" for i in range(rows)])
    return Features(values, texts, np.zeros(rows, int), paths=texts)


def _match(folder: Path) -> Read:
    save_features(folder / "q.npz", _features(2))
    return command("match", "q.npz", "g.index", "--top", "3")


def _changed(folder: Path, change: Callable[[dict], Any], data: Callable[[bytes], bytes] = lambda data: data) -> Read:
    """An index that is whole but for its header, or its data."""
    content = write_index(folder / "g.index", _features()).read_bytes()
    (length,) = struct.unpack_from("<Q", content)
    header = json.loads(content[8 : 8 + length])
    changed = change(header)
    text = (json.dumps(header) if changed is None else changed).encode()
    (folder / "g.index").write_bytes(struct.pack("<Q", len(text)) + text + data(content[8 + length :]))
    return _match(folder)


def _set(name: str, **fields: Any) -> Callable[[dict], None]:
    return lambda header: header[name].update(fields)


_HEADERS = {
    "10^12 rows": (_set("features", shape=[10**12, _COLUMNS]),),
    "10^30 rows": (_set("features", shape=[10**30, _COLUMNS]),),
    "-1 rows": (_set("features", shape=[-1, _COLUMNS]),),
    "infinitely many rows": (_set("features", shape=[float("inf"), _COLUMNS]),),
    "NaN rows": (_set("features", shape=[float("nan"), _COLUMNS]),),
    "rows as text": (_set("features", shape=["20", "8"]),),
    "rows of half numbers": (_set("features", shape=[20.0, 8.0]),),
    "rows that are true": (_set("features", shape=[True, 160]),),
    "rows of three sizes": (_set("features", shape=[2, 10, 8]),),
    "texts of half sizes": (_set("path_bytes", shape=[float(sum(len(f"{i}.png") for i in range(_ROWS)))]),),
    "texts of infinite size": (_set("path_bytes", shape=[float("inf")]),),
    "no shape": (lambda header: header["features"].pop("shape") and None,),
    "no features": (lambda header: header.pop("features") and None,),
    "another array": (lambda header: header.update(x=header["camera"]),),
    "no metadata": (lambda header: header.pop("__metadata__") and None,),
    "metadata of a megabyte": (lambda header: header.update(__metadata__={"format": "x" * 900_000}),),
    "a network of a megabyte": (_set("__metadata__", network="x" * 900_000),),
    "a network that is a number": (_set("__metadata__", network=7),),
    "a list": (lambda header: "[]",),
    "JSON without end": (lambda header: "[" * 100_000,),
    "a name twice": (lambda header: json.dumps(header)[:-1] + ', "features": {}}',),
}


@ATTACKS.each(_HEADERS)
def header(folder: Path, change: Callable[[dict], Any]) -> Read:
    """A gallery index whose header says {}."""
    return _changed(folder, change)


@ATTACKS.each({"2^63 bytes": (1 << 63,), "2^64 - 1 bytes": ((1 << 64) - 1,), "nothing": (0,), "all": (900_000,)})
def header_length(folder: Path, length: int) -> Read:
    """A gallery index whose header is said to have {}."""
    content = write_index(folder / "g.index", _features()).read_bytes()
    (folder / "g.index").write_bytes(struct.pack("<Q", length) + content[8:])
    return _match(folder)


def _halves(value: float) -> Callable[[bytes], bytes]:
    return lambda data: np.full(_COLUMNS, value, np.float16).tobytes() + data[2 * _COLUMNS :]


_DATA = {
    "NaN": (_halves(np.nan),),
    "infinity": (_halves(np.inf),),
    "a row of zeros": (_halves(0.0),),
    "half of it": (lambda data: data[: len(data) // 2],),
    "one byte less": (lambda data: data[:-1],),
    "one byte more": (lambda data: data + b"x",),
    "offsets of texts that lead away": (
        lambda data: data[: 2 * _ROWS * _COLUMNS + 8 * _ROWS] + b"\x7f" * 8 * (_ROWS + 1) + data[488 + 168 - 8 :],
    ),
}


@ATTACKS.each(_DATA)
def data(folder: Path, change: Callable[[bytes], bytes]) -> Read:
    """A gallery index whose data are {}."""
    return _changed(folder, lambda header: None, change)


@ATTACKS
def sparse(folder: Path) -> Read:
    """A gallery index of 40 GB that takes a kilobyte of the disk, for queries of another size."""
    rows, columns = 100, 200_000_000
    path = write_index(folder / "g.index", _features(rows))
    content = path.read_bytes()
    (length,) = struct.unpack_from("<Q", content)
    fields = json.loads(content[8 : 8 + length])
    more = 2 * rows * (columns - _COLUMNS)
    fields["features"] |= {"shape": [rows, columns], "data_offsets": [0, 2 * rows * columns]}
    for name, field in fields.items():
        if name not in ("features", "__metadata__"):
            field["data_offsets"] = [offset + more for offset in field["data_offsets"]]
    text = json.dumps(fields).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    os.truncate(path, 8 + len(text) + more + len(content) - 8 - length)
    return _match(folder)


@ATTACKS.each(
    {"a pipe": ("pipe",), "an endless device": ("/dev/zero",), "a folder": ("folder",), "empty": ("/dev/null",)}
)
def no_file(folder: Path, kind: str) -> Read:
    """A gallery index that is {}."""
    path = folder / "g.index"
    lay_no_file(path, kind)
    return _match(folder)


def warm(folder: Path) -> None:
    """An index as it should be."""
    gallery = GalleryIndex(write_index(folder / "g.index", _features()))
    assert search(_features(2).features, gallery, top=3).rows.shape == (2, 3)
    assert gallery.entry(3).path == "3.png"
