"""The package's op cases, and what pytest adds to them."""

from __future__ import annotations

import pytest
import torch

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
    draw_gradients,
    error,
    lay_out,
    leaves,
    run,
)

__all__ = [
    "CASES",
    "GRADIENT_LAYOUTS",
    "LAYOUTS",
    "SAMPLES",
    "Case",
    "Recorder",
    "Sample",
    "assert_at_most_twice_the_error_of_eager",
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


def assert_at_most_twice_the_error_of_eager(
    case: Case, sample: Sample, dtype: torch.dtype, layout: str, device: str = "cpu"
) -> None:
    """In a half type, both against float32 on the same values; eager keeps every step in half precision."""
    inputs = leaves(case.inputs(sample, dtype, device=device), layout)
    gradients = draw_gradients(case, sample, dtype, device)
    given = run(ops, case, sample, inputs, gradients)
    eager = run(ops.reference, case, sample, inputs, gradients)
    precise = [x.detach().float().requires_grad_() for x in inputs]
    exact = run(ops.reference, case, sample, precise, [g.float() for g in gradients])
    for y, y_eager, y32 in zip(sum(given, ()), sum(eager, ()), sum(exact, ()), strict=True):
        assert y.dtype == dtype
        assert error(y, y32) <= 2 * error(y_eager, y32)
