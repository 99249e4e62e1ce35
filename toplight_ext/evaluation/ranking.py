"""Ranks of the right gallery images, from features or distances: the Python side of csrc/core."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
from collections.abc import Iterator
from types import ModuleType
from typing import Literal, NamedTuple, get_args

import numpy as np

from ..errors import InputError

Metric = Literal["cosine", "euclidean"]
Cmc = Literal["images", "identities"]

DROP_SAME_IDENTITY, DROP_ALL = 1, 2  # csrc/core/labels.h: Rule


class Labels(NamedTuple):
    """Who is on some images, and which camera took them."""

    identity: np.ndarray  # (N,) integers or text
    camera: np.ndarray  # (N,) integers

    def take(self, rows: np.ndarray) -> Labels:
        return Labels(self.identity[rows], self.camera[rows])


@dataclasses.dataclass(frozen=True)
class CameraFilter:
    """Which gallery images a query does not see, by the cameras of both."""

    same_camera: bool = False  # those of the query's identity from the query's camera
    pairs: tuple[tuple[int, int], ...] = ()  # (query camera, gallery camera): all of them

    def rules(self, cameras: np.ndarray) -> np.ndarray:
        """The rule of every pair of the sorted `cameras`, (cameras, cameras) uint8."""
        rules = np.zeros((len(cameras), len(cameras)), dtype=np.uint8)
        if self.same_camera:
            np.fill_diagonal(rules, DROP_SAME_IDENTITY)
        for query, gallery in self.pairs:
            rules[np.ix_(cameras == query, cameras == gallery)] = DROP_ALL
        return rules


@dataclasses.dataclass(frozen=True)
class Reranking:
    """k-reciprocal re-ranking with its published constants; csrc/core/reranking.h says how it works.

    Under the cosine metric the features are brought to length 1 first. The neighbourhoods know no camera filter.

    Source: Zhong et al., "Re-ranking Person Re-identification with k-reciprocal Encoding", CVPR 2017.

    Raises:
        InputError: a constant out of range.
    """

    k1: int = 20  # size of the reciprocal neighbourhood
    k2: int = 6  # images over which the encoding is averaged
    lambda_: float = 0.3  # weight of the original distance

    def __post_init__(self):
        if self.k1 < 1 or self.k2 < 1 or not 0 <= self.lambda_ <= 1:
            raise InputError(f"{self}: expected k1 and k2 of at least 1, lambda from 0 to 1")

    def __str__(self) -> str:
        return f"k-reciprocal re-ranking (k1 {self.k1}, k2 {self.k2}, lambda {self.lambda_:g})"


class Ranking(NamedTuple):
    """Scores of each query, (queries,). All are 0 where no gallery image that the query sees is of its identity."""

    average_precision: np.ndarray  # float64
    inverse_negative_penalty: np.ndarray  # float64: number of right images / rank of the last of them
    first_rank: np.ndarray  # int64: rank of the first right image from 1, as the CMC counts

    @property
    def valid(self) -> np.ndarray:
        """(queries,) bool: the queries that can be answered, over which all means are taken."""
        return self.first_rank > 0

    def cmc(self, ranks: int) -> np.ndarray:
        """(ranks,) share of the valid queries whose first right image has rank 1, 2, ... or better."""
        first = self.first_rank[self.valid]
        return (first[:, None] <= np.arange(1, ranks + 1)).mean(axis=0)


NO_FILTER = CameraFilter()


def rank_features(
    query: np.ndarray,
    gallery: np.ndarray,
    query_labels: Labels,
    gallery_labels: Labels,
    metric: Metric = "cosine",
    camera_filter: CameraFilter = NO_FILTER,
    cmc: Cmc = "images",
    threads: int | None = None,
    reranking: Reranking | None = None,
) -> Ranking:
    """Rank the gallery for every query. Equal distances keep the order of the gallery.

    Args:
        query: (Q, D) float32 or float64.
        gallery: (G, D) of the same type.
        cmc: whether the first rank counts every image before it, or every identity before it once.
        threads: None is one per core. The result does not depend on it.
        reranking: rank by k-reciprocal distances instead.

    Raises:
        InputError: shapes that do not fit; a distance that is not finite; cosine with a feature of length 0.
    """
    query, gallery = checked_features(query, gallery, metric)
    labels = core_labels(query_labels, gallery_labels, camera_filter)
    if reranking:
        return _rank("rank_reranked", _reranked(query, gallery, metric, reranking), labels, cmc, threads)
    return _rank("rank_features", (query, gallery, metric), labels, cmc, threads)


def rank_distances(
    distances: np.ndarray,
    query_labels: Labels,
    gallery_labels: Labels,
    camera_filter: CameraFilter = NO_FILTER,
    cmc: Cmc = "images",
    threads: int | None = None,
) -> Ranking:
    """As `rank_features`, from distances (Q, G) float32 or float64; smaller is nearer."""
    labels = core_labels(query_labels, gallery_labels, camera_filter)
    return _rank("rank_distances", (_matrix("distances", distances),), labels, cmc, threads)


def nearest(
    query: np.ndarray,
    gallery: np.ndarray,
    query_labels: Labels,
    gallery_labels: Labels,
    top: int,
    metric: Metric = "cosine",
    camera_filter: CameraFilter = NO_FILTER,
    threads: int | None = None,
    reranking: Reranking | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The `top` nearest gallery images that each query sees.

    Returns:
        gallery rows (Q, top) int64, -1 past the last image, and distances (Q, top), NaN there:
        Euclidean, or 1 - cosine, or k-reciprocal.

    Raises:
        InputError: as `rank_features`.
    """
    query, gallery = checked_features(query, gallery, metric)
    labels = core_labels(query_labels, gallery_labels, camera_filter)
    with _input_errors():
        if reranking:
            images = _reranked(query, gallery, metric, reranking)
            return core().nearest_reranked(*images, labels, top=top, threads=_count(threads))
        rows, distances = core().nearest_features(query, gallery, metric, labels, top=top, threads=_count(threads))
    return rows, distances + 1 if metric == "cosine" else distances  # the core ranks by minus the cosine


