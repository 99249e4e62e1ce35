"""What every protocol has in common: directions, splits, several networks, the GPU path, the forms of a result."""

import csv
import io
import json
import warnings

import evaluation_cases as cases
import numpy as np
import pytest
import ranking_oracle as oracle
import torch
from scipy.spatial.distance import cdist

from toplight_ext import evaluation
from toplight_ext.errors import InputError
from toplight_ext.evaluation import (
    LLCM,
    CameraFilter,
    Direction,
    Faces,
    Features,
    Generic,
    Labels,
    Origin,
    RegDB,
    Reranking,
    Split,
    SysuMM01,
)
from toplight_ext.evaluation.device_ranking import rank_on_device

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")),
]


def pairs(images=60, identities=20, seed=0, origin=None, **changes):
    """Half infrared, half visible; with an `origin` the stems are those of the images."""
    rng = np.random.default_rng(seed)
    identity = np.tile(np.arange(identities), images // identities)
    prototypes = rng.standard_normal((identities, 6))
    modality = np.where(np.arange(images) < images // 2, "infrared", "visible")
    arrays = dict(features=prototypes[identity] + rng.standard_normal((images, 6)), identity=identity)
    known = {"stem": modality, "origin": origin} if origin else {}
    return Features(**{**arrays, "camera": np.arange(images) % 3, "modality": modality, **known, **changes})


def trained_on(*trials):
    return tuple(Split("regdb", f"train_{trial}") for trial in trials)


def regdb(trial, trained=None, seed=None, split="test"):
    origin = Origin("after BNNeck", False, Split("regdb", f"{split}_{trial}"), trained_on(trained) if trained else ())
    return pairs(seed=trial if seed is None else seed, origin=origin)


@pytest.mark.parametrize("direction", ["visible->infrared", "infrared->visible"])
def test_ten_splits_are_ten_trials_of_regdb(direction):
    """By the oracle, split by split: image-level CMC, no filter, every image of both sides."""
    sets = [regdb(trial, trained=trial) for trial in range(1, 11)]
    protocol = evaluation.parse_protocol("regdb", direction)
    result = evaluation.evaluate(sets, protocol, "euclidean")
    expected = []
    for features in sets:
        query, gallery = (np.flatnonzero(features.modality == side) for side in direction.split("->"))
        labels = [Labels(features.identity[rows], features.camera[rows]) for rows in (query, gallery)]
        expected.append(oracle.scores(cdist(features.features[query], features.features[gallery]), *labels))
    mean_ap, mean_inp, first = np.array(expected).transpose(1, 0, 2)
    assert [trial.scores["mAP"] for trial in result.per_trial] == pytest.approx(mean_ap.mean(axis=1), rel=1e-12)
    assert result.mINP == pytest.approx(mean_inp.mean(), rel=1e-12)
    assert result.r5 == pytest.approx((first <= 5).mean(), rel=1e-12)
    assert result.std["mAP"] == pytest.approx(mean_ap.mean(axis=1).std(), rel=1e-9)
    assert result.protocol == f"RegDB {direction}, image-level CMC"
    assert [trial.name for trial in result.per_trial] == [f"test_{trial}" for trial in range(1, 11)]
    assert result.trials == 10 and result.origin == Origin("after BNNeck", False)


def test_a_network_on_another_split_is_refused_unless_told():
    foreign = regdb(trial=4, trained=3)
    with pytest.raises(InputError, match=r"trained on regdb train_3, whose identities regdb test_4 may ask for"):
        evaluation.evaluate(foreign, RegDB())
    assert evaluation.evaluate(foreign, RegDB(), any_split=True).origin.training == trained_on(3)
    for harmless in (
        regdb(trial=3, trained=3),
        regdb(trial=3),
        pairs(origin=Origin(images=Split("regdb", "test_3"), training=(Split("csv", "train_4"),))),
        pairs(origin=Origin(images=Split("csv", "dev"), training=(Split("csv", "train"),))),
    ):
        evaluation.evaluate(harmless, RegDB())
    with pytest.raises(InputError, match="regdb test_2 is given twice"):
        evaluation.evaluate([regdb(1), regdb(2), regdb(2, seed=5)], RegDB())
    with pytest.raises(InputError, match="at least one network, got none"):
        evaluation.evaluate([], RegDB())


@pytest.mark.parametrize("past", [(2, 1), (1, 2)])
def test_all_that_a_network_has_seen_is_refused(past):
    """What it started from, and the other networks of its soup: no trial is left that asks for nobody it knows."""
    images = Split("regdb", "test_1")
    known = pairs(origin=Origin(images=images, training=(Split("imagenet", "train"), *trained_on(*past))))
    with pytest.raises(InputError, match=r"trained on regdb train_2, .* regdb test_1 .*: no trial is new to it"):
        evaluation.evaluate(known, RegDB())
    assert evaluation.evaluate(known, RegDB(), any_split=True).r1 > 0


def test_an_evaluation_on_what_was_trained_on_says_so():
    with pytest.warns(UserWarning, match="trained on regdb train_2, and is evaluated on it"):
        evaluation.evaluate(regdb(trial=2, trained=2, split="train"), RegDB())
    unnamed = Split("csv", None)  # any manifest
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluation.evaluate(regdb(trial=2, trained=2), RegDB())
        evaluation.evaluate(pairs(origin=Origin(images=unnamed, training=(unnamed,))), RegDB())


def test_features_of_older_versions_name_one_split(tmp_path):
    written = tmp_path / "f.npz"
    for recorded, expected in (["regdb", "train_2"], trained_on(2)), (None, ()), ([], ()):
        origin = json.dumps({"images": ["regdb", "test_2"], "training": recorded})
        np.savez(written, features=np.eye(2), identity=np.arange(2), camera=np.ones(2, int), origin=np.array(origin))
        assert evaluation.load_features(written).origin == Origin(images=Split("regdb", "test_2"), training=expected)
    features = regdb(trial=4, trained=4)
    evaluation.save_features(written, features)
    assert evaluation.load_features(written).origin == features.origin


def test_wrong_stems_are_named_by_row():
    features = pairs()
    stem = features.modality.copy()
    stem[[7, 40]] = "visible", "infrared"
    with pytest.raises(InputError, match=r"2 of 60 .* the first is row 7"):
        Features(**{**vars(features), "stem": stem})
    # Without modalities the protocol knows them: cameras 3 and 6 of SYSU-MM01 are infrared.
    sysu = cases.sysu_like(1)
    swapped = Features(sysu.features, sysu.identity, sysu.camera, index=sysu.index, stem=np.full(len(sysu), "visible"))
    row = np.flatnonzero(np.isin(sysu.camera, cases.SYSU_INFRARED))[0]
    with pytest.raises(InputError, match=f"812 of 812 infrared images .* the first is row {row}"):
        evaluation.evaluate(swapped, SysuMM01("all", 1))


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
def test_origin_and_stems_are_kept_with_the_features(tmp_path, ending):
    if ending == ".safetensors":
        pytest.importorskip("safetensors", reason="safetensors is not installed (extra: train)")
    saved = regdb(trial=4, trained=4)
    evaluation.save_features(tmp_path / f"f{ending}", saved)
    loaded = evaluation.load_features(tmp_path / f"f{ending}")
    assert loaded.origin == saved.origin and loaded.origin.images.trial == 4
    np.testing.assert_array_equal(loaded.stem, saved.stem)


@pytest.mark.parametrize("origin", ['{"feature": 3}', '{"images": [1]}', '{"images": "ab"}', '{"flop": 1}', "[]", "{"])
def test_origins_that_are_none(tmp_path, origin):
    np.savez(tmp_path / "f.npz", features=np.ones((2, 2)), identity=[1, 2], camera=[1, 2], origin=np.array(origin))
    with pytest.raises(InputError, match=r"f\.npz: not an \.npz of plain arrays"):
        evaluation.load_features(tmp_path / "f.npz")


def test_camera_rules_of_the_user():
    """By the oracle: camera 0 sees nothing of camera 2, nobody the same person in the same camera, identities count."""
    features = pairs(images=120)
    protocol = evaluation.parse_protocol(
        "csv", "visible->infrared", same_camera_filter=True, camera_pairs=[(0, 2)], cmc="identities"
    )
    result = evaluation.evaluate(features, protocol, "euclidean")
    query, gallery = (np.flatnonzero(features.modality == side) for side in protocol.direction)
    labels = [Labels(features.identity[rows], features.camera[rows]) for rows in (query, gallery)]
    distances = cdist(features.features[query], features.features[gallery])
    mean_ap, _, first = oracle.scores(distances, *labels, same_camera=True, pairs=((0, 2),), distinct=True)
    valid = first > 0
    assert (result.mAP, result.r1) == pytest.approx((mean_ap[valid].mean(), (first[valid] == 1).mean()), rel=1e-12)
    assert result.protocol == (
        "generic visible->infrared, distinct-identity CMC, same identity and camera filtered, cameras 0->2 filtered"
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("cmc", ["images", "identities"])
def test_ranking_on_a_device_equals_the_core(device, dtype, metric, cmc):
    """Entries of +-1 in 64 dimensions have exact distances in any arithmetic, and very many ties."""
    rng = np.random.default_rng(1)
    query, gallery = (rng.choice([-1, 1], (count, 64)).astype(dtype) for count in (90, 300))
    labels = [Labels(rng.integers(0, 40, count), rng.integers(1, 4, count)) for count in (90, 300)]
    arguments = (query, gallery, *labels, metric, CameraFilter(same_camera=True, pairs=((3, 2),)), cmc)
    expected = evaluation.rank_features(*arguments)
    found = rank_on_device(*arguments, device, pairs_at_once=7 * 300)
    np.testing.assert_array_equal(found.first_rank, expected.first_rank)
    np.testing.assert_allclose(found[:2], expected[:2], rtol=1e-13)


@pytest.mark.parametrize("device", DEVICES)
def test_a_protocol_on_a_device(device):
    features = cases.sysu_like(1)
    on_device, in_core = (evaluation.evaluate(features, SysuMM01("all", 1), device=where) for where in (device, None))
    assert on_device.scores == pytest.approx(in_core.scores, rel=1e-12)
    with pytest.raises(InputError, match="re-ranking runs in the compiled core alone"):
        evaluation.evaluate(features, SysuMM01("all", 1), reranking=Reranking(), device=device)


def test_equal_features_tie_on_a_device():
    rng = np.random.default_rng(0)
    query, one = rng.standard_normal((33, 513)).astype(np.float32), rng.standard_normal((1, 513)).astype(np.float32)
    identity = np.zeros(777, int)
    identity[[5, 700]] = 1  # all gallery images are equal: these two stand at ranks 6 and 701, whoever asks
    labels = Labels(np.ones(33, int), np.zeros(33, int)), Labels(identity, np.zeros(777, int))
    for metric in ("cosine", "euclidean"):
        ranking = rank_on_device(query, np.repeat(one, 777, axis=0), *labels, metric, device="cpu", pairs_at_once=9000)
        assert (ranking.first_rank == 6).all()
        np.testing.assert_allclose(ranking.inverse_negative_penalty, 2 / 701)


@pytest.mark.parametrize(
    ("query", "gallery", "device", "message"),
    [
        (np.full((1, 2), 1e200), np.full((1, 2), -1e200), "cpu", "query 0 to gallery image 0 is not finite"),
        (np.ones((1, 2)), np.ones((1, 2)), "warp", "torch cannot use it here"),
        (np.ones((1, 2)), np.ones((1, 3)), "cpu", "same type and number of columns"),
    ],
)
def test_bad_input_on_a_device_is_named(query, gallery, device, message):
    one = Labels(np.array([1]), np.array([1]))
    with pytest.raises(InputError, match=message):
        rank_on_device(query, gallery, one, one, "euclidean", device=device)


def test_empty_gallery_on_a_device():
    one, none = Labels(np.array([1]), np.array([1])), Labels(np.array([], int), np.array([], int))
    assert not rank_on_device(np.ones((1, 2)), np.ones((0, 2)), one, none, device="cpu").valid.any()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("sysu", None, 10, "agw"), "SYSU-MM01 all-search 10-shot, AGW seeds"),
        (("sysu", "indoor", 1, "agw"), "SYSU-MM01 indoor-search 1-shot, AGW seeds"),
        (("regdb",), "RegDB visible->infrared, image-level CMC"),
        (("llcm",), "LLCM infrared->visible, AGW seeds, same identity and camera filtered"),
        (("llcm", "visible->infrared"), "LLCM visible->infrared, AGW seeds, same identity and camera filtered"),
        (
            ("llcm", "deen:visible->infrared"),
            "LLCM visible->infrared as DEEN reads it (drawn infrared queries, all visible images as gallery), "
            "AGW seeds, same identity and camera filtered",
        ),
        (("buaa",), "faces infrared->visible, image-level CMC, all pairs verified"),
        (("synthetic", "visible->infrared"), "generic visible->infrared, image-level CMC"),
    ],
)
def test_words_and_the_names_that_results_print(arguments, expected):
    assert evaluation.parse_protocol(*arguments).name == expected


