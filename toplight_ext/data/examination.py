"""What image files say when all of them are read once: headers, bytes that are equal, images that do not decode."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from ..errors import InputError
from ..extras import require
from ..progress import progress_bar
from .header import Header, read_image
from .pipeline import undecodable

_THREADS = 4  # reading and hashing run beside each other, also where the disk is slow
_FILES_AT_ONCE = 64
_DECODED_AT_ONCE = 1024

# Our choice: an image of one colour compresses to less than this; only such a file is decoded to see whether it is.
_PLAIN_BYTES, _PLAIN_BYTES_PER_PIXEL = 2048, 0.05


class Examined(NamedTuple):
    """One image file."""

    size: int  # in bytes
    header: Header | None  # None: not a sound image
    digest: bytes  # of the content
    error: str  # why it is not a sound image


def examine(paths: Sequence[Path]) -> dict[Path, Examined]:
    """Read every file's bytes and header."""
    groups = [paths[i : i + _FILES_AT_ONCE] for i in range(0, len(paths), _FILES_AT_ONCE)]
    found: dict[Path, Examined] = {}
    with progress_bar("headers", len(paths)) as advance, ThreadPoolExecutor(_THREADS) as threads:
        for group, examined in zip(groups, threads.map(_examine_all, groups), strict=True):
            found.update(zip(group, examined, strict=True))
            advance(len(group))
    return found


def _examine_all(paths: Iterable[Path]) -> list[Examined]:
    return [_examine(path) for path in paths]


def _examine(path: Path) -> Examined:
    try:
        data, header = read_image(path)
    except InputError as error:
        return Examined(0, None, b"", str(error).removeprefix(f"{path}: "))
    return Examined(len(data), header, hashlib.blake2b(data, digest_size=16).digest(), "")


def find_undecodable(paths: Sequence[Path]) -> Iterator[Path]:
    """Decode every image; those that fail in spite of a sound header."""
    with progress_bar("decoding", len(paths)) as advance:
        for start in range(0, len(paths), _DECODED_AT_ONCE):
            group = paths[start : start + _DECODED_AT_ONCE]
            yield from undecodable(group)
            advance(len(group))


def find_plain(images: dict[Path, Examined]) -> Iterator[Path]:
    """Images of a single colour, of such as decode."""
    for path, image in images.items():
        pixels = image.header.width * image.header.height
        compressed_away = image.size < _PLAIN_BYTES + _PLAIN_BYTES_PER_PIXEL * pixels
        if (compressed_away or image.header.format == "BMP") and _is_plain(path, image.header.format):
            yield path


def _is_plain(path: Path, format: str) -> bool:
    pillow = require("PIL.Image", extra="train")
    try:
        with pillow.open(path, formats=[format]) as image:
            found = image.getextrema()
    except Exception:  # Pillow raises almost anything for the few images that DALI alone decodes
        return False
    return all(low == high for low, high in (found if isinstance(found[0], tuple) else (found,)))
