"""An ablation: the rows of a table, each trained with several seeds, and the table that comes of it.

The rows of a table are recipes in a folder of its name, in the order of their files; each says what is different from
its base. Stages that are the same in two rows are trained once per seed: a stage is a function of the recipe and the
seed alone, so what it leaves may be handed on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import InputError
from ..evaluation import MAIN_SCORES, SCORES, over_seeds
from ..files import write_text
from ..text import markdown
from .checks import check_recipe
from .processes import joined, rank, wait_for_all
from .recipe import Model, Recipe
from .recipe_files import installed_recipes, load_row, with_absolute_paths
from .run import Run, sole_writer
from .runner import resume
from .stopping import Disturbed, Interrupted, TrainingError


class AblationRow(NamedTuple):
    """A row of the table: last evaluations of its runs, one per seed, as fractions of 1."""

    name: str
    scores: dict[str, list[float]]  # by metric
    failures: tuple[str, ...] = ()  # of the seeds that have no figures: "seed 1 failed: ..."

    def cell(self, metric: str) -> str:
        """Mean in percent, with the sample standard deviation if there are several seeds; empty before the first."""
        values = [100 * value for value in self.scores[metric]]
        return " ± ".join(f"{figure:.1f}" for figure in over_seeds(values)) if values else ""

    @property
    def seeds(self) -> str:
        """How many the figures are of, and why others are missing."""
        return "; ".join([str(len(self.scores["mAP"])), *self.failures])


def ablate(
    table: str,
    out: Path,
    base: str | Path | None = None,
    overrides: Sequence[str] = (),
    seeds: int = 3,
) -> list[AblationRow]:
    """Train every row of a table that is not trained yet, and write `out`/table.md after each run.

    A training that fails is noted in its row, and the others go on; the next call tries it again.

    Args:
        table: as "table3": a folder of recipes, or the name of an installed one.
        out: holds a folder per row and in it one run per seed; what is there already is resumed, or left.
        base: recipe in place of the rows' own base.
        overrides: `KEY=VALUE` for the base, so that rows still differ as they say.
        seeds: trained with seed 0, 1, ...

    Raises:
        InputError: no such table, fewer than one seed, a seed in `overrides`, rows that differ in the name alone, a
            recipe that cannot be used, a run there of another recipe (then none is trained), or another process at
            work there.
        Interrupted, Disturbed: as `start`.
    """
    if seeds < 1:
        raise InputError(f"seeds = {seeds}: give at least one")
    if any(override.partition("=")[0].strip() == "seed" for override in overrides):
        raise InputError("an ablation trains with the seeds 0, 1, ...: say how many by --seeds, and leave seed out")
    recipes = {path.stem: with_absolute_paths(load_row(path, overrides, base)) for path in _rows(table)}
    _check_rows(table, recipes)
    runs = [
        (row, dataclasses.replace(recipe, seed=seed), out / row / f"seed_{seed}")
        for seed in range(seeds)
        for row, recipe in recipes.items()
    ]
    ended: dict[str, list[Run | TrainingError]] = {row: [] for row in recipes}
    with joined(next(iter(recipes.values())).device), contextlib.ExitStack() as stack:
        _check_runs(runs)
        wait_for_all()
        if rank() == 0:
            stack.enter_context(sole_writer(out))
        begun: list[Run] = []
        for row, recipe, folder in runs:
            if rank() == 0:
                print(f"{table}, {recipe.name}, seed {recipe.seed}: {folder}", file=sys.stderr)
            ended[row].append(_trained(recipe, folder, begun))
            begun.append(Run.open(folder, writes=False))
            rows = [_row(recipe, ended[row]) for row, recipe in recipes.items()]
            if rank() == 0:
                write_text(out / "table.md", ablation_table(rows))
    return rows


def ablation_table(rows: Sequence[AblationRow]) -> str:
    """The table in Markdown, in percent."""
    head = ["", *(SCORES[name] for name in MAIN_SCORES), "seeds"]
    cells = ([markdown(row.name), *map(row.cell, MAIN_SCORES), markdown(row.seeds)] for row in rows)
    lines = [head, ["---"] * len(head), *cells]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _rows(table: str) -> list[Path]:
    folder = Path(table)
    paths = sorted(folder.glob("*.toml")) if folder.is_dir() else []
    paths = paths or [path for name, path in installed_recipes().items() if name.startswith(f"{table}/")]
    if not paths:
        tables = sorted({name.partition("/")[0] for name in installed_recipes() if "/" in name})
        raise InputError(f"no table {table!r}: give a folder of recipes or one of {', '.join(tables)}")
    return paths


def _check_rows(table: str, recipes: Mapping[str, Recipe]) -> None:
    """Raises InputError if two rows would train the same."""
    for (one, recipe), (other, another) in itertools.combinations(recipes.items(), 2):
        if recipe == dataclasses.replace(another, name=recipe.name):
            raise InputError(
                f"{table}: over this base the rows {one} and {other} differ in their names alone: give a base that has "
                "what they are to differ in, or leave one of them out"
            )


def _check_runs(runs: Sequence[tuple[str, Recipe, Path]]) -> None:
    """Raises as `check_recipe`, for what is left of each row, and InputError for a folder of another recipe."""
    checked = set()
    for row, recipe, folder in runs:
        earlier = Run.open(folder, writes=False) if _is_begun(folder) else None
        if earlier and earlier.recipe != recipe:
            raise InputError(f"{folder} holds a run of another recipe: give another --out, or remove it")
        left = (row, tuple(earlier.unfinished) if earlier else None)
        if left not in checked:  # the seeds of a row need the same
            check_recipe(recipe, earlier)
            checked.add(left)


def _is_begun(folder: Path) -> bool:
    return (folder / "recipe.toml").is_file()


def _trained(recipe: Recipe, folder: Path, others: Sequence[Run]) -> Run | TrainingError:
    """The run at its end, or why it failed; what is not its own failure is raised."""
    if rank() == 0 and not _is_begun(folder):
        with sole_writer(folder):
            run = Run.create(recipe, folder)
            nearest = max(others, key=lambda other: len(_left_by(other, recipe)), default=None)
            if nearest is not None:
                run.inherit(nearest, _left_by(nearest, recipe))
    wait_for_all()
    try:
        return resume(folder)
    except (Interrupted, Disturbed):
        raise
    except TrainingError as error:
        if rank() == 0:
            print(f"{folder}: {error}", file=sys.stderr)
        return error


def _left_by(other: Run, recipe: Recipe) -> tuple[str, ...]:
    """The first stages of a recipe that another run has finished."""
    return tuple(itertools.takewhile(lambda stage: stage not in other.unfinished, shared_stages(recipe, other.recipe)))


def shared_stages(recipe: Recipe, other: Recipe) -> tuple[str, ...]:
    """The first stages of a recipe which the other one trains in the same way."""
    both = itertools.takewhile(
        lambda stage: stage in other.stages and _until(recipe, stage) == _until(other, stage), recipe.stages
    )
    return tuple(both)


def _until(recipe: Recipe, stage: str) -> Recipe:
    """What of a recipe decides its stages up to this one; before the last there is no neck."""
    later = recipe.stages[recipe.stages.index(stage) + 1 :]
    neckless = {field: getattr(Model(), field) for field in ("neck", "slices", "groups", "embed")}
    model = recipe.model if stage == "vi" else dataclasses.replace(recipe.model, **neckless)
    return dataclasses.replace(recipe, name="until", model=model, **dict.fromkeys(later))


def _row(recipe: Recipe, ended: Sequence[Run | TrainingError]) -> AblationRow:
    results = [run.results[-1] for run in ended if isinstance(run, Run)]
    scores = {metric: [result[metric] for result in results] for metric in MAIN_SCORES}
    failures = (f"seed {seed} failed: {run}" for seed, run in enumerate(ended) if not isinstance(run, Run))
    return AblationRow(recipe.name, scores, tuple(failures))
