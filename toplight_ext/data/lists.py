"""List files: UTF-8 text, read row by row; a row that cannot be used is refused by its number."""

from __future__ import annotations

import codecs
import csv
import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..errors import InputError
from ..files import read_bounded
from .samples import Listing, Modality, Sample
from .tree import RowError, Tree, is_text, quoted

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_DIGITS = 9  # of identities, labels and cameras
_LONGEST_ROW = 1 << 16  # characters; no path is as long
_LONGEST_IDENTITY = 255  # characters, as many as a folder's name may have
_MOST_BYTES = 1 << 27  # our choice: a list of all 1.3 million images of ImageNet-1k has half of it
_FOLDERS = {Modality.VISIBLE: {"visible", "vis"}, Modality.INFRARED: {"thermal", "nir"}}


def whole_number(text: str, what: str) -> int:
    """Raises RowError unless the text is a whole number from 0, of at most nine digits."""
    if not is_number(text, _DIGITS):
        raise RowError(f"bad {what} {quoted(text)}; expected a whole number from 0")
    return int(text)


def is_number(text: str, digits: int) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= digits


def modality_of(text: str) -> Modality:
    """Raises RowError for another word."""
    try:
        return Modality(text)
    except ValueError:
        expected = " or ".join(modality.value for modality in Modality)
        raise RowError(f"unknown modality {quoted(text)}; expected {expected}") from None


class Lines:
    """The lines of a list file, without a byte order mark, read one by one.

    `begin_row` is to be called where a row begins, which may be several lines.

    Raises:
        InputError: the file cannot be read, lies outside of the tree, is too large or not UTF-8; or, while iterating,
            a row is longer than any that could be used.
    """

    def __init__(self, tree: Tree, file: Path):
        self._file, self._length = file, 0
        self._stream = io.TextIOWrapper(io.BytesIO(_read(tree, file)), encoding="utf-8-sig", newline="")

    def __iter__(self) -> Iterator[str]:
        # A line is not read further than it is known to be too long.
        return iter(self._next, "")

    def _next(self) -> str:
        line = self._stream.readline(_LONGEST_ROW + 1)
        self._length += len(line)
        if self._length > _LONGEST_ROW:
            raise InputError(f"{self._file}: it has a row of more than {_LONGEST_ROW:,} characters, which is no path")
        return line

    def begin_row(self) -> None:
        self._length = 0


def _read(tree: Tree, file: Path) -> bytes:
    if not tree.contains(file):
        raise InputError(f"{file}: the list leads to {os.path.realpath(file)}, out of {tree.root}; copy it below that")
    try:
        data = read_bounded(file, _MOST_BYTES)
    except OSError as error:
        raise InputError(f"{file}: cannot read the list: {error.strerror}") from None
    if data.startswith(_UTF16):
        raise InputError(f"{file}: UTF-16, not UTF-8 text; save it as UTF-8")
    try:
        data.decode()
    except UnicodeDecodeError as error:
        where = f"byte {error.start:,}: {error.reason}"
        raise InputError(f"{file}: not UTF-8 text ({where}); save it as UTF-8") from None
    return data


def read_identities(tree: Tree, *files: Path) -> set[int]:
    """The identities of lists like `exp/train_id.txt` of SYSU-MM01: numbers between commas.

    Raises:
        InputError: a list cannot be read, or names nobody.
    """
    found: dict[int, Path] = {}
    for file in files:
        for position, text in enumerate(_words(Lines(tree, file)), start=1):
            try:
                identity = whole_number(text, "identity")
                if identity in found:
                    raise RowError(f"identity {identity} is listed already in {found[identity].name}; keep one")
                found[identity] = file
            except RowError as error:
                tree.refuse(f"{file}: entry {position}", error)
        if file not in found.values():
            raise InputError(f"{file}: no identity in it; expected numbers between commas, as 6,10,17")
    return set(found)


def _words(lines: Lines) -> Iterator[str]:
    """What stands between commas and spaces."""
    for line in lines:
        lines.begin_row()
        yield from filter(None, re.split(r"[,\s]+", line))


class Labels:
    """Labels of lists that belong together, checked to stand for one identity each."""

    def __init__(self) -> None:
        self._identity: dict[int, int] = {}
        self._label: dict[int, int] = {}

    def check(self, label: int, identity: int) -> None:
        """Raises RowError if a row before gave the label to another identity, or the identity another label."""
        known = self._identity.setdefault(label, identity), self._label.setdefault(identity, label)
        if known[0] != identity:
            raise RowError(f"label {label} is given to identity {identity} here, and to {known[0]} before")
        if known[1] != label:
            raise RowError(f"identity {identity} has the label {label} here, and {known[1]} before")


