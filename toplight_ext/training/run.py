"""A run folder: everything that a run writes, under fixed names.

    recipe.toml             the resolved recipe
    environment.json        versions and hardware
    metrics.jsonl           one JSON object per training step; a function of recipe and seed alone
    dev.jsonl               one per look at the dev split (evaluation.every_epochs); likewise
    stages.json             finished stages with seconds and images per second
    checkpoint.pt           the running stage, for `toplight resume`
    checkpoint.previous.pt  the one before, for when that is damaged
    STAGE.safetensors       the network after each stage
    evaluation.json         what each stage brought
    MODEL_CARD.md           what the network of the last stage is, and what it must not be used for
    ranked.json             ranked lists of the last evaluation, for the report
    analysis.json           distances, projection and slice activations of the last evaluation, likewise
    tensorboard/            with the recipe's `tensorboard`: events, for looking at only
    report.html
    .lock                   held by the process that writes

Every file but the logs is replaced as a whole. What a stage leaves is written in the order weights, stages.json,
then the checkpoints are removed; so a run that was killed anywhere continues from what it finds.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError
from ..extras import require
from ..files import errors_name, flush, read_json, replacing, write_text
from ..text import plain
from .checkpoint import Checkpoints
from .recipe import Recipe
from .recipe_files import load_recipe, recipe_to_toml

_LOCK = ".lock"
_LOGS = {"metrics": "metrics.jsonl", "dev": "dev.jsonl"}
_BOARD = "tensorboard"


@contextlib.contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Inside, no other process can write this folder; the end of this one, however it comes, lets it go.

    Raises:
        InputError: another process is at work in the folder, or a link leads out of it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in (_LOCK, *_LOGS.values(), _BOARD):
        if (folder / name).is_symlink():  # what is not replaced as a whole would be written elsewhere
            raise InputError(f"{folder / name}: a link, through which another file would be written; remove it")
    with open(folder / _LOCK, "a") as lock:
        try:
            with errors_name(folder / _LOCK):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{folder}: another process is at work here; wait until it ends") from None
        for left in folder.glob(".*.tmp"):  # of a process that was killed
            left.unlink(missing_ok=True)
        yield


class Lines:
    """A file of JSON objects, one per line, that can be cut back to an earlier size."""

    def __init__(self, path: Path):
        self._path = path

    def append(self, value: dict[str, Any]) -> None:
        with errors_name(self._path), open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(value) + "\n")

    def append_from(self, other: Lines, size: int) -> None:
        """Append the first `size` bytes of another file."""
        if size:
            with open(other._path, "rb") as source, errors_name(self._path), open(self._path, "ab") as target:
                target.write(source.read(size))

    def flushed_size(self) -> int:
        """Bytes of the file, all of them on the disk."""
        if not self._path.exists():
            return 0
        with errors_name(self._path):
            flush(self._path)
        return self._path.stat().st_size

    def cut(self, size: int) -> None:
        """Take back what was written after the file had this size.

        Raises:
            InputError: it never had.
        """
        present = self._path.stat().st_size if self._path.exists() else 0
        if present < size:
            raise InputError(f"{self._path}: {present} bytes, but {size} were written; put the lost lines back")
        if present > size:
            os.truncate(self._path, size)


class Run:
    """A run folder. One process writes it; others of the same training read what it holds.

    Args:
        writes: whether this is the process that writes.
    """

    def __init__(self, folder: Path, recipe: Recipe, writes: bool = True) -> None:
        self.folder = folder
        self.recipe = recipe
        self.writes = writes
        self.checkpoints = Checkpoints(folder)
        self._logs = {name: Lines(folder / file) for name, file in _LOGS.items()}
        self._board = None
        if recipe.tensorboard and writes:
            require("tensorboard", extra="train")
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / _BOARD))

    @classmethod
    def create(cls, recipe: Recipe, folder: Path) -> Run:
        """Start a run in a folder that is new or empty; the caller is its `sole_writer`.

        Raises:
            InputError: the folder holds something already.
        """
        check_empty(folder)
        write_text(folder / "environment.json", json.dumps(environment(), indent=1))
        write_text(folder / "recipe.toml", recipe_to_toml(recipe))
        return cls(folder, recipe)

    @classmethod
    def open(cls, folder: Path, writes: bool = True) -> Run:
        """Open the folder of an earlier run to continue it.

        Raises:
            InputError: the folder holds no run.
        """
        check_run(folder)
        return cls(folder, load_recipe(folder / "recipe.toml"), writes)

    def weights(self, stage: str) -> Path:
        return self.folder / f"{stage}.safetensors"

    def weights_before(self, stage: str) -> Path | None:
        """What a stage starts from."""
        earlier = self.recipe.stages[: self.recipe.stages.index(stage)]
        return self.weights(earlier[-1]) if earlier else self.recipe.first_weights

    def log(self, stage: str, step: int, values: dict[str, float]) -> None:
        """Append one line to metrics.jsonl."""
        self._append("metrics", stage, step, values)

    def log_dev(self, stage: str, step: int, values: dict[str, float]) -> None:
        """Append one line to dev.jsonl: figures after so many steps."""
        self._append("dev", stage, step, values)

    def _append(self, log: str, stage: str, step: int, values: dict[str, float]) -> None:
        if not self.writes:
            return
        self._logs[log].append({"stage": stage, "step": step, **values})
        if self._board:
            for name, value in values.items():
                self._board.add_scalar(f"{stage}/{name}" if log == "metrics" else f"{stage} dev/{name}", value, step)

    def flushed_sizes(self) -> dict[str, int]:
        """Bytes of each log, on the disk; a checkpoint remembers them, so that later lines can be taken back."""
        return {name: log.flushed_size() for name, log in self._logs.items()}

    def rewind(self, sizes: dict[str, int]) -> None:
        """Take back what the logs hold beyond these sizes; beyond nothing where a size is missing.

        Raises:
            InputError: they are no sizes, or a log is smaller.
        """
        if not isinstance(sizes, dict) or not all(type(size) is int and size >= 0 for size in sizes.values()):
            raise InputError(f"{self.folder}: the sizes of its logs on record are damaged: {plain(repr(sizes))}")
        if self.writes:
            for name, log in self._logs.items():
                log.cut(sizes.get(name, 0))

    @property
    def finished(self) -> list[dict[str, Any]]:
        """One entry per finished stage: stage, seconds, images_per_second, and `logs`, their sizes at its end."""
        return self._entries("stages.json", self._read("stages.json", []), "stage")

    @property
    def unfinished(self) -> list[str]:
        """The recipe's stages that are still to be trained."""
        finished = {entry["stage"] for entry in self.finished}
        return [stage for stage in self.recipe.stages if stage not in finished]

    @property
    def unevaluated(self) -> list[str]:
        """The recipe's stages that have no result."""
        evaluated = {result["name"] for result in self.results}
        return [stage for stage in self.recipe.stages if stage not in evaluated]

    def finish(self, stage: str, seconds: float, images: int) -> None:
        """Record that the weights of a stage are written."""
        entry = {
            "stage": stage,
            "seconds": round(seconds, 2),
            "images_per_second": round(images / seconds, 1) if images and seconds else None,
            "logs": self.flushed_sizes(),
        }
        self._write("stages.json", [*self.finished, entry])
        self.checkpoints.remove()

    @property
    def results(self) -> list[dict[str, Any]]:
        """Evaluation results, one per evaluated stage."""
        found = self._read("evaluation.json", {"results": []})
        return self._entries("evaluation.json", found.get("results") if isinstance(found, dict) else None, "name")

    def add_result(self, stage: str, result: dict[str, Any], ranked: dict[str, Any], analysis: dict[str, Any]) -> None:
        self._write("ranked.json", ranked)
        self._write("analysis.json", analysis)
        self._write("evaluation.json", {"results": [*self.results, {"name": stage, **result}]})

    def inherit(self, other: Run, stages: Sequence[str]) -> None:
        """Begin with what another run has of its first stages, which both recipes train in the same way."""
        entries = [entry for entry in other.finished if entry["stage"] in stages]
        for stage in stages:
            _copy(other.weights(stage), self.weights(stage))
        for name, log in self._logs.items():
            log.append_from(other._logs[name], entries[-1]["logs"][name] if entries else 0)
        for name in ("ranked.json", "analysis.json"):
            if (other.folder / name).exists():
                _copy(other.folder / name, self.folder / name)
        self._write("evaluation.json", {"results": [result for result in other.results if result["name"] in stages]})
        self._write("stages.json", entries)

    def _read(self, name: str, default: Any) -> Any:
        path = self.folder / name
        try:
            return read_json(path) if path.exists() else default
        except ValueError as error:
            raise InputError(f"{path}: damaged, it is not JSON ({error}); put back what the run wrote") from error

    def _entries(self, name: str, found: Any, key: str) -> list[dict[str, Any]]:
        """Raises InputError unless `found` is a list of objects with a text under `key`."""
        entries = found if isinstance(found, list) else [None]
        if not all(isinstance(entry, dict) and isinstance(entry.get(key), str) for entry in entries):
            raise InputError(f"{self.folder / name}: damaged, an entry has no {key!r}; put back what the run wrote")
        return entries

    def _write(self, name: str, value: Any) -> None:
        write_text(self.folder / name, json.dumps(value, indent=1))


def check_empty(folder: Path) -> None:
    """Raises: InputError, if the folder holds more than what a run that was killed before its first file left."""
    if folder.exists() and (not folder.is_dir() or any(map(_is_content, folder.iterdir()))):
        run = (folder / "recipe.toml").is_file()
        hint = f"go on with its run by toplight resume {folder}, or give another --out" if run else "give another --out"
        raise InputError(f"{folder} is not empty: {hint}")


def check_run(folder: Path) -> None:
    """Raises: InputError, if the folder holds no run."""
    if not (folder / "recipe.toml").is_file():
        raise InputError(f"{folder} holds no run (no recipe.toml): give the folder of an earlier `toplight train`")


def _is_content(path: Path) -> bool:
    return path.name not in (_LOCK, "environment.json") and not path.match(".*.tmp")


def _copy(source: Path, target: Path) -> None:
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)


def environment() -> dict[str, Any]:
    """Versions and hardware, for the record that every run keeps."""
    from .. import __version__

    return {
        "toplight_ext": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "platform": platform.platform(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
