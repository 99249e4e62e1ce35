"""SYSU-MM01: the official protocol, with its published permutations or with the seeds of AGW's public code."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..errors import InputError
from .drawing import TRIALS, cells, draw
from .features import Features
from .mat5 import read_mat5
from .protocols import Direction, Trial
from .ranking import CameraFilter, Cmc

# Image numbers from 1 in the order of each trial: [camera - 1][identity - 1] is (trials, images).
Permutations = tuple[tuple[np.ndarray, ...], ...]

_CAMERAS = 6


def load_permutations(path: str | Path) -> Permutations:
    """Read rand_perm_cam.mat, which is published with the SYSU-MM01 evaluation code.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    try:
        cameras = read_mat5(path)["rand_perm_cam"].ravel()
        permutations = tuple(
            tuple(np.atleast_2d(cell).astype(np.int64) for cell in camera.ravel()) for camera in cameras
        )
        filled = [cell for camera in permutations for cell in camera if cell.size]
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    except KeyError as error:
        raise InputError(f"{path}: no variable {error}; expected the official rand_perm_cam.mat") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not the official rand_perm_cam.mat ({error})") from error
    if len(permutations) != _CAMERAS or not filled or len({len(cell) for cell in filled}) != 1:
        raise InputError(f"{path}: expected permutations for {_CAMERAS} cameras, the same number for each identity")
    if not all(
        np.array_equal(np.sort(cell), np.tile(np.arange(1, cell.shape[1] + 1), (len(cell), 1))) for cell in filled
    ):
        raise InputError(f"{path}: a row is not a permutation of 1 to the number of its images")
    return permutations


@dataclasses.dataclass(frozen=True, eq=False)
class SysuMM01:
    """SYSU-MM01 on the features of its test identities.

    `camera` 1 to 6, `identity` and `index` number them as the data set's folders and files do. The gallery stands
    in the order of the code whose draw it is, which decides between equal distances: by camera and identity with
    the official permutations, by identity and camera with AGW's seeds.

    Source: evaluation code of Wu et al., "RGB-Infrared Cross-Modality Person Re-Identification", ICCV 2017.
    """

    mode: str  # "all" or "indoor"
    shots: int  # gallery images of each identity and camera: 1 or 10
    permutations: Permutations | None = None  # None: the seeds of AGW's public code

    direction: typing.ClassVar[Direction] = Direction("infrared", "visible")
    cmc: typing.ClassVar[Cmc] = "identities"
    # Cameras 2 and 3 hang in the same room.
    camera_filter: typing.ClassVar[CameraFilter] = CameraFilter(pairs=((3, 2),))
    verification: typing.ClassVar[bool] = False
    query_cameras: typing.ClassVar[tuple[int, ...]] = (3, 6)

    def __post_init__(self):
        if self.mode not in ("all", "indoor"):
            raise InputError(f"SYSU-MM01 protocol {self.mode!r}: expected all or indoor")
        if self.shots not in (1, 10):
            raise InputError(f"SYSU-MM01 with {self.shots} shots: expected 1 or 10")

    @property
    def name(self) -> str:
        drawn = "AGW seeds" if self.permutations is None else "official permutations"
        return f"SYSU-MM01 {self.mode}-search {self.shots}-shot, {drawn}"

    @property
    def gallery_cameras(self) -> tuple[int, ...]:
        return (1, 2, 4, 5) if self.mode == "all" else (1, 2)

    def trials(self, features: Features) -> Iterator[Trial]:
        query = self._rows(features, self.query_cameras)
        images = cells(features, self._rows(features, self.gallery_cameras))
        drawn = self._seeded if self.permutations is None else self._official
        yield from drawn(features, query, images)

    def _seeded(self, features: Features, query: np.ndarray, images: list[np.ndarray]) -> Iterator[Trial]:
        for cell in images:
            self._check_enough(features, cell)
        for trial in range(TRIALS):
            yield Trial(query, draw(images, trial, self.shots))

    def _official(self, features: Features, query: np.ndarray, images: list[np.ndarray]) -> Iterator[Trial]:
        self._check_counts(features, cells(features, query) + images)
        # A stable sort: camera by camera, identities in order within.
        images = sorted(images, key=lambda cell: features.camera[cell[0]])
        orders = [self._permutations(*self._key(features, cell)) for cell in images]
        for cell in images:
            self._check_enough(features, cell)
        for trial in range(len(orders[0])):
            drawn = [cell[order[trial, : self.shots] - 1] for cell, order in zip(images, orders, strict=True)]
            yield Trial(query, np.concatenate(drawn))

    def _rows(self, features: Features, cameras: tuple[int, ...]) -> np.ndarray:
        if features.index is None or features.identity.dtype.kind not in "iu":
            raise InputError("SYSU-MM01 needs `index` (image number within camera and identity) and numeric `identity`")
        rows = np.flatnonzero(np.isin(features.camera, cameras))
        if not len(rows):
            raise InputError(f"no feature is of cameras {cameras}, which the protocol {self.name!r} needs")
        return rows

    @staticmethod
    def _key(features: Features, cell: np.ndarray) -> tuple[int, int]:
        return int(features.camera[cell[0]]), int(features.identity[cell[0]])

    def _permutations(self, camera: int, identity: int) -> np.ndarray:
        identities = self.permutations[camera - 1]
        return identities[identity - 1] if 0 < identity <= len(identities) else np.empty((0, 0), dtype=int)

    def _check_counts(self, features: Features, images: list[np.ndarray]) -> None:
        """Every identity must have, in every camera of the protocol, the images that the permutations number."""
        found = {self._key(features, cell): features.index[cell] for cell in images}
        for camera in sorted({*self.query_cameras, *self.gallery_cameras}):
            for identity in np.unique(features.identity).tolist():
                index = found.get((camera, identity), np.empty(0))
                count = self._permutations(camera, identity).shape[1]
                if not np.array_equal(index, np.arange(1, count + 1)):
                    raise InputError(
                        f"camera {camera}, identity {identity}: {len(index)} features, where the permutations know "
                        f"{count} images; expected `index` 1 to {count}, each once"
                    )

    def _check_enough(self, features: Features, cell: np.ndarray) -> None:
        camera, identity = self._key(features, cell)
        if len(cell) < self.shots:
            raise InputError(
                f"camera {camera}, identity {identity}: {len(cell)} images are too few for {self.shots} shots"
            )
