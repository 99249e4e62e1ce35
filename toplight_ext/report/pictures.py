"""Pictures of ranked lists: thumbnails for the page, and one PNG for a README."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import InputError
from ..extras import require
from ..files import replacing
from .run import Picture, Query, read_queries
from .text import distance, plain

# Formats that data sets come in; Pillow knows others that start programs or draw vectors.
_FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_MOST_PIXELS = 64_000_000

_RIGHT, _WRONG = "#1a7f37", "#cf222e"
INK, MUTED, _GREY = "#1f2328", "#59636e", "#e4e7eb"


def thumbnail(path: str, width: int, height: int):
    """The image at `path` as RGB, upright, shrunk to fit width x height; a sentence if there is none to show."""
    pillow, pillow_ops = (require(f"PIL.{name}", extra="train") for name in ("Image", "ImageOps"))
    if not os.path.isfile(path):  # nor is a pipe or a device opened, which might not end
        return "no such file"
    try:
        with pillow.open(path, formats=_FORMATS) as image:
            if image.width * image.height > _MOST_PIXELS:
                return "too large"
            image.draft("RGB", (2 * width, 2 * height))
            image = pillow_ops.exif_transpose(image).convert("RGB")  # as the network sees it
            image.thumbnail((width, height))
            return image
    except Exception:  # decoders of foreign bytes raise almost anything, and a report shows the rest all the same
        return "does not decode"


def thumbnails(pictures: Iterable[Picture], width: int, height: int) -> dict:
    """{path: `thumbnail` of it}, each file opened once."""
    return {path: thumbnail(path, width, height) for path in {picture.path: None for picture in pictures}}


def data_uri(image) -> str:
    """A Pillow image as a JPEG in a data URI."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def aspect(images: Iterable) -> float:
    """Width by height of the frame that suits these thumbnails: the median, kept within bounds."""
    ratios = sorted(image.width / image.height for image in images if not isinstance(image, str))
    return min(max(ratios[len(ratios) // 2], 0.4), 1.8) if ratios else 0.5


def choose(queries: Sequence[Query], most: int) -> tuple[list[Query], list[Query]]:
    """Up to `most` queries, half whose first gallery image is right and half whose is not.

    Each half is spread evenly over the list in its order; where one kind is short the other fills up. So the
    choice depends on the list alone, and neither flatters nor hides.
    """
    right = [query for query in queries if query.gallery and query.gallery[0].correct]
    wrong = [query for query in queries if query.gallery and query.gallery[0].correct is False]
    of_right = min(len(right), max(most - most // 2, most - len(wrong)))
    return _spread(right, of_right), _spread(wrong, min(len(wrong), most - of_right))


def _spread(items: Sequence, number: int) -> list:
    return [items[(2 * i + 1) * len(items) // (2 * number)] for i in range(number)]


def ranked_picture(ranked: dict, out: Path, rows: int = 5) -> Path:
    """Draw ranked lists as a PNG: a query and its first ten gallery images a row, right ones framed green.

    Args:
        ranked: the content of a run's ranked.json.
        out: the PNG to write.
        rows: the number of queries, taken as `choose` says.

    Raises:
        InputError: `ranked` holds no query with a judged gallery image.
    """
    right, wrong = choose(read_queries(ranked, []), rows)
    shown = right + wrong
    if not shown:
        raise InputError("no ranked list to draw: 'queries' holds none whose gallery images say if they are correct")
    return draw_lists(shown, out)


def draw_lists(shown: Sequence[Query], out: Path) -> Path:
    """Draw these ranked lists, one a row, as a PNG; framed are those images that say if they are correct."""
    sheet = _Sheet(shown)
    for position, query in enumerate(shown):
        sheet.draw_row(position, query)
    with replacing(out) as temporary:
        sheet.image.save(temporary, "PNG", optimize=True)
    return Path(out)


class _Sheet:
    """The canvas of `ranked_picture`; lengths in pixels."""

    width, margin, gap, between, caption, head, foot = 92, 20, 10, 26, 26, 40, 40

    def __init__(self, shown: Sequence[Query]) -> None:
        self.pillow, self.draws, self.fits = (
            require(f"PIL.{name}", extra="train") for name in ("Image", "ImageDraw", "ImageOps")
        )
        self.font, self.bold = font("DejaVuSans.ttf", 14), font("DejaVuSans-Bold.ttf", 14)
        pictures = (picture for query in shown for picture in (query.picture, *query.gallery[:10]))
        self.found = thumbnails(pictures, 4 * self.width, 4 * self.width)
        self.height = round(self.width / aspect(self.found.values()))
        self.columns = max(min(len(query.gallery), 10) for query in shown)
        self.row = self.height + self.caption + 14
        self.image = self.pillow.new(
            "RGB",
            (
                2 * self.margin + self.width + self.between + self.columns * (self.width + self.gap) - self.gap,
                self.head + len(shown) * self.row + self.foot,
            ),
            "white",
        )
        self.canvas = self.draws.Draw(self.image)
        self._draw_head_and_foot()

    def left(self, column: int) -> int:
        """Left edge of the query (column -1) or of a gallery image (0, 1, ...)."""
        start = self.margin + self.width + self.between
        return self.margin if column < 0 else start + column * (self.width + self.gap)

    def draw_row(self, position: int, query: Query) -> None:
        top = self.head + position * self.row
        self._draw_picture(self.left(-1), top, query.picture, plain(query.picture.modality, 12) or "query")
        for column, picture in enumerate(query.gallery[: self.columns]):
            self._draw_picture(self.left(column), top, picture, distance(picture.distance))
            if picture.correct is not None:
                self._frame(self.left(column), top, picture.correct)

    def _draw_head_and_foot(self) -> None:
        y = self.head - 12
        self._text(self.left(-1) + self.width // 2, y, "Query", self.bold, INK, "ms")
        for column in range(self.columns):
            self._text(self.left(column) + self.width // 2, y, str(column + 1), self.bold, INK, "ms")
        y = self.image.height - 22
        x = self.left(0)
        for correct, words in ((True, "same identity"), (False, "another identity")):
            self._mark(x + 8, y - 5, correct)
            self._text(x + 22, y, words, self.font, INK, "ls")
            x += 40 + round(self.font.getlength(words))
        self._text(x, y, "below: distance to the query", self.font, MUTED, "ls")

    def _draw_picture(self, x: int, y: int, picture: Picture, caption: str) -> None:
        found = self.found[picture.path]
        if isinstance(found, str):
            self.canvas.rectangle((x, y, x + self.width - 1, y + self.height - 1), fill=_GREY)
            name = plain(Path(picture.path).name, 12)
            self._text(x + self.width // 2, y + self.height // 2, name, self.font, MUTED, "mm")
        else:
            fitted = self.fits.pad(found, (self.width, self.height), self.pillow.Resampling.LANCZOS, _GREY)
            self.image.paste(fitted, (x, y))
        self._text(x + self.width // 2, y + self.height + 20, caption, self.font, MUTED, "ms")

    def _frame(self, x: int, y: int, correct: bool) -> None:
        box = (x - 1, y - 1, x + self.width, y + self.height)
        self.canvas.rectangle(box, outline=_RIGHT if correct else _WRONG, width=4)
        self._mark(x + self.width - 13, y + 13, correct)

    def _mark(self, x: int, y: int, correct: bool) -> None:
        """A disc with a tick or a cross, so that colour is not the only sign."""
        disc = self.pillow.new("RGBA", (72, 72))  # drawn large and shrunk: Pillow's lines are jagged
        draw = self.draws.Draw(disc)
        draw.ellipse((0, 0, 71, 71), fill=_RIGHT if correct else _WRONG)
        strokes = [(20, 37, 32, 49, 53, 25)] if correct else [(24, 24, 48, 48), (24, 48, 48, 24)]
        for stroke in strokes:
            draw.line(stroke, fill="white", width=9, joint="curve")
        disc = disc.resize((18, 18), self.pillow.Resampling.LANCZOS)
        self.image.paste(disc, (x - 9, y - 9), disc)

    def _text(self, x: int, y: int, text: str, font, colour: str, anchor: str) -> None:
        self.canvas.text((x, y), text, font=font, fill=colour, anchor=anchor)


def font(name: str, size: int):
    """A font that matplotlib ships: the same picture on every machine, and letters of many scripts."""
    folder = Path(require("matplotlib", extra="train").get_data_path()) / "fonts" / "ttf"
    return require("PIL.ImageFont", extra="train").truetype(str(folder / name), size)
