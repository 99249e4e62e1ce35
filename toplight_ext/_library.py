"""The compiled op libraries: loaded once at import, the reason remembered where that fails."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Library:
    """One compiled library: the file, and why it is not loaded (None if it is)."""

    path: Path | None
    error: str | None

    @property
    def loaded(self) -> bool:
        return self.error is None


def _load(name: str, missing: str) -> Library:
    for folder in sys.modules[__package__].__path__:
        path = Path(folder) / name
        if path.is_file():
            break
    else:
        return Library(None, f"{name} is not there: {missing}")
    try:
        torch.ops.load_library(path)
    except (OSError, RuntimeError) as error:
        return Library(path, f"{path} does not load under torch {torch.__version__}: {error}")
    return Library(path, None)


def _load_cuda() -> Library:
    # The CUDA library asks for symbols that only a CUDA build of torch has, and for the schemas of the first.
    if torch.version.cuda is None:
        return Library(None, f"torch {torch.__version__} is built without CUDA")
    if not cpu.loaded:
        return Library(None, cpu.error)
    return _load("libtoplight_ops_cuda.so", "the package was built without nvcc")


cpu = _load("libtoplight_ops.so", "the package was not built (pip install .)")
cuda = _load_cuda()
