"""Drawings as SVG that stands inline in the page: no text from outside, colours from the page's style sheet."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ..extras import require
from .text import escape, label

# Matplotlib wants colours; these stand for the custom properties of style.css, so that one drawing serves the
# light and the dark page.
_COLOURS = {"#000a01": "var(--muted)", "#000a02": "var(--line)"} | {
    f"#000b{i:02x}": f"var(--series-{i})" for i in range(1, 7)
}
_MUTED, _GRID = "#000a01", "#000a02"
# Never colour alone: dash patterns in units of the line width.
_DASHES = ((), (5, 2), (1.5, 1.5), (6, 1.5, 1.5, 1.5), (9, 3), (3, 1, 1, 1, 1, 1))


def legend(names: Sequence[str]) -> str:
    """HTML list of the series' names, each beside a piece of its line."""
    items = "".join(
        f'<li><svg viewBox="0 0 28 8" aria-hidden="true"><path d="M0 4H28" stroke="{_COLOURS[colour(i)]}"'
        f' stroke-width="2.4" stroke-dasharray="{" ".join(str(2 * d) for d in _dash(i))}"/></svg>{label(name, 40)}</li>'
        for i, name in enumerate(names)
    )
    return f'<ul class="legend">{items}</ul>'


def colour(i: int | None) -> str:
    """Of series `i`; None is the grey of what stands behind the series."""
    return _MUTED if i is None else f"#000b{i % 6 + 1:02x}"


def _dash(i: int) -> tuple:
    return _DASHES[i % len(_DASHES)]


def line(i: int, dashes: str = "dashes") -> dict:
    """How series `i` is drawn; some artists know dashes as `linestyle`."""
    pattern = _dash(i)
    return {
        "color": colour(i),
        "linewidth": 1.6,
        dashes: (pattern or (None, None)) if dashes == "dashes" else (0, pattern) if pattern else "-",
    }


@contextmanager
def drawing(*heights: float, width: float = 5.2, columns: int = 1) -> Iterator[tuple]:
    """A figure with axes below one another that share the steps, or in `columns` side by side; lengths in inches."""
    matplotlib = require("matplotlib", extra="train")
    figures = require("matplotlib.figure", extra="train")
    style = {
        "font.size": 10,
        "svg.fonttype": "none",  # letters stay letters: to be searched, read out, and set in the page's font
        "svg.hashsalt": "toplight_ext",  # the same run gives the same page
        "text.color": _MUTED,
        "text.parse_math": False,
        "axes.labelcolor": _MUTED,
        "axes.edgecolor": _GRID,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.formatter.useoffset": False,
        "axes.formatter.limits": (-5, 5),
        "grid.color": _GRID,
        "grid.linewidth": 0.6,
        "xtick.color": _MUTED,
        "ytick.color": _MUTED,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
    }
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a user's own style is not the page's
        matplotlib.rcParams.update(style)
        figure = figures.Figure(figsize=(width, sum(heights) + 0.3), layout="constrained")
        grid = figure.subplots(len(heights), columns, sharex="col", squeeze=False, height_ratios=heights)
        yield figure, list(grid.flat)


def svg(figure, said: str) -> str:
    """The figure as an inline SVG element that says `said` to those who do not see it."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    body = text[text.index("<svg") :]
    view = re.search(r'viewBox="([\d. -]+)"', body)[1]
    body = body[body.index(">") + 1 :]
    # Metadata and a style for every element of the page; names of groups, which another figure repeats.
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body).replace("xlink:href", "href")
    body = re.sub("|".join(_COLOURS), lambda match: _COLOURS[match.group()], body)
    return f'<svg class="plot" viewBox="{view}" role="img" aria-label="{escape(said, 400)}">{body.strip()}\n'
