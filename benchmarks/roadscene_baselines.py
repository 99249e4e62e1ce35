"""What needs no learning, on a visible-infrared set: chance, grey correlation and histograms of gradients.

A trained network has to be seen beside these. Every image is read as grey values of its own size, so all images
of the set must have the same size.

    python benchmarks/roadscene_baselines.py CROPS/dev [--protocol "infrared->visible"]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from toplight_ext import data, evaluation

CELL = 16  # pixels
BINS = 9


def chance(grey: np.ndarray) -> np.ndarray:
    """Features that know nothing."""
    return np.random.default_rng(0).standard_normal((len(grey), 64))


def correlation(grey: np.ndarray) -> np.ndarray:
    """Cosine of these is the normalised cross-correlation of the images."""
    flat = grey.reshape(len(grey), -1)
    return flat - flat.mean(1, keepdims=True)


def gradient_histograms(grey: np.ndarray) -> np.ndarray:
    """HOG (Dalal and Triggs, 2005): unsigned orientations weighted by magnitude, 2 x 2 cells normalised as a block."""
    dy, dx = np.gradient(grey, axis=(1, 2))
    magnitude, angle = np.hypot(dx, dy), np.arctan2(dy, dx) % np.pi
    position = angle / np.pi * BINS - 0.5
    low = np.floor(position).astype(int)
    share = position - low
    count, height, width = grey.shape
    rows, columns = height // CELL, width // CELL
    cells = np.zeros((count, rows, columns, BINS))
    for orientation in range(BINS):
        votes = magnitude * ((low % BINS == orientation) * (1 - share) + ((low + 1) % BINS == orientation) * share)
        votes = votes[:, : rows * CELL, : columns * CELL].reshape(count, rows, CELL, columns, CELL)
        cells[..., orientation] = votes.sum((2, 4))
    shifts = [cells[:, i : rows - 1 + i, j : columns - 1 + j] for i in (0, 1) for j in (0, 1)]
    blocks = np.concatenate(shifts, axis=-1)
    blocks /= np.linalg.norm(blocks, axis=-1, keepdims=True) + 1e-6
    return blocks.reshape(count, -1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder with manifest.csv")
    parser.add_argument("--protocol", default="infrared->visible")
    options = parser.parse_args()
    samples = data.load_dataset("csv", options.root)
    grey = np.stack([np.asarray(Image.open(sample.path).convert("L"), dtype=np.float64) for sample in samples])
    protocol = evaluation.parse_protocol("csv", options.protocol)
    for extract in (chance, correlation, gradient_histograms):
        features = evaluation.Features(
            features=extract(grey),
            identity=np.array([sample.identity for sample in samples]),
            camera=np.array([sample.camera for sample in samples]),
            modality=np.array([sample.modality.value for sample in samples]),
        )
        result = evaluation.evaluate(features, protocol)
        print(f"{extract.__name__:<22} rank-1 {result.r1:6.1%}  mAP {result.mAP:6.1%}  mINP {result.mINP:6.1%}")


if __name__ == "__main__":
    main()
