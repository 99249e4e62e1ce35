"""Attacks by images: files that declare what they do not hold, that are two things at once, or that take long.

`python python_tests/attacks/images.py FOLDER [NAME ...]` writes all but the named ones, checks them and trains on them.
"""

from __future__ import annotations

import dataclasses
import io
import json
import resource
import struct
import sys
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))  # the modules that tests share

import trees
from PIL import Image

_ZEROS = zlib.compress(bytes(1000))


class ImageAttack(NamedTuple):
    """An image.

    tries: a sentence.
    make: its bytes.
    refused: words of the reason for which it is refused; None if it is to be read as the image that it is.
    """

    name: str
    tries: str
    make: Callable[[], bytes]
    refused: str | None


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _png(width: int, height: int, *chunks: bytes, bits=8, colour=2, interlace=0, first=b"IHDR", data=_ZEROS) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlace)
    parts = [_chunk(first, header), *chunks, _chunk(b"IDAT", data), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _grey_png(side: int, interlaced: bool) -> bytes:
    """A whole PNG of black; a row, or of an interlaced image a row of each of seven passes, begins with a zero."""
    passes = ((8, 8), (8, 8), (8, 4), (4, 4), (4, 2), (2, 2), (2, 1)) if interlaced else ((1, 1),)
    size = sum((side // across + 1) * (side // down) for down, across in passes)
    return _png(side, side, colour=0, interlace=int(interlaced), data=zlib.compress(bytes(size), 1))


def _saved(format: str, size=(24, 16), mode="RGB", **options) -> bytes:
    return trees.noise(5, format, size, mode, **options)


def _frame(data: bytes) -> int:
    """Where the frame header of a JPEG begins."""
    return max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))


def _resized(data: bytes, width: int, height: int) -> bytes:
    at = _frame(data) + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def _two_frames() -> bytes:
    data = _saved("JPEG")
    at = _frame(data)
    length = 2 + struct.unpack_from(">H", data, at + 2)[0]
    return data[:at] + _resized(data, 65_500, 65_500)[at : at + length] + data[at:]


def _scans(side: int, count: int) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (side, side), 100).save(stream, "JPEG", progressive=True)
    data = stream.getvalue()
    return data[:-2] + data[data.rfind(b"\xff\xda") : -2] * count + data[-2:]


def _bmp(width: int, height: int, bits: int = 24, size: int = 40) -> bytes:
    return b"BM" + struct.pack("<IIIIiiHH", 0, 0, 54, size, width, height, 1, bits) + bytes(600)


def _zip() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("toplight_ext/__init__.py", "raise SystemExit")
    return stream.getvalue()


def _frames(format: str, **options) -> bytes:
    frames = [Image.new("P", (16, 16), number % 256) for number in range(100)]
    stream = io.BytesIO()
    frames[0].save(stream, format, save_all=True, append_images=frames[1:], **options)
    return stream.getvalue()


def _exif(entry: bytes) -> bytes:
    """A JPEG with one entry of EXIF."""
    data = _saved("JPEG")
    content = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + struct.pack("<I", 8)  # the next directory: itself
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content + data[2:]


def _torn() -> bytes:
    """Fuzzing found it: one decoder of DALI 2.4 gives up at the marker, and the next one understands EXIF otherwise."""
    data = _saved("JPEG", (400, 8))
    content = b"Exif\0\0MM\0*" + struct.pack(">IHHHIHHI", 8, 2049, 0x0112, 3, 1, 6, 0, 0)  # 2,049 entries: it has one
    within = data.rfind(b"\xff\xda") + 18
    data = data[:within] + b"\xff\x9e" + data[within:]
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content + data[2:]


def _upright(orientation: int) -> bytes:
    return _exif(struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0))


_SVG = b'<?xml version="1.0"?><!DOCTYPE s [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg><text>&x;</text></svg>'
_TEXT_BOMB = _chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50_000_000), 9))
_PROFILE_BOMB = _chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(50_000_000), 9))

