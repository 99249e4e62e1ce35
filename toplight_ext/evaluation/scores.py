"""Features and a protocol in, the numbers of the field out."""

from __future__ import annotations

import dataclasses
import functools
import statistics
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..errors import InputError
from .features import Features
from .origin import Origin, check_splits, warn_of_known_images
from .protocols import Protocol, Trial
from .ranking import Labels, Metric, Ranking, Reranking, nearest, rank_features
from .verification import verification_rates

CMC_RANKS = 50
# What every evaluation gives, by the name of the field and as tables call it; and the three that are looked at first.
SCORES = {"r1": "rank-1", "r5": "rank-5", "r10": "rank-10", "r20": "rank-20", "mAP": "mAP", "mINP": "mINP"}
MAIN_SCORES = ("r1", "mAP", "mINP")


@dataclasses.dataclass(frozen=True, eq=False)
class TrialResult:
    """One trial: one draw of the gallery, or one of several sets of features."""

    name: str  # the split if that is known, else a number from 1
    scores: dict[str, float]  # the six scores, then the verification rates if the protocol has them
    queries: int
    valid_queries: int  # those that see an image of their identity; the others enter no mean
    gallery: int  # images
    cmc: np.ndarray  # (50,): ranks 1 to 50

    def to_json(self) -> dict[str, Any]:
        counts = {"queries": self.queries, "valid_queries": self.valid_queries, "gallery": self.gallery}
        return {"trial": self.name, **self.scores, **counts}


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """Means over the trials of a protocol, as fractions of 1, and what they were taken over."""

    protocol: str  # with the re-ranking, if there was one
    metric: str
    r1: float  # share of the valid queries with a right image at rank 1, as the protocol's CMC counts
    r5: float
    r10: float
    r20: float
    mAP: float
    mINP: float
    verification: dict[str, float]  # rates by name; empty unless the protocol verifies
    std: dict[str, float]  # of all scores: population standard deviation over the trials
    trials: int
    queries: int  # of the trial with the fewest, and so the next two
    valid_queries: int
    gallery: int
    reranking: str | None
    origin: Origin  # of the features, where that of all trials is the same
    per_trial: tuple[TrialResult, ...]
    cmc: np.ndarray  # (50,): ranks 1 to 50

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types; those of the origin beside the others."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del fields["origin"]
        per_trial = [trial.to_json() for trial in self.per_trial]
        return {**fields, **self.origin.to_json(), "per_trial": per_trial, "cmc": self.cmc.tolist()}

    @property
    def scores(self) -> dict[str, float]:
        """All means by name, in the order of the tables."""
        return {**{name: getattr(self, name) for name in SCORES}, **self.verification}


class RankedLists(NamedTuple):
    """The first gallery images of some queries. All rows are rows of the features."""

    query: np.ndarray  # (n,)
    gallery: np.ndarray  # (n, top); -1 past the last image that the query sees
    distances: np.ndarray  # (n, top): Euclidean or 1 - cosine; NaN past the last image
    correct: np.ndarray  # (n, top) bool: the image is of the query's identity


def evaluate(
    features: Features | Sequence[Features],
    protocol: Protocol,
    metric: Metric = "cosine",
    threads: int | None = None,
    *,
    reranking: Reranking | None = None,
    device: str | None = None,
    any_split: bool = False,
) -> Result:
    """Score features under a protocol.

    Args:
        features: of one network; or of several, as RegDB's ten splits are ten models: all their trials count.
        metric: "cosine" or "euclidean".
        threads: None is one per core.
        reranking: None ranks by the distances themselves.
        device: rank on this torch device instead of in the compiled core.
        any_split: also evaluate a network on another split than the one whose other half it was trained on. On what
            it was trained on itself it is evaluated in any case, with a warning.

    Raises:
        InputError: the features do not hold what the protocol needs, no query has a match, a network is
            evaluated on another split, a split counts twice, or an image went through the wrong stem.
    """
    if reranking and device:
        raise InputError(f"device {device!r}: re-ranking runs in the compiled core alone; leave the device out")
    sets = [features] if isinstance(features, Features) else list(features)
    if not sets:
        raise InputError("evaluate: expected features of at least one network, got none")
    check_splits([each.origin for each in sets], any_split)
    warn_of_known_images([each.origin for each in sets])
    score = functools.partial(
        _score, protocol=protocol, metric=metric, threads=threads, reranking=reranking, device=device
    )
    results = [score(each, trial, name) for each, trial, name in _trials(sets, protocol)]
    values = {name: np.array([result.scores[name] for result in results]) for name in results[0].scores}
    means = {name: float(value.mean()) for name, value in values.items()}
    return Result(
        protocol=f"{protocol.name}, {reranking}" if reranking else protocol.name,
        metric=metric,
        **{name: means.pop(name) for name in SCORES},
        verification=means,
        std={name: float(value.std()) for name, value in values.items()},
        trials=len(results),
        queries=min(result.queries for result in results),
        valid_queries=min(result.valid_queries for result in results),
        gallery=min(result.gallery for result in results),
        reranking=str(reranking) if reranking else None,
        origin=_common([each.origin for each in sets]),
        per_trial=tuple(results),
        cmc=np.mean([result.cmc for result in results], axis=0),
    )


