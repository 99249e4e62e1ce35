"""What only a GPU shows: real sizes, streams, CUDA graphs, several devices. test_ops.py runs on the GPU as well."""

import pytest
import torch
from op_cases import (
    CASES,
    Sample,
    assert_at_most_twice_the_error_of_eager,
    every_case,
    leaves,
    skip_without_kernel,
)
from test_ops import assert_exact, draw_gradients, error, results, run

import toplight_ext as tl
from toplight_ext import ops

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device that torch can use")

SAMPLES = {  # by why they are there
    "toplight": Sample((8, 1280, 9, 5), groups=64),
    "agw": Sample((2, 2048, 18, 9), (4, 2), groups=64),
    "deen": Sample((4, 1024, 24, 9), (9, 5), groups=64),
    "rows_of_whole_vectors": Sample((4, 960, 24, 12), groups=32),
    "one_small_image": Sample((1, 576, 9, 5), (4, 2), groups=32),
    "large_map": Sample((2, 256, 96, 32), groups=8),
    "one_slice": Sample((8, 1280, 9, 5), (1, 1), groups=64, eps=1e-2),
    "larger_than_shared_memory": Sample((1, 16, 288, 244), groups=1),
    "channels_that_fill_no_vector": Sample((2, 30, 7, 5), groups=3),
    "no_image": Sample((0, 64, 9, 5)),
}
every_sample = pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES.keys())


@pytest.fixture(params=("native", "triton"))
def device(request):
    """The GPU, the ops being those of one backend. Fresh memory is NaN: an output not written shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    with ops.use_backend(request.param):
        yield "cuda"
    torch.use_deterministic_algorithms(False)


# Triton compiles anew for every shape, layout and type, so there are no more of them than needed.
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@every_sample
@every_case
def test_equals_the_reference(device, case, sample, layout):
    assert_exact(results(case, sample, device, torch.float32, layout, layout), torch.float32)


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("name", ("toplight", "large_map"))
@every_case
def test_half_errs_at_most_twice_as_much_as_eager(device, case, name, layout, dtype):
    skip_without_kernel(case, device)
    sample = SAMPLES[name]
    assert_at_most_twice_the_error_of_eager(case, sample, dtype, layout, device)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("size", ((9, 5), (24, 8), (96, 32)), ids=str)
def test_the_written_map_is_the_same_in_both_layouts(device, size, dtype):
    """Of upsample_shuffle_attention, which has no map to take the layout from."""
    case = CASES["upsample_shuffle_attention"]
    skip_without_kernel(case, device)
    rows, columns, *parameters = case.inputs(Sample((2, 64, *size)), torch.float32, device=device)
    vectors = rows.to(dtype), columns.to(dtype)
    y = ops.upsample_shuffle_attention(*vectors, size, *parameters, 2)
    last = ops.upsample_shuffle_attention(*vectors, size, *parameters, 2, channels_last=True)
    assert y.is_contiguous() and last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(y, last)


@pytest.mark.parametrize("elements", (1, 2, 3))
@every_case
def test_memory_off_a_16_byte_boundary(device, case, elements):
    skip_without_kernel(case, device)
    sample = Sample((2, 16, 24, 8))
    inputs = leaves(case.inputs(sample, torch.float32, device=device), "contiguous")
    gradients = draw_gradients(case, sample, torch.float32, device)

    def moved(x):
        return x.new_empty(x.numel() + elements)[elements:].view(x.shape).copy_(x)

    given = run(ops, case, sample, [moved(x.detach()).requires_grad_() for x in inputs], [moved(g) for g in gradients])
    expected = run(ops.reference, case, sample, inputs, gradients)
    for y, y_expected in zip(sum(given, ()), sum(expected, ()), strict=True):
        assert error(y, y_expected) <= 1e-5


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("name", ("toplight", "large_map"))
@every_case
def test_the_same_bits_again(device, case, name, layout):
    skip_without_kernel(case, device)
    sample = SAMPLES[name]
    inputs = leaves(case.inputs(sample, torch.float32, device=device), layout)
    gradients = draw_gradients(case, sample, torch.float32, device)
    torch.use_deterministic_algorithms(True)  # raises where an op has no deterministic version
    first, second = (sum(run(ops, case, sample, inputs, gradients), ()) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@every_case
def test_runs_on_the_current_stream(device, case):
    skip_without_kernel(case, device)
    sample = Sample((8, 64, 24, 9), groups=4)
    inputs = case.inputs(sample, torch.float32, device=device)
    expected = case.outputs(ops, inputs, sample)
    late = [torch.zeros_like(x) for x in inputs]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)
        for x, value in zip(late, inputs, strict=True):
            x.copy_(value)
        given = case.outputs(ops, late, sample)
    stream.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(given, expected, strict=True))


def captured(function):
    """Run once to compile what has to be compiled, then capture; returns the graph and what it will fill."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        filled = function()
    return graph, filled


@every_case
def test_replays_in_a_cuda_graph(device, case):
    if case.name == "gradient_reversal":
        pytest.skip("the case makes its lambda on the CPU; test_gradient_reversal_replays_in_a_cuda_graph has one here")
    skip_without_kernel(case, device)
    sample = Sample((8, 64, 9, 5), groups=4)
    inputs = leaves(case.inputs(sample, torch.float32, device=device), "contiguous")
    gradients = draw_gradients(case, sample, torch.float32, device)
    graph, filled = captured(lambda: sum(run(ops, case, sample, inputs, gradients), ()))
    with torch.no_grad():
        for x, other in zip(inputs, case.inputs(sample, torch.float32, seed=7, device=device), strict=True):
            x.copy_(other)
    graph.replay()
    expected = sum(run(ops, case, sample, inputs, gradients), ())
    assert all(torch.equal(a, b) for a, b in zip(filled, expected, strict=True))


