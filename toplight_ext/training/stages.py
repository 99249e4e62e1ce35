"""The four stages of TOPLight: what each starts from, sees, minimises and leaves behind."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

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
    load_dataset,
    with_mirrored_identities,
)
from ..models import DualPathNetwork, Weights, create_model, load_blocks, read_weights, save_weights, soup_weights
from .loop import Look, Stage, Training
from .objectives import PretrainObjective, TopObjective, VIObjective
from .processes import Whole, rank, world_size
from .recipe import Dataset, Recipe
from .run import Run
from .stopping import Stop

_DUPLICATED = 4  # blocks per path in TOP


def run_stage(
    run: Run, name: str, before: Path | None, device: torch.device, stop: Stop, look: Look | None = None
) -> None:
    """Run one stage to its end; the process that writes leaves its weights and says that it is finished.

    Args:
        before: weights of the stage before, None for the first.
        look: what to record of the network on the way.
    """
    recipe = run.recipe
    torch.manual_seed(recipe.seed)
    if name == "soup":
        if run.writes:  # too short to be shared
            _leave(run, name, *_soup(recipe, before, device))
        return
    stage = build_stage(recipe, name, before)
    training = Training(run, stage, device, look)
    with stop.deferred():  # until the weights are there: the steps since the last checkpoint would be lost
        spent = training.to_the_end(stop)
        if run.writes:
            _leave(run, name, stage.model, spent)


def _leave(run: Run, name: str, model: DualPathNetwork, spent: tuple[float, int]) -> None:
    save_weights(run.weights(name), model, **_metadata(run.recipe, name))
    run.finish(name, *spent)


def build_stage(recipe: Recipe, name: str, before: Path | None) -> Stage:
    """The stage pretrain, top or vi of a recipe, from the weights of the one before."""
    return _STAGES[name](recipe, read_weights(before) if before else None)


def _metadata(recipe: Recipe, name: str) -> dict:
    data = _dataset(recipe, name)
    trained_on = {"dataset": data.name, "split": data.split}  # so that an evaluation on another split is noticed
    return {"stage": name, "recipe": recipe.name, "trained_on": trained_on, **recipe.preprocessing(name).metadata()}


def _dataset(recipe: Recipe, name: str) -> Dataset:
    return recipe.data if name == "vi" else recipe.pretraining_data


class _Images:
    """A data set's samples, their (N,) class labels, and streams of them in this process."""

    def __init__(self, recipe: Recipe, stage: str):
        dataset = _dataset(recipe, stage)
        self.samples: list[Sample] = load_dataset(dataset.name, dataset.root, dataset.split)
        if stage == "vi" and recipe.vi.mirrored_identities:
            self.samples = with_mirrored_identities(self.samples)
        self.labels, identities = identity_labels(self.samples)
        self.classes = len(identities)
        self._decoded = None
        if dataset.cache is not None:
            self._decoded = cached_images(self.samples, dataset.cache, recipe.size, recipe.threads)

    def stream(
        self,
        order: ShuffledSampler | CrossModalitySampler,
        indices: Callable[[int], np.ndarray],
        *views: Augmentation,
        share_geometry: bool = False,
    ) -> Stream:
        rows = order.rows(rank(), world_size())
        return Stream(self.samples, indices, views, share_geometry, rows, self._decoded)


def _announce(name: str, order: ShuffledSampler | CrossModalitySampler) -> None:
    if rank() == 0:
        print(f"{name}: {order.describe()}", file=sys.stderr)


def _whole(order: ShuffledSampler | CrossModalitySampler) -> Whole:
    """How the parts of the processes make a batch."""
    parts = (order.rows(number, world_size()) for number in range(world_size()))
    return Whole([part.stop - part.start for part in parts])


def _network(recipe: Recipe, weights: Weights | None, **arguments) -> DualPathNetwork:
    """The recipe's network on the blocks of the stage before, or on its public weights."""
    model = create_model(
        recipe.model.backbone,
        input_layer=recipe.model.input_layer,
        last_stride=recipe.model.last_stride,
        pretrained=recipe.model.pretrained if weights is None else False,
        checkpointing=recipe.model.checkpointing,
        **arguments,
    )
    if weights is not None:
        load_blocks(model, weights.state, "weights of the stage before")
    return model


