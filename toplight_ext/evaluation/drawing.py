"""Galleries that are drawn: some images of every identity and camera, by the seeds of AGW's public code.

Source of the seeds: Ye et al., "Deep Learning for Person Re-identification: A Survey and Outlook", TPAMI 2021, and
the code published with it: trial t seeds Python's generator with t, then draws cell by cell.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from ..errors import InputError
from .features import Features

TRIALS = 10


def cells(features: Features, rows: np.ndarray) -> list[np.ndarray]:
    """The rows by identity, then camera; within such a cell by `index`, the order of the file names.

    Raises:
        InputError: no `index`, or two images of a cell with one number.
    """
    if features.index is None:
        raise InputError("`index` (number of the image within its camera and identity) is missing; the draw needs it")
    _, identity = np.unique(features.identity, return_inverse=True)
    order = rows[np.lexsort((features.index[rows], features.camera[rows], identity[rows]))]
    keys = np.stack([identity[order], features.camera[order], features.index[order]])
    twins = np.flatnonzero((keys[:, 1:] == keys[:, :-1]).all(axis=0))
    if len(twins):
        first, second = order[twins[0]], order[twins[0] + 1]
        raise InputError(
            f"rows {first} and {second} are both image {features.index[first]} of identity "
            f"{features.identity[first]}, camera {features.camera[first]}"
        )
    starts = np.flatnonzero((keys[:2, 1:] != keys[:2, :-1]).any(axis=0)) + 1
    return np.split(order, starts)


def draw(images: Sequence[np.ndarray], trial: int, shots: int = 1) -> np.ndarray:
    """`shots` rows of every cell, as AGW's code draws them in a trial.

    That code draws one image; several are drawn here with `random.sample`, which is our choice.
    """
    generator = random.Random(trial)
    if shots == 1:
        return np.array([cell[generator.choice(range(len(cell)))] for cell in images])
    return np.concatenate([cell[generator.sample(range(len(cell)), shots)] for cell in images])