@pytest.mark.parametrize(
    ("arguments", "rules", "message"),
    [
        (("regdb", "visible->visible"), {}, "visible->visible: expected infrared->visible or visible->infrared"),
        (("llcm", "deen:infrared->visible"), {}, "DEEN's code has a reading of its own of visible->infrared alone"),
        (("oulu", "visible->infrared"), {}, "faces are evaluated infrared->visible"),
        (("regdb",), {"same_camera_filter": True}, "regdb has camera and CMC rules of its own"),
        (("llcm",), {"cmc": "images", "camera_pairs": [(1, 2)]}, "llcm has camera and CMC rules of its own"),
        (("csv", None, 10), {}, "csv: shots and permutations belong to sysu alone"),
        (("regdb", None, 1, "agw"), {}, "regdb: shots and permutations belong to sysu alone"),
    ],
)
def test_words_that_contradict_a_protocol(arguments, rules, message):
    with pytest.raises(InputError, match=message):
        evaluation.parse_protocol(*arguments, **rules)


def test_draws_need_numbered_images():
    features = cases.llcm_like(2)
    with pytest.raises(InputError, match=r"`index` .* is missing"):
        evaluation.evaluate(Features(**{**vars(features), "index": None}), LLCM())
    index = features.index.copy()
    second = np.flatnonzero(index == 2)[0]
    index[second] = 1
    with pytest.raises(InputError, match=f"rows {second - 1} and {second} are both image 1 of identity"):
        evaluation.evaluate(Features(**{**vars(features), "index": index}), LLCM())


