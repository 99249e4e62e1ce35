"""Evaluation protocols as data: which images are queries and gallery, who is filtered, what the CMC counts.

docs/protocols.md states each of them in sentences. Here stand what all protocols have in common and those that take
every image of both modalities; the others draw their galleries (sysu.py, llcm.py).
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ..errors import InputError
from .features import MODALITIES, Features
from .ranking import CameraFilter, Cmc


class Direction(NamedTuple):
    """Modality of the queries, and of the gallery."""

    query: str
    gallery: str

    @classmethod
    def parse(cls, text: str) -> Direction:
        """Read `infrared->visible` and the like.

        Raises:
            InputError: no arrow, or an unknown modality.
        """
        query, arrow, gallery = text.partition("->")
        if not arrow:
            raise InputError(f"protocol {text!r}: expected infrared->visible or visible->infrared")
        return cls(query, gallery).checked()

    def checked(self) -> Direction:
        for modality in self:
            if modality not in MODALITIES:
                raise InputError(f"protocol: modality {modality!r}: expected visible or infrared")
        return self

    def crossed(self) -> Direction:
        """Itself, checked to lead from one modality to the other."""
        if self.query == self.gallery:
            raise InputError(f"protocol: {self}: expected infrared->visible or visible->infrared")
        return self.checked()

    def __str__(self) -> str:
        return f"{self.query}->{self.gallery}"


class Trial(NamedTuple):
    """One draw of a protocol: rows of the features."""

    query: np.ndarray
    gallery: np.ndarray


class Protocol(typing.Protocol):
    """What `evaluate` needs to know."""

    @property
    def name(self) -> str: ...  # printed with every result

    @property
    def direction(self) -> Direction: ...

    @property
    def cmc(self) -> Cmc: ...

    @property
    def camera_filter(self) -> CameraFilter: ...

    @property
    def verification(self) -> bool: ...  # also score the decision whether two images show one identity

    def trials(self, features: Features) -> Iterator[Trial]:
        """Raises InputError if the features do not hold what the protocol needs."""


def rows_of(features: Features, modality: str, protocol: Protocol) -> np.ndarray:
    """Rows of the images of a modality.

    Raises:
        InputError: the features do not know their modality, or there is none of this one.
    """
    if features.modality is None:
        raise InputError(f"modality: missing, and the protocol {protocol.name!r} needs it")
    rows = np.flatnonzero(features.modality == modality)
    if not len(rows):
        raise InputError(f"no feature has the modality {modality}, which the protocol {protocol.name!r} needs")
    return rows


class _Everything:
    """One trial: every image of one modality against every image of the other."""

    verification: typing.ClassVar[bool] = False

    def trials(self: Protocol, features: Features) -> Iterator[Trial]:
        yield Trial(*(rows_of(features, modality, self) for modality in self.direction))


@dataclasses.dataclass(frozen=True)
class Generic(_Everything):
    """Any data set, with the rules that the user gives.

    Raises:
        InputError: an unknown modality, or one against itself without the filter that keeps a query from
            finding itself.
    """

    query: str = "infrared"
    gallery: str = "visible"
    same_camera_filter: bool = False  # the gallery images of the query's identity and camera are not seen
    cmc: Cmc = "images"
    camera_pairs: tuple[tuple[int, int], ...] = ()  # (query camera, gallery camera): nothing of it is seen

    def __post_init__(self):
        self.direction.checked()
        if self.query == self.gallery and not self.same_camera_filter:
            raise InputError(f"protocol: {self.direction} needs same_camera_filter: a query finds itself")

    @property
    def direction(self) -> Direction:
        return Direction(self.query, self.gallery)

    @property
    def name(self) -> str:
        counted = "image-level CMC" if self.cmc == "images" else "distinct-identity CMC"
        filtered = ", same identity and camera filtered" if self.same_camera_filter else ""
        pairs = ", ".join(f"{query}->{gallery}" for query, gallery in self.camera_pairs)
        return f"generic {self.direction}, {counted}{filtered}" + (f", cameras {pairs} filtered" if pairs else "")

    @property
    def camera_filter(self) -> CameraFilter:
        return CameraFilter(self.same_camera_filter, self.camera_pairs)


@dataclasses.dataclass(frozen=True)
class RegDB(_Everything):
    """RegDB: all test images of a split; the ten published splits are ten models and ten trials.

    Source: Ye et al., "Hierarchical Discriminative Learning for Visible Thermal Person Re-Identification",
    AAAI 2018.
    """

    query: str = "visible"
    gallery: str = "infrared"

    cmc: typing.ClassVar[Cmc] = "images"
    camera_filter: typing.ClassVar[CameraFilter] = CameraFilter()

    def __post_init__(self):
        self.direction.crossed()

    @property
    def direction(self) -> Direction:
        return Direction(self.query, self.gallery)

    @property
    def name(self) -> str:
        return f"RegDB {self.direction}, image-level CMC"


@dataclasses.dataclass(frozen=True)
class Faces(_Everything):
    """Near-infrared probe faces against a visible gallery (Oulu-CASIA NIR-VIS, BUAA): rank-1 and verification."""

    direction: typing.ClassVar[Direction] = Direction("infrared", "visible")
    name: typing.ClassVar[str] = "faces infrared->visible, image-level CMC, all pairs verified"
    cmc: typing.ClassVar[Cmc] = "images"
    camera_filter: typing.ClassVar[CameraFilter] = CameraFilter()
    verification: typing.ClassVar[bool] = True
