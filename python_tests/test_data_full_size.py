"""SYSU-MM01 and RegDB with all their images, tiny ones: published numbers, numbering, and the speed of the check."""

import time

import numpy as np
import pytest

pytest.importorskip("PIL", reason="Pillow is not installed (extra: train)")

import trees

from toplight_ext import evaluation, inference
from toplight_ext.data import check_dataset, load_dataset


@pytest.fixture(scope="module")
def sysu(tmp_path_factory, shared):
    pytest.importorskip("scipy.io", reason="SciPy is not installed (extra: test)")
    root = tmp_path_factory.mktemp("sysu")
    trees.full_sysu(root, shared / "protocol" / "sysu")
    return root


def images_per_second(name, root) -> tuple[float, dict]:
    """Of the processor's time, which other work beside it does not stretch."""
    start = time.process_time()
    record = check_dataset(name, root).to_json()
    return record["images"] / (time.process_time() - start), record


def test_sysu_is_as_published(sysu):
    speed, record = images_per_second("sysu", sysu)
    assert record["findings"] == []
    assert [[split[key] for key in ("split", "identities", "images")] for split in record["splits"]] == [
        ["train", 395, 22_258 + 11_909],
        ["test", 96, 6_775 + 3_803],
    ]
    assert speed > 2000


def test_regdb_is_as_published(tmp_path):
    trees.full_regdb(tmp_path)
    speed, record = images_per_second("regdb", tmp_path)
    assert record["findings"] == []
    assert (len(record["splits"]), record["identities"], record["images"]) == (20, 412, 8240)
    assert all((split["identities"], split["images"]) == (206, 4120) for split in record["splits"])
    assert speed > 2000


def test_sysu_fits_the_official_permutations(sysu, shared):
    scipy = pytest.importorskip("scipy.io")
    samples = load_dataset("sysu", sysu, "test")
    draw = np.random.default_rng(0)
    features = evaluation.Features(
        draw.standard_normal((len(samples), 4)),
        identity=np.array([s.identity for s in samples]),
        camera=np.array([s.camera for s in samples]),
        index=inference.image_numbers(samples),
    )
    official = scipy.loadmat(shared / "protocol" / "sysu" / "test_id.mat")["id"].ravel()
    assert np.array_equal(np.unique(features.identity), np.sort(official))
    permutations = evaluation.load_permutations(shared / "protocol" / "sysu" / "rand_perm_cam.mat")
    for mode, sizes in (("all", (3803, 301)), ("indoor", (3803, 112))):
        result = evaluation.evaluate(features, evaluation.SysuMM01(mode, 1, permutations))
        assert (result.queries, result.gallery) == sizes
