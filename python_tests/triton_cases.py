"""The Triton kernels in Triton's interpreter, on the CPU. test_triton.py runs this file with TRITON_INTERPRET=1.

The interpreter takes milliseconds for a program, so the maps are few and small, and so are the tiles where a map has
to be larger than one. `TRITON_INTERPRET=1 pytest python_tests/test_ops.py -k cpu-triton` does all that the compiled
kernels have to do, in a quarter of an hour.
"""

import functools

import pytest
import torch
import triton
import triton.language as tl
from op_cases import (
    CASES,
    SAMPLES,
    Recorder,
    Sample,
    assert_at_most_twice_the_error_of_eager,
    draw,
    every_case,
    leaves,
)
from test_ops import assert_exact, results, run
from torch.utils._pytree import tree_map_only
from triton.runtime import interpreter

from toplight_ext import ops
from toplight_ext.kernels import launch, shuffle_attention, slices

LAYOUTS = ("contiguous", "channels_last", "sliced")

TILED = {  # for tiles of 64 values
    "channels_end_within_a_tile": Sample((1, 20, 3, 2), slices=(2, 2), groups=5),
    "plane_larger_than_a_tile": Sample((1, 4, 11, 9), slices=(5, 4), groups=1),
    "row_larger_than_a_tile": Sample((1, 4, 3, 80), slices=(2, 3), groups=2),
    "more_slices_than_positions": Sample((1, 4, 5, 3), slices=(17, 9), groups=2),
}


@pytest.fixture(autouse=True)
def triton_backend():
    """Ops run by Triton. Fresh memory is NaN: an output not written shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    with ops.use_backend("triton"):
        yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles of 64 values, and as few slices at once."""
    monkeypatch.setattr(launch, "TILES", ((64, 16),))
    monkeypatch.setattr(launch, "FIXED_TILE", 64)
    monkeypatch.setattr(shuffle_attention, "LARGEST_TILE", 0)
    monkeypatch.setattr(slices, "PRODUCTS", 64)
    launch.configurations.cache_clear()
    yield
    launch.configurations.cache_clear()


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES.keys())
@pytest.mark.parametrize("layout", LAYOUTS)
@every_case
def test_equals_the_reference(case, layout, sample):
    if layout in ("contiguous", "channels_last"):
        dtype, gradient_layout = torch.float32, "value_repeated"
    else:
        dtype, gradient_layout = torch.float64, layout
    assert_exact(results(case, sample, "cpu", dtype, layout, gradient_layout), dtype)


@pytest.mark.parametrize("sample", TILED.values(), ids=TILED.keys())
@pytest.mark.parametrize("layout", ("contiguous", "channels_last", "permuted"))
@every_case
def test_tiles_equal_the_reference(case, layout, sample, small_tiles):
    assert_exact(results(case, sample, "cpu", torch.float64, layout, layout), torch.float64)


@pytest.mark.parametrize("number, layout", [(i, ("contiguous", "channels_last")[i % 2]) for i in range(1, 8)])
@every_case
def test_every_configuration_equals_the_reference(case, layout, number, monkeypatch):
    monkeypatch.setattr(launch, "_is_fixed", lambda like: False)
    monkeypatch.setattr(launch, "_timed", lambda *arguments: arguments[-1][number % len(arguments[-1])])
    sample = Sample((1, 20, 20, 18), slices=(7, 5), groups=5)
    assert_exact(results(case, sample, "cpu", torch.float32, layout, layout), torch.float32)


