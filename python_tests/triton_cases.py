"""The Triton kernels in Triton's interpreter, on the CPU. test_triton.py runs this file with TRITON_INTERPRET=1.

The interpreter takes milliseconds for a program, so the maps are few and small, and so are the tiles where a map has
to be larger than one. `TRITON_INTERPRET=1 pytest python_tests/test_ops.py -k cpu-triton` does all that the compiled
kernels have to do, in a quarter of an hour.
"""

import pytest
import torch
from op_cases import CASES, SAMPLES, Sample, lay_out, leaves
from test_ops import assert_exact, draw_gradients, error, results, run

from toplight_ext import ops
from toplight_ext.kernels import plane

KERNELS = ("slice_pool_upsample", "shuffle_attention", "shuffle_attention_unshuffled")
every_kernel = pytest.mark.parametrize("case", [CASES[name] for name in KERNELS], ids=KERNELS)
LAYOUTS = ("contiguous", "channels_last", "sliced")

TILED = {  # for tiles of 32 values
    "channels_end_within_a_tile": Sample((1, 20, 3, 2), slices=(2, 2), groups=5),
    "plane_larger_than_a_tile": Sample((1, 4, 11, 9), slices=(5, 4), groups=1),
    "row_larger_than_a_tile": Sample((1, 4, 3, 80), slices=(2, 3), groups=2),
    "more_slices_than_positions": Sample((1, 4, 5, 3), slices=(17, 9), groups=2),
}


@pytest.fixture(autouse=True)
def triton():
    """Ops run by Triton. Fresh memory is NaN: an output not written shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    with ops.use_backend("triton"):
        yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES.keys())
@pytest.mark.parametrize("layout", LAYOUTS)
@every_kernel
def test_equals_the_reference(case, layout, sample):
    if layout in ("contiguous", "channels_last"):
        dtype, gradient_layout = torch.float32, "value_repeated"
    else:
        dtype, gradient_layout = torch.float64, layout
    assert_exact(results(case, sample, "cpu", dtype, layout, gradient_layout), dtype)


@pytest.mark.parametrize("sample", TILED.values(), ids=TILED.keys())
@pytest.mark.parametrize("layout", ("contiguous", "channels_last", "permuted"))
@every_kernel
def test_tiles_equal_the_reference(case, layout, sample, monkeypatch):
    monkeypatch.setattr(plane, "TILE", 128)
    monkeypatch.setattr(plane, "LARGEST_TILE", 64)
    monkeypatch.setattr(plane, "LARGEST_WIDE_TILE", 128)
    assert_exact(results(case, sample, "cpu", torch.float64, layout, layout), torch.float64)


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16), ids=str)
@every_kernel
def test_half_errs_at_most_twice_as_much_as_eager(case, dtype):
    sample = Sample((2, 24, 12, 7), groups=3)
    inputs = leaves(case.inputs(sample, dtype), "channels_last")
    gradients = draw_gradients(case, sample, dtype, "cpu")
    given = run(ops, case, sample, inputs, gradients)
    eager = run(ops.reference, case, sample, inputs, gradients)
    precise = [x.detach().float().requires_grad_() for x in inputs]
    exact = run(ops.reference, case, sample, precise, [g.float() for g in gradients])
    for y, y_eager, y32 in zip(sum(given, ()), sum(eager, ()), sum(exact, ()), strict=True):
        assert y.dtype == dtype
        assert error(y, y32) <= 2 * error(y_eager, y32)


@pytest.mark.parametrize("layout", (*LAYOUTS, "permuted", "channels_last_sliced", "image_repeated"))
@every_kernel
def test_strides_are_those_of_the_fake(case, layout):
    sample = Sample((2, 8, 3, 2))
    inputs = [lay_out(x, layout) for x in case.inputs(sample, torch.float32)]
    (y,) = case.outputs(ops, inputs, sample)
    with torch._subclasses.FakeTensorMode() as mode:
        (fake,) = case.outputs(ops, [mode.from_tensor(x) for x in inputs], sample)
    assert y.shape == fake.shape and y.stride() == fake.stride() and y.dtype == fake.dtype
