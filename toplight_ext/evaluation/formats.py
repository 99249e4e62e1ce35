"""Results for people and papers: a table, CSV, and rows of LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from .scores import SCORES, Result

# The order in which papers on visible-infrared re-identification print them, and those on faces.
LATEX_COLUMNS = ("r1", "r10", "r20", "mAP")
LATEX_FACE_COLUMNS = ("r1", "VR@FAR=1% strict", "VR@FAR=0.1% strict")


def table(result: Result) -> str:
    """The scores in percent, with the protocol and how the features came about above them."""
    trials = "1 trial" if result.trials == 1 else f"{result.trials} trials"
    lines = [
        f"{result.protocol}; {result.metric}; {trials}",
        f"{result.valid_queries} of {result.queries} queries have a match; gallery of {result.gallery} images",
        f"feature {result.origin.feature or 'unknown'}; flip {_yes(result.origin.flip)}; "
        f"re-ranking {_yes(result.reranking is not None)}",
        _line("", list(SCORES.values())),
        _line("mean", [_percent(getattr(result, name)) for name in SCORES]),
    ]
    if result.trials > 1:
        lines.append(_line("std", [_percent(result.std[name]) for name in SCORES]))
        lines += [_line(trial.name, [_percent(trial.scores[name]) for name in SCORES]) for trial in result.per_trial]
    for name, rate in result.verification.items():
        spread = f" (std {_percent(result.std[name])})" if result.trials > 1 else ""
        lines.append(f"{name:<20}{_percent(rate):>8}{spread}")
    return "\n".join(lines)


def to_csv(results: Sequence[Result]) -> str:
    """One row per trial, then mean and standard deviation, of every result; scores as fractions of 1."""
    scores = list(dict.fromkeys(name for result in results for name in result.scores))
    described = ("protocol", "metric", "feature", "flip", "reranking")
    counts = ("queries", "valid_queries", "gallery")
    text = io.StringIO()
    writer = csv.DictWriter(text, [*described, "trial", *scores, *counts], lineterminator="\n")
    writer.writeheader()
    for result in results:
        known = {
            "protocol": result.protocol,
            "metric": result.metric,
            "feature": result.origin.feature,
            "flip": result.origin.flip,
            "reranking": result.reranking,
        }
        mean = {"trial": "mean", **result.scores, **{name: getattr(result, name) for name in counts}}
        for row in (*(trial.to_json() for trial in result.per_trial), mean, {"trial": "std", **result.std}):
            writer.writerow({**known, **row})
    return text.getvalue().rstrip("\n")


def to_latex(results: Sequence[Result], label: str) -> str:
    """One row of a table, the columns of all results side by side, after comments that name their protocols.

    Columns of each: rank-1, rank-10, rank-20, mAP; of faces: rank-1, VR@FAR=1%, VR@FAR=0.1%, both strict.
    """
    cells = [f"{100 * result.scores[name]:.2f}" for result in results for name in _columns(result)]
    notes = [f"% {result.protocol}; {result.metric}: {', '.join(_columns(result))}" for result in results]
    return "\n".join([*notes, " & ".join([label, *cells]) + r" \\"])


def _columns(result: Result) -> tuple[str, ...]:
    return LATEX_FACE_COLUMNS if result.verification else LATEX_COLUMNS


def _line(name: str, cells: Sequence[str]) -> str:
    return f"{name:<10}" + "".join(f"{cell:>9}" for cell in cells)


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def _yes(value: bool | None) -> str:
    return "unknown" if value is None else "yes" if value else "no"
