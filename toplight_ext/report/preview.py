"""A picture of what the network sees: images as they are stored, and on their way through the augmentations."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..data import Augmentation, ImagePipeline, Modality, Stream, as_stored
from ..errors import InputError
from ..extras import require
from ..files import replacing
from ..inference import Preprocessing
from .pictures import INK, MUTED, font
from .text import plain

_LINE = "#d1d9e0"
_AREA = 200 * 100  # of an image in the picture, in pixels
_PARTS = tuple(part.name for part in fields(Augmentation) if part.name != "generic")  # which a view always has


@dataclass(frozen=True)
class Panel:
    """A stage's part of the picture.

    names: of every view of every stream, as (("path 1", "path 2"),) or (("visible",), ("infrared",)).
    streams: what it trains on.
    preprocessing: what its network is fed.
    """

    title: str
    names: tuple[tuple[str, ...], ...]
    streams: tuple[Stream, ...]
    preprocessing: Preprocessing


class _Column(NamedTuple):
    group: str  # the name of the view; stands above all of its columns
    name: str
    images: np.ndarray  # uint8 (rows, H, W, 3)


def preview_picture(panels: Sequence[Panel], out: str | Path, seed: int = 0, rows: int = 6, threads: int = 2) -> Path:
    """Draw images of the first batch of every panel as a PNG, the panels side by side.

    The columns of a view are the raw image, the same after crop, deformation and flip ("generic"), and with each
    further part of its augmentation. The last of them is, to the nearest grey level, what the network is given in
    the first step of training with this seed.

    Args:
        rows: how many images of the batch, of different identities as far as there are.
        seed, threads: as of `ImagePipeline`.

    Raises:
        InputError: `rows` is less than 1, or as `ImagePipeline`.
        MissingExtra: DALI, Pillow or matplotlib is not installed.
    """
    if rows < 1:
        raise InputError(f"rows {rows}: expected at least 1")
    drawn = [(panel.title, *_look(panel, rows, seed, threads)) for panel in panels]
    with replacing(out) as temporary:
        _Sheet(drawn).image.save(temporary, "PNG", optimize=True)
    return Path(out)


def _look(panel: Panel, rows: int, seed: int, threads: int) -> tuple[list[str], list[_Column]]:
    """Names of the identities shown, and the panel's columns."""
    fed, first = panel.preprocessing, panel.streams[0]
    chosen = _identities_apart(first, rows)
    images = {
        name: _first_batch(streams, chosen, fed, seed, threads) for name, streams in _by_degrees(panel.streams).items()
    }
    columns = [
        _Column(group, name, _pixels(normalised, fed))
        for number in range(len(panel.streams))
        for group, name, normalised in _columns(panel, number, images)
    ]
    return [str(first.samples[i].identity) for i in first.indices(0)[chosen]], columns


def _identities_apart(stream: Stream, rows: int) -> np.ndarray:
    """Positions in the first batch: the first image of every identity, then the others, as many as rows."""
    identities = [stream.samples[i].identity for i in stream.indices(0)]
    again = [identity in identities[:place] for place, identity in enumerate(identities)]
    return np.sort(np.argsort(again, kind="stable")[:rows])


def _by_degrees(streams: Sequence[Stream]) -> dict[str, list[Stream]]:
    """The streams with images as they are stored, then with one part after the other of what their views do."""
    whole = {"views": (None,), "share_geometry": False}
    found = {"raw": [replace(stream, samples=as_stored(stream.samples), **whole) for stream in streams]}
    views = [view for stream in streams for view in stream.views]
    parts = [part for part in _PARTS if any(getattr(view, part) is not None for view in views)]
    for count, name in enumerate(("generic", *parts)):
        # Views lose what is yet to come and keep their places, to which the random parameters belong.
        later = dict.fromkeys(parts[count:])
        found[name] = [replace(s, views=tuple(replace(view, **later) for view in s.views)) for s in streams]
    return found


def _first_batch(
    streams: Sequence[Stream], chosen: np.ndarray, fed: Preprocessing, seed: int, threads: int
) -> list[list[Tensor]]:
    """[stream][view]: the chosen images of the first batch, normalised, (rows, 3, H, W)."""
    pipeline = ImagePipeline(streams, fed.size, 1, seed, threads=threads, mean=fed.mean, std=fed.std)
    with pipeline as batches:
        (batch,) = batches
    return [[view[chosen] for view in stream] for stream in batch.images]