def read_labelled(
    tree: Tree, file: Path, labels: Labels, modality: Modality, camera_of: Callable[[Path], int]
) -> list[Sample]:
    """The images of a list of `path label` rows; the identity is the number of the folder that an image lies in.

    Labels number the classes of one split, anew in each; they are checked and not used.

    Raises:
        InputError: the list cannot be read, or has no row.
    """
    samples, lines, where = [], Lines(tree, file), ""
    for number, line in enumerate(lines, start=1):
        lines.begin_row()
        if not line.strip():
            continue
        where = f"{file}: row {number}"
        try:
            fields = line.rsplit(maxsplit=1)
            if len(fields) != 2:
                raise RowError(f"{quoted(line.strip())}: expected a path and a label with a space between")
            path = tree.image(fields[0].strip(), where)
            _check_modality(path.relative_to(tree.root), modality)
            identity = whole_number(path.parent.name, "identity (the folder's name)")
            labels.check(whole_number(fields[1], "label"), identity)
            samples.append(Sample(path, identity, modality, camera_of(path)))
        except RowError as error:
            tree.refuse(where, error)
    if not where:
        raise InputError(f"{file}: the list is empty; expected rows of path and label")
    return samples


def _check_modality(relative: Path, modality: Modality) -> None:
    for other, names in _FOLDERS.items():
        wrong = [part for part in relative.parts[:-1] if part.lower() in names]
        if wrong and other is not modality:
            raise RowError(f"{relative} lies in {wrong[0]}, and this is the list of {modality.value} images")


def read_table(file: Path, columns: Sequence[str], sample: Callable[[dict[str, str], Path], Sample]) -> Listing:
    """The images of a CSV file with a header, paths relative to its folder, in the order of the rows.

    Further columns are ignored; a byte order mark and Windows line ends are accepted. Identities become integers
    if all of them are plain decimal numbers ("7", not "007"), otherwise they all stay text.

    Args:
        columns: that it must have; the first is the path.
        sample: makes it from the fields and the image's path; raises RowError.

    Raises:
        InputError: the file cannot be read, is not CSV, lacks a column or has no row.
    """
    tree = Tree(file.parent)
    samples = []
    for row, fields in _rows(tree, file, columns):
        where = f"{file}: row {row}"
        try:
            if fields is None:
                raise RowError("the number of fields is not that of the header")
            found = sample(fields, tree.image(fields[columns[0]], where))
            _check_identity(found.identity)
            samples.append(found)
        except RowError as error:
            tree.refuse(where, error)
    if not samples and not tree.problems:
        raise InputError(f"{file}: the list has a header but no rows; add one row per image")
    return Listing(_with_integer_identities(samples), tree.problems)


def _check_identity(name: str) -> None:
    if not name:
        raise RowError("the identity is empty; give a number or a name")
    if len(name) > _LONGEST_IDENTITY or not is_text(name):
        raise RowError(
            f"bad identity {quoted(name)}; expected at most {_LONGEST_IDENTITY} characters, no control characters"
        )


def _rows(tree: Tree, file: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str] | None]]:
    """(line number in the file, the fields by column) of rows that are not blank; None for a row of wrong length."""
    lines = Lines(tree, file)
    reader = csv.reader(lines, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        where = _positions(file, header, columns)
        lines.begin_row()
        for fields in reader:
            lines.begin_row()
            if len(fields) == len(header):
                yield reader.line_num, {name: fields[i].strip() for name, i in where.items()}
            elif fields:
                yield reader.line_num, None
    except csv.Error as error:
        raise InputError(f"{file}: row {reader.line_num}: not CSV: {error}") from None


def _positions(file: Path, header: list[str], columns: Sequence[str]) -> dict[str, int]:
    expected = ",".join(columns)
    if not any(header):
        raise InputError(f"{file}: the list is empty; its first row must be {expected}")
    for name in columns:
        if header.count(name) != 1:
            state = "is missing" if name not in header else "appears more than once"
            raise InputError(f"{file}: column {name!r} {state}; expected {expected}, found {quoted(','.join(header))}")
    return {name: header.index(name) for name in columns}


def _with_integer_identities(samples: list[Sample]) -> list[Sample]:
    # "007" and "7" are two names but one number: only when no text can be meant do identities become numbers.
    if not all(is_number(s.identity, digits=18) and str(int(s.identity)) == s.identity for s in samples):
        return samples
    return [Sample(s.path, int(s.identity), s.modality, s.camera) for s in samples]
