"""How far an exported network is from the one it was exported from: numbers, and what they do to retrieval."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ..data import Modality, Sample
from ..evaluation import Features, Origin, Protocol, Result, evaluate
from ..inference import extract_features
from ..models import DualPathNetwork
from .runtimes import Exported, Pair, load_exported

HEAD = ("files", "images", "max difference", "lowest cosine", "mean cosine", "rank-1", "change", "mAP", "change")
_NOISE_IMAGES = 16


class Parity(NamedTuple):
    """One network in one format and precision against the PyTorch network."""

    files: tuple[str, ...]
    images: str  # what was compared on
    max_difference: float  # of any number of any embedding, by the largest number of the expected ones
    lowest_cosine: float
    mean_cosine: float
    r1: float | None = None  # fractions of 1; None where no evaluation set was given, or a stem is missing
    r1_change: float | None = None
    mAP: float | None = None
    mAP_change: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {**self._asdict(), "files": list(self.files)}

    def cells(self) -> list[str]:
        scores = [
            "" if value is None else f"{100 * value:{sign}.2f}"
            for value, sign in zip(self[5:], ("", "+", "", "+"), strict=True)
        ]
        return [
            " + ".join(self.files),
            self.images,
            f"{self.max_difference:.1e}",
            f"{self.lowest_cosine:.6f}",
            f"{self.mean_cosine:.6f}",
            *scores,
        ]


def pairs(files: Sequence[Path], threads: int = 2) -> Iterator[tuple[list[Path], Pair]]:
    """The files by format and precision: the stems that complete each other together, "both" by itself."""
    groups: dict[tuple[bool, str], list[Exported]] = {}
    for file in files:
        network = load_exported(file, threads)
        whole = network.contract.stem == "both"
        groups.setdefault((whole, "".join(file.suffixes)), []).append(network)
    for networks in groups.values():
        yield [network.file for network in networks], Pair(networks)


def parity_on_noise(model: DualPathNetwork, files: Sequence[Path]) -> list[Parity]:
    """Compared on noise, which says that the arithmetic agrees and nothing about retrieval."""
    rows = []
    for names, pair in pairs(files):
        expected, found = zip(*(_on_noise(model, pair, modality) for modality in pair.modalities), strict=True)
        rows.append(
            _row(names, f"{len(expected) * _NOISE_IMAGES} of noise", np.concatenate(expected), np.concatenate(found))
        )
    return rows


def parity_on_images(
    model: DualPathNetwork,
    files: Sequence[Path],
    samples: Sequence[Sample],
    protocol: Protocol,
    origin: Origin,
) -> tuple[list[Parity], Result]:
    """Compared on the images of an evaluation set; by rank-1 and mAP too where all its modalities have a stem.

    Returns:
        The rows, and the result of the PyTorch network.

    Raises:
        InputError: the samples do not hold what the protocol needs.
    """
    grouped = list(pairs(files))
    preprocessing = grouped[0][1].preprocessing
    expected = extract_features(model, samples, preprocessing, origin=origin)
    result = evaluate(expected, protocol)
    rows = []
    for names, pair in grouped:
        chosen = [i for i, sample in enumerate(samples) if sample.modality in pair.modalities]
        if not chosen:
            continue
        found = extract_features(pair, [samples[i] for i in chosen], preprocessing, origin=origin)
        row = _row(names, str(len(chosen)), expected.features[chosen], found.features)
        rows.append(_scored(row, found, result, protocol) if len(chosen) == len(samples) else row)
    return rows, result


@torch.inference_mode()
def _on_noise(model: DualPathNetwork, pair: Pair, modality: Modality) -> tuple[np.ndarray, np.ndarray]:
    random = torch.Generator().manual_seed(0)
    images = torch.randn(_NOISE_IMAGES, 3, *pair.preprocessing.size, generator=random)
    return model.embed(images, modality).numpy(), pair.embed(images, modality).numpy()


def _row(names: Sequence[Path], images: str, expected: np.ndarray, found: np.ndarray) -> Parity:
    expected, found = expected.astype(np.float64), found.astype(np.float64)
    lengths = np.linalg.norm(expected, axis=1) * np.linalg.norm(found, axis=1)
    cosines = (expected * found).sum(1) / np.maximum(lengths, np.finfo(np.float64).tiny)
    difference = float(np.abs(expected - found).max() / np.abs(expected).max())
    return Parity(tuple(name.name for name in names), images, difference, float(cosines.min()), float(cosines.mean()))


def _scored(row: Parity, found: Features, expected: Result, protocol: Protocol) -> Parity:
    result = evaluate(found, protocol)
    return row._replace(
        r1=result.r1, r1_change=result.r1 - expected.r1, mAP=result.mAP, mAP_change=result.mAP - expected.mAP
    )
