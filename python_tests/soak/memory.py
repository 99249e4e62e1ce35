"""Train, evaluate and report in one process for long, and measure whether it grows.

    python -m python_tests.soak memory --steps 10000 --evaluations 100 --reports 30

One training of so many steps, with a hundred looks at the dev split and twenty checkpoints on the way; then so many
`toplight evaluate` and `toplight report`. Of each, fifty measurements or as many as there are: the resident memory of
the process, the blocks that Python holds, and the objects that the garbage collector knows after it has run. Growth is
the median of the last third less that of the middle third; the first third is for what is filled once.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import statistics
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import safetensors
import torch
from tiny_run import write_tiny_recipe

from toplight_ext import cli, training
from toplight_ext.training.loop import Training

MEASUREMENTS = 50


class Held(NamedTuple):
    """What a process holds; also for differences, and for their bounds."""

    resident: float  # MiB
    blocks: float  # of Python's allocator
    objects: float  # that the garbage collector knows


# A third of the measurements: resident memory moves with the allocator, and a leak of a float per step, of a tensor per
# evaluation or of a figure per report is above one of these.
BOUND = Held(resident=4.0, blocks=500, objects=100)


def held() -> Held:
    gc.collect()
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    resident = int(next(line for line in status if line.startswith("VmRSS:")).split()[1]) / 1024
    return Held(resident, sys.getallocatedblocks(), len(gc.get_objects()))


class Growth:
    """Measures at every n-th call; `elsewhere` is what a library keeps of each call, in blocks."""

    def __init__(self, what: str, calls: int, elsewhere: float = 0.0):
        self._what, self._calls, self._elsewhere = what, calls, elsewhere
        self._every = max(1, calls // MEASUREMENTS)
        self._seen = 0
        self._measured: list[Held] = []

    def __call__(self) -> None:
        self._seen += 1
        if self._seen % self._every == 0:
            self._measured.append(held())

    def found(self) -> bool:
        """Print what was found; whether it is above the bound."""
        third = len(self._measured) // 3
        parts = self._measured[third:-third], self._measured[-third:]
        middle, last = (list(zip(*part, strict=True)) for part in parts)
        grown = Held(*(statistics.median(b) - statistics.median(a) for a, b in zip(middle, last, strict=True)))
        elsewhere = self._elsewhere * self._every * (len(self._measured) - third) / 2
        grown = grown._replace(blocks=grown.blocks - elsewhere)
        too_much = any(value > bound for value, bound in zip(grown, BOUND, strict=True))
        print(
            f"{self._seen} {self._what}: {self._measured[-1].resident:.0f} MiB resident; from the middle third to the "
            f"last {grown.resident:+.2f} MiB, {grown.blocks:+.0f} blocks (and {elsewhere:.0f} of safetensors), "
            f"{grown.objects:+.0f} objects"
            f"{'  GROWS' if too_much else ''}",
            flush=True,
        )
        return too_much


def of_training(file: Path, folder: Path, steps: int) -> bool:
    growth = Growth("steps with looks at the dev split", steps)
    take = Training.take

    def measured(self, *arguments):
        take(self, *arguments)
        growth()

    file.write_text(file.read_text() + f'\n[dev]\nname = "synthetic"\nroot = "{file.parent}/drawn"\nsplit = "train"\n')
    epochs = -(-steps // 3)  # of three steps
    overrides = [f"vi.epochs={epochs}", f"checkpoint.steps={max(1, steps // 20)}"]
    overrides += [f"evaluation.every_epochs={max(1, epochs // 100)}"]
    Training.take = measured
    try:
        training.start(training.load_recipe(file, overrides), folder)
    finally:
        Training.take = take
    return growth.found()


def kept_by_safetensors(path: Path) -> float:
    """Blocks that the library itself keeps of every reading of a file: 0.8.0 two numbers of each tensor."""
    before, times = 0, 20
    for call in range(times + 1):
        with safetensors.safe_open(str(path), framework="pt") as file:
            for key in file.keys():  # noqa: SIM118
                file.get_tensor(key)
        if call == 0:
            before = sys.getallocatedblocks()
    return (sys.getallocatedblocks() - before) / times


def of_command(what: str, times: int, arguments: list[str], elsewhere: float = 0.0) -> bool:
    growth = Growth(what, times, elsewhere)
    for _ in range(times):
        with contextlib.redirect_stdout(io.StringIO()):
            if cli.main(arguments) != 0:
                raise AssertionError(f"toplight {' '.join(arguments)} failed, see above")
        growth()
    return growth.found()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="soak memory", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--evaluations", type=int, default=100)
    parser.add_argument("--reports", type=int, default=30)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="memory.") as scratch:
        file = write_tiny_recipe(Path(scratch)).with_name("vi.toml")
        run, drawn = Path(scratch, "run"), Path(scratch, "drawn")
        evaluate = [
            "evaluate",
            "--weights",
            str(run / "vi.safetensors"),
            "--dataset",
            "synthetic",
            "--root",
            str(drawn),
        ]
        found = [
            of_training(file, run, given.steps),
            of_command("evaluations", given.evaluations, evaluate, kept_by_safetensors(run / "vi.safetensors")),
            of_command("reports", given.reports, ["report", str(run)]),
        ]
        return int(any(found))
