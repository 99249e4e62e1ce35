"""The files below a data set's root, and the guarantee that a listing names no file outside of it."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import InputError
from .header import EXTENSIONS
from .samples import Problem

_DIGITS = re.compile(r"([0-9]+)")
# Ends of lines, commands to terminals, and what stands for bytes that are not UTF-8.
_NO_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_LONGEST_QUOTE = 80
_MOST_PROBLEMS = 10_000  # our choice: nobody mends more by hand


class RowError(Exception):
    """This row of a list cannot become a sample; the text says why."""


def natural_key(name: str) -> tuple:
    """Sorts digits as numbers: "2" before "10", and "0002" where "2" is."""
    parts = _DIGITS.split(name)
    parts[1::2] = ((len(number), number) for number in (digits.lstrip("0") for digits in parts[1::2]))
    return tuple(parts)


def quoted(text: str) -> str:
    """`text` as Python writes it, cut where nobody reads on."""
    return repr(text if len(text) <= _LONGEST_QUOTE else f"{text[:_LONGEST_QUOTE]}...")


def is_text(name: str) -> bool:
    """Whether a name can be printed and written down: no control characters, and UTF-8 on the disk."""
    return not _NO_TEXT.search(name)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is left alone, as those that file managers and version control leave behind."""
    return name.startswith(".")


class Tree:
    """A data set's folder as its reader sees it.

    Symbolic links are followed as long as they stay below the root. What cannot be used is kept in `problems`.

    Raises:
        InputError: there is no such folder.
    """

    def __init__(self, root: Path):
        if not root.is_dir():
            raise InputError(f"{root}: {'not a folder' if root.exists() else 'no such folder'}")
        self.root = root.resolve()
        self.problems: list[Problem] = []
        self._inside: dict[Path, bool] = {}
        self._named: dict[Path, str] = {}

    def refuse(self, where: str | Path, what: object) -> None:
        """Raises InputError if there are too many problems to be kept."""
        self.problems.append(Problem(str(where), str(what)))
        if len(self.problems) >= _MOST_PROBLEMS:
            raise InputError(f"{self.problems[-1]}; that makes {_MOST_PROBLEMS:,} rows or files which cannot be used")

    def image(self, text: str, row: str) -> Path:
        """The image that a list names, if it is a non-empty file below the root that no row before named.

        Args:
            text: path relative to the root, as the list has it.
            row: where it stands, for the message about a second one.

        Raises:
            RowError: it is not.
        """
        relative = PurePosixPath(text)
        if not text or not is_text(text):
            raise RowError(f"bad path {quoted(text)}; expected a path relative to {self.root}")
        if relative.is_absolute() or ".." in relative.parts:
            raise RowError(f"path {quoted(text)} is absolute or contains '..'; paths are relative to {self.root}")
        path = self.root / relative
        try:
            if not self.contains(path):
                raise RowError(f"{quoted(text)} leaves {self.root} through a symbolic link; copy the image below it")
            status = path.stat()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise RowError(f"{quoted(text)}: cannot read the image: {reason}") from None
        if not stat.S_ISREG(status.st_mode):
            raise RowError(f"{quoted(text)} is not a file")
        if status.st_size == 0:
            raise RowError(f"{quoted(text)} is an empty file")
        if path in self._named:
            raise RowError(f"{quoted(text)} is listed twice, first in {self._named[path]}; keep one row")
        self._named[path] = row
        return path

    def folders(self, folder: Path, named: re.Pattern[str] = re.compile("")) -> list[Path]:
        """The folders in a folder whose names match, in natural order; others and hidden ones are left alone."""
        return self._below(folder, lambda entry: named.match(entry.name) and _is_folder(entry), natural_key)

    def images(self, folder: Path, order: Callable[[str], Any] = str) -> list[Path]:
        """The images in a folder, ordered by a key of their names; other files are left alone, as hidden ones are."""
        return self._below(folder, _is_image, order)

    def all_images(self, folder: Path) -> list[Path]:
        """The images in a folder, then those in the folders below it."""
        return self._all_images(folder, (os.path.realpath(folder),))

    def _all_images(self, folder: Path, above: tuple[str, ...]) -> list[Path]:
        found = self.images(folder)
        for child in self.folders(folder):
            real = os.path.realpath(child) if child.is_symlink() else os.path.join(above[-1], child.name)
            if real in above:
                self.refuse(child, "the link leads back to a folder above it; remove it")
            else:
                found += self._all_images(child, (*above, real))
        return found

    def _below(self, folder: Path, wanted: Callable[[os.DirEntry], bool], order: Callable[[str], Any]) -> list[Path]:
        if not self.contains(folder):
            self.refuse(folder, f"the link leads to {os.path.realpath(folder)}, out of {self.root}; copy it below that")
            return []
        try:
            with os.scandir(folder) as entries:
                # `wanted` follows links, and a broken one is to be named rather than skipped.
                found = [(e.name, e.is_symlink()) for e in entries if not is_hidden(e.name) and wanted(e)]
        except OSError as error:
            self.refuse(folder, f"cannot read the folder: {error.strerror}")
            return []
        paths = []
        for name, is_link in sorted(found, key=lambda entry: (order(entry[0]), entry[0])):
            path = folder / name
            if not is_text(name):
                self.refuse(folder, f"the name {quoted(name)} is not UTF-8 or has control characters; rename it")
            elif is_link and not self.contains(path):
                self.refuse(path, f"the link leads to {os.path.realpath(path)}, out of {self.root}; copy it below that")
            elif is_link and not os.path.exists(path):
                self.refuse(path, "the link leads to nothing; remove it")
            else:
                paths.append(path)
        return paths

    def contains(self, path: Path) -> bool:
        """Whether the root, or a path below it, stays there when symbolic links are followed.

        Folders are resolved once.
        """
        parent = path.parent
        if parent not in self._inside:
            self._inside[parent] = self._is_below(os.path.realpath(parent))
        return (self._inside[parent] and not os.path.islink(path)) or self._is_below(os.path.realpath(path))

    def _is_below(self, real: str) -> bool:
        return os.path.join(real, "").startswith(os.path.join(self.root, ""))


def _is_folder(entry: os.DirEntry) -> bool:
    # A link to itself is an error to DirEntry, and just no folder to os.path.
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _is_image(entry: os.DirEntry) -> bool:
    return entry.name.lower().endswith(EXTENSIONS) and (entry.is_symlink() or entry.is_file())
