"""The paper's generic, colour and texture augmentations, and random erasing: their ranges.

The paper names its nine operations; order, ranges and definitions are our choice. Order: window and flip, deform;
JPEG, defocus, sharpen; colour and grey; erasing. Pixels are 0..255 throughout: what looks at neighbours rounds and
clamps to that range at its end, the one affine map of colour and grey clamps only. A parameter is a function of
(seed, step, position in the batch) alone; nothing random happens in what applies it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import ClassVar

from ..errors import InputError

Limits = dict[str, tuple[float, float]]


class _Checked:
    """Checks fields of the dataclass by its `_LIMITS`: name -> smallest and largest value, ends included."""

    _LIMITS: ClassVar[Limits]

    def __post_init__(self) -> None:
        for name in (given.name for given in fields(self)):
            low, high = self._LIMITS[name]
            value = getattr(self, name)
            ends = value if isinstance(value, (tuple, list)) else (value,)
            if not all(low <= end <= high for end in ends) or list(ends) != sorted(ends):
                kind = "two rising numbers" if len(ends) == 2 else "a number"
                raise InputError(
                    f"{type(self).__name__.lower()}.{name} = {value!r}: expected {kind} from {low} to {high}"
                )


@dataclass(frozen=True)
class Generic(_Checked):
    """Crop, deform, flip: where the pixels come from.

    crop_scale: range of the window's area as a part of the image's.
    crop_ratio: range of the window's width-to-height ratio as a multiple of the image's, drawn on a log scale;
        a window that would be larger than the image is cut to it.
    pad: how far the window may leave the image, as a part of its height and width; edge pixels are repeated there.
    deform: largest shift of a corner in the perspective deformation, as a part of height and width.
    """

    crop_scale: tuple[float, float] = (0.7, 1.0)
    crop_ratio: tuple[float, float] = (0.8, 1.25)
    pad: float = 0.0
    deform_probability: float = 0.5
    deform: float = 0.1
    flip_probability: float = 0.5

    _LIMITS: ClassVar[Limits] = {
        "crop_scale": (0.01, 1.0),
        "crop_ratio": (0.1, 10.0),
        "pad": (0.0, 1.0),
        "deform_probability": (0.0, 1.0),
        "deform": (0.0, 0.24),  # from 1/4 on the four corners need not be convex
        "flip_probability": (0.0, 1.0),
    }


@dataclass(frozen=True)
class Colour(_Checked):
    """Jitter, channel shuffle, RGB shift, channel exchange: one affine map of a pixel's red, green and blue.

    brightness, contrast, saturation: b draws a factor from [1 - b, 1 + b]; contrast is about mid-grey.
    hue: largest rotation about the grey axis in degrees.
    channel_shuffle: probability of a random permutation of the channels (one in six of them is the identity).
    rgb_shift: largest value added to a channel, each its own, as a part of the range.
    channel_exchange: probability that one channel, drawn at random, takes the place of all three: the channel
        augmentation of Ye et al. (ICCV 2021), "CA" in the paper's tables. Not part of the paper's own augmentations.
    """

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 30.0
    channel_shuffle: float = 0.5
    rgb_shift: float = 0.1
    channel_exchange: float = 0.0

    _LIMITS: ClassVar[Limits] = {
        "brightness": (0.0, 1.0),
        "contrast": (0.0, 1.0),
        "saturation": (0.0, 1.0),
        "hue": (0.0, 180.0),
        "channel_shuffle": (0.0, 1.0),
        "rgb_shift": (0.0, 1.0),
        "channel_exchange": (0.0, 1.0),
    }


@dataclass(frozen=True)
class Texture(_Checked):
    """JPEG compression, defocus, sharpen, grey.

    jpeg_quality: range of the quality, 1 (worst) to 100.
    defocus_radius: range of the disc's radius in pixels of the network's input.
    sharpen_strength: range; 0 changes nothing, 1 doubles the distance to the smoothed image.
    """

    jpeg_probability: float = 0.5
    jpeg_quality: tuple[float, float] = (10.0, 60.0)
    defocus_probability: float = 0.3
    defocus_radius: tuple[float, float] = (0.7, 2.5)
    sharpen_probability: float = 0.3
    sharpen_strength: tuple[float, float] = (0.5, 3.0)
    gray_probability: float = 0.5

    _LIMITS: ClassVar[Limits] = {
        "jpeg_probability": (0.0, 1.0),
        "jpeg_quality": (1.0, 100.0),
        "defocus_probability": (0.0, 1.0),
        "defocus_radius": (0.0, 15.0),
        "sharpen_probability": (0.0, 1.0),
        "sharpen_strength": (0.0, 10.0),
        "gray_probability": (0.0, 1.0),
    }


@dataclass(frozen=True)
class Erasing(_Checked):
    """Random erasing (Zhong et al., AAAI 2020, whose ranges are the defaults): a rectangle loses its content.

    area: range of the rectangle's area as a part of the image's.
    ratio: range of its height-to-width ratio, drawn on a log scale. A rectangle that the image cannot hold is drawn
        again, ten times at most.
    random_fill: each channel is filled with a random value of its own, after the channel random erasing of Ye et
        al. (ICCV 2021), whose three values are constants; otherwise with the mean, which the network sees as 0.
    """

    probability: float = 0.5
    area: tuple[float, float] = (0.02, 0.4)
    ratio: tuple[float, float] = (0.3, 3.33)
    random_fill: bool = False

    _LIMITS: ClassVar[Limits] = {
        "probability": (0.0, 1.0),
        "area": (0.0, 1.0),
        "ratio": (0.01, 100.0),
        "random_fill": (False, True),
    }


@dataclass(frozen=True)
class Augmentation:
    """What happens to one view of an image, in this order: always the generic part, the others where given.

    Where there is colour too, the grey of the texture comes after it.
    """

    generic: Generic = Generic()
    texture: Texture | None = field(default=None, kw_only=True)
    colour: Colour | None = field(default=None, kw_only=True)
    erasing: Erasing | None = field(default=None, kw_only=True)
