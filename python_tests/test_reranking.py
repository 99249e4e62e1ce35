"""k-reciprocal re-ranking against its published code and against the definition written out densely."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from toplight_ext import evaluation
from toplight_ext.errors import InputError
from toplight_ext.evaluation import CameraFilter, Generic, Labels, Reranking, nearest, rank_distances, rank_features
from toplight_ext.evaluation.ranking import core, core_labels


def drawn(queries=40, images=150, seed=7, dtype=np.float64):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((12, 16))
    query, gallery = (
        centres[rng.integers(0, 12, count)] + 0.7 * rng.standard_normal((count, 16)) for count in (queries, images)
    )
    return query.astype(dtype), gallery.astype(dtype)


def labels_of(*sides):
    return [Labels(np.arange(len(side)) % 9, np.arange(len(side)) // 9 % 3) for side in sides]


def reranked(query, gallery, reranking, metric="euclidean", threads=None):
    """(Q, G) distances, put together from complete ranked lists."""
    rows, found = nearest(
        query, gallery, *labels_of(query, gallery), len(gallery), metric, threads=threads, reranking=reranking
    )
    distances = np.empty_like(found)
    np.put_along_axis(distances, rows, found, axis=1)
    return distances


def neighbours(rank, image, k):
    """The k + 1 nearest of an image that have it among their k + 1 nearest."""
    nearest_images = rank[image, : k + 1]
    return nearest_images[(rank[nearest_images, : k + 1] == image).any(axis=1)]


def definition(query, gallery, k1, k2, lambda_):
    """Zhong et al. 2017, section 3, on dense matrices in float64."""
    images = np.concatenate([query, gallery]).astype(float)
    distance = cdist(images, images) ** 2
    distance /= distance.max(axis=1, keepdims=True)
    rank = np.argsort(distance, axis=1, kind="stable")
    encoding = np.zeros_like(distance)
    for image in range(len(images)):
        own = neighbours(rank, image, k1)
        expanded = set(own.tolist())
        for other in own:
            theirs = neighbours(rank, other, round(k1 / 2))
            if len(np.intersect1d(theirs, own)) > 2 / 3 * len(theirs):
                expanded |= set(theirs.tolist())
        members = sorted(expanded)
        weight = np.exp(-distance[image, members])
        encoding[image, members] = weight / weight.sum()
    encoding = np.stack([encoding[rank[image, :k2]].mean(axis=0) for image in range(len(images))])
    overlap = np.minimum(encoding[: len(query), None], encoding[None, len(query) :]).sum(axis=2)
    jaccard = 1 - overlap / (2 - overlap)
    return (1 - lambda_) * jaccard + lambda_ * distance[: len(query), len(query) :]


# re_ranking() of zhunzhong07/person-re-ranking, commit 278f2c70, python-version/re_ranking_ranklist.py, run with
# NumPy 2.4 on the Euclidean distances of drawn(); its float32 replaced by float64, since it rounds to 1e-7 otherwise.
# Mean, minimum, and the entries [0, 0], [3, 77], [39, 149].
PUBLISHED = {
    (20, 6, 0.3): (0.781379852358256, 0.024200320362805217, 0.9297620309553565, 0.814514662588087, 0.877260503669512),
    (7, 1, 0.0): (0.9807347328581676, 0.054632921923856936, 1, 1, 1),
    (11, 20, 0.5): (0.692833291938034, 0.047122002079703254, 0.882936718258928, 0.778870837373005, 0.793011501018196),
}


@pytest.mark.parametrize("constants", PUBLISHED)
def test_published_code(constants):
    distances = reranked(*drawn(), Reranking(*constants))
    found = (distances.mean(), distances.min(), distances[0, 0], distances[3, 77], distances[39, 149])
    np.testing.assert_allclose(found, PUBLISHED[constants], rtol=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_definition(seed):
    rng = np.random.default_rng(seed)
    constants = int(rng.integers(1, 30)), int(rng.integers(1, 9)), float(rng.uniform())
    query, gallery = drawn(rng.integers(1, 30), rng.integers(1, 80), seed)
    expected = definition(query, gallery, *constants)
    np.testing.assert_allclose(reranked(query, gallery, Reranking(*constants)), expected, rtol=0, atol=1e-12)
    single = reranked(query.astype(np.float32), gallery.astype(np.float32), Reranking(*constants))
    assert single.dtype == np.float32
    assert np.abs(single - expected).max() < 1e-5


@pytest.mark.parametrize("k1", [2**63 - 1, 2**62])
def test_constants_beyond_all_numbers_take_all_images(k1):
    query, gallery = drawn(5, 20)
    expected = definition(query, gallery, 500, 6, 0.3)
    np.testing.assert_allclose(reranked(query, gallery, Reranking(k1)), expected, rtol=0, atol=1e-12)


def test_cosine_means_unit_length():
    query, gallery = drawn()
    unit = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in (query, gallery)]
    expected = definition(*unit, 20, 6, 0.3)
    np.testing.assert_allclose(reranked(query, gallery, Reranking(), "cosine"), expected, atol=1e-12)


def test_ranking_is_that_of_the_distances_with_the_filters():
    query, gallery = drawn()
    labels = labels_of(query, gallery)
    rules = CameraFilter(same_camera=True, pairs=((2, 1),))
    expected = rank_distances(reranked(query, gallery, Reranking()), *labels, rules, "identities")
    found = rank_features(query, gallery, *labels, "euclidean", rules, "identities", reranking=Reranking())
    np.testing.assert_array_equal(found, expected)
    assert not np.array_equal(found, rank_features(query, gallery, *labels, "euclidean", rules, "identities"))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_threads_and_tiles_change_no_bit(dtype):
    query, gallery = drawn(dtype=dtype)
    labels = core_labels(*labels_of(query, gallery), CameraFilter())
    results = [
        core().rank_reranked(
            np.concatenate([query, gallery]), len(query), 20, 6, 0.3, labels,
            distinct_identities=True, threads=threads, tile=tile,
        )
        for threads, tile in [(1, (64, 512)), (2, (1, 1)), (3, (7, 13)), (8, (1000, 1000))]
    ]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_it_is_off_unless_asked_for_and_named_where_it_was_on():
    query, gallery = drawn()
    modality = np.array(["infrared"] * len(query) + ["visible"] * len(gallery))
    identity = np.concatenate([labels.identity for labels in labels_of(query, gallery)])
    features = evaluation.Features(np.concatenate([query, gallery]), identity, 0 * identity, modality=modality)
    plain = evaluation.evaluate(features, Generic())
    on = evaluation.evaluate(features, Generic(), reranking=Reranking(k1=7))
    assert plain.reranking is None and "re-ranking" not in plain.protocol
    assert on.reranking == "k-reciprocal re-ranking (k1 7, k2 6, lambda 0.3)"
    assert on.protocol == f"{plain.protocol}, {on.reranking}"
    assert on.mAP != plain.mAP


def test_images_that_are_all_one():
    """All distances are 0, so is their greatest, by which the definition divides: they stay 0."""
    ones = np.ones((5, 3))
    distances = reranked(ones, ones, Reranking(3, 1, 1.0))
    np.testing.assert_array_equal(distances, np.zeros((5, 5)))


@pytest.mark.parametrize("constants", [(0, 6, 0.3), (20, 0, 0.3), (20, 6, 1.5), (20, 6, float("nan"))])
def test_constants_out_of_range(constants):
    with pytest.raises(InputError, match="expected k1 and k2 of at least 1"):
        Reranking(*constants)


def test_a_distance_that_is_not_finite_is_named():
    query, gallery = drawn(dtype=np.float32)
    gallery[2] = 1e30
    with pytest.raises(InputError, match=r"the distance of query \d+ to gallery image \d+ is not finite"):
        reranked(query, gallery, Reranking())
