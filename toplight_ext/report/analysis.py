"""analysis.json as a report sees it: what was found in the features of the last evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..evaluation.features import MODALITIES
from .text import plain

_MOST_VALUES = 4096  # numbers of one list that a page draws
_MOST_SLICES = 64
_MOST_EXAMPLES = 12


@dataclass(frozen=True, slots=True, eq=False)
class Distances:
    """Pairs by distance: `edges` (n + 1,), counts of pairs of one identity and of two, (n,) each."""

    edges: np.ndarray
    genuine: np.ndarray
    impostor: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """Images on the first two principal components: points (n, 2), of visible images where `visible` (n,) says so."""

    points: np.ndarray
    visible: np.ndarray
    identity: tuple[str, ...]
    variance: np.ndarray  # (2,) share of the whole variance


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """An image and the activation of its slices, rows (n_h,) from top to bottom, columns (n_v,) from the left."""

    path: str
    identity: str
    modality: str
    rows: np.ndarray
    columns: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Slices:
    """Mean activation of every slice, by modality, and examples."""

    rows: dict[str, np.ndarray]
    columns: dict[str, np.ndarray]
    examples: tuple[Example, ...]


@dataclass(frozen=True, slots=True)
class Analysis:
    """The content of analysis.json, whatever of it is there."""

    distances: Distances | None = None
    projection: Projection | None = None
    slices: Slices | None = None


def read_analysis(value: object, notes: list[str]) -> Analysis:
    """Read analysis.json's content; parts that cannot be read are named in `notes`."""
    found = {}
    for name, read in (("distances", _distances), ("projection", _projection), ("slices", _slices)):
        part = value.get(name) if isinstance(value, Mapping) else None
        if part is None:
            continue
        try:
            found[name] = read(part)
        except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
            notes.append(f"analysis.json: {name} could not be read: {plain(error)}.")
    return Analysis(**found)


def _distances(part: Mapping) -> Distances:
    edges, genuine, impostor = (_vector(part[name]) for name in ("edges", "genuine", "impostor"))
    if len(edges) != len(genuine) + 1 or len(genuine) != len(impostor) or min(genuine.min(), impostor.min()) < 0:
        raise ValueError("lists that do not belong together")
    return Distances(edges, genuine, impostor)


def _projection(part: Mapping) -> Projection:
    x, y, variance = (_vector(part[name]) for name in ("x", "y", "variance"))
    modality, identity = list(part["modality"]), tuple(str(name) for name in part["identity"])
    if not len(x) == len(y) == len(modality) == len(identity) or len(variance) != 2:
        raise ValueError("lists that do not belong together")
    visible = np.array([name == MODALITIES[0] for name in modality])
    return Projection(np.stack([x, y], axis=1), visible, identity, variance)


def _slices(part: Mapping) -> Slices:
    rows, columns = (_by_modality(part[name]) for name in ("rows", "columns"))
    examples = tuple(
        Example(
            str(entry.get("path", "")),
            str(entry.get("identity", "?")),
            str(entry.get("modality", "")),
            _vector(entry["rows"], _MOST_SLICES),
            _vector(entry["columns"], _MOST_SLICES),
        )
        for entry in list(part.get("examples", []))[:_MOST_EXAMPLES]
    )
    return Slices(rows, columns, examples)


def _by_modality(part: Mapping) -> dict[str, np.ndarray]:
    return {name: _vector(part[name], _MOST_SLICES) for name in MODALITIES if name in part}


def _vector(value: Sequence, most: int = _MOST_VALUES) -> np.ndarray:
    found = np.array(list(value), dtype=np.float64)
    if found.ndim != 1 or not 0 < len(found) <= most or not (np.abs(found) <= 1e15).all():
        raise ValueError(f"expected 1 to {most} finite numbers")
    return found
