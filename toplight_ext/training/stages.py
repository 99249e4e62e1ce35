"""The four stages of TOPLight: what each starts from, sees, minimises and leaves behind."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import losses
from ..data import (
    Batch,
    CrossModalitySampler,
    ImagePipeline,
    Sample,
    ShuffledSampler,
    Stream,
    identity_labels,
    load_dataset,
)
from ..models import (
    DualPathNetwork,
    Weights,
    create_model,
    load_blocks,
    read_weights,
    save_weights,
    soup_weights,
)
from ..nn import DomainHead, GradientReversal
from .loop import Stage, train_stage
from .recipe import Dataset, Recipe
from .run import Run

_DUPLICATED = 4  # blocks per path in TOP


def run_stage(run: Run, name: str, before: Path | None, device: torch.device) -> tuple[float, int]:
    """Run one stage to its end and write its weights.

    Args:
        before: weights of the stage before, None for the first.

    Returns:
        Seconds spent and images seen.
    """
    recipe = run.recipe
    torch.manual_seed(recipe.seed)
    weights = read_weights(before) if before else None
    if name == "soup":
        model, spent = _soup(recipe, before, device)
    else:
        stage = _STAGES[name](recipe, weights, device)
        spent = train_stage(run, stage, device)
        model = stage.model
    data = recipe.data if name == "vi" else recipe.pretraining_data
    trained_on = {"dataset": data.name, "split": data.split}  # so that an evaluation on another split is noticed
    save_weights(run.weights(name), model, stage=name, recipe=recipe.name, size=recipe.size, trained_on=trained_on)
    return spent


def _labelled(dataset: Dataset) -> tuple[list[Sample], np.ndarray, int]:
    """A data set's samples, their (N,) class labels, and the number of classes."""
    samples = load_dataset(dataset.name, dataset.root, dataset.split)
    labels, identities = identity_labels(samples)
    return samples, labels, len(identities)


def _network(recipe: Recipe, weights: Weights | None, **arguments) -> DualPathNetwork:
    """The recipe's network on the blocks of the stage before, or on its public weights."""
    model = create_model(
        recipe.model.backbone,
        last_stride=recipe.model.last_stride,
        pretrained=recipe.model.pretrained if weights is None else False,
        **arguments,
    )
    if weights is not None:
        load_blocks(model, weights.state, "weights of the stage before")
    return model


def _pretrain(recipe: Recipe, weights: Weights | None, device: torch.device) -> Stage:
    """Stage 0: one path, cross entropy on the identities (classes) of the visible images."""
    settings = recipe.pretrain
    samples, labels, classes = _labelled(recipe.pretraining_data)
    model = _network(recipe, weights, num_classes=classes, neck="gap", duplicated=0)
    order = ShuffledSampler(samples, settings.batch_size, recipe.seed)

    def terms(batch: Batch) -> dict[str, Tensor]:
        logits = model(_on(device, batch.images[0][0])).logits
        target = _target(labels, batch.indices[0], device)
        return {"identity": F.cross_entropy(logits, target, label_smoothing=settings.label_smoothing)}

    stream = Stream(samples, order.batch, views=(settings.augmentation,))
    return Stage("pretrain", model, model, (stream,), terms, order.steps_per_epoch, settings.epochs, settings.optimiser)


def _top(recipe: Recipe, weights: Weights | None, device: torch.device) -> Stage:
    """Stage 1: every image through both paths; L_idc makes them agree, L_fd makes Blocks 1-4 specialise."""
    settings = recipe.top
    samples, labels, classes = _labelled(recipe.pretraining_data)
    model = _network(recipe, weights, num_classes=classes, neck="gap", duplicated=_DUPLICATED)
    if weights is not None and weights.arguments["num_classes"] == classes:
        model.load_state_dict({k: v for k, v in weights.state.items() if k.startswith("head.")}, strict=False)
    heads = nn.ModuleDict(
        {"path": DomainHead(model.channels[_DUPLICATED - 1]), "final": DomainHead(model.channels[-1])}
    )
    reverse = GradientReversal(settings.reversal)
    order = ShuffledSampler(samples, settings.batch_size, recipe.seed)

    def terms(batch: Batch) -> dict[str, Tensor]:
        first, second = (_on(device, view) for view in batch.images[0])
        output = model(visible=first, infrared=second, maps=True)
        target = _target(labels, batch.indices[0], device)
        logits = output.logits.chunk(2)
        return {
            "identity_consistency": losses.identity_consistency(
                *logits, target, kl_weight=settings.kl_weight, label_smoothing=settings.label_smoothing
            ),
            "feature_domain": settings.domain_weight
            * losses.feature_domain(output.path_maps, output.final_maps, heads["path"], heads["final"], reverse),
        }

    return Stage(
        "top",
        model,
        nn.ModuleDict({"model": model, "heads": heads}),
        (_top_stream(recipe, samples, order),),
        terms,
        order.steps_per_epoch,
        settings.epochs,
        settings.optimiser,
    )


