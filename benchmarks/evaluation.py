"""The evaluator beside AGW's public one, on the same distances; and a gallery of 100,000.

    python benchmarks/evaluation.py AGW/eval_metrics.py [--repeats 5] [--csv benchmarks/results/evaluation.csv]

AGW is github.com/mangye16/Cross-Modal-Re-ID-baseline. Both evaluators get one matrix of distances of drawn features
with the image counts of the data set, and run in turn in one process; no speed is printed unless their results are
equal. The large case starts a process of its own, whose peak memory is then its own.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import multiprocessing
import os
import resource
import time
from pathlib import Path

import numpy as np
from provenance import Results, provenance

from toplight_ext import evaluation
from toplight_ext.evaluation import CameraFilter, Features, Generic, Labels

LARGE = (10_000, 100_000, 768)  # queries, gallery images, dimensions
COLUMNS = ["case", "queries", "gallery", "seconds", "seconds_agw", "times_as_fast", "threads_used", "peak_gib"]


def sysu(rng: np.random.Generator):
    """All-search, 10-shot: 301 cells of ten gallery images, queries of two cameras."""
    cells = rng.choice(96 * 4, 301, replace=False)
    gallery = Labels(np.repeat(cells // 4, 10), np.repeat(np.array([1, 2, 4, 5])[cells % 4], 10))
    query = Labels(rng.integers(0, 96, 3803), rng.choice([3, 6], 3803))
    return query, gallery, CameraFilter(pairs=((3, 2),)), "identities", "eval_sysu"


def regdb(rng: np.random.Generator):
    """206 identities, ten images of each on both sides."""
    side = Labels(np.repeat(np.arange(206), 10), np.ones(2060, int))
    return side, side, CameraFilter(), "images", "eval_regdb"


def compare(name: str, make, agw, repeats: int) -> dict:
    rng = np.random.default_rng(0)
    query, gallery, rules, cmc, peer = make(rng)
    prototypes = rng.standard_normal((206, 64))
    noisy = [prototypes[side.identity] + 3 * rng.standard_normal((len(side.identity), 64)) for side in (query, gallery)]
    unit = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in noisy]
    distances = -unit[0] @ unit[1].T
    cameras = (query.camera, gallery.camera) if peer == "eval_sysu" else ()
    ours, theirs = [], []
    for repeat in range(repeats):
        start = time.perf_counter()
        ranking = evaluation.rank_distances(distances, query, gallery, rules, cmc)
        ours.append(time.perf_counter() - start)
        if repeat < 2:  # ten seconds each
            start = time.perf_counter()
            with contextlib.redirect_stdout(io.StringIO()):
                rates, mean_ap, mean_inp = getattr(agw, peer)(distances, query.identity, gallery.identity, *cameras)
            theirs.append(time.perf_counter() - start)
    valid = ranking.valid
    np.testing.assert_allclose(ranking.cmc(20), rates, atol=1e-6)
    np.testing.assert_allclose(ranking.average_precision[valid].mean(), mean_ap, rtol=1e-12)
    np.testing.assert_allclose(ranking.inverse_negative_penalty[valid].mean(), mean_inp, rtol=1e-12)
    best, peers = min(ours), min(theirs)  # what else runs on the machine only ever adds
    return row(name, distances.shape, best) | {"seconds_agw": peers, "times_as_fast": peers / best}


def large() -> dict:
    queries, images, dim = LARGE
    rng = np.random.default_rng(0)
    features = rng.standard_normal((queries + images, dim), dtype=np.float32)
    identity = rng.integers(0, 5000, queries + images)
    modality = np.where(np.arange(queries + images) < queries, "infrared", "visible")
    start = time.perf_counter()
    result = evaluation.evaluate(Features(features, identity, np.ones_like(identity), modality=modality), Generic())
    seconds = time.perf_counter() - start
    # Features without a signal: rank-1 is chance.
    assert result.valid_queries == queries and result.r1 < 0.002, result
    return row(f"{dim} float32, from features", (queries, images), seconds)


def row(name: str, size: tuple[int, int], seconds: float) -> dict:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    counts = {"case": name, "queries": size[0], "gallery": size[1], "seconds": seconds}
    return counts | {"threads_used": len(os.sched_getaffinity(0)), "peak_gib": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("agw", type=Path, help="eval_metrics.py of AGW's public code")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--skip-large", action="store_true")
    options = parser.parse_args()
    spec = importlib.util.spec_from_file_location("agw", options.agw)
    agw = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(agw)

    rows = [compare("SYSU-MM01 all-search 10-shot", sysu, agw, options.repeats)]
    rows.append(compare("RegDB", regdb, agw, options.repeats))
    if not options.skip_large:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rows.append(pool.apply(large))
    for found in rows:
        words = (f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in found.items())
        print(", ".join(words))
    if options.csv:
        results = Results(options.csv, COLUMNS, provenance("cpu"))
        for found in rows:
            results.add(found)


if __name__ == "__main__":
    main()
