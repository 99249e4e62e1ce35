"""TOML of strangers: read in bounded time and memory."""

from __future__ import annotations

import sys
from typing import Any

from .extras import require

# Our choice: eight times our longest recipe. The time of Python's parser grows with the square of a key's parts.
MOST_BYTES = 1 << 14
_DEEPEST = 16


def parse_toml(text: str) -> dict[str, Any]:
    """The tables of a text.

    Raises:
        ValueError: it is not valid TOML, is longer than 16 KiB, or nested more than 16 deep.
    """
    parser = require("tomllib" if sys.version_info >= (3, 11) else "tomli", extra="train")
    if len(text) > MOST_BYTES:
        raise ValueError(f"{len(text):,} characters, more than the limit of {MOST_BYTES:,}")
    try:
        tables = parser.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    _check_depth(tables, _DEEPEST)
    return tables


def _check_depth(value: Any, deepest: int) -> None:
    if deepest < 0:
        raise ValueError(f"it is nested more than {_DEEPEST} deep")
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_depth(inner, deepest - 1)
