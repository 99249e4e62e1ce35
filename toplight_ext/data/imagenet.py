"""ImageNet-1k and ImageNet-mini: `train/<class>/` and `val/<class>/`, a class being a WordNet number.

Source: Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", IJCV 2015; ImageNet-mini is the public
subset of 34,745 and 3,923 images with all 1,000 classes.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import InputError
from .folder import list_folder
from .samples import Listing, Modality, Problem, Published

SPLITS = ("train", "val")
_WORDNET = re.compile(r"n[0-9]{8}")


def _published(train: int, val: int) -> dict[str, Published]:
    return {
        split: Published(1000, {(Modality.VISIBLE, None): count})
        for split, count in zip(SPLITS, (train, val), strict=True)
    }


PUBLISHED = _published(1281167, 50000)
PUBLISHED_MINI = _published(34745, 3923)


def list_imagenet(root: Path, split: str | None = None) -> Listing:
    """The images of a split, by class.

    The validation images as they are distributed, in one folder, are not read: pretraining needs none of them, and
    the usual scripts sort them into class folders.

    Raises:
        InputError: another split, or no class folders in it.
    """
    if split not in SPLITS:
        raise InputError(f"imagenet: split {split!r}: expected train or val")
    try:
        listing = list_folder(root, split)
    except InputError as error:
        raise InputError(f"{error}; expected {split}/<class>/<image> with classes like n01440764") from None
    classes = {sample.identity for sample in listing.samples}
    strange = [
        Problem(str(root / split / name), "the folder's name is no WordNet number like n01440764")
        for name in sorted(classes)
        if not _WORDNET.fullmatch(name)
    ]
    return Listing(listing.samples, [*listing.problems, *strange])


def imagenet_splits(root: Path) -> list[str]:
    """Those of train and val that are there."""
    return [split for split in SPLITS if (root / split).is_dir()]
