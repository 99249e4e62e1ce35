"""From samples to features: the one way in which trained networks look at images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from .data import ImagePipeline, Modality, Sample, SequentialSampler, Stream
from .errors import InputError
from .evaluation import Features
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


@torch.inference_mode()
def extract_features(
    model: torch.nn.Module,
    samples: Sequence[Sample],
    size: tuple[int, int],
    batch_size: int = 128,
    device: torch.device | str = "cpu",
    threads: int = 2,
) -> Features:
    """Embeddings (after the BNNeck) of all samples, each through the stem of its modality.

    Args:
        model: a network with `embed(images, modality)`.
        samples: N images.
        size: height and width in pixels that the network is fed.

    Returns:
        Features in the order of the samples, float32 (N, D).
    """
    device = torch.device(device)
    model = model.to(device, memory_format=torch.channels_last).eval()
    rows: dict[int, np.ndarray] = {}
    with progress_bar("features", len(samples)) as advance:
        for modality in Modality:
            positions = [i for i, sample in enumerate(samples) if sample.modality is modality]
            for indices, images in _batches(samples, positions, size, batch_size, device, threads):
                embedding = model.embed(images.to(device, memory_format=torch.channels_last), modality.value)
                rows.update(zip(indices, embedding.float().cpu().numpy(), strict=True))
                advance(len(indices))
    return Features(
        features=np.stack([rows[i] for i in range(len(samples))]),
        identity=np.array([sample.identity for sample in samples]),
        camera=np.array([sample.camera for sample in samples]),
        modality=np.array([sample.modality.value for sample in samples]),
        paths=np.array([str(sample.path) for sample in samples]),
    )


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