def test_gradient_reversal_replays_in_a_cuda_graph(device):
    skip_without_kernel(CASES["gradient_reversal"], device)
    x, lambd = torch.randn(8, 64, device=device, requires_grad=True), torch.ones((), device=device)
    gradient = torch.randn(8, 64, device=device)
    graph, (filled,) = captured(lambda: torch.autograd.grad(ops.gradient_reversal(x, lambd), x, gradient))
    lambd.fill_(0.25)
    graph.replay()
    assert torch.equal(filled, -0.25 * gradient)


@pytest.mark.parametrize("embed", (True, False))
def test_fdr_replays_in_a_cuda_graph(embed):
    neck = tl.FDR(64, groups=4, embed=embed).cuda().eval()
    x = torch.randn(8, 64, 9, 5, device="cuda")
    with torch.no_grad():
        graph, filled = captured(lambda: (neck(x), neck.pooled(x)))
        x.copy_(torch.randn_like(x))
        graph.replay()
        assert all(torch.equal(a, b) for a, b in zip(filled, (neck(x), neck.pooled(x)), strict=True))


def launches(function) -> int:
    """How many of the compiled kernels `function` starts."""
    function()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        function()
        torch.cuda.synchronize()
    return sum(event.count for event in profile.key_averages() if "toplight::cuda" in event.key)


@every_case
def test_one_launch_forward_and_at_most_two_backward(case):
    sample = SAMPLES["toplight"]
    with ops.use_backend("native"):
        skip_without_kernel(case, "cuda")
        inputs = leaves(case.inputs(sample, torch.float32, device="cuda"), "contiguous")
        gradients = draw_gradients(case, sample, torch.float32, "cuda")
        forward = launches(lambda: case.outputs(ops, inputs, sample))
        both = launches(lambda: run(ops, case, sample, inputs, gradients))
    assert forward == (0 if case.name == "gradient_reversal" else 1)
    assert forward < both <= forward + 2


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device only")
@every_case
def test_runs_on_the_device_of_its_input(device, case):
    skip_without_kernel(case, device)
    sample = Sample((2, 16, 9, 5))
    elsewhere = case.inputs(sample, torch.float32, device="cuda:1")
    given = case.outputs(ops, elsewhere, sample)
    expected = case.outputs(ops, case.inputs(sample, torch.float32, device="cuda:0"), sample)
    assert all(y.device == elsewhere[0].device for y in given)
    assert all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(given, expected, strict=True))


@every_case
def test_more_than_2_to_the_31_values(device, case):
    """The last image of three alone gives the same bits: what is addressed wrongly beyond 2^31 shows there."""
    skip_without_kernel(case, device)
    free, _ = torch.cuda.mem_get_info()
    needed = 48 << 30
    if free < needed:
        pytest.skip(f"needs {needed >> 30} GiB of GPU memory, {free >> 30} are free")
    sample = Sample((3, 1 << 15, 160, 160), groups=64)
    assert torch.Size(sample.shape).numel() > 1 << 31

    def drawn(shape):
        return torch.randn(shape, device=device, dtype=torch.bfloat16)

    if case.name.startswith("upsample"):
        whole = case.inputs(sample, torch.bfloat16, device=device)
    else:  # a map is drawn on the GPU, since the CPU would take minutes
        _, *parameters = case.inputs(Sample((1, sample.shape[1], 1, 1), groups=64), torch.bfloat16, device=device)
        whole = [drawn(sample.shape), *parameters]
    whole = [x.requires_grad_() for x in whole]
    of_images = [i for i, x in enumerate(whole) if x.shape[0] == 3]

    def last(tensors):
        return [x[-1:] if x.shape[0] == 3 else x for x in tensors]

    outputs = case.outputs(ops, whole, sample)
    gradients = [drawn(y.shape) for y in outputs]
    alone = [x.detach().clone().requires_grad_() for x in last(whole)]
    outputs_alone = case.outputs(ops, alone, sample)
    assert all(torch.equal(a, b) for a, b in zip(last(outputs), outputs_alone, strict=True))
    given = torch.autograd.grad(outputs, [whole[i] for i in of_images], gradients)
    expected = torch.autograd.grad(outputs_alone, [alone[i] for i in of_images], last(gradients))
    assert all(torch.equal(a, b) for a, b in zip(last(given), expected, strict=True))


SANITIZED = (  # shape and layout by why they are there
    pytest.param((2, 24, 9, 5), "contiguous", id="vectors_across_planes"),
    pytest.param((2, 48, 9, 5), "channels_last", id="vectors_of_channels"),
    pytest.param((2, 12, 9, 5), "permuted", id="strided"),
    pytest.param((1, 8, 24, 8), "contiguous", id="vectors_of_rows"),
    pytest.param((1, 4, 288, 244), "contiguous", id="strips"),
)


@pytest.mark.parametrize(("shape", "layout"), SANITIZED)
@every_case
def test_kernels_alone(device, case, shape, layout):
    """Everything but our kernels runs on the CPU: what compute-sanitizer is given."""
    skip_without_kernel(case, device)
    sample = Sample(shape)
    inputs = leaves(case.inputs(sample, torch.float32), layout)
    gradients = draw_gradients(case, sample, torch.float32, "cpu")
    exact = [x.detach().double().requires_grad_() for x in inputs]
    on_gpu = [x.detach().to(device).requires_grad_() for x in inputs]
    given = run(ops, case, sample, on_gpu, [g.to(device) for g in gradients])
    eager = run(ops.reference, case, sample, inputs, gradients)
    expected = run(ops.reference, case, sample, exact, [g.double() for g in gradients])
    assert_exact((given, eager, expected), torch.float32)
