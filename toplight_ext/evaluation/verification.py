"""Do two images show one person? The verification rate at fixed false-accept rates, as face papers report it."""

from __future__ import annotations

import numpy as np

from ..errors import InputError
from .ranking import Labels, Metric, nearest

FALSE_ACCEPT_RATES = {"1%": 1e-2, "0.1%": 1e-3}


def verification_rates(
    query: np.ndarray,
    gallery: np.ndarray,
    query_labels: Labels,
    gallery_labels: Labels,
    metric: Metric = "cosine",
    threads: int | None = None,
) -> dict[str, float]:
    """Verification rate (share of genuine pairs accepted) over all pairs, in two readings of "at FAR".

    `strict`: the highest rate at a threshold whose false-accept rate does not exceed the FAR.
    `nearest`: the rate at the corner of the ROC curve whose false-accept rate is nearest to the FAR; of equally near
    ones the more permissive. That is what public near-infrared face code computes with the points that
    scikit-learn's `roc_curve` keeps; its false-accept rate may exceed the FAR.

    Returns:
        "VR@FAR=1% strict" and the like -> rate.

    Raises:
        InputError: as `rank_features`, or there is no genuine pair or no impostor pair.
    """
    rows, distances = nearest(query, gallery, query_labels, gallery_labels, len(gallery), metric, threads=threads)
    genuine = query_labels.identity[:, None] == gallery_labels.identity[rows]
    false_accepts, true_accepts = accepted(distances.ravel(), genuine.ravel())
    if not true_accepts[-1] or not false_accepts[-1]:
        kind = "genuine" if not true_accepts[-1] else "impostor"
        raise InputError(f"verification: none of the {genuine.size} pairs is {kind}: a rate needs both kinds")
    far, rate = false_accepts / false_accepts[-1], true_accepts / true_accepts[-1]
    corner = corners(false_accepts, true_accepts)
    found = {}
    for name, target in FALSE_ACCEPT_RATES.items():
        found[f"VR@FAR={name} strict"] = float(rate[np.searchsorted(far, target, side="right") - 1])
        gap = np.abs(far[corner] - target)
        found[f"VR@FAR={name} nearest"] = float(rate[corner][np.flatnonzero(gap == gap.min())[-1]])
    return found


def accepted(distances: np.ndarray, genuine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Impostor and genuine pairs accepted at every threshold, from none to all: each (thresholds + 1,) int64."""
    order = np.argsort(distances, kind="stable")
    distances, genuine = distances[order], genuine[order]
    # Equal distances are accepted together: a threshold is the last place of each value.
    last = np.append(np.flatnonzero(np.diff(distances)), len(distances) - 1)
    true_accepts = np.cumsum(genuine)[last]
    return np.append(0, 1 + last - true_accepts), np.append(0, true_accepts)


def corners(false_accepts: np.ndarray, true_accepts: np.ndarray) -> np.ndarray:
    """Places on the curve that are no mere step within a straight run of equal steps."""
    bend = (np.diff(false_accepts[1:], 2) != 0) | (np.diff(true_accepts[1:], 2) != 0)
    return np.flatnonzero(np.concatenate([[True, True], bend, [True]])[: len(false_accepts)])
