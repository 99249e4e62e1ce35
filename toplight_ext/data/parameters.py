"""From ranges to one set of operators per sample: windows, homographies, filter kernels, colour matrices, boxes.

Drawn factors and operators are kept apart, so that a test can apply the factors by another definition.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..colour import LUMA
from .augmentation import Augmentation, Colour, Erasing, Generic, Texture
from .randomness import generator

_GREY = np.tile(LUMA, (3, 1))
MID_GREY = 127.5

# Rows: luma, and the two chrominance axes of YIQ, in which hue is a rotation (FCC NTSC).
_RGB_TO_YIQ = np.array([LUMA, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)])
# Smoothing filter of Pillow's ImageEnhance.Sharpness, whose factor is 1 + strength.
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
_ERASING_ATTEMPTS = 10


class GenericFactors(NamedTuple):
    """Of B samples. Windows are (y, x) as parts of the image's height and width, and may lie outside [0, 1]."""

    start: np.ndarray  # (B, 2)
    end: np.ndarray  # (B, 2)
    flip: np.ndarray  # (B,) bool
    deform: np.ndarray  # (B,) bool
    corners: np.ndarray  # (B, 4, 2): shift (x, y) of top left, top right, bottom right, bottom left, as parts


class ColourFactors(NamedTuple):
    """Of B samples, applied in this order."""

    brightness: np.ndarray  # (B,) factor
    contrast: np.ndarray  # (B,) factor
    saturation: np.ndarray  # (B,) factor
    hue: np.ndarray  # (B,) degrees
    channels: np.ndarray  # (B, 3): output channel i is input channel channels[i]
    shift: np.ndarray  # (B, 3) grey levels


class TextureFactors(NamedTuple):
    """Of B samples, applied in this order, grey after the colour; radius 0 and strength 0 change nothing."""

    compress: np.ndarray  # (B,) bool
    quality: np.ndarray  # (B,) int32
    radius: np.ndarray  # (B,) pixels
    strength: np.ndarray  # (B,)
    gray: np.ndarray  # (B,) bool


class ErasingFactors(NamedTuple):
    """Of B samples."""

    boxes: np.ndarray  # (B, 4) pixels: top, left, bottom, right, the last two excluded; all 0: nothing is erased
    fill: np.ndarray  # (B, 3) grey levels


def draw_generic(ranges: Generic, random: np.random.Generator, count: int) -> GenericFactors:
    u = random.random((count, 14))
    area, ratio = _between(ranges.crop_scale, u[:, 0]), np.exp(_between(np.log(ranges.crop_ratio), u[:, 1]))
    extent = np.minimum(np.sqrt(np.stack([area / ratio, area * ratio], axis=1)), 1)
    start = u[:, 2:4] * (1 - extent + 2 * ranges.pad) - ranges.pad
    return GenericFactors(
        start=start,
        end=start + extent,
        flip=u[:, 4] < ranges.flip_probability,
        deform=(u[:, 5] < ranges.deform_probability) & (ranges.deform > 0),
        corners=(2 * u[:, 6:].reshape(count, 4, 2) - 1) * ranges.deform,
    )


def draw_colour(ranges: Colour, random: np.random.Generator, count: int) -> ColourFactors:
    u = random.random((count, 11))
    around_one = 1 + (2 * u[:, :3] - 1) * np.array([ranges.brightness, ranges.contrast, ranges.saturation])
    shuffled = (u[:, 4] < ranges.channel_shuffle)[:, None]
    channels = np.where(shuffled, u[:, 5:8].argsort(axis=1), np.arange(3))
    exchanged = (random.random(count) < ranges.channel_exchange)[:, None]
    return ColourFactors(
        *around_one.T,
        hue=(2 * u[:, 3] - 1) * ranges.hue,
        channels=np.where(exchanged, random.integers(3, size=(count, 1)), channels),
        shift=(2 * u[:, 8:] - 1) * ranges.rgb_shift * 255,
    )


