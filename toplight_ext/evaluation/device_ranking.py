"""Ranking on a GPU, in PyTorch, for galleries that keep the compiled core busy for minutes.

The definition is taken at its word: sort the gallery of every query stably, drop what is filtered, look. Distances
are summed in float64 and rounded to the type of the features, so that equal features tie wherever they stand. Other
than in the compiled core the sums run in another order: where two distances differ by less than their rounding,
images may change places.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from .ranking import (
    DROP_ALL,
    DROP_SAME_IDENTITY,
    NO_FILTER,
    CameraFilter,
    Cmc,
    LabelCodes,
    Labels,
    Metric,
    Ranking,
    check_cmc,
    checked_features,
    label_codes,
)

_PAIRS_AT_ONCE = 1 << 25  # about 1.5 GiB of distances, order and counts


def rank_on_device(
    query: np.ndarray,
    gallery: np.ndarray,
    query_labels: Labels,
    gallery_labels: Labels,
    metric: Metric = "cosine",
    camera_filter: CameraFilter = NO_FILTER,
    cmc: Cmc = "images",
    device: str = "cuda",
    pairs_at_once: int = _PAIRS_AT_ONCE,
) -> Ranking:
    """As `rank_features`, on a torch device.

    Args:
        pairs_at_once: queries times gallery images whose distances exist at once.

    Raises:
        InputError: as `rank_features`, or torch does not have the device.
    """
    query, gallery = checked_features(query, gallery, metric)
    check_cmc(cmc)
    try:
        images = torch.from_numpy(gallery).to(device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device!r}: torch cannot use it here ({str(error).splitlines()[0]})") from error
    codes = label_codes(query_labels, gallery_labels, camera_filter)
    labels = LabelCodes(*(torch.from_numpy(array).to(device) for array in codes))
    if not len(gallery):
        return Ranking(np.zeros(len(query)), np.zeros(len(query)), np.zeros(len(query), dtype=np.int64))
    prepared = _prepared(images, metric)
    rows = max(1, pairs_at_once // len(gallery))
    parts = []
    for start in range(0, len(query), rows):
        tile = torch.from_numpy(query[start : start + rows]).to(device)
        distances = _distances(_prepared(tile, metric), prepared, metric).to(tile.dtype)
        _check_finite(distances, start)
        part = labels._replace(
            query_identity=labels.query_identity[start : start + rows],
            query_camera=labels.query_camera[start : start + rows],
        )
        parts.append(_rank(distances, part, distinct_identities=cmc == "identities"))
    return Ranking(*(torch.cat(scores).cpu().numpy() for scores in zip(*parts, strict=True)))


def _prepared(images: Tensor, metric: Metric) -> Tensor:
    images = images.double()
    return images / torch.linalg.vector_norm(images, dim=1, keepdim=True) if metric == "cosine" else images


def _distances(query: Tensor, gallery: Tensor, metric: Metric) -> Tensor:
    """(q, D) and (G, D) float64 -> (q, G): Euclidean, or minus the cosine."""
    if metric == "cosine":
        return -(query @ gallery.T)
    return torch.cdist(query, gallery, compute_mode="donot_use_mm_for_euclid_dist")


def _check_finite(distances: Tensor, first_query: int) -> None:
    if not torch.isfinite(distances).all():
        query, image = torch.nonzero(~torch.isfinite(distances))[0].tolist()
        raise InputError(f"the distance of query {first_query + query} to gallery image {image} is not finite")


def _rank(distances: Tensor, labels: LabelCodes, distinct_identities: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Average precision, INP and first rank of q queries, from (q, G) distances."""
    match = labels.query_identity[:, None] == labels.gallery_identity
    rule = labels.rules[labels.query_camera.long()][:, labels.gallery_camera.long()]
    dropped = (rule == DROP_ALL) | ((rule == DROP_SAME_IDENTITY) & match)
    order = distances.masked_fill(dropped, torch.inf).argsort(dim=1, stable=True)
    match = (match & ~dropped).gather(1, order)
    rank = torch.arange(1, match.shape[1] + 1, device=match.device)
    hits = match.cumsum(1)
    positives = hits[:, -1]
    some = positives.clamp(min=1)
    average_precision = torch.where(match, hits / rank.double(), 0).sum(1) / some
    last = torch.where(match, rank, 0).amax(1)
    inverse_negative_penalty = positives / last.clamp(min=1).double()
    before = hits == 0
    first = before.sum(1) if not distinct_identities else _identities(labels.gallery_identity.long()[order], before)
    return average_precision, inverse_negative_penalty, torch.where(positives > 0, first + 1, 0)


def _identities(identity: Tensor, chosen: Tensor) -> Tensor:
    """How many identities each row has among its chosen places: (q, G) codes and bool -> (q,)."""
    nobody = int(identity.max()) + 1
    seen = torch.zeros(len(identity), nobody + 1, dtype=torch.bool, device=identity.device)
    seen.scatter_(1, identity.masked_fill(~chosen, nobody), True)
    return seen[:, :nobody].sum(1)
