"""A visible-infrared data set drawn by code, for demos and tests: no download, no licence, any size."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from ..errors import InputError
from ..extras import require
from ..files import errors_name
from .manifest import FILE_NAME, list_manifest, write_manifest
from .randomness import generator
from .rendering import render_infrared, render_visible
from .samples import ONE_CAMERA, Listing, Modality
from .walkers import draw_pose, draw_walker

SPLITS = ("train", "dev")
_RENDER = {Modality.VISIBLE: render_visible, Modality.INFRARED: render_infrared}
_JPEG_QUALITY = 92


def list_synthetic(root: Path, split: str | None = None) -> Listing:
    """The drawn set in `root`; without a split both of them, whose identities differ."""
    if split is not None and split not in SPLITS:
        raise InputError(f"synthetic: no split {split!r}; known are {', '.join(SPLITS)}")
    listings = [list_manifest(root, name) for name in (SPLITS if split is None else (split,))]
    return Listing(
        [sample for listing in listings for sample in listing.samples],
        [problem for listing in listings for problem in listing.problems],
    )


def draw_if_absent(root: Path) -> None:
    """Draw the set with the defaults of `draw_synthetic` if the folder is missing or empty."""
    if not _is_free(root):
        return
    try:
        draw_synthetic(root)
    except OSError:
        if _is_free(root):
            raise
        # Another process was faster, and drew the same.


def draw_synthetic(
    root: str | Path,
    identities: int = 200,
    dev_identities: int = 60,
    views: int = 4,
    size: tuple[int, int] = (128, 64),
    seed: int = 0,
) -> None:
    """Draw train/ and dev/, each with visible/, infrared/ and manifest.csv, into a new or empty folder.

    The folder appears whole or not at all.

    Args:
        identities, dev_identities: walkers of the two splits, none in both.
        views: images of a walker per modality.
        size: height and width in pixels.

    Raises:
        InputError: the folder is not empty.
    """
    root = Path(root)
    if not _is_free(root):
        raise InputError(f"{root} is not empty; give a new folder to draw into")
    root.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{root.name}.", dir=root.parent))
    try:
        temporary.chmod(0o777 & ~_umask())
        with errors_name(root):
            _draw_split(temporary / "train", range(identities), views, size, seed)
            _draw_split(temporary / "dev", range(identities, identities + dev_identities), views, size, seed)
        os.replace(temporary, root)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _draw_split(folder: Path, identities: range, views: int, size: tuple[int, int], seed: int) -> None:
    image = require("PIL.Image", extra="train")
    rows = []
    for identity in identities:
        walker = draw_walker(generator(seed, "walker", identity))
        for modality in Modality:
            (folder / modality.value / f"{identity:05d}").mkdir(parents=True)
            for view in range(views):
                random = generator(seed, f"view {modality.value}", identity, view)
                pixels = _RENDER[modality](walker, draw_pose(random), size, random)
                name = f"{modality.value}/{identity:05d}/{view}.jpg"
                image.fromarray(pixels).save(folder / name, quality=_JPEG_QUALITY)
                rows.append((name, identity, modality, ONE_CAMERA[modality]))
    write_manifest(folder / FILE_NAME, rows)


def _is_free(root: Path) -> bool:
    if root.exists() and not root.is_dir():
        raise InputError(f"{root} is a file; give a folder")
    return not root.exists() or not any(root.iterdir())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
