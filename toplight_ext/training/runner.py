"""A whole run: the recipe's stages in order, each evaluated when it ends; stopped anywhere, it can be resumed.

Started by `torchrun`, several processes train together: the first one writes, evaluates and makes the soup, and the
others wait for it. All of them need to see the run folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from .. import evaluation
from ..data import Sample, load_dataset
from ..deploy import write_model_card
from ..errors import InputError
from ..extras import require
from ..inference import Preprocessing, extract_features, origin_of, pick_device
from ..models import DualPathNetwork, load_weights
from .processes import joined, rank, wait_for_all, world_size
from .recipe import Recipe
from .records import features_record, ranked_record, slices_record
from .run import Run, check_empty, check_run, sole_writer
from .stages import check_stages, run_stage
from .stopping import Stop, TrainingError, stop_on_signal

_LABELS = {"pretrain": "pretraining", "top": "TOP", "soup": "soup", "vi": "visible-infrared training"}


def start(recipe: Recipe, folder: Path) -> Run:
    """Run a recipe in a new folder.

    Raises:
        InputError: a data set, the protocol or the device cannot be used (nothing is written then), or the folder
            is not empty.
        TrainingError: a loss or gradient is not finite, a signal stopped the run, or another of its processes ended.
    """
    check_empty(folder)
    return _run(folder, recipe, lambda: Run.create(recipe, folder))


def resume(folder: Path) -> Run:
    """Continue the run in `folder` from its last checkpoint; a finished run is returned as it is.

    Raises:
        As `start`; InputError also where the folder holds no run or its checkpoints cannot be used.
    """
    check_run(folder)
    return _run(folder, Run.open(folder, writes=False).recipe, lambda: Run.open(folder))


def _run(folder: Path, recipe: Recipe, opened: Callable[[], Run]) -> Run:
    """Run all stages; `opened` opens the folder in the process that writes."""
    with stop_on_signal() as stop, _reproducible(recipe), joined(recipe.device) as device:
        stop.message = f"stopped before the first stage of {folder}"
        check_recipe(recipe)
        with _explained(folder), contextlib.ExitStack() as stack:
            if rank() == 0:
                stack.enter_context(sole_writer(folder))
                run = opened()
            wait_for_all()
            if rank() != 0:
                run = Run.open(folder, writes=False)
            _finish(run, device, stop)
    return run


def check_recipe(recipe: Recipe) -> None:
    """Find what can be found wrong before anything is written.

    Raises:
        InputError: a data set, the protocol, the device, the weights to start from or a stage cannot be used.
        MissingExtra: what training needs is not installed.
    """
    for package in ("timm", "nvidia.dali", "safetensors"):
        require(package, extra="train")
    if recipe.cuda_graph and (pick_device(recipe.device).type != "cuda" or world_size() > 1):
        raise InputError("recipe: cuda_graph needs a GPU, and one process; leave it out")
    with _named("evaluation"):
        _protocol(recipe, recipe.test.name)
    splits = (evaluation.Split(dataset.name, dataset.split) for dataset in (recipe.test, recipe.data))
    evaluation.check_splits([evaluation.Origin(None, None, *splits)])
    needed = {  # a base may name more
        "data": recipe.vi,
        "test": recipe.test,
        "dev": recipe.evaluation.every_epochs,
        "pretraining_data": recipe.pretrain or recipe.top,
    }
    samples = {}
    for table in filter(needed.get, needed):
        dataset = getattr(recipe, table)
        with _named(table):
            samples[table] = load_dataset(dataset.name, dataset.root, dataset.split)
    if rank() == 0 and recipe.vi and recipe.test == dataclasses.replace(recipe.data, cache=None):
        print("[test] is what [data] trains on: its figures will say nothing of other identities", file=sys.stderr)
    check_stages(recipe, samples.get("data"), samples.get("pretraining_data"))


@contextlib.contextmanager
def _named(table: str) -> Iterator[None]:
    """Inside, errors say which table of the recipe asks for what is wrong."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{error} (the recipe's [{table}], which --set {table}.KEY=VALUE changes)") from error


