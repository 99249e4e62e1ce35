"""From samples to features: the one way in which trained networks look at images."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from .data import ImagePipeline, Modality, Sample, SequentialSampler, Stream
from .errors import InputError
from .evaluation import Features, Origin, Split
from .progress import progress_bar


def pick_device(name: str) -> torch.device:
    """`auto` is the GPU if there is one.

    Raises:
        InputError: an unknown device, or cuda on a machine without it.
    """
    available = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if available else "cpu")
    if name not in ("cpu", "cuda"):
        raise InputError(f"device {name!r}: expected auto, cpu or cuda")
    if name == "cuda" and not available:
        raise InputError("device 'cuda': torch sees no GPU here; use cpu, or see `toplight doctor`")
    return torch.device(name)


AFTER_NECK, BEFORE_NECK = "after BNNeck", "before BNNeck"


def origin_of(
    metadata: Mapping[str, Any], dataset: str, split: str | None, feature: str = AFTER_NECK, flip: bool = False
) -> Origin:
    """What is to be known of features before they are extracted, from a weights file's metadata and the data set.

    Training records `trained_on`: data set and split. Where that is a numbered trial of this very data set and no
    split is given, the test half of the same trial is meant.
    """
    recorded = metadata.get("trained_on")
    training = Split(recorded["dataset"], recorded["split"]) if recorded else None
    if split is None and training and training.dataset == dataset and training.trial is not None:
        split = f"test_{training.trial}"
    return Origin(feature, flip, Split(dataset, split), training)


@torch.inference_mode()
def extract_features(
    model: torch.nn.Module,
    samples: Sequence[Sample],
    size: tuple[int, int],
    batch_size: int = 128,
    device: torch.device | str = "cpu",
    threads: int = 2,
    origin: Origin | None = None,
) -> Features:
    """Features of all samples, each through the stem of its modality.

    Args:
        model: a DualPathNetwork.
        samples: N images.
        size: height and width in pixels that the network is fed.
        origin: says whether the features are taken before or after the BNNeck, and whether an image's and its
            mirror image's are averaged; the default is after, and not.

    Returns:
        Features in the order of the samples, float32 (N, D).
    """
    origin = origin or Origin(AFTER_NECK, flip=False)
    device = torch.device(device)
    model = model.to(device, memory_format=torch.channels_last).eval()
    rows: dict[int, np.ndarray] = {}
    with progress_bar("features", len(samples)) as advance:
        for modality in Modality:
            positions = [i for i, sample in enumerate(samples) if sample.modality is modality]
            for indices, images in _batches(samples, positions, size, batch_size, device, threads):
                found = _look(model, images.to(device, memory_format=torch.channels_last), modality, origin)
                rows.update(zip(indices, found.float().cpu().numpy(), strict=True))
                advance(len(indices))
    modality = np.array([sample.modality.value for sample in samples])
    return Features(
        features=np.stack([rows[i] for i in range(len(samples))]),
        identity=np.array([sample.identity for sample in samples]),
        camera=np.array([sample.camera for sample in samples]),
        modality=modality,
        index=image_numbers(samples),
        paths=np.array([str(sample.path) for sample in samples]),
        stem=modality,
        origin=origin,
    )


def image_numbers(samples: Sequence[Sample]) -> np.ndarray:
    """(N,) number of every image, from 1, within its modality, camera and identity, by path."""
    numbers = np.empty(len(samples), dtype=np.int64)
    seen: Counter = Counter()
    for i in sorted(range(len(samples)), key=lambda i: str(samples[i].path)):
        cell = (samples[i].modality, samples[i].camera, samples[i].identity)
        seen[cell] += 1
        numbers[i] = seen[cell]
    return numbers


def _look(model: torch.nn.Module, images: torch.Tensor, modality: Modality, origin: Origin) -> torch.Tensor:
    """(B, 3, H, W) -> (B, D). Averaging the mirror image in before any normalisation is our choice."""
    if origin.flip:
        once, mirrored = (
            _look(model, view, modality, dataclasses.replace(origin, flip=False)) for view in (images, images.flip(-1))
        )
        return (once + mirrored) / 2
    if origin.feature == BEFORE_NECK:
        return model(**{modality.value: images}).features
    return model.embed(images, modality)


def _batches(samples, positions, size, batch_size, device, threads):
    if not positions:
        return
    chosen = [samples[i] for i in positions]
    order = SequentialSampler(chosen, batch_size)
    stream = Stream(chosen, order.batch, views=(None,))
    pipeline = ImagePipeline((stream,), size=size, steps=order.steps_per_epoch, device=device.type, threads=threads)
    with pipeline as batches:
        for batch in batches:
            yield [positions[i] for i in batch.indices[0]], batch.images[0][0]
