"""Images that EXIF turns, made upright before DALI sees them.

DALI is told to leave EXIF alone: where its parser and one of its decoders understand a damaged entry differently, the
decoder writes a turned image beyond the memory that was made for the unturned one (seen in DALI 2.4).
"""

from __future__ import annotations

import io

from ..extras import require
from .header import Header

# EXIF 2.3, orientation -> what Pillow calls the way back.
_WAYS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


def upright(data: bytes, header: Header) -> bytes:
    """The encoded image as it is or, where EXIF turns it, its upright pixels as a BMP.

    Raises:
        ValueError: it cannot be decoded.
    """
    if header.orientation == 1:
        return data
    pillow, stream = require("PIL.Image", extra="train"), io.BytesIO()
    try:
        with pillow.open(io.BytesIO(data), formats=[header.format]) as image:
            way = pillow.Transpose[_WAYS[header.orientation]]
            image.convert("RGB").transpose(way).save(stream, "BMP")
    except Exception as error:  # Pillow raises almost anything
        raise ValueError(f"the image cannot be decoded ({error})") from error
    return stream.getvalue()
