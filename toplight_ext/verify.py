"""Whether the ops are right on this machine: `python -m toplight_ext.verify [--device cuda] [--quick] [--json]`.

Every op, by every backend that can run it on the device, is held against the reference in float64: outputs and
gradients, in all dtypes and memory layouts, on shapes that have been trouble. An error is right up to the tolerance
(1e-6 of the norm in float32, 1e-11 in float64) or twice what plain PyTorch errs in the same dtype. gradcheck holds the
gradients against differences, opcheck the registration with PyTorch. Times are of forward + backward on a map of
TOPLight's size, and of plain PyTorch beside it.

Exit codes: 0 all right, 1 something is wrong or nothing could be checked, 2 wrong use.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch

from . import __version__, op_cases, ops
from .op_cases import CASES, LAYOUTS, OPCHECK_LAYOUTS, SAMPLES, TOLERANCE, Case, Sample
from .ops._registration import FLOATING

RIGHT = "right"
SMALL = Sample((2, 8, 5, 3), slices=(3, 2))
DIFFERENTIABLE = {name: Sample((2, 4, *SAMPLES[name].shape[2:]), groups=1) for name in ("toplight", "one_position")}
MANY_CHANNELS = Sample((4, 48, 12, 7), groups=3)  # where half precision shows
TIMED = Sample((64, 1280, 9, 5), groups=64)
TIMED_QUICKLY = Sample((8, 1280, 9, 5), groups=64)


class Row(NamedTuple):
    """One line of the table."""

    op: str
    backend: str
    check: str  # a dtype, "gradcheck" or "opcheck"
    error: float | None  # the largest, relative; None where nothing was measured, or no number came out
    verdict: str  # RIGHT, or what is wrong
    milliseconds: float | None = None  # forward + backward
    reference_milliseconds: float | None = None  # of plain PyTorch


def verify(device: str = "cpu", quick: bool = False) -> Iterator[Row]:
    """Check every op by every backend that can run on the device.

    Args:
        device: "cpu" or "cuda".
        quick: fewer layouts, one size of map for gradcheck and opcheck, smaller maps for the times.
    """
    for backend in usable_backends(device):
        for op in dict.fromkeys(case.op for case in CASES.values()):
            cases = [case for case in CASES.values() if case.op == op]
            with ops.use_backend(backend):
                if ops.backends()[op][device].backend:
                    yield from _rows(op, cases, backend, device, quick)


def usable_backends(device: str) -> list[str]:
    """Those that run at least one op on the device; plain PyTorch only where there is no other.

    Triton's interpreter is none of them: it is for tests of the kernels, slow, and cuts bfloat16 where a GPU rounds.
    """
    found = []
    for name in ("native",) if device == "cpu" else ("native", "triton"):
        with ops.use_backend(name):
            if any(devices[device].backend for devices in ops.backends().values()):
                found.append(name)
    return found or ["reference"]


def _rows(op: str, cases: list[Case], backend: str, device: str, quick: bool) -> Iterator[Row]:
    for dtype in FLOATING:
        error, verdict = _judge(lambda dtype=dtype: _accuracy(cases, device, dtype, quick))
        times = (None, None)
        if verdict == RIGHT:
            times = [_time(module, cases[0], device, dtype, quick) for module in (ops, ops.reference)]
        yield Row(op, backend, str(dtype).removeprefix("torch."), error, verdict, *times)
    if op != "gradient_reversal":  # its gradient is not the derivative
        yield Row(op, backend, "gradcheck", *_judge(lambda: _gradcheck(cases, device, quick)))
    if backend != "reference":  # there are no torch ops of ours in it
        yield Row(op, backend, "opcheck", *_judge(lambda: _opcheck(cases, device, quick)))


def _judge(check: Callable[[], tuple[float | None, str]]) -> tuple[float | None, str]:
    """A check's verdict; what it raises is one too, so that the table gets finished."""
    try:
        return check()
    except Exception as error:
        return None, f"{type(error).__name__}: {error}".partition("\n")[0]


