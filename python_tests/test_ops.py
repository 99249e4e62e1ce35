"""The values of the ops: against the references, these against definitions written out, in every layout and dtype."""

import math
import os
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import (
    CASES,
    GRADIENT_LAYOUTS,
    LAYOUTS,
    SAMPLES,
    Sample,
    assert_at_most_twice_the_error_of_eager,
    draw,
    every_case,
    every_layout,
    lay_out,
    leaves,
    skip_without_kernel,
)

from toplight_ext import ops
from toplight_ext.op_cases import TOLERANCE, draw_gradients, error, errors, run
from toplight_ext.op_cases import results as compare

every_sample = pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES.keys())

def targets() -> list[tuple[str, str]]:
    """The kernels that can run here, as (device, backend)."""
    candidates = [("cpu", "triton")] if os.environ.get("TRITON_INTERPRET") == "1" else []
    if torch.cuda.is_available():
        candidates += [("cuda", "native"), ("cuda", "triton")]
    return [("cpu", "native"), *candidates]


@pytest.fixture(scope="module", params=targets(), ids="-".join)
def device(request) -> Iterator[str]:
    """Device to run on, the ops being those of one backend. Fresh memory is NaN: an output not written shows."""
    name, backend = request.param
    torch.use_deterministic_algorithms(True, warn_only=True)
    with ops.use_backend(backend):
        yield name
    torch.use_deterministic_algorithms(False)


def results(case, sample, device, dtype, layout, gradient_layout, seed=0):
    """The package's, of the right types, or a skip where the backend cannot run the op."""
    skip_without_kernel(case, device)
    given, eager, expected = compare(case, sample, device, dtype, layout, gradient_layout, seed)
    for y, y64 in zip(sum(given, ()), sum(expected, ()), strict=True):
        assert y.dtype == dtype and y.shape == y64.shape
    return given, eager, expected


def assert_exact(results, dtype):
    for found, allowed in errors(results, TOLERANCE[dtype]):
        assert found <= allowed


@every_sample
@every_layout
@every_case
def test_equals_the_reference(device, case, layout, sample):
    for dtype in TOLERANCE:
        for gradient_layout in {"contiguous", layout, "value_repeated"}:
            assert_exact(results(case, sample, device, dtype, layout, gradient_layout), dtype)


@st.composite
def samples(draw_value):
    groups, half = draw_value(st.integers(1, 5)), draw_value(st.integers(1, 9))
    batch, height, width = (draw_value(st.integers(low, high)) for low, high in ((0, 3), (1, 20), (1, 20)))
    slices = draw_value(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    return Sample((batch, 2 * groups * half, height, width), slices, groups, eps=1e-2)


@every_case
@settings(max_examples=int(os.environ.get("TOPLIGHT_EXAMPLES", 60)), deadline=None, derandomize=True)
@given(
    sample=samples(),
    layout=st.sampled_from(sorted(LAYOUTS)),
    gradient_layout=st.sampled_from(sorted(GRADIENT_LAYOUTS)),
    dtype=st.sampled_from(sorted(TOLERANCE, key=str)),
    seed=st.integers(0, 2**31),
)
def test_equals_the_reference_on_drawn_shapes(device, case, sample, layout, gradient_layout, dtype, seed):
    assert_exact(results(case, sample, device, dtype, layout, gradient_layout, seed), dtype)


@pytest.mark.parametrize("name", ("upsample_shuffle_attention", "upsample_shuffle_attention_pooled"))
def test_equal_slices_stay_equal(device, name):
    """A profile of equal slices does not vary; what interpolation added would be enlarged to a gradient."""
    case, sample = CASES[name], Sample((1, 16, 5, 12), slices=(27, 22), groups=4)
    inputs = case.inputs(sample, torch.float32, device=device)
    for vectors in inputs[:2]:
        vectors.copy_(1000 * vectors[..., :1].clone())
    exact = [x.double().requires_grad_() for x in inputs]
    _, given = run(ops, case, sample, [x.requires_grad_() for x in inputs])
    _, expected = run(ops.reference, case, sample, exact)
    assert all(error(ours, right) < 0.01 for ours, right in zip(given, expected, strict=True))


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16), ids=str)
@every_layout
@every_case
def test_half_errs_at_most_twice_as_much_as_eager(device, case, layout, dtype):
    skip_without_kernel(case, device)
    sample = Sample((4, 48, 12, 7), groups=3)
    assert_at_most_twice_the_error_of_eager(case, sample, dtype, layout, device)


@pytest.mark.parametrize("layout", ("contiguous", "channels_last", "permuted"))
@pytest.mark.parametrize("name", ("toplight", "fewer_positions_than_slices", "one_position"))
@every_case
def test_gradients_are_the_derivatives(device, case, name, layout):
    skip_without_kernel(case, device)
    sample = Sample((2, 4, *SAMPLES[name].shape[2:]), groups=1)
    inputs = leaves(case.inputs(sample, device=device), layout)
    if case.name == "gradient_reversal":
        (gradient,) = run(ops, case, sample, inputs)[1]
        assert torch.equal(gradient, torch.full_like(gradient, -0.75))
        return
    assert torch.autograd.gradcheck(lambda *x: case.outputs(ops, list(x), sample), inputs)


@every_layout
@every_case
def test_the_same_bits_again_and_for_any_number_of_threads(device, case, layout):
    skip_without_kernel(case, device)
    sample = Sample((4, 64, 12, 9))
    gradients = draw_gradients(case, sample, torch.float32, device)
    threads = torch.get_num_threads()
    runs = []
    try:
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            inputs = leaves(case.inputs(sample, torch.float32, device=device), layout)
            runs.append(sum(run(ops, case, sample, inputs, gradients), ()))
    finally:
        torch.set_num_threads(threads)
    for again in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], again, strict=True))


