"""What an encoded image says of itself, read without decoding it, and whether its end is there.

Formats: JPEG (ITU-T T.81), PNG (ISO/IEC 15948) and BMP, which every visible-infrared data set we know uses. The
content decides, not the file name.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

from ..errors import InputError
from ..files import read_bounded

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp")

# Our choice: an image larger than this is refused before it is decoded (192 MiB as RGB).
MAX_PIXELS = 1 << 26
# Our choice, too: a file that is larger, and a JPEG whose scans go over more pixels in all, of which a progressive one
# may have thousands in a few bytes each. Encoders write ten.
_MOST_BYTES = 1 << 28
_MOST_SCANNED = 1 << 32

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})
_START_OF_SCAN, _END_OF_IMAGE, _APP1 = 0xDA, 0xD9, 0xE1
_EXIF, _EXIF_ORIENTATION = b"Exif\0\0", 0x0112
_BYTE_ORDER = {b"II*\0": "<", b"MM\0*": ">"}


class Header(NamedTuple):
    format: str
    width: int  # as stored, before EXIF orientation
    height: int
    bits: int = 8  # of a sample
    cmyk: bool = False
    orientation: int = 1  # EXIF 2.3, 1 to 8; 1 is upright


def read_image(path: Path) -> tuple[bytes, Header]:
    """The bytes of an image file whose header is sound, and the header.

    Raises:
        InputError: the file cannot be read, is no JPEG, PNG or BMP, is cut off, or is larger than `MAX_PIXELS`.
    """
    try:
        data = read_bounded(path, _MOST_BYTES)
    except OSError as error:
        reason = f"cannot read the image: {error.strerror}"
        raise InputError(f"{path}: {reason}; restore it or drop it from the list") from None
    try:
        return data, inspect(data)
    except ValueError as error:
        raise InputError(f"{path}: {error}; replace the image or drop it from the list") from None


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
    frame, orientation, position = None, 1, 2
    while True:
        if data[position] != 0xFF:
            raise ValueError(f"damaged JPEG header at byte {position}")
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker in _START_OF_FRAME:
            frame = struct.unpack_from(">BHHB", data, position + 4)
        if marker == _APP1 and data[position + 4 : position + 10] == _EXIF:
            orientation = _exif_orientation(data, position + 10)
        if marker in (_START_OF_SCAN, _END_OF_IMAGE):
            break
        position += 2 if marker in _WITHOUT_LENGTH else 2 + struct.unpack_from(">H", data, position + 2)[0]
    if frame is None:
        raise ValueError("damaged JPEG: no frame header before the image data")
    # Neither marker can occur inside entropy-coded data, so the last scan is complete if an end follows it.
    if data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        raise ValueError("truncated JPEG: the end-of-image marker is missing")
    bits, height, width, components = frame
    if data.count(b"\xff\xda", position) * height * width > _MOST_SCANNED:
        raise ValueError(f"JPEG of {width}x{height} pixels in too many scans; save it as PNG")
    return Header("JPEG", width, height, bits, cmyk=components == 4, orientation=orientation)


def _exif_orientation(data: bytes, start: int) -> int:
    """Of the TIFF header at `start`; what cannot be made out is upright, as decoders have it."""
    order = _BYTE_ORDER.get(data[start : start + 4])
    if order is None:
        return 1
    try:
        first = start + struct.unpack_from(order + "I", data, start + 4)[0]
        for entry in range(struct.unpack_from(order + "H", data, first)[0]):
            tag, _, _, value = struct.unpack_from(order + "HHIH", data, first + 2 + 12 * entry)
            if tag == _EXIF_ORIENTATION:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def _png(data: bytes) -> Header:
    width, height, bits = struct.unpack_from(">IIB", data, 16)
    if data.rfind(b"IEND") < 0:
        raise ValueError("truncated PNG: the end chunk is missing")
    return Header("PNG", width, height, bits, orientation=_png_orientation(data))


def _png_orientation(data: bytes) -> int:
    position = len(_PNG_SIGNATURE)
    while (name := data[position + 4 : position + 8]) not in (b"IDAT", b"IEND", b""):
        if name == b"eXIf":
            return _exif_orientation(data, position + 8)
        position += 12 + struct.unpack_from(">I", data, position)[0]
    return 1


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
