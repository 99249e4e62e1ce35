"""The features of a run on the page: distances of pairs, where the images lie, what the slices of FDR answer to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..evaluation.features import MODALITIES
from .analysis import Analysis, Distances, Example, Projection, Slices
from .drawing import legend
from .feature_figures import distance_figure, overlap, projection_figure, slice_figure
from .pictures import aspect, data_uri, thumbnails
from .text import count, escape, label, percent

_SIZE = (132, 264)  # pixels: twice what the page shows, for dense screens


def features_section(analyses: Sequence[tuple[str, Analysis]]) -> str:
    """(name of the run, what is known of its features) -> the section's HTML; runs below one another."""
    parts = []
    for name, analysis in analyses:
        text = _pair_figure(analysis.distances) + _plane_figure(analysis.projection)
        if text:
            title = f"<h3>{label(name)}</h3>" if len(analyses) > 1 else ""
            parts.append(f'{title}<div class="figures">{text}</div>')
    if not parts:
        return '<p class="missing-part">No analysis of the features.</p>'
    return "".join(parts)


def slices_section(analyses: Sequence[tuple[str, Analysis]]) -> str:
    """As `features_section`, for the slices of FDR."""
    parts = []
    for name, analysis in analyses:
        if analysis.slices is not None:
            title = f"<h3>{label(name)}</h3>" if len(analyses) > 1 else ""
            parts.append(title + _slice_figures(analysis.slices))
    if not parts:
        return '<p class="missing-part">No slices: the neck of the network has none.</p>'
    explanation = (
        "<p>How strongly the last map answers in each slice that FDR cuts: the root mean square, over the channels, of"
        " the slice's mean. Bands are read from top to bottom and from left to right; beside an image the bands of its"
        " height, below it those of its width, dark where the answer is strongest in that image.</p>"
    )
    return explanation + "".join(parts)


def _pair_figure(distances: Distances | None) -> str:
    if distances is None:
        return ""
    genuine, impostor = (int(counts.sum()) for counts in (distances.genuine, distances.impostor))
    return (
        f"<figure><h3>Distances</h3>{distance_figure(distances)}{legend(['one identity', 'two identities'])}"
        f"<figcaption>{count(genuine, 'pair')} of one identity and {count(impostor, 'pair')} of two, query and gallery"
        f" image, each kind scaled to the same area. {percent(overlap(distances))} % of the two areas coincide: 0 %"
        " would part the kinds by one threshold.</figcaption></figure>"
    )


def _plane_figure(projection: Projection | None) -> str:
    if projection is None:
        return ""
    first, second = (percent(share) for share in projection.variance)
    return (
        f"<figure><h3>Both modalities</h3>{projection_figure(projection)}{legend(MODALITIES)}"
        f"<figcaption>{count(len(projection.points), 'image')} on the first two principal components, which hold"
        f" {first} and {second} % of the variance. Lines join the images of a few identities with their mean: two"
        " clouds of colour would mean that features still tell the modality.</figcaption></figure>"
    )


def _slice_figures(slices: Slices) -> str:
    images = thumbnails(slices.examples, *_SIZE)
    examples = "".join(_example(example, images) for example in slices.examples)
    return (
        f"<figure>{slice_figure(slices)}{legend(MODALITIES)}</figure>"
        f'<div class="slices" style="--ratio:{aspect(images.values()):.3f}">{examples}</div>'
    )


def _example(example: Example, images: dict) -> str:
    image = images[example.path]
    said = f"identity {escape(example.identity, 30)}, {escape(example.modality, 20)}"
    if isinstance(image, str):
        name = escape(Path(example.path).name or "no path", 40)
        picture = (
            f'<div class="no-image" role="img" aria-label="{said} ({image}: {name})"><bdi>{name}</bdi>{image}</div>'
        )
    else:
        width, height = image.size
        picture = f'<img src="{data_uri(image)}" width="{width}" height="{height}" alt="{said}">'
    return (
        f'<figure class="sliced"><div class="frame">{picture}</div>{_strip("rows", example.rows)}'
        f"{_strip('columns', example.columns)}<figcaption>{label(example.identity, 12)}<br>"
        f"{label(example.modality, 12)}</figcaption></figure>"
    )


def _strip(kind: str, values: np.ndarray) -> str:
    strongest = max(float(values.max()), np.finfo(np.float64).tiny)
    cells = "".join(f'<i style="--share:{100 * value / strongest:.0f}%"></i>' for value in values)
    return f'<div class="strip {kind}" aria-hidden="true">{cells}</div>'
