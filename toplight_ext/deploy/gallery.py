"""The gallery index: features in half precision and the names beside them, in one file that is memory-mapped.

It is a safetensors file: `features` (N, D) float16, each row of length 1 before it was rounded, `camera` (N,) int64,
and the texts `path`, `identity`, `modality`, each as UTF-8 bytes and (N + 1,) offsets into them.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ..errors import InputError
from ..evaluation import Features, Origin, unit_rows
from ..files import check_file, replacing
from ..text import plain

ENDING = ".index"
_KIND = {"format": "1", "toplight_ext": "gallery index"}
_TEXTS = ("path", "identity", "modality")
_ROWS = 8192  # written at once
_MOST_HEADER = 1 << 20
_DTYPES = {"F16": np.float16, "I64": np.int64, "U8": np.uint8}


class Entry(NamedTuple):
    """One image of a gallery; "" and -1 where it is not known."""

    path: str
    identity: str
    modality: str
    camera: int


def write_index(path: str | Path, features: Features) -> Path:
    """Write an index of features, atomically.

    Raises:
        InputError: another ending than .index, or a feature of length 0, which has no direction.
    """
    path = Path(path)
    if path.suffix != ENDING:
        raise InputError(f"{path}: expected a file ending in {ENDING}")
    columns = {"camera": features.camera.astype(np.int64)}
    for name, array in zip(_TEXTS, (features.paths, features.identity, features.modality), strict=True):
        columns |= _text_columns(name, len(features), array)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(_header(features, columns))
        for first in range(0, len(features), _ROWS):
            block = unit_rows(features.features[first : first + _ROWS], f"{path}: feature", first)
            file.write(block.astype(np.float16).tobytes())
        for array in columns.values():
            file.write(array.tobytes())
    return path


def _text_columns(name: str, rows: int, array: np.ndarray | None) -> dict[str, np.ndarray]:
    texts = [b""] * rows if array is None else [str(value).encode() for value in array]
    offsets = np.concatenate([[0], np.cumsum([len(text) for text in texts])]).astype(np.int64)
    return {f"{name}_offsets": offsets, f"{name}_bytes": np.frombuffer(b"".join(texts), np.uint8)}


def _header(features: Features, columns: dict[str, np.ndarray]) -> bytes:
    arrays = {"features": ("F16", features.features.shape)}
    arrays |= {name: (_code(array), array.shape) for name, array in columns.items()}
    network = {"network": features.origin.network} if features.origin.network else {}
    fields, start = {"__metadata__": {**_KIND, **network}}, 0
    for name, (code, extent) in arrays.items():
        end = start + math.prod(extent) * np.dtype(_DTYPES[code]).itemsize
        fields[name] = {"dtype": code, "shape": list(extent), "data_offsets": [start, end]}
        start = end
    text = json.dumps(fields).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _code(array: np.ndarray) -> str:
    return next(code for code, dtype in _DTYPES.items() if array.dtype == dtype)


class GalleryIndex:
    """An index file, mapped: opening it reads its header alone, a search its features once.

    Args:
        path: as `write_index` writes it.

    Attributes:
        network: of which the features are, as `Origin` has it.

    Raises:
        InputError: the file is absent, truncated, foreign, of another version, or its header does not fit itself.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        try:
            check_file(self.path)
            size = os.path.getsize(self.path)
            with open(self.path, "rb") as file:
                fields, start, self.network = _read_header(file, size)
            self._arrays = {name: self._mapped(code, shape, start + at) for name, (code, shape, at) in fields.items()}
        except OSError as error:
            raise InputError(f"{self.path}: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error) as error:
            raise InputError(f"{self.path}: not a gallery index, or damaged ({plain(error, 200)})") from error

    def _mapped(self, code: str, shape: tuple[int, ...], offset: int) -> np.ndarray:
        if 0 in shape:
            return np.zeros(shape, _DTYPES[code])
        return np.memmap(self.path, _DTYPES[code], "c", offset, shape)

    def __str__(self) -> str:
        return str(self.path)

    def __len__(self) -> int:
        return len(self._arrays["features"])

    @property
    def dimensions(self) -> int:
        return self._arrays["features"].shape[1]

    def blocks(self, rows: int) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, float32 (up to rows, D)), rows of length 1; the array is the same memory each time."""
        buffer = torch.empty(min(rows, len(self)), self.dimensions)
        for first in range(0, len(self), rows):
            # torch widens halves with vector instructions, NumPy one by one: 30 times as long.
            halves = torch.frombuffer(self._arrays["features"][first : first + rows], dtype=torch.float16)
            block = buffer[: len(halves) // self.dimensions]
            block.copy_(halves.view(block.shape))
            block /= torch.linalg.vector_norm(block, dim=1, keepdim=True)  # which rounding to halves has changed
            yield first, block.numpy()

    def entry(self, row: int) -> Entry:
        """Raises InputError if the file's texts are damaged there."""
        return Entry(*(self._text(name, row) for name in _TEXTS), int(self._arrays["camera"][row]))

    def _text(self, name: str, row: int) -> str:
        start, end = (int(offset) for offset in self._arrays[f"{name}_offsets"][row : row + 2])
        found = self._arrays[f"{name}_bytes"]
        if not 0 <= start <= end <= len(found):
            raise InputError(f"{self.path}: damaged: {name} of row {row} lies outside the file")
        return found[start:end].tobytes().decode("utf-8", errors="replace")


def _read_header(file, size: int) -> tuple[dict[str, tuple[str, tuple[int, ...], int]], int, str | None]:
    """Name -> (dtype, shape, offset after the header), where that is, the network; raises unless all fits the file."""
    (length,) = struct.unpack("<Q", file.read(8))
    if length > min(_MOST_HEADER, size):
        raise ValueError("its header is longer than the file")
    header = json.loads(file.read(length))
    metadata = header.pop("__metadata__")
    network = Origin.from_json({"network": metadata.pop("network", None)}).network
    if metadata != _KIND:
        raise ValueError(f"its metadata are {str(metadata)[:80]}")
    rows, dimensions = header["features"]["shape"]
    expected = {"features": ("F16", (rows, dimensions)), "camera": ("I64", (rows,))}
    for name in _TEXTS:
        expected[f"{name}_offsets"] = ("I64", (rows + 1,))
        expected[f"{name}_bytes"] = ("U8", (header[f"{name}_bytes"]["shape"][0],))
    fields, position = {}, 0
    for name, (code, shape) in expected.items():
        field = header.pop(name)
        if not all(type(size) is int for size in shape) or min(shape) < (0 if name.endswith("bytes") else 1):
            raise ValueError(f"{name} has the shape {shape}")
        end = position + math.prod(shape) * np.dtype(_DTYPES[code]).itemsize
        if (field["dtype"], tuple(field["shape"]), field["data_offsets"]) != (code, shape, [position, end]):
            raise ValueError(f"{name} is {field}")
        fields[name], position = (code, shape, position), end
    if header or 8 + length + position != size:
        raise ValueError(f"it has {size} bytes, its header promises {8 + length + position}")
    return fields, 8 + length, network
