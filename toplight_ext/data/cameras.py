"""Trees of `cam<number>/<identity>/<image>`: SYSU-MM01, and the test images of LLCM."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

from .lists import is_number
from .samples import Modality, Sample
from .tree import Tree, natural_key

_CAMERA = re.compile(r"cam0*([0-9]{1,4})$", re.IGNORECASE)
_IDENTITY_DIGITS = 9


def camera_folders(tree: Tree, folder: Path) -> dict[Path, int]:
    """The folders `cam<number>` in a folder, with their numbers."""
    return {child: int(_CAMERA.match(child.name)[1]) for child in tree.folders(folder, _CAMERA)}


def read_camera(
    tree: Tree,
    folder: Path,
    camera: int,
    modality: Modality,
    wanted: Collection[int],
    order: Callable[[str], Any] = natural_key,
) -> list[Sample]:
    """The images of the wanted identities in the folder of one camera.

    Args:
        order: key of the files' names, in whose order they are numbered.
    """
    samples: list[Sample] = []
    for child in tree.folders(folder):
        if not is_number(child.name, _IDENTITY_DIGITS):
            tree.refuse(child, "the folder's name is not the number of an identity; rename or remove it")
        elif int(child.name) in wanted:
            samples += (Sample(path, int(child.name), modality, camera) for path in tree.images(child, order))
    return samples


def check_cells(tree: Tree, samples: Iterable[Sample], wanted: Collection[int]) -> None:
    """Note as problems the identities without an image, and images of one identity and camera with one number."""
    for identity in sorted(set(wanted) - {sample.identity for sample in samples}):
        tree.refuse(f"{tree.root}: identity {identity}", "it is listed, and no camera has an image of it")
    first: dict[tuple, Path] = {}
    for s in samples:
        other = first.setdefault((s.modality, s.camera, s.identity, natural_key(s.path.stem)), s.path)
        if other is not s.path:
            tree.refuse(s.path, f"it has the number of {other.name}; remove one of them")
