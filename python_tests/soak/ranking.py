"""The evaluator beside its oracle on drawn cases, and beside itself with other threads, tiles and fewer queries."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import ranking_oracle as oracle
from scipy.spatial.distance import cdist

from toplight_ext.evaluation import CameraFilter, Labels, nearest, rank_distances, rank_features
from toplight_ext.evaluation.ranking import core, core_labels

# What the cases have to cover.
KINDS = ("tie", "empty gallery", "no match", "filtered first", "all filtered", "more images than a tile", "text")


class Case(NamedTuple):
    """Features whose distances are exact in any arithmetic, so that the oracle ties where the core ties."""

    query: np.ndarray  # (Q, D)
    gallery: np.ndarray  # (G, D)
    labels: tuple[Labels, Labels]
    metric: str
    filters: dict
    distinct: bool
    distances: np.ndarray  # (Q, G) that have nothing to do with the features

    @property
    def cmc(self) -> str:
        return "identities" if self.distinct else "images"


def draw_case(seed: list[int]) -> Case:
    """A small problem; one in fifty has a gallery of more than a tile, one in six none."""
    rng = np.random.default_rng(seed)
    dtype = rng.choice((np.float32, np.float64))
    queries, images = int(rng.integers(1, 6)), int(rng.integers(1, 60))
    if rng.random() < 1 / 6:
        images = 0
    elif rng.random() < 1 / 50:
        queries, images = int(rng.integers(60, 70)), int(rng.integers(500, 1100))
    metric = str(rng.choice(("cosine", "euclidean")))
    # Of 4 or 16 entries of +-1 the length is a power of two.
    dim, values = (
        (int(rng.choice((4, 16))), (-1, 1)) if metric == "cosine" else (int(rng.integers(1, 20)), range(-3, 4))
    )
    query, gallery = (rng.choice(values, (count, dim)).astype(dtype) for count in (queries, images))
    distances = rng.standard_normal((queries, images)).astype(dtype)
    if rng.random() < 1 / 3:
        distances = np.round(distances)
    identities, cameras, text = rng.integers(1, 12), rng.integers(1, 4), rng.random() < 0.1
    labels = [
        Labels(100 + rng.integers(0, identities, count), rng.integers(1, cameras + 1, count))
        for count in (queries, images)
    ]
    if text:
        labels = [Labels(side.identity.astype(str), side.camera) for side in labels]
    pairs = tuple((int(a), int(b)) for a, b in rng.integers(1, 4, (rng.integers(0, 3), 2)))
    filters = dict(same_camera=bool(rng.integers(2)), pairs=pairs)
    return Case(query, gallery, tuple(labels), metric, filters, bool(rng.integers(2)), distances)


def kinds_of(case: Case) -> Iterator[str]:
    query, gallery = case.labels
    first, images = case.distances[0], len(gallery.identity)
    seen = oracle.ranked_gallery(first, (query.identity[0], query.camera[0]), *gallery, **case.filters)
    kinds = {
        "tie": len(np.unique(first)) < images,
        "empty gallery": images == 0,
        "no match": not np.isin(query.identity, gallery.identity).all(),
        "filtered first": len(seen) > 0 and seen[0] != np.argmin(first),
        "all filtered": len(seen) == 0 < images,
        "more images than a tile": images > 512,
        "text": query.identity.dtype.kind == "U",
    }
    return (kind for kind, is_one in kinds.items() if is_one)


def problems(case: Case, seed: list[int]) -> Iterator[str]:
    """What the core gets wrong."""
    rng, rules = np.random.default_rng([*seed, 1]), CameraFilter(**case.filters)
    exact = cdist(case.query, case.gallery, case.metric) if case.gallery.size else case.distances.astype(float)
    exact = exact.round(12)
    of_matrix = rank_distances(case.distances, *case.labels, rules, case.cmc, threads=1)
    of_features = rank_features(case.query, case.gallery, *case.labels, case.metric, rules, case.cmc, threads=1)
    for name, distances, found in (("matrix", case.distances, of_matrix), ("features", exact, of_features)):
        expected = oracle.scores(distances, *case.labels, **case.filters, distinct=case.distinct)
        if not np.array_equal(found.first_rank, expected[2]) or not np.array_equal(found.valid, expected[2] > 0):
            yield f"{name}: first ranks {found.first_rank}, expected {expected[2]}"
        if not np.allclose(found[:2], expected[:2], rtol=1e-14, atol=0):
            yield f"{name}: AP and INP {np.array(found[:2])}, expected {expected[:2]}"

    rows, _ = nearest(case.query, case.gallery, *case.labels, 5, case.metric, rules, threads=1)
    one = int(rng.integers(len(case.query)))
    who = case.labels[0].identity[one], case.labels[0].camera[one]
    seen = oracle.ranked_gallery(exact[one], who, *case.labels[1], **case.filters)[:5]
    if not np.array_equal(rows[one], np.append(seen, [-1] * (5 - len(seen)))):
        yield f"nearest of query {one}: {rows[one]}, expected {seen}"

    labels = core_labels(*case.labels, rules)
    for _ in range(2):
        run = dict(threads=int(rng.integers(1, 9)), tile=tuple(int(n) for n in rng.integers(1, (80, 700))))
        again = core().rank_features(
            case.query, case.gallery, case.metric, labels, distinct_identities=case.distinct, **run
        )
        if not np.array_equal(again, of_features):
            yield f"other results with {run}"
    part = slice(one, one + int(rng.integers(1, len(case.query) + 1)))
    again = rank_features(
        case.query[part],
        case.gallery,
        case.labels[0].take(part),
        case.labels[1],
        case.metric,
        rules,
        case.cmc,
        threads=1,
    )
    if not np.array_equal(again, np.array(of_features)[:, part]):
        yield f"other results for the queries {part} by themselves"


def attack(cases: int, seed: int = 0, first: int = 0) -> tuple[Counter, list[str]]:
    """How many cases were of each kind, and what is wrong."""
    kinds, wrong = Counter(), []
    for index in range(first, first + cases):
        case = draw_case([seed, index])
        kinds.update(kinds_of(case))
        wrong += [f"ranking, --seed {seed} --first {index}: {problem}" for problem in problems(case, [seed, index])]
    return kinds, wrong


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m python_tests.soak ranking", description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    given = parser.parse_args(arguments)
    start = time.monotonic()
    kinds, wrong = attack(given.cases, given.seed, given.first)
    covered = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    print(f"{given.cases} cases in {time.monotonic() - start:.0f} s ({covered}), {len(wrong)} wrong")
    print(*wrong[:20], sep="\n", end="\n" if wrong else "")
    return 1 if wrong else 0