def test_the_fastest_configuration_is_timed_once_for_all_batches(monkeypatch):
    timed = []

    def benchmark(call, quantiles):
        call()
        timed.append(call)
        return [len(timed)] * 3  # the first is the fastest

    monkeypatch.setattr(triton, "autotune", functools.partial(triton.autotune, do_bench=benchmark))
    monkeypatch.setattr(launch, "_is_fixed", lambda like: torch.are_deterministic_algorithms_enabled())
    monkeypatch.setattr(launch, "_fastest", {})

    def timings(*shape):
        before = len(timed)
        x = draw(shape, torch.Generator().manual_seed(0))
        torch.testing.assert_close(ops.slice_pool(x, (3, 2)), ops.reference.slice_pool(x, (3, 2)))
        return len(timed) - before

    assert timings(1, 16, 9, 5) == 0
    torch.use_deterministic_algorithms(False)
    assert 2 <= timings(1, 16, 9, 5) <= 9
    assert timings(3, 16, 9, 5) == 0
    assert timings(1, 16, 5, 9) > 0


@pytest.fixture
def rounding(monkeypatch):
    """Conversion to bfloat16 as a GPU does it, to nearest; the interpreter cuts off."""
    convert = interpreter._convert_float

    def rounded(values, source, target, mode):
        if target == tl.bfloat16:
            return torch.from_numpy(values).bfloat16().view(torch.uint16).numpy()
        return convert(values, source, target, mode)

    monkeypatch.setattr(interpreter, "_convert_float", rounded)


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16), ids=str)
@every_case
def test_half_errs_at_most_twice_as_much_as_eager(case, dtype, rounding):
    sample = Sample((2, 24, 12, 7), groups=3)
    assert_at_most_twice_the_error_of_eager(case, sample, dtype, "channels_last")


@pytest.mark.parametrize("layout", (*LAYOUTS, "permuted", "channels_last_sliced", "image_repeated"))
@every_case
def test_strides_are_those_of_the_fakes(case, layout):
    sample = Sample((2, 8, 3, 2))
    with Recorder() as recorder:
        run(ops, case, sample, leaves(case.inputs(sample, torch.float32), layout))
    for function, arguments, result in recorder.calls:
        with torch._subclasses.FakeTensorMode() as mode:
            fake = function(*tree_map_only(torch.Tensor, mode.from_tensor, arguments))
        results = zip(*(x if isinstance(x, tuple) else (x,) for x in (result, fake)), strict=True)
        for given, expected in results:
            assert given.shape == expected.shape and given.dtype == expected.dtype
            assert given.stride() == expected.stride()


@pytest.mark.parametrize("shuffle", (True, False))
def test_the_map_of_slices_is_channels_last_where_asked(shuffle):
    case, sample = CASES["upsample_shuffle_attention"], Sample((2, 24, 7, 5), groups=2)

    def both(module, **channels_last):
        rows, columns, *parameters = inputs = leaves(case.inputs(sample), "contiguous")
        y = module.upsample_shuffle_attention(
            rows, columns, (7, 5), *parameters, sample.groups, shuffle=shuffle, **channels_last
        )
        gradient = draw(tuple(y.shape), torch.Generator().manual_seed(1))
        if channels_last:
            assert y.is_contiguous(memory_format=torch.channels_last)
            gradient = gradient.contiguous(memory_format=torch.channels_last)
        return y, *torch.autograd.grad(y, inputs, gradient)

    for given, expected in zip(both(ops, channels_last=True), both(ops.reference), strict=True):
        torch.testing.assert_close(given, expected)


@pytest.mark.parametrize("name", ("slice_pool", "slice_pool_upsample", "shuffle_attention"))
def test_addresses_have_64_bits(name, tmp_path):
    """Channels 2^31 values apart, in a file that is nearly all hole."""
    case, sample = CASES[name], Sample((1, 4, 3, 2), groups=1)
    x, *parameters = case.inputs(sample, torch.bfloat16)
    size = 3 * 2**31 + 6
    apart = torch.from_file(str(tmp_path / "hole"), shared=True, size=size, dtype=torch.bfloat16)
    apart = apart.as_strided(x.shape, (size, 2**31, 2, 1)).copy_(x)
    for given, expected in zip(
        case.outputs(ops, [apart, *parameters], sample), case.outputs(ops, [x, *parameters], sample), strict=True
    ):
        assert torch.equal(given, expected)
