"""LLCM: lists of the training images in `idx/`; test images by modality, camera and identity.

Source: Zhang and Wang, "Diverse Embedding Expansion Network and Low-Light Cross-Modality Benchmark for
Visible-Infrared Person Re-identification", CVPR 2023, and the code published with it.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import InputError
from .cameras import camera_folders, check_cells, read_camera
from .lists import Labels, read_identities, read_labelled
from .samples import Listing, Modality, Published, Sample
from .tree import RowError, Tree

_WORD = {Modality.VISIBLE: "vis", Modality.INFRARED: "nir"}
_CAMERA = re.compile(r"c0*([0-9]{1,4})")

PUBLISHED = {
    "train": Published(713, {(Modality.VISIBLE, None): 16946, (Modality.INFRARED, None): 13975}),
    "test": Published(351, {(Modality.VISIBLE, None): 8680, (Modality.INFRARED, None): 7166}),
}


def list_llcm(root: Path, split: str | None = None) -> Listing:
    """The images of a split: visible, then infrared.

    Training images are in the order of the lists. Test images are by identity, camera and name; within those in
    the order of characters and not of numbers, as the public code has it that draws the gallery from them.

    Args:
        split: "train" or "test".

    Raises:
        InputError: another split; a folder or a list is missing or empty.
    """
    if split not in PUBLISHED:
        raise InputError(f"llcm: split {split!r}: expected train or test")
    tree = Tree(root)
    samples = _train(tree) if split == "train" else _test(tree)
    return Listing(samples, tree.problems)


def _train(tree: Tree) -> list[Sample]:
    labels = Labels()
    files = {modality: tree.root / "idx" / f"train_{word}.txt" for modality, word in _WORD.items()}
    return [s for modality, file in files.items() for s in read_labelled(tree, file, labels, modality, _camera)]


def _camera(path: Path) -> int:
    """Of the name `0003_c01_s185734_f3195_vis.jpg`."""
    named = [match for match in map(_CAMERA.fullmatch, path.stem.split("_")) if match]
    if len(named) != 1:
        raise RowError(f"{path.name}: no camera in the name; expected it between underscores, as in 0003_c01_s1_f1.jpg")
    return int(named[0][1])


def _test(tree: Tree) -> list[Sample]:
    wanted = read_identities(tree, tree.root / "idx" / "test_id.txt")
    samples: list[Sample] = []
    for modality, word in _WORD.items():
        folder = tree.root / f"test_{word}"
        cameras = camera_folders(tree, folder)
        if not cameras:
            raise InputError(f"{folder}: no folder cam1, cam2, ... in it, where LLCM has its test images")
        found = [s for child, n in cameras.items() for s in read_camera(tree, child, n, modality, wanted, order=str)]
        samples += sorted(found, key=lambda sample: (sample.identity, sample.camera))
    check_cells(tree, samples, wanted)
    return samples
