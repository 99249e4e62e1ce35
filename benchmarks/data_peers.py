"""The augmentations of one view by other means, on the factors that ours draws: what `data.py` measures against.

Both keep our order of operations, so that the images are comparable: window, flip, deform; JPEG, defocus, sharpen;
brightness, contrast, saturation, hue, channel shuffle, shift; grey; normalise.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torchvision
from nvidia.dali import Pipeline, fn, math, pipeline_def, types
from torchvision.transforms.v2 import functional

from toplight_ext.data import IMAGENET_MEAN, IMAGENET_STD, Augmentation, Sample
from toplight_ext.data import parameters as draw
from toplight_ext.data.randomness import generator


class Task(NamedTuple):
    """What every pipeline has to do: batches of `batch` images of equal `source` size, as `view` says.

    `cores` are threads of DALI or workers of the DataLoader; the device is that of our pipeline.
    """

    samples: list[Sample]
    view: Augmentation
    source: tuple[int, int]
    size: tuple[int, int]
    batch: int
    cores: int
    device: str
    seed: int = 1
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def indices(self, step: int) -> np.ndarray:
        return (step * self.batch + np.arange(self.batch)) % len(self.samples)

    def factors(self, step: int) -> dict[str, np.ndarray]:
        """By name, (B, ...): what ours draws for this step."""
        found = {}
        for kind in ("generic", "colour", "texture"):
            ranges = getattr(self.view, kind)
            if ranges is not None:
                random = generator(self.seed, kind, step, 0, 0)
                found |= getattr(draw, f"draw_{kind}")(ranges, random, self.batch)._asdict()
        return found


def naive_chain(task: Task, steps: int, resize_first: bool) -> Iterator[torch.Tensor]:
    """DALI, one operator per operation; either after the resize, or as it is often written, the resize at the end."""
    factors = [_operands(task, step, resize_first) for step in range(steps)]
    names = sorted(factors[0])

    def feed(step: int) -> tuple:
        if step >= steps:
            raise StopIteration
        encoded = [np.fromfile(task.samples[i].path, np.uint8) for i in task.indices(step)]
        return encoded, *(factors[step][name] for name in names)

    @pipeline_def(
        batch_size=task.batch, num_threads=task.cores, device_id=None, enable_conditionals=True, exec_dynamic=True
    )
    def graph():
        inputs = list(fn.external_source(source=feed, num_outputs=1 + len(names), batch=True))
        image = fn.decoders.image(inputs.pop(0))
        return _chain(image, {name: inputs.pop(0) for name in names}, task, resize_first)

    pipeline: Pipeline = graph()
    pipeline.build()
    for _ in range(steps):
        (images,) = pipeline.run()
        yield torch.from_dlpack(images.as_tensor())


def _operands(task: Task, step: int, resize_first: bool) -> dict:
    """The factors as DALI's operators take them."""
    given = task.factors(step)
    if resize_first:
        given["homography"] = draw.homographies(given.pop("corners"), task.size)
    else:
        windows = (given["end"] - given["start"]) * task.source
        pairs = zip(given.pop("corners"), windows, strict=True)
        given["homography"] = np.concatenate([draw.homographies(corners[None], size) for corners, size in pairs])
    if "radius" in given:
        given["disc"] = [np.float32(draw.defocus_kernel(radius)) for radius in given["radius"]]
        given["sharp"] = [np.float32(draw.filter_kernel(0, strength)) for strength in given["strength"]]
        given |= {"blurred": given.pop("radius") > 0, "sharpened": given.pop("strength") > 0}
    if "channels" in given:
        given["shuffled"] = (given["channels"] != np.arange(3)).any(axis=1)
        given |= {f"from{i}": np.int32(column) for i, column in enumerate(given.pop("channels").T)}
    floats = ("disc", "sharp")
    return {k: np.float32(v) if k not in floats and v.dtype == np.float64 else v for k, v in given.items()}


def _chain(image, given, task: Task, resize_first: bool):
    if resize_first:
        window = {"roi_start": given["start"], "roi_end": given["end"], "roi_relative": True}
        image = fn.resize(image, size=task.size, **window)
    else:
        image = fn.slice(image, rel_start=given["start"], rel_end=given["end"], axis_names="HW")
    image = fn.flip(image, horizontal=fn.cast(given["flip"], dtype=types.INT32))
    image = _deformed(image, given["deform"], given["homography"])
    if task.view.texture is not None:
        image = _compressed(image, given["compress"], given["quality"])
        image = _filtered(image, given["blurred"], given["disc"])
        image = _filtered(image, given["sharpened"], given["sharp"])
    if task.view.colour is not None:
        image = fn.brightness(image, brightness=given["brightness"])
        image = fn.contrast(image, contrast=given["contrast"], contrast_center=127.5)
        image = fn.saturation(image, saturation=given["saturation"])
        image = fn.hue(image, hue=given["hue"])
        image = _shuffled(image, given["shuffled"], [given[f"from{i}"] for i in range(3)])
        image = fn.cast(math.clamp(image + given["shift"], 0, 255), dtype=types.UINT8)
    if task.view.texture is not None:
        image = _greyed(image, given["gray"])
    if not resize_first:
        image = fn.resize(image, size=task.size)
    mean, std = ([255 * value for value in values] for values in (task.mean, task.std))
    return fn.crop_mirror_normalize(image, dtype=types.FLOAT, output_layout="CHW", mean=mean, std=std)


