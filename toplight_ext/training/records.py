"""What a run keeps of an evaluation for its report beside the scores: ranked lists, an analysis of the features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .. import evaluation
from ..data import Modality, Sample
from ..evaluation.analysis import spread
from ..inference import Preprocessing, slice_activations
from ..models import DualPathNetwork
from ..nn import FDR

_RANKED_QUERIES = 24
_RANKED_TOP = 10
_SLICED = 128  # images of each modality whose slices are looked at
_EXAMPLES = 5  # identities shown with their slices, in both modalities


def ranked_record(features: evaluation.Features, protocol: evaluation.Protocol, metric: str) -> dict[str, Any]:
    """Ranked lists of queries spread evenly over the first trial, in the form of ranked.json."""

    def described(row: int) -> dict[str, Any]:
        return {
            "path": str(features.paths[row]),
            "identity": str(features.identity[row]),
            "camera": int(features.camera[row]),
            "modality": str(features.modality[row]),
        }

    queries = next(iter(protocol.trials(features))).query
    chosen = queries[spread(len(queries), _RANKED_QUERIES)]
    lists = evaluation.ranked_lists(features, protocol, top=_RANKED_TOP, queries=chosen, metric=metric)
    return {
        "queries": [
            {
                **described(query),
                "gallery": [
                    {**described(row), "correct": bool(correct), "distance": float(distance)}
                    for row, distance, correct in zip(rows, distances, corrects, strict=True)
                    if row >= 0
                ],
            }
            for query, rows, distances, corrects in zip(*lists, strict=True)
        ]
    }


def features_record(features: evaluation.Features, protocol: evaluation.Protocol, metric: str) -> dict[str, Any]:
    """Distances of pairs and the plane of the first two components, in the form of analysis.json."""
    distances = evaluation.pair_distances(features, protocol, metric)
    plane = evaluation.projection(features, protocol, metric)
    x, y = plane.points.T.round(5).tolist()
    return {
        "distances": {name: values.tolist() for name, values in distances._asdict().items()},
        "projection": {
            "x": x,
            "y": y,
            "variance": plane.variance.tolist(),
            "modality": features.modality[plane.rows].tolist(),
            "identity": [str(name) for name in features.identity[plane.rows]],
        },
    }


def slices_record(
    model: DualPathNetwork, samples: Sequence[Sample], fed: Preprocessing, device: torch.device, threads: int
) -> dict[str, Any]:
    """Activation of FDR's slices, in the form of analysis.json; nothing where the neck is no FDR."""
    if not isinstance(model.neck, FDR):
        return {}
    of = {m: [sample for sample in samples if sample.modality is m] for m in Modality}
    examples = _pairs(of)
    shown = [of[m][i] for m in Modality for i in spread(len(of[m]), _SLICED)]
    rows, columns = slice_activations(model, [*examples, *shown], fed, device=device, threads=threads)
    visible = np.array([sample.modality is Modality.VISIBLE for sample in shown])

    def means(values: np.ndarray) -> dict[str, list[float]]:
        sides = zip(Modality, (visible, ~visible), strict=True)
        return {m.value: values[len(examples) :][side].mean(0).tolist() for m, side in sides if side.any()}

    return {
        "slices": {
            "rows": means(rows),
            "columns": means(columns),
            "examples": [
                {
                    "path": str(sample.path),
                    "identity": str(sample.identity),
                    "modality": sample.modality.value,
                    "rows": rows[i].tolist(),
                    "columns": columns[i].tolist(),
                }
                for i, sample in enumerate(examples)
            ],
        }
    }


def _pairs(of: dict[Modality, list[Sample]]) -> list[Sample]:
    """A visible and an infrared image of a few identities, spread evenly over those that have both."""
    first = [{sample.identity: sample for sample in reversed(of[m])} for m in Modality]
    both = sorted(first[0].keys() & first[1].keys())
    return [samples[both[i]] for i in spread(len(both), _EXAMPLES) for samples in first]
