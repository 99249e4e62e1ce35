"""A whole run: the recipe's stages in order, each evaluated when it ends; stopped anywhere, it can be resumed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import evaluation
from ..data import Sample, load_dataset
from ..extras import require
from ..inference import extract_features, pick_device
from ..models import load_weights
from .recipe import Recipe
from .run import Run
from .stages import run_stage

_LABELS = {"pretrain": "pretraining", "top": "TOP", "soup": "soup", "vi": "visible-infrared training"}
_RANKED_QUERIES = 24
_RANKED_TOP = 10


def start(recipe: Recipe, folder: Path) -> Run:
    """Run a recipe in a new folder.

    Raises:
        InputError: a data set, the protocol or the device cannot be used (nothing is written then), or the folder
            is not empty.
        TrainingError: the loss is not finite, or a signal stopped the run.
    """
    _check(recipe)
    return _finish(Run.create(recipe, folder))


def resume(folder: Path) -> Run:
    """Continue the run in `folder` from its last checkpoint; a finished run is returned as it is."""
    run = Run.open(folder)
    _check(run.recipe)
    return _finish(run)


def _check(recipe: Recipe) -> None:
    """What can be found wrong before anything is written."""
    for package in ("timm", "nvidia.dali", "safetensors"):
        require(package, extra="train")
    pick_device(recipe.device)
    _protocol(recipe)
    splits = (evaluation.Split(dataset.name, dataset.split) for dataset in (recipe.test, recipe.data))
    evaluation.check_splits([evaluation.Origin(None, None, *splits)])
    for dataset in filter(None, (recipe.data, recipe.test, recipe.pretraining_data)):
        load_dataset(dataset.name, dataset.root, dataset.split)


def _finish(run: Run) -> Run:
    recipe = run.recipe
    device = pick_device(recipe.device)
    test = load_dataset(recipe.test.name, recipe.test.root, recipe.test.split)
    before = None
    for stage in recipe.stages:
        if stage not in {entry["stage"] for entry in run.finished}:
            seconds, images = run_stage(run, stage, before, device)
            run.finish(stage, seconds, images)
        if stage not in {result["name"] for result in run.results}:
            _evaluate(run, stage, test, device)
        before = run.weights(stage)
    return run


def _evaluate(run: Run, stage: str, test: list[Sample], device: torch.device) -> None:
    model, _ = load_weights(run.weights(stage))
    settings = run.recipe.evaluation
    features = extract_features(model, test, run.recipe.size, settings.batch_size, device, run.recipe.threads)
    protocol = _protocol(run.recipe)
    result = evaluation.evaluate(features, protocol, metric=settings.metric)
    label = _LABELS[stage] + (f" + {run.recipe.model.neck.upper()}" if stage == "vi" else "")
    run.add_result(stage, {"label": label, **result.to_json()}, _ranked(features, protocol, settings.metric))
    print(f"{label}: rank-1 {result.r1:.1%}  mAP {result.mAP:.1%}  mINP {result.mINP:.1%}", file=sys.stderr)


def _protocol(recipe: Recipe) -> evaluation.Protocol:
    settings = recipe.evaluation
    permutations = Path(settings.permutations) if settings.permutations else None
    return evaluation.parse_protocol(recipe.test.name, settings.protocol, settings.shots, permutations)


def _ranked(features: evaluation.Features, protocol: evaluation.Protocol, metric: str) -> dict[str, Any]:
    """Ranked lists of queries spread evenly over the first trial, in the form of ranked.json."""

    def described(row: int) -> dict[str, Any]:
        return {
            "path": str(features.paths[row]),
            "identity": str(features.identity[row]),
            "camera": int(features.camera[row]),
            "modality": str(features.modality[row]),
        }

    queries = next(iter(protocol.trials(features))).query
    spread = queries[np.linspace(0, len(queries) - 1, min(_RANKED_QUERIES, len(queries))).astype(int)]
    lists = evaluation.ranked_lists(features, protocol, top=_RANKED_TOP, queries=spread, metric=metric)
    return {
        "queries": [
            {
                **described(query),
                "gallery": [
                    {**described(row), "correct": bool(correct), "distance": float(distance)}
                    for row, distance, correct in zip(rows, distances, corrects, strict=True)
                    if row >= 0
                ],
            }
            for query, rows, distances, corrects in zip(*lists, strict=True)
        ]
    }
