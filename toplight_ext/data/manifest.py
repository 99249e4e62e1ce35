"""The CSV manifest: header `path,identity,modality,camera`, paths relative to the manifest's folder."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from pathlib import Path

from ..errors import InputError
from .lists import modality_of, read_table, whole_number
from .samples import Listing, Modality, Sample
from .tree import Tree, is_hidden, natural_key

FILE_NAME = "manifest.csv"
COLUMNS = ("path", "identity", "modality", "camera")


def list_manifest(root: Path, split: str | None = None) -> Listing:
    """Read the manifest that `root` is, or that lies in folder `root` (or in `root/split`).

    Raises:
        InputError: no such manifest, or as `read_table`.
    """
    return read_table(find_manifest(root, split), COLUMNS, _sample)


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
        found = [str(Path(name, FILE_NAME)) for name in _below(root)]
        there = f"; there is {', '.join(found)}: name one as the split" if found else ""
        raise InputError(f"{file}: no such manifest{there}")
    if not Tree(root).contains(file):
        raise InputError(f"{file}: it leads to {os.path.realpath(file)}, out of {root}; copy it below that")
    return file


def manifest_splits(root: Path) -> list[str | None]:
    """The folders with a manifest; no name where `root` is or has one itself."""
    return [None] if root.is_file() or (root / FILE_NAME).is_file() else _below(root) or [None]


def write_manifest(file: Path, rows: Iterable[tuple[str, int | str, Modality, int]]) -> None:
    """Write (path relative to the manifest, identity, modality, camera) rows."""
    with open(file, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows((path, identity, modality.value, camera) for path, identity, modality, camera in rows)


def _below(root: Path) -> list[str]:
    names = (file.parent.name for file in root.glob(f"*/{FILE_NAME}"))
    return sorted((name for name in names if not is_hidden(name)), key=natural_key)


def _sample(fields: dict[str, str], path: Path) -> Sample:
    camera = whole_number(fields["camera"], "camera")
    return Sample(path, fields["identity"], modality_of(fields["modality"]), camera)
