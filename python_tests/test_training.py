"""The training layer on a tiny drawn set: all four stages, resume, and what stops a run."""

import json
import math
import os
import signal

import pytest
import torch

from toplight_ext import data, models, training
from toplight_ext.errors import InputError
from toplight_ext.training import loop
from toplight_ext.training.checkpoint import load_checkpoint, save_checkpoint
from toplight_ext.training.recipe import Optimiser

RECIPE = """
name = "tiny"
size = [64, 32]
threads = 1
data = {{ name = "synthetic", root = "{root}", split = "train" }}
test = {{ name = "synthetic", root = "{root}", split = "dev" }}
pretraining_data = {{ name = "folder", root = "{root}/train/visible" }}
[model]
backbone = "mobilenetv3_small_100"
slices = [2, 2]
[pretrain]
epochs = 1
batch_size = 8
[top]
epochs = 2
batch_size = 8
path1 = {{ colour = {{}} }}
path2 = {{ texture = {{}} }}
[soup]
statistics_batches = 2
[vi]
epochs = 2
identities = 4
images_per_identity = 2
infonce_weight = 1.0
"""


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    data.draw_synthetic(folder / "drawn", identities=8, dev_identities=6, views=3, size=(64, 32))
    path = folder / "recipe.toml"
    path.write_text(RECIPE.format(root=folder / "drawn"))
    return path


@pytest.fixture(scope="module")
def finished(recipe_file, tmp_path_factory):
    """A whole, uninterrupted run."""
    return training.start(training.load_recipe(recipe_file), tmp_path_factory.mktemp("whole") / "run")


