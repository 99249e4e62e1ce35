"""Attacks by recipes, and by run folders that strangers send or have edited."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from report_cases import write_run

from toplight_ext import data, models
from toplight_ext.cli.deploy import _recorded_results
from toplight_ext.deploy import write_model_card
from toplight_ext.training import load_recipe, resume
from toplight_ext.training.checkpoint import Checkpoints
from toplight_ext.training.recipe_files import recipe_to_toml

from .confined import Attacks, Read, command, lay_no_file
from .weights import Code, saved

ATTACKS = Attacks()

_RECIPE = """
name = "tiny"
size = [32, 16]
threads = 1
[data]
name = "synthetic"
root = "drawn"
split = "train"
[test]
name = "synthetic"
root = "drawn"
split = "dev"
[model]
backbone = "mobilenetv3_small_100"
slices = [2, 2]
[vi]
epochs = 2
identities = 2
images_per_identity = 2
"""


def _train(folder: Path, text: str | bytes, *more: str) -> Read:
    content = text if isinstance(text, bytes) else text.encode()
    (folder / "recipe.toml").write_bytes(content)
    return command("train", "recipe.toml", *more)


_TEXTS = {
    "no TOML": ("<html>",),
    "no UTF-8": (b"name = '\xff\xfe'",),
    "arrays without end": ("x = " + "[" * 100_000,),
    "tables without end": ("x = " + "{a = " * 100_000,),
    "a key of eight thousand parts": (".".join("a" * 8_000) + " = 1",),
    "a key of a million parts": (".".join("a" * 1_000_000) + " = 1",),
    "a name of eight thousand parts": ("name." + ".".join("a" * 8_000) + " = 1",),
    "a heading of a million parts": ("[" + ".".join("a" * 1_000_000) + "]",),
    "a number of a hundred thousand digits": ("seed = " + "9" * 100_000,),
    "a gigabyte of comments": (None,),
    "a key of terminal commands": (_RECIPE.replace("name =", '"\\u001b]0;owned\\u0007\\u202e" = 1\nname =', 1),),
    "a key of ten thousand letters": (_RECIPE.replace("name =", "x" * 10_000 + " = 1\nname =", 1),),
    "text where a table is expected": (_RECIPE.replace("[vi]", 'top = "' + "x" * 20_000 + '"\n[vi]'),),
}


@ATTACKS.each(_TEXTS)
def recipe_text(folder: Path, text: str | bytes | None) -> Read:
    """A recipe that is {}."""
    read = _train(folder, text or "#")
    if text is None:
        os.truncate(folder / "recipe.toml", 1 << 30)
    return read


_VALUES = {
    "epochs 10^18": "vi.epochs=1000000000000000000",
    "epochs 0": "vi.epochs=0",
    "epochs -1": "vi.epochs=-1",
    "epochs beyond 64 bits": "vi.epochs=" + "9" * 30,
    "epochs as text": "vi.epochs='2'",
    "size 10^9": "size=[1000000000, 1000000000]",
    "size 0": "size=[0, 0]",
    "size negative": "size=[-32, 16]",
    "size of three": "size=[1, 2, 3]",
    "mean NaN": "mean=[nan, nan, nan]",
    "std 0": "std=[0.0, 0.0, 0.0]",
    "std infinite": "std=[inf, inf, inf]",
    "a rate of NaN": "vi.optimiser.learning_rate=nan",
    "a rate of infinity": "vi.optimiser.learning_rate=inf",
    "a rate of 400 digits": "vi.optimiser.learning_rate=1" + "0" * 400,
    "a rate below 0": "vi.optimiser.learning_rate=-1.0",
    "a momentum of 0": "vi.optimiser.momentum=0.0",
    "a weight of NaN": "vi.triplet_weight=nan",
    "a crop of NaN": "vi.visible.generic.crop_scale=[nan, nan]",
    "a crop of text": "vi.visible.generic.crop_scale='ab'",
    "10^9 threads": "threads=1000000000",
    "-1 threads": "threads=-1",
    "a seed of -1": "seed=-1",
    "a seed of 2^64": "seed=18446744073709551616",
    "10^9 slices": "model.slices=[1000000000, 1000000000]",
    "0 groups": "model.groups=0",
    "a batch of 10^12": "evaluation.batch_size=1000000000000",
    "a batch of 0": "evaluation.batch_size=0",
    "10^12 identities": "vi.identities=1000000000000",
    "a checkpoint every -1 steps": "checkpoint.steps=-1",
    "minutes of NaN": "checkpoint.minutes=nan",
    "10^9 shots": "evaluation.shots=1000000000",
    "stride 0": "model.last_stride=0",
    "a backbone of a hub": "model.backbone='hf-hub:owner/name'",
    "weights outside that are a pickle": "model.pretrained='w.pt'",
    "permutations without end": "{test.name='sysu', evaluation.permutations='/dev/zero'}",
    "a root with a NUL": 'data.root="drawn\\u0000/x"',
    "a root with a terminal's commands": 'data.root="\\u001b]0;owned\\u0007"',
    "a root that is a device": "data.root='/dev/zero'",
    "a root that is empty": "data.root=''",
    "a root of ten thousand letters": f"data.root='{'x' * 10_000}'",
    "a data set of a NUL": 'test.name="a\\u0000"',
    "a split that leads out": "data.split='../../outside'",
    "a name that leads out": "name='../outside/run'",
    "a name that is a path": "name='/nowhere/attack'",
    "a name of nothing": "name=''",
    "a name of dots": "name='..'",
    "a name of a megabyte": f"name='{'x' * 30_000}'",
    "a name with newlines": 'name="a\\n# b"',
}


@ATTACKS.each({name: (change,) for name, change in _VALUES.items()})
def recipe_value(folder: Path, change: str) -> Read:
    """A recipe that asks for {}."""
    shutil.copytree(_drawn(), folder / "drawn")
    if "w.pt" in change:
        torch.save({"state_dict": Code(folder)}, folder / "w.pt")
    if change.startswith("{"):
        return _train(folder, _RECIPE, "--set", "test.name='sysu'", "--set", "evaluation.permutations='/dev/zero'")
    return _train(folder, _RECIPE, "--set", change)


@ATTACKS.each({"itself": (["recipe"],), "each other": (["a", "recipe"],), "in a ring": (["a", "b", "c", "recipe"],)})
def base_cycle(folder: Path, names: list[str]) -> Read:
    """Recipes whose bases are {}."""
    for name, base in zip(["recipe", *names], names, strict=False):
        (folder / f"{name}.toml").write_text(f'base = "{base}.toml"\n')
    return command("train", "recipe.toml")


@ATTACKS
def base_cycle_through_the_working_folder(folder: Path) -> Read:
    """A recipe below another one, whose base is a name that means the upper one only in the working folder."""
    (folder / "below").mkdir()
    (folder / "recipe.toml").write_text('base = "below/b.toml"\n')
    (folder / "below" / "b.toml").write_text('base = "recipe.toml"\n')
    return command("train", "recipe.toml")


@ATTACKS
def chain_of_bases(folder: Path) -> Read:
    """Two thousand recipes, each the base of the next."""
    for number in range(2000):
        (folder / f"{number}.toml").write_text(f'base = "{number + 1}.toml"\n')
    (folder / "recipe.toml").write_text('base = "0.toml"\n')
    return command("train", "recipe.toml")


_BASES = {
    "a file outside": "../outside/secret.toml",
    "a file outside by its whole path": "{outside}/secret.toml",
    "a link that leads outside": "link.toml",
    "an endless device": "/dev/zero",
    "a pipe": "pipe.toml",
    "the passwords": "/etc/passwd",
    "a folder": ".",
    "a name with a NUL": "a\\u0000b",
    "nothing": "",
}


@ATTACKS.each({name: (base,) for name, base in _BASES.items()})
def base_elsewhere(folder: Path, base: str) -> Read:
    """A recipe whose base is {}."""
    outside = folder.parent / "outside"
    (outside / "secret.toml").write_text(_RECIPE)
    (folder / "link.toml").symlink_to(outside / "secret.toml")
    os.mkfifo(folder / "pipe.toml")
    return _train(folder, f'base = "{base.format(outside=outside)}"\n')


@functools.cache
def _drawn() -> Path:
    import tempfile

    folder = Path(tempfile.mkdtemp())
    data.draw_synthetic(folder, identities=4, dev_identities=2, views=2, size=(32, 16))
    return folder


@functools.cache
def _state() -> dict[str, Any]:
    """A checkpoint as a run leaves it."""
    from toplight_ext.training.optimisers import build_optimiser
    from toplight_ext.training.recipe import VI

    torch.manual_seed(0)
    model = models.create_model("mobilenetv3_small_100", num_classes=4, slices=(2, 2))
    optimiser = build_optimiser(model, model, VI().optimiser)
    trained = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    return {
        "stage": "vi",
        "step": 1,
        "images": 8,
        "seconds": 1.0,
        "logs": {"metrics": 0, "dev": 0},
        "trained": trained,
        "optimiser": optimiser.state_dict(),
        "scaler": {},
        "average": [],
        "random": torch.get_rng_state(),
        "cuda_random": None,
    }


def _run(folder: Path) -> Path:
    """A run that was stopped in its only stage."""
    shutil.copytree(_drawn(), folder / "drawn")
    run = folder / "run"
    run.mkdir()
    (folder / "r.toml").write_text(_RECIPE.replace('"drawn"', f'"{folder / "drawn"}"'))
    (run / "recipe.toml").write_text(recipe_to_toml(load_recipe(folder / "r.toml")))
    return run


_CHECKPOINTS: dict[str, Callable[[Path], Any]] = {
    "code": lambda folder: {"stage": Code(folder)},
    "a list": lambda folder: [1, 2],
    "nothing": lambda folder: {},
    "the stage alone": lambda folder: {"stage": "vi"},
    "step -1": lambda folder: {**_state(), "step": -1},
    "step 10^18": lambda folder: {**_state(), "step": 10**18},
    "a step of text": lambda folder: {**_state(), "step": "1"},
    "seconds of NaN": lambda folder: {**_state(), "seconds": float("nan")},
    "no tensors": lambda folder: {**_state(), "trained": {}},
    "tensors of text": lambda folder: {**_state(), "trained": "x"},
    "tensors of numbers": lambda folder: {**_state(), "trained": dict.fromkeys(_state()["trained"], 1)},
    "an optimiser of text": lambda folder: {**_state(), "optimiser": "x"},
    "an optimiser of no groups": lambda folder: {**_state(), "optimiser": {"state": {}, "param_groups": []}},
    "no random state": lambda folder: {**_state(), "random": None},
    "a random state of zeros": lambda folder: {**_state(), "random": torch.zeros(5056, dtype=torch.uint8)},
    "a random state of ones": lambda folder: {**_state(), "random": torch.full((5056,), 255, dtype=torch.uint8)},
    "sizes of logs below 0": lambda folder: {**_state(), "logs": {"metrics": -1}},
    "sizes of logs of text": lambda folder: {**_state(), "logs": {"metrics": "1"}},
    "sizes of logs beyond them": lambda folder: {**_state(), "logs": {"metrics": 10**12}},
}


@ATTACKS.each({name: (state,) for name, state in _CHECKPOINTS.items()})
def checkpoint(folder: Path, state: Callable[[Path], Any]) -> Read:
    """A run whose checkpoint has the right checksum, and in it {}."""
    run = _run(folder)
    Checkpoints(run).save(state(folder))
    return command("resume", run)


@ATTACKS.each({"a pipe": ("pipe",), "a folder": ("folder",), "an endless device": ("/dev/zero",)})
def checkpoint_that_is_no_file(folder: Path, kind: str) -> Read:
    """A run whose checkpoint is {}."""
    path = _run(folder) / "checkpoint.pt"
    lay_no_file(path, kind)
    return command("resume", path.parent)


_DEEP = "[" * 100_000
_STAGE = [{"stage": "vi", "seconds": 1.0, "images_per_second": 1.0, "logs": {"metrics": 0, "dev": 0}}]
_RESULT = {"name": "vi", "label": "VI", "r1": 0.5, "mAP": 0.5, "mINP": 0.5}
_FILES = {
    "stages.json nested without end": ("stages.json", _DEEP),
    "stages.json of numbers": ("stages.json", "[1, 2]"),
    "stages.json that is an object": ("stages.json", '{"stage": "vi"}'),
    "stages.json that is empty": ("stages.json", ""),
    "stages.json with sizes below 0": ("stages.json", '[{"stage": "top", "logs": {"metrics": -5}}]'),
    "stages.json with sizes of text": ("stages.json", '[{"stage": "top", "logs": {"metrics": "a"}}]'),
    "stages.json without sizes": ("stages.json", '[{"stage": "top"}]'),
    "evaluation.json nested without end": ("evaluation.json", _DEEP),
    "evaluation.json of a list": ("evaluation.json", "[]"),
    "evaluation.json of no names": ("evaluation.json", '{"results": [{}]}'),
    "recipe.toml of another place": ("recipe.toml", 'base = "../../outside/secret.toml"'),
    "recipe.toml of no stage": ("recipe.toml", _RECIPE[: _RECIPE.index("[vi]")]),
    "weights of a finished stage that are a pickle": ("vi.safetensors", None),
}


@ATTACKS.each(_FILES)
def run_file(folder: Path, name: str, text: str | None) -> Read:
    """A run with {}."""
    run = _run(folder)
    (folder.parent / "outside" / "secret.toml").write_text(_RECIPE)
    (run / "stages.json").write_text(json.dumps(_STAGE))
    if text is None:
        torch.save(Code(folder), run / name)
    else:
        (run / "vi.safetensors").write_bytes(saved())
        (run / name).write_text(text)
    return command("resume", run)


@ATTACKS.each(
    {
        "nested without end": (_DEEP,),
        "a list": ("[]",),
        "results of numbers": ('{"results": [1]}',),
        "a gigabyte": (None,),
    }
)
def recorded_results(folder: Path, text: str | None) -> Read:
    """Weights beside an evaluation.json that is {}."""
    (folder / "evaluation.json").write_text(text or "[")
    if text is None:
        os.truncate(folder / "evaluation.json", 1 << 30)
    return lambda: _recorded_results(folder / "w.safetensors", {"stage": "vi"})


@ATTACKS
def link_in_a_run(folder: Path) -> Read:
    """A run to be resumed whose log is a link to a file outside, which would be cut to nothing."""
    run, outside = _run(folder), folder.parent / "outside" / "mine.txt"
    outside.write_text("mine")
    (run / "metrics.jsonl").symlink_to(outside)

    return command("resume", run)


def warm(folder: Path) -> None:
    """A recipe as it should be, and its checkpoint."""
    (folder / "r.toml").write_text(_RECIPE)
    recipe = load_recipe(folder / "r.toml")
    assert dataclasses.asdict(recipe)["vi"]["epochs"] == 2 and np.isfinite(recipe.vi.margin)
    Checkpoints(folder).save(_state())
    assert Checkpoints(folder).load()["step"] == 1
    write_model_card(folder, "a", {}, {}, [_RESULT])
    run = write_run(folder / "shown")
    assert command("report", run)().code == 0
    given = folder / "given"
    given.mkdir()
    run = _run(given)
    Checkpoints(run).save(_state())
    _train(folder, _RECIPE)
    # The control: with what the attacks change left as it is, the run goes on to its end.
    resume(run)