_LARGE = "pixels are more than the limit"
_TABLE: dict[str, tuple[str, Callable[[], bytes], str | None]] = {
    "bomb.png": ("A PNG of a kilobyte declares 50,000 x 50,000 pixels.", lambda: _png(50_000, 50_000), _LARGE),
    "interlaced_bomb.png": ("The same, interlaced.", lambda: _png(50_000, 50_000, interlace=1), _LARGE),
    "negative.png": ("A PNG of 2^32 - 1 pixels a row.", lambda: _png(0xFFFFFFFF, 1), _LARGE),
    "bomb.jpg": ("A JPEG declares 65,500 x 65,500 pixels.", lambda: _resized(_saved("JPEG"), 65_500, 65_500), _LARGE),
    "bomb.bmp": ("A BMP declares 100,000 x 100,000 pixels.", lambda: _bmp(100_000, 100_000), "truncated BMP"),
    "compressed_bomb.bmp": ("A BMP of runs does.", lambda: _bmp(100_000, 100_000, 8)[:30] + b"\1" + bytes(99), _LARGE),
    "bomb.tif": ("A TIFF of 50,000 x 50,000 pixels.", lambda: b"II*\0" + bytes(600), "not a JPEG, PNG or BMP"),
    "two_frames.jpg": ("A JPEG has two sizes, a huge and a small one.", _two_frames, "cannot be decoded"),
    "scans.jpg": ("A JPEG of 0.5 MB has 2,000 scans over 16 megapixels.", lambda: _scans(4096, 2000), "too many scans"),
    "inflating.png": (
        "A PNG of 8 x 8 pixels inflates to 100 MB.",
        lambda: _png(8, 8, data=zlib.compress(bytes(100_000_000), 1)),
        None,
    ),
    "text_bomb.png": ("A comment in a PNG inflates to 50 MB.", lambda: _png(8, 8, _TEXT_BOMB), None),
    "profile_bomb.png": ("A colour profile in a PNG inflates to 50 MB.", lambda: _png(8, 8, _PROFILE_BOMB), None),
    "headless.png": ("A PNG does not begin with its header.", lambda: _png(8, 8, first=b"aAaA"), "cannot be decoded"),
    "short.png": ("A PNG holds a tenth of its rows.", lambda: _png(100, 100), "cannot be decoded"),
    "frames.gif": ("A GIF of 100 frames.", lambda: _frames("GIF"), "not a JPEG, PNG or BMP"),
    "frames.webp": ("A WebP of 100 frames.", lambda: _frames("WEBP"), "not a JPEG, PNG or BMP"),
    "frames.png": ("An animated PNG, whose first frame is read.", lambda: _frames("PNG"), None),
    "svg.jpg": ("An SVG that reads a file, called .jpg.", lambda: _SVG, "not a JPEG, PNG or BMP"),
    "pdf.jpg": ("A PDF called .jpg.", lambda: b"%PDF-1.7\n" + _saved("JPEG"), "not a JPEG, PNG or BMP"),
    "script.jpg": ("A script called .jpg.", lambda: b"#!/bin/sh\nid\n", "not a JPEG, PNG or BMP"),
    "half.jpg": ("A JPEG is cut in half.", lambda: _saved("JPEG")[:-100], "truncated"),
    "half.png": ("A PNG is cut in half.", lambda: _saved("PNG")[:400], "truncated"),
    "half.bmp": ("A BMP is cut in half.", lambda: _saved("BMP")[:400], "truncated"),
    "no_pixels.png": ("A PNG of no pixels.", lambda: _png(0, 8), "gives the size 0x8"),
    "no_rows.jpg": ("A JPEG whose number of rows is to come later.", lambda: _resized(_saved("JPEG"), 24, 0), "size"),
    "turned.bmp": ("A BMP of negative width.", lambda: _bmp(-16, 8), "size -16x8"),
    "lossless.jpg": (
        "A JPEG says it is lossless.",
        lambda: _saved("JPEG").replace(b"\xff\xc0", b"\xff\xc3"),
        "decoded",
    ),
    "far_exif.jpg": ("EXIF leads out of the file.", lambda: _exif(struct.pack("<HHII", 0x8769, 4, 1, 1 << 31)), None),
    "exif_circle.jpg": (
        "A directory of EXIF leads to itself.",
        lambda: _exif(struct.pack("<HHII", 0x8769, 4, 1, 8)),
        None,
    ),
    "exif_9.jpg": ("EXIF says the orientation 9, of eight.", lambda: _upright(9), None),
    "torn.jpg": ("A turned image is written beyond the memory of an unturned one.", _torn, "cannot be decoded"),
    "turned.jpg": ("EXIF turns the image by a quarter.", lambda: _upright(6), None),
    "archive.jpg": ("A JPEG that is a ZIP archive with Python in it.", lambda: _saved("JPEG") + _zip(), None),
    "page.png": ("A PNG that is a page with a script.", lambda: _saved("PNG") + b"<script>alert(1)</script>", None),
    "two.jpg": ("A JPEG with a larger one behind it.", lambda: _saved("JPEG") + _saved("JPEG", (64, 64)), None),
    "cmyk.jpg": ("A JPEG in CMYK.", lambda: _saved("JPEG", mode="CMYK"), None),
    "deep.png": ("A PNG of 16 bits and four channels.", lambda: _png(8, 8, bits=16, colour=6), None),
    "palette.png": ("A PNG of a palette.", lambda: _saved("PNG", mode="P"), None),
    "empty_palette.png": ("A PNG of a palette that it lacks.", lambda: _png(8, 8, colour=3), "cannot be decoded"),
    "one.png": ("A PNG of one pixel.", lambda: _png(1, 1), None),
    "line.png": ("A PNG of 65,000 x 1 pixels.", lambda: _png(65_000, 1, data=zlib.compress(bytes(195_001))), None),
    "limit.png": ("A PNG of as many pixels as are allowed, 8192 x 8192.", lambda: _grey_png(8192, False), None),
    "interlaced.png": ("An interlaced PNG of 4096 x 4096 pixels.", lambda: _grey_png(4096, True), None),
}
IMAGES = [ImageAttack(name, *row) for name, row in _TABLE.items()]


