"""What an encoded image says about itself, read without decoding it, and whether its end is there.

Formats: JPEG (ITU-T T.81), PNG (ISO/IEC 15948) and BMP, which every visible-infrared data set we know uses. The
content decides, not the file name.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

from ..errors import InputError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp")

# Our choice: an image larger than this is refused before it is decoded (192 MiB as RGB).
MAX_PIXELS = 1 << 26

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9


class Header(NamedTuple):
    format: str
    width: int  # as stored, before EXIF orientation
    height: int


def read_image(path: Path) -> bytes:
    """The bytes of an image file whose header is sound.

    Raises:
        InputError: the file cannot be read, is no JPEG, PNG or BMP, is cut off, or is larger than `MAX_PIXELS`.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = f"cannot read the image: {error.strerror}"
        raise InputError(f"{path}: {reason}; restore it or drop it from the list") from None
    try:
        inspect(data)
    except ValueError as error:
        raise InputError(f"{path}: {error}; replace the image or drop it from the list") from None
    return data


def inspect(data: bytes) -> Header:
    """Format and size of an encoded image.

    Raises:
        ValueError: it is empty, of no known format, truncated, or larger than `MAX_PIXELS`.
    """
    if not data:
        raise ValueError("the file is empty")
    try:
        header = _read(data)
    except (IndexError, struct.error):
        raise ValueError("truncated image: the header is cut off") from None
    if min(header.width, header.height) < 1:
        raise ValueError(f"the {header.format} header gives the size {header.width}x{header.height}")
    if header.width * header.height > MAX_PIXELS:
        raise ValueError(f"{header.width}x{header.height} pixels are more than the limit of {MAX_PIXELS}")
    return header


def _read(data: bytes) -> Header:
    if data[:2] == b"\xff\xd8":
        return _jpeg(data)
    if data[:8] == _PNG_SIGNATURE:
        return _png(data)
    if data[:2] == b"BM":
        return _bmp(data)
    raise ValueError(f"not a JPEG, PNG or BMP image (it begins with {data[:8]!r})")


def _jpeg(data: bytes) -> Header:
    header, position = None, 2
    while True:
        if data[position] != 0xFF:
            raise ValueError(f"damaged JPEG header at byte {position}")
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker in _START_OF_FRAME:
            height, width = struct.unpack_from(">HH", data, position + 5)
            header = Header("JPEG", width, height)
        if marker in (_START_OF_SCAN, _END_OF_IMAGE):
            break
        position += 2 if marker in _WITHOUT_LENGTH else 2 + struct.unpack_from(">H", data, position + 2)[0]
    if header is None:
        raise ValueError("damaged JPEG: no frame header before the image data")
    # Neither marker can occur inside entropy-coded data, so the last scan is complete if an end follows it.
    if data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        raise ValueError("truncated JPEG: the end-of-image marker is missing")
    return header


def _png(data: bytes) -> Header:
    width, height = struct.unpack_from(">II", data, 16)
    if data.rfind(b"IEND") < 0:
        raise ValueError("truncated PNG: the end chunk is missing")
    return Header("PNG", width, height)


def _bmp(data: bytes) -> Header:
    offset, header_size = struct.unpack_from("<II", data, 10)
    if header_size < 40:
        raise ValueError("BMP of OS/2 form; save it as PNG")
    width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    height = abs(height)  # negative: rows from the top
    row = (max(width, 0) * bits + 31) // 32 * 4
    if compression in (0, 3) and len(data) < offset + row * height:
        raise ValueError(f"truncated BMP: {len(data)} bytes of {offset + row * height}")
    return Header("BMP", width, height)