def _accuracy(cases: list[Case], device: str, dtype: torch.dtype, quick: bool) -> tuple[float | None, str]:
    samples = SAMPLES if dtype in TOLERANCE else {"many_channels": MANY_CHANNELS}
    layouts = ("contiguous", "channels_last", "sliced") if quick else LAYOUTS
    largest, wrong = 0.0, None
    for case in cases:
        for name, sample in samples.items():
            for layout in layouts:
                with _fresh_memory_is_nan():
                    results = op_cases.results(case, sample, device, dtype, layout, layout)
                for error, allowed in op_cases.errors(results, TOLERANCE.get(dtype, 0.0)):
                    largest = max(largest, math.inf if math.isnan(error) else error)
                    if not error <= allowed:
                        wrong = wrong or f"WRONG: {case.name}, {name}, {layout}: {error:.1e}, allowed {allowed:.1e}"
    return largest if math.isfinite(largest) else None, wrong or RIGHT  # JSON has no infinity


@contextlib.contextmanager
def _fresh_memory_is_nan() -> Iterator[None]:
    """So that an output which is not written shows."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def _gradcheck(cases: list[Case], device: str, quick: bool) -> tuple[None, str]:
    for case in cases:
        for sample in list(DIFFERENTIABLE.values())[: 1 if quick else None]:
            for layout in ("contiguous", "channels_last"):
                inputs = op_cases.leaves(case.inputs(sample, device=device), layout)
                torch.autograd.gradcheck(lambda *x, c=case, s=sample: c.outputs(ops, list(x), s), inputs)
    return None, RIGHT


def _opcheck(cases: list[Case], device: str, quick: bool) -> tuple[None, str]:
    for case in cases:
        for layouts in OPCHECK_LAYOUTS[-1:] if quick else OPCHECK_LAYOUTS:
            op_cases.opcheck(case, SMALL, *layouts, device)
    return None, RIGHT


def _time(module, case: Case, device: str, dtype: torch.dtype, quick: bool) -> float:
    """Median milliseconds of forward + backward."""
    from torch.utils.benchmark import Timer

    sample = TIMED_QUICKLY if quick else TIMED
    inputs = op_cases.leaves(case.inputs(sample, dtype, device=device), "contiguous")
    gradients = op_cases.draw_gradients(case, sample, dtype, device)

    def step():
        op_cases.run(module, case, sample, inputs, gradients)

    timer = Timer("step()", globals={"step": step}, num_threads=torch.get_num_threads())
    return 1e3 * timer.blocked_autorange(min_run_time=0.05 if quick else 0.2).median


HEAD = ("op", "backend", "check", "largest error", "ms", "plain PyTorch, ms", "verdict")


def cells(row: Row) -> tuple[str, ...]:
    """The row as the table shows it."""
    error = "" if row.error is None else f"{row.error:.1e}"
    times = ("" if ms is None else f"{ms:.2f}" for ms in (row.milliseconds, row.reference_milliseconds))
    return (row.op, row.backend, row.check, error, *times, row.verdict)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m toplight_ext.verify", description="Check every op by every backend on this machine."
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="less of everything, in less than a minute")
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    given = parser.parse_args(arguments)
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error(f"torch {torch.__version__} sees no CUDA device; leave out --device or use --device cpu")
    warnings.filterwarnings("ignore", message="toplight_ext runs ")  # the table says which backend runs
    warnings.filterwarnings("ignore", message=".* does not have a deterministic implementation")  # plain PyTorch's
    rows = []
    if not given.json:
        chosen = ops.backends()["slice_pool"][given.device]
        print(f"toplight_ext {__version__}, torch {torch.__version__}, {given.device}: {chosen.reason}\n{_line(HEAD)}")
    for row in verify(given.device, given.quick):
        rows.append(row)
        if not given.json:
            print(_line(cells(row)), flush=True)
    right = bool(rows) and all(row.verdict == RIGHT for row in rows)
    if given.json:
        found = {"device": given.device, "torch": torch.__version__, "right": right}
        print(json.dumps({**found, "rows": [row._asdict() for row in rows]}))
    return 0 if right else 1


def _line(columns: Sequence[str]) -> str:
    widths = (36, 10, 11, 15, 9, 19, 0)
    return "".join(f"{text:<{width}}" for text, width in zip(columns, widths, strict=True)).rstrip()


if __name__ == "__main__":
    sys.exit(main())
