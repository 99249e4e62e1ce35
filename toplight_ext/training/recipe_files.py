"""Recipes in files: TOML, strictly read, over bases and under overrides.

A recipe may name another one as its `base` (a file in its folder or below, or the name of an installed recipe) and
then only says what differs; `false` leaves out a stage that the base has. An unknown key is an error.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..errors import InputError
from ..evaluation.names import AGW
from ..extras import require
from ..text import plain
from ..toml import build, merge, override_key, read_toml, without_none
from .recipe import Recipe

_MOST_BASES = 16
_TABLES_WITH_PATHS = ("model", "evaluation", "data", "test", "dev", "pretraining_data")
_PATHS = ("weights", "pretrained", "permutations", "root", "cache")

T = TypeVar("T")


def load_recipe(source: str | Path, overrides: Sequence[str] = (), base: str | Path | None = None) -> Recipe:
    """Read a recipe file, or the installed recipe of that name, and apply `KEY=VALUE` overrides.

    Args:
        source: path of a TOML file, or the name of one of `installed_recipes()`.
        overrides: dotted keys with TOML values, as `top.epochs=5` or `data.root=/data/sysu`.
        base: recipe in place of the installed one that the recipe is based on.

    Raises:
        InputError: no such recipe, TOML that does not parse, an unknown key, a missing or ill-typed value.
    """
    path = find_recipe(source)
    own, named = _own_tables(path)
    if base is not None and named is None:
        raise InputError(f"{path}: the recipe has no base which {str(base)!r} could take the place of")
    table = merge(_below(path, named, base), own)
    return recipe_from_dict(_overridden(table, overrides), _origin(path, overrides))


def load_row(path: Path, overrides: Sequence[str] = (), base: str | Path | None = None) -> Recipe:
    """As `load_recipe`, for a row of a table: what the row says of its base holds against the overrides."""
    own, named = _own_tables(path)
    return recipe_from_dict(merge(_overridden(_below(path, named, base), overrides), own), _origin(path, overrides))


def recipe_from_dict(table: Mapping[str, Any], where: str) -> Recipe:
    """The recipe that a nested table describes; `where` names its origin in errors."""
    return build(Recipe, table, where)


def recipe_to_toml(recipe: Recipe) -> str:
    """The resolved recipe, defaults written out, as TOML that `load_recipe` reads back to an equal recipe."""
    return require("tomli_w", extra="train").dumps(without_none(dataclasses.asdict(recipe)))


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """The recipe, saying from any working directory what it says from this one."""
    changed = {name: _absolute_in(getattr(recipe, name)) for name in _TABLES_WITH_PATHS}
    return _absolute_in(dataclasses.replace(recipe, **changed))


def _absolute_in(table: T) -> T:
    """The dataclass or None, its fields that are paths made absolute."""
    given = {name: getattr(table, name, None) for name in _PATHS}
    named = {name: path for name, path in given.items() if isinstance(path, str)}
    if named.get("permutations") == AGW:
        del named["permutations"]
    return (
        dataclasses.replace(table, **{name: os.path.abspath(path) for name, path in named.items()}) if named else table
    )


def installed_recipes() -> dict[str, Path]:
    """Recipes that come with the package, by name; those of a table as "table3/5_soup"."""
    from .. import __path__ as package_folders

    folders = [Path(folder) / "recipes" for folder in package_folders]
    return {
        path.relative_to(folder).with_suffix("").as_posix(): path
        for folder in folders
        for path in sorted(folder.rglob("*.toml"))
    }


def find_recipe(source: str | Path) -> Path:
    if Path(source).is_file():
        return Path(source)
    return _installed(str(source), "")


def _installed(name: str, where: str) -> Path:
    known = installed_recipes()
    if name not in known:
        names = ", ".join(sorted(name for name in known if "/" not in name))
        expected = f"give a TOML file or one of {names}, or a row as table3/5_soup"
        raise InputError(f"{where}no recipe {plain(name)!r}: {expected}")
    return known[name]


def _below(path: Path, named: str | None, base: str | Path | None = None) -> dict[str, Any]:
    """The tables of the installed recipe that a file names, or of `base` in its place, over those of its bases."""
    if named is base is None:
        return {}
    below = _installed(named, f"{path}: ") if base is None else find_recipe(base)
    own, named = _own_tables(below)
    return merge(_below(below, named), own)


def _own_tables(path: Path, seen: tuple[Path, ...] = ()) -> tuple[dict[str, Any], str | None]:
    """The tables of a file over those of its neighbours, and the name of the installed recipe below them."""
    if path.resolve() in seen:
        raise InputError(f"{path}: the recipe is its own base")
    if len(seen) > _MOST_BASES:
        raise InputError(f"{path}: more than {_MOST_BASES} recipes, each the base of another")
    table = read_toml(path)
    named = table.pop("base", None)
    if not isinstance(named, str | None):
        raise InputError(f"{path}: base = {plain(repr(named))}: expected the path or the name of a recipe")
    if named is None:
        return table, None
    neighbour = path.parent / named
    if not os.path.isfile(neighbour):  # False too for a name that is none, as one too long or with a NUL
        return table, named
    if not neighbour.resolve().is_relative_to(path.parent.resolve()):
        raise InputError(f"{path}: base = {named!r} leads out of the recipe's folder; copy it beside the recipe")
    below, named = _own_tables(neighbour, (*seen, path.resolve()))
    return merge(below, table), named


def _origin(path: Path, overrides: Sequence[str]) -> str:
    return f"{path} with its --set" if overrides else str(path)


def _overridden(table: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    for override in overrides:
        override_key(table, override)
    return table
