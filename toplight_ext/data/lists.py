"""List files: UTF-8 text, read row by row; a row that cannot be used is refused by its number."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..errors import InputError
from .samples import Listing, Modality, Sample
from .tree import RowError, Tree, quoted

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_DIGITS = 9  # of identities, labels and cameras
_LONGEST_ROW = 1 << 16  # characters; no path is as long
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


def read_text(file: Path) -> str:
    """A list file's text, without a byte order mark.

    Raises:
        InputError: the file cannot be read or is not UTF-8.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: cannot read the list: {error.strerror}") from None
    if data.startswith(_UTF16):
        raise InputError(f"{file}: UTF-16, not UTF-8 text; save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not UTF-8 text ({error}); save it as UTF-8") from None


def read_identities(tree: Tree, *files: Path) -> set[int]:
    """The identities of lists like `exp/train_id.txt` of SYSU-MM01: numbers between commas.

    Raises:
        InputError: a list cannot be read, or names nobody.
    """
    found: dict[int, Path] = {}
    for file in files:
        for position, text in enumerate(filter(None, re.split(r"[,\s]+", read_text(file))), start=1):
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
    rows = [(number, line) for number, line in enumerate(io.StringIO(read_text(file)), start=1) if line.strip()]
    if not rows:
        raise InputError(f"{file}: the list is empty; expected rows of path and label")
    samples = []
    for number, line in rows:
        where = f"{file}: row {number}"
        try:
            fields = line.rsplit(maxsplit=1)
            if len(fields) != 2 or len(line) > _LONGEST_ROW:
                raise RowError(f"{quoted(line.strip())}: expected a path and a label with a space between")
            path = tree.image(fields[0].strip(), where)
            _check_modality(path.relative_to(tree.root), modality)
            identity = whole_number(path.parent.name, "identity (the folder's name)")
            labels.check(whole_number(fields[1], "label"), identity)
            samples.append(Sample(path, identity, modality, camera_of(path)))
        except RowError as error:
            tree.refuse(where, error)
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
    for row, fields in _rows(file, columns):
        where = f"{file}: row {row}"
        try:
            if fields is None:
                raise RowError("the number of fields is not that of the header")
            found = sample(fields, tree.image(fields[columns[0]], where))
            if not found.identity:
                raise RowError("the identity is empty; give a number or a name")
            samples.append(found)
        except RowError as error:
            tree.refuse(where, error)
    if not samples and not tree.problems:
        raise InputError(f"{file}: the list has a header but no rows; add one row per image")
    return Listing(_with_integer_identities(samples), tree.problems)


def _rows(file: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str] | None]]:
    """(line number in the file, the fields by column) of rows that are not blank; None for a row of wrong length."""
    reader = csv.reader(io.StringIO(read_text(file), newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        where = _positions(file, header, columns)
        for fields in reader:
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
