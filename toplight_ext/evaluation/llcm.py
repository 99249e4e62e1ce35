"""LLCM: one side is drawn image by image from identities and cameras; which side depends on the reading."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator

import numpy as np

from ..errors import InputError
from .drawing import TRIALS, cells, draw
from .features import Features
from .protocols import Direction, Trial, rows_of
from .ranking import CameraFilter, Cmc


@dataclasses.dataclass(frozen=True)
class LLCM:
    """LLCM, with the seeds of AGW's and DEEN's public code; image and query of one identity and camera do not meet.

    Args:
        query: modality of the queries, all of whose images are used.
        gallery: modality of the gallery, of which every identity and camera gives one image a trial.
        deen: as DEEN's public code evaluates its "visible to infrared": visible images are all taken and infrared
            ones drawn, but then the drawn infrared images search among all visible ones.

    Source: Zhang and Wang, "Diverse Embedding Expansion Network and Low-Light Cross-Modality Benchmark for
    Visible-Infrared Person Re-identification", CVPR 2023, and the code published with it.
    """

    query: str = "infrared"
    gallery: str = "visible"
    deen: bool = False

    cmc: typing.ClassVar[Cmc] = "identities"
    camera_filter: typing.ClassVar[CameraFilter] = CameraFilter(same_camera=True)
    verification: typing.ClassVar[bool] = False

    def __post_init__(self):
        named = Direction(self.query, self.gallery).crossed()
        if self.deen and named != ("visible", "infrared"):
            raise InputError(f"LLCM {named}: DEEN's code has a reading of its own of visible->infrared alone")

    @property
    def direction(self) -> Direction:
        """Who really searches: in DEEN's reading the drawn infrared images do."""
        return Direction(self.gallery, self.query) if self.deen else Direction(self.query, self.gallery)

    @property
    def name(self) -> str:
        reading = " as DEEN reads it (drawn infrared queries, all visible images as gallery)" if self.deen else ""
        return f"LLCM {self.query}->{self.gallery}{reading}, AGW seeds, same identity and camera filtered"

    def trials(self, features: Features) -> Iterator[Trial]:
        # In the order of the cells, which decides between equal distances where it is the gallery.
        everything = np.concatenate(cells(features, rows_of(features, self.query, self)))
        images = cells(features, rows_of(features, self.gallery, self))
        for trial in range(TRIALS):
            drawn = draw(images, trial)
            yield Trial(drawn, everything) if self.deen else Trial(everything, drawn)
