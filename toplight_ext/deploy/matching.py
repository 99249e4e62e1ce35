"""Nearest gallery images of a query: exactly, and approximately with the share of right answers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ..errors import InputError
from ..evaluation import Features, Labels, nearest, unit_rows
from ..extras import require
from ..text import plain
from .gallery import Entry, GalleryIndex

_ROWS = 4096  # of an index at a time: 12 MiB in float32 at 768 numbers a row, which stays in the cache


class Matches(NamedTuple):
    """The nearest gallery images of Q queries, nearest first; of the exact ones equal distances in gallery order."""

    rows: np.ndarray  # (Q, top) int64
    distances: np.ndarray  # (Q, top) float32: 1 - cosine


class FeatureGallery:
    """Features in memory, with the same interface as a GalleryIndex."""

    def __init__(self, features: Features):
        self._features, self.network = features, features.origin.network
        self._unit = unit_rows(features.features, "gallery feature").astype(np.float32, copy=False)

    def __str__(self) -> str:
        return "gallery"

    def __len__(self) -> int:
        return len(self._unit)

    @property
    def dimensions(self) -> int:
        return self._unit.shape[1]

    def blocks(self, rows: int) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, float32 (up to rows, D)), rows of length 1."""
        for first in range(0, len(self), rows):
            yield first, self._unit[first : first + rows]

    def entry(self, row: int) -> Entry:
        return entry_of(self._features, row)


def entry_of(features: Features, row: int) -> Entry:
    """What is known of an image of features in memory."""
    texts = (
        "" if array is None else str(array[row]) for array in (features.paths, features.identity, features.modality)
    )
    return Entry(*texts, int(features.camera[row]))


Gallery = GalleryIndex | FeatureGallery


def check_request(top: int, probes: int | None = None) -> None:
    """What can be known before any image is embedded; `probes` if the search is to be approximate.

    Raises:
        InputError: either is below 1.
        MissingExtra: faiss is not installed.
    """
    if top < 1:
        raise InputError(f"top {top}: expected at least 1")
    if probes is not None:
        if probes < 1:
            raise InputError(f"{probes} probes: expected at least 1")
        require("faiss", extra="faiss")


def check_network(queries: Features, gallery: Gallery) -> None:
    """Raises InputError if queries and gallery are known to be of different networks, whose features do not compare."""
    networks = queries.origin.network, gallery.network
    if None not in networks and networks[0] != networks[1]:
        raise InputError(
            f"{gallery}: its features are of the network {plain(networks[1])}, the queries' of {plain(networks[0])}: "
            "embed both with one"
        )


def search(query: np.ndarray, gallery: Gallery, top: int = 10, threads: int | None = None) -> Matches:
    """The `top` nearest rows of a gallery, exactly: every row is looked at, sums are in float32.

    Rows and queries have length 1, so that half their squared distance is 1 - cosine and the compiled core can rank
    them by Euclidean distance. Of an index the rows are those in its file, rounded to half precision.

    Args:
        query: (Q, D) features, of any length but 0.
        gallery: of N images.
        top: at most; fewer if the gallery is smaller.
        threads: None is one per core.

    Raises:
        InputError: sizes that do not fit, a feature of length 0, or a gallery with a number that is not finite.
    """
    query = _unit_queries(query, gallery.dimensions)
    check_request(top)
    rows = np.empty((len(query), 0), np.int64)
    distances = np.empty((len(query), 0), np.float32)
    of_query, of_block = _labels(len(query)), _labels(_ROWS)
    for first, block in gallery.blocks(_ROWS):
        labels = of_block if len(block) == _ROWS else _labels(len(block))
        with _named(gallery, first):
            found, far = nearest(query, block, of_query, labels, min(top, len(block)), "euclidean", threads=threads)
        # What was found before comes first and the sort is stable: ties stay in the order of the gallery.
        rows, distances = np.concatenate([rows, found + first], 1), np.concatenate([distances, far], 1)
        order = np.argsort(distances, axis=1, kind="stable")[:, :top]
        rows, distances = np.take_along_axis(rows, order, 1), np.take_along_axis(distances, order, 1)
    return Matches(rows, np.square(distances) / 2)


def _unit_queries(features: np.ndarray, dimensions: int) -> np.ndarray:
    """(Q, D) features brought to length 1, float32.

    Raises:
        InputError: another D than the gallery's, or a feature of length 0.
    """
    if features.ndim != 2 or features.shape[1] != dimensions:
        raise InputError(
            f"query features have the shape {features.shape}, the gallery's {dimensions} columns: "
            "they come from different networks"
        )
    return unit_rows(features, "query").astype(np.float32, copy=False)


def recall(found: Matches, exact: Matches) -> float:
    """The share of the exact answer that was found, over all queries; a row that ties with the last counts."""
    right = [
        np.isin(rows, exact_rows) | (distances <= exact_distances[-1])
        for rows, distances, exact_rows, exact_distances in zip(
            found.rows, found.distances, exact.rows, exact.distances, strict=True
        )
    ]
    return float(np.mean(right))


class ApproximateGallery:
    """FAISS's inverted lists over a gallery (IVF with flat half-precision rows): for galleries of many millions.

    The rows are clustered once; a search looks at the rows of the clusters nearest to the query.

    Args:
        gallery: to be indexed; all of it goes into memory, in half precision.
        clusters: None is 4 * sqrt(N), as FAISS's guidelines advise for a million.
        probes: clusters looked at.

    Raises:
        InputError: numbers out of range.
        MissingExtra: faiss is not installed.
    """

    def __init__(self, gallery: Gallery, clusters: int | None = None, probes: int = 32):
        faiss = require("faiss", extra="faiss")
        if clusters is None:
            clusters = max(1, min(round(4 * len(gallery) ** 0.5), len(gallery) // 39))
        if min(clusters, probes) < 1 or clusters > len(gallery):
            raise InputError(f"{clusters} clusters, {probes} probes: expected 1 to {len(gallery)}, and at least 1")
        self._rows, self._dimensions = len(gallery), gallery.dimensions
        quantizer = faiss.IndexFlatIP(gallery.dimensions)
        self._index = faiss.IndexIVFScalarQuantizer(
            quantizer, gallery.dimensions, clusters, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
        )
        self._index.nprobe = min(probes, clusters)
        self._index.train(self._sample(gallery, 64 * clusters))
        for _, block in gallery.blocks(1 << 16):
            self._index.add(block)

    @staticmethod
    def _sample(gallery: Gallery, rows: int) -> np.ndarray:
        step = max(1, len(gallery) // rows)
        return np.concatenate([block[::step] for _, block in gallery.blocks(1 << 16)])

    def search(self, query: np.ndarray, top: int = 10) -> Matches:
        """As the exact `search`; -1 and infinity where the clusters hold fewer rows."""
        check_request(top)
        cosines, rows = self._index.search(_unit_queries(query, self._dimensions), min(top, self._rows))
        return Matches(rows, np.where(rows < 0, np.inf, 1 - cosines).astype(np.float32))


def _labels(count: int) -> Labels:
    """Labels of images of which nothing is known: without a filter they do not matter."""
    unknown = np.zeros(count, np.int64)
    return Labels(unknown, unknown)


@contextlib.contextmanager
def _named(gallery: Gallery, first: int) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise InputError(f"{gallery}, rows from {first}: {error}") from error
