"""Figures of features: histograms of distances, the plane of the first two components, activations of slices."""

from __future__ import annotations

import numpy as np

from .analysis import Distances, Projection, Slices
from .drawing import colour, drawing, line, svg

_MOST_IDENTITIES = 8  # whose images are joined


def overlap(distances: Distances) -> float:
    """Common part of the two histograms, each scaled to area 1: 0 where one threshold parts them."""
    return float(np.minimum(_share(distances.genuine), _share(distances.impostor)).sum())


def distance_figure(distances: Distances) -> str:
    """Histograms of the distances of pairs of one identity and of two, each as shares of its kind."""
    with drawing(2.6) as (figure, (plot,)):
        for i, counts in enumerate((distances.genuine, distances.impostor)):
            share = 100 * _share(counts)
            plot.stairs(share, distances.edges, fill=True, color=colour(i), alpha=0.15)
            plot.stairs(share, distances.edges, **line(i, "linestyle"))
        plot.set_xlabel("distance")
        plot.set_ylabel("share of its kind, %")
        plot.set_ylim(0, None)
        said = f"{100 * overlap(distances):.0f} % of the two areas coincide"
        return svg(figure, f"Histogram of distances, pairs of one identity and of two. {said}")


def projection_figure(projection: Projection) -> str:
    """Images as points, one colour and sign for each modality, those of a few identities joined."""
    with drawing(2.6) as (figure, (plot,)):
        for identity in _joined(projection):
            points = projection.points[np.array(projection.identity) == identity]
            for point in points:
                plot.plot(*zip(points.mean(0), point, strict=True), color=colour(None), linewidth=0.7, zorder=1)
        for i, chosen in enumerate((projection.visible, ~projection.visible)):
            marker = ("o", "^")[i]
            plot.scatter(*projection.points[chosen].T, s=11, color=colour(i), marker=marker, alpha=0.7, linewidths=0)
        plot.set_xlabel("first component")
        plot.set_ylabel("second component")
        means = [
            projection.points[chosen].mean(0) for chosen in (projection.visible, ~projection.visible) if chosen.any()
        ]
        apart = f"{np.linalg.norm(means[0] - means[-1]):.3g}"
        return svg(
            figure, f"Images on the first two principal components; the means of the modalities are {apart} apart"
        )


def slice_figure(slices: Slices) -> str:
    """Mean activation of every slice of height and width, one line for each modality."""
    with drawing(2.2, width=9.4, columns=2) as (figure, plots):
        for plot, of_modality, words in zip(plots, (slices.rows, slices.columns), ("height", "width"), strict=True):
            for i, values in enumerate(of_modality.values()):
                plot.plot(np.arange(1, len(values) + 1), values, marker="o", markersize=3, **line(i))
            plot.set_xlabel(f"slice of the {words}")
            plot.set_ylim(0, None)
            plot.xaxis.get_major_locator().set_params(integer=True)
        plots[0].set_ylabel("activation")
        return svg(figure, "Mean activation of every slice of height and width, for both modalities")


def _share(counts: np.ndarray) -> np.ndarray:
    return counts / max(counts.sum(), 1)


def _joined(projection: Projection) -> list[str]:
    """A few identities that have images of both modalities, spread evenly over their order."""
    of = [
        {name for name, v in zip(projection.identity, projection.visible, strict=True) if v == side} for side in (0, 1)
    ]
    both = sorted(of[0] & of[1])
    return both[:: max(1, -(-len(both) // _MOST_IDENTITIES))]
