"""A run folder as a report sees it: every file read with care, whatever is missing or broken said in words."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..evaluation import SCORES
from ..toml import parse_toml
from .analysis import Analysis, read_analysis
from .text import count, plain

FILES = (
    "recipe.toml",
    "metrics.jsonl",
    "stages.json",
    "evaluation.json",
    "ranked.json",
    "analysis.json",
    "environment.json",
)
METRICS = {name: label.replace("rank", "Rank") for name, label in SCORES.items()}

# What a line of metrics.jsonl may hold besides the loss and its parts.
_NOT_LOSSES = {"step", "epoch", "learning_rate", "images_per_second"}
# More than a run of ours writes, and little enough for a page that opens at once.
_MOST_BYTES = 16 << 20
_MOST_LOGGED_BYTES = 64 << 20  # of metrics.jsonl
_MOST_LINES = 500_000
_MOST_TERMS = 32  # of a line
_MOST_LISTS = 10_000
_MOST_RANKED = 100
_MOST_ROWS = 40
_MOST_STAGES = 12
_MOST_PARTS = 6
_MOST_SETTINGS = 1000


@dataclass(frozen=True, slots=True)
class Row:
    """One evaluation: figures are fractions of 1 by metric name, `cmc` the hit rate at rank 1, 2, ..."""

    name: str
    label: str
    figures: dict[str, float]
    std: dict[str, float]
    trials: int | None
    protocol: str
    metric: str
    queries: int | None
    cmc: tuple[float, ...]

    @property
    def test(self) -> tuple:
        """What two evaluations must share for their figures to be compared."""
        return self.protocol, self.metric, self.queries, self.trials


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """What a stage wrote while it trained: arrays (T,) over the logged steps, NaN where a line lacks the value."""

    name: str
    steps: np.ndarray
    losses: dict[str, np.ndarray]  # "loss" first, then its parts
    learning_rate: np.ndarray
    epochs: int
    looks: np.ndarray  # (2, L): after how many steps the dev split was looked at, and mAP there as a fraction
    seconds: float | None  # None: the stage has not ended
    images_per_second: float | None


@dataclass(frozen=True, slots=True)
class Picture:
    """An image of a ranked list; `correct` and `distance` (to the query) only for gallery images."""

    path: str
    identity: str
    camera: str
    modality: str
    correct: bool | None = None
    distance: float | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """A query image and its nearest gallery images, nearest first."""

    picture: Picture
    gallery: tuple[Picture, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """All that a run folder tells; `notes` are sentences on what it does not tell."""

    name: str
    recipe: str | None = None
    settings: dict[str, str] = field(default_factory=dict)  # of the recipe, keys dotted
    stages: tuple[Stage, ...] = ()
    rows: tuple[Row, ...] = ()
    queries: tuple[Query, ...] = ()
    analysis: Analysis = field(default_factory=Analysis)
    environment: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def result(self) -> Row | None:
        """The last evaluation."""
        return self.rows[-1] if self.rows else None


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        InputError: it is no folder, or has none of the files of a run.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; name the folder that 'toplight train' wrote")
    if not any((folder / name).is_file() for name in FILES):
        raise InputError(f"{folder}: not a run folder, it has none of {', '.join(FILES)}")
    notes: list[str] = []
    recipe = _read_text(folder / "recipe.toml", notes)
    metrics = _read_text(folder / "metrics.jsonl", notes, _MOST_LOGGED_BYTES)
    settings = _settings(recipe, notes)
    dev = folder / "dev.jsonl"  # not every recipe asks for it
    looks = _read_text(dev, notes, _MOST_LOGGED_BYTES) if dev.exists() else None
    return Run(
        name=_name(folder.resolve().name or str(folder), settings),
        recipe=recipe,
        settings=settings,
        stages=_stages(metrics, looks, _read_json(folder / "stages.json", notes), notes),
        rows=_rows(_read_json(folder / "evaluation.json", notes), notes),
        queries=read_queries(_read_json(folder / "ranked.json", notes), notes),
        analysis=read_analysis(_read_json(folder / "analysis.json", notes), notes),
        environment=_flat(_read_json(folder / "environment.json", notes)),
        notes=tuple(notes),
    )


def _name(folder: str, settings: Mapping[str, str]) -> str:
    """The recipe's name, and the folder's where it is another, as of one seed of several."""
    named = settings.get("name", folder)
    return folder if named == folder else f"{plain(named)} ({folder})"


def read_rows(results: Iterable[object]) -> list[Row]:
    """Evaluations in the form of evaluation.json; what is no object is left out."""
    return [_row(entry) for entry in results if isinstance(entry, Mapping)]


def read_queries(ranked: object, notes: list[str]) -> tuple[Query, ...]:
    """Ranked lists in the form of ranked.json; entries without a readable form are counted into `notes`."""
    entries = _list(ranked, "queries")[:_MOST_LISTS]
    queries = tuple(
        Query(
            _picture(entry),
            tuple(_picture(g) for g in _list(entry, "gallery")[:_MOST_RANKED] if isinstance(g, Mapping)),
        )
        for entry in entries
        if isinstance(entry, Mapping)
    )
    if len(queries) < len(entries):
        notes.append(f"ranked.json: {count(len(entries) - len(queries), 'entry')} could not be read.")
    return queries


def number(value: object) -> float | None:
    """A finite float of sane size, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if abs(value) <= 1e15 else None  # false for NaN as well


