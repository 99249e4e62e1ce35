"""An ablation: the rows of a table, each trained with several seeds, and the table that comes of it.

The rows of a table are recipes in a folder of its name, in the order of their files; each says what is different from
its base. Stages that are the same in two rows are trained once per seed: a stage is a function of the recipe and the
seed alone, so what it leaves may be handed on.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import InputError
from ..files import write_text
from ..text import markdown
from .recipe import Model, Recipe
from .recipe_files import installed_recipes, load_row
from .run import Run, sole_writer
from .runner import check_recipe, resume

METRICS = {"r1": "rank-1", "mAP": "mAP", "mINP": "mINP"}


class AblationRow(NamedTuple):
    """A row of the table: last evaluations of its runs, one per seed, as fractions of 1."""

    name: str
    scores: dict[str, list[float]]  # by metric

    def cell(self, metric: str) -> str:
        """Mean in percent, with the sample standard deviation if there are several seeds."""
        values = [100 * value for value in self.scores[metric]]
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        return f"{statistics.fmean(values):.1f}{spread}"


def ablate(
    table: str,
    out: Path,
    base: str | Path | None = None,
    overrides: Sequence[str] = (),
    seeds: int = 3,
) -> list[AblationRow]:
    """Train every row of a table that is not trained yet, and write `out`/table.md.

    Args:
        table: as "table3": a folder of recipes, or the name of an installed one.
        out: holds a folder per row and in it one run per seed; what is there already is resumed, or left.
        base: recipe in place of the rows' own base.
        overrides: `KEY=VALUE` for the base, so that rows still differ as they say.
        seeds: trained with seed 0, 1, ...

    Raises:
        InputError: no such table, fewer than one seed, a seed in `overrides`, a recipe that cannot be used (then
            none is trained), a run there of another recipe, or another process at work there.
        TrainingError: as `start`.
    """
    if seeds < 1:
        raise InputError(f"seeds = {seeds}: give at least one")
    if any(override.partition("=")[0].strip() == "seed" for override in overrides):
        raise InputError("an ablation trains with the seeds 0, 1, ...: say how many by --seeds, and leave seed out")
    recipes = {path.stem: load_row(path, overrides, base) for path in _rows(table)}
    done: list[Run] = []
    for recipe in recipes.values():
        check_recipe(recipe)
    with sole_writer(out):
        for seed in range(seeds):
            for row, recipe in recipes.items():
                folder = out / row / f"seed_{seed}"
                print(f"{table}, {recipe.name}, seed {seed}: {folder}", file=sys.stderr)
                done.append(_trained(dataclasses.replace(recipe, seed=seed), folder, done))
        rows = [_row(recipe, done[number :: len(recipes)]) for number, recipe in enumerate(recipes.values())]
        write_text(out / "table.md", ablation_table(rows))
    return rows


def ablation_table(rows: Sequence[AblationRow]) -> str:
    """The table in Markdown, in percent."""
    head = ["", *METRICS.values()]
    lines = [head, ["---"] * len(head), *([markdown(row.name), *map(row.cell, METRICS)] for row in rows)]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _rows(table: str) -> list[Path]:
    folder = Path(table)
    paths = sorted(folder.glob("*.toml")) if folder.is_dir() else []
    paths = paths or [path for name, path in installed_recipes().items() if name.startswith(f"{table}/")]
    if not paths:
        tables = sorted({name.partition("/")[0] for name in installed_recipes() if "/" in name})
        raise InputError(f"no table {table!r}: give a folder of recipes or one of {', '.join(tables)}")
    return paths


def _trained(recipe: Recipe, folder: Path, earlier: Sequence[Run]) -> Run:
    if (folder / "recipe.toml").is_file():
        if Run.open(folder, writes=False).recipe != recipe:
            raise InputError(f"{folder} holds a run of another recipe: give another --out, or remove it")
    else:
        with sole_writer(folder):
            run = Run.create(recipe, folder)
            nearest = max(earlier, key=lambda other: len(shared_stages(recipe, other.recipe)), default=None)
            if nearest is not None:
                run.inherit(nearest, shared_stages(recipe, nearest.recipe))
    return resume(folder)


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


def _row(recipe: Recipe, runs: Sequence[Run]) -> AblationRow:
    return AblationRow(recipe.name, {metric: [run.results[-1][metric] for run in runs] for metric in METRICS})