def draw_texture(ranges: Texture, random: np.random.Generator, count: int) -> TextureFactors:
    u = random.random((count, 7))
    return TextureFactors(
        compress=u[:, 0] < ranges.jpeg_probability,
        quality=np.rint(_between(ranges.jpeg_quality, u[:, 1])).astype(np.int32),
        radius=np.where(u[:, 2] < ranges.defocus_probability, _between(ranges.defocus_radius, u[:, 3]), 0),
        strength=np.where(u[:, 4] < ranges.sharpen_probability, _between(ranges.sharpen_strength, u[:, 5]), 0),
        gray=u[:, 6] < ranges.gray_probability,
    )


def draw_erasing(ranges: Erasing, random: np.random.Generator, count: int, size: tuple[int, int]) -> ErasingFactors:
    """`size` is height and width in pixels."""
    u, attempts = random.random((count, 6)), random.random((count, _ERASING_ATTEMPTS, 2))
    area = _between(ranges.area, attempts[..., 0]) * size[0] * size[1]
    ratio = np.exp(_between(np.log(ranges.ratio), attempts[..., 1]))
    extents = np.rint(np.sqrt(np.stack([area * ratio, area / ratio], axis=-1))).astype(int)
    fits = (extents < size).all(axis=2)
    extent = extents[np.arange(count), fits.argmax(axis=1)]
    start = (u[:, 1:3] * (np.array(size) - extent + 1)).astype(int)
    chosen = (u[:, 0] < ranges.probability) & fits.any(axis=1)
    boxes = np.concatenate([start, start + extent], axis=1)
    return ErasingFactors(boxes=np.where(chosen[:, None], boxes, 0), fill=u[:, 3:] * 255)


