"""The CSV manifest: header `path,identity,modality,camera`, paths relative to the manifest's folder."""

from __future__ import annotations

import csv
import io
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from ..errors import InputError
from .samples import Listing, Modality, Problem, Sample

FILE_NAME = "manifest.csv"
COLUMNS = ("path", "identity", "modality", "camera")
_MODALITIES = {modality.value: modality for modality in Modality}


class _RowError(Exception):
    """This row cannot become a sample; the text says why."""


def list_manifest(root: Path, split: str | None = None) -> Listing:
    """Read the manifest that `root` is, or that lies in folder `root` (or in `root/split`).

    Further columns are ignored; a byte order mark and Windows line ends are accepted. Identities become integers
    if all of them are plain decimal numbers ("7", not "007"), otherwise they all stay text.

    Raises:
        InputError: the manifest is missing, is not UTF-8 text in CSV form, or lacks a column.
    """
    file = find_manifest(root, split)
    folder = file.parent.resolve()
    contained = _Containment(folder)
    samples, problems = [], []
    for row, fields in _rows(file):
        try:
            if fields is None:
                raise _RowError("the number of fields is not that of the header")
            samples.append(_sample(fields, folder, contained))
        except _RowError as error:
            problems.append(Problem(f"{file}: row {row}", str(error)))
    if not samples and not problems:
        raise InputError(f"{file}: the manifest has a header but no rows; add one row per image")
    return Listing(_with_integer_identities(samples), problems)


def find_manifest(root: Path, split: str | None) -> Path:
    """The manifest file that `root` and `split` mean."""
    if root.is_file():
        if split is not None:
            raise InputError(
                f"{root} is one manifest, so it has no split {split!r}; "
                f"give the folder that holds {split}/{FILE_NAME}, or no split"
            )
        return root
    file = root / FILE_NAME if split is None else root / split / FILE_NAME
    if not file.is_file():
        found = sorted(str(f.relative_to(root)) for f in root.glob(f"*/{FILE_NAME}"))
        there = f"; there is {', '.join(found)}: name one as the split" if found else ""
        raise InputError(f"{file}: no such manifest{there}")
    return file


def write_manifest(file: Path, rows: Iterable[tuple[str, int | str, Modality, int]]) -> None:
    """Write (path relative to the manifest, identity, modality, camera) rows."""
    with open(file, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows((path, identity, modality.value, camera) for path, identity, modality, camera in rows)


def _rows(file: Path) -> Iterator[tuple[int, dict[str, str] | None]]:
    """(line number in the file, the four fields) of every row that is not blank; None for a row of wrong length."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not UTF-8 text ({error}); save the manifest as UTF-8 CSV") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        where = _columns(file, header)
        for fields in reader:
            if len(fields) == len(header):
                yield reader.line_num, {name: fields[i].strip() for name, i in where.items()}
            elif fields:
                yield reader.line_num, None
    except csv.Error as error:
        raise InputError(f"{file}: row {reader.line_num}: not CSV: {error}") from None


def _columns(file: Path, header: list[str]) -> dict[str, int]:
    """Position of each required column."""
    if not any(header):
        raise InputError(f"{file}: the manifest is empty; its first row must be {','.join(COLUMNS)}")
    for name in COLUMNS:
        if header.count(name) != 1:
            state = "is missing" if name not in header else "appears more than once"
            raise InputError(f"{file}: column {name!r} {state}; expected {','.join(COLUMNS)}, found {','.join(header)}")
    return {name: header.index(name) for name in COLUMNS}


def _sample(fields: dict[str, str], folder: Path, contained: _Containment) -> Sample:
    if not fields["identity"]:
        raise _RowError("the identity is empty; give a number or a name")
    if fields["modality"] not in _MODALITIES:
        raise _RowError(f"unknown modality {fields['modality']!r}; expected {' or '.join(_MODALITIES)}")
    if not _is_number(fields["camera"], digits=9):
        raise _RowError(f"bad camera {fields['camera']!r}; expected a whole number from 0")
    path = _image_path(fields["path"], folder, contained)
    return Sample(path, fields["identity"], _MODALITIES[fields["modality"]], int(fields["camera"]))


def _image_path(text: str, folder: Path, contained: _Containment) -> Path:
    """The image a row names, if it is a non-empty file inside the manifest's folder."""
    relative = PurePosixPath(text)
    if not text or "\0" in text:
        raise _RowError(f"bad path {text!r}; expected a path relative to the manifest")
    if relative.is_absolute() or ".." in relative.parts:
        raise _RowError(f"path {text!r} is absolute or contains '..'; paths are relative to the manifest's folder")
    path = folder / relative
    try:
        if not contained(path):
            raise _RowError(
                f"{text} leaves the manifest's folder through a symbolic link; "
                "put the manifest into a folder above the images"
            )
        status = path.stat()
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of symbolic links, before Python 3.13
        reason = error.strerror if isinstance(error, OSError) else error
        raise _RowError(f"{text}: cannot read the image: {reason}") from None
    if not stat.S_ISREG(status.st_mode):
        raise _RowError(f"{text} is not a file")
    if status.st_size == 0:
        raise _RowError(f"{text} is an empty file")
    return path


class _Containment:
    """Whether a path, symbolic links followed, stays inside a folder. Folders are resolved once."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._parents: dict[Path, bool] = {}

    def __call__(self, path: Path) -> bool:
        if path.parent not in self._parents:
            self._parents[path.parent] = self._inside(path.parent.resolve())
        return self._parents[path.parent] and (not os.path.islink(path) or self._inside(path.resolve()))

    def _inside(self, resolved: Path) -> bool:
        return resolved == self._folder or self._folder in resolved.parents


def _is_number(text: str, digits: int) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= digits


def _with_integer_identities(samples: list[Sample]) -> list[Sample]:
    # "007" and "7" are two names but one number: only when no text can be meant do identities become numbers.
    if not all(_is_number(s.identity, digits=18) and str(int(s.identity)) == s.identity for s in samples):
        return samples
    return [Sample(s.path, int(s.identity), s.modality, s.camera) for s in samples]
