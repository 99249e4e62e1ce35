"""Data sets by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..errors import InputError
from . import imagenet, llcm, regdb, sysu
from .faces import face_splits, list_faces
from .folder import folder_splits, list_folder
from .manifest import list_manifest, manifest_splits
from .samples import Listing, Published, Sample
from .synthetic import SPLITS, draw_if_absent, list_synthetic


@dataclass(frozen=True)
class Dataset:
    """How a data set is read, and what is known of it.

    Attributes:
        read: (root, split) -> its listing.
        splits: root -> the splits that are there; None for one without a name.
        evaluated: the split that is meant where an evaluation names none.
        leak: what it is that one identity is in the training split and in another one. In classification, nothing;
            a warning where every list may number its own identities.
        published: what the splits must hold, where that is published.
    """

    read: Callable[[Path, str | None], Listing]
    splits: Callable[[Path], list[str | None]]
    evaluated: str | None = None
    leak: Literal["error", "warning"] | None = "error"
    published: Mapping[str, Published] = field(default_factory=dict)


def _always(*splits: str) -> Callable[[Path], list[str | None]]:
    return lambda root: list(splits)


_FACES = Dataset(list_faces, face_splits, leak="warning")

DATASETS: dict[str, Dataset] = {
    "sysu": Dataset(sysu.list_sysu, _always(*sysu.PUBLISHED), evaluated="test", published=sysu.PUBLISHED),
    "regdb": Dataset(regdb.list_regdb, regdb.regdb_splits, published=regdb.PUBLISHED),
    "llcm": Dataset(llcm.list_llcm, _always(*llcm.PUBLISHED), evaluated="test", published=llcm.PUBLISHED),
    "oulu": _FACES,
    "buaa": _FACES,
    "imagenet": Dataset(imagenet.list_imagenet, imagenet.imagenet_splits, leak=None, published=imagenet.PUBLISHED),
    "imagenet-mini": Dataset(
        imagenet.list_imagenet, imagenet.imagenet_splits, leak=None, published=imagenet.PUBLISHED_MINI
    ),
    "folder": Dataset(list_folder, folder_splits, leak=None),
    "csv": Dataset(list_manifest, manifest_splits, leak="warning"),
    "synthetic": Dataset(list_synthetic, _always(*SPLITS)),
}


def find_dataset(name: str) -> Dataset:
    """Raises InputError if there is no data set of this name."""
    if name not in DATASETS:
        raise InputError(f"no data set {name!r}; known are {', '.join(DATASETS)}")
    return DATASETS[name]


def list_dataset(name: str, root: str | Path, split: str | None = None) -> Listing:
    """The samples of a data set together with the rows that had to be refused.

    Raises:
        InputError: no such data set, or its root or list as a whole cannot be used.
    """
    return find_dataset(name).read(Path(root), split)


def load_dataset(name: str, root: str | Path, split: str | None = None, draw: bool = True) -> list[Sample]:
    """The samples of a data set.

    Args:
        name: sysu, regdb, llcm, oulu, buaa, imagenet, imagenet-mini, folder (class folders, taken as visible images),
            csv (a manifest, or a folder with manifest.csv), or synthetic. docs/data.md describes their layouts.
        root: the data set's folder or list.
        split: as "train", or "train_3" for the third of numbered trials.
        draw: whether the set synthetic is drawn into `root` if that is missing or empty.

    Raises:
        InputError: as `list_dataset`, or a row cannot be used: nothing is left out silently.
    """
    if draw and name == "synthetic":
        draw_if_absent(Path(root))
    listing = list_dataset(name, root, split)
    if listing.problems:
        more = len(listing.problems) - 1
        others = f" ({more} more like it: `toplight data check {name} {root}` lists all)" if more else ""
        raise InputError(f"{listing.problems[0]}{others}")
    return listing.samples
