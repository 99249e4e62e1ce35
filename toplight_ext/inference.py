"""From samples to features: the one way in which trained networks look at images."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from . import ops
from .colour import LUMA
from .data import ImagePipeline, Modality, Sample, SequentialSampler, Stream, find_dataset
from .data.pipeline import IMAGENET_MEAN, IMAGENET_STD
from .errors import InputError
from .evaluation import Features, Origin, Split
from .progress import progress_bar
from .text import plain

# Our choice: far above what anyone feeds a network, and a batch of it still fits a machine.
_MOST_PIXELS = 1 << 22
_LARGEST = 1e6  # of a mean, and of one through a deviation


@dataclass(frozen=True)
class Preprocessing:
    """What a network is fed, stored with its weights under the names of these fields.

    size: height and width of the images in pixels.
    mean, std: of the red, green and blue channel, for pixels in 0..1.
    gray: whether visible images lose their colour.
    """

    size: tuple[int, int]
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    gray: bool = False

    @classmethod
    def of(cls, metadata: Mapping[str, Any], origin: object = "the weights") -> Preprocessing:
        """From a weights file's metadata; what an older file does not say is the default.

        Args:
            origin: the file, for errors.

        Raises:
            InputError: the metadata has no size, or a field is nothing that a network can be fed by.
        """
        if "size" not in metadata:
            raise InputError(f"{origin}: does not say what size of images it takes: save_weights(..., size=...)")
        known = {field.name: metadata[field.name] for field in dataclasses.fields(cls) if field.name in metadata}
        found = cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in known.items()})
        found.check(origin)
        return found

    def check(self, origin: object) -> None:
        """Raises InputError, naming `origin`, unless a network can be fed so.

        That is a size of 1 to 2^22 pixels, three finite means, and three deviations that are positive and finite.
        """
        try:
            sound = self._is_sound()
        except (TypeError, ValueError):  # other types
            sound = False
        if not sound:
            raise InputError(f"{origin}: no network can be fed by {plain(self, 300)}")

    def _is_sound(self) -> bool:
        height, width = self.size
        sizes = isinstance(height, int) and isinstance(width, int) and min(height, width) > 0
        numbers = (*self.mean, *self.std)
        return (
            sizes
            and height * width <= _MOST_PIXELS
            and len(self.mean) == len(self.std) == 3
            and all(isinstance(number, (int, float)) and abs(number) <= _LARGEST for number in numbers)
            and min(self.std) >= 1 / _LARGEST
            and isinstance(self.gray, bool)
        )

    def metadata(self) -> dict[str, Any]:
        """The fields for `save_weights`."""
        return dataclasses.asdict(self)

    def colourless(self, images: torch.Tensor, modality: Modality) -> torch.Tensor:
        """Normalised (B, 3, H, W) images: visible ones in grey if `gray`, all others as they are.

        The luma of ITU-R BT.601 of the pixels takes the place of every channel, not rounded to a grey level.
        """
        if not self.gray or modality is not Modality.VISIBLE:
            return images
        # By channel with plain numbers: constants on the device would have to be sent there at every call.
        scales = tuple(zip(self.mean, self.std, strict=True))
        channels = zip(LUMA, scales, images.unbind(1), strict=True)
        luma = sum(weight * (channel * std + mean) for weight, (mean, std), channel in channels)
        gray = torch.stack([(luma - mean) / std for mean, std in scales], dim=1)
        return gray.contiguous(memory_format=torch.channels_last)


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

    Training records `trained_on`, all that the weights have seen. Where no split is given, the test half of the last
    numbered trial of this very data set among that is meant, and else the split that the data set is evaluated on.
    """
    training = tuple(Split(known["dataset"], known["split"]) for known in metadata.get("trained_on", ()))
    origin = Origin(feature, flip, Split(dataset, split), training)
    if split is not None:
        return origin
    seen = origin.trials_seen
    split = f"test_{seen[-1].trial}" if seen else find_dataset(dataset).evaluated
    return dataclasses.replace(origin, images=Split(dataset, split))


