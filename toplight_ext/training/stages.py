"""The four stages of TOPLight: what each starts from, sees, minimises and leaves behind."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..data import (
    Augmentation,
    CrossModalitySampler,
    ImagePipeline,
    Sample,
    ShuffledSampler,
    Stream,
    cached_images,
    identity_labels,
    with_mirrored_identities,
)
from ..models import DualPathNetwork, create_model, load_blocks, read_weights, save_weights, soup_weights, training_sets
from ..models.state import duplicated_blocks
from .loop import Look, Stage, Training
from .objectives import PretrainObjective, TopObjective, VIObjective
from .processes import Whole, rank, world_size
from .recipe import Dataset, Recipe
from .run import Run
from .stopping import Stop

_DUPLICATED = 4  # blocks per path in TOP

Order = ShuffledSampler | CrossModalitySampler


def run_stage(
    run: Run, name: str, before: Path | None, device: torch.device, stop: Stop, look: Look | None = None
) -> None:
    """Run one stage to its end; the process that writes leaves its weights and says that it is finished.

    Args:
        before: weights of the stage before, None for the first.
        look: what to record of the network on the way.
    """
    recipe = run.recipe
    metadata = _metadata(recipe, name, before)  # read now: the weights before may be gone when the stage ends
    torch.manual_seed(recipe.seed)
    if name == "soup":
        if run.writes:  # too short to be shared
            _leave(run, name, metadata, *_soup(recipe, before, device))
        return
    stage = build_stage(recipe, name, before)
    training = Training(run, stage, device, look)
    with stop.deferred():  # until the weights are there: the steps since the last checkpoint would be lost
        spent = training.to_the_end(stop)
        if run.writes:
            _leave(run, name, metadata, stage.model, spent)


def _leave(run: Run, name: str, metadata: dict[str, Any], model: DualPathNetwork, spent: tuple[float, int]) -> None:
    save_weights(run.weights(name), model, **metadata)
    run.finish(name, *spent)


def build_stage(recipe: Recipe, name: str, before: Path | None) -> Stage:
    """The stage pretrain, top or vi of a recipe, from the weights of the one before."""
    settings, images = getattr(recipe, name), _Images(recipe, name)
    order = _order(recipe, name, images.samples)
    model = _network(recipe, name, images.classes, before)
    if rank() == 0:
        print(f"{name}: {order.describe()}", file=sys.stderr)
    objective = _objective(recipe, name, model, _whole(order), images.classes)
    streams = _streams(recipe, name, order, images)
    return Stage(
        name, model, objective, streams, images.labels, order.steps_per_epoch, settings.epochs, settings.optimiser
    )


def check_stages(
    recipe: Recipe,
    stages: Sequence[str],
    before: Path | None,
    visible_infrared: Sequence[Sample] | None,
    pretraining: Sequence[Sample] | None,
) -> None:
    """Find now what a stage would refuse when its turn comes, which may be after days.

    That is a batch that cannot be drawn or divided, weights to start from, a network that cannot be made.

    Args:
        stages: those that are to come.
        before: weights that the first of them starts from.
        visible_infrared, pretraining: samples of the data sets; None where no stage trains on them.

    Raises:
        InputError: as the stage would.
    """
    for stage in stages:
        if stage == "soup":
            continue
        samples = visible_infrared if stage == "vi" else pretraining
        _order(recipe, stage, _stage_samples(recipe, stage, samples)).rows(rank(), world_size())
        with torch.device("meta"):
            if stage == stages[0]:
                _network(recipe, stage, 0, before)
            else:
                create_model(**_arguments(recipe, stage, 0))


def _metadata(recipe: Recipe, name: str, before: Path | None) -> dict[str, Any]:
    return {
        "stage": name,
        "recipe": recipe.name,
        "trained_on": trained_on(recipe, [name], before),
        **recipe.preprocessing(name).metadata(),
    }


def trained_on(recipe: Recipe, stages: Sequence[str], before: Path | None) -> list[dict[str, str | None]]:
    """What the weights that the last of the stages leaves have seen, so that an evaluation on its trials is noticed.

    Args:
        before: weights that the first of them starts from, whose own past is recorded in them.
    """
    earlier = [] if before is None else read_weights(before).metadata.get("trained_on", [])
    own = (_dataset(recipe, stage) for stage in stages)
    return training_sets([*earlier, *({"dataset": data.name, "split": data.split} for data in own)])


def _dataset(recipe: Recipe, name: str) -> Dataset:
    return recipe.data if name == "vi" else recipe.pretraining_data


def _stage_samples(recipe: Recipe, stage: str, samples: Sequence[Sample]) -> Sequence[Sample]:
    """What a stage makes of the samples of its data set."""
    return with_mirrored_identities(samples) if stage == "vi" and recipe.vi.mirrored_identities else samples


class _Images:
    """What a stage trains on, its (N,) class labels, and streams of it in this process."""

    def __init__(self, recipe: Recipe, stage: str):
        dataset = _dataset(recipe, stage)
        self.samples = _stage_samples(recipe, stage, dataset.samples())
        self.labels, identities = identity_labels(self.samples)
        self.classes = len(identities)
        self._decoded = None
        if dataset.cache is not None:
            self._decoded = cached_images(self.samples, dataset.cache, recipe.size, recipe.threads)

    def stream(
        self,
        order: Order,
        indices: Callable[[int], np.ndarray],
        *views: Augmentation,
        share_geometry: bool = False,
    ) -> Stream:
        rows = order.rows(rank(), world_size())
        return Stream(self.samples, indices, views, share_geometry, rows, self._decoded)


def _order(recipe: Recipe, stage: str, samples: Sequence[Sample]) -> Order:
    """Which samples make up the batches of a stage."""
    settings = getattr(recipe, stage)
    if stage == "vi":
        return CrossModalitySampler(samples, settings.identities, settings.images_per_identity, recipe.seed)
    return ShuffledSampler(samples, settings.batch_size, recipe.seed)


def _streams(recipe: Recipe, stage: str, order: Order, images: _Images) -> tuple[Stream, ...]:
    """The images of a stage's batches: one view of each, in TOP both augmentations of it."""
    settings = getattr(recipe, stage)
    if stage == "pretrain":
        return (images.stream(order, order.batch, settings.augmentation),)
    if stage == "top":
        views = settings.path1, settings.path2
        return (images.stream(order, order.batch, *views, share_geometry=settings.share_geometry),)
    return (
        images.stream(order, lambda step: order.batch(step)[0], settings.visible),
        images.stream(order, lambda step: order.batch(step)[1], settings.infrared),
    )


