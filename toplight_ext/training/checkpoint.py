"""Checkpoints of a running stage: the newest and the one before it, each with its checksum."""

from __future__ import annotations

import hashlib
import io
import os
import sys
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError
from ..files import check_file, flush, replacing
from ..models.tensor_files import load_pickled

# Behind what torch.save wrote, which torch.load reads as it is: this mark, the checksum of all before it in
# hexadecimal digits, and a line's end.
_MARK = b"\ntoplight_ext checkpoint 2 blake2b "
_TRAILER = len(_MARK) + 64 + 1


class Checkpoints:
    """The files `checkpoint.pt` and `checkpoint.previous.pt` of a folder.

    A new one is written beside them and takes the newest one's place when it lies whole on the disk, and that one
    the place of the previous. So one whole state is there at every moment.
    """

    def __init__(self, folder: Path):
        self.newest = folder / "checkpoint.pt"
        self.previous = folder / "checkpoint.previous.pt"

    def save(self, state: dict[str, Any]) -> None:
        """Write `state`: tensors and plain containers."""
        content = io.BytesIO()
        torch.save(state, content)
        content.write(_MARK + _checksum(content.getbuffer()) + b"\n")
        with replacing(self.newest) as temporary:
            temporary.write_bytes(content.getbuffer())
            flush(temporary)  # before anything is moved: some disks say only here that they are full
            if self.newest.exists():
                os.replace(self.newest, self.previous)

    def load(self) -> dict[str, Any] | None:
        """The newest state that can be used, None where there is none; what is refused is said on standard error.

        Raises:
            InputError: there are checkpoints, and none of them can be used.
        """
        refused = []
        for path in (self.newest, self.previous):
            if path.exists():
                try:
                    state = load_checkpoint(path)
                except InputError as error:
                    refused.append(str(error))
                else:
                    for reason in refused:
                        print(f"{reason}; continuing from {path.name}", file=sys.stderr)
                    return state
        if refused:
            raise InputError(f"{'; '.join(refused)}. Delete them to begin the stage anew")
        return None

    def remove(self) -> None:
        self.previous.unlink(missing_ok=True)
        self.newest.unlink(missing_ok=True)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `Checkpoints.save` wrote, without running code from it.

    Raises:
        InputError: the file cannot be read, is truncated or damaged, or is not one of ours.
    """
    try:
        check_file(path)
        content = memoryview(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: refused, it cannot be read: {error.strerror}") from error
    body, trailer = content[:-_TRAILER], bytes(content[-_TRAILER:])
    if not trailer.startswith(_MARK):
        raise InputError(f"{path}: refused, it is truncated or not a checkpoint of this version of toplight_ext")
    if trailer[len(_MARK) : -1] != _checksum(body):
        raise InputError(f"{path}: refused, it is damaged: its content does not have its checksum")
    try:
        return load_pickled(io.BytesIO(body))
    except ValueError as error:  # a stranger can write the checksum too
        raise InputError(f"{path}: refused, torch cannot read it ({error})") from error


def _checksum(content: memoryview) -> bytes:
    return hashlib.blake2b(content, digest_size=32).hexdigest().encode()
