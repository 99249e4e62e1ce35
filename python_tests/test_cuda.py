"""What only a GPU shows: real sizes, streams, CUDA graphs, several devices. test_ops.py runs on the GPU as well."""

import pytest
import torch
from op_cases import CASES, Sample, leaves
from test_ops import assert_exact, draw_gradients, error, results, run

from toplight_ext import ops

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device that torch can use")
KERNELS = ("slice_pool_upsample", "shuffle_attention", "shuffle_attention_unshuffled")
every_kernel = pytest.mark.parametrize("case", [CASES[name] for name in KERNELS], ids=KERNELS)

SAMPLES = {  # by why they are there
    "toplight": Sample((8, 1280, 9, 5), groups=64),
    "agw": Sample((2, 2048, 18, 9), groups=64),
    "deen": Sample((4, 1024, 24, 9), (9, 5), groups=64),
    "one_image": Sample((1, 576, 9, 5), (4, 2), groups=32),
    "large_map": Sample((2, 64, 96, 32), groups=8),
    "larger_than_shared_memory": Sample((1, 4, 288, 244), groups=1),
    "channels_that_fill_no_vector": Sample((2, 30, 7, 5), groups=3),
}


@pytest.fixture(params=("native", "triton"))
def device(request):
    """The GPU, the ops being those of one backend. Fresh memory is NaN: an output not written shows."""
    with ops.use_backend(request.param):
        for name in ("slice_pool_upsample", "shuffle_attention"):
            backend, reason = ops.backends()[name]["cuda"]
            if backend is None:
                pytest.skip(reason)
        torch.use_deterministic_algorithms(True, warn_only=True)
        yield "cuda"
        torch.use_deterministic_algorithms(False)


# Triton compiles anew for every shape, layout and type, so there are no more of them than needed.
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES.keys())
@every_kernel
def test_equals_the_reference(device, case, sample, layout):
    assert_exact(results(case, sample, device, torch.float32, layout, "contiguous"), torch.float32)


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("name", ("toplight", "large_map"))
@every_kernel
def test_half_errs_at_most_twice_as_much_as_eager(device, case, name, layout, dtype):
    sample = SAMPLES[name]
    inputs = leaves(case.inputs(sample, dtype, device=device), layout)
    gradients = draw_gradients(case, sample, dtype, device)
    given = run(ops, case, sample, inputs, gradients)
    eager = run(ops.reference, case, sample, inputs, gradients)
    precise = [x.detach().float().requires_grad_() for x in inputs]
    exact = run(ops.reference, case, sample, precise, [g.float() for g in gradients])
    for y, y_eager, y32 in zip(sum(given, ()), sum(eager, ()), sum(exact, ()), strict=True):
        assert error(y, y32) <= 2 * error(y_eager, y32)


@pytest.mark.parametrize("elements", (1, 2, 3))
@every_kernel
def test_memory_off_a_16_byte_boundary(device, case, elements):
    sample = Sample((2, 16, 24, 8))
    x, *parameters = case.inputs(sample, torch.float32, device=device)
    moved = x.new_empty(x.numel() + elements)[elements:].view(x.shape).copy_(x)
    (y,) = case.outputs(ops, [moved, *parameters], sample)
    (expected,) = case.outputs(ops.reference, [x, *parameters], sample)
    assert error(y, expected) <= 1e-6


@every_kernel
def test_runs_on_the_current_stream(device, case):
    sample = Sample((8, 64, 24, 9), groups=4)
    inputs = case.inputs(sample, torch.float32, device=device)
    (expected,) = case.outputs(ops, inputs, sample)
    late = [torch.zeros_like(x) for x in inputs]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)
        for x, value in zip(late, inputs, strict=True):
            x.copy_(value)
        (y,) = case.outputs(ops, late, sample)
    stream.synchronize()
    assert torch.equal(y, expected)


@every_kernel
def test_replays_in_a_cuda_graph(device, case):
    sample = Sample((8, 64, 9, 5), groups=4)
    inputs = leaves(case.inputs(sample, torch.float32, device=device), "contiguous")
    gradients = draw_gradients(case, sample, torch.float32, device)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # compiles what has to be compiled
        run(ops, case, sample, inputs, gradients)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = sum(run(ops, case, sample, inputs, gradients), ())
    with torch.no_grad():
        for x, other in zip(inputs, case.inputs(sample, torch.float32, seed=7, device=device), strict=True):
            x.copy_(other)
    graph.replay()
    expected = sum(run(ops, case, sample, inputs, gradients), ())
    assert all(torch.equal(a, b) for a, b in zip(captured, expected, strict=True))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device only")
@every_kernel
def test_runs_on_the_device_of_its_input(device, case):
    sample = Sample((2, 16, 9, 5))
    elsewhere = case.inputs(sample, torch.float32, device="cuda:1")
    (y,) = case.outputs(ops, elsewhere, sample)
    (expected,) = case.outputs(ops, case.inputs(sample, torch.float32, device="cuda:0"), sample)
    assert y.device == elsewhere[0].device and torch.equal(y.cpu(), expected.cpu())


@pytest.mark.parametrize("layout", ("contiguous", "channels_last", "permuted"))
@pytest.mark.parametrize("shape", ((2, 24, 9, 5), (1, 8, 24, 8), (1, 4, 288, 244)), ids=str)
@every_kernel
def test_kernels_alone(device, case, shape, layout):
    """Everything but our kernels runs on the CPU: what compute-sanitizer is given."""
    sample = Sample(shape)
    inputs = leaves(case.inputs(sample, torch.float32), layout)
    gradients = draw_gradients(case, sample, torch.float32, "cpu")
    exact = [x.detach().double().requires_grad_() for x in inputs]
    on_gpu = [x.detach().to(device).requires_grad_() for x in inputs]
    given = run(ops, case, sample, on_gpu, [g.to(device) for g in gradients])
    eager = run(ops.reference, case, sample, inputs, gradients)
    expected = run(ops.reference, case, sample, exact, [g.double() for g in gradients])
    assert_exact((given, eager, expected), torch.float32)
