"""Recipes: a training run as data. TOML in, frozen dataclasses out; an unknown key is an error.

A recipe may name another one as its `base` (a path relative to itself, or the name of an installed recipe) and
then only says what differs. A table that is absent leaves its stage out: `pretrain`, `top` and `soup` are
optional, so a run may also start from public weights (`model.pretrained`).

The paper publishes the order of the stages; epochs, rates, ranges and loss weights are our choice.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data import Augmentation
from ..errors import InputError
from ..extras import require


@dataclass(frozen=True)
class Dataset:
    """One split of a data set: the arguments of `data.load_dataset`."""

    name: str
    root: str
    split: str | None = None


@dataclass(frozen=True)
class Model:
    """The arguments of `create_model` that a recipe chooses."""

    backbone: str = "mobilenetv3_large_100"
    neck: str = "fdr"
    slices: tuple[int, int] = (6, 3)
    groups: int | None = None
    last_stride: int = 2
    pretrained: bool | str = False


@dataclass(frozen=True)
class Optimiser:
    """AdamW or SGD with Nesterov momentum; linear warm-up, then a cosine to zero, both counted in steps."""

    name: typing.Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    momentum: float = 0.9
    warmup_epochs: float = 1.0
    clip_norm: float | None = None


@dataclass(frozen=True)
class Pretrain:
    """Stage 0: one path, identity loss."""

    epochs: int = 10
    batch_size: int = 64
    label_smoothing: float = 0.1
    augmentation: Augmentation = Augmentation()
    optimiser: Optimiser = Optimiser()


@dataclass(frozen=True)
class Top:
    """Stage 1: task-oriented pretraining; path 1 sees the colour, path 2 the texture augmentations."""

    epochs: int = 10
    batch_size: int = 64
    label_smoothing: float = 0.1
    kl_weight: float = 1.0
    domain_weight: float = 0.1
    reversal: float = 1.0
    path1: Augmentation = Augmentation()
    path2: Augmentation = Augmentation()
    share_geometry: bool = False
    optimiser: Optimiser = Optimiser()


@dataclass(frozen=True)
class Soup:
    """Stage 2: the paths are averaged but for their first `keep` blocks, the stems; BatchNorm statistics are
    taken anew over `statistics_batches` batches of stage 1."""

    keep: int = 1
    statistics_batches: int = 30


@dataclass(frozen=True)
class VI:
    """Stage 3: visible-infrared training; a loss whose weight is 0 is not computed."""

    epochs: int = 20
    identities: int = 16
    images_per_identity: int = 4
    identity_weight: float = 1.0
    label_smoothing: float = 0.1
    triplet_weight: float = 1.0
    margin: float = 0.3
    infonce_weight: float = 0.0
    temperature: float = 0.1
    visible: Augmentation = Augmentation()
    infrared: Augmentation = Augmentation()
    optimiser: Optimiser = Optimiser()


@dataclass(frozen=True)
class Evaluation:
    """How the stages of a run are compared; the test set never chooses anything."""

    protocol: str = "infrared->visible"
    metric: typing.Literal["cosine", "euclidean"] = "cosine"
    shots: int = 1
    permutations: str | None = None
    batch_size: int = 128


@dataclass(frozen=True)
class Recipe:
    """A whole run. `data` is the visible-infrared set trained on, `test` the one evaluated on, and
    `pretraining_data` the visible images of stages 0 and 1."""

    name: str
    data: Dataset
    test: Dataset
    size: tuple[int, int] = (288, 144)
    seed: int = 0
    device: str = "auto"
    precision: typing.Literal["float32", "bfloat16"] = "float32"
    threads: int = 2
    tensorboard: bool = False
    model: Model = Model()
    pretraining_data: Dataset | None = None
    pretrain: Pretrain | None = None
    top: Top | None = None
    soup: Soup | None = None
    vi: VI | None = None
    evaluation: Evaluation = field(default_factory=Evaluation)

    def __post_init__(self) -> None:
        if (self.pretrain or self.top) and self.pretraining_data is None:
            raise InputError("recipe: the stages pretrain and top need the table [pretraining_data]")
        if self.soup and not self.top:
            raise InputError("recipe: the stage soup averages the two paths of top: add [top] or leave out [soup]")
        if not (self.pretrain or self.top or self.vi):
            raise InputError("recipe: no stage: give at least one of [pretrain], [top] and [vi]")

    @property
    def stages(self) -> tuple[str, ...]:
        return tuple(name for name in ("pretrain", "top", "soup", "vi") if getattr(self, name) is not None)


def load_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file, or the installed recipe of that name, and apply `KEY=VALUE` overrides.

    Args:
        source: path of a TOML file, or the name of one of `installed_recipes()`.
        overrides: dotted keys with TOML values, as `top.epochs=5` or `data.root=/data/sysu`.

    Raises:
        InputError: no such recipe, TOML that does not parse, an unknown key, a missing or ill-typed value.
    """
    path = find_recipe(source)
    table = _merged_with_base(path)
    for override in overrides:
        _apply(table, override)
    return recipe_from_dict(table, str(path))


