"""Gigabytes of zeros that take megabytes of a file, and no time to write."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path

_BLOCK = 16 << 20


def deflated(before: bytes, zeros: int) -> bytes:
    """A deflate stream, without a header, of these bytes and then `zeros` of 0, a multiple of 16 MiB."""
    whole = zlib.compressobj(9, wbits=-15)
    first = whole.compress(before) + whole.flush(zlib.Z_FULL_FLUSH)
    block = whole.compress(bytes(_BLOCK)) + whole.flush(zlib.Z_FULL_FLUSH)  # which depends on nothing before it
    return first + block * (zeros // _BLOCK) + whole.flush()


def add_zeros(path: Path, name: str, zeros: int, before: bytes = b"") -> None:
    """Add an entry of `before` and then so many zeros, less than 4 GB in all, to a zip archive."""
    stream = deflated(before, zeros)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(name, stream)
        start = file.getinfo(name).header_offset
    checksum = zlib.crc32(before)
    for _ in range(zeros // _BLOCK):
        checksum = zlib.crc32(_ZEROS, checksum)
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02")  # the last of the directory
    for place in (start + 8, entry + 10):
        struct.pack_into("<H", content, place, zipfile.ZIP_DEFLATED)
    for place in (start + 14, entry + 16):
        struct.pack_into("<III", content, place, checksum, len(stream), len(before) + zeros)
    path.write_bytes(content)


_ZEROS = bytes(_BLOCK)
