"""The model card: what a network is, what it was measured on, and what it must not be used for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..evaluation import MAIN_SCORES, SCORES
from ..files import write_text
from ..text import markdown
from .parity import HEAD, Parity

FILE_NAME = "MODEL_CARD.md"

_UNKNOWN = "not recorded"
_USE = """## Intended use
Retrieval between visible and infrared images of the kind it was trained on: research, evaluation of methods, and
applications whose operator has a legal basis for comparing these images. A distance is a similarity of pictures, not
a proof of identity: whatever follows from a match is for a person to decide.

## Must not be used
- to identify, track or single out people without a legal basis for it: their consent or a law that allows it;
- to decide about people by itself;
- to conclude traits such as origin, health or belief from pictures.

Error rates were measured on the data below and nowhere else; on other cameras, places and people they will differ,
and they may differ between groups of people, which has not been measured."""


def model_card(
    name: str,
    arguments: Mapping[str, Any],
    metadata: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]] = (),
    licence: str | None = None,
    parity: Sequence[Parity] = (),
) -> str:
    """The card in Markdown. It says nothing that it was not given: what is missing is called not recorded.

    Args:
        name: of the network, or its file.
        arguments: of `create_model`.
        metadata: of the weights file.
        results: evaluations, as `Result.to_json` gives them.
        licence: of the data it was trained on.
        parity: of exported files.
    """
    parts = [f"# {markdown(name)}", _network(arguments, metadata), _USE, _data(metadata, licence), _numbers(results)]
    if parity:
        title = "## Exported files against PyTorch\nDifference is relative to the largest number of an embedding.\n"
        parts.append(f"{title}\n{_table(HEAD, [row.cells() for row in parity])}")
    return "\n\n".join(parts) + "\n"


def write_model_card(folder: str | Path, *arguments, **named) -> Path:
    """Write `model_card(...)` as MODEL_CARD.md into a folder, atomically."""
    path = Path(folder) / FILE_NAME
    write_text(path, model_card(*arguments, **named))
    return path


def _network(arguments: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    size = metadata.get("size")
    rows = [
        ("backbone", arguments.get("name")),
        ("neck", arguments.get("neck")),
        ("slices", arguments.get("slices")),
        ("input layer", arguments.get("input_layer")),
        ("last stride", arguments.get("last_stride")),
        ("blocks of its own per modality", arguments.get("duplicated")),
        ("input, height x width", f"{size[0]} x {size[1]}" if isinstance(size, Sequence) and len(size) == 2 else None),
        ("stage", metadata.get("stage")),
        ("recipe", metadata.get("recipe")),
    ]
    return f"## Network\n{_table(('', ''), [[label, _value(value)] for label, value in rows])}"


def _data(metadata: Mapping[str, Any], licence: str | None) -> str:
    names = (" ".join(filter(None, (known["dataset"], known["split"]))) for known in metadata.get("trained_on", ()))
    lines = [f"- trained on: {', '.join(map(markdown, names)) or _UNKNOWN}"]
    if metadata.get("ingredients"):
        lines.append(f"- soup of {len(metadata['ingredients'])} files")
    lines.append(f"- licence of the data: {markdown(licence) if licence else _UNKNOWN}; the network may be bound by it")
    return "\n".join(["## Data", *lines])


def _numbers(results: Sequence[Mapping[str, Any]]) -> str:
    if not results:
        return f"## Numbers\n{_UNKNOWN.capitalize()}."
    scores = (SCORES[name] for name in MAIN_SCORES)
    head = ("protocol", "metric", "images", *scores, "trials", "valid queries")
    return "## Numbers\nIn percent; with several trials the mean and their standard deviation.\n\n" + _table(
        head, [_result(result) for result in results]
    )


def _result(result: Mapping[str, Any]) -> list[str]:
    images = result.get("images")
    spread = result.get("std") if (_number(result.get("trials")) or 1) > 1 else None
    spread = spread if isinstance(spread, Mapping) else {}
    scores = [_percent(_number(result.get(name)), _number(spread.get(name))) for name in MAIN_SCORES]
    return [
        _value(result.get("protocol")),
        _value(result.get("metric")),
        markdown(" ".join(str(part) for part in images if part)) if isinstance(images, list | tuple) else _UNKNOWN,
        *scores,
        _value(result.get("trials")),
        _value(result.get("valid_queries")),
    ]


def _number(value: Any) -> float | None:
    """The results of a run lie in a file of strangers."""
    return float(value) if isinstance(value, int | float) and abs(value) < 1e15 else None


def _percent(value: float | None, spread: float | None) -> str:
    if value is None:
        return _UNKNOWN
    return f"{100 * value:.2f}" + (f" ± {100 * spread:.2f}" if spread is not None else "")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _value(value: Any) -> str:
    return _UNKNOWN if value is None else markdown(value)