def _deformed(image, chosen, homography):
    if chosen:
        image = fn.experimental.warp_perspective(image, matrix=homography, border_mode="replicate")
    return image


def _compressed(image, chosen, quality):
    if chosen:
        image = fn.jpeg_compression_distortion(image, quality=quality)
    return image


def _filtered(image, chosen, kernel):
    if chosen:
        image = fn.filter(image, kernel)
    return image


def _shuffled(image, chosen, channels):
    if chosen:
        image = fn.stack(*[image[:, :, channel] for channel in channels], axis=2)
        image = fn.reshape(image, layout="HWC")
    return image


def _greyed(image, chosen):
    if chosen:
        image = fn.color_space_conversion(image, image_type=types.RGB, output_type=types.GRAY)
        image = fn.color_space_conversion(image, image_type=types.GRAY, output_type=types.RGB)
    return image


class TorchvisionImages(torch.utils.data.Dataset):
    """One image of one step at a time by torchvision.transforms.v2.functional, the operators after the resize.

    Where torchvision has no such operator: a Gaussian of the disc's standard deviation for the disc, its own contrast
    (about the image's mean) and hue (of HSV).
    """

    def __init__(self, task: Task, steps: int):
        self.task, self.factors = task, [task.factors(step) for step in range(steps)]

    def __len__(self) -> int:
        return len(self.factors) * self.task.batch

    def __getitem__(self, number: int) -> torch.Tensor:
        step, row = divmod(number, self.task.batch)
        given = {name: values[row] for name, values in self.factors[step].items()}
        path = self.task.samples[self.task.indices(step)[row]].path
        image = torchvision.io.decode_image(torchvision.io.read_file(str(path)))
        image = self._placed(image, given)
        if self.task.view.texture is not None:
            image = _textured(image, given)
        if self.task.view.colour is not None:
            image = _coloured(image, given)
        if self.task.view.texture is not None and given["gray"]:
            image = functional.rgb_to_grayscale(image, 3)
        image = functional.to_dtype(image, torch.float32, scale=True)
        return functional.normalize(image, self.task.mean, self.task.std)

    def _placed(self, image: torch.Tensor, given: dict) -> torch.Tensor:
        height, width = self.task.source
        (top, left), (bottom, right) = (np.rint(given[end] * (height, width)).astype(int) for end in ("start", "end"))
        image = functional.resized_crop(image, top, left, bottom - top, right - left, self.task.size)
        if given["flip"]:
            image = functional.horizontal_flip(image)
        if given["deform"]:
            height, width = self.task.size
            ends = np.array([(0, 0), (width - 1, 0), (width - 1, height - 1), (0, height - 1)])
            source = ends + given["corners"] * (width, height)
            image = functional.perspective(image, source.tolist(), ends.tolist(), fill=0)
        return image


def _textured(image: torch.Tensor, given: dict) -> torch.Tensor:
    if given["compress"]:
        image = functional.jpeg(image, int(given["quality"]))
    if given["radius"] > 0:
        reach = int(np.ceil(given["radius"]))
        image = functional.gaussian_blur(image, 2 * reach + 1, given["radius"] / 2)
    if given["strength"] > 0:
        image = functional.adjust_sharpness(image, 1 + given["strength"])
    return image


def _coloured(image: torch.Tensor, given: dict) -> torch.Tensor:
    image = functional.adjust_brightness(image, float(given["brightness"]))
    image = functional.adjust_contrast(image, float(given["contrast"]))
    image = functional.adjust_saturation(image, float(given["saturation"]))
    image = functional.adjust_hue(image, float(given["hue"] / 360))
    image = functional.permute_channels(image, given["channels"].tolist())
    shift = torch.from_numpy(given["shift"]).float()[:, None, None]
    return (image + shift).clamp_(0, 255).to(torch.uint8)


def torchvision_loader(task: Task, steps: int) -> torch.utils.data.DataLoader:
    return torch.utils.data.DataLoader(TorchvisionImages(task, steps), task.batch, num_workers=task.cores)
