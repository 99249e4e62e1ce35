"""The training layer on a tiny drawn set: what a run leaves, and each part of a step against its definition."""

import dataclasses
import json
import math
import os
import signal

import pytest
import torch
from filling import filled
from tiny_run import assert_same_outcome, write_tiny_recipe
from torch import nn

from toplight_ext import data, evaluation, inference, models, training
from toplight_ext.errors import InputError
from toplight_ext.training import optimisers, runner, stages
from toplight_ext.training.loop import Training
from toplight_ext.training.recipe import Optimiser
from toplight_ext.training.update import GraphedUpdate, Update


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory):
    return write_tiny_recipe(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def finished(recipe_file, tmp_path_factory):
    """A whole, uninterrupted run."""
    return training.start(training.load_recipe(recipe_file), tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture
def run_vi(recipe_file, tmp_path):
    """Run the last stage alone, with these overrides."""

    def run(*overrides, name="run"):
        recipe = training.load_recipe(recipe_file.with_name("vi.toml"), overrides)
        return training.start(recipe, tmp_path / name)

    return run


def lines(run, name="metrics.jsonl"):
    return [json.loads(line) for line in (run.folder / name).read_text().splitlines()]


def test_a_run_leaves_weights_metrics_and_results_of_every_stage(finished):
    stages = ["pretrain", "top", "soup", "vi"]
    assert [entry["stage"] for entry in finished.finished] == stages
    assert [result["name"] for result in finished.results] == stages
    assert all(0 <= result["mAP"] <= 1 and result["valid_queries"] == 18 for result in finished.results)
    left = {path.name for path in finished.folder.iterdir()}
    logs = {"metrics.jsonl", "stages.json", "evaluation.json", "ranked.json", "analysis.json", "MODEL_CARD.md"}
    assert left == {".lock", "recipe.toml", "environment.json", *logs, *(f"{stage}.safetensors" for stage in stages)}
    logged = lines(finished)
    assert [line["stage"] for line in logged] == ["pretrain"] * 3 + ["top"] * 6 + ["vi"] * 6
    assert all(math.isfinite(line["loss"]) for line in logged)
    for line in logged:
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


def test_a_run_that_is_stopped_in_every_stage_resumes_to_the_same_bits(recipe_file, finished, tmp_path, monkeypatch):
    """SIGTERM after a step of each stage, in the middle of the soup, and in an evaluation."""
    stops = {("pretrain", 0), ("top", 2), ("vi", 4)}
    take, reestimate, extract = Training.take, stages.reestimate_statistics, runner.extract_features

    def terminate():
        os.kill(os.getpid(), signal.SIGTERM)

    def take_then_stop(self, *arguments):
        place = self.stage.name, self._step
        take(self, *arguments)
        if place in stops:
            stops.remove(place)
            terminate()

    def soup_then_stop(model, pairs):
        if "soup" not in stops:
            stops.add("soup")
            next(iter(pairs))
            terminate()
        return reestimate(model, pairs)

    def evaluate_then_stop(*arguments):
        if "evaluation" not in stops:
            stops.add("evaluation")
            terminate()
        return extract(*arguments)

    monkeypatch.setattr(Training, "take", take_then_stop)
    monkeypatch.setattr(stages, "reestimate_statistics", soup_then_stop)
    monkeypatch.setattr(runner, "extract_features", evaluate_then_stop)
    folder, stopped = tmp_path / "run", []
    while len(stopped) < 6:
        try:
            training.resume(folder) if folder.exists() else training.start(training.load_recipe(recipe_file), folder)
            break
        except training.Interrupted as error:
            stopped.append(str(error))
    assert [text.partition(":")[0] for text in stopped] == [
        f"stopped in stage {stage}" for stage in ("pretrain", "pretrain", "top", "soup", "vi")
    ]
    assert all(text.endswith(f"toplight resume {folder}") for text in stopped)
    assert_same_outcome(folder, finished.folder)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.name=csv", "data.root=nowhere"], r"nowhere.*the recipe's \[data\]"),
        (["evaluation.protocol=all-search"], r"'all-search'.*the recipe's \[evaluation\]"),
        (["model.neck=fdrr"], "unknown neck 'fdrr'"),
        (["model.groups=7"], "the nearest valid G is 8"),
        (["vi.identities=100"], "8 identities have both"),
        (["top.batch_size=100"], "drawn from 24 samples"),
        (["model.pretrained=nofile.pth"], "nofile.pth: no such file"),
        (["weights=nofile.safetensors"], "nofile.safetensors: no such file"),
    ],
)
def test_what_the_last_stage_would_refuse_is_found_before_anything_is_written(
    recipe_file, tmp_path, overrides, message
):
    with pytest.raises(InputError, match=message):
        training.start(training.load_recipe(recipe_file, overrides), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_starts_from_what_a_stage_of_another_left(finished, run_vi, capsys):
    """From the soup, to the very weights of the run that made it; from TOP, whose paths stay apart.

    Data that the base has for stages which are left out need not be there.
    """
    unused = "pretraining_data={name='imagenet', root='nowhere', split='train'}"
    again = run_vi(f"weights='{finished.weights('soup')}'", unused)
    ours, theirs = (models.read_weights(run.weights("vi")).state for run in (again, finished))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert "[test]" not in capsys.readouterr().err
    pasts = [models.read_weights(run.weights("vi")).metadata["trained_on"] for run in (again, finished)]
    assert pasts == [[{"dataset": "folder", "split": "visible"}, {"dataset": "synthetic", "split": "train"}]] * 2
    with pytest.warns(UserWarning, match="trained on synthetic train, and is evaluated on it"):
        apart = run_vi(f"weights='{finished.weights('top')}'", "vi.epochs=1", "test.split=train", name="apart")
    assert "[test] has 48 images that [data] trains on" in capsys.readouterr().err
    assert models.read_weights(apart.weights("vi")).arguments["duplicated"] == 4
    with pytest.raises(InputError, match=r"vi\.safetensors: weights of a dual-path network, .* by its key weights"):
        run_vi(f"model.pretrained='{finished.weights('vi')}'", name="foreign")


def test_what_the_weights_have_seen_before_is_not_asked_for(finished, run_vi, tmp_path):
    """RegDB's trials share identities: weights of another trial would know those of this one."""
    model, metadata = models.load_weights(finished.weights("soup"))
    past = [{"dataset": "synthetic", "split": "train_2"}, *metadata["trained_on"]]
    models.save_weights(tmp_path / "w.safetensors", model, **{**metadata, "trained_on": past})
    with pytest.raises(InputError, match="trained on synthetic train_2, whose identities synthetic dev_1 may ask for"):
        run_vi(f"weights='{tmp_path / 'w.safetensors'}'", "test.split=dev_1", name="leak")
    assert not (tmp_path / "leak").exists()


def test_a_folder_that_holds_something_is_refused(recipe_file, finished, tmp_path):
    with pytest.raises(InputError, match=r"go on with its run by toplight resume .* or give another --out"):
        training.start(training.load_recipe(recipe_file), finished.folder)
    with pytest.raises(InputError, match="holds no run"):
        training.resume(tmp_path)


def test_all_losses_options_and_looks_at_the_dev_split_are_recorded(recipe_file, run_vi):
    """Every key that changes a step, in one run; its figures are checked where each is defined."""
    losses = ("weighted_triplet", "circle", "centre", "hetero_centre", "hetero_centre_triplet")
    root = recipe_file.parent / "drawn"
    run = run_vi(
        *(f"vi.{name}_weight=0.1" for name in losses),
        "vi.gray=true",
        "vi.optimiser={name='sgd', learning_rate=0.01, schedule='step', milestones=[1], ema_decay=0.5, clip_norm=1.0}",
        "model.checkpointing=true",
        "model.embed=false",
        "deterministic=true",
        "tensorboard=true",
        "mean=[0.5, 0.5, 0.5]",
        f"data.cache='{root.parent / 'cache'}'",
        f"dev={{name='synthetic', root='{root}', split='train'}}",
        "evaluation.every_epochs=1",
    )
    assert not torch.are_deterministic_algorithms_enabled()
    assert set(lines(run)[0]) >= {"identity", "triplet", "infonce", *losses}
    assert [line["learning_rate"] for line in lines(run)][3:] == pytest.approx([0.001] * 3)
    assert [(line["step"], line["epoch"]) for line in lines(run, "dev.jsonl")] == [(3, 1), (6, 2)]
    assert list((root.parent / "cache").glob("decoded-*")) and list((run.folder / "tensorboard").iterdir())
    model, metadata = models.load_weights(run.weights("vi"))
    assert (metadata["gray"], metadata["mean"], metadata["size"]) == (True, [0.5, 0.5, 0.5], [32, 16])
    # The average of the weights is what is looked at and what is left, and is fed as in training.
    fed = inference.Preprocessing.of(metadata)
    features = inference.extract_features(model, data.load_dataset("synthetic", root, "train"), fed)
    found = evaluation.evaluate(features, evaluation.parse_protocol("synthetic", "infrared->visible", 1, None))
    assert found.mAP == pytest.approx(lines(run, "dev.jsonl")[-1]["mAP"], abs=1e-12)


def test_gray_is_the_luma_of_the_pixels():
    pil = pytest.importorskip("PIL.Image")
    pixels = (filled("pixels", (6, 5, 3), 0, 1) * 255).round()
    fed = inference.Preprocessing((6, 5), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), gray=True)
    mean, std = (torch.tensor(values).double() for values in (fed.mean, fed.std))
    image = ((pixels / 255 - mean) / std).permute(2, 0, 1)[None]
    visible, infrared = (fed.colourless(image, modality)[0] for modality in data.Modality)
    assert torch.equal(infrared, image[0])
    gray = (visible.permute(1, 2, 0) * std + mean) * 255
    expected = torch.tensor(list(pil.fromarray(pixels.byte().numpy()).convert("L").tobytes())).view(6, 5, 1)
    assert (gray - expected).abs().max() <= 0.51  # Pillow rounds to a grey level