def _pretrain(recipe: Recipe, weights: Weights | None) -> Stage:
    """Stage 0: one path on the visible images."""
    settings = recipe.pretrain
    images = _Images(recipe, "pretrain")
    model = _network(recipe, weights, num_classes=images.classes, neck="gap", duplicated=0)
    order, streams = _pretrain_streams(recipe, images)
    _announce("pretrain", order)
    objective = PretrainObjective(model, settings, _whole(order))
    steps = order.steps_per_epoch
    return Stage("pretrain", model, objective, streams, images.labels, steps, settings.epochs, settings.optimiser)


def _pretrain_streams(recipe: Recipe, images: _Images) -> tuple[ShuffledSampler, tuple[Stream]]:
    order = ShuffledSampler(images.samples, recipe.pretrain.batch_size, recipe.seed)
    return order, (images.stream(order, order.batch, recipe.pretrain.augmentation),)


def _top(recipe: Recipe, weights: Weights | None) -> Stage:
    """Stage 1: every image through both paths, whose first blocks start from the same weights."""
    settings = recipe.top
    images = _Images(recipe, "top")
    model = _network(recipe, weights, num_classes=images.classes, neck="gap", duplicated=_DUPLICATED)
    if weights is not None and weights.arguments["num_classes"] == images.classes:
        model.load_state_dict({k: v for k, v in weights.state.items() if k.startswith("head.")}, strict=False)
    order, streams = _top_streams(recipe, images)
    _announce("top", order)
    objective = TopObjective(model, settings, _whole(order))
    steps = order.steps_per_epoch
    return Stage("top", model, objective, streams, images.labels, steps, settings.epochs, settings.optimiser)


def _top_streams(recipe: Recipe, images: _Images) -> tuple[ShuffledSampler, tuple[Stream]]:
    """Both augmentations of every image."""
    settings = recipe.top
    order = ShuffledSampler(images.samples, settings.batch_size, recipe.seed)
    views = settings.path1, settings.path2
    return order, (images.stream(order, order.batch, *views, share_geometry=settings.share_geometry),)


def _soup(recipe: Recipe, before: Path, device: torch.device) -> tuple[DualPathNetwork, tuple[float, int]]:
    """Stage 2: the paths' blocks averaged, then BatchNorm's statistics taken anew on what both paths see."""
    began = time.monotonic()
    model, _ = soup_weights([before], keep=recipe.soup.keep)
    order, (stream,) = _top_streams(recipe, _Images(recipe, "top"))
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
        images = reestimate_statistics(model.to(device), (batch.images[0] for batch in batches))
    return model, (time.monotonic() - began, images)


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


def _apart(recipe: Recipe) -> int:
    """How many of the first blocks each modality has for itself: what the soup keeps apart, without it those of TOP."""
    if recipe.soup:
        return recipe.soup.keep
    return _DUPLICATED if recipe.top else 1


def _vi(recipe: Recipe, weights: Weights | None) -> Stage:
    """Stage 3: two stems, the rest shared; P x K batches of both modalities."""
    settings = recipe.vi
    images = _Images(recipe, "vi")
    order, streams = _vi_streams(recipe, images)
    model = _network(
        recipe,
        weights,
        num_classes=images.classes if settings.identity_weight else 0,
        neck=recipe.model.neck,
        slices=recipe.model.slices,
        groups=recipe.model.groups,
        embed=recipe.model.embed,
        duplicated=_apart(recipe),
    )
    _announce("vi", order)
    objective = VIObjective(model, settings, recipe.preprocessing("vi"), _whole(order), images.classes)
    steps = order.steps_per_epoch
    return Stage("vi", model, objective, streams, images.labels, steps, settings.epochs, settings.optimiser)


def _vi_streams(recipe: Recipe, images: _Images) -> tuple[CrossModalitySampler, tuple[Stream, Stream]]:
    settings = recipe.vi
    order = CrossModalitySampler(images.samples, settings.identities, settings.images_per_identity, recipe.seed)
    return order, (
        images.stream(order, lambda step: order.batch(step)[0], settings.visible),
        images.stream(order, lambda step: order.batch(step)[1], settings.infrared),
    )


def stage_streams(recipe: Recipe, name: str) -> tuple[Stream, ...]:
    """What a stage that trains draws its batches from."""
    return _STREAMS[name](recipe, _Images(recipe, name))[1]


_STAGES = {"pretrain": _pretrain, "top": _top, "vi": _vi}
_STREAMS = {"pretrain": _pretrain_streams, "top": _top_streams, "vi": _vi_streams}