def _top_stream(recipe: Recipe, samples: Sequence[Sample], order: ShuffledSampler) -> Stream:
    settings = recipe.top
    return Stream(samples, order.batch, views=(settings.path1, settings.path2), share_geometry=settings.share_geometry)


def _soup(recipe: Recipe, before: Path, device: torch.device) -> tuple[DualPathNetwork, tuple[float, int]]:
    """Stage 2: the paths' blocks averaged, then BatchNorm's statistics taken anew on what both paths see."""
    began = time.monotonic()
    model, _ = soup_weights([before], keep=recipe.soup.keep)
    samples, _, _ = _labelled(recipe.pretraining_data)
    order = ShuffledSampler(samples, recipe.top.batch_size, recipe.seed)
    steps = min(recipe.soup.statistics_batches, order.steps_per_epoch)
    pipeline = ImagePipeline(
        (_top_stream(recipe, samples, order),),
        size=recipe.size,
        seed=recipe.seed,
        steps=steps,
        device=device.type,
        threads=recipe.threads,
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
    for visible, infrared in pairs:
        model(_on(device, visible), _on(device, infrared))
        images += len(visible) + len(infrared)
    model.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return images


def _vi(recipe: Recipe, weights: Weights | None, device: torch.device) -> Stage:
    """Stage 3: two stems, the rest shared; identity loss on the logits, metric losses across modalities."""
    settings = recipe.vi
    samples, labels, classes = _labelled(recipe.data)
    sampler = CrossModalitySampler(samples, settings.identities, settings.images_per_identity, recipe.seed)
    if sampler.unpaired:
        print(f"{len(sampler.unpaired)} identities lack a modality and are never drawn", file=sys.stderr)
    model = _network(
        recipe,
        weights,
        num_classes=classes,
        neck=recipe.model.neck,
        slices=recipe.model.slices,
        groups=recipe.model.groups,
        duplicated=recipe.soup.keep if recipe.soup else 1,
    )

    def terms(batch: Batch) -> dict[str, Tensor]:
        (visible,), (infrared,) = batch.images
        output = model(_on(device, visible), _on(device, infrared))
        target = [_target(labels, rows, device) for rows in batch.indices]
        found = {}
        if settings.identity_weight:
            found["identity"] = settings.identity_weight * F.cross_entropy(
                output.logits, torch.cat(target), label_smoothing=settings.label_smoothing
            )
        if settings.triplet_weight:
            pair = output.features.split([len(visible), len(infrared)])
            found["triplet"] = settings.triplet_weight * losses.cross_modality_triplet(*pair, *target, settings.margin)
        if settings.infonce_weight:
            pair = output.embedding.split([len(visible), len(infrared)])
            found["infonce"] = settings.infonce_weight * losses.cross_modality_infonce(
                *pair, *target, settings.temperature
            )
        return found

    streams = (
        Stream(samples, lambda step: sampler.batch(step)[0], views=(settings.visible,)),
        Stream(samples, lambda step: sampler.batch(step)[1], views=(settings.infrared,)),
    )
    return Stage("vi", model, model, streams, terms, sampler.steps_per_epoch, settings.epochs, settings.optimiser)


def _on(device: torch.device, images: Tensor) -> Tensor:
    # Depthwise convolutions run 1.6 times as fast on channels_last, on a CPU.
    return images.to(device, memory_format=torch.channels_last, non_blocking=True)


def _target(labels: np.ndarray, rows: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(labels[rows]).to(device, non_blocking=True)


_STAGES = {"pretrain": _pretrain, "top": _top, "vi": _vi}
