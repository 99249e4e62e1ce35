"""What a report is told of features, against plain loops."""

import evaluation_cases as cases
import numpy as np
import pytest

from toplight_ext import evaluation


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_pair_distances_count_every_pair_that_is_seen(metric):
    features = cases.sysu_like()
    protocol = evaluation.SysuMM01("all", 1)
    query, gallery = next(iter(protocol.trials(features)))
    query = query[np.linspace(0, len(query) - 1, 300).astype(int)]
    genuine, impostor = [], []
    for q in query:
        for g in gallery:
            if features.camera[q] == 3 and features.camera[g] == 2:  # the protocol hides these
                continue
            a, b = features.features[q], features.features[g]
            cosine = a @ b / np.sqrt((a @ a) * (b @ b))
            distance = 1 - cosine if metric == "cosine" else np.sqrt(((a - b) ** 2).sum())
            (genuine if features.identity[q] == features.identity[g] else impostor).append(distance)
    found = evaluation.pair_distances(features, protocol, metric)
    assert found.genuine.sum() == len(genuine) and found.impostor.sum() == len(impostor)
    inner = found.edges[1:-1]  # the ends themselves are distances, and rounding may leave them on either side
    for counts, distances in ((found.genuine, genuine), (found.impostor, impostor)):
        below = [(np.array(distances) < edge).sum() for edge in inner]
        assert np.abs(np.cumsum(counts)[:-1] - below).max() <= 1


def test_projection_is_on_the_eigenvectors_of_the_covariance():
    features = cases.llcm_like()
    protocol = evaluation.parse_protocol("csv", "infrared->visible")
    found = evaluation.projection(features, protocol, "euclidean")
    chosen = features.features[found.rows]
    assert set(features.modality[found.rows]) == {"visible", "infrared"}
    values, vectors = np.linalg.eigh(np.cov(chosen.T))
    np.testing.assert_allclose(found.variance, values[:-3:-1] / values.sum())
    expected = (chosen - chosen.mean(0)) @ vectors[:, :-3:-1]
    np.testing.assert_allclose(np.abs(found.points), np.abs(expected), atol=1e-10)


def test_projection_of_fewer_dimensions_than_two():
    features = evaluation.Features(
        np.array([[1.0], [2.0], [4.0]]),
        np.array([0, 0, 1]),
        np.ones(3, int),
        np.array(["infrared", "visible", "visible"]),
    )
    found = evaluation.projection(features, evaluation.parse_protocol("csv", "infrared->visible"), "euclidean")
    np.testing.assert_allclose(found.points[:, 0], np.array([1, 2, 4]) - 7 / 3)
    assert not found.points[:, 1].any() and found.variance.tolist() == [1, 0]
