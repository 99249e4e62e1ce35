"""Kill a run at random moments until it is done, and compare what it leaves with a run that nobody disturbed.

    python python_tests/kill_run.py --kills 100

A parent that has imported everything forks the process that trains, and sends it SIGKILL after a random time; the
next one resumes. Whole runs are made until there were so many kills. Weights, metrics, results and the state of the
optimisers at the end of each stage have to be the same to the bit.
"""

import argparse
import contextlib
import hashlib
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import torch
from tiny_run import assert_same_outcome, write_tiny_recipe

from toplight_ext import training
from toplight_ext.training.loop import Training

# A checkpoint after every step, an average of the weights, both optimisers: as much state as there is.
OVERRIDES = [
    "checkpoint.steps=1",
    "top.optimiser={name='sgd', learning_rate=0.01, ema_decay=0.9}",
    "vi.optimiser.ema_decay=0.9",
    "dev={name='synthetic', root='ROOT', split='train'}",
    "evaluation.every_epochs=1",
]


def recipe_of(file: Path) -> training.Recipe:
    return training.load_recipe(file, [o.replace("ROOT", str(file.parent / "drawn")) for o in OVERRIDES])


def digest(value) -> str:
    """Of nested containers of tensors and numbers, in order."""
    found = hashlib.sha256()

    def add(part) -> None:
        if isinstance(part, torch.Tensor):
            found.update(part.detach().contiguous().numpy().tobytes())
        elif isinstance(part, dict):
            for key, entry in part.items():
                found.update(str(key).encode())
                add(entry)
        elif isinstance(part, (list, tuple)):
            for entry in part:
                add(entry)
        else:
            found.update(repr(part).encode())

    add(value)
    return found.hexdigest()


def train(recipe: training.Recipe, folder: Path) -> None:
    """Start or continue, and leave a digest of each stage's optimiser beside the weights."""
    to_the_end = Training.to_the_end

    def recorded(self, stop):
        spent = to_the_end(self, stop)
        (folder / f"{self.stage.name}.optimiser").write_text(digest(self._optimiser.state_dict()["state"]))
        return spent

    Training.to_the_end = recorded
    if (folder / "recipe.toml").exists():
        training.resume(folder)
    else:
        training.start(recipe, folder)
    (folder / "modules.txt").write_text("\n".join(sys.modules))


def forked(recipe: training.Recipe, folder: Path) -> int:
    """Train in a child; its process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        with open(os.devnull, "w") as silence, contextlib.redirect_stderr(silence):
            train(recipe, folder)
        code = 0
    except BaseException:
        traceback.print_exc()
    os._exit(code)


def ended(child: int, seconds: float, folder: Path | None = None) -> int | None:
    """The child's exit status within so many seconds, or None; None too once a file is being written in `folder`."""
    deadline = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        if time.monotonic() >= deadline or (folder is not None and is_written(folder)):
            return None
        time.sleep(0.001)


def is_written(folder: Path) -> bool:
    return any(folder.glob(".*.tmp"))


def killed_until_done(recipe: training.Recipe, folder: Path, longest: float, draw: random.Random) -> tuple[int, int]:
    """A whole run; how often it was killed, and how often while a file was being written."""
    kills = writing = 0
    while True:
        child = forked(recipe, folder)
        status = ended(child, draw.uniform(0, longest))
        if status is None and draw.random() < 0.5:  # every other one is aimed at a write
            status = ended(child, longest, folder)
        if status == 0:
            return kills, writing
        if status is not None:
            raise AssertionError(f"the run failed after {kills} kills, see above")
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        kills += 1
        writing += is_written(folder)
        longest *= 1.02  # so that a machine that is slower than expected gets on


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    draw = random.Random(given.seed)
    scratch = Path(tempfile.mkdtemp(prefix="kill_run."))
    try:
        recipe = recipe_of(write_tiny_recipe(scratch))
        began = time.monotonic()
        child = forked(recipe, scratch / "whole")
        if os.waitpid(child, 0)[1] != 0:
            sys.exit("the undisturbed run failed, see above")
        whole = time.monotonic() - began
        for name in (scratch / "whole" / "modules.txt").read_text().splitlines():
            with contextlib.suppress(Exception):
                importlib.import_module(name)  # what a run imports late, so that the children need not
        kills = writing = runs = 0
        while kills < given.kills:
            folder = scratch / f"run{runs}"
            more, during = killed_until_done(recipe, folder, whole / min(4, given.kills / 2), draw)
            assert_same_outcome(folder, scratch / "whole")
            for path in (scratch / "whole").glob("*.optimiser"):
                assert (folder / path.name).read_text() == path.read_text(), path.name
            assert (folder / "dev.jsonl").read_bytes() == (scratch / "whole" / "dev.jsonl").read_bytes()
            shutil.rmtree(folder)
            kills, writing, runs = kills + more, writing + during, runs + 1
            print(f"run {runs}: {more} kills", file=sys.stderr)
        print(f"{kills} kills in {runs} runs, {writing} of them while a file was written; nothing was lost")
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
