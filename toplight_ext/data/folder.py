"""Class folders: `root[/split]/<identity>/**/<image>`, the identity being the folder's name."""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError
from .header import EXTENSIONS
from .samples import Listing, Modality, Problem, Sample

_CAMERA = 1  # class folders do not tell the camera


def list_folder(root: Path, split: str | None = None, modality: Modality = Modality.VISIBLE) -> Listing:
    """Every image below a class folder, sorted by path; other files are left alone.

    Raises:
        InputError: the folder is missing or no class folder holds an image.
    """
    folder = root if split is None else root / split
    if not folder.is_dir():
        there = sorted(child.name for child in root.iterdir() if child.is_dir()) if root.is_dir() else []
        raise InputError(f"{folder}: no such folder" + (f"; {root} has {', '.join(there)}" if there else ""))
    classes = sorted(child for child in folder.iterdir() if child.is_dir())
    images = {child: _images(child) for child in classes}
    problems = [
        Problem(str(child), f"no image ({', '.join(EXTENSIONS)}) in this class folder")
        for child, files in images.items()
        if not files
    ]
    samples = [Sample(file, child.name, modality, _CAMERA) for child in classes for file in images[child]]
    if not samples:
        raise InputError(f"{folder}: no class folder with an image ({', '.join(EXTENSIONS)}) in it")
    return Listing(samples, problems)


def _images(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in EXTENSIONS and file.is_file())
