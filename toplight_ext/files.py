"""Reading files that may be anything, and writing them so that a reader sees the old content or the whole new one."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def check_file(path: str | Path) -> None:
    """For what others open: a pipe would keep them waiting, and reading a device might not end.

    Raises:
        OSError: there is no such file, or it is a folder, a pipe or a device.
    """
    _check_regular(os.stat(path), path)


def read_json(path: str | Path, most: int = 1 << 24) -> Any:
    """What a JSON file of strangers holds.

    Raises:
        OSError: as `read_bounded`.
        ValueError: it is not JSON, or nested too deep.
    """
    try:
        return json.loads(read_bounded(path, most))
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def read_bounded(path: str | Path, most: int) -> bytes:
    """The content of a file of strangers.

    Raises:
        OSError: it cannot be read, is a folder, a pipe or a device, or has more than `most` bytes.
    """
    # Opening a pipe would wait for its writer, and reading a device might not end.
    with open(path, "rb", 0, opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as file:
        found = os.fstat(file.fileno())
        _check_regular(found, path)
        if found.st_size > most:
            raise OSError(errno.EFBIG, f"it has {found.st_size:,} bytes, more than the limit of {most:,}", str(path))
        return file.readall()


def _check_regular(found: os.stat_result, path: str | Path) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is no file but a folder, a pipe, a socket or a device", str(path))


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well it is flushed to disk and renamed to `path`.

    If the block raises, or the process dies in it, `path` keeps its old content.

    Raises:
        OSError: it cannot be written; the error names `path`, whatever the system said of it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(_temporary_name(path, os.getpid()))
    with errors_name(path, instead_of=temporary):
        temporary.unlink(missing_ok=True)  # a stranger's folder may hold a link of this name, to be written through
        try:
            yield temporary
            flush(temporary)
            os.replace(temporary, path)
            flush(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def errors_name(path: Path, instead_of: Path | None = None) -> Iterator[None]:
    """Inside, an OSError that names no file, as those of a full disk, or `instead_of`, names `path`."""
    try:
        yield
    except OSError as error:
        named = {error.filename, error.filename2}  # the second one is where something was copied or moved to
        if error.errno is None:  # from a library that has a text of its own
            raise OSError(f"{path}: {error}") from error
        if named == {None} or str(instead_of) in map(str, named):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def abandoned(path: Path) -> list[Path]:
    """Temporary files that lie beside `path`: of processes that are in `replacing`, or that were killed in it."""
    return list(path.parent.glob(_temporary_name(path, "*")))


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 to `path`, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _temporary_name(path: Path, process: int | str) -> str:
    return f".{path.name}.{process}.tmp"


def flush(path: Path) -> None:
    """Wait until the content of a file, or the entries of a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
