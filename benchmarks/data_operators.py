"""What single operators cost, and other forms of the colour map that were weighed."""

from __future__ import annotations

import io
import itertools
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from nvidia.dali import Pipeline, fn, types
from PIL import Image

from toplight_ext.data import IMAGENET_MEAN, IMAGENET_STD, Colour
from toplight_ext.data import parameters as draw
from toplight_ext.data.pixelwise import finish
from toplight_ext.data.randomness import generator

COLUMNS = ["operator", "by", "cores", "us_per_image"]
REPEATS = 11


def _dali_operators(size: tuple[int, int]) -> dict[str, Callable]:
    """Name -> operator of (image, matrices, kernels) of the network's size."""
    homography = [1, 0.01, 0, 0, 1.02, 0, 0, 1e-4, 1]
    box = {"anchor": [50, 20], "shape": [size[0] // 2, size[1] // 3], "axis_names": "HW"}
    normalise = {
        "dtype": types.FLOAT,
        "output_layout": "CHW",
        "mean": [255 * value for value in IMAGENET_MEAN],
        "std": [255 * value for value in IMAGENET_STD],
    }
    return {
        "nothing": lambda image, matrix, kernel: image,
        "flip": lambda image, matrix, kernel: fn.flip(image),
        "window, flip, deform: warp_perspective": lambda image, matrix, kernel: fn.experimental.warp_perspective(
            image, matrix=homography, border_mode="replicate"
        ),
        "jpeg": lambda image, matrix, kernel: fn.jpeg_compression_distortion(image, quality=35),
        "filter, 5 x 5": lambda image, matrix, kernel: fn.filter(image, kernel),
        "filter, 1 x 1": lambda image, matrix, kernel: fn.filter(image, np.ones((1, 1), np.float32)),
        "colour map: coord_transform to uint8": lambda image, matrix, kernel: fn.coord_transform(
            image, MT=matrix, dtype=types.UINT8
        ),
        "colour map: coord_transform to float": lambda image, matrix, kernel: fn.coord_transform(image, MT=matrix),
        "colour map without shuffle: color_twist": lambda image, matrix, kernel: fn.color_twist(
            image, brightness=1.2, contrast=0.9, saturation=1.3, hue=20.0
        ),
        "colour map: arithmetic": lambda image, matrix, kernel: (
            (image[:, :, 0:1] * matrix[:, 0] + image[:, :, 1:2] * matrix[:, 1] + image[:, :, 2:3] * matrix[:, 2])
            + matrix[:, 3]
        ),
        "grey (color_space_conversion twice)": lambda image, matrix, kernel: fn.color_space_conversion(
            fn.color_space_conversion(image, image_type=types.RGB, output_type=types.GRAY),
            image_type=types.GRAY,
            output_type=types.RGB,
        ),
        "erase": lambda image, matrix, kernel: fn.erase(image, fill_value=[1, 2, 3], **box),
        "normalise": lambda image, matrix, kernel: fn.crop_mirror_normalize(image, **normalise),
        "normalise, then erase": lambda image, matrix, kernel: fn.erase(
            fn.crop_mirror_normalize(image, **normalise), fill_value=[1, 2, 3], **box
        ),
    }


def _operator_run(operator: Callable, images: list[np.ndarray], matrices: list, cores: int) -> Callable[[], object]:
    kernels = [np.full((5, 5), 1 / 25, np.float32)] * len(images)
    pipeline = Pipeline(len(images), cores, None, prefetch_queue_depth=1, exec_dynamic=True)
    with pipeline:
        matrix, kernel = (fn.external_source(source=itertools.repeat(x), batch=True) for x in (matrices, kernels))
        image = fn.external_source(source=lambda _: images, batch=True, layout="HWC", no_copy=True)
        pipeline.set_outputs(operator(image, matrix, kernel))
    pipeline.build()
    return pipeline.run


def _encoded(image: np.ndarray) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=90)
    return np.frombuffer(stream.getvalue(), np.uint8)


def _source_run(images: list[np.ndarray], size: tuple[int, int], encode: bool, cores: int) -> Callable[[], object]:
    """Decoding files of the source size, or resizing from it."""
    if encode:
        encoded = [_encoded(image) for image in images]
    pipeline = Pipeline(len(images), cores, None, prefetch_queue_depth=1, exec_dynamic=True)
    with pipeline:
        if encode:
            image = fn.decoders.image(fn.external_source(source=lambda _: encoded, batch=True))
        else:
            image = fn.external_source(source=lambda _: images, batch=True, layout="HWC", no_copy=True)
            image = fn.resize(image, size=size, roi_start=[0.1, 0.1], roi_end=[0.9, 0.9], roi_relative=True)
        pipeline.set_outputs(image)
    pipeline.build()
    return pipeline.run


def time_operators(sources: list[np.ndarray], size: tuple[int, int], cores: int) -> Iterator[dict]:
    """Microseconds per image of each operator, medians of runs in turn; `sources` are images of the source size."""
    count = len(sources)
    images = [np.ascontiguousarray(np.resize(image, (*size, 3))) for image in sources]
    matrices = np.float32(draw.colour_matrices(draw.draw_colour(Colour(), generator(0, "colour", 0), count)))
    runs = {
        ("decode", "DALI"): _source_run(sources, size, True, cores),
        ("window: resize, triangle filter", "DALI"): _source_run(sources, size, False, cores),
    }
    for name, operator in _dali_operators(size).items():
        runs[name, "DALI"] = _operator_run(operator, images, list(matrices), cores)
    batch = torch.from_numpy(np.stack(images))
    planar = batch.permute(0, 3, 1, 2).float().contiguous().flatten(2)
    matrix = torch.from_numpy(matrices)
    boxes = np.tile([50, 20, 50 + size[0] // 2, 20 + size[1] // 3], (count, 1))
    statistics_ = (IMAGENET_MEAN, IMAGENET_STD)
    runs |= {
        ("colour map: baddbmm of planes", "torch"): lambda: torch.baddbmm(matrix[:, :, 3:], matrix[:, :, :3], planar),
        ("colour map: matmul of pixels", "torch"): lambda: batch.flatten(1, 2).float() @ matrix[:, :, :3].mT,
        ("finish: normalise", "torch"): lambda: finish(batch, {}, *statistics_),
        ("finish: colour, normalise", "torch"): lambda: finish(batch, {"matrix": matrices}, *statistics_),
        ("finish: colour, erase, normalise", "torch"): lambda: finish(
            batch, {"matrix": matrices, "boxes": boxes}, *statistics_
        ),
    }
    seconds: dict = {key: [] for key in runs}
    for _ in range(REPEATS):
        for key, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[key].append(time.perf_counter() - start)
    for (name, by), values in seconds.items():
        yield {"operator": name, "by": by, "cores": cores, "us_per_image": statistics.median(values) / count * 1e6}