@torch.inference_mode()
def extract_features(
    model: torch.nn.Module,
    samples: Sequence[Sample],
    preprocessing: Preprocessing,
    batch_size: int = 128,
    device: torch.device | str = "cpu",
    threads: int = 2,
    origin: Origin | None = None,
) -> Features:
    """Features of all samples, each through the stem of its modality.

    Which images share a batch, and how many threads compute, changes no more than the order of sums: on the CPU a
    feature moves by less than 3e-5 of its length.

    Args:
        model: a DualPathNetwork.
        samples: N images, in the order of their data set, which numbers them (`image_numbers`).
        preprocessing: what the network is fed.
        origin: says whether the features are taken before or after the BNNeck, and whether an image's and its
            mirror image's are averaged; the default is after, and not.

    Returns:
        Features in the order of the samples, float32 (N, D).
    """
    origin = origin or Origin(AFTER_NECK, flip=False)
    rows: dict[int, np.ndarray] = {}
    with progress_bar("features", len(samples)) as advance:
        for indices, images, modality in _shown(model, samples, preprocessing, batch_size, device, threads):
            rows.update(zip(indices, _look(model, images, modality, origin).float().cpu().numpy(), strict=True))
            advance(len(indices))
    return described(samples, np.stack([rows[i] for i in range(len(samples))]), origin)


def described(samples: Sequence[Sample], features: np.ndarray, origin: Origin) -> Features:
    """(N, D) features of N samples with what is known of these; each went through the stem of its modality."""
    modality = np.array([sample.modality.value for sample in samples])
    return Features(
        features=features,
        identity=np.array([sample.identity for sample in samples]),
        camera=np.array([sample.camera for sample in samples]),
        modality=modality,
        index=image_numbers(samples),
        paths=np.array([str(sample.path) for sample in samples]),
        stem=modality,
        origin=origin,
    )


@torch.inference_mode()
def slice_activations(
    model: torch.nn.Module,
    samples: Sequence[Sample],
    preprocessing: Preprocessing,
    batch_size: int = 128,
    device: torch.device | str = "cpu",
    threads: int = 2,
) -> tuple[np.ndarray, np.ndarray]:
    """How strongly the last map answers in each slice that FDR cuts.

    Args:
        model: a DualPathNetwork whose neck has slices.
        samples: N images.

    Returns:
        Root mean square over the channels of every slice's mean: (N, n_h) of the height's, (N, n_v) of the width's.
    """
    rows: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for indices, images, modality in _shown(model, samples, preprocessing, batch_size, device, threads):
        means = ops.slice_pool(model.last_map(images, modality), model.neck.slices)
        found = (side.float().square().mean(1).sqrt().cpu().numpy() for side in means)
        rows.update(zip(indices, zip(*found, strict=True), strict=True))
    of_height, of_width = zip(*(rows[i] for i in range(len(samples))), strict=True)
    return np.stack(of_height), np.stack(of_width)


def image_numbers(samples: Sequence[Sample]) -> np.ndarray:
    """(N,) number of every image, from 1, within its modality, camera and identity, in the order of the samples."""
    numbers = np.empty(len(samples), dtype=np.int64)
    seen: Counter = Counter()
    for i, sample in enumerate(samples):
        cell = (sample.modality, sample.camera, sample.identity)
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


def _shown(model, samples, preprocessing, batch_size, device, threads):
    """Make the model ready; yield (positions in the samples, images as they are fed to it, their modality)."""
    device = torch.device(device)
    model.to(device, memory_format=torch.channels_last).eval()
    for modality in Modality:
        positions = [i for i, sample in enumerate(samples) if sample.modality is modality]
        if not positions:
            continue
        chosen = [samples[i] for i in positions]
        order = SequentialSampler(chosen, batch_size)
        pipeline = ImagePipeline(
            (Stream(chosen, order.batch, views=(None,)),),
            size=preprocessing.size,
            steps=order.steps_per_epoch,
            device=device.type,
            threads=threads,
            mean=preprocessing.mean,
            std=preprocessing.std,
        )
        with pipeline as batches:
            for batch in batches:
                images = batch.images[0][0].to(device, memory_format=torch.channels_last)
                yield [positions[i] for i in batch.indices[0]], preprocessing.colourless(images, modality), modality
