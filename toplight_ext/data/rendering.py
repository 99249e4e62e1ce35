"""Pixels of a walker before a random background, in either modality."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .walkers import SKIN, Cloth, Pose, Shape, Walker, shapes

_SKIN_HEAT = 0.88
_MIDDLE = 0.45  # heat that the infrared camera's gain leaves as it is


def render_visible(walker: Walker, pose: Pose, size: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """RGB image, uint8 (H, W, 3): two colours per cloth, light from one side, a colour cast, noise."""
    colours = _muted(random.uniform(0.15, 0.85, (3, 3)))
    image = _scene(size, colours, random)
    for name, phase, cover, window in _painted(walker, pose, size):
        if name == SKIN:
            colour = walker.skin
        else:
            first, second = walker.cloth[name].colours
            colour = first + (second - first) * phase[..., None]
        target = image[window]
        target += (colour - target) * cover[..., None]
    image *= (1 - 0.25 * np.clip((_plane(size)[0] - pose.shift[0]) / 0.12, -1, 1) * random.choice((-1, 1)))[..., None]
    light = random.uniform(0.7, 1.15) * random.uniform(0.92, 1.08, 3)
    return _to_bytes(image * light + _noise(random, image.shape, 0.02))


def render_infrared(walker: Walker, pose: Pose, size: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """Thermal image, uint8 (H, W): heat per cloth, warmer at the trunk, soft, with random gain and offset."""
    x, y = _plane(size)
    image = _scene(size, random.uniform(0.08, 0.4, (3, 1)), random)[..., 0]
    warmth = 0.1 * np.exp(-(((x - pose.shift[0]) / 0.09) ** 2) - ((y + 0.1) / 0.2) ** 2)
    for name, phase, cover, window in _painted(walker, pose, size):
        if name == SKIN:
            heat = _SKIN_HEAT
        else:
            cloth = walker.cloth[name]
            heat = cloth.heat + cloth.contrast * (phase - 0.5) + warmth[window]
        target = image[window]
        target += (heat - target) * cover
    image = (_blurred(image) - _MIDDLE) * random.uniform(0.8, 1.2) + _MIDDLE + random.uniform(-0.08, 0.08)
    return _to_bytes(image + _noise(random, image.shape, 0.02))


def _painted(
    walker: Walker, pose: Pose, size: tuple[int, int]
) -> Iterator[tuple[str, np.ndarray, np.ndarray, tuple[slice, slice]]]:
    """Per part: its name, the pattern's phase and the coverage (both 0..1) in a window of the image."""
    x, y = _plane(size)
    y = (y - pose.shift[1]) / pose.scale
    x = (x - pose.shift[0]) / pose.scale + pose.lean * y
    pixels = size[0] * pose.scale
    for shape in shapes(walker, pose):
        window = _window(shape, pose, size)
        distance, across, along = shape.field(x[window], y[window])
        cover = np.clip(0.5 - distance * pixels, 0, 1)
        cloth = walker.cloth.get(shape.name)
        phase = cover if cloth is None else _pattern(cloth, across, along, pixels)
        yield shape.name, phase, cover, window


def _window(shape: Shape, pose: Pose, size: tuple[int, int]) -> tuple[slice, slice]:
    """The pixels that a shape can reach, and one more on each side."""
    left, top, right, bottom = shape.box
    lean = abs(pose.lean) / 2  # the walker ends half a height from its centre
    spans = (
        (top, bottom, pose.shift[1], 0.5, size[0]),
        (left - lean, right + lean, pose.shift[0], size[1] / size[0] / 2, size[1]),
    )
    window = []
    for low, high, shift, origin, extent in spans:
        first, last = (((end * pose.scale + shift) + origin) * size[0] for end in (low, high))
        window.append(slice(int(np.clip(first - 1, 0, extent)), int(np.clip(last + 2, 0, extent))))
    return tuple(window)


def _pattern(cloth: Cloth, across: np.ndarray, along: np.ndarray, pixels: float) -> np.ndarray:
    """Phase of the pattern, 0..1, its edges softened over about a pixel."""
    turn = np.float32(2 * np.pi / cloth.period)
    slope = pixels / turn
    if cloth.pattern == "rings":
        value = np.sin(turn * along)
    elif cloth.pattern == "stripes":
        value = np.sin(turn * across)
    elif cloth.pattern == "diagonal":
        value = np.sin(turn * (across + along) / np.sqrt(2))
    elif cloth.pattern == "checks":
        value = np.sin(turn * across) * np.sin(turn * along)
    elif cloth.pattern == "dots":
        value = np.cos(turn * across) + np.cos(turn * along) - 0.7
    elif cloth.pattern == "band":
        value = turn * (cloth.period * 0.6 - np.abs((along + 0.15) % 0.3 - 0.15))
    else:
        return np.zeros_like(across)
    return np.clip(0.5 + slope * value, 0, 1)


def _scene(size: tuple[int, int], colours: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Background (H, W, C) of three colours: a wall over a ground, blocks before it, and a slow change of light."""
    x, y = _plane(size)
    wall, ground, block = colours.astype(np.float32)
    image = np.where((y > random.uniform(0.1, 0.35))[..., None], ground, wall)
    for _ in range(random.integers(1, 5)):
        left, top = random.uniform(-0.3, 0.25), random.uniform(-0.6, 0.3)
        width, height = random.uniform(0.01, 0.08), random.uniform(0.05, 0.5)
        image[(np.abs(x - left) < width) & (np.abs(y - top) < height)] = block * random.uniform(0.6, 1.4)
    angle, phase = random.uniform(0, 2 * np.pi, 2)
    wave = np.sin(random.uniform(3, 12) * (x * np.cos(angle) + y * np.sin(angle)) + phase)
    return image * (1 + 0.15 * wave)[..., None]


def _muted(colours: np.ndarray) -> np.ndarray:
    """Walls and grounds are greyer than clothes."""
    return 0.35 * colours + 0.65 * colours.mean(axis=-1, keepdims=True)


def _plane(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """x and y of the pixel centres, (H, W) float32 each."""
    height, width = size
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return (x + 0.5 - width / 2) / height, (y + 0.5) / height - 0.5


def _blurred(image: np.ndarray) -> np.ndarray:
    """Binomial 1-2-1 blur in both directions: the softness of a thermal camera."""
    p = np.pad(image, 1, mode="edge")
    p = p[:-2] + 2 * p[1:-1] + p[2:]
    return (p[:, :-2] + 2 * p[:, 1:-1] + p[:, 2:]) / 16


def _noise(random: np.random.Generator, shape: tuple[int, ...], scale: float) -> np.ndarray:
    return random.standard_normal(shape, dtype=np.float32) * np.float32(scale)


def _to_bytes(image: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
