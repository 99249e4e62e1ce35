"""Data sets by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..errors import InputError
from .folder import list_folder
from .manifest import list_manifest
from .samples import Listing, Sample
from .synthetic import draw_if_absent, list_synthetic

DATASETS: dict[str, Callable[[Path, str | None], Listing]] = {
    "csv": list_manifest,
    "folder": list_folder,
    "synthetic": list_synthetic,
}


def list_dataset(name: str, root: str | Path, split: str | None = None) -> Listing:
    """The samples of a data set together with the rows that had to be refused.

    Raises:
        InputError: no such data set, or its root or list as a whole cannot be used.
    """
    if name not in DATASETS:
        raise InputError(f"no data set {name!r}; known are {', '.join(DATASETS)}")
    return DATASETS[name](Path(root), split)


def load_dataset(name: str, root: str | Path, split: str | None = None) -> list[Sample]:
    """The samples of a data set.

    Args:
        name: "csv" (a manifest, or a folder with manifest.csv), "folder" (class folders, taken as visible images),
            or "synthetic" (drawn into `root` if that is missing or empty).
        root: the data set's folder or manifest.
        split: as "train"; a folder below `root`.

    Raises:
        InputError: as `list_dataset`, or a row cannot be used: nothing is left out silently.
    """
    if name == "synthetic":
        draw_if_absent(Path(root))
    listing = list_dataset(name, root, split)
    if listing.problems:
        more = len(listing.problems) - 1
        others = f" ({more} more like it: `toplight data check {name} {root}` lists all)" if more else ""
        raise InputError(f"{listing.problems[0]}{others}")
    return listing.samples
