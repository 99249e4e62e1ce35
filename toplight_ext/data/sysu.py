"""SYSU-MM01: `cam1` to `cam6`, below them `<identity>/<number>.jpg`, and the identities of the splits in `exp/`.

Source: Wu et al., "RGB-Infrared Cross-Modality Person Re-Identification", ICCV 2017, and the permutations published
with its evaluation code, whose lengths are the numbers of images.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError
from .cameras import camera_folders, check_cells, read_camera
from .lists import read_identities
from .samples import Listing, Modality, Published
from .tree import Tree

_CAMERAS = dict.fromkeys((1, 2, 4, 5), Modality.VISIBLE) | dict.fromkeys((3, 6), Modality.INFRARED)

# The field trains on the identities of both lists: 296 and 99 of them.
_LISTS = {
    "train": ("train_id.txt", "val_id.txt"),
    "test": ("test_id.txt",),
    "train_only": ("train_id.txt",),
    "val": ("val_id.txt",),
}


def _published(identities: int, *images: int) -> Published:
    counts = {(_CAMERAS[camera], camera): count for camera, count in enumerate(images, start=1)}
    for modality in Modality:
        counts[modality, None] = sum(counts[key] for key in list(counts) if key[0] is modality)
    return Published(identities, counts)


PUBLISHED = {
    "train": _published(395, 4721, 5753, 7909, 5811, 5973, 4000),
    "test": _published(96, 1374, 1565, 1883, 1918, 1918, 1920),
}


def list_sysu(root: Path, split: str | None = None) -> Listing:
    """The images of a split, all cameras, by identity, camera and number.

    Args:
        split: "train", the 395 identities of train_id.txt and val_id.txt, or "train_only" and "val" for those of
            one list; or "test".

    Raises:
        InputError: another split; a folder or a list of identities is missing.
    """
    if split not in _LISTS:
        raise InputError(f"sysu: split {split!r}: expected train, train_only, val or test")
    tree = Tree(root)
    cameras = {folder: number for folder, number in camera_folders(tree, tree.root).items() if number in _CAMERAS}
    missing = sorted(_CAMERAS.keys() - cameras.values())
    if missing:
        raise InputError(f"{root}: no folder cam{missing[0]}; expected cam1 to cam6 of SYSU-MM01, and exp")
    wanted = read_identities(tree, *(tree.root / "exp" / name for name in _LISTS[split]))
    samples = [s for folder, n in cameras.items() for s in read_camera(tree, folder, n, _CAMERAS[n], wanted)]
    check_cells(tree, samples, wanted)
    return Listing(sorted(samples, key=lambda sample: (sample.identity, sample.camera)), tree.problems)
