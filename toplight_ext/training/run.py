"""A run folder: everything that a run writes, under fixed names.

    recipe.toml          the resolved recipe
    environment.json     versions and hardware
    metrics.jsonl        one JSON object per training step; a function of recipe and seed alone
    stages.json          finished stages with seconds and images per second
    checkpoint.pt        the running stage, for `toplight resume`
    STAGE.safetensors    the network after each stage
    evaluation.json      what each stage brought
    ranked.json          ranked lists of the last evaluation, for the report
    report.html
"""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError
from ..files import write_text
from .recipe import Recipe, load_recipe, recipe_to_toml


class Run:
    """A run folder that is being written."""

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self.folder = folder
        self.recipe = recipe
        self.checkpoint = folder / "checkpoint.pt"
        self._metrics_path = folder / "metrics.jsonl"
        self._board = None
        if recipe.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"))

    @classmethod
    def create(cls, recipe: Recipe, folder: Path) -> Run:
        """Start a run in a folder that is new or empty.

        Raises:
            InputError: the folder holds something already.
        """
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            hint = f"toplight resume {folder}" if (folder / "recipe.toml").is_file() else "another --out"
            raise InputError(f"{folder} is not empty: use {hint}")
        text = recipe_to_toml(recipe)
        write_text(folder / "environment.json", json.dumps(environment(), indent=1))
        write_text(folder / "recipe.toml", text)
        return cls(folder, recipe)

    @classmethod
    def open(cls, folder: Path) -> Run:
        """Open the folder of an earlier run to continue it.

        Raises:
            InputError: the folder holds no run.
        """
        if not (folder / "recipe.toml").is_file():
            raise InputError(f"{folder} holds no run (no recipe.toml): give the folder of an earlier `toplight train`")
        return cls(folder, load_recipe(folder / "recipe.toml"))

    def weights(self, stage: str) -> Path:
        return self.folder / f"{stage}.safetensors"

    def log(self, stage: str, step: int, values: dict[str, float]) -> None:
        """Append one line to metrics.jsonl."""
        with open(self._metrics_path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"stage": stage, "step": step, **values}) + "\n")
        if self._board:
            for name, value in values.items():
                self._board.add_scalar(f"{stage}/{name}", value, step)

    @property
    def metrics_size(self) -> int:
        """Bytes of metrics.jsonl; a checkpoint remembers it, so that lines written after it can be taken back."""
        return self._metrics_path.stat().st_size if self._metrics_path.exists() else 0

    def rewind_metrics(self, size: int) -> None:
        if self.metrics_size > size:
            os.truncate(self._metrics_path, size)

    @property
    def finished(self) -> list[dict[str, Any]]:
        """One entry per finished stage: stage, seconds, images_per_second, metrics_size."""
        return self._read("stages.json", [])

    def finish(self, stage: str, seconds: float, images: int) -> None:
        entry = {
            "stage": stage,
            "seconds": round(seconds, 2),
            "images_per_second": round(images / seconds, 1) if images and seconds else None,
            "metrics_size": self.metrics_size,
        }
        self._write("stages.json", [*self.finished, entry])
        self.checkpoint.unlink(missing_ok=True)

    @property
    def results(self) -> list[dict[str, Any]]:
        """Evaluation results, one per evaluated stage."""
        return self._read("evaluation.json", {"results": []})["results"]

    def add_result(self, stage: str, result: dict[str, Any], ranked: dict[str, Any]) -> None:
        self._write("ranked.json", ranked)
        self._write("evaluation.json", {"results": [*self.results, {"name": stage, **result}]})

    def _read(self, name: str, default: Any) -> Any:
        path = self.folder / name
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else default

    def _write(self, name: str, value: Any) -> None:
        write_text(self.folder / name, json.dumps(value, indent=1))


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
