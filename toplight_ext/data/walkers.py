"""Drawn walkers: the identities of the synthetic set.

An identity is its proportions, its kind of clothes and the pattern of each piece of clothing; these alone are
common to both modalities. In the visible image a piece has two colours of its own; in the infrared one a heat and a
contrast of its own, drawn independently, so that the infrared image is not the grey of the visible one and may
invert it.

Lengths are parts of a walker's image, 1 being its height; x to the right and y downwards from the centre.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

PATTERNS = ("plain", "rings", "stripes", "diagonal", "checks", "dots", "band")
CLOTHES = ("upper", "lower", "bag", "shoes", "hair")
SKIN = "skin"
_LOWER = ("trousers", "shorts", "skirt")
_HEADGEAR = ("short hair", "long hair", "cap")
_BAG = ("none", "none", "left", "right")
_SKIN_COLOUR = np.array((0.85, 0.66, 0.53))
_HAIR_COLOURS = np.array([(0.08, 0.06, 0.05), (0.3, 0.18, 0.1), (0.62, 0.46, 0.25), (0.5, 0.5, 0.5)])


@dataclass(frozen=True)
class Cloth:
    """One piece of clothing: its pattern, and how each modality shows it."""

    pattern: str
    period: float
    colours: np.ndarray  # (2, 3) in 0..1, of the pattern's two phases
    heat: float  # 0..1
    contrast: float  # heat of the second phase minus that of the first


@dataclass(frozen=True)
class Walker:
    """An identity."""

    shoulder: float  # half width
    hip: float  # half width
    leg: float  # length
    head: float  # radius
    limb: float  # radius
    long_sleeves: bool
    lower: str
    headgear: str
    bag: str
    skin: np.ndarray  # (3,) in 0..1
    cloth: dict[str, Cloth]


@dataclass(frozen=True)
class Pose:
    """What changes from image to image."""

    shift: tuple[float, float]  # x, y
    scale: float
    stride: float  # half distance of the feet
    swing: float  # of the hands
    lean: float  # horizontal shear


class Shape(NamedTuple):
    """A part of a walker. `field(x, y)` gives the distance to it (negative inside) and the pattern's coordinates
    across and along it; nothing of it lies outside `box`."""

    name: str  # of a cloth, or SKIN
    box: tuple[float, float, float, float]  # left, top, right, bottom
    field: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]


def draw_walker(random: np.random.Generator) -> Walker:
    """A random identity."""
    return Walker(
        shoulder=random.uniform(0.07, 0.125),
        hip=random.uniform(0.055, 0.105),
        leg=random.uniform(0.34, 0.46),
        head=random.uniform(0.048, 0.062),
        limb=random.uniform(0.02, 0.038),
        long_sleeves=bool(random.random() < 0.5),
        lower=str(random.choice(_LOWER)),
        headgear=str(random.choice(_HEADGEAR)),
        bag=str(random.choice(_BAG)),
        skin=_SKIN_COLOUR * random.uniform(0.45, 1.05),
        cloth={name: _draw_cloth(name, random) for name in CLOTHES},
    )


def draw_pose(random: np.random.Generator) -> Pose:
    return Pose(
        shift=(random.uniform(-0.03, 0.03), random.uniform(-0.02, 0.02)),
        scale=random.uniform(0.9, 1.04),
        stride=random.uniform(-0.02, 0.07),
        swing=random.uniform(-0.06, 0.06),
        lean=random.uniform(-0.04, 0.04),
    )


def shapes(walker: Walker, pose: Pose) -> Iterator[Shape]:
    """The parts from back to front."""
    hips = 0.46 - walker.leg
    neck = -0.445 + 2 * walker.head
    chest = neck + 0.02
    yield from _legs(walker, pose, hips)
    yield from _arms(walker, pose, chest)
    yield _limb(SKIN, (0, neck - 0.02), (0, chest), walker.limb * 0.9)
    yield _slab("upper", 0, chest, hips + 0.03, walker.shoulder, walker.hip)
    if walker.lower == "skirt":
        yield _slab("lower", 0, hips, hips + 0.2, walker.hip, walker.hip + 0.045)
    yield from _head(walker, neck - walker.head - 0.012)
    if walker.bag != "none":
        side = -1 if walker.bag == "left" else 1
        yield _limb("bag", (-side * walker.shoulder * 0.8, chest), (side * walker.hip, hips), 0.008)
        yield _slab("bag", side * (walker.hip + 0.02), hips - 0.04, hips + 0.08, 0.045, 0.05)


def _draw_cloth(name: str, random: np.random.Generator) -> Cloth:
    patterned = name in ("upper", "lower") or (name == "bag" and random.random() < 0.5)
    colours = np.stack([random.uniform(0.03, 0.4, 3), random.uniform(0.35, 0.95, 3)])
    if name == "hair":
        colours = np.tile(random.choice(_HAIR_COLOURS) * random.uniform(0.7, 1.2), (2, 1))
    return Cloth(
        pattern=str(random.choice(PATTERNS)) if patterned else "plain",
        period=random.uniform(0.06, 0.13),
        colours=colours if random.random() < 0.5 else colours[::-1],
        heat=random.uniform(0.4, 0.75),
        contrast=random.uniform(0.25, 0.45) * random.choice((-1.0, 1.0)),
    )


def _legs(w: Walker, pose: Pose, hips: float) -> Iterator[Shape]:
    for side in (-1, 1):
        hip = (side * w.hip * 0.5, hips)
        foot = (side * (w.hip * 0.5 + 0.012 + pose.stride), 0.43)
        knee = ((hip[0] + foot[0]) / 2, (hip[1] + foot[1]) / 2)
        yield _limb("lower" if w.lower == "trousers" else SKIN, knee, foot, w.limb * 1.05)
        yield _limb(SKIN if w.lower == "skirt" else "lower", hip, knee, w.limb * 1.35)
        yield _limb("shoes", foot, (foot[0] + 0.02 * side, 0.45), w.limb * 0.95)


def _arms(w: Walker, pose: Pose, chest: float) -> Iterator[Shape]:
    for side in (-1, 1):
        shoulder = (side * (w.shoulder - w.limb / 2), chest + 0.02)
        elbow = (side * (w.shoulder + 0.03 + pose.swing / 2), chest + 0.15)
        hand = (side * (w.shoulder + 0.025) + pose.swing, chest + 0.28)
        yield _limb(SKIN, hand, hand, w.limb * 0.8)
        yield _limb("upper" if w.long_sleeves else SKIN, elbow, hand, w.limb * 0.8)
        yield _limb("upper", shoulder, elbow, w.limb)


def _head(w: Walker, centre: float) -> Iterator[Shape]:
    yield _dome(SKIN, centre, w.head, cut=2 * w.head)
    if w.headgear == "cap":
        yield _dome("hair", centre, w.head * 1.08, cut=-0.15 * w.head)
        yield _slab("hair", 0, centre - 0.3 * w.head, centre - 0.08 * w.head, 1.5 * w.head, 1.5 * w.head)
        return
    yield _dome("hair", centre, w.head * 1.08, cut=-0.45 * w.head)
    if w.headgear == "long hair":
        for side in (-1, 1):
            yield _slab("hair", side * w.head, centre - 0.7 * w.head, centre + 1.7 * w.head, 0.012, 0.02)


def _limb(name: str, start: tuple[float, float], end: tuple[float, float], radius: float) -> Shape:
    """A line with round ends."""
    (x0, y0), (x1, y1) = start, end
    length = float(np.hypot(x1 - x0, y1 - y0))
    dx, dy = ((x1 - x0) / length, (y1 - y0) / length) if length else (0.0, 1.0)

    def field(x, y):
        along = (x - x0) * dx + (y - y0) * dy
        across = (x - x0) * dy - (y - y0) * dx
        return np.hypot(across, along - np.clip(along, 0, length)) - radius, across, along + y0

    return Shape(name, (min(x0, x1) - radius, min(y0, y1) - radius, max(x0, x1) + radius, max(y0, y1) + radius), field)


def _slab(name: str, centre: float, top: float, bottom: float, half_top: float, half_bottom: float) -> Shape:
    """A trapezoid with level top and bottom."""

    def field(x, y):
        half = half_top + (half_bottom - half_top) * np.clip((y - top) / (bottom - top), 0, 1)
        return np.maximum(np.abs(x - centre) - half, np.maximum(top - y, y - bottom)), x, y

    half = max(half_top, half_bottom)
    return Shape(name, (centre - half, top, centre + half, bottom), field)


def _dome(name: str, centre: float, radius: float, cut: float) -> Shape:
    """An upright ellipse, cut off `cut` below its centre."""

    def field(x, y):
        return np.maximum(np.hypot(x, (y - centre) / 1.15) - radius, y - centre - cut), x, y

    return Shape(name, (-radius, centre - 1.15 * radius, radius, centre + 1.15 * radius), field)