@contextlib.contextmanager
def _reproducible(recipe: Recipe) -> Iterator[None]:
    """Inside, torch takes only algorithms that give the same bits again, if the recipe asks for it."""
    before = torch.are_deterministic_algorithms_enabled()
    if recipe.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as CUDA's matrix products need it
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Errors say how to go on. The end of another of several processes shows as an error of an exchange."""
    try:
        yield
    except (TrainingError, InputError):
        raise
    except OSError as error:
        if not (folder / "recipe.toml").is_file():
            raise  # nothing was begun
        raise TrainingError(
            f"{error}; the last state is kept: mend that, and continue with toplight resume {folder}"
        ) from error
    except RuntimeError as error:
        if world_size() == 1:
            raise
        raise TrainingError(
            f"process {rank()} of {world_size()} lost another one, or failed itself ({str(error).splitlines()[0]}); "
            f"the last checkpoint is kept: start all of them again with toplight resume {folder}"
        ) from error


def _finish(run: Run, device: torch.device, stop: Stop) -> None:
    recipe = run.recipe
    test = load_dataset(recipe.test.name, recipe.test.root, recipe.test.split)
    before = recipe.first_weights
    for stage in recipe.stages:
        stop.message = f"stopped in stage {stage}: continue with toplight resume {run.folder}"
        if stage not in {entry["stage"] for entry in run.finished}:
            look = _look(run, device) if stage == "vi" and run.writes and recipe.evaluation.every_epochs else None
            run_stage(run, stage, before, device, stop, look)
        stop.check()
        if run.writes and stage not in {result["name"] for result in run.results}:
            _evaluate(run, stage, test, device)
        wait_for_all()
        before = run.weights(stage)


def _look(run: Run, device: torch.device) -> Callable[[DualPathNetwork], dict[str, float]]:
    """What to record of a network on the way: its figures on the recipe's dev split."""
    recipe = run.recipe
    samples = load_dataset(recipe.dev.name, recipe.dev.root, recipe.dev.split)
    protocol = _protocol(recipe, recipe.dev.name)

    def look(model: DualPathNetwork) -> dict[str, float]:
        features = _features(recipe, model, samples, recipe.preprocessing("vi"), device)
        result = evaluation.evaluate(features, protocol, metric=recipe.evaluation.metric)
        return {"r1": result.r1, "mAP": result.mAP, "mINP": result.mINP}

    return look


def _evaluate(run: Run, stage: str, test: list[Sample], device: torch.device) -> None:
    model, metadata = load_weights(run.weights(stage))
    recipe, metric = run.recipe, run.recipe.evaluation.metric
    fed = Preprocessing.of(metadata, run.weights(stage))
    origin = origin_of(metadata, recipe.test.name, recipe.test.split)
    features = _features(recipe, model, test, fed, device, origin)
    protocol = _protocol(recipe, recipe.test.name)
    result = evaluation.evaluate(features, protocol, metric=metric)
    label = _LABELS[stage] + (f" + {recipe.model.neck.upper()}" if stage == "vi" else "")
    analysis = features_record(features, protocol, metric) | slices_record(model, test, fed, device, recipe.threads)
    figures = {"label": label, **result.to_json()}
    write_model_card(run.folder, f"{recipe.name}, {label}", model.arguments, metadata, [figures])
    run.add_result(stage, figures, ranked_record(features, protocol, metric), analysis)
    print(f"{label}: rank-1 {result.r1:.1%}  mAP {result.mAP:.1%}  mINP {result.mINP:.1%}", file=sys.stderr)


def _features(
    recipe: Recipe,
    model: DualPathNetwork,
    samples: list[Sample],
    fed: Preprocessing,
    device: torch.device,
    origin: evaluation.Origin | None = None,
) -> evaluation.Features:
    return extract_features(model, samples, fed, recipe.evaluation.batch_size, device, recipe.threads, origin)


def _protocol(recipe: Recipe, dataset: str) -> evaluation.Protocol:
    settings = recipe.evaluation
    permutations = Path(settings.permutations) if settings.permutations else None
    return evaluation.parse_protocol(dataset, settings.protocol, settings.shots, permutations)