def test_a_run_leaves_weights_metrics_and_results_of_every_stage(finished):
    stages = ["pretrain", "top", "soup", "vi"]
    assert [entry["stage"] for entry in finished.finished] == stages
    assert [result["name"] for result in finished.results] == stages
    assert all(0 <= result["mAP"] <= 1 and result["valid_queries"] == 18 for result in finished.results)
    assert not finished.checkpoint.exists()
    lines = [json.loads(line) for line in (finished.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines] == ["pretrain"] * 3 + ["top"] * 6 + ["vi"] * 6
    assert all(math.isfinite(line["loss"]) for line in lines)
    for line in lines:
        parts = [line[k] for k in line if k not in ("stage", "step", "epoch", "learning_rate", "loss")]
        assert sum(parts) == pytest.approx(line["loss"], rel=1e-5)
    ranked = json.loads((finished.folder / "ranked.json").read_text())["queries"]
    assert len(ranked) == 18 and all(query["modality"] == "infrared" for query in ranked)


def test_the_soup_is_the_mean_of_the_paths_with_stems_apart(finished):
    top, soup = (models.read_weights(finished.weights(name)).state for name in ("top", "soup"))
    for key, tensor in soup.items():
        block = key.split(".")[1]
        if key.startswith("shared.block") and int(block[-1]) <= 4 and key.endswith("weight"):
            visible, infrared = (top[key.replace("shared", path)] for path in ("visible", "infrared"))
            assert not torch.equal(visible, infrared)
            torch.testing.assert_close(tensor, (visible + infrared) / 2)
    stem = [key for key in soup if key.startswith("visible.")]
    assert any(not torch.equal(soup[key], soup[key.replace("visible", "infrared")]) for key in stem)


@pytest.mark.parametrize("stop_after", [1, 4, 7, 11])
def test_a_stopped_run_resumes_to_the_same_bits(recipe_file, finished, tmp_path, monkeypatch, stop_after):
    steps = iter(range(stop_after))
    update = loop._update

    def update_then_stop(*arguments):
        values = update(*arguments)
        if next(steps, None) == stop_after - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return values

    monkeypatch.setattr(loop, "_update", update_then_stop)
    with pytest.raises(training.Interrupted, match="toplight resume"):
        training.start(training.load_recipe(recipe_file), tmp_path / "run")
    monkeypatch.setattr(loop, "_update", update)
    resumed = training.resume(tmp_path / "run")

    assert (resumed.folder / "metrics.jsonl").read_bytes() == (finished.folder / "metrics.jsonl").read_bytes()
    ours, theirs = (models.read_weights(run.weights("vi")).state for run in (resumed, finished))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert [r["mAP"] for r in resumed.results] == [r["mAP"] for r in finished.results]


def test_metrics_after_the_last_checkpoint_are_taken_back(recipe_file, finished, tmp_path, monkeypatch):
    """A killed process leaves lines that its checkpoint does not know."""

    class Killed(BaseException):
        pass

    update = loop._update

    def dies(stage, optimiser, batch, rate, device, precision, step):
        if (stage.name, step) == ("top", 5):
            raise Killed
        return update(stage, optimiser, batch, rate, device, precision, step)

    monkeypatch.setattr(loop, "_update", dies)
    with pytest.raises(Killed):
        training.start(training.load_recipe(recipe_file), tmp_path / "run")
    monkeypatch.setattr(loop, "_update", update)
    resumed = training.resume(tmp_path / "run")
    assert (resumed.folder / "metrics.jsonl").read_bytes() == (finished.folder / "metrics.jsonl").read_bytes()


def test_a_loss_that_is_not_finite_stops_before_the_update(recipe_file, tmp_path):
    overrides = ["pretrain.optimiser={learning_rate=1e30, warmup_epochs=0}", "pretrain.epochs=4"]
    with pytest.raises(training.TrainingError, match=r"stage pretrain, step \d+: the loss is not finite"):
        training.start(training.load_recipe(recipe_file, overrides), tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert all(math.isfinite(json.loads(line)["loss"]) for line in lines)
    assert not (tmp_path / "run" / "pretrain.safetensors").exists()


def test_nothing_is_written_for_a_data_set_that_is_not_there(recipe_file, tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        training.start(training.load_recipe(recipe_file, ["data.name=csv", "data.root=nowhere"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_something_is_refused(recipe_file, finished, tmp_path):
    with pytest.raises(InputError, match="toplight resume"):
        training.start(training.load_recipe(recipe_file), finished.folder)
    with pytest.raises(InputError, match="holds no run"):
        training.resume(tmp_path)


def test_learning_rate_warms_up_and_falls_to_zero():
    settings = Optimiser(learning_rate=1.0, warmup_epochs=2)
    rates = [loop.learning_rate(settings, step, steps_per_epoch=10, steps=100) for step in range(100)]
    assert rates[:20] == sorted(rates[:20]) and rates[20] == 1.0 and rates[20:] == sorted(rates[20:], reverse=True)
    assert 0 < rates[-1] < 0.001 and rates[60] == pytest.approx(0.5)


def test_norms_and_biases_are_not_decayed():
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    decayed, kept = loop.build_optimiser(network, Optimiser()).param_groups
    assert [p.ndim for p in decayed["params"]] == [4] and len(kept["params"]) == 3 and kept["weight_decay"] == 0


def test_reestimated_statistics_are_those_of_the_data():
    torch.manual_seed(0)
    model = models.create_model("mobilenetv3_small_100", neck="gap", duplicated=1)
    pairs = [(torch.randn(4, 3, 32, 32), 3 * torch.randn(4, 3, 32, 32)) for _ in range(3)]
    assert training.reestimate_statistics(model, pairs) == 24
    for path, images in zip((model.visible, model.infrared), zip(*pairs, strict=True), strict=True):
        means = [path[0][0](batch).mean((0, 2, 3)) for batch in images]
        torch.testing.assert_close(path[0][1].running_mean, torch.stack(means).mean(0), rtol=1e-4, atol=1e-5)


def test_damaged_and_foreign_checkpoints_are_refused(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"step": 3})
    assert load_checkpoint(path)["step"] == 3
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="not a readable checkpoint"):
        load_checkpoint(path)
    torch.save([1], path)
    with pytest.raises(InputError, match="not a checkpoint of this version"):
        load_checkpoint(path)
