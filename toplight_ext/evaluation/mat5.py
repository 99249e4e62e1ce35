"""Read cell arrays of numbers from a MATLAB 5 file: all that the permutations of SYSU-MM01 need.

Format: MathWorks, "MAT-File Format", chapter 1. Reading these few constructs here keeps SciPy out of the
dependencies of an evaluation that needs NumPy alone.
"""

from __future__ import annotations

import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ..files import read_bounded

_HEADER_BYTES = 128
_MATRIX, _COMPRESSED = 14, 15
_CELL_CLASS, _NUMERIC_CLASSES = 1, range(6, 16)
_NUMBERS = {1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8", 12: "<i8", 13: "<u8"}
_MOST_BYTES = 1 << 24  # of the file, and of all its variables after decompression: far above any real one, below harm
_EMPTY = np.empty((0, 0))


def read_mat5(path: str | Path) -> dict[str, Any]:
    """Variables of a file saved by MATLAB's `save` (version 5 to 7) or by `scipy.io.savemat`.

    Returns:
        name -> array; a cell array is an object array of arrays.

    Raises:
        OSError: the file cannot be read, or is larger than 16 MiB.
        ValueError: it is no such file, is damaged, or holds something other than numbers and cells.
    """
    content = memoryview(read_bounded(path, _MOST_BYTES))
    if len(content) < _HEADER_BYTES or content[126:128] != b"IM":
        raise ValueError("not a MATLAB 5 file (version 7.3 is HDF5: save it again with `save -v7`)")
    variables, budget = {}, _MOST_BYTES
    try:
        position = _HEADER_BYTES
        while position < len(content):
            kind, data, position = _element(content, position)
            if kind == _COMPRESSED:
                unpacked = zlib.decompressobj().decompress(data, max(budget, 1))
                budget -= len(unpacked)
                kind, data, _ = _element(memoryview(unpacked), 0)
            name, value = _matrix(kind, data)
            variables[name] = value
    except (struct.error, zlib.error, IndexError, RecursionError) as error:
        raise ValueError(f"damaged MATLAB file: {error}") from error
    return variables


def _element(content: memoryview, position: int) -> tuple[int, memoryview, int]:
    """Type and bytes of the element at `position`, not copied, and the position of the next one."""
    kind, size = struct.unpack_from("<II", content, position)
    start = position + 8
    if kind >> 16:  # up to four bytes share the tag's eight
        kind, size, start = kind & 0xFFFF, kind >> 16, position + 4
    data = content[start : start + size]
    if len(data) < size:
        raise ValueError(f"damaged MATLAB file: it ends {size - len(data)} bytes early")
    end = start + size if kind == _COMPRESSED else (start + size + 7) // 8 * 8
    return kind, data, end


def _matrix(kind: int, data: memoryview) -> tuple[str, np.ndarray]:
    if kind != _MATRIX:
        raise ValueError(f"MATLAB element of type {kind} where a variable was expected")
    if not data:
        return "", _EMPTY
    _, flags, position = _element(data, 0)
    _, shape, position = _element(data, position)
    _, letters, position = _element(data, position)
    name = bytes(letters).decode("ascii", "replace")
    shape = np.frombuffer(shape, "<i4").tolist()
    array_class, is_complex = flags[0], flags[1] & 8
    if array_class == _CELL_CLASS:
        count = math.prod(shape)
        if not 0 <= count <= len(data) // 8:
            raise ValueError(f"damaged MATLAB file: {count} cells in {len(data)} bytes")
        cells = np.empty(count, dtype=object)
        for i in range(count):
            cell_kind, cell, position = _element(data, position)
            cells[i] = _matrix(cell_kind, cell)[1]
        return name, cells.reshape(shape, order="F")
    number, values, _ = _element(data, position)
    if array_class not in _NUMERIC_CLASSES or is_complex or number not in _NUMBERS:
        raise ValueError(f"MATLAB variable of class {array_class}: expected a cell array or real numbers")
    return name, np.frombuffer(values, _NUMBERS[number]).reshape(shape, order="F")
