"""Recipes: a training run as data. TOML in, frozen dataclasses out; an unknown key is an error.

A recipe may name another one as its `base` (a file in its folder or below, or the name of an installed recipe) and
then only says what differs. A table that is absent leaves its stage out, and so does `false` in place of one that the
base has: `pretrain`, `top` and `soup` are optional, so a run may also start from public weights (`model.pretrained`).

The paper publishes the order of the stages; epochs, rates, ranges and loss weights are our choice.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data import Augmentation
from ..data.pipeline import IMAGENET_MEAN, IMAGENET_STD
from ..errors import InputError
from ..extras import require
from ..inference import Preprocessing
from ..text import plain
from .limits import check_limits
from .tables import build, merge, override_key, read_toml, without_none

_LONGEST_NAME = 100
_MOST_BASES = 16


@dataclass(frozen=True)
class Dataset:
    """One split of a data set: the arguments of `data.load_dataset`.

    cache: folder in which training keeps the images decoded once, at the recipe's size (`data.cached_images`);
        crops are then cut from images of that size. Not of `test` and `dev`.
    """

    name: str
    root: str
    split: str | None = None
    cache: str | None = None


@dataclass(frozen=True)
class Model:
    """The arguments of `create_model` that a recipe chooses."""

    backbone: str = "mobilenetv3_large_100"
    neck: str = "fdr"
    slices: tuple[int, int] = (6, 3)
    groups: int | None = None
    embed: bool = True
    input_layer: str = "colour"
    last_stride: int = 2
    pretrained: bool | str = False
    checkpointing: bool = False


@dataclass(frozen=True)
class Optimiser:
    """AdamW or SGD with Nesterov momentum; rates are a function of the step alone.

    backbone_factor: of the learning rate, for the seven blocks; neck and heads have the whole rate.
    schedule: what follows the linear warm-up: a cosine to zero, or a division by 10 at each of `milestones`, in
        epochs.
    clip_norm: largest 2-norm of the gradient of all parameters together.
    ema_decay: of an exponential moving average of the weights, which the stage then evaluates and leaves behind.
    """

    name: typing.Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    backbone_factor: float = 1.0
    weight_decay: float = 0.05
    momentum: float = 0.9
    warmup_epochs: float = 1.0
    schedule: typing.Literal["cosine", "step"] = "cosine"
    milestones: tuple[float, ...] = ()
    clip_norm: float | None = None
    ema_decay: float | None = None

    def __post_init__(self) -> None:
        if (self.schedule == "step") != bool(self.milestones):
            raise InputError(
                f"optimiser: schedule {self.schedule!r} with milestones {list(self.milestones)}: the schedule 'step' "
                "needs milestones, and only it has them"
            )
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise InputError(f"optimiser.ema_decay = {self.ema_decay}: expected a number from 0 to below 1")


@dataclass(frozen=True)
class Pretrain:
    """Stage 0: one path, identity loss."""

    epochs: int = 10
    batch_size: int = 64
    label_smoothing: float = 0.1
    augmentation: Augmentation = Augmentation()
    optimiser: Optimiser = Optimiser()

    def __post_init__(self) -> None:
        if self.batch_size < 2:  # of one vector, BatchNorm has no variance; the other stages see two images at least
            raise InputError(f"pretrain.batch_size = {self.batch_size}: BatchNorm needs batches of at least 2 images")


@dataclass(frozen=True)
class Top:
    """Stage 1: task-oriented pretraining; path 1 sees the colour, path 2 the texture augmentations.

    kl_weight: of the agreement of the two paths in L_idc.
    domain_weight: of L_fd, beside L_idc.
    reversal: lambda of the gradient reversal in L_fd.
    share_geometry: whether both paths see the same crop, deformation and flip of an image.
    """

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
    """Stage 3: visible-infrared training; a loss whose weight is 0 is not computed.

    mirrored_identities: train on `data.with_mirrored_identities`, twice as many.
    gray: visible images lose their colour, in training and wherever the weights are used.
    margin: of both triplet losses.
    """

    epochs: int = 20
    identities: int = 16
    images_per_identity: int = 4
    mirrored_identities: bool = False
    gray: bool = False
    identity_weight: float = 1.0
    label_smoothing: float = 0.1
    triplet_weight: float = 1.0
    margin: float = 0.3
    weighted_triplet_weight: float = 0.0
    infonce_weight: float = 0.0
    temperature: float = 0.1
    circle_weight: float = 0.0
    circle_margin: float = 0.25
    circle_scale: float = 64.0
    centre_weight: float = 0.0
    hetero_centre_weight: float = 0.0
    hetero_centre_triplet_weight: float = 0.0
    visible: Augmentation = Augmentation()
    infrared: Augmentation = Augmentation()
    optimiser: Optimiser = Optimiser()

    def __post_init__(self) -> None:
        if not any(getattr(self, field.name) for field in dataclasses.fields(self) if field.name.endswith("_weight")):
            raise InputError("recipe: the stage vi has no loss: give at least one of its weights")


@dataclass(frozen=True)
class Evaluation:
    """How the stages of a run are compared; `toplight evaluate` has the same protocols.

    shots, permutations: of SYSU-MM01, gallery images per identity and camera, and the file rand_perm_cam.mat.
    every_epochs: how often the visible-infrared stage is looked at on the recipe's `dev` split while it trains; 0
        is never. The figures are recorded and choose nothing.
    """

    protocol: str = "infrared->visible"
    metric: typing.Literal["cosine", "euclidean"] = "cosine"
    shots: int = 1
    permutations: str | None = None
    batch_size: int = 128
    every_epochs: int = 0


@dataclass(frozen=True)
class Checkpoint:
    """When a running stage writes its state: every so many steps (None: at the end of every epoch), and after so
    many minutes without."""

    steps: int | None = None
    minutes: float = 10.0


@dataclass(frozen=True)
class Recipe:
    """A whole run. `data` is the visible-infrared set trained on, `test` the one evaluated on, `dev` the one looked
    at on the way, and `pretraining_data` the visible images of stages 0 and 1.

    weights: file that a stage of another run left, whose blocks the first stage starts from, in place of
        `model.pretrained`: one TOP for several visible-infrared trainings.
    size, mean, std: of the images that the network is fed; mean and std of red, green and blue in 0..1.
    device: auto, cpu or cuda.
    precision: of the arithmetic; the weights are float32. float16 scales the loss.
    compile: torch.compile for the training step.
    cuda_graph: record the step once on the GPU and replay it.
    deterministic: only algorithms that give the same bits again, on a GPU too.
    sync_batchnorm: with several processes, BatchNorm's statistics are those of the whole batch.
    threads: of the image pipeline.
    tensorboard: write the metrics for TensorBoard as well.
    """

    name: str
    data: Dataset
    test: Dataset
    size: tuple[int, int] = (288, 144)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    seed: int = 0
    device: str = "auto"
    precision: typing.Literal["float32", "bfloat16", "float16"] = "float32"
    compile: bool = False
    cuda_graph: bool = False
    deterministic: bool = False
    sync_batchnorm: bool = True
    threads: int = 2
    tensorboard: bool = False
    weights: str | None = None
    model: Model = Model()
    pretraining_data: Dataset | None = None
    dev: Dataset | None = None
    pretrain: Pretrain | None = None
    top: Top | None = None
    soup: Soup | None = None
    vi: VI | None = None
    evaluation: Evaluation = field(default_factory=Evaluation)
    checkpoint: Checkpoint = Checkpoint()

    def __post_init__(self) -> None:
        if not self.name.strip(". ") or "/" in self.name or len(self.name) > _LONGEST_NAME:
            expected = f"up to {_LONGEST_NAME} characters that can name a folder"
            raise InputError(f"name = {plain(self.name)!r}: expected {expected}")
        check_limits(self)
        self.preprocessing("vi").check("size, mean and std")
        if (self.pretrain or self.top) and self.pretraining_data is None:
            raise InputError("recipe: the stages pretrain and top need the table [pretraining_data]")
        if self.soup and not self.top:
            raise InputError("recipe: the stage soup averages the two paths of top: add [top] or leave out [soup]")
        if not (self.pretrain or self.top or self.vi):
            raise InputError("recipe: no stage: give at least one of [pretrain], [top] and [vi]")
        if self.evaluation.every_epochs and (self.dev is None or self.dev == self.test):
            raise InputError("recipe: evaluation.every_epochs needs a table [dev] that is not the one of [test]")
        for table in ("test", "dev"):
            if getattr(self, table) is not None and getattr(self, table).cache is not None:
                raise InputError(f"recipe: {table}.cache has no use, only training keeps decoded images: leave it out")
        if self.cuda_graph and self.precision == "float16":
            raise InputError("recipe: cuda_graph cannot record the changing loss scale of float16: use bfloat16")

    @property
    def stages(self) -> tuple[str, ...]:
        return tuple(name for name in ("pretrain", "top", "soup", "vi") if getattr(self, name) is not None)

    @property
    def first_weights(self) -> Path | None:
        """What the first stage starts from."""
        return Path(self.weights) if self.weights else None

    def preprocessing(self, stage: str) -> Preprocessing:
        """What the networks of a stage are fed; stored with the weights."""
        gray = stage == "vi" and self.vi is not None and self.vi.gray
        return Preprocessing(self.size, self.mean, self.std, gray)


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
    if "\0" in named or not neighbour.is_file():
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
