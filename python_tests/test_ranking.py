"""The compiled ranking core against a NumPy oracle, hand-worked cases and SciPy's distances."""

import sys
import threading
import time

import numpy as np
import pytest
import ranking_oracle as oracle
from scipy.spatial.distance import cdist
from soak.ranking import KINDS, attack

from toplight_ext.errors import InputError
from toplight_ext.evaluation import CameraFilter, Labels, nearest, rank_distances, rank_features
from toplight_ext.evaluation.ranking import core, core_labels


def test_drawn_cases_equal_the_oracle():
    kinds, wrong = attack(2500)
    assert wrong == []
    assert set(kinds) == set(KINDS) and min(kinds.values()) >= 25, f"they do not cover what they are for: {kinds}"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_distances_of_any_size(dtype):
    """Positives so close or so far apart that their differences vanish or overflow; others far beyond them."""
    limits = np.finfo(dtype)
    tiny, huge, step = limits.smallest_subnormal, limits.max, limits.eps
    values = np.array([-huge, -1, 0, tiny, 2 * tiny, limits.tiny, 1 - step, 1, 1 + step, 1 + 2 * step, 2, huge], dtype)
    rng = np.random.default_rng(0)
    for case in range(300):
        distances = rng.choice(values[rng.choice(12, rng.integers(2, 6))], (3, 40))
        query, gallery = Labels(np.arange(3), np.zeros(3, int)), Labels(rng.integers(0, 3, 40), np.zeros(40, int))
        expected = oracle.scores(distances, query, gallery)
        found = rank_distances(distances, query, gallery, threads=1)
        np.testing.assert_array_equal(found.first_rank, expected[2], err_msg=f"case {case}")
        np.testing.assert_allclose(found[:2], expected[:2], rtol=1e-14, err_msg=f"case {case}")