def test_half_precision_trains_alike(run_vi):
    # On a map of 2x1, PyTorch leaves the bfloat16 gradient of a depthwise convolution with stride 2 partly unwritten.
    size = "size=[64, 32]"
    full, *halves = (
        lines(run_vi(f"precision='{precision}'", size, "vi.epochs=1", name=precision))
        for precision in ("float32", "bfloat16", "float16")
    )
    for half in halves:
        assert half[0]["loss"] != full[0]["loss"]
        assert half[0]["loss"] == pytest.approx(full[0]["loss"], rel=0.05)


def test_a_compiled_step_is_the_step(run_vi, monkeypatch):
    """Traced by dynamo as a whole, all losses included; what a compiler then makes of it takes minutes."""
    weights = (f"vi.{name}_weight=0.1" for name in ("weighted_triplet", "circle", "centre", "hetero_centre_triplet"))
    overrides = [*weights, "vi.gray=true", "vi.epochs=1"]
    plain = lines(run_vi(*overrides, name="plain"))
    compiles = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiles(self, backend="eager", fullgraph=True))
    compiled = lines(run_vi("compile=true", *overrides, name="compiled"))
    for line, expected in zip(compiled, plain, strict=True):
        assert line.pop("stage") == expected.pop("stage")
        assert line == pytest.approx(expected, rel=1e-4)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)).double()


