"""Curves as SVG that stands inline in the page: no text from outside, colours from the page's style sheet."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from ..extras import require
from .run import Row, Stage
from .text import escape, label

# Matplotlib wants colours; these stand for the custom properties of style.css, so that one drawing serves the
# light and the dark page.
_COLOURS = {"#000a01": "var(--muted)", "#000a02": "var(--line)"} | {
    f"#000b{i:02x}": f"var(--series-{i})" for i in range(1, 7)
}
_MUTED, _GRID = "#000a01", "#000a02"
# Never colour alone: dash patterns in units of the line width.
_DASHES = ((), (5, 2), (1.5, 1.5), (6, 1.5, 1.5, 1.5), (9, 3), (3, 1, 1, 1, 1, 1))
_MOST_POINTS = 150
_MOST_RANK = 20


def legend(names: Sequence[str]) -> str:
    """HTML list of the series' names, each beside a piece of its line."""
    items = "".join(
        f'<li><svg viewBox="0 0 28 8" aria-hidden="true"><path d="M0 4H28" stroke="{_COLOURS[_colour(i)]}"'
        f' stroke-width="2.4" stroke-dasharray="{" ".join(str(2 * d) for d in _dash(i))}"/></svg>{label(name, 40)}</li>'
        for i, name in enumerate(names)
    )
    return f'<ul class="legend">{items}</ul>'


def cmc_figure(rows: Sequence[Row]) -> str:
    """Hit rate over the number of gallery images (or identities) looked at, one line per evaluation."""
    ranks = min(_MOST_RANK, max(len(row.cmc) for row in rows))
    with _axes(3.0, width=6.6) as (figure, (axes,)):
        for i, row in enumerate(rows):
            values = 100 * np.array(row.cmc[:ranks])
            axes.plot(np.arange(1, len(values) + 1), values, marker="o", markersize=2.5, **_line(i))
        axes.set_xlim(0.5, ranks + 0.5)
        axes.set_ylim(0, 102)
        axes.set_xticks([rank for rank in range(1, ranks + 1) if ranks < 5 or rank == 1 or rank % 5 == 0])
        axes.set_yticks(range(0, 101, 20))
        axes.set_xlabel("rank")
        axes.set_ylabel("found, %")
        said = "; ".join(f"{row.label}: {100 * row.cmc[0]:.1f} % at rank 1" for row in rows)
        return _svg(figure, f"Cumulative matching characteristic. {said}")


def training_figure(stages: Sequence[Stage], terms: bool) -> str:
    """Loss over step, and the learning rate below it.

    With `terms` the one stage's loss and its terms are drawn, else the loss of each of `stages`.
    """
    curves = (
        [(stages[0], values) for values in stages[0].losses.values()]
        if terms
        else [(stage, next(iter(stage.losses.values()))) for stage in stages]
    )
    rates = [stage for stage in stages if np.isfinite(stage.learning_rate).any()]
    with _axes(*((2.2, 0.7) if rates else (2.2,))) as (figure, axes):
        for i, (stage, values) in enumerate(curves):
            steps, mean, least, most = binned(stage.steps, values)
            axes[0].plot(steps, mean, **_line(i))
            if len(steps) < np.isfinite(values).sum() and (i == 0 or not terms):
                axes[0].fill_between(steps, least, most, color=_colour(i), alpha=0.15, linewidth=0)
        axes[0].set_ylabel("loss")
        for i, stage in enumerate(stages):
            if stage in rates:
                steps, rate, *_ = binned(stage.steps, stage.learning_rate)
                axes[1].plot(steps, rate, **_line(i))
                axes[1].set_ylim(0, None)
                axes[1].set_ylabel("learning\nrate")
                axes[1].locator_params(axis="y", nbins=2)
        axes[-1].set_xlabel("step")
        first, last = _ends(curves[0][1])
        return _svg(figure, f"Loss of stage {stages[0].name} over steps: {first:.3g} at first, {last:.3g} at last")


def binned(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Steps, mean, least and greatest of runs of neighbours, at most 150 of them; what is not finite is left out."""
    finite = np.isfinite(values)
    steps, values = steps[finite], values[finite]
    starts = np.arange(0, len(values), bin_size(len(values)))
    if not len(starts):
        return steps, values, values, values
    lengths = np.diff(np.append(starts, len(values)))
    return (
        np.add.reduceat(steps, starts) / lengths,
        np.add.reduceat(values, starts) / lengths,
        np.minimum.reduceat(values, starts),
        np.maximum.reduceat(values, starts),
    )


def bin_size(points: int) -> int:
    """How many neighbouring steps one point of a curve stands for."""
    return max(1, -(-points // _MOST_POINTS))


def _ends(values: np.ndarray) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    return (finite[0], finite[-1]) if len(finite) else (np.nan, np.nan)


def _colour(i: int) -> str:
    return f"#000b{i % 6 + 1:02x}"


def _dash(i: int) -> tuple:
    return _DASHES[i % len(_DASHES)]


def _line(i: int) -> dict:
    return {"color": _colour(i), "linewidth": 1.6, "dashes": _dash(i) or (None, None)}


@contextmanager
def _axes(*heights: float, width: float = 5.2) -> Iterator[tuple]:
    """A figure with axes below one another that share the steps; lengths in inches."""
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
        axes = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)
        yield figure, list(axes[:, 0])


def _svg(figure, said: str) -> str:
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