@pytest.mark.parametrize(
    ("identity", "camera", "distances", "filters", "cmc", "expected"),
    [
        pytest.param([1, 2, 1, 2], [2] * 4, [1, 2, 3, 4], {}, "images", (5 / 6, 2 / 3, 1), id="plain"),
        pytest.param([2, 1, 1], [2] * 3, [1, 1, 1], {}, "images", (7 / 12, 2 / 3, 2), id="ties-in-gallery-order"),
        pytest.param([3, 3, 2, 1], [2] * 4, [1, 2, 3, 4], {}, "identities", (1 / 4, 1 / 4, 3), id="identities-once"),
        pytest.param([1, 2, 1], [1, 2, 2], [1, 2, 3], {"same_camera": True}, "images", (0.5, 0.5, 2), id="own-first"),
        pytest.param([2, 1], [3, 2], [1, 2], {"pairs": ((1, 3),)}, "images", (1, 1, 1), id="camera-pair"),
        pytest.param([1, 1], [1, 1], [1, 2], {"same_camera": True}, "images", (0, 0, 0), id="all-matches-filtered"),
        pytest.param([1, 2], [3, 3], [1, 2], {"pairs": ((1, 3),)}, "images", (0, 0, 0), id="everything-filtered"),
        pytest.param([2, 3], [2, 2], [1, 2], {}, "images", (0, 0, 0), id="identity-not-in-gallery"),
        pytest.param([], [], [], {}, "images", (0, 0, 0), id="empty-gallery"),
    ],
)
def test_hand_worked_case(identity, camera, distances, filters, cmc, expected):
    """One query of identity 1 from camera 1."""
    query = Labels(np.array([1]), np.array([1]))
    gallery = Labels(np.array(identity, dtype=int), np.array(camera, dtype=int))
    ranking = rank_distances(np.array([distances], dtype=float), query, gallery, CameraFilter(**filters), cmc)
    np.testing.assert_allclose(np.array(ranking)[:, 0], expected, rtol=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("dim", [1, 3, 8, 37, 768])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_distances_are_those_of_scipy(metric, dim, dtype):
    rng = np.random.default_rng(dim)
    query, gallery = (rng.standard_normal((count, dim)).astype(dtype) for count in (7, 23))
    labels = Labels(np.zeros(7, int), np.zeros(7, int)), Labels(np.zeros(23, int), np.zeros(23, int))
    rows, distances = nearest(query, gallery, *labels, top=25, metric=metric)
    expected = cdist(query.astype(float), gallery.astype(float), metric)
    np.testing.assert_allclose(
        distances[:, :23], np.take_along_axis(expected, rows[:, :23], axis=1), atol=20 * np.finfo(dtype).eps, rtol=1e-6
    )
    assert (rows[:, 23:] == -1).all() and np.isnan(distances[:, 23:]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_features_rank_as_their_exact_distances(metric, dtype):
    """Entries of +-1 in 64 dimensions have exact distances in any arithmetic, and very many ties."""
    rng = np.random.default_rng(1)
    query, gallery = (rng.choice([-1, 1], (count, 64)).astype(dtype) for count in (40, 300))
    labels = [Labels(rng.integers(0, 20, count), rng.integers(1, 4, count)) for count in (40, 300)]
    filters = dict(same_camera=True, pairs=((3, 2),))
    expected = oracle.scores(cdist(query, gallery, metric).round(12), *labels, **filters, distinct=True)
    ranking = rank_features(query, gallery, *labels, metric, CameraFilter(**filters), "identities", threads=2)
    np.testing.assert_array_equal(ranking.first_rank, expected[2])
    np.testing.assert_allclose(ranking[:2], expected[:2], rtol=1e-14)

    rows, _ = nearest(query, gallery, *labels, top=10, metric=metric, camera_filter=CameraFilter(**filters))
    for q in range(len(query)):
        seen = oracle.ranked_gallery(
            cdist(query[q : q + 1], gallery, metric)[0].round(12),
            (labels[0].identity[q], labels[0].camera[q]),
            *labels[1],
            **filters,
        )
        np.testing.assert_array_equal(rows[q], seen[:10])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_threads_and_tiles_change_no_bit(dtype):
    rng = np.random.default_rng(2)
    gallery = rng.standard_normal((500, 21)).astype(dtype)
    gallery[rng.integers(0, 500, 100)] = gallery[0]  # exact duplicates, which must tie wherever they stand
    query = gallery[rng.integers(0, 500, 90)] + dtype(0.5) * rng.standard_normal((90, 21)).astype(dtype)
    labels = core_labels(
        Labels(rng.integers(0, 30, 90), rng.integers(0, 3, 90)),
        Labels(rng.integers(0, 30, 500), rng.integers(0, 3, 500)),
        CameraFilter(pairs=((0, 1),)),
    )
    for metric in ("cosine", "euclidean"):
        results = [
            core().rank_features(query, gallery, metric, labels, distinct_identities=True, threads=threads, tile=tile)
            for threads, tile in [(1, (64, 512)), (2, (1, 1)), (3, (7, 13)), (8, (1000, 1000)), (0, (4, 499))]
        ]
        for result in results[1:]:
            np.testing.assert_array_equal(result, results[0])


def test_other_python_threads_run_meanwhile():
    distances = np.random.default_rng(3).standard_normal((4000, 5000))
    labels = [Labels(np.arange(count) % 50, np.zeros(count, int)) for count in distances.shape]
    work = threading.Thread(target=rank_distances, args=(distances, *labels), kwargs={"threads": 1})
    work.start()
    turns = 0
    while work.is_alive():
        turns += 1
        time.sleep(0.001)
    assert turns > 10


LABELS = Labels(np.array([1, 2]), np.array([1, 1]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rank_distances(np.array([[0, 1], [np.nan, 1]]), LABELS, LABELS), "query 1 to gallery image 0 is not"),
        (lambda: rank_distances(np.zeros((2, 2), int), LABELS, LABELS), "float32 or float64 matrix, got int64"),
        (lambda: rank_distances(np.zeros((2, 3)), LABELS, LABELS), r"gallery_identity must have shape \(3,\)"),
        (lambda: rank_distances(np.zeros((2, 2)), LABELS, LABELS, cmc="image"), "cmc 'image': expected images or id"),
        (lambda: rank_distances(np.zeros((2, 2)), LABELS, LABELS, threads=0), "threads 0: expected at least 1"),
        (lambda: rank_features(np.ones((2, 3)), np.ones((2, 4)), LABELS, LABELS), "same type and number of columns"),
        (lambda: rank_features(np.ones((2, 3)), np.zeros((2, 3)), LABELS, LABELS), "gallery feature 0 has length 0"),
        (lambda: rank_features(np.ones((2, 3)), np.ones((2, 3)), LABELS, LABELS, "l2"), "expected cosine or euclidean"),
        (lambda: nearest(np.ones((2, 3)), np.ones((2, 3)), LABELS, LABELS, top=0), "top 0: expected at least 1"),
        (
            lambda: rank_features(np.full((2, 3), 1e30, "f"), np.zeros((2, 3), "f"), LABELS, LABELS, "euclidean"),
            "the distance of query 0 to gallery image 0 is not finite",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_without_the_compiled_core_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "toplight_ext._core", None)
    with pytest.raises(ImportError, match=r"pip install \."):
        rank_distances(np.zeros((2, 2)), LABELS, LABELS)


def test_build_info_names_compiler_and_instructions():
    info = core().build_info()
    assert info["compiler"] and info["ranking_instructions"] in ("avx2+fma", "baseline")
    assert {"version", "torch_version", "torch_target", "cuda_architectures"} <= set(info)