def _columns(panel: Panel, number: int, images: dict[str, list[list[Tensor]]]) -> Iterator[tuple[str, str, Tensor]]:
    """Of one stream, the fields of `_Column`: the raw image once, the generic one once per geometry."""
    stream, names = panel.streams[number], panel.names[number]
    several = len(names) > 1
    shared = several and stream.share_geometry
    modality = stream.samples[stream.indices(0)[0]].modality
    yield "" if several else names[0], "raw", images["raw"][number][0]
    for i, (name, view) in enumerate(zip(names, stream.views, strict=True)):
        last = images["generic"][number][i]
        if i == 0 or not shared:
            yield "" if shared else name, "generic", last
        for part in _PARTS:
            if getattr(view, part) is not None:
                last = images[part][number][i]
                yield name, f"+ {part}", last
        if panel.preprocessing.gray and modality is Modality.VISIBLE:
            yield name, "+ grey", panel.preprocessing.colourless(last, modality)


def _pixels(images: Tensor, fed: Preprocessing) -> np.ndarray:
    mean, std = (torch.tensor(values)[:, None, None] for values in (fed.mean, fed.std))
    levels = (255 * (images * std + mean)).round().clamp(0, 255)
    return levels.to(torch.uint8).permute(0, 2, 3, 1).numpy()


class _Sheet:
    """The canvas; lengths in pixels."""

    margin, gap, apart, between, gutter, head, edge = 24, 6, 16, 40, 26, 96, 24

    def __init__(self, parts: Sequence[tuple[str, list[str], list[_Column]]]) -> None:
        self.pillow, self.draws = require("PIL.Image", extra="train"), require("PIL.ImageDraw", extra="train")
        self.large, self.bold = font("DejaVuSans-Bold.ttf", 19), font("DejaVuSans-Bold.ttf", 14)
        self.plain = font("DejaVuSans.ttf", 14)
        _, height, width, _ = parts[0][2][0].images.shape
        self.width = max(round((_AREA * width / height) ** 0.5), 80)  # room for the names above it
        self.height = round(self.width * height / width)
        widths = [self._extent(columns) for _, _, columns in parts]
        rows = max(len(names) for _, names, _ in parts)
        self.image = self.pillow.new(
            "RGB",
            (
                2 * self.margin + sum(widths) + self.between * (len(parts) - 1),
                self.head + rows * (self.height + self.gap) - self.gap + self.edge,
            ),
            "white",
        )
        self.canvas = self.draws.Draw(self.image)
        left = self.margin
        for part, extent in zip(parts, widths, strict=True):
            self._draw_panel(left, *part)
            left += extent + self.between

    def _extent(self, columns: list[_Column]) -> int:
        groups = len({column.group for column in columns})
        return self.gutter + len(columns) * self.width + (len(columns) - groups) * self.gap + (groups - 1) * self.apart

    def _draw_panel(self, left: int, title: str, names: list[str], columns: list[_Column]) -> None:
        x = left + self.gutter
        self.canvas.text((x, 32), title, font=self.large, fill=INK, anchor="ls")
        for row, name in enumerate(names):
            self._draw_name(left, self.head + row * (self.height + self.gap), name)
        for group, members in itertools.groupby(columns, key=lambda column: column.group):
            begin = x
            for column in members:
                self._draw_column(x, column)
                x += self.width + self.gap
            end = x - self.gap
            if group:
                self.canvas.text(((begin + end) // 2, 59), group, font=self.bold, fill=INK, anchor="ms")
                self.canvas.line((begin, 67, end - 1, 67), fill=_LINE, width=2)
            x = end + self.apart

    def _draw_column(self, x: int, column: _Column) -> None:
        self.canvas.text((x + self.width // 2, 86), column.name, font=self.plain, fill=MUTED, anchor="ms")
        for row, pixels in enumerate(column.images):
            image = self.pillow.fromarray(pixels).resize((self.width, self.height), self.pillow.Resampling.BICUBIC)
            self.image.paste(image, (x, self.head + row * (self.height + self.gap)))

    def _draw_name(self, left: int, top: int, name: str) -> None:
        """The identity, upwards beside its row."""
        strip = self.pillow.new("RGB", (self.height, self.gutter), "white")
        place = (self.height // 2, self.gutter // 2)
        self.draws.Draw(strip).text(place, plain(name, self.height // 9), font=self.plain, fill=MUTED, anchor="mm")
        self.image.paste(strip.rotate(90, expand=True), (left - 2, top))
