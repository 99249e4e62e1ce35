"""Images that the tests of the data pipeline share, and one way to look at what the pipeline makes of them."""

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from toplight_ext.data import Generic, ImagePipeline, Modality, Sample, Stream
from toplight_ext.data import parameters as draw
from toplight_ext.data.pipeline import GREY_LEVELS
from toplight_ext.data.randomness import generator

pytest.importorskip("nvidia.dali")
Image = pytest.importorskip("PIL.Image")

SIZE = (64, 48)
SEED = 3
STILL = Generic((1, 1), (1, 1), 0, 0, 0, 0)


def smooth_image(seed: int, size: tuple[int, int]) -> np.ndarray:
    """Colours that vary over a few pixels, full range, uint8 (H, W, 3)."""
    noise = np.random.default_rng(seed).standard_normal((*size, 3))
    smooth = ndimage.gaussian_filter(noise, (2.5, 2.5, 0))
    return np.uint8(255 * (smooth - smooth.min()) / np.ptp(smooth))


def write_images(folder: Path) -> list[Sample]:
    """PNG images, smaller than, equal to and larger than the network's size."""
    sizes = [SIZE, (64, 48), (90, 50), (150, 120), (40, 30), (64, 100), (128, 96), (33, 77)]
    samples = []
    for i, size in enumerate(sizes):
        Image.fromarray(smooth_image(i, size)).save(folder / f"{i}.png")
        samples.append(Sample(folder / f"{i}.png", i, Modality.VISIBLE, 1))
    return samples


def pixels(sample: Sample) -> np.ndarray:
    return np.asarray(Image.open(sample.path).convert("RGB"))


def show(samples, *views, step=0, **options) -> list[np.ndarray]:
    """One batch of all samples: per view (N, H, W, 3) in grey levels."""
    stream = Stream(samples, lambda _: np.arange(len(samples)), views)
    with ImagePipeline([stream], SIZE, steps=1, seed=SEED, start_step=step, **GREY_LEVELS, **options) as batches:
        (batch,) = batches
    return [view.permute(0, 2, 3, 1).numpy() for view in batch.images[0]]


def factors(kind: str, ranges, count: int, *size):
    """What the pipeline draws for `show`."""
    return getattr(draw, f"draw_{kind}")(ranges, generator(SEED, kind, 0, 0, 0), count, *size)
