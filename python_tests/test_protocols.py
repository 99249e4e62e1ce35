"""Protocols, saved features and results: the official SYSU-MM01 numbers, SciPy's files, hand-worked galleries."""

import io
import json
import runpy

import numpy as np
import pytest
import scipy.io

from toplight_ext import evaluation
from toplight_ext.errors import InputError
from toplight_ext.evaluation import Features, Generic, SysuMM01
from toplight_ext.evaluation.mat5 import read_mat5

SCORES = ("r1", "r5", "r10", "r20", "mAP", "mINP")


@pytest.fixture(scope="module")
def sysu(shared):
    """Folder of the official permutations, and the synthetic features that the expected numbers belong to."""
    folder = shared / "protocol" / "sysu"
    features, identity, camera, index = runpy.run_path(folder / "make_synthetic_features.py")["synthetic_features"](0)
    shuffled = np.random.default_rng(0).permutation(len(features))  # the order of the file must not matter
    arrays = (array[shuffled] for array in (features, identity, camera))
    return folder, Features(*arrays, index=index[shuffled])


@pytest.mark.parametrize("mode", ["all", "indoor"])
@pytest.mark.parametrize("shots", [1, 10])
def test_official_sysu_numbers(sysu, mode, shots):
    folder, features = sysu
    expected = json.loads((folder / "expected_seed0.json").read_text())[f"{mode}_{shots}shot"]
    protocol = evaluation.parse_protocol("sysu", mode, shots, folder / "rand_perm_cam.mat")
    result = evaluation.evaluate(features, protocol, metric="euclidean")
    for name in ("r1", "r10", "r20", "mAP"):
        assert getattr(result, name) == pytest.approx(expected[name], abs=1e-9), name
    assert result.mINP == pytest.approx(expected["mINP"], abs=1e-6)
    assert result.gallery == expected["gallery"]
    assert (result.trials, result.queries) == (10, 3803)
    assert result.valid_queries == (3803 if mode == "all" else 2208)


def test_official_permutations_are_read_as_scipy_reads_them(sysu):
    path = sysu[0] / "rand_perm_cam.mat"
    expected = scipy.io.loadmat(path)["rand_perm_cam"]
    permutations = evaluation.load_permutations(path)
    assert len(permutations) == 6
    for camera in range(6):
        cells = expected[camera, 0].ravel()
        assert len(permutations[camera]) == len(cells)
        assert all(map(np.array_equal, permutations[camera], cells))


@pytest.mark.parametrize("compressed", [False, True])
def test_matlab_files_of_scipy(tmp_path, compressed):
    cells = np.empty((2, 1), dtype=object)
    cells[0, 0], cells[1, 0] = np.arange(6.0).reshape(2, 3), np.empty((1, 2), dtype=object)
    cells[1, 0][0] = np.int32([[7]]), np.uint8([[1], [2]])
    scipy.io.savemat(tmp_path / "a.mat", {"cells": cells, "n": np.float32([[1.5]])}, do_compression=compressed)
    variables = read_mat5(tmp_path / "a.mat")
    np.testing.assert_array_equal(variables["n"], [[1.5]])
    np.testing.assert_array_equal(variables["cells"][0, 0], np.arange(6).reshape(2, 3))
    np.testing.assert_array_equal(variables["cells"][1, 0][0, 1], [[1], [2]])

    content = (tmp_path / "a.mat").read_bytes()
    for end in range(129, len(content), 3):
        (tmp_path / "cut.mat").write_bytes(content[:end])
        try:
            found = read_mat5(tmp_path / "cut.mat")
        except ValueError:
            continue
        assert set(found) < {"cells", "n"}, f"{end} bytes of {len(content)} pass for the whole file"


# Three identities. Camera 1 holds two images of each, camera 2 one of the first two, camera 3 (infrared) one of each.
IDENTITY = np.array([1, 1, 2, 2, 3, 3, 1, 2, 1, 2, 3])
CAMERA = np.array([1, 1, 1, 1, 1, 1, 2, 2, 3, 3, 3])
INDEX = np.array([1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1])
POSITION = np.array([0, 9, 4, 1, 7, 3, 0.1, 4.1, 0.2, 4.2, 7.2])
ROW = {(c, i, n): row for row, (c, i, n) in enumerate(zip(CAMERA, IDENTITY, INDEX, strict=True))}