@every_case
def test_backward_keeps_the_inputs_and_nothing_else(device, case):
    skip_without_kernel(case, device)
    sample = SAMPLES["toplight"]
    inputs = leaves(case.inputs(sample, torch.float32, device=device), "contiguous")
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        case.outputs(ops, inputs, sample)
    kept = {x.data_ptr() for x in kept if x.numel() > 1}  # the lambda of the reversal is one number
    linear = case.name in ("slice_pool", "slice_pool_upsample", "gradient_reversal")
    assert kept == (set() if linear else {x.data_ptr() for x in inputs})


def test_one_unused_output_has_no_gradient(device):
    x = draw((2, 4, 6, 5), torch.Generator().manual_seed(0)).to(device).requires_grad_()
    skip_without_kernel(CASES["slice_pool"], device)
    (dx,) = torch.autograd.grad(ops.slice_pool(x, (3, 2))[0].sum(), x)
    (expected,) = torch.autograd.grad(F.adaptive_avg_pool2d(x, (3, 1)).sum(), x)
    torch.testing.assert_close(dx, expected)


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_large_and_small_logits_saturate(device, layout):
    skip_without_kernel(CASES["shuffle_attention"], device)
    x = torch.tensor([-300.0, -1.0, 0.0, 1.0, 300.0], device=device).reshape(1, 1, 1, 5).repeat(1, 2, 1, 1)
    parameters = [torch.full((1, 1, 1, 1), value, device=device) for value in (200.0, 0.0) * 3]
    y = ops.shuffle_attention(lay_out(x, layout), *parameters, 1)
    expected = ops.reference.shuffle_attention(x, *parameters, 1)
    torch.testing.assert_close(y, expected, rtol=1e-6, atol=1e-35)


def test_reference_slices_are_means_of_intervals():
    x = draw((2, 3, 7, 5), torch.Generator().manual_seed(0))
    rows, columns = ops.reference.slice_pool(x, (4, 9))
    for i in range(4):
        begin, end = math.floor(i * 7 / 4), math.ceil((i + 1) * 7 / 4)
        torch.testing.assert_close(rows[:, :, i], x[:, :, begin:end].mean((2, 3)))
    for i in range(9):
        begin, end = math.floor(i * 5 / 9), math.ceil((i + 1) * 5 / 9)
        torch.testing.assert_close(columns[:, :, i], x[:, :, :, begin:end].mean((2, 3)))


@pytest.mark.parametrize("height, width", ((9, 5), (2, 1), (12, 40)))
def test_reference_upsampling_is_linear_between_slice_centres(height, width):
    x = draw((2, 3, height, width), torch.Generator().manual_seed(0))
    rows, columns = ops.reference.slice_pool(x, (6, 3))
    y = ops.reference.slice_pool_upsample(x, (6, 3))

    def interpolated(values, length):
        centres = (np.arange(len(values)) + 0.5) * length / len(values)
        return np.interp(np.arange(length) + 0.5, centres, values)

    for b in range(2):
        for c in range(3):
            profile = interpolated(rows[b, c].numpy(), height)
            np.testing.assert_allclose(y[b, c], np.broadcast_to(profile[:, None], (height, width)))
            profile = interpolated(columns[b, c].numpy(), width)
            np.testing.assert_allclose(y[b, 3 + c], np.broadcast_to(profile, (height, width)))


@pytest.mark.parametrize("shuffle", (True, False))
def test_reference_attention_is_that_of_the_paper(shuffle):
    groups, half, eps = 3, 2, 1e-3
    channels = 2 * groups * half
    generator = torch.Generator().manual_seed(0)
    x = draw((2, channels, 5, 3), generator)
    parameters = [draw((1, half, 1, 1), generator) for _ in range(6)]
    w1, b1, w2, b2, gamma, beta = (p.flatten() for p in parameters)
    expected = torch.empty_like(x)
    for b in range(2):
        for group in range(groups):
            for k in range(half):
                first = group * 2 * half + k
                plane = x[b, first]
                expected[b, first] = plane / (1 + torch.exp(-(w1[k] * plane.mean() + b1[k])))
                plane = x[b, first + half]
                deviation = torch.sqrt(((plane - plane.mean()) ** 2).mean() + eps)
                normalised = gamma[k] * (plane - plane.mean()) / deviation + beta[k]
                expected[b, first + half] = plane / (1 + torch.exp(-(w2[k] * normalised + b2[k])))
    if shuffle:
        order = [i * channels // 2 + j for j in range(channels // 2) for i in range(2)]
        expected = expected[:, order]
    y = ops.reference.shuffle_attention(x, *parameters, groups, eps, shuffle)
    torch.testing.assert_close(y, expected)


def test_reference_upsampled_attention_is_the_composition():
    sample = SAMPLES["toplight"]
    rows, columns, *parameters = CASES["upsample_shuffle_attention"].inputs(sample)
    size = sample.shape[2:]
    x = torch.cat(
        (
            F.interpolate(rows[..., None], size, mode="bilinear", align_corners=False),
            F.interpolate(columns[:, :, None], size, mode="bilinear", align_corners=False),
        ),
        dim=1,
    )
    expected = ops.reference.shuffle_attention(x, *parameters, sample.groups)
    y = ops.reference.upsample_shuffle_attention(rows, columns, size, *parameters, sample.groups)
    pooled = ops.reference.upsample_shuffle_attention_pooled(rows, columns, size, *parameters, sample.groups)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(pooled, F.adaptive_avg_pool2d(expected, 1).flatten(1))