def over_seeds(values: Sequence[float]) -> list[float]:
    """Mean of a score over runs that differ in the seed alone; behind it, of several, the sample standard deviation."""
    return [statistics.fmean(values), *([statistics.stdev(values)] if len(values) > 1 else [])]


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
    sides = _sides(features, Trial(chosen, trial.gallery))
    found, distances = nearest(*sides, top, metric, protocol.camera_filter)
    gallery = np.where(found < 0, -1, trial.gallery[found])
    correct = (found >= 0) & (features.identity[gallery] == features.identity[chosen][:, None])
    return RankedLists(chosen, gallery, distances, correct)


def _trials(sets: Sequence[Features], protocol: Protocol) -> Iterator[tuple[Features, Trial, str]]:
    """All trials of all sets, each with its name: the set's split or number, the draw's number, or both."""
    for number, features in enumerate(sets, start=1):
        split = features.origin.images
        of_set = split.name if split and split.name else str(number)
        trials = list(protocol.trials(features))
        for draw, trial in enumerate(trials, start=1):
            features.check_stems(trial.query, protocol.direction.query)
            features.check_stems(trial.gallery, protocol.direction.gallery)
            name = str(draw) if len(sets) == 1 else of_set if len(trials) == 1 else f"{of_set}/{draw}"
            yield features, trial, name


def _sides(features: Features, trial: Trial) -> tuple[np.ndarray, np.ndarray, Labels, Labels]:
    """Features of queries and gallery, and their labels."""
    labels = Labels(features.identity, features.camera)
    return (
        features.features[trial.query],
        features.features[trial.gallery],
        labels.take(trial.query),
        labels.take(trial.gallery),
    )


def _score(
    features: Features,
    trial: Trial,
    name: str,
    *,
    protocol: Protocol,
    metric: Metric,
    threads: int | None,
    reranking: Reranking | None,
    device: str | None,
) -> TrialResult:
    sides = _sides(features, trial)
    rules = (metric, protocol.camera_filter, protocol.cmc)
    if device:
        from .device_ranking import rank_on_device

        ranking = rank_on_device(*sides, *rules, device)
    else:
        ranking = rank_features(*sides, *rules, threads, reranking)
    valid = ranking.valid
    if not valid.any():
        raise InputError(f"none of the {len(valid)} queries has an image of its identity in the gallery it sees")
    rates = verification_rates(*sides, metric, threads) if protocol.verification else {}
    cmc = ranking.cmc(CMC_RANKS)
    return TrialResult(name, {**_scores(ranking, cmc), **rates}, len(valid), int(valid.sum()), len(trial.gallery), cmc)


def _scores(ranking: Ranking, cmc: np.ndarray) -> dict[str, float]:
    valid = ranking.valid
    return {
        **{f"r{rank}": float(cmc[rank - 1]) for rank in (1, 5, 10, 20)},
        "mAP": float(ranking.average_precision[valid].mean()),
        "mINP": float(ranking.inverse_negative_penalty[valid].mean()),
    }


def _common(origins: Sequence[Origin]) -> Origin:
    """What all origins agree on."""
    fields = {field.name: getattr(origins[0], field.name) for field in dataclasses.fields(Origin)}
    same = {name: value for name, value in fields.items() if all(getattr(o, name) == value for o in origins)}
    return Origin(**same)