def small_features(**changes):
    modality = np.where(np.isin(CAMERA, (3, 6)), "infrared", "visible")
    arrays = dict(features=np.stack([POSITION, 0 * POSITION], 1), identity=IDENTITY, camera=CAMERA, index=INDEX)
    return Features(**{**arrays, "modality": modality, **changes})


def small_permutations(trials=((1, 2), (2, 1))):
    """Two trials: the images of camera 1 in their order and turned round."""
    two, one, none = np.array(trials), np.ones((len(trials), 1), int), np.empty((len(trials), 0), int)
    return ((two,) * 3, (one, one, none), (one,) * 3, (), (), ())


def test_sysu_draws_by_hand():
    protocol = SysuMM01("indoor", 1, small_permutations())
    first, second = protocol.trials(small_features())
    assert first.query.tolist() == second.query.tolist() == [ROW[3, 1, 1], ROW[3, 2, 1], ROW[3, 3, 1]]
    camera_2 = [ROW[2, 1, 1], ROW[2, 2, 1]]
    assert first.gallery.tolist() == [ROW[1, 1, 1], ROW[1, 2, 1], ROW[1, 3, 1], *camera_2]
    assert second.gallery.tolist() == [ROW[1, 1, 2], ROW[1, 2, 2], ROW[1, 3, 2], *camera_2]

    # Camera 3 does not see camera 2. In trial 1 every right image is nearest; in trial 2 the images of 1, 2, 3
    # stand at 9, 1, 3, so that 0.2 finds its own third, 4.2 second, 7.2 second.
    result = evaluation.evaluate(small_features(), protocol, "euclidean")
    assert [result.r1, result.r5] == pytest.approx([0.5, 1])
    assert result.mAP == pytest.approx((1 + (1 / 3 + 1 / 2 + 1 / 2) / 3) / 2)
    assert result.std["r1"] == pytest.approx(0.5)
    assert result.valid_queries == result.queries == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(index=None), "needs `index`"),
        (dict(identity=IDENTITY.astype(str)), "numeric `identity`"),
        (dict(index=INDEX + (CAMERA == 2)), "camera 2, identity 1: 1 features, where the permutations know 1"),
        (dict(identity=IDENTITY + 3 * (IDENTITY == 3)), "camera 1, identity 6: 2 features, .* know 0 images"),
        (dict(camera=np.where(CAMERA == 3, 2, CAMERA)), "no feature is of cameras .3, 6."),
        (dict(camera=np.where(CAMERA == 2, 7, CAMERA)), "camera 2, identity 1: 0 features, .* know 1 images"),
        (dict(camera=np.where(CAMERA == 2, 1, CAMERA)), "rows 0 and 6 are both image 1 of identity 1, camera 1"),
    ],
)
def test_features_that_do_not_fit_the_permutations(change, message):
    with pytest.raises(InputError, match=message):
        evaluation.evaluate(small_features(**change), SysuMM01("indoor", 1, small_permutations()))


def test_ten_shots_need_ten_images():
    with pytest.raises(InputError, match="camera 1, identity 1: 2 images are too few for 10 shots"):
        evaluation.evaluate(small_features(), SysuMM01("indoor", 10, small_permutations()))


def write_permutations(path, name="rand_perm_cam", cameras=6, cell=((2, 1), (1, 2))):
    cells = np.empty((cameras, 1), dtype=object)
    for camera in range(cameras):
        cells[camera, 0] = np.empty((2, 1), dtype=object)
        cells[camera, 0][:, 0] = [np.uint8(cell), np.empty((2, 0), np.uint8)]
    scipy.io.savemat(path, {name: cells})


def features_file(path):
    np.savez_compressed(path, **{name: getattr(small_features(), name) for name in ("features", "identity", "camera")})