def _read_text(path: Path, notes: list[str], most: int = _MOST_BYTES) -> str | None:
    if not path.is_file():  # a device or a pipe under that name is not opened either
        notes.append(f"{path.name} is missing.")
        return None
    try:
        if path.stat().st_size > most:
            notes.append(f"{path.name} is larger than {most >> 20} MiB and was not read.")
            return None
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        notes.append(f"{path.name} could not be read: {error.strerror}.")
        return None


def _read_json(path: Path, notes: list[str]) -> object:
    text = _read_text(path, notes)
    if text is None:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        notes.append(f"{path.name} is not valid JSON: {plain(error)}.")
        return None


def _list(value: object, key: str) -> list:
    found = value.get(key) if isinstance(value, Mapping) else None
    return found if isinstance(found, list) else []


def _picture(entry: Mapping) -> Picture:
    correct = entry.get("correct")
    return Picture(
        path=str(entry.get("path", "")),
        identity=str(entry.get("identity", "?")),
        camera=str(entry.get("camera", "?")),
        modality=str(entry.get("modality", "")),
        correct=correct if isinstance(correct, bool) else None,
        distance=number(entry.get("distance")),
    )


def _rows(evaluation: object, notes: list[str]) -> tuple[Row, ...]:
    results = [entry for entry in _list(evaluation, "results") if isinstance(entry, Mapping)]
    if evaluation is not None and not results:
        notes.append("evaluation.json holds no result.")
    if len(results) > _MOST_ROWS:
        notes.append(f"evaluation.json: only the last {_MOST_ROWS} of {len(results):,} results are shown.")
    return tuple(read_rows(results[-_MOST_ROWS:]))


def _row(entry: Mapping) -> Row:
    std = entry.get("std")
    trials, queries = number(entry.get("trials")), number(entry.get("valid_queries"))
    cmc = [number(value) for value in _list(entry, "cmc")[:100]]
    return Row(
        name=str(entry.get("name", "")),
        label=str(entry.get("label") or entry.get("name") or "evaluation"),
        figures=_figures(entry),
        std=_figures(std) if isinstance(std, Mapping) else {},
        trials=None if trials is None else int(trials),
        protocol=str(entry.get("protocol", "")),
        metric=str(entry.get("metric", "")),
        queries=None if queries is None else int(queries),
        cmc=() if None in cmc else tuple(cmc),
    )


def _figures(entry: Mapping) -> dict[str, float]:
    return {name: value for name in METRICS if (value := number(entry.get(name))) is not None}


def _stages(metrics: str | None, dev: str | None, finished: object, notes: list[str]) -> tuple[Stage, ...]:
    """Group the lines of both logs by stage and add what stages.json says of the stages that have ended."""
    entries = finished if isinstance(finished, list) else []
    ends = {str(entry.get("stage")): entry for entry in entries if isinstance(entry, Mapping)}
    lines, looks = _lines_by_stage("metrics.jsonl", metrics, notes), _lines_by_stage("dev.jsonl", dev, notes)
    names = list(dict.fromkeys([*ends, *lines]))  # a stage without steps, as the soup, stands in stages.json alone
    if len(names) > _MOST_STAGES:
        notes.append(f"Only the first {_MOST_STAGES} of {len(names):,} stages are shown.")
    stages = tuple(_stage(n, lines.get(n, {}), looks.get(n, {}), ends.get(n), notes) for n in names[:_MOST_STAGES])
    notes.extend(f"Stage {plain(stage.name)} has not ended." for stage in stages if stage.seconds is None)
    return stages


