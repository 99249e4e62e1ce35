"""Evaluation protocols as data: which images are queries and gallery, who is filtered, what the CMC counts.

docs/protocols.md states each of them in sentences.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import InputError
from .features import MODALITIES, Features
from .mat5 import read_mat5
from .ranking import CameraFilter, Cmc


class Trial(NamedTuple):
    """One draw of a protocol: rows of the features."""

    query: np.ndarray
    gallery: np.ndarray


class Protocol(typing.Protocol):
    """What `evaluate` needs to know. All trials of a protocol have as many queries and gallery images."""

    @property
    def name(self) -> str: ...  # printed with every result

    @property
    def cmc(self) -> Cmc: ...

    @property
    def camera_filter(self) -> CameraFilter: ...

    def trials(self, features: Features) -> Iterator[Trial]:
        """Raises InputError if the features do not hold what the protocol needs."""


@dataclasses.dataclass(frozen=True)
class Generic:
    """Every image of one modality against every image of the other.

    Raises:
        InputError: an unknown modality, or one against itself without the filter that keeps a query from
            finding itself.
    """

    query: str = "infrared"
    gallery: str = "visible"
    same_camera_filter: bool = False  # the gallery images of the query's identity and camera are not seen
    cmc: Cmc = "images"

    def __post_init__(self):
        for modality in (self.query, self.gallery):
            if modality not in MODALITIES:
                raise InputError(f"protocol: modality {modality!r}: expected visible or infrared")
        if self.query == self.gallery and not self.same_camera_filter:
            raise InputError(f"protocol: {self.query}->{self.gallery} needs same_camera_filter: a query finds itself")

    @property
    def name(self) -> str:
        counted = "image-level CMC" if self.cmc == "images" else "distinct-identity CMC"
        filtered = ", same identity and camera filtered" if self.same_camera_filter else ""
        return f"generic {self.query}->{self.gallery}, {counted}{filtered}"

    @property
    def camera_filter(self) -> CameraFilter:
        return CameraFilter(same_camera=self.same_camera_filter)

    def trials(self, features: Features) -> Iterator[Trial]:
        if features.modality is None:
            raise InputError(f"modality: missing, and the protocol {self.name!r} needs it")
        yield Trial(self._rows(features, self.query), self._rows(features, self.gallery))

    def _rows(self, features: Features, modality: str) -> np.ndarray:
        rows = np.flatnonzero(features.modality == modality)
        if not len(rows):
            raise InputError(f"no feature has the modality {modality}, which the protocol {self.name!r} needs")
        return rows


# Image numbers from 1 in the order of each trial: [camera - 1][identity - 1] is (trials, images).
Permutations = tuple[tuple[np.ndarray, ...], ...]

_SYSU_CAMERAS = 6


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
        cells = [cell for camera in permutations for cell in camera if cell.size]
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    except KeyError as error:
        raise InputError(f"{path}: no variable {error}; expected the official rand_perm_cam.mat") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not the official rand_perm_cam.mat ({error})") from error
    if len(permutations) != _SYSU_CAMERAS or not cells or len({len(cell) for cell in cells}) != 1:
        raise InputError(
            f"{path}: expected permutations for {_SYSU_CAMERAS} cameras, the same number for each identity"
        )
    if not all(
        np.array_equal(np.sort(cell), np.tile(np.arange(1, cell.shape[1] + 1), (len(cell), 1))) for cell in cells
    ):
        raise InputError(f"{path}: a row is not a permutation of 1 to the number of its images")
    return permutations


@dataclasses.dataclass(frozen=True, eq=False)
class SysuMM01:
    """The official protocol of SYSU-MM01 with its published permutations.

    The features are those of the test identities; `camera` 1 to 6, `identity` and `index` number them as the
    data set's folders and files do.

    Source: evaluation code of Wu et al., "RGB-Infrared Cross-Modality Person Re-Identification", ICCV 2017.
    """

    mode: str  # "all" or "indoor"
    shots: int  # gallery images of each identity and camera: 1 or 10
    permutations: Permutations

    cmc: typing.ClassVar[Cmc] = "identities"
    # Cameras 2 and 3 hang in the same room.
    camera_filter: typing.ClassVar[CameraFilter] = CameraFilter(pairs=((3, 2),))
    query_cameras: typing.ClassVar[tuple[int, ...]] = (3, 6)

    def __post_init__(self):
        if self.mode not in ("all", "indoor"):
            raise InputError(f"SYSU-MM01 protocol {self.mode!r}: expected all or indoor")
        if self.shots not in (1, 10):
            raise InputError(f"SYSU-MM01 with {self.shots} shots: expected 1 or 10")

    @property
    def name(self) -> str:
        return f"SYSU-MM01 {self.mode}-search {self.shots}-shot, official permutations"

    @property
    def gallery_cameras(self) -> tuple[int, ...]:
        return (1, 2, 4, 5) if self.mode == "all" else (1, 2)

    def trials(self, features: Features) -> Iterator[Trial]:
        images = self._images(features)
        query = np.concatenate([rows for (camera, _), (rows, _) in images.items() if camera in self.query_cameras])
        drawn = [cell for (camera, _), cell in images.items() if camera in self.gallery_cameras]
        for trial in range(len(drawn[0][1])):
            yield Trial(query, np.concatenate([rows[order[trial, : self.shots] - 1] for rows, order in drawn]))

    def _images(self, features: Features) -> dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]:
        """(camera, identity) -> rows of its images by number, and their permutations; cameras and identities sorted.

        That is the official order of the gallery, which decides between equal distances.
        """
        if features.index is None or features.identity.dtype.kind not in "iu":
            raise InputError("SYSU-MM01 needs `index` (image number within camera and identity) and numeric `identity`")
        order = np.lexsort((features.index, features.identity, features.camera))
        images = {}
        for camera in sorted({*self.query_cameras, *self.gallery_cameras}):
            in_camera = order[features.camera[order] == camera]
            for identity in np.unique(features.identity):
                rows = in_camera[features.identity[in_camera] == identity]
                permutations = self._permutations(camera, int(identity))
                self._check(camera, int(identity), features.index[rows], permutations)
                if len(rows):
                    images[camera, int(identity)] = rows, permutations
        for cameras in (self.query_cameras, self.gallery_cameras):
            if not any(camera in cameras for camera, _ in images):
                raise InputError(f"no feature is of cameras {cameras}, which the protocol {self.name!r} needs")
        return images

    def _permutations(self, camera: int, identity: int) -> np.ndarray:
        identities = self.permutations[camera - 1]
        return identities[identity - 1] if 0 < identity <= len(identities) else np.empty((0, 0), dtype=int)

    def _check(self, camera: int, identity: int, index: np.ndarray, permutations: np.ndarray) -> None:
        count = permutations.shape[1]
        if not np.array_equal(index, np.arange(1, count + 1)):
            raise InputError(
                f"camera {camera}, identity {identity}: {len(index)} features, where the permutations know {count} "
                f"images; expected `index` 1 to {count}, each once"
            )
        if 0 < count < self.shots and camera in self.gallery_cameras:
            raise InputError(f"camera {camera}, identity {identity}: {count} images are too few for {self.shots} shots")


def parse_protocol(
    dataset: str, protocol: str | None = None, shots: int = 1, permutations: str | Path | None = None
) -> Protocol:
    """The protocol that the words of the command line name.

    Args:
        dataset: csv, folder, synthetic or sysu.
        protocol: for sysu all (default) or indoor, else the direction: infrared->visible (default) or
            visible->infrared.
        shots: for sysu, 1 or 10.
        permutations: for sysu, the file rand_perm_cam.mat.

    Raises:
        InputError: words that name no protocol; permutations missing or unreadable.
    """
    if dataset == "sysu":
        if permutations is None:
            raise InputError("sysu needs --permutations: rand_perm_cam.mat of the official evaluation code")
        return SysuMM01(protocol or "all", shots, load_permutations(permutations))
    if dataset not in ("csv", "folder", "synthetic"):
        raise InputError(f"no protocol for data set {dataset!r}: expected csv, folder, synthetic or sysu")
    query, arrow, gallery = (protocol or "infrared->visible").partition("->")
    if not arrow:
        raise InputError(f"protocol {protocol!r}: expected infrared->visible or visible->infrared")
    return Generic(query, gallery)