@pytest.mark.parametrize(
    ("name", "write", "load"),
    [
        ("p.mat", write_permutations, evaluation.load_permutations),
        ("f.npz", features_file, evaluation.load_features),
    ],
)
def test_damaged_files_are_never_anything_worse_than_bad_input(tmp_path, name, write, load):
    write(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(1000):
        damaged = bytearray(content)
        damaged[rng.integers(120, len(content))] = rng.integers(256)
        (tmp_path / name).write_bytes(damaged)
        try:
            load(tmp_path / name)
        except InputError:
            refused += 1
    assert refused > 300


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.write_bytes(b"rank,identity\n"), "not a MATLAB 5 file"),
        (lambda path: path.write_bytes(b"MATLAB 7.3".ljust(128, b" ") + b"\x89HDF"), "save -v7"),
        (lambda path: write_permutations(path, name="id"), "no variable 'rand_perm_cam'"),
        (lambda path: scipy.io.savemat(path, {"rand_perm_cam": "text"}), "not the official rand_perm_cam.mat"),
        (lambda path: scipy.io.savemat(path, {"rand_perm_cam": np.eye(6)}), "expected permutations for 6 cameras"),
        (lambda path: write_permutations(path, cameras=5), "expected permutations for 6 cameras"),
        (lambda path: write_permutations(path, cell=((2, 2), (1, 2))), "not a permutation"),
    ],
)
def test_permutation_files_that_are_none(tmp_path, write, message):
    path = tmp_path / "rand_perm_cam.mat"
    write(path)
    with pytest.raises(InputError, match=message) as caught:
        evaluation.load_permutations(path)
    assert str(path) in str(caught.value)


def test_permutation_file_as_published(tmp_path):
    write_permutations(tmp_path / "p.mat")
    permutations = evaluation.load_permutations(tmp_path / "p.mat")
    assert [len(camera) for camera in permutations] == [2] * 6
    assert permutations[5][0].tolist() == [[2, 1], [1, 2]]
    assert permutations[5][1].shape == (2, 0)


def test_generic_both_directions_by_hand():
    """On a line: infrared 0.2, 4.2, 7.2 of 1, 2, 3; visible 0, 9 | 4, 1 | 7, 3 of 1, 2, 3, then 0.1, 4.1 of 1, 2."""
    result = evaluation.evaluate(small_features(), Generic("infrared", "visible"), "euclidean")
    # 0.2 -> 0.1 0 ... 9 last (8);  4.2 -> 4.1 4 (3) 1 (5: 7 is nearer);  7.2 -> 7 (9) (4.1) (4) 3
    ap = [(1 + 1 + 3 / 8) / 3, (1 + 1 + 3 / 5) / 3, (1 + 2 / 5) / 2]
    assert (result.r1, result.valid_queries, result.trials, result.gallery) == (1, 3, 1, 8)
    assert result.mAP == pytest.approx(np.mean(ap))
    assert result.mINP == pytest.approx(np.mean([3 / 8, 3 / 5, 2 / 5]))
    assert result.protocol == "generic infrared->visible, image-level CMC"

    back = evaluation.evaluate(small_features(), evaluation.parse_protocol("csv", "visible->infrared"), "euclidean")
    right = [1, 3, 1, 2, 1, 3, 1, 1]  # ranks of the one right image
    assert (back.queries, back.gallery) == (8, 3)
    assert back.r1 == pytest.approx(np.mean(np.array(right) == 1))
    assert back.mAP == back.mINP == pytest.approx(np.mean(1 / np.array(right)))
    assert back.protocol == "generic visible->infrared, image-level CMC"


def test_same_camera_filter_and_unmatched_queries():
    features = small_features(camera=np.where(np.arange(11) == 1, 5, 1))  # one visible image of identity 1 remains
    result = evaluation.evaluate(features, Generic("infrared", "visible", same_camera_filter=True), "euclidean")
    assert "same identity and camera filtered" in result.protocol
    assert (result.queries, result.valid_queries) == (3, 1)
    # Of the eight images the two others of identity 1 are not seen; the one at 9 is the last of six.
    assert result.mAP == pytest.approx(1 / 6)


def test_result_as_json_and_table():
    result = evaluation.evaluate(small_features(), Generic(), "euclidean")
    record = json.loads(json.dumps(result.to_json()))
    assert set(SCORES) | {"std", "trials", "protocol", "valid_queries", "metric", "cmc"} <= set(record)
    assert set(record["std"]) == set(SCORES)
    assert (record["cmc"][0], record["cmc"][19]) == (record["r1"], record["r20"])
    assert "generic infrared->visible, image-level CMC; euclidean; 1 trial" in evaluation.table(result)
    assert f"{100 * result.mAP:.2f}" in evaluation.table(result)