def core() -> ModuleType:
    """The compiled ranking core.

    Raises:
        ImportError: it is not built.
    """
    try:
        return importlib.import_module("toplight_ext._core")
    except ImportError as error:
        raise ImportError(
            f"the compiled part of toplight_ext.evaluation does not load ({error}): "
            "build the package with `pip install .` in its folder"
        ) from error


class LabelCodes(NamedTuple):
    """Labels as codes from 0, with the filter as a table: csrc/core/labels.h."""

    query_identity: np.ndarray  # (Q,) int32: a gallery code, or -1: not in the gallery
    gallery_identity: np.ndarray  # (G,) int32
    query_camera: np.ndarray  # (Q,) int32
    gallery_camera: np.ndarray  # (G,) int32
    rules: np.ndarray  # (cameras, cameras) uint8, of query camera and gallery camera


def label_codes(query: Labels, gallery: Labels, camera_filter: CameraFilter) -> LabelCodes:
    identities, gallery_identity = np.unique(gallery.identity, return_inverse=True)
    known = np.isin(query.identity, identities)
    query_identity = np.where(known, np.searchsorted(identities, query.identity), -1)
    cameras, camera = np.unique(np.concatenate([query.camera, gallery.camera]), return_inverse=True)
    camera = camera.astype(np.int32)
    return LabelCodes(
        query_identity.astype(np.int32),
        gallery_identity.astype(np.int32),
        camera[: len(query.camera)],
        camera[len(query.camera) :],
        camera_filter.rules(cameras),
    )


def core_labels(query: Labels, gallery: Labels, camera_filter: CameraFilter):
    """Labels as the compiled core takes them."""
    return core().Labels(*label_codes(query, gallery, camera_filter))


def _reranked(query: np.ndarray, gallery: np.ndarray, metric: Metric, reranking: Reranking) -> tuple:
    """Arguments of the core: queries and gallery in one array, the number of queries, the constants."""
    images = np.concatenate([query, gallery])
    if metric == "cosine":
        images = unit_rows(images)
    return images, len(query), reranking.k1, reranking.k2, reranking.lambda_


def unit_rows(features: np.ndarray, what: str = "feature", first: int = 0) -> np.ndarray:
    """(N, D) features brought to length 1, in their type; the lengths are taken in double precision.

    Args:
        what, first: name and number of the first row, for errors.

    Raises:
        InputError: a feature has length 0.
    """
    lengths = np.sqrt(np.einsum("nd,nd->n", features, features, dtype=np.float64))
    zero = np.flatnonzero(lengths == 0)
    if len(zero):
        raise InputError(f"{what} {first + zero[0]} has length 0 and so no cosine")
    return features / lengths[:, None].astype(features.dtype)


def _rank(function: str, arguments: tuple, labels, cmc: Cmc, threads: int | None) -> Ranking:
    check_cmc(cmc)
    rank = getattr(core(), function)
    with _input_errors():
        return Ranking(*rank(*arguments, labels, distinct_identities=cmc == "identities", threads=_count(threads)))


def check_cmc(cmc: Cmc) -> None:
    if cmc not in get_args(Cmc):
        raise InputError(f"cmc {cmc!r}: expected {' or '.join(get_args(Cmc))}")


def checked_features(query: np.ndarray, gallery: np.ndarray, metric: Metric) -> tuple[np.ndarray, np.ndarray]:
    """Both as contiguous arrays of one type, fit for the metric, or InputError."""
    if metric not in get_args(Metric):
        raise InputError(f"metric {metric!r}: expected {' or '.join(get_args(Metric))}")
    query, gallery = _matrix("query features", query), _matrix("gallery features", gallery)
    if query.dtype != gallery.dtype or query.shape[1] != gallery.shape[1]:
        raise InputError(
            f"query features are {query.dtype} {query.shape}, gallery features {gallery.dtype} {gallery.shape}: "
            "expected the same type and number of columns"
        )
    for side, features in (("query", query), ("gallery", gallery)):
        zero = np.flatnonzero(~features.any(axis=1)) if metric == "cosine" else ()
        if len(zero):
            raise InputError(f"{side} feature {zero[0]} has length 0 and so no cosine: use the euclidean metric")
    return query, gallery


def _matrix(name: str, array: np.ndarray) -> np.ndarray:
    if array.ndim != 2 or array.dtype not in (np.float32, np.float64):
        raise InputError(f"{name}: expected a float32 or float64 matrix, got {array.dtype} {array.shape}")
    return np.ascontiguousarray(array)


def _count(threads: int | None) -> int:
    if threads is not None and threads < 1:
        raise InputError(f"threads {threads}: expected at least 1, or None for one per core")
    return threads or 0


@contextlib.contextmanager
def _input_errors() -> Iterator[None]:
    """The core knows only arrays: what it refuses was given by the user."""
    try:
        yield
    except ValueError as error:
        raise InputError(str(error)) from error
