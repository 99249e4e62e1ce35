"""Oulu-CASIA NIR-VIS and BUAA-VisNir: faces, by lists that the user writes, since none are published."""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError
from .lists import modality_of, read_table
from .samples import ONE_CAMERA, Listing, Sample
from .tree import is_hidden, natural_key

COLUMNS = ("path", "label", "modality")


def list_faces(root: Path, split: str | None = None) -> Listing:
    """The images of a list, in its order.

    Args:
        root: the list, or the folder with the lists `<split>.csv`; paths are relative to the list's folder.
        split: as "test", or "test_3" for the third of several folds.

    Raises:
        InputError: no such list, or as `read_table`.
    """
    if root.is_file() and split is not None:
        raise InputError(f"{root} is one list, so it has no split {split!r}; give its folder, or no split")
    if not root.exists():
        raise InputError(f"{root}: no such folder")
    file = root if root.is_file() else root / f"{split}.csv"
    if not file.is_file():
        missing = "name the list to read as the split" if split is None else f"no list {file.name}"
        raise InputError(
            f"{root}: {missing}; there is {', '.join(map(str, face_splits(root))) or 'none'}. Lists for Oulu-CASIA "
            f"NIR-VIS and BUAA are not published: write one per split, as test.csv, with the columns "
            f"{','.join(COLUMNS)} (modality visible or infrared)"
        )
    return read_table(file, COLUMNS, _sample)


def face_splits(root: Path) -> list[str | None]:
    """The names of the lists in a folder; of a list itself, no name."""
    if root.is_file():
        return [None]
    return sorted((file.stem for file in root.glob("*.csv") if not is_hidden(file.name)), key=natural_key)


def _sample(fields: dict[str, str], path: Path) -> Sample:
    modality = modality_of(fields["modality"])
    return Sample(path, fields["label"], modality, ONE_CAMERA[modality])