class TwoTerms(nn.Module):
    """Of a network's outputs, as a stage's objective is; what is at 1e300 gives a loss that is not finite."""

    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, images, labels):
        out = self.net(*images)
        return {"square": out.square().mean(), "distance": (out[:, 0] - labels[0]).abs().mean()}


SETTINGS = {
    "adamw": Optimiser(learning_rate=0.1),
    "sgd": Optimiser(name="sgd", learning_rate=0.1, weight_decay=0.1),
}


def take_steps(settings, batches, clip_norm=None):
    """The trained objective, and the records of its steps."""
    objective = TwoTerms()
    fused = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay, "fused": True}
    if settings.name == "adamw":
        optimiser = torch.optim.AdamW(objective.parameters(), **fused)
    else:
        optimiser = torch.optim.SGD(objective.parameters(), momentum=0.9, nesterov=True, **fused)
        for parameter in objective.parameters():
            optimiser.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    update = Update(objective, optimiser, "float32", torch.device("cpu"), clip_norm)
    return objective, [update([images], [torch.zeros(4)]).tolist() for images in batches]


@pytest.mark.parametrize("name", SETTINGS)
def test_a_step_that_is_not_finite_is_not_taken(name):
    """Not even the first one, when the optimiser has no state yet: the others go on as if it had not been."""
    good = [torch.randn(4, 3, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in range(3)]
    bad = torch.full((4, 3), math.inf, dtype=torch.float64)
    kept, records = take_steps(SETTINGS[name], [bad, good[0], bad, *good[1:]])
    expected, clean = take_steps(SETTINGS[name], good)
    assert [record[0] for record in records] == [1, 0, 1, 0, 0]
    assert [record for record in records if not record[0]] == clean
    assert all(torch.equal(a, b) for a, b in zip(kept.parameters(), expected.parameters(), strict=True))


def test_a_run_stops_at_what_is_not_finite_and_names_step_and_images(run_vi, tmp_path, monkeypatch):
    forward = stages.VIObjective.forward
    calls = iter(range(9))

    def breaks(self, images, labels):
        terms = forward(self, images, labels)
        return {name: term * math.nan if next(calls) == 4 else term for name, term in terms.items()}

    monkeypatch.setattr(stages.VIObjective, "forward", breaks)
    # Three terms a step: the fifth call is the second term of step 1.
    with pytest.raises(training.TrainingError, match=r"stage vi, step 1: the loss is not finite .*nan.*\.jpg"):
        run_vi()
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1
    assert not (tmp_path / "run" / "vi.safetensors").exists()


def test_gradients_are_clipped_to_the_norm():
    batch = [torch.ones(4, 3, dtype=torch.float64)]
    plain, steps = Optimiser(name="sgd", learning_rate=1.0, weight_decay=0.0), []
    for clip_norm in (None, 0.01):
        objective, _ = take_steps(plain, batch, clip_norm)
        start = network().parameters()
        moved = [(p - q).flatten() for p, q in zip(objective.parameters(), start, strict=True)]
        steps.append(torch.cat(moved))
    # Nesterov's first step is (1 + momentum) times the gradient.
    assert steps[1].norm().item() == pytest.approx(1.9 * 0.01, rel=1e-4)
    torch.testing.assert_close(steps[1] / steps[1].norm(), steps[0] / steps[0].norm())


def test_learning_rate_warms_up_and_falls_to_zero():
    settings = Optimiser(learning_rate=1.0, warmup_epochs=2)
    rates = [optimisers.learning_rate(settings, step, steps_per_epoch=10, steps=100) for step in range(100)]
    assert rates[:20] == sorted(rates[:20]) and rates[20] == 1.0 and rates[20:] == sorted(rates[20:], reverse=True)
    assert 0 < rates[-1] < 0.001 and rates[60] == pytest.approx(0.5)


def test_learning_rate_of_agw_falls_by_ten_at_its_milestones():
    settings = Optimiser(learning_rate=0.1, warmup_epochs=0, schedule="step", milestones=(20, 50))
    rates = [optimisers.learning_rate(settings, step, steps_per_epoch=2, steps=160) for step in (0, 39, 40, 99, 100)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001])