def _whole(order: Order) -> Whole:
    """How the parts of the processes make a batch."""
    parts = (order.rows(number, world_size()) for number in range(world_size()))
    return Whole([part.stop - part.start for part in parts])


def _network(recipe: Recipe, stage: str, classes: int, before: Path | None) -> DualPathNetwork:
    """A stage's network on the blocks of the weights before it, or on the backbone's public weights."""
    if before is None:
        return create_model(**_arguments(recipe, stage, classes), pretrained=recipe.model.pretrained)
    weights = read_weights(before)
    model = create_model(**_arguments(recipe, stage, classes, duplicated_blocks(weights.state)))
    load_blocks(model, weights.state, str(before))
    same_classes = weights.metadata.get("stage") == "pretrain" and weights.arguments.get("num_classes") == classes
    if stage == "top" and same_classes:
        model.load_state_dict({k: v for k, v in weights.state.items() if k.startswith("head.")}, strict=False)
    return model


def _arguments(recipe: Recipe, stage: str, classes: int, duplicated: int = 1) -> dict[str, Any]:
    """Those of `create_model`, but for where its weights come from.

    Args:
        duplicated: blocks that the weights before the stage hold once per modality.
    """
    model = recipe.model
    always = {
        "name": model.backbone,
        "input_layer": model.input_layer,
        "last_stride": model.last_stride,
        "checkpointing": model.checkpointing,
    }
    if stage != "vi":
        return {**always, "num_classes": classes, "neck": "gap", "duplicated": _DUPLICATED if stage == "top" else 0}
    return {
        **always,
        "num_classes": classes if recipe.vi.identity_weight else 0,
        "neck": model.neck,
        "slices": model.slices,
        "groups": model.groups,
        "embed": model.embed,
        # What the soup keeps apart; without it what is apart already, but stems in any case.
        "duplicated": recipe.soup.keep if recipe.soup else max(1, duplicated),
    }


def _objective(recipe: Recipe, stage: str, model: DualPathNetwork, whole: Whole, classes: int) -> nn.Module:
    if stage == "pretrain":
        return PretrainObjective(model, recipe.pretrain, whole)
    if stage == "top":
        return TopObjective(model, recipe.top, whole)
    return VIObjective(model, recipe.vi, recipe.preprocessing("vi"), whole, classes)


def _soup(recipe: Recipe, before: Path, device: torch.device) -> tuple[DualPathNetwork, tuple[float, int]]:
    """Stage 2: the paths' blocks averaged, then BatchNorm's statistics taken anew on what both paths see."""
    began = time.monotonic()
    model, _ = soup_weights([before], keep=recipe.soup.keep)
    images = _Images(recipe, "top")
    order = _order(recipe, "top", images.samples)
    (stream,) = _streams(recipe, "top", order, images)
    stream = dataclasses.replace(stream, rows=slice(None))  # the process that does this takes the whole batch
    pipeline = ImagePipeline(
        (stream,),
        size=recipe.size,
        seed=recipe.seed,
        steps=min(recipe.soup.statistics_batches, order.steps_per_epoch),
        device=device.type,
        threads=recipe.threads,
        mean=recipe.mean,
        std=recipe.std,
    )
    with pipeline as batches:
        seen = reestimate_statistics(model.to(device), (batch.images[0] for batch in batches))
    return model, (time.monotonic() - began, seen)


@torch.no_grad()
def reestimate_statistics(model: DualPathNetwork, pairs: Iterable[tuple[Tensor, Tensor]]) -> int:
    """Replace the running mean and variance of every BatchNorm by those over `pairs`; returns the images seen.

    Averaged weights do not have averaged statistics. Every batch counts the same (a cumulative average).

    Args:
        pairs: (visible, infrared) image batches.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    model.train()
    device = next(model.parameters()).device
    images = 0
    for pair in pairs:
        model(*(x.to(device, memory_format=torch.channels_last, non_blocking=True) for x in pair))
        images += sum(map(len, pair))
    model.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return images


def stage_streams(recipe: Recipe, name: str) -> tuple[Stream, ...]:
    """What a stage that trains draws its batches from."""
    images = _Images(recipe, name)
    return _streams(recipe, name, _order(recipe, name, images.samples), images)
