"""The package's op cases, and what pytest adds to them."""

from __future__ import annotations

import pytest

from toplight_ext import ops
from toplight_ext.op_cases import (
    CASES,
    GRADIENT_LAYOUTS,
    LAYOUTS,
    SAMPLES,
    Case,
    Recorder,
    Sample,
    draw,
    lay_out,
    leaves,
)

__all__ = [
    "CASES",
    "GRADIENT_LAYOUTS",
    "LAYOUTS",
    "SAMPLES",
    "Case",
    "Recorder",
    "Sample",
    "draw",
    "every_case",
    "every_layout",
    "lay_out",
    "leaves",
    "skip_without_kernel",
]

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
every_layout = pytest.mark.parametrize("layout", LAYOUTS)


def skip_without_kernel(case: Case, device: str) -> None:
    backend, reason = ops.backends()[case.op][device]
    if backend is None:
        pytest.skip(reason)