def test_verification_needs_both_kinds_of_pairs():
    with pytest.raises(InputError, match="none of the 4 pairs is impostor"):
        features = pairs(images=4, identities=1)
        evaluation.evaluate(features, Faces())


@pytest.fixture(scope="module")
def results():
    features = cases.sysu_like(1)
    return [evaluation.evaluate(features, SysuMM01(mode, 1)) for mode in ("all", "indoor")]


def test_json_has_every_trial_and_every_flag(results):
    record = json.loads(json.dumps(results[1].to_json()))
    assert {"r1", "r5", "r10", "r20", "mAP", "mINP", "std", "trials", "protocol", "valid_queries"} <= set(record)
    assert (record["reranking"], record["flip"], record["feature"]) == (None, None, None)
    assert [trial["trial"] for trial in record["per_trial"]] == [str(trial) for trial in range(1, 11)]
    assert {trial["valid_queries"] for trial in record["per_trial"]} == {723} and record["queries"] == 812
    for name in ("r1", "mAP", "mINP"):
        values = [trial[name] for trial in record["per_trial"]]
        assert (record[name], record["std"][name]) == pytest.approx((np.mean(values), np.std(values)), rel=1e-12)
    flagged = evaluation.evaluate(regdb(1, trained=1), RegDB()).to_json()
    assert (flagged["feature"], flagged["flip"]) == ("after BNNeck", False)
    assert json.loads(json.dumps(flagged))["training"] == [["regdb", "train_1"]]


