"""Latency of exported networks, all of them interleaved in one run."""

from __future__ import annotations

import csv
import io
import multiprocessing
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..data import Modality
from ..errors import InputError
from ..inference import Preprocessing
from ..models import load_weights
from .runtimes import Exported, format_of, load_exported

_BURST = 10  # timed runs of one network before the next
_WARM_UP = 0.05  # seconds of runs before them: the last network emptied the caches, and its idle threads still spin

HEAD = ("file", "format", "threads", "batch", "median ms", "p95 ms", "images/s", "MiB", "peak MiB", "x")


class Row(NamedTuple):
    """One network under one number of threads and batch size."""

    file: str
    format: str
    threads: int | None  # None: its runtime takes as many as it likes
    batch: int
    median_ms: float  # of a batch
    p95_ms: float
    images_per_second: float
    file_mib: float
    peak_mib: float | None  # memory that it adds to a process, under the most threads; None where /proc is missing
    ratio: float | None  # its median by that of the first file, if that was timed beside it

    def cells(self) -> list[str]:
        numbers = (f"{value:.3f}" for value in (self.median_ms, self.p95_ms))
        threads, peak, ratio = (
            "" if value is None else f"{value:{form}}"
            for value, form in ((self.threads, "d"), (self.peak_mib, ".0f"), (self.ratio, ".2f"))
        )
        return [
            self.file,
            self.format,
            threads,
            str(self.batch),
            *numbers,
            f"{self.images_per_second:.1f}",
            f"{self.file_mib:.1f}",
            peak,
            ratio,
        ]


class Eager(nn.Module):
    """A weights file in PyTorch, channels last, as a network to be timed."""

    def __init__(self, file: Path):
        super().__init__()
        self.model, metadata = load_weights(file)
        self.model.to(memory_format=torch.channels_last)
        self.preprocessing = Preprocessing.of(metadata, file)

    @torch.inference_mode()
    def embed(self, images: Tensor, modality: Modality) -> Tensor:
        return self.model.embed(images.to(memory_format=torch.channels_last), modality)


def benchmark(
    files: Sequence[Path], threads: Sequence[int] = (1,), batches: Sequence[int] = (1,), repeats: int = 100
) -> list[Row]:
    """Time files against each other: for every number of threads and batch size, bursts of each in turn.

    A run is from a float32 tensor to embeddings, without decoding. Outputs that are not finite are refused. What takes
    as many threads as it likes is timed once, beside the others under the most threads.

    Args:
        files: exported networks, or weights (.safetensors) for PyTorch.
        repeats: timed runs of each, or as many more as make whole bursts of ten.

    Raises:
        InputError: a number out of range, a file that does not load, or one of a fixed batch other than asked for.
    """
    if not files or min(*threads, *batches, repeats) < 1:
        raise InputError("benchmark: expected at least one file, and threads, batches and repeats of at least 1")
    times = {}
    for count in threads:
        timed = [file for file in files if _takes_threads(file) or count == max(threads)]
        for batch in batches:
            found = _interleaved([_load(file, count) for file in timed], count, batch, repeats)
            times[count, batch] = list(zip(timed, found, strict=True))
    peaks = {(file, batch): _peak_memory(file, max(threads), batch) for file in files for batch in batches}
    return [
        _row(file, count, batch, seconds, of_all[0][1] if of_all[0][0] == files[0] else None, peaks[file, batch])
        for (count, batch), of_all in times.items()
        for file, seconds in of_all
    ]


def _row(
    file: Path,
    threads: int,
    batch: int,
    times: Sequence[float],
    of_first: Sequence[float] | None,
    peak: float | None,
) -> Row:
    median = float(np.median(times))
    return Row(
        file=str(file),
        format=_format(file),
        threads=threads if _takes_threads(file) else None,
        batch=batch,
        median_ms=1e3 * median,
        p95_ms=1e3 * float(np.percentile(times, 95)),
        images_per_second=batch / median,
        file_mib=sum(part.stat().st_size for part in _parts(file)) / 2**20,
        peak_mib=peak,
        ratio=median / float(np.median(of_first)) if of_first else None,
    )


def to_csv(rows: Sequence[Row], hardware: Mapping[str, Any]) -> str:
    """The rows, with what they were measured on in comment lines above."""
    text = io.StringIO()
    text.writelines(f"# {name}: {value}\n" for name, value in hardware.items())
    writer = csv.DictWriter(text, Row._fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(row._asdict() for row in rows)
    return text.getvalue()


def _load(file: Path, threads: int) -> Exported | Eager:
    if not file.is_file():
        raise InputError(f"{file}: no such file")
    return Eager(file) if file.suffix == ".safetensors" else load_exported(file, threads)


def _interleaved(networks: Sequence[Exported | Eager], threads: int, batch: int, repeats: int) -> list[list[float]]:
    """Seconds of every timed run of each network."""
    torch.set_num_threads(threads)
    inputs = [_input(network, batch) for network in networks]
    times: list[list[float]] = [[] for _ in networks]
    while networks and len(times[0]) < repeats:
        for network, arguments, found in zip(networks, inputs, times, strict=True):
            _warm_up(network, *arguments)
            found += [_timed(network, *arguments) for _ in range(_BURST)]
    return times


def _input(network: Exported | Eager, batch: int) -> tuple[Tensor, Modality]:
    if isinstance(network, Eager):
        size, modality = network.preprocessing.size, Modality.VISIBLE
    else:
        contract = network.contract
        size, modality = contract.preprocessing.size, next(iter(contract.inputs.values()))
        if contract.batch not in (None, batch):
            raise InputError(f"{network.file}: takes batches of {contract.batch}, not {batch}")
    images = torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(0))
    if not torch.isfinite(network.embed(images, modality)).all():
        raise InputError(f"{network.file}: its embedding of noise is not finite")
    return images, modality


def _warm_up(network: Exported | Eager, images: Tensor, modality: Modality) -> None:
    spent = 0.0
    while spent < _WARM_UP:
        spent += _timed(network, images, modality)


def _timed(network: Exported | Eager, images: Tensor, modality: Modality) -> float:
    start = time.perf_counter()
    network.embed(images, modality)
    return time.perf_counter() - start


def _peak_memory(file: Path, threads: int, batch: int) -> float | None:
    """MiB that loading and running the file adds to a fresh process.

    Raises:
        RuntimeError: that process was killed.
    """
    if not Path("/proc/self/status").exists():
        return None
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:  # a Pool would wait for a lost process
        try:
            return pool.submit(_added_memory, file, threads, batch).result()
        except BrokenProcessPool as error:
            raise RuntimeError(
                f"{file}: the process that measured its memory was killed, by the system if memory ran out"
            ) from error


def _added_memory(file: Path, threads: int, batch: int) -> float:
    torch.zeros(1)
    before = _status_kib("VmRSS")
    network = _load(file, threads)
    images, modality = _input(network, batch)
    network.embed(images, modality)
    return (_status_kib("VmHWM") - before) / 1024


def _status_kib(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(f"{field}:")).split()[1])


def _parts(file: Path) -> list[Path]:
    return [file, file.with_suffix(".bin")] if file.suffix == ".xml" else [file]


def _format(file: Path) -> str:
    return "pytorch" if file.suffix == ".safetensors" else format_of(file)


def _takes_threads(file: Path) -> bool:
    return _format(file) != "executorch"