def _lines_by_stage(name: str, text: str | None, notes: list[str]) -> dict[str, dict[float, Mapping]]:
    """{stage: {step: line}} of a log, in order of first mention; of a step that stands there twice the last line."""
    found: dict[str, dict[float, Mapping]] = {}
    broken = 0
    text_lines = (text or "").split("\n")  # not splitlines: JSON may hold other line separators
    if len(text_lines) > _MOST_LINES:
        notes.append(f"{name}: only the first {_MOST_LINES:,} of {len(text_lines):,} lines are read.")
    for text_line in text_lines[:_MOST_LINES]:
        if not text_line.strip():
            continue
        try:
            line = json.loads(text_line)
        except (ValueError, RecursionError):
            line = None
        step = number(line.get("step")) if isinstance(line, Mapping) else None
        if step is None:
            broken += 1
        else:
            found.setdefault(str(line.get("stage", "training")), {})[step] = _numbers(line)
    if broken:
        notes.append(f"{name}: {count(broken, 'line')} could not be read.")
    return found


def _numbers(line: Mapping) -> dict[str, float]:
    """What can be drawn of a line, whatever else it holds."""
    values = ((key, number(value)) for key, value in itertools.islice(line.items(), _MOST_TERMS))
    return {key: value for key, value in values if value is not None}


def _stage(
    name: str, lines: Mapping[float, Mapping], looks: Mapping[float, Mapping], end: Mapping | None, notes: list[str]
) -> Stage:
    steps = sorted(lines)
    logged = [lines[step] for step in steps]
    keys = dict.fromkeys(key for line in logged for key in line)
    parts = sorted((key for key in keys if key not in _NOT_LOSSES), key=lambda key: key != "loss")
    if len(parts) > _MOST_PARTS:
        notes.append(f"Stage {plain(name)}: only {_MOST_PARTS} of {len(parts):,} loss terms are drawn.")
    losses = {part: _column(logged, part) for part in parts[:_MOST_PARTS]}
    if len(losses) == 2 and np.array_equal(*losses.values(), equal_nan=True):
        losses.popitem()  # a loss of one term is drawn once
    seen = sorted((step, line["mAP"]) for step, line in looks.items() if "mAP" in line)
    return Stage(
        name=name,
        steps=np.array(steps, dtype=np.float64),
        losses=losses,
        learning_rate=_column(logged, "learning_rate"),
        epochs=len({line["epoch"] for line in logged if "epoch" in line}),
        looks=np.array(seen, dtype=np.float64).reshape(-1, 2).T,
        seconds=number(end.get("seconds")) if end else None,
        images_per_second=number(end.get("images_per_second")) if end else None,
    )


def _column(lines: list[Mapping], key: str) -> np.ndarray:
    return np.array([line.get(key, math.nan) for line in lines], dtype=np.float64)


def _settings(recipe: str | None, notes: list[str]) -> dict[str, str]:
    if recipe is None:
        return {}
    try:
        return _flat(parse_toml(recipe))
    except ValueError as error:
        notes.append(f"recipe.toml is not valid TOML: {plain(error)}.")
        return {}


def _flat(value: object, prefix: str = "", depth: int = 8) -> dict[str, str]:
    """Nested tables as one, {'optimiser.name': 'AdamW'}; lists and numbers as text, below `depth` nothing."""
    flat: dict[str, str] = {}
    for key, entry in value.items() if isinstance(value, Mapping) and depth else ():
        name = f"{prefix}{key}"
        if isinstance(entry, list) and entry and all(isinstance(item, Mapping) for item in entry):
            entry = {str(position): item for position, item in enumerate(entry, start=1)}
        if isinstance(entry, Mapping):
            flat.update(_flat(entry, f"{name}.", depth - 1))
        else:
            flat[name] = "none" if entry is None else str(entry)
        if len(flat) > _MOST_SETTINGS:
            break
    return flat
