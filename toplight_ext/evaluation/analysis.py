"""What a report shows of features beyond scores: how far apart pairs are, and where the images lie."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .features import Features
from .protocols import Protocol
from .ranking import Metric, unit_rows
from .scores import ranked_lists

_BINS = 60
_MOST_QUERIES = 300  # whose distances to all of the gallery are counted
_MOST_POINTS = 400  # of each modality


class PairDistances(NamedTuple):
    """How many pairs of query and gallery image lie at which distance."""

    edges: np.ndarray  # (61,) ends of the bins, rising
    genuine: np.ndarray  # (60,) pairs of one identity
    impostor: np.ndarray  # (60,) pairs of two identities


class Projection(NamedTuple):
    """Images on the two directions in which the features vary most."""

    rows: np.ndarray  # (n,) rows of the features, queries first
    points: np.ndarray  # (n, 2)
    variance: np.ndarray  # (2,) share of the whole variance along each direction


def pair_distances(features: Features, protocol: Protocol, metric: Metric = "cosine") -> PairDistances:
    """Distances between the queries of a protocol's first trial and the gallery images that they see.

    Of more than 300 queries as many, spread evenly, are taken.

    Raises:
        InputError: as `evaluate`.
    """
    trial = next(iter(protocol.trials(features)))
    queries = trial.query[spread(len(trial.query), _MOST_QUERIES)]
    lists = ranked_lists(features, protocol, top=len(trial.gallery), queries=queries, metric=metric)
    seen = lists.gallery >= 0
    edges = np.histogram_bin_edges(lists.distances[seen], _BINS)
    genuine, _ = np.histogram(lists.distances[seen & lists.correct], edges)
    impostor, _ = np.histogram(lists.distances[seen & ~lists.correct], edges)
    return PairDistances(edges, genuine, impostor)


def projection(features: Features, protocol: Protocol, metric: Metric = "cosine") -> Projection:
    """Principal components of the queries and gallery images of a protocol's first trial.

    Under the cosine metric the features are brought to length 1 first. Of more than 400 queries or gallery images
    as many, spread evenly, are taken. The sign of a component is that of its largest weight.
    """
    trial = next(iter(protocol.trials(features)))
    rows = np.concatenate([side[spread(len(side), _MOST_POINTS)] for side in trial])
    chosen = features.features[rows].astype(np.float64)
    if metric == "cosine":
        chosen = unit_rows(chosen)
    chosen -= chosen.mean(axis=0)
    _, singular, directions = np.linalg.svd(chosen, full_matrices=False)
    plane = np.zeros((2, chosen.shape[1]))
    plane[: len(directions)] = directions[:2]
    largest = np.take_along_axis(plane, np.abs(plane).argmax(axis=1)[:, None], axis=1)
    variance = np.pad(singular**2, (0, 2))[:2] / max((singular**2).sum(), np.finfo(np.float64).tiny)
    return Projection(rows, chosen @ (plane * np.where(largest < 0, -1, 1)).T, variance)


def spread(count: int, most: int) -> np.ndarray:
    """Positions of at most `most` of `count` things, spread evenly."""
    return np.linspace(0, count - 1, min(count, most)).astype(int)
