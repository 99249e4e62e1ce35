"""A whole run: the recipe's stages in order, each evaluated when it ends; stopped anywhere, it can be resumed.

Started by `torchrun`, several processes train together: the first one writes, evaluates and makes the soup, and the
others wait for it. All of them need to see the run folder.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from .. import evaluation
from ..data import Sample
from ..deploy import write_model_card
from ..errors import InputError
from ..inference import AFTER_NECK, Preprocessing, extract_features, origin_of
from ..models import DualPathNetwork, load_weights
from .checks import check_recipe
from .processes import joined, rank, wait_for_all, world_size
from .recipe import Recipe
from .recipe_files import with_absolute_paths
from .records import features_record, ranked_record, slices_record
from .run import Run, check_empty, sole_writer
from .stages import run_stage
from .stopping import Disturbed, Stop, TrainingError, stop_on_signal

_LABELS = {"pretrain": "pretraining", "top": "TOP", "soup": "soup", "vi": "visible-infrared training"}


def start(recipe: Recipe, folder: Path) -> Run:
    """Run a recipe in a new folder, whose copy of it has absolute paths, so that it is resumed from anywhere.

    Raises:
        InputError: a data set, the protocol or the device cannot be used (nothing is written then), or the folder
            is not empty.
        TrainingError: a loss or gradient is not finite, a signal stopped the run, a file could not be written, or
            another of its processes ended.
    """
    check_empty(folder)
    return _run(folder, with_absolute_paths(recipe), None)


def resume(folder: Path) -> Run:
    """Continue the run in `folder` from its last checkpoint; a finished run is returned as it is.

    Only what the remaining stages and evaluations need has to be there still.

    Raises:
        As `start`; InputError also where the folder holds no run or its checkpoints cannot be used.
    """
    earlier = Run.open(folder, writes=False)
    return _run(folder, earlier.recipe, earlier)


def _run(folder: Path, recipe: Recipe, earlier: Run | None) -> Run:
    """Run the stages that `earlier` leaves, of a new run all of them."""
    with stop_on_signal() as stop, _reproducible(recipe), joined(recipe.device) as device:
        stop.message = f"stopped before the first stage of {folder}"
        check_recipe(recipe, earlier)
        with _explained(folder), contextlib.ExitStack() as stack:
            if rank() == 0:
                stack.enter_context(sole_writer(folder))
                run = Run.create(recipe, folder) if earlier is None else Run.open(folder)
            wait_for_all()
            if rank() != 0:
                run = Run.open(folder, writes=False)
            _finish(run, device, stop)
    return run


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
        raise Disturbed(
            f"{error}; the last state is kept: mend that, and continue with toplight resume {folder}"
        ) from error
    except RuntimeError as error:
        if world_size() == 1:
            raise
        raise Disturbed(
            f"process {rank()} of {world_size()} lost another one, or failed itself ({str(error).splitlines()[0]}); "
            f"the last checkpoint is kept: start all of them again with toplight resume {folder}"
        ) from error


def _finish(run: Run, device: torch.device, stop: Stop) -> None:
    test = functools.cache(run.recipe.test.samples)
    for stage in run.recipe.stages:
        stop.message = f"stopped in stage {stage}: continue with toplight resume {run.folder}"
        if stage in run.unfinished:
            looks = stage == "vi" and run.writes and run.recipe.evaluation.every_epochs
            run_stage(run, stage, run.weights_before(stage), device, stop, _look(run, device) if looks else None)
        stop.check()
        if run.writes and stage in run.unevaluated:
            _evaluate(run, stage, test(), device)
        wait_for_all()


def _look(run: Run, device: torch.device) -> Callable[[DualPathNetwork], dict[str, float]]:
    """What to record of a network on the way: its figures on the recipe's dev split."""
    recipe = run.recipe
    samples, protocol = recipe.dev.samples(), recipe.protocol(recipe.dev)

    def look(model: DualPathNetwork) -> dict[str, float]:
        origin = evaluation.Origin(AFTER_NECK, recipe.evaluation.flip)
        features = _features(recipe, model, samples, recipe.preprocessing("vi"), device, origin)
        result = evaluation.evaluate(features, protocol, metric=recipe.evaluation.metric)
        return {name: result.scores[name] for name in evaluation.MAIN_SCORES}

    return look


def _evaluate(run: Run, stage: str, test: Sequence[Sample], device: torch.device) -> None:
    model, metadata = load_weights(run.weights(stage))
    recipe, metric = run.recipe, run.recipe.evaluation.metric
    protocol = recipe.protocol(recipe.test)
    fed = Preprocessing.of(metadata, run.weights(stage))
    origin = origin_of(metadata, recipe.test.name, recipe.test.split, flip=recipe.evaluation.flip)
    features = _features(recipe, model, test, fed, device, origin)
    result = evaluation.evaluate(features, protocol, metric=metric)
    label = _LABELS[stage] + (f" + {recipe.model.neck.upper()}" if stage == "vi" else "")
    analysis = features_record(features, protocol, metric) | slices_record(model, test, fed, device, recipe.threads)
    figures = {"label": label, **result.to_json()}
    write_model_card(run.folder, f"{recipe.name}, {label}", model.arguments, metadata, [figures])
    run.add_result(stage, figures, ranked_record(features, protocol, metric), analysis)
    scores = (f"{evaluation.SCORES[name]} {result.scores[name]:.1%}" for name in evaluation.MAIN_SCORES)
    print(f"{label}: {'  '.join(scores)}", file=sys.stderr)


def _features(
    recipe: Recipe,
    model: DualPathNetwork,
    samples: Sequence[Sample],
    fed: Preprocessing,
    device: torch.device,
    origin: evaluation.Origin,
) -> evaluation.Features:
    return extract_features(model, samples, fed, recipe.evaluation.batch_size, device, recipe.threads, origin)
