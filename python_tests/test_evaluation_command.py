"""`toplight evaluate`, and the features that it takes from networks."""

import json
import shutil

import numpy as np
import pytest
import torch

from toplight_ext import data, evaluation, inference, models
from toplight_ext.cli import main
from toplight_ext.data import Modality, Sample
from toplight_ext.evaluation import Features, Origin, Split

FED = inference.Preprocessing((64, 32))

pytest.importorskip("timm", reason="timm is not installed (extra: train)")
pytest.importorskip("nvidia.dali", reason="DALI is not installed (extra: train)")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("evaluate") / "drawn"
    data.draw_synthetic(root, identities=3, dev_identities=4, views=2, size=(64, 32))
    return root


@pytest.fixture(scope="module")
def network():
    """Two stems whose weights differ, and statistics that tell before from after the BNNeck."""
    torch.manual_seed(0)
    model = models.create_model("mobilenetv3_small_100", slices=(2, 2), groups=64)
    with torch.no_grad():
        for parameter in model.visible.parameters():
            parameter.mul_(1.1)
        model.head.norm.running_mean.normal_()
        model.head.norm.running_var.uniform_(0.5, 2)
    return model.eval()


def save(network, path, split):
    models.save_weights(path, network, size=(64, 32), trained_on=[{"dataset": "csv", "split": split}])
    return str(path)


