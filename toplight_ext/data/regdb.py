"""RegDB: `Visible/<identity>/`, `Thermal/<identity>/`, and ten random halvings of the 412 identities in `idx/`.

Source: Nguyen et al., "Person Recognition System Based on a Combination of Body Images from Visible Light and Thermal
Cameras", Sensors 2017; the ten trials are those of Ye et al., AAAI 2018.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError
from .lists import Labels, read_labelled
from .samples import ONE_CAMERA, Listing, Modality, Published, Sample
from .tree import Tree

_LISTED = {Modality.VISIBLE: "visible", Modality.INFRARED: "thermal"}

PUBLISHED = {
    f"{half}_{trial}": Published(206, {(modality, ONE_CAMERA[modality]): 2060 for modality in Modality})
    for trial in range(1, 11)
    for half in ("train", "test")
}


def list_regdb(root: Path, split: str | None = None) -> Listing:
    """The images of one half of a trial, visible and then thermal, in the order of the lists.

    Args:
        split: "train_3" is the training half of trial 3, "test_3" its test half.

    Raises:
        InputError: another split; a folder or a list is missing or empty.
    """
    tree, labels = Tree(root), Labels()
    if split not in PUBLISHED:
        raise InputError(
            f"regdb: split {split!r}: expected train_1 to train_10 or test_1 to test_10; {root} has "
            f"{', '.join(regdb_splits(root)) or 'no list of them in idx'}"
        )
    samples: list[Sample] = []
    for modality in Modality:
        file = _list(tree.root, split, modality)
        samples += read_labelled(tree, file, labels, modality, lambda path, modality=modality: ONE_CAMERA[modality])
    return Listing(samples, tree.problems)


def regdb_splits(root: Path) -> list[str]:
    """Those halves of trials whose visible list is there."""
    return [split for split in PUBLISHED if _list(root, split, Modality.VISIBLE).is_file()]


def _list(root: Path, split: str, modality: Modality) -> Path:
    half, trial = split.split("_")
    return root / "idx" / f"{half}_{_LISTED[modality]}_{trial}.txt"
