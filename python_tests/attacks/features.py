"""Attacks by feature files (.npz and .safetensors) and by the permutations of SYSU-MM01 (.mat)."""

from __future__ import annotations

import functools
import io
import json
import math
import os
import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from toplight_ext.evaluation import Features, evaluate, load_features, parse_protocol
from toplight_ext.evaluation.sysu import load_permutations

from .confined import Attacks, Read, command, lay_no_file
from .weights import Code
from .zeros import add_zeros, deflated

ATTACKS = Attacks()


def _arrays(rows: int = 8) -> dict[str, np.ndarray]:
    return {
        "features": np.random.default_rng(0).normal(size=(rows, 4)).astype(np.float32),
        "identity": np.arange(rows) // 4,
        "camera": np.arange(rows) % 2,
        "modality": np.array(["visible", "infrared"] * (rows // 2)),
    }


def _evaluated(path: Path) -> Read:
    return command("evaluate", "--features", path, "--dataset", "csv")


def _npz(folder: Path, **changes: Any) -> Read:
    np.savez(folder / "f.npz", **{k: v for k, v in (_arrays() | changes).items() if v is not None})
    return _evaluated(folder / "f.npz")


def _npy(header: str, data: bytes = b"", version: int = 1) -> bytes:
    text = header.encode("latin1") + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text)) + text + data