def run(capsys, *arguments):
    code = main(["evaluate", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_features_before_and_after_the_neck_and_flipped(drawn, network):
    samples = data.load_dataset("csv", drawn, "dev")

    def features(**origin):
        return inference.extract_features(network, samples, FED, 5, origin=Origin(**origin))

    after, before = features(feature=inference.AFTER_NECK), features(feature=inference.BEFORE_NECK)
    with torch.inference_mode():
        expected = network.head.norm(torch.from_numpy(before.features)).numpy()
    assert difference(after.features, expected) < 1e-5
    assert difference(after.features, before.features) > 0.1

    flipped = features(feature=inference.BEFORE_NECK, flip=True)
    mirrored = inference.extract_features(MirrorsItsInput(network), samples, FED, 5, origin=before.origin)
    assert difference(flipped.features, (before.features + mirrored.features) / 2) < 1e-4
    assert difference(flipped.features, before.features) > 1e-2
    assert (flipped.origin.flip, before.origin.flip) == (True, None)
    np.testing.assert_array_equal(after.stem, after.modality)


def difference(found, expected):
    """Greatest difference, relative to the greatest value."""
    return np.abs(found - expected).max() / np.abs(expected).max()


class MirrorsItsInput(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, **images):
        return self.network(**{modality: batch.flip(3) for modality, batch in images.items()})


def test_images_are_numbered_within_modality_camera_and_identity():
    """In the order of the data set, which test_datasets.py checks for each."""
    visible, infrared = Modality
    kinds = [(1, visible, 1), (1, visible, 1), (2, visible, 1), (1, visible, 1), (1, visible, 2), (1, infrared, 1)]
    samples = [Sample(f"{k}.jpg", *kind) for k, kind in enumerate(kinds)]
    assert inference.image_numbers(samples).tolist() == [1, 2, 1, 3, 1, 1]


def test_sysu_from_a_network(drawn, network):
    """The drawn images under the cameras of SYSU-MM01: what extraction writes is what the protocol needs."""
    cameras = {Modality.VISIBLE: (1, 2), Modality.INFRARED: (3, 6)}
    found = data.load_dataset("csv", drawn, "dev")
    samples = [
        Sample(s.path, int(s.identity) + 1, s.modality, cameras[s.modality][number % 2])
        for s, number in zip(found, inference.image_numbers(found), strict=True)
    ]
    features = inference.extract_features(network, samples, FED)
    result = evaluation.evaluate(features, evaluation.SysuMM01("all", 1))
    # Camera 2 and, of camera 3, camera 2 is not seen: 4 identities, 2 visible images each.
    assert (result.trials, result.gallery, result.queries) == (10, 8, 8)


def test_several_networks_and_several_protocols_from_one_extraction(drawn, network, tmp_path, capsys):
    weights = [save(network, tmp_path / f"{i}.safetensors", "train") for i in range(2)]
    arguments = ["--dataset", "csv", "--root", drawn, "--split", "dev", "--flip", "--feature", "before"]
    directions = ["--protocol", "infrared->visible", "visible->infrared"]
    code, out, _ = run(capsys, "--weights", *weights, *arguments, *directions, "--json")
    both = json.loads(out.splitlines()[-1])["results"]
    assert code == 0 and [record["trials"] for record in both] == [2, 2]
    assert [record["protocol"].split()[1] for record in both] == ["infrared->visible,", "visible->infrared,"]
    assert (both[0]["flip"], both[0]["feature"], both[0]["images"]) == (True, "before BNNeck", ["csv", "dev"])

    saved = tmp_path / "f.safetensors"
    run(capsys, "--weights", weights[0], *arguments, "--save-features", saved)
    code, out, _ = run(capsys, "--features", saved, "--dataset", "csv", "--rerank", "5,2,0.3", "--json")
    record = json.loads(out.splitlines()[-1])
    assert (record["flip"], record["feature"]) == (True, "before BNNeck")
    assert record["reranking"] == "k-reciprocal re-ranking (k1 5, k2 2, lambda 0.3)"

    code, out, _ = run(capsys, "--features", saved, "--dataset", "csv", "--rerank", "--format", "csv")
    assert code == 0 and "k1 20, k2 6, lambda 0.3" in out.splitlines()[1]
    latex = ["--format", "latex", "--label", "A"]
    code, out, _ = run(capsys, "--features", saved, "--dataset", "csv", *directions, *latex)
    assert code == 0 and out.splitlines()[-1].startswith("A & ") and out.splitlines()[-1].count("&") == 8


def test_the_split_of_a_checkpoint_decides(drawn, network, tmp_path, capsys, monkeypatch):
    """Ten splits: a folder for each, named as RegDB's."""
    for trial in (1, 2):
        shutil.copytree(drawn / "dev", tmp_path / f"test_{trial}")
    weights = [save(network, tmp_path / f"{trial}.safetensors", f"train_{trial}") for trial in (1, 2)]
    arguments = ["--dataset", "csv", "--root", tmp_path, "--json"]
    code, out, _ = run(capsys, "--weights", *weights, *arguments)
    record = json.loads(out.splitlines()[-1])
    assert code == 0 and [trial["trial"] for trial in record["per_trial"]] == ["test_1", "test_2"]

    monkeypatch.setattr(data, "load_dataset", None)  # refused before an image is looked for
    code, _, error = run(capsys, "--weights", weights[0], *arguments, "--split", "test_2")
    assert code == 2 and "trained on csv train_1, whose identities csv test_2 may ask for" in error
    monkeypatch.undo()
    code, _, _ = run(capsys, "--weights", weights[0], *arguments, "--split", "test_2", "--any-split")
    assert code == 0


def test_origin_is_what_training_recorded():
    recorded = {"trained_on": [{"dataset": "regdb", "split": f"train_{trial}"} for trial in (2, 7)]}
    assert inference.origin_of(recorded, "regdb", None).images == Split("regdb", "test_7")
    assert inference.origin_of(recorded, "regdb", None).leaks == (Split("regdb", "train_2"),)
    assert inference.origin_of(recorded, "regdb", "test_3").leaks
    assert not inference.origin_of(recorded, "llcm", None).leaks
    assert inference.origin_of({}, "regdb", "test_3").training == ()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "csv", "--flip"], "--flip, --feature and --save-features are for --weights"),
        (["--dataset", "csv", "--hide", "3"], "'3': expected two camera numbers, as 3:2"),
        (["--dataset", "csv", "--rerank", "20"], "'20': expected K1,K2,LAMBDA, as 20,6,0.3"),
        (["--dataset", "csv", "--rerank", "0,6,0.3"], "expected k1 and k2 of at least 1"),
        (["--dataset", "csv", "--shots", "10"], "shots and permutations belong to sysu alone"),
        (["--dataset", "sysu"], "rand_perm_cam.mat of the official evaluation code, or agw"),
        (["--dataset", "llcm", "--cmc", "identities"], "llcm has camera and CMC rules of its own"),
        (["--dataset", "csv", "--rank-on", "cuda", "--rerank"], "re-ranking runs in the compiled core alone"),
    ],
)
def test_wrong_use_is_said_and_ends_with_2(arguments, message, capsys, tmp_path):
    saved = tmp_path / "f.npz"
    modality = np.array(["visible", "infrared"] * 2)
    evaluation.save_features(saved, Features(np.eye(4), np.array([1, 1, 2, 2]), np.ones(4, int), modality=modality))
    try:
        code = main(["evaluate", "--features", str(saved), *arguments])
    except SystemExit as stop:  # of argparse
        code = stop.code
    assert code == 2 and message in capsys.readouterr().err
