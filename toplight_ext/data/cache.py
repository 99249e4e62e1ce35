"""All images of a list, decoded and resized once, in one file that is mapped into memory.

The file is a safetensors file of one tensor, `images`. Its name follows from the list and the size; its metadata
say what the files behind the list looked like, so that one that has changed since is noticed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import mmap
import os
import shutil
import struct
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from ..errors import InputError
from ..files import abandoned, replacing
from ..progress import progress_bar
from .pipeline import GREY_LEVELS, ImagePipeline, Stream
from .samples import Sample, as_stored
from .sampling import SequentialSampler

_MARK = b'{"__metadata__":{"format":"toplight decoded images 1"'
_BATCH = 32  # images that are decoded at once


def cached_images(samples: Sequence[Sample], folder: str | Path, size: tuple[int, int], threads: int = 2) -> np.ndarray:
    """The images of `samples` at `size`, for `Stream.images`.

    The first call decodes them all, on the CPU whatever trains, and keeps them in `folder`; later ones, of any
    process, map that file. It is made anew where it is damaged, or where an image has changed its length or its
    time of modification. A file that the list names twice, as mirrored identities do, is kept twice. One process
    builds at a time in a folder; others wait for it and take what it built.

    Args:
        folder: on a disk with room for len(samples) * height * width * 3 bytes; made if absent.
        size: height and width in pixels. Crops are cut from the images of this size, so at the network's size they
            lose what detail the files had beyond it.
        threads: that decode.

    Returns:
        uint8 (N, height, width, 3), read-only.

    Raises:
        InputError: an image is missing or cannot be decoded, the folder cannot be written or has no room, or a
            file of another kind has the cache's name.
        MissingExtra: DALI is not installed.
    """
    shape = (len(samples), *size, 3)
    paths = [os.path.abspath(sample.path) for sample in samples]
    path = Path(folder) / f"decoded-{_digest(paths)[:16]}-{size[0]}x{size[1]}.safetensors"
    header = _header(shape, _digest(map(_state, paths)))
    if _unfit(path, header, shape):
        try:
            _make(path, header, samples, shape, threads)
        except OSError as error:
            raise InputError(
                f"{path}: cannot write the decoded images, {_length(header, shape) / 1e6:,.1f} MB: {error.strerror}; "
                "make room or name another folder"
            ) from error
    with path.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return np.ndarray(shape, np.uint8, content, offset=len(header))


def _header(shape: tuple[int, ...], state: str) -> bytes:
    """What the file begins with: the length of a JSON object, and that object."""
    text = _MARK + b"," + json.dumps({"images": state}, separators=(",", ":")).encode()[1:]
    tensor = {"dtype": "U8", "shape": shape, "data_offsets": (0, math.prod(shape))}
    text += b"," + json.dumps({"images": tensor}, separators=(",", ":")).encode()[1:]
    text += b" " * (-len(text) % 8)  # as the format asks for
    return struct.pack("<Q", len(text)) + text


def _unfit(path: Path, header: bytes, shape: tuple[int, ...]) -> str | None:
    """Why the cache at `path` cannot be used; None if it can.

    Raises:
        InputError: what is there was not written by us, and is not ours to replace.
    """
    try:
        with path.open("rb") as file:
            found, length = file.read(len(header)), os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        return "there is none"
    except OSError as error:
        raise InputError(f"{path}: cannot read the cache: {error.strerror}; name another folder") from None
    if not _MARK.startswith(found[8 : 8 + len(_MARK)]):
        raise InputError(f"{path}: not a cache of decoded images; move it away or name another folder")
    if length != _length(header, shape):
        return f"damaged: {length} bytes instead of {_length(header, shape)}"
    return None if found == header else "it was made from images that have changed since"


def _length(header: bytes, shape: tuple[int, ...]) -> int:
    return len(header) + math.prod(shape)


def _make(path: Path, header: bytes, samples: Sequence[Sample], shape: tuple[int, ...], threads: int) -> None:
    with _alone_in(path.parent) as alone:
        reason = _unfit(path, header, shape)
        if not reason:  # another process made it meanwhile
            return
        if path.exists():
            warnings.warn(f"{path}: {reason}; the images are decoded again", stacklevel=3)
        for left in abandoned(path) if alone else ():
            left.unlink()
        if shutil.disk_usage(path.parent).free < _length(header, shape):  # known before hours of decoding
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        _build(path, header, samples, shape, threads)


def _build(path: Path, header: bytes, samples: Sequence[Sample], shape: tuple[int, ...], threads: int) -> None:
    order = SequentialSampler(samples, _BATCH)
    # Files are kept as they are: what mirrors a sample is its view in training.
    stream = Stream(as_stored(samples), order.batch, views=(None,))
    pipeline = ImagePipeline([stream], shape[1:3], order.steps_per_epoch, threads=threads, **GREY_LEVELS)
    with (
        replacing(path) as temporary,
        temporary.open("wb") as file,
        pipeline as batches,
        progress_bar("decoding", len(samples)) as advance,
    ):
        file.write(header)
        for batch in batches:
            images = batch.images[0][0]
            file.write(images.permute(0, 2, 3, 1).to(torch.uint8).contiguous().numpy())
            advance(len(images))


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[bool]:
    """Wait until no other process is in this block for `folder`; True unless the file system cannot lock."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            alone = True
        except OSError:  # some network file systems; two may build then, the later one replacing the same by the same
            alone = False
        yield alone
    finally:
        os.close(descriptor)


def _state(path: str) -> str:
    try:
        found = os.stat(path)
    except OSError as error:
        reason = f"cannot read the image: {error.strerror}"
        raise InputError(f"{path}: {reason}; restore it or drop it from the list") from None
    return f"{found.st_size} {found.st_mtime_ns}"


def _digest(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode(errors="surrogateescape") + b"\0")
    return digest.hexdigest()