def recipe_from_dict(table: Mapping[str, Any], where: str) -> Recipe:
    """The recipe that a nested table describes; `where` names its origin in errors."""
    return _build(Recipe, table, "", where)


def recipe_to_toml(recipe: Recipe) -> str:
    """The resolved recipe, defaults written out, as TOML that `load_recipe` reads back to an equal recipe."""
    return require("tomli_w", extra="train").dumps(_without_none(dataclasses.asdict(recipe)))


def installed_recipes() -> dict[str, Path]:
    """Recipes that come with the package, by name."""
    from .. import __path__ as package_folders

    folders = (Path(folder) / "recipes" for folder in package_folders)
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.toml"))}


def find_recipe(source: str | Path) -> Path:
    if Path(source).is_file():
        return Path(source)
    known = installed_recipes()
    if str(source) not in known:
        raise InputError(f"no recipe {str(source)!r}: give a TOML file or one of {', '.join(sorted(known))}")
    return known[str(source)]


def _merged_with_base(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    if path.resolve() in seen:
        raise InputError(f"{path}: the recipe is its own base")
    table = _read_toml(path)
    base = table.pop("base", None)
    if base is None:
        return table
    beside = path.parent / str(base)
    return _merge(_merged_with_base(beside if beside.is_file() else find_recipe(base), (*seen, path.resolve())), table)


def _toml():
    try:
        return require("tomllib", extra="train")
    except ImportError:  # Python 3.10
        return require("tomli", extra="train")


def _read_toml(path: Path) -> dict[str, Any]:
    toml = _toml()
    try:
        return toml.loads(path.read_text(encoding="utf-8"))
    except (toml.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid TOML: {error}") from error


def _merge(base: dict[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in change.items():
        both_tables = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both_tables else value
    return merged


def _apply(table: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise InputError(f"--set {override!r}: expected KEY=VALUE, as top.epochs=5")
    toml = _toml()
    try:
        value = toml.loads(f"value = {text}")["value"]
    except toml.TOMLDecodeError:
        value = text  # a bare word, such as a path
    *parents, last = key.strip().split(".")
    for name in parents:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise InputError(f"--set {override!r}: {name!r} is a value, not a table")
    table[last] = value


def _build(cls: type, table: Any, prefix: str, where: str):
    if not isinstance(table, Mapping):
        raise InputError(f"{where}: {prefix.rstrip('.')!r} should be a table, not {table!r}")
    hints = typing.get_type_hints(cls)
    for key in table:
        if key not in hints:
            close = difflib.get_close_matches(key, hints, n=1)
            known = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(hints)}"
            raise InputError(f"{where}: unknown key {prefix + key!r}: {known}")
    missing = [
        f.name
        for f in dataclasses.fields(cls)
        if f.default is f.default_factory is dataclasses.MISSING and f.name not in table
    ]
    if missing:
        raise InputError(f"{where}: missing {', '.join(repr(prefix + name) for name in missing)}")
    return cls(**{key: _convert(hints[key], value, prefix + key, where) for key, value in table.items()})


def _convert(hint: Any, value: Any, key: str, where: str):
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        for option in arguments:
            if option is not types.NoneType and _fits(option, value):
                return _convert(option, value, key, where)
    elif _fits(hint, value):
        if dataclasses.is_dataclass(hint):
            return _build(hint, value, key + ".", where)
        if origin is tuple:
            items = arguments[:1] * len(value) if arguments[1:] == (...,) else arguments
            if len(items) == len(value):
                pairs = enumerate(zip(items, value, strict=True))
                return tuple(_convert(item, v, f"{key}[{i}]", where) for i, (item, v) in pairs)
        else:
            return float(value) if hint is float else value
    raise InputError(f"{where}: {key!r} should be {_name(hint)}, not {value!r}")


def _fits(hint: Any, value: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return value in typing.get_args(hint)
    if origin is tuple:
        return isinstance(value, (list, tuple))
    if dataclasses.is_dataclass(hint):
        return isinstance(value, Mapping)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))


def _name(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(hint)))
    return hint.__name__ if isinstance(hint, type) and not typing.get_origin(hint) else str(hint)


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, (list, tuple)) else value


