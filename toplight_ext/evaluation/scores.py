"""Features and a protocol in, the numbers of the field out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..errors import InputError
from .features import Features
from .protocols import Protocol, Trial
from .ranking import Labels, Metric, Ranking, nearest, rank_features

CMC_RANKS = 50


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """Means over the trials of a protocol, as fractions of 1, and what they were taken over."""

    protocol: str
    metric: str
    r1: float  # share of the valid queries with a right image at rank 1, as the protocol's CMC counts
    r5: float
    r10: float
    r20: float
    mAP: float
    mINP: float
    std: dict[str, float]  # of the six scores: population standard deviation over the trials
    trials: int
    queries: int
    valid_queries: int  # those that see an image of their identity; the others enter no mean
    gallery: int  # images
    cmc: np.ndarray  # (50,): ranks 1 to 50

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types."""
        return {**dataclasses.asdict(self), "cmc": self.cmc.tolist()}

    def table(self) -> str:
        """The scores in percent, with the protocol above them."""
        labels = {"r1": "rank-1", "r5": "rank-5", "r10": "rank-10", "r20": "rank-20", "mAP": "mAP", "mINP": "mINP"}
        trials = "1 trial" if self.trials == 1 else f"{self.trials} trials"
        rows = [
            f"{self.protocol}; {self.metric}; {trials}",
            f"{self.valid_queries} of {self.queries} queries have a match; gallery of {self.gallery} images",
            " " * 4 + "".join(f"{label:>9}" for label in labels.values()),
            "mean" + "".join(f"{100 * getattr(self, name):9.2f}" for name in labels),
        ]
        if self.trials > 1:
            rows.append("std " + "".join(f"{100 * self.std[name]:9.2f}" for name in labels))
        return "\n".join(rows)


class RankedLists(NamedTuple):
    """The first gallery images of some queries. All rows are rows of the features."""

    query: np.ndarray  # (n,)
    gallery: np.ndarray  # (n, top); -1 past the last image that the query sees
    distances: np.ndarray  # (n, top): Euclidean or 1 - cosine; NaN past the last image
    correct: np.ndarray  # (n, top) bool: the image is of the query's identity


def evaluate(features: Features, protocol: Protocol, metric: Metric = "cosine", threads: int | None = None) -> Result:
    """Score features under a protocol.

    Args:
        metric: "cosine" or "euclidean".
        threads: None is one per core.

    Raises:
        InputError: the features do not hold what the protocol needs, or no query has a match.
    """
    labels = Labels(features.identity, features.camera)
    scores, curves = [], []
    for trial in protocol.trials(features):
        ranking = _rank(features, labels, trial, protocol, metric, threads)
        valid = ranking.valid
        if not valid.any():
            raise InputError(f"none of the {len(valid)} queries has an image of its identity in the gallery it sees")
        curves.append(ranking.cmc(CMC_RANKS))
        scores.append(_scores(ranking, curves[-1]))
    values = {name: np.array([score[name] for score in scores]) for name in scores[0]}
    return Result(
        protocol=protocol.name,
        metric=metric,
        **{name: float(value.mean()) for name, value in values.items()},
        std={name: float(value.std()) for name, value in values.items()},
        trials=len(scores),
        queries=len(trial.query),
        valid_queries=int(valid.sum()),
        gallery=len(trial.gallery),
        cmc=np.mean(curves, axis=0),
    )


def ranked_lists(
    features: Features,
    protocol: Protocol,
    top: int = 10,
    queries: Sequence[int] | None = None,
    metric: Metric = "cosine",
) -> RankedLists:
    """The `top` nearest gallery images of queries in the first trial of a protocol, after its filters.

    Args:
        queries: rows of the features; None is every query.

    Raises:
        InputError: as `evaluate`, or a row that is no query.
    """
    trial = next(iter(protocol.trials(features)))
    chosen = trial.query if queries is None else np.asarray(queries, dtype=np.int64)
    strange = np.setdiff1d(chosen, trial.query)
    if len(strange):
        raise InputError(f"image {strange[0]} is no query of the protocol {protocol.name!r}")
    labels = Labels(features.identity, features.camera)
    found, distances = nearest(
        features.features[chosen],
        features.features[trial.gallery],
        labels.take(chosen),
        labels.take(trial.gallery),
        top,
        metric,
        protocol.camera_filter,
    )
    gallery = np.where(found < 0, -1, trial.gallery[found])
    correct = (found >= 0) & (features.identity[gallery] == features.identity[chosen][:, None])
    return RankedLists(chosen, gallery, distances, correct)


def _rank(
    features: Features, labels: Labels, trial: Trial, protocol: Protocol, metric: Metric, threads: int | None
) -> Ranking:
    return rank_features(
        features.features[trial.query],
        features.features[trial.gallery],
        labels.take(trial.query),
        labels.take(trial.gallery),
        metric,
        protocol.camera_filter,
        protocol.cmc,
        threads,
    )


def _scores(ranking: Ranking, cmc: np.ndarray) -> dict[str, float]:
    valid = ranking.valid
    return {
        **{f"r{rank}": cmc[rank - 1] for rank in (1, 5, 10, 20)},
        "mAP": ranking.average_precision[valid].mean(),
        "mINP": ranking.inverse_negative_penalty[valid].mean(),
    }
