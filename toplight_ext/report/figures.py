"""Curves of a run: cumulative matching, loss and learning rate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .drawing import colour, drawing, line, svg
from .run import Row, Stage

_MOST_POINTS = 150
_MOST_RANK = 20


def cmc_figure(rows: Sequence[Row]) -> str:
    """Hit rate over the number of gallery images (or identities) looked at, one line per evaluation."""
    ranks = min(_MOST_RANK, max(len(row.cmc) for row in rows))
    with drawing(3.0, width=6.6) as (figure, (axes,)):
        for i, row in enumerate(rows):
            values = 100 * np.array(row.cmc[:ranks])
            axes.plot(np.arange(1, len(values) + 1), values, marker="o", markersize=2.5, **line(i))
        axes.set_xlim(0.5, ranks + 0.5)
        axes.set_ylim(0, 102)
        axes.set_xticks([rank for rank in range(1, ranks + 1) if ranks < 5 or rank == 1 or rank % 5 == 0])
        axes.set_yticks(range(0, 101, 20))
        axes.set_xlabel("rank")
        axes.set_ylabel("found, %")
        said = "; ".join(f"{row.label}: {100 * row.cmc[0]:.1f} % at rank 1" for row in rows)
        return svg(figure, f"Cumulative matching characteristic. {said}")


def training_figure(stages: Sequence[Stage], terms: bool) -> str:
    """Loss over step; below it the learning rate, and mAP on the dev split where that was looked at.

    With `terms` the one stage's loss and its terms are drawn, else the loss of each of `stages`.
    """
    curves = (
        [(stages[0], values) for values in stages[0].losses.values()]
        if terms
        else [(stage, next(iter(stage.losses.values()))) for stage in stages]
    )
    below = {
        "learning\nrate": [binned(stage.steps, stage.learning_rate)[:2] for stage in stages],
        "dev\nmAP, %": [(stage.looks[0], 100 * stage.looks[1]) for stage in stages],
    }
    below = {words: found for words, found in below.items() if any(len(steps) for steps, _ in found)}
    with drawing(2.2, *[0.7] * len(below)) as (figure, axes):
        for i, (stage, values) in enumerate(curves):
            steps, mean, least, most = binned(stage.steps, values)
            axes[0].plot(steps, mean, **line(i))
            if len(steps) < np.isfinite(values).sum() and (i == 0 or not terms):
                axes[0].fill_between(steps, least, most, color=colour(i), alpha=0.15, linewidth=0)
        axes[0].set_ylabel("loss")
        for plot, (words, found) in zip(axes[1:], below.items(), strict=True):
            for i, points in enumerate(found):
                plot.plot(*points, **line(i))
            plot.set_ylim(0, None)
            plot.set_ylabel(words)
            plot.locator_params(axis="y", nbins=2)
        axes[-1].set_xlabel("step")
        axes[-1].xaxis.get_major_locator().set_params(integer=True)
        first, last = _ends(curves[0][1])
        return svg(figure, f"Loss of stage {stages[0].name} over steps: {first:.3g} at first, {last:.3g} at last")


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
