"""Kill a run at random moments until it is done, and compare what it leaves with a run that nobody disturbed.

    python -m python_tests.soak kills --kills 200
    python -m python_tests.soak kills --kills 100 --signal TERM

A parent that has imported everything forks the process that runs the command, and sends it SIGKILL: after a random
time, at the next write after that, or at the next write of anything but a checkpoint. The next one resumes. Whole runs,
from the cache of decoded images to the report, are made until there were so many kills. Weights, metrics, results and
the state of the optimisers at the end of each stage have to be the same to the bit. After SIGTERM and SIGINT the
process has to end by itself, and to say how to continue.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from tiny_run import assert_same_outcome, write_tiny_recipe

from toplight_ext import cli
from toplight_ext.training.loop import Training

# A checkpoint after every step, an average of the weights, both optimisers, caches: as much state as there is.
OVERRIDES = [
    "checkpoint.steps=1",
    "top.optimiser={name='sgd', learning_rate=0.01, ema_decay=0.9}",
    "vi.optimiser.ema_decay=0.9",
    "vi.mirrored_identities=true",
    "dev={name='synthetic', root='ROOT', split='train'}",
    "evaluation.every_epochs=1",
    "data.cache='CACHE'",
    "pretraining_data.cache='CACHE'",
]
AIMS = ("a moment", "a write", "a write of no checkpoint")


_PATIENCE = 120.0  # seconds from a signal to the end of the process


def cache_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.cache")


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


def command(file: Path, folder: Path) -> list[str]:
    """What starts or continues a run in `folder`, with its cache beside it."""
    if (folder / "recipe.toml").exists():
        return ["resume", str(folder)]
    places = {"ROOT": str(file.parent / "drawn"), "CACHE": str(cache_of(folder))}
    changes = [re.sub("ROOT|CACHE", lambda found: places[found[0]], override) for override in OVERRIDES]
    return ["train", str(file), "--out", str(folder), *(part for change in changes for part in ("--set", change))]


def forked(file: Path, folder: Path) -> int:
    """Run the command in a child, which says what it has to say beside the folder; its process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        with (
            open(said_by(folder), "w") as said,
            contextlib.redirect_stderr(said),
            contextlib.redirect_stdout(said),
            optimisers_kept(folder),
        ):
            code = cli.main(command(file, folder))
            modules_of(folder).write_text("\n".join(sys.modules))
    except BaseException:
        traceback.print_exc()
    os._exit(code)


def said_by(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.said")


def modules_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.modules")


@contextlib.contextmanager
def optimisers_kept(folder: Path) -> Iterator[None]:
    """Inside, a digest of each stage's optimiser is left beside the weights."""
    to_the_end = Training.to_the_end

    def recorded(self, stop):
        spent = to_the_end(self, stop)
        (folder / f"{self.stage.name}.optimiser").write_text(digest(self._optimiser.state_dict()["state"]))
        return spent

    Training.to_the_end = recorded
    yield
    Training.to_the_end = to_the_end


def ended(child: int, seconds: float, folder: Path | None = None, but: str = "") -> int | None:
    """The child's exit status within so many seconds, or None.

    None too once it writes something in `folder`, unless that is a file of the name `but`.
    """
    deadline = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        if time.monotonic() >= deadline or (folder is not None and set(written(child, folder)) - {but}):
            return None
        time.sleep(0.0005)


def written(child: int, folder: Path) -> list[str]:
    """Names of the files of a run and its cache that the process is writing, or left half written."""
    places = (folder, cache_of(folder))
    return [path.name[1:].rsplit(".", 2)[0] for place in places for path in place.glob(f".*.{child}.tmp")]


def kind(name: str) -> str:
    """For counting: all caches are one kind, and so are the weights of all stages."""
    return "decoded images" if name.startswith("decoded-") else "weights" if name.endswith(".safetensors") else name


def killed_until_done(
    file: Path, folder: Path, number: signal.Signals, longest: float, draw: random.Random
) -> Counter[str]:
    """A whole run; what was being written when it was killed, "nothing" for most, counted."""
    found: Counter[str] = Counter()
    while True:
        aim = draw.choice(AIMS)
        child = forked(file, folder)
        status = ended(child, draw.uniform(0, longest))
        if status is None and aim != AIMS[0]:
            status = ended(child, longest, folder, "checkpoint.pt" if aim == AIMS[2] else "")
        if status is None:
            writing = written(child, folder)
            os.kill(child, number)
            status = ended(child, _PATIENCE)
            if status != 0:
                check_end(status, number, said_by(folder))
                assert number == signal.SIGKILL or not written(child, folder), writing
                found[kind(next(iter(writing), "nothing"))] += 1
                longest *= 1.02  # so that a machine that is slower than expected gets on
                continue
        if status != 0:
            raise AssertionError(f"the run failed after {found.total()} kills: {said_by(folder).read_text()}")
        return found


def check_end(status: int | None, number: signal.Signals, said: Path) -> None:
    """A signal that can be handled is, unless the process had not come so far as to say anything."""
    if status is None:
        raise AssertionError(f"still there {_PATIENCE:.0f} s after {number.name}")
    text = said.read_text()
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == number and (number == signal.SIGKILL or not text):
        return
    if os.waitstatus_to_exitcode(status) != 1 or "toplight re" not in text.splitlines()[-1]:
        raise AssertionError(f"status {status} after {number.name}: {text}")


def compare(folder: Path, undisturbed: Path) -> None:
    assert_same_outcome(folder, undisturbed)
    for path in undisturbed.glob("*.optimiser"):
        assert (folder / path.name).read_text() == path.read_text(), path.name
    assert (folder / "dev.jsonl").read_bytes() == (undisturbed / "dev.jsonl").read_bytes()
    assert (folder / "report.html").read_text(encoding="utf-8").rstrip().endswith("</html>")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="soak kills", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--signal", choices=("KILL", "TERM", "INT"), default="KILL")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    draw, number = random.Random(given.seed), signal.Signals[f"SIG{given.signal}"]
    scratch = Path(tempfile.mkdtemp(prefix="kills."))
    try:
        file, undisturbed = write_tiny_recipe(scratch), scratch / "whole"
        began = time.monotonic()
        if os.waitpid(forked(file, undisturbed), 0)[1] != 0:
            raise AssertionError(f"the undisturbed run failed: {said_by(undisturbed).read_text()}")
        whole = time.monotonic() - began
        for name in modules_of(undisturbed).read_text().splitlines():
            with contextlib.suppress(Exception):
                importlib.import_module(name)  # what a run imports late, so that the children need not
        kills: Counter[str] = Counter()
        runs = 0
        while kills.total() < given.kills:
            folder = scratch / f"run{runs}"
            more = killed_until_done(file, folder, number, whole / min(4, given.kills / 2), draw)
            compare(folder, undisturbed)
            shutil.rmtree(folder)
            shutil.rmtree(cache_of(folder))
            kills, runs = kills + more, runs + 1
            print(f"run {runs}: {more.total()} kills, {kills.total()} in all", file=sys.stderr, flush=True)
        writing = ", ".join(f"{name} {count}" for name, count in kills.most_common())
        print(f"{kills.total()} times {number.name} in {runs} runs; being written then: {writing}; nothing was lost")
        return 0
    finally:
        shutil.rmtree(scratch)
