"""The compiled op libraries: loaded once at import, the reason remembered where that fails."""

from __future__ import annotations

import re
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


def _find(*names: str) -> Path | None:
    """The first of the names in the first folder of the package that has one of them."""
    paths = (Path(folder) / name for folder in sys.modules[__package__].__path__ for name in names)
    return next(filter(Path.is_file, paths), None)


def _load(path: Path) -> Library:
    try:
        torch.ops.load_library(path)
    except (OSError, RuntimeError) as error:
        return Library(path, f"{path} does not load under torch {torch.__version__}: {error}")
    return Library(path, None)


# By what torch says of the processor, which ATEN_CPU_CAPABILITY in the environment overrides.
_INSTRUCTION_SETS = {"AVX512": ("_avx512", "_avx2", ""), "AVX2": ("_avx2", "")}


def _load_cpu() -> Library:
    suffixes = _INSTRUCTION_SETS.get(torch.backends.cpu.get_cpu_capability(), ("",))
    path = _find(*(f"libtoplight_ops{suffix}.so" for suffix in suffixes))
    if path is None:
        return Library(None, "libtoplight_ops.so is not there: the package was not built (pip install .)")
    return _load(path)


def _load_cuda() -> Library:
    # The CUDA library asks for symbols that only a CUDA build of torch has, and for the schemas of the first.
    if torch.version.cuda is None:
        return Library(None, f"torch {torch.__version__} is built without CUDA")
    if not cpu.loaded:
        return Library(None, cpu.error)
    path = _find("libtoplight_ops_cuda.so")
    if path is None:
        return Library(None, "libtoplight_ops_cuda.so is not there: the package was built without nvcc")
    return _load(path)


def oldest_gpu() -> tuple[int, int]:
    """The lowest compute capability that the CUDA library was compiled for."""
    from ._core import build_info

    architectures = re.findall(r"\d+", build_info()["cuda_architectures"])
    return divmod(min(map(int, architectures)), 10)


cpu = _load_cpu()
cuda = _load_cuda()