def test_ranked_lists_by_hand():
    protocol = Generic("infrared", "visible")
    query = ROW[3, 3, 1]
    lists = evaluation.ranked_lists(small_features(), protocol, top=9, queries=[query], metric="euclidean")
    assert lists.query.tolist() == [query]
    assert POSITION[lists.gallery[0, :8]].tolist() == [7, 9, 4.1, 4, 3, 1, 0.1, 0]
    assert lists.gallery[0, 8] == -1 and np.isnan(lists.distances[0, 8])
    np.testing.assert_allclose(lists.distances[0, :2], [0.2, 1.8])
    assert lists.correct[0].tolist() == [True] + 3 * [False] + [True] + 4 * [False]
    assert evaluation.ranked_lists(small_features(), protocol, 2, metric="euclidean").gallery.shape == (3, 2)
    with pytest.raises(InputError, match="image 0 is no query"):
        evaluation.ranked_lists(small_features(), protocol, queries=[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("csv", "infrared"), "expected infrared->visible or visible->infrared"),
        (("csv", "thermal->visible"), "modality 'thermal'"),
        (("csv", "visible->visible"), "needs same_camera_filter"),
        (("market", "all"), "no protocol for data set 'market'"),
        (("sysu", "all", 1), "needs --permutations"),
    ],
)
def test_words_that_name_no_protocol(arguments, message):
    with pytest.raises(InputError, match=message):
        evaluation.parse_protocol(*arguments)


def test_sysu_mode_and_shots_are_checked():
    with pytest.raises(InputError, match="expected all or indoor"):
        SysuMM01("outdoor", 1, small_permutations())
    with pytest.raises(InputError, match="5 shots: expected 1 or 10"):
        SysuMM01("all", 5, small_permutations())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(modality=None), "modality: missing"),
        (dict(modality=np.full(11, "visible")), "no feature has the modality infrared"),
        (dict(identity=np.arange(11)), "none of the 3 queries has an image of its identity"),
        (dict(modality=np.full(11, "thermal")), "modality of image 0 is 'thermal'"),
        (dict(identity=np.zeros(10, int)), r"identity: expected shape \(11,\)"),
        (dict(identity=IDENTITY / 2), "identity: expected integers or text, got float64"),
        (dict(features=np.where(np.arange(22).reshape(11, 2) == 5, np.nan, 1.0)), "1 of 11 rows .* the first is 2"),
        (dict(features=np.ones((11, 2), int)), "expected floating-point"),
    ],
)
def test_features_that_cannot_be_evaluated(changes, message):
    with pytest.raises(InputError, match=message):
        evaluation.evaluate(small_features(**changes), Generic(), "euclidean")


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
def test_features_file_round_trip(tmp_path, ending):
    if ending == ".safetensors":
        pytest.importorskip("safetensors", reason="safetensors is not installed (extra: train)")
    path = tmp_path / f"f{ending}"
    saved = small_features(identity=IDENTITY.astype(str), paths=np.array([f"{i}é.jpg" for i in range(11)]))
    evaluation.save_features(path, saved)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    loaded = evaluation.load_features(path)
    for name in ("features", "identity", "camera", "modality", "index", "paths"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(saved, name))
    assert loaded.features.dtype == saved.features.dtype


def test_half_precision_features_are_widened(tmp_path):
    np.savez(tmp_path / "h.npz", features=np.ones((2, 3), np.float16), identity=[1, 2], camera=[1, 2])
    assert evaluation.load_features(tmp_path / "h.npz").features.dtype == np.float32


def array_file(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.write_bytes(b"PK\x03\x04 not a zip"), "not an .npz"),
        (lambda path: path.write_bytes(b""), "not an .npz"),
        (lambda path: path.write_bytes(array_file(np.ones(3))), "not an .npz"),
        (
            lambda path: np.savez(path, features=np.ones((2, 2)), camera=[1, 1]),
            "no array identity .found: camera, feat",
        ),
        (
            lambda path: np.savez(path, features=np.ones((1, 2)), identity=np.array([{}]), camera=[1]),
            "not an .npz of plain arrays",
        ),
        (lambda path: np.savez(path, features=np.ones((2, 2)), identity=[1, 2], camera=[[1], [2]]), "camera: expected"),
    ],
)
def test_feature_files_that_are_none(tmp_path, write, message):
    path = tmp_path / "f.npz"
    write(path)
    with pytest.raises(InputError, match=message) as caught:
        evaluation.load_features(path)
    assert str(path) in str(caught.value)


def test_another_file_ending_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"\.npz or \.safetensors"):
        evaluation.load_features(tmp_path / "f.pkl")
