"""What can be found wrong with a run before anything of it is written, or before it goes on."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterator, Sequence

import numpy as np

from .. import evaluation
from ..data import Sample
from ..errors import InputError
from ..extras import require
from ..inference import described, origin_of, pick_device
from .processes import rank, world_size
from .recipe import Recipe
from .run import Run
from .stages import check_stages, trained_on


def check_recipe(recipe: Recipe, earlier: Run | None = None) -> None:
    """Find now what a stage or an evaluation would refuse when its turn comes, which may be after days.

    Args:
        earlier: the run that is to go on; what it has done is not asked for again. Only a new run draws a synthetic
            data set that is absent: for one that goes on it would be another one.

    Raises:
        InputError: a data set, the protocol, the device, the weights to start from or a stage cannot be used.
        MissingExtra: what training needs is not installed.
    """
    stages = earlier.unfinished if earlier else recipe.stages
    if not stages and not earlier.unevaluated:
        return
    for package in ("timm", "nvidia.dali", "safetensors"):
        require(package, extra="train")
    if recipe.cuda_graph and (pick_device(recipe.device).type != "cuda" or world_size() > 1):
        raise InputError("recipe: cuda_graph needs a GPU, and one process; leave it out")
    named = functools.partial(_named, earlier)
    with named("evaluation"):
        recipe.protocol(recipe.test)
    before = None  # nothing is left to train
    if stages:
        before = earlier.weights_before(stages[0]) if earlier else recipe.first_weights
    metadata = {"trained_on": trained_on(recipe, stages, before)}
    evaluation.check_splits([origin_of(metadata, recipe.test.name, recipe.test.split)])
    needed = {  # a base may name more
        "data": "vi" in stages,
        "test": True,
        "dev": "vi" in stages and recipe.evaluation.every_epochs,
        "pretraining_data": set(stages) - {"vi"},
    }
    samples = {}
    for table in filter(needed.get, needed):
        with named(table):
            samples[table] = getattr(recipe, table).samples(draw=earlier is None)
    for table in filter(samples.get, ("test", "dev")):
        with named(table, "evaluation"):
            _check_protocol(recipe.protocol(getattr(recipe, table)), samples[table])
        if rank() == 0:
            _warn_of_trained_images(table, samples[table], samples.get("data", ()))
    check_stages(recipe, stages, before, samples.get("data"), samples.get("pretraining_data"))


def _check_protocol(protocol: evaluation.Protocol, samples: Sequence[Sample]) -> None:
    """Raises InputError unless the protocol can draw queries and gallery from the images, and a query has a match.

    It evaluates features of one number, which costs what the ranking of the run's own will cost.
    """
    blank = described(samples, np.ones((len(samples), 1), np.float32), evaluation.Origin())
    evaluation.evaluate(blank, protocol)


def _warn_of_trained_images(table: str, samples: Sequence[Sample], trained_on: Sequence[Sample]) -> None:
    shared = {sample.path for sample in samples} & {sample.path for sample in trained_on}
    if shared:
        print(
            f"[{table}] has {len(shared)} images that [data] trains on: its figures will flatter the network",
            file=sys.stderr,
        )


@contextlib.contextmanager
def _named(earlier: Run | None, *tables: str) -> Iterator[None]:
    """Inside, errors say which tables of the recipe ask for what is wrong."""
    try:
        yield
    except InputError as error:
        where = " or ".join(f"[{table}]" for table in tables)
        change = f"--set {tables[0]}.KEY=VALUE changes it" if earlier is None else f"it is {earlier.folder}/recipe.toml"
        raise InputError(f"{error} (the recipe's {where}; {change})") from error