def test_table(results):
    lines = evaluation.table(results[1]).splitlines()
    assert lines[0] == "SYSU-MM01 indoor-search 1-shot, AGW seeds; cosine; 10 trials"
    assert lines[1] == "723 of 812 queries have a match; gallery of 63 images"
    assert lines[2] == "feature unknown; flip unknown; re-ranking no"
    assert lines[4].split() == ["mean", "12.46", "41.83", "63.22", "86.14", "24.58", "22.15"]  # as AGW's code, rounded
    assert len(lines) == 6 + 10


def test_csv_is_read_back_to_the_same_numbers(results):
    rows = list(csv.DictReader(io.StringIO(evaluation.to_csv(results))))
    assert len(rows) == 2 * 12
    for result in results:
        mine = {row["trial"]: row for row in rows if row["protocol"] == result.protocol}
        assert float(mine["mean"]["mAP"]) == result.mAP and float(mine["std"]["r1"]) == result.std["r1"]
        assert float(mine["10"]["mINP"]) == result.per_trial[-1].scores["mINP"]
        assert mine["mean"]["valid_queries"] == str(result.valid_queries)


def test_latex_row_of_both_searches(results):
    *notes, row = evaluation.to_latex(results, "TOPLight").splitlines()
    assert [note.startswith("% SYSU-MM01") for note in notes] == [True, True]
    # AGW's code gives the same, rounded: test_evaluation_peers.py.
    assert row == r"TOPLight & 13.92 & 65.62 & 86.98 & 18.18 & 12.46 & 63.22 & 86.14 & 24.58 \\"


