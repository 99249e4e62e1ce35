"""What every data set becomes: a list of `Sample`. Everything after that does not know the data set."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np


class Modality(enum.Enum):
    """The spectrum an image was taken in."""

    VISIBLE = "visible"
    INFRARED = "infrared"


# Where a data set does not tell its cameras, each modality counts as one.
ONE_CAMERA = {Modality.VISIBLE: 1, Modality.INFRARED: 2}


@dataclass(frozen=True, slots=True)
class Sample:
    """One image file and what is known about it.

    `identity` is a number or a name, of one kind within a data set; `camera` is the data set's own number. The
    image is the file's, or its mirror image.
    """

    path: Path
    identity: int | str
    modality: Modality
    camera: int
    mirrored: bool = False


@dataclass(frozen=True, slots=True)
class Problem:
    """A list row or file that a data set refuses; `where` names it, `what` says what is wrong with it."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass(frozen=True)
class Published:
    """What the authors of a data set say that one of its splits holds.

    images: number by (modality, camera); camera None is all cameras of the modality.
    """

    identities: int
    images: Mapping[tuple[Modality, int | None], int]


@dataclass(frozen=True, slots=True)
class Listing:
    """What a data set's reader found: the usable samples and every row it had to refuse.

    The images of one modality, camera and identity stand in the order that numbers them, 1 to n, for protocols that
    draw by number.
    """

    samples: list[Sample]
    problems: list[Problem]


def identity_labels(samples: Sequence[Sample]) -> tuple[np.ndarray, list[int | str]]:
    """Class labels 0..C-1 of the samples, (N,) int64, and the C identities in label order."""
    identities = sorted({sample.identity for sample in samples})
    label = {identity: i for i, identity in enumerate(identities)}
    return np.array([label[sample.identity] for sample in samples], dtype=np.int64), identities


def of_modality(samples: Iterable[Sample], modality: Modality) -> list[Sample]:
    """The samples of one modality, in their order."""
    return [sample for sample in samples if sample.modality is modality]


def with_mirrored_identities(samples: Sequence[Sample]) -> list[Sample]:
    """The samples, identities numbered anew, and after them their mirror images as as many further identities.

    For objects whose left and right differ, where a flip that is drawn for every image by itself would part an
    identity's images: all images of an identity are flipped together, and it is another one then.
    """
    labels, identities = identity_labels(samples)
    plain = [replace(sample, identity=int(label)) for sample, label in zip(samples, labels, strict=True)]
    return plain + [replace(s, identity=s.identity + len(identities), mirrored=not s.mirrored) for s in plain]


def as_stored(samples: Sequence[Sample]) -> list[Sample]:
    """The samples as their files are: none mirrored."""
    return [replace(sample, mirrored=False) for sample in samples]
