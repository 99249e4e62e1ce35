"""Class folders: `root[/split]/<class>/**/<image>`, the identity being the folder's name."""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError
from .header import EXTENSIONS
from .samples import ONE_CAMERA, Listing, Modality, Sample
from .tree import Tree, is_hidden

_SPLITS = ("train", "dev", "val", "valid", "validation", "test")


def list_folder(root: Path, split: str | None = None) -> Listing:
    """Every image below a class folder, as visible images, sorted by path; other files are left alone.

    Raises:
        InputError: the folder is missing, holds splits instead of classes, or no class folder holds an image.
    """
    if split is None and folder_splits(root) != [None]:
        raise InputError(f"{root}: its folders are splits, not classes: name one of {', '.join(folder_splits(root))}")
    tree = Tree(root)
    folder = tree.root if split is None else tree.root / split
    if split is not None and not (folder.is_dir() and tree.contains(folder)):
        there = ", ".join(child.name for child in tree.folders(tree.root))
        raise InputError(f"{root / split}: no such folder" + (f"; {root} has {there}" if there else ""))
    samples: list[Sample] = []
    for child in sorted(tree.folders(folder)):
        images = tree.all_images(child)
        samples += (Sample(path, child.name, Modality.VISIBLE, ONE_CAMERA[Modality.VISIBLE]) for path in images)
        if not images:
            tree.refuse(child, f"no image ({', '.join(EXTENSIONS)}) in this class folder")
    if not samples:
        raise InputError(f"{folder}: no class folder with an image ({', '.join(EXTENSIONS)}) in it")
    return Listing(samples, tree.problems)


def folder_splits(root: Path) -> list[str | None]:
    """The folders below the root if all of them have the name of a split; otherwise they are classes."""
    children = root.iterdir() if root.is_dir() else ()
    names = [child.name for child in children if child.is_dir() and not is_hidden(child.name)]
    if names and set(names) <= set(_SPLITS):
        return sorted(names, key=_SPLITS.index)
    return [None]