def test_verification_is_printed():
    result = evaluation.evaluate(pairs(), Faces())
    assert "VR@FAR=0.1% nearest" in evaluation.table(result)
    assert evaluation.to_latex([result], "x").count("&") == 3
    assert f"{100 * result.verification['VR@FAR=1% strict']:.2f}" in evaluation.to_latex([result], "x")
    assert "VR@FAR=1% strict" in next(csv.DictReader(io.StringIO(evaluation.to_csv([result]))))


@pytest.mark.parametrize("text", ["visible", "visible-infrared", "thermal->visible", "->visible"])
def test_directions_that_are_none(text):
    with pytest.raises(InputError, match="expected"):
        Direction.parse(text)


def test_one_modality_against_itself_takes_the_filter():
    features = pairs(images=120)
    result = evaluation.evaluate(features, Generic("visible", "visible", same_camera_filter=True))
    assert result.queries == result.gallery == 60


def test_trials_of_several_sets_are_named_after_both():
    sets = [cases.sysu_like(1), cases.sysu_like(2)]
    result = evaluation.evaluate(sets, SysuMM01("all", 1))
    assert [trial.name for trial in result.per_trial][8:12] == ["1/9", "1/10", "2/1", "2/2"]
    singles = [evaluation.evaluate(each, SysuMM01("all", 1)) for each in sets]
    assert result.mAP == pytest.approx(np.mean([single.mAP for single in singles]), rel=1e-12)
    assert (result.trials, result.queries) == (20, min(single.queries for single in singles))