def test_blocks_have_their_own_rate_and_norms_and_biases_are_not_decayed():
    model = models.create_model("mobilenetv3_small_100", num_classes=5, neck="fdr", slices=(2, 2), groups=64)
    optimiser = optimisers.build_optimiser(model, model, Optimiser(backbone_factor=0.1, weight_decay=0.2))
    optimisers.set_learning_rate(optimiser, 0.5)
    group_of = {id(p): group for group in optimiser.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert id(parameter) not in group_of
            continue
        group = group_of[id(parameter)]
        assert group["lr"] == (0.05 if name.split(".")[0] in ("visible", "infrared", "shared") else 0.5), name
        assert group["weight_decay"] == (0.2 if parameter.squeeze().ndim > 1 else 0.0), name


@pytest.mark.parametrize("name", SETTINGS)
def test_rates_of_a_graphed_step_are_tensors_of_their_own_that_a_checkpoint_only_fills(name, tmp_path):
    """What a recorded graph reads: were the groups to share one tensor, or another to take its place, nobody would
    see more of it than wrong weights."""
    model = models.create_model("mobilenetv3_small_100", num_classes=5, neck="gap")
    settings = dataclasses.replace(SETTINGS[name], backbone_factor=0.1)
    optimiser = optimisers.build_optimiser(model, model, settings, graphed=True)
    rates = [group["lr"] for group in optimiser.param_groups]
    assert all(isinstance(rate, torch.Tensor) for rate in rates) and len(set(map(id, rates))) == len(rates) == 4
    optimisers.set_learning_rate(optimiser, 0.5)
    expected = [0.5 * group["factor"] for group in optimiser.param_groups]
    assert [rate.item() for rate in rates] == pytest.approx(expected) and set(expected) == {0.05, 0.5}

    torch.save(optimiser.state_dict(), tmp_path / "state.pt")
    optimisers.set_learning_rate(optimiser, 0.25)
    optimiser.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert all(group["lr"] is rate for group, rate in zip(optimiser.param_groups, rates, strict=True))
    assert [rate.item() for rate in rates] == pytest.approx(expected)


def test_the_average_follows_its_recurrence_and_changes_places_with_the_network():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = optimisers.Average(net, 0.5)
    expected = {key: value.clone() for key, value in net.state_dict().items()}
    for step in range(12):
        with torch.no_grad():
            for parameter in net.parameters():
                parameter += step + 1
            net[1].running_mean += 1
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        for key, value in net.state_dict().items():
            if value.is_floating_point():
                expected[key] = decay * expected[key] + (1 - decay) * value
    live = {key: value.clone() for key, value in net.state_dict().items()}
    with average.shown():
        shown = {key: value.clone() for key, value in net.state_dict().items()}
    torch.testing.assert_close(shown, expected)
    assert all(torch.equal(value, live[key]) for key, value in net.state_dict().items())


def test_reestimated_statistics_are_those_of_the_data():
    torch.manual_seed(0)
    model = models.create_model("mobilenetv3_small_100", neck="gap", duplicated=1)
    pairs = [(torch.randn(4, 3, 32, 32), 3 * torch.randn(4, 3, 32, 32)) for _ in range(3)]
    assert training.reestimate_statistics(model, pairs) == 24
    for path, images in zip((model.visible, model.infrared), zip(*pairs, strict=True), strict=True):
        means = [path[0][0](batch).mean((0, 2, 3)) for batch in images]
        torch.testing.assert_close(path[0][1].running_mean, torch.stack(means).mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
def test_a_graphed_step_is_the_step():
    device, results = torch.device("cuda"), []
    batches = [torch.randn(4, 3, generator=torch.Generator().manual_seed(i)).to(device) for i in range(8)]
    for graphed in (False, True):
        objective = TwoTerms().float().to(device)
        optimiser = torch.optim.AdamW(
            objective.parameters(), lr=torch.tensor(0.1, device=device), fused=True, capturable=True
        )
        update = Update(objective, optimiser, "float32", device, 1.0, graphed)
        update = GraphedUpdate(update) if graphed else update
        results.append([update([images], [torch.zeros(4, device=device)]).tolist() for images in batches])
    assert results[0] == pytest.approx(results[1], rel=1e-5)