def homographies(corners: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(B, 3, 3) maps from output to input positions that send each corner to its shifted place.

    Positions are in pixels from the outer edge of the first pixel; `size` is height and width.
    """
    height, width = size
    target = np.array([(0, 0), (width, 0), (width, height), (0, height)], dtype=np.float64)
    source = target + corners * (width, height)
    # x' = (a x + b y + c) / (g x + h y + 1), y' = (d x + e y + f) / (...): two equations per corner.
    system = np.zeros((len(corners), 8, 8))
    system[:, :4, 0:2] = system[:, 4:, 3:5] = target
    system[:, :4, 2] = system[:, 4:, 5] = 1
    system[:, :4, 6:] = -source[:, :, :1] * target
    system[:, 4:, 6:] = -source[:, :, 1:] * target
    right = np.concatenate([source[:, :, 0], source[:, :, 1]], axis=1)
    solution = np.linalg.solve(system, right[:, :, None])[:, :, 0]
    return np.concatenate([solution, np.ones((len(corners), 1))], axis=1).reshape(-1, 3, 3)


def window_maps(start: np.ndarray, end: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(B, 3, 3) maps (x, y, 1) from output pixels, as in `homographies`, to parts of the image's width and height."""
    maps = np.zeros((len(start), 3, 3))
    maps[:, [0, 1], [0, 1]] = ((end - start) / size)[:, ::-1]
    maps[:, :2, 2] = start[:, ::-1]
    maps[:, 2, 2] = 1
    return maps


def colour_matrices(factors: ColourFactors) -> np.ndarray:
    """(B, 3, 4): jitter, channel shuffle and shift as one affine map of an (R, G, B) pixel in 0..255."""
    count = len(factors.hue)
    gain = factors.brightness * factors.contrast
    saturate = _scaled(factors.saturation, np.eye(3)) + _scaled(1 - factors.saturation, _GREY)
    angle = np.deg2rad(factors.hue)
    turn = np.tile(np.eye(3), (count, 1, 1))
    turn[:, 1, 1] = turn[:, 2, 2] = np.cos(angle)
    turn[:, 1, 2], turn[:, 2, 1] = -np.sin(angle), np.sin(angle)
    mix = np.linalg.inv(_RGB_TO_YIQ) @ turn @ _RGB_TO_YIQ @ saturate
    offset = mix.sum(axis=2) * ((1 - factors.contrast) * MID_GREY)[:, None]
    affine = np.concatenate([mix * gain[:, None, None], offset[:, :, None]], axis=2)
    affine = np.take_along_axis(affine, factors.channels[:, :, None], axis=1)
    affine[:, :, 3] += factors.shift
    return affine


def greyed(matrices: np.ndarray, gray: np.ndarray) -> np.ndarray:
    """The affine maps (B, 3, 4), followed by the luma of their result in all three channels where `gray` is set."""
    return np.where(gray[:, None, None], _GREY @ matrices, matrices)


def filter_kernel(radius: float, strength: float) -> np.ndarray:
    """Defocus by a disc of `radius` pixels, then sharpening, as one odd square kernel of sum 1."""
    disc = defocus_kernel(radius)
    if strength == 0:
        return disc
    # Sharpening of the disc, grown by the one pixel the smoothing filter reaches.
    grown = np.pad(disc, 2)
    n = len(disc) + 2
    smooth = sum(_SMOOTH[i, j] * grown[i : i + n, j : j + n] for i in range(3) for j in range(3))
    return (1 + strength) * np.pad(disc, 1) - strength * smooth


def defocus_kernel(radius: float) -> np.ndarray:
    """A disc whose rim falls off linearly over one pixel; radius <= 1/2 is a single pixel."""
    reach = max(int(np.ceil(radius - 0.5)), 0)
    offset = np.arange(-reach, reach + 1)
    disc = np.clip(radius + 0.5 - np.hypot(offset[:, None], offset), 0, 1) if reach else np.ones((1, 1))
    return disc / disc.sum()


def stream_fields(views: tuple[Augmentation | None, ...], share_geometry: bool) -> list[tuple[str, ...]]:
    """Names of the arguments that each view's DALI operators need, in a fixed order; view 0 has a shared geometry's."""
    return [_view_fields(view, geometry=i == 0 or not share_geometry) for i, view in enumerate(views)]


def _view_fields(view: Augmentation | None, geometry: bool) -> tuple[str, ...]:
    if view is None:
        return ()
    names = ["start", "end", "placement"] if geometry else []
    if geometry and view.generic.deform > 0:
        names += ["deform", "homography"]  # of a window that shrinks; in "placement" otherwise
    if view.texture is not None:
        names += ["compress", "quality", "kernel"]
    return tuple(names)


def view_arguments(
    view: Augmentation, mirrored: np.ndarray, size: tuple[int, int], seed: int, place: tuple[int, int, int]
) -> dict[str, np.ndarray | list[np.ndarray]]:
    """Operator arguments by name of samples that are (B,) mirrored or not, at `place` = (step, stream, view).

    Those that `stream_fields` names are for DALI, "matrix", "boxes" and "fill" for `pixelwise.finish`.
    """
    count = len(mirrored)
    generic = draw_generic(view.generic, generator(seed, "generic", *place), count)
    start, end = generic.start.copy(), generic.end.copy()
    # A window whose end lies before its start is read backwards: that is the flip.
    flip = generic.flip != mirrored
    start[flip, 1], end[flip, 1] = generic.end[flip, 1], generic.start[flip, 1]
    arguments = {"start": start, "end": end, "placement": window_maps(start, end, size)}
    if view.generic.deform > 0:
        moved = homographies(generic.corners, size)
        arguments |= {"deform": generic.deform, "homography": moved}
        arguments["placement"] @= np.where(generic.deform[:, None, None], moved, np.eye(3))
    if view.colour is not None:
        arguments["matrix"] = colour_matrices(draw_colour(view.colour, generator(seed, "colour", *place), count))
    if view.texture is not None:
        texture = draw_texture(view.texture, generator(seed, "texture", *place), count)
        arguments |= {"compress": texture.compress, "quality": texture.quality}
        arguments["kernel"] = [
            filter_kernel(r, s).astype(np.float32) for r, s in zip(texture.radius, texture.strength, strict=True)
        ]
        arguments["matrix"] = greyed(arguments.get("matrix", np.tile(np.eye(3, 4), (count, 1, 1))), texture.gray)
    if view.erasing is not None:
        erasing = draw_erasing(view.erasing, generator(seed, "erasing", *place), count, size)
        arguments["boxes"] = erasing.boxes
        if view.erasing.random_fill:
            arguments["fill"] = erasing.fill
    return {name: np.float32(value) if _is_float(value) else value for name, value in arguments.items()}


def _between(ends, u: np.ndarray) -> np.ndarray:
    low, high = ends
    return low + (high - low) * u


def _scaled(factors: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return factors[:, None, None] * matrix


def _is_float(value) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == np.float64