def _archive(folder: Path, entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Read:
    """A whole feature file but for these entries."""
    with zipfile.ZipFile(folder / "f.npz", "w", compression) as file:
        for name, array in _arrays().items():
            content = io.BytesIO()
            np.save(content, array)
            file.writestr(f"{name}.npy", entries.get(name, content.getvalue()))
    return _evaluated(folder / "f.npz")


@ATTACKS
def pickle_as_npz(folder: Path) -> Read:
    """A pickle that runs a command, under the ending .npz, which numpy.load would once unpickle."""
    (folder / "f.npz").write_bytes(pickle.dumps(Code(folder)))
    return _evaluated(folder / "f.npz")


@ATTACKS.each({name: (name,) for name in ("features", "identity", "modality")})
def objects_with_code(folder: Path, name: str) -> Read:
    """An object array, in which a command is pickled, as {}."""
    return _npz(folder, **{name: np.array([Code(folder)] * 8, dtype=object)})


_F4 = "'fortran_order': False, 'descr': '<f4'"
_HEADERS = {
    "4 TB of a kilobyte": (f"{{{_F4}, 'shape': (1000000000, 1024)}}",),
    "more numbers than 2^64": (f"{{{_F4}, 'shape': (2 ** 70, 4)}}",),
    "a number beyond 64 bits": (f"{{{_F4}, 'shape': ({1 << 70}, 4)}}",),
    "sizes whose product overflows to 0": (f"{{{_F4}, 'shape': ({1 << 62}, 4)}}",),
    "a negative size": (f"{{{_F4}, 'shape': (-1, 4)}}",),
    "code": ("__import__('os').system('touch ../outside/ran')",),
    "no end": ("{'descr': (",),
    "a string without an end": ("{'descr': '",),
    "brackets a hundred deep": ("(" * 190 + ")" * 190,),
    "spaces without sense": ("{\n  1\n 2}",),
    "objects": ("{'fortran_order': False, 'descr': '|O', 'shape': (8, 4)}",),
    "elements of 4 GB": ("{'fortran_order': False, 'descr': '<U1000000000', 'shape': (8,)}",),
    "fields": ("{'fortran_order': False, 'descr': [('a', '<f4'), ('b', '|O')], 'shape': (8,)}",),
    "a type that is none": ("{'fortran_order': False, 'descr': '<x9', 'shape': (8, 4)}",),
    "two hundred dimensions": (f"{{{_F4}, 'shape': ({'1,' * 200})}}",),
    "a zero size": (f"{{{_F4}, 'shape': (0, 4)}}",),
}


@ATTACKS.each(_HEADERS)
def npy_header(folder: Path, header: str) -> Read:
    """A feature file whose array `features` has a header of {}."""
    return _archive(folder, {"features": _npy(header, bytes(128))})


@ATTACKS.each(
    {
        "as long as the file says, 4 GB": (b"\x93NUMPY\x02\x00\xff\xff\xff\xff",),
        "of version 9": (b"\x93NUMPY\x09\x00\x10\x00",),
        "cut off": (b"\x93NUMPY\x01",),
        "missing": (b"features",),
        "of a hundred kilobytes": (_npy(f"{{{_F4}, 'shape': ({'1,' * 50_000})}}", version=2),),
    }
)
def npy_start(folder: Path, content: bytes) -> Read:
    """A feature file whose array `features` has a header {}."""
    return _archive(folder, {"features": content})


@ATTACKS.each({"lzma": (zipfile.ZIP_LZMA,), "bzip2": (zipfile.ZIP_BZIP2,), "deflate": (zipfile.ZIP_DEFLATED,)})
def damaged_compression(folder: Path, compression: int) -> Read:
    """A feature file compressed by {} whose compressed bytes are damaged."""
    _archive(folder, {"features": b"x" * 5000}, compression)
    content = bytearray((folder / "f.npz").read_bytes())
    with zipfile.ZipFile(folder / "f.npz") as file:
        start = file.getinfo("features.npy").header_offset + 30 + len("features.npy")
    content[start : start + 24] = bytes(range(200, 224))
    (folder / "f.npz").write_bytes(content)
    return _evaluated(folder / "f.npz")


@ATTACKS
def zip_bomb(folder: Path) -> Read:
    """A feature file of 2 MB whose array `features` has 2 GB of zeros."""
    zeros = 2 << 30
    header = f"{{{_F4}, 'shape': ({zeros // 4096}, 1024)}}"
    header = header.ljust(117)
    np.savez(folder / "f.npz", **{k: v for k, v in _arrays().items() if k != "features"})
    add_zeros(folder / "f.npz", "features.npy", zeros, _npy(header))
    return _evaluated(folder / "f.npz")


@ATTACKS
def entry_larger_than_it_says(folder: Path) -> Read:
    """A feature file whose compressed entry is said to have 128 bytes and has 2 GB."""
    zip_bomb(folder)
    content = bytearray((folder / "f.npz").read_bytes())
    start = content.index(b"features.npy") - 30
    for place in (start + 22, content.rindex(b"PK\x01\x02") + 24):
        struct.pack_into("<I", content, place, 256)
    (folder / "f.npz").write_bytes(content)
    return _evaluated(folder / "f.npz")


_WRONG = {
    "features of NaN": {"features": np.full((8, 4), np.nan, np.float32)},
    "features of infinity": {"features": np.full((8, 4), np.inf)},
    "features of integers": {"features": np.ones((8, 4), int)},
    "features of three dimensions": {"features": np.ones((8, 4, 1))},
    "features of no columns": {"features": np.ones((8, 0))},
    "features missing": {"features": None},
    "complex features": {"features": np.ones((8, 4), complex)},
    "identities that are fewer": {"identity": np.arange(7)},
    "identities of a table": {"identity": np.ones((8, 2), int)},
    "identities of floats": {"identity": np.arange(8.0)},
    "identities of bytes": {"identity": np.array([b"a"] * 8)},
    "dates as identities": {"identity": np.zeros(8, "datetime64[s]")},
    "cameras missing": {"camera": None},
    "cameras of text": {"camera": np.array(["a"] * 8)},
    "modalities that are none": {"modality": np.array(["visible"] * 7 + ["x-ray"])},
    "images in the wrong stem": {"stem": np.array(["infrared", "visible"] * 4)},
    "an origin that is no JSON": {"origin": np.array("{")},
    "an origin nested without end": {"origin": np.array("[" * 100_000)},
    "an origin that is a list": {"origin": np.array("[1]")},
    "an origin of unknown fields": {"origin": np.array('{"x": 1}')},
    "an origin of a split of numbers": {"origin": np.array('{"images": [1, 2]}')},
    "an origin of a million trainings": {"origin": np.array(json.dumps({"training": [["regdb", "train_1"]] * 10**6}))},
    "an origin of an endless name": {"origin": np.array(json.dumps({"images": ["regdb", "train_" + "9" * 100_000]}))},
    "an origin of a page of text": {"origin": np.array(json.dumps({"feature": "x" * 1_000_000}))},
}


@ATTACKS.each({name: (changes,) for name, changes in _WRONG.items()})
def wrong_arrays(folder: Path, changes: dict[str, Any]) -> Read:
    """A feature file with {}."""
    return _npz(folder, **changes)


_EXTREME = {
    "the largest floats": {"features": np.full((8, 4), 3e38, np.float32)},
    "the largest doubles": {"features": np.full((8, 4), 1e308)},
    "denormals": {"features": np.full((8, 4), 1e-45, np.float32)},
    "rows of zeros": {"features": np.zeros((8, 4), np.float32)},
    "cameras of 2^64 - 1": {"camera": np.full(8, (1 << 64) - 1, np.uint64)},
    "identities of -2^63": {"identity": np.array([-(1 << 63)] * 8)},
    "identities of 2^64 - 1": {"identity": np.array([(1 << 64) - 1] * 8, np.uint64)},
    "bytes in the other order": {"features": np.ones((8, 4), ">f4") + np.eye(8, 4, dtype=">f4")},
    "identities with a terminal's commands": {"identity": np.array(["\x1b]0;owned\x07\u202e\n", "b"] * 4)},
}
HARMLESS = tuple(f"extreme_arrays[{name}]" for name in _EXTREME)


@ATTACKS.each({name: (changes,) for name, changes in _EXTREME.items()})
def extreme_arrays(folder: Path, changes: dict[str, Any]) -> Read:
    """A feature file of {}: scores or an error, and never a wrong access."""
    return _npz(folder, **changes)


def _tensors(folder: Path, text: dict[str, str], rows: int = 8, **changes: np.ndarray) -> Read:
    arrays = {name: array for name, array in _arrays(rows).items() if array.dtype.kind != "U"}
    modality = json.dumps(_arrays(rows)["modality"].tolist())
    save_file(arrays | changes, folder / "f.safetensors", {"modality": modality, **text})
    return _evaluated(folder / "f.safetensors")


_TEXTS = {
    "nested without end": {"modality": "[" * 100_000},
    "of an object": {"modality": '{"a": 1}'},
    "of lists of several lengths": {"modality": '[["a"], ["b", "c"]]'},
    "of one name": {"modality": '"visible"'},
    "an origin nested without end": {"origin": '{"images":' * 50_000},
}


@ATTACKS.each({name: (text,) for name, text in _TEXTS.items()})
def texts_in_safetensors(folder: Path, text: dict[str, str]) -> Read:
    """Features as safetensors whose metadata have a text {}."""
    return _tensors(folder, text)


@ATTACKS
def one_long_name_among_many(folder: Path) -> Read:
    """Features whose paths are empty but for one of a megabyte, which NumPy gives to every row: 80 GB of 2 MB."""
    rows = 20_000
    return _tensors(folder, {"paths": json.dumps(["x" * 1_000_000] + [""] * (rows - 1))}, rows)


@ATTACKS
def bfloat16_in_safetensors(folder: Path) -> Read:
    """Features as safetensors of a type that NumPy has not."""
    header = {"features": {"dtype": "BF16", "shape": [8, 4], "data_offsets": [0, 64]}}
    text = json.dumps(header).encode()
    (folder / "f.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(64))
    return _evaluated(folder / "f.safetensors")


@ATTACKS.each(
    {
        "a pipe": ("f.npz", "pipe"),
        "a pipe for safetensors": ("f.safetensors", "pipe"),
        "an endless device": ("f.npz", "/dev/zero"),
        "a folder": ("f.npz", "folder"),
    }
)
def no_file(folder: Path, name: str, kind: str) -> Read:
    """Features that are {}."""
    path = folder / name
    lay_no_file(path, kind)
    return _evaluated(path)


def _element(kind: int, data: bytes) -> bytes:
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


def _matrix(array_class: int, shape: tuple[int, ...], content: bytes, name: bytes = b"") -> bytes:
    flags = _element(6, struct.pack("<II", array_class, 0))
    return _element(14, flags + _element(5, struct.pack(f"<{len(shape)}i", *shape)) + _element(1, name) + content)


def _mat(folder: Path, *variables: bytes) -> Read:
    (folder / "p.mat").write_bytes(b"MATLAB 5.0".ljust(124) + b"\x00\x01IM" + b"".join(variables))
    return functools.partial(load_permutations, folder / "p.mat")


def _packed(variable: bytes) -> bytes:
    content = zlib.compress(variable, 9)
    return struct.pack("<II", 15, len(content)) + content


_NAME = b"rand_perm_cam"


def _nested(depth: int, width: int = 0) -> bytes:
    inner = _element(9, bytes(width))
    for _ in range(depth):
        inner = _matrix(1, (1, 1), inner)
    return _matrix(1, (1, 1), inner, _NAME)


_VARIABLES = {
    "a shape of 2^62 cells": (_matrix(1, (1 << 30, 1 << 30, 4), b"", _NAME),),
    "a negative shape": (_matrix(1, (-1, 6), b"", _NAME),),
    "a shape of nothing": (_matrix(1, (), b"", _NAME),),
    "cells behind the end": (_matrix(1, (6, 1), _element(14, b""), _NAME),),
    "cells in cells, ten thousand deep": (_nested(10_000),),
    "objects of a class": (_matrix(3, (6, 1), _element(9, bytes(48)), _NAME),),
    "numbers of an unknown kind": (_matrix(6, (6, 1), _element(99, bytes(48)), _NAME),),
    "numbers in place of cells": (_matrix(6, (6, 1), _element(9, bytes(48)), _NAME),),
    "NaN": (_matrix(1, (6, 1), 6 * _matrix(1, (1, 1), _matrix(6, (1, 2), _element(9, b"\xff" * 16))), _NAME),),
    "another name": (_matrix(6, (6, 1), _element(9, bytes(48)), b"x"),),
    "a size of 4 GB": (struct.pack("<II", 14, 0xFFFFFFFF),),
    "a stream that is no zlib": (struct.pack("<II", 15, 8) + bytes(8),),
    "nothing": (),
    "three million empty cells": (_packed(_matrix(1, (3_000_000, 1), 3_000_000 * _element(14, b""), _NAME)),),
}


@ATTACKS.each({name: (variables,) for name, variables in _VARIABLES.items()})
def permutations(folder: Path, variables: tuple[bytes, ...]) -> Read:
    """A MATLAB file of permutations that holds {}."""
    return _mat(folder, *variables)


@ATTACKS
def bombs_in_permutations(folder: Path) -> Read:
    """A MATLAB file of 2 MB with eight variables that are 250 MB each."""
    size = 15 << 24
    start = _matrix(6, (size // 8, 1), b"")[8:] + struct.pack("<II", 9, size)
    body = struct.pack("<II", 14, len(start) + size) + start
    stream = b"\x78\x9c" + deflated(body, size)
    return _mat(folder, *[struct.pack("<II", 15, len(stream)) + stream] * 8)


@ATTACKS.each({"a pipe": (None,), "an endless device": ("/dev/zero",)})
def permutations_that_are_no_file(folder: Path, target: str | None) -> Read:
    """Permutations that are {}."""
    os.mkfifo(folder / "p.mat") if target is None else (folder / "p.mat").symlink_to(target)
    return functools.partial(load_permutations, folder / "p.mat")


def warm(folder: Path) -> None:
    """A feature file as it should be."""
    np.savez_compressed(folder / "f.npz", **_arrays(), paths=np.array(["a/rather/long/path.jpg" * 3] * 8))
    features = load_features(folder / "f.npz")
    assert evaluate(features, parse_protocol("csv")).valid_queries == 4
    assert isinstance(features, Features) and math.isfinite(features.features.sum())
