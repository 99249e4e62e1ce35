"""Ranked lists on the page: a query and its nearest gallery images, of one run or of several below one another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .pictures import aspect, choose, data_uri, thumbnails
from .run import Picture, Query, Run
from .text import count, distance, escape, label

_MOST_QUERIES = 12
_MOST_GALLERY = 10
_SIZE = (176, 352)  # pixels: twice what the page shows, for dense screens

_MARKS = (
    '<svg class="defs" aria-hidden="true"><symbol id="tick" viewBox="0 0 16 16"><circle cx="8" cy="8" r="8"/>'
    '<path d="M4.4 8.3l2.5 2.6 4.7-5.4"/></symbol><symbol id="cross" viewBox="0 0 16 16">'
    '<circle cx="8" cy="8" r="8"/><path d="M5.2 5.2l5.6 5.6M5.2 10.8l5.6-5.6"/></symbol></svg>'
)
# By `Picture.correct`: class of the list item, id of the mark, words.
_JUDGED = {True: ("right", "tick", ", right"), False: ("wrong", "cross", ", wrong"), None: ("", "", "")}


def ranked_lists(runs: Sequence[Run]) -> str:
    """Up to twelve queries chosen from the first run that has ranked lists, each with the list of every run."""
    lead = next((run for run in runs if run.queries), None)
    right, wrong = choose(lead.queries, _MOST_QUERIES) if lead else ([], [])
    if lead is None or not right + wrong:
        return '<p class="missing-part">No ranked lists.</p>'
    by_run = [(run.name, {query.picture.path: query for query in run.queries}) for run in runs]
    parts = [_explanation(lead), _MARKS]
    of_lead = f" in {label(lead.name)}" if len(runs) > 1 else ""
    for title, queries in (("First image right", right), ("First image wrong", wrong)):
        if queries:
            parts.append(f"<h3>{title}{of_lead}</h3>")
            parts += [
                _query(query, [(name, found.get(query.picture.path)) for name, found in by_run]) for query in queries
            ]
    return "\n".join(parts)


def _explanation(lead: Run) -> str:
    judged = [q for q in lead.queries if q.gallery and q.gallery[0].correct is not None]
    right = sum(bool(query.gallery[0].correct) for query in judged)
    return (
        f"<p>A query and the {_MOST_GALLERY} gallery images nearest to it, nearest first, with their distances. A"
        " green frame with a tick is the same identity, a red one with a cross another. Of the"
        f" {count(len(judged), 'query')} on record {right:,} have a right first image and {len(judged) - right:,} a"
        f" wrong one. Up to {_MOST_QUERIES} are shown, half of each kind as far as there are, spread evenly over the"
        " list: how often the first image is right is what rank-1 says, not this selection.</p>"
    )


def _query(query: Query, lists: Sequence[tuple[str, Query | None]]) -> str:
    """A row of the page: the query and, run by run, (name, its ranked list)."""
    found_lists = [query, *(found for _, found in lists if found)]  # of one image a run may hold several lists
    shown = [query.picture, *(p for found in found_lists for p in found.gallery[:_MOST_GALLERY])]
    images = thumbnails(shown, *_SIZE)
    if len(lists) == 1:
        outcome, galleries = f"<br>{_outcome(query)}", _gallery(query, images)
    else:
        outcome = ""
        galleries = "".join(
            f'<p class="of-run">{label(name, 40)}: {_outcome(found)}</p>{_gallery(found, images) if found else ""}'
            for name, found in lists
        )
    of = query.picture
    camera = f"camera {label(of.camera, 20)}"
    whom = f"identity {escape(of.identity, 30)}, {escape(of.modality, 20)}, camera {escape(of.camera, 20)}"
    return (
        f'<article class="ranked" style="--ratio:{aspect(images.values()):.3f}">'
        f'<figure class="query"><div class="frame">{_image(of, f"Query: {whom}", images)}</div><figcaption>'
        f"<b>Identity {label(of.identity, 30)}</b><br>{label(of.modality, 20)}, {camera}{outcome}</figcaption></figure>"
        f"<div>{galleries}</div></article>"
    )


def _outcome(query: Query | None) -> str:
    """Where the first right image stands."""
    if query is None:
        return "no list of this query on record"
    shown = query.gallery[:_MOST_GALLERY]
    rank = next((rank for rank, picture in enumerate(shown, start=1) if picture.correct), None)
    return f"right at rank {rank}" if rank else f"none right among {len(shown)}"


def _gallery(query: Query, images: dict) -> str:
    items = "".join(_gallery_picture(p, rank, images) for rank, p in enumerate(query.gallery[:_MOST_GALLERY], start=1))
    return f'<ol class="gallery">{items}</ol>'


def _gallery_picture(picture: Picture, rank: int, images: dict) -> str:
    kind, mark, said = _JUDGED[picture.correct]
    far = distance(picture.distance)
    alt = f"Rank {rank}{said}: identity {escape(picture.identity, 30)}, camera {escape(picture.camera, 20)}"
    alt += f", distance {far}" if far else ""
    badge = f'<svg class="mark" aria-hidden="true"><use href="#{mark}"/></svg>' if mark else ""
    return f'<li class="{kind}"><div class="frame">{_image(picture, alt, images)}{badge}</div><span>{far}</span></li>'


def _image(picture: Picture, alt: str, images: dict) -> str:
    """The image itself, or a grey place for it with its name and the reason; `alt` is already escaped."""
    image = images[picture.path]
    if isinstance(image, str):
        name = escape(Path(picture.path).name or "no path", 40)
        said = f"{alt} ({image}: {name})"
        return f'<div class="no-image" role="img" aria-label="{said}"><bdi>{name}</bdi>{image}</div>'
    width, height = image.size
    return f'<img src="{data_uri(image)}" width="{width}" height="{height}" alt="{alt}">'