def write_set(folder: Path, images: list[ImageAttack]) -> None:
    """A manifest of these images, each of an identity of its own."""
    rows = [("path", "identity", "modality", "camera")]
    for number, image in enumerate(images):
        (folder / image.name).write_bytes(image.make())
        rows.append((image.name, number, "visible", 1))
    trees.table(folder / "manifest.csv", rows)


def check(folder: Path) -> dict[str, str]:
    """What `toplight data check --decode` finds unusable, by name."""
    from toplight_ext.data import check_dataset

    unusable = [finding for finding in check_dataset("csv", folder, decode=True).findings if finding.level == "error"]
    return {Path(entry.where).name: entry.what for finding in unusable for entry in finding.entries}


def train(folder: Path) -> dict[str, str]:
    """What the first batch of a training says of each image, beside a good one; evaluation's view is there as well."""
    import numpy as np

    from toplight_ext.data import Augmentation, ImagePipeline, Stream, load_dataset
    from toplight_ext.errors import InputError

    (folder / "good.jpg").write_bytes(_saved("JPEG"))
    samples = load_dataset("csv", folder)
    good = dataclasses.replace(samples[0], path=folder / "good.jpg")
    said = {}
    for sample in samples:
        stream = Stream([good, sample], lambda step: np.arange(2), (Augmentation(), None))
        try:
            with ImagePipeline([stream], (32, 16), steps=1, threads=1) as batches:
                (batch,) = batches
            assert all(view.isfinite().all() for view in batch.images[0])
        except InputError as error:
            assert str(error).startswith(f"{sample.path}: "), error
            said[sample.path.name] = str(error)
    return said


def main(folder: str, *left_out: str) -> None:
    """Check and train on all images but those named; prints one JSON object per way, with seconds and MiB at most.

    The MiB are those beyond what PyTorch and DALI took for images that are no attack.
    """
    import torch

    torch.set_num_threads(1)
    harmless, attacked = Path(folder, "harmless"), Path(folder, "attacked")
    for place, names in ((harmless, {"one.png", "page.png"}), (attacked, _TABLE.keys() - set(left_out))):
        place.mkdir()
        write_set(place, [image for image in IMAGES if image.name in names])
    for way in (check, train):
        way(harmless)
    before = _largest_mib()
    for way in (check, train):
        began = time.monotonic()
        said = way(attacked)
        seconds, mib = time.monotonic() - began, _largest_mib() - before
        print(json.dumps({"way": way.__name__, "said": said, "seconds": seconds, "mib": mib}))


def _largest_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
