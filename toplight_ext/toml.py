"""TOML of strangers: read in bounded time and memory, merged, overridden, and strictly made into frozen dataclasses."""

from __future__ import annotations

import dataclasses
import difflib
import re
import sys
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from .errors import InputError
from .extras import require
from .files import read_bounded
from .text import plain

T = TypeVar("T")

# Our choice: eight times our longest recipe. The time of Python's parser grows with the square of a key's parts.
_MOST_BYTES = 1 << 14
_DEEPEST = 16
_LONGEST_KEY = 80  # beyond which it is like no other
_LONGEST_TEXT = 4096  # as a path
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f]")  # no path has them, and some calls of the system fail on them


def parse_toml(text: str) -> dict[str, Any]:
    """The tables of a text.

    Raises:
        ValueError: it is not valid TOML, is longer than 16 KiB, or nested more than 16 deep.
    """
    parser = require("tomllib" if sys.version_info >= (3, 11) else "tomli", extra="train")
    if len(text) > _MOST_BYTES:
        raise ValueError(f"{len(text):,} characters, more than the limit of {_MOST_BYTES:,}")
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


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a file.

    Raises:
        InputError: it cannot be read, or is not valid TOML.
    """
    try:
        return parse_toml(read_bounded(path, _MOST_BYTES).decode())
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path}: not valid TOML: {plain(error, 200)}") from error


def merge(base: dict[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the keys of `change` in place of its own, table by table."""
    merged = dict(base)
    for key, value in change.items():
        both_tables = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both_tables else value
    return merged


def override_key(table: dict[str, Any], override: str) -> None:
    """Set one key in place from `KEY=VALUE`: a dotted key and a TOML value, or a bare word.

    Raises:
        InputError: no such form, or the key leads through a value.
    """
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise InputError(f"--set {plain(override)!r}: expected KEY=VALUE, as top.epochs=5")
    try:
        value = parse_toml(f"value = {text}")["value"]
    except ValueError:
        value = text  # a bare word, such as a path
    *parents, last = key.strip().split(".")
    for name in parents:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise InputError(f"--set {plain(override)!r}: {plain(name)!r} is a value, not a table")
    table[last] = value


def build(cls: type[T], table: Any, where: str, prefix: str = "") -> T:
    """The dataclass that a table describes, tables in it included.

    Args:
        where: the table's origin, `prefix` the dotted key it stands under, both for errors.

    Raises:
        InputError: an unknown key, a missing or ill-typed value.
    """
    if not isinstance(table, Mapping):
        raise InputError(f"{where}: {prefix.rstrip('.')!r} should be a table, not {plain(repr(table))}")
    hints = typing.get_type_hints(cls)
    for key in table:
        if key not in hints:
            close = difflib.get_close_matches(key[:_LONGEST_KEY], hints, n=1)
            known = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(hints)}"
            raise InputError(f"{where}: unknown key {plain(prefix + key)!r}: {known}")
    missing = [
        f.name
        for f in dataclasses.fields(cls)
        if f.default is f.default_factory is dataclasses.MISSING and f.name not in table
    ]
    if missing:
        raise InputError(f"{where}: missing {', '.join(repr(prefix + name) for name in missing)}")
    fields = {key: _convert(hints[key], value, prefix + key, where) for key, value in table.items()}
    try:
        return cls(**fields)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _convert(hint: Any, value: Any, key: str, where: str):
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is False and any(map(dataclasses.is_dataclass, arguments)):
            return None  # TOML cannot say that a table of the base is left out
        for option in arguments:
            if option is not types.NoneType and _fits(option, value):
                return _convert(option, value, key, where)
    elif _fits(hint, value):
        if dataclasses.is_dataclass(hint):
            return build(hint, value, where, key + ".")
        if origin is tuple:
            items = arguments[:1] * len(value) if arguments[1:] == (...,) else arguments
            if len(items) == len(value):
                pairs = enumerate(zip(items, value, strict=True))
                return tuple(_convert(item, v, f"{key}[{i}]", where) for i, (item, v) in pairs)
        else:
            return float(value) if hint is float else value
    advice = _about_text(value) if str in (hint, *arguments) else ""
    raise InputError(f"{where}: {key!r} should be {_name(hint)}, not {plain(repr(value))}{advice}")


def _fits(hint: Any, value: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return value in typing.get_args(hint)
    if origin is tuple:
        return isinstance(value, (list, tuple))
    if dataclasses.is_dataclass(hint):
        return isinstance(value, Mapping)
    if type(value) is int and not -(2**63) <= value < 2**63:
        return False  # nor does TOML promise more
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is str:
        return isinstance(value, str) and len(value) <= _LONGEST_TEXT and not _CONTROLS.search(value)
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))


def _name(hint: Any) -> str:
    """What a value should be, in words of TOML."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        options = [_name(option) for option in arguments if option is not types.NoneType]
        tables = any(map(dataclasses.is_dataclass, arguments))
        return " or ".join([*options, *(["false, which leaves it out"] if tables else [])])
    if origin is typing.Literal:
        return "one of " + ", ".join(map(repr, arguments))
    if origin is tuple:
        count = "" if arguments[1:] == (...,) else f"{len(arguments)} "
        return f"a list of {count}{_PLURALS[arguments[0]]}"
    return "a table" if dataclasses.is_dataclass(hint) else _NAMES[hint]


_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_PLURALS = {int: "whole numbers", float: "numbers"}


def _about_text(value: Any) -> str:
    if isinstance(value, str):
        return f": it has up to {_LONGEST_TEXT} characters, none of them a control character"
    return "; text that reads as something else needs double quotes, on a shell '\"...\"'"


def without_none(value: Any) -> Any:
    """The value without the keys whose value is None, which TOML cannot say."""
    if isinstance(value, Mapping):
        return {key: without_none(item) for key, item in value.items() if item is not None}
    return [without_none(item) for item in value] if isinstance(value, (list, tuple)) else value
