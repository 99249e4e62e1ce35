"""Where results come from, and the CSV file they go to."""

import contextlib
import csv
import datetime
import platform
import subprocess
from pathlib import Path

import torch

import toplight_ext

ROOT = Path(__file__).parents[1]


def provenance(device: str) -> dict[str, str | int]:
    """What a row of results has to say about where it comes from."""
    return {
        "date": datetime.date.today().isoformat(),
        "commit": _commit(),
        "device": torch.cuda.get_device_name() if device == "cuda" else _processor(),
        "threads": "" if device == "cuda" else torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _triton_version(),
        "toplight_ext": toplight_ext.__version__,
    }


def _commit() -> str:
    """The short hash, "-dirty" where files differ from it, "none" outside a git checkout."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "none"


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _triton_version() -> str:
    try:
        import triton
    except ImportError:
        return "none"
    return triton.__version__


class Results:
    """Rows of one run as a CSV file, each with its provenance, written as they come."""

    def __init__(self, path: Path, columns: list[str], constant: dict):
        self.constant = constant
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = path.open("w", newline="")
        self.writer = csv.DictWriter(self.file, [*constant, *columns])
        self.writer.writeheader()

    def add(self, row: dict) -> None:
        rounded = {key: f"{value:.5g}" if isinstance(value, float) else value for key, value in row.items()}
        self.writer.writerow(self.constant | rounded)
        self.file.flush()
