"""The ops inside PyTorch: opcheck, fakes, torch.compile, autocast, and errors."""

import pytest
import torch
from op_cases import CASES, GRADIENT_LAYOUTS, SAMPLES, Sample, every_case, lay_out, leaves
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad

from toplight_ext import ops
from toplight_ext.errors import InputError
from toplight_ext.op_cases import OPCHECK_LAYOUTS, opcheck, recorded

SAMPLE = Sample((2, 8, 5, 3), slices=(3, 2))


@pytest.mark.parametrize("layout, gradient_layout", OPCHECK_LAYOUTS)
@every_case
def test_opcheck(case, layout, gradient_layout):
    assert opcheck(case, SAMPLE, layout, gradient_layout) == (1 if case.name == "gradient_reversal" else 2)


@pytest.mark.parametrize("name", SAMPLES)
@every_case
def test_fakes_have_the_strides_of_the_real(case, name):
    for layout in GRADIENT_LAYOUTS:
        for function, arguments, results in recorded(case, SAMPLES[name], layout, layout):
            with FakeTensorMode() as mode:
                given = [mode.from_tensor(a) if isinstance(a, torch.Tensor) else a for a in arguments]
                fakes = function(*given)
            fakes, results = ((x,) if isinstance(x, torch.Tensor) else x for x in (fakes, results))
            for fake, real in zip(fakes, results, strict=True):
                assert (fake.shape, fake.stride(), fake.dtype) == (real.shape, real.stride(), real.dtype)


def test_layout_of_the_map_is_kept():
    x = torch.zeros(2, 8, 5, 3)
    of_channels_last = lay_out(x, "channels_last").requires_grad_()
    parameters = CASES["shuffle_attention"].inputs(SAMPLE, torch.float32)[1:]
    for backend in ("native", "reference"):
        with ops.use_backend(backend):
            attended = ops.shuffle_attention(of_channels_last, *parameters, 2)
            for y in (attended, ops.slice_pool_upsample(of_channels_last, (3, 2))):
                assert y.is_contiguous(memory_format=torch.channels_last)
                (dx,) = torch.autograd.grad(y, of_channels_last, torch.ones_like(y))
                assert backend == "reference" or dx.is_contiguous(memory_format=torch.channels_last)
            assert ops.slice_pool_upsample(lay_out(x, "permuted"), (3, 2)).is_contiguous()


def every_op(x, rows, columns, parameters, lambd):
    """All ops in one graph, with other code between them."""
    attended = ops.shuffle_attention(torch.relu(x), *parameters, 1)
    enlarged = ops.slice_pool_upsample(attended, (5, 4))
    pooled_rows, pooled_columns = ops.slice_pool(attended, (5, 4))
    size = x.shape[2:]
    y = ops.upsample_shuffle_attention(rows + pooled_rows, columns, size, *parameters, 2, channels_last=True)
    z = ops.upsample_shuffle_attention_pooled(rows, pooled_columns, size, *parameters, 2)
    return enlarged.sum() + y.square().sum() + ops.gradient_reversal(z, lambd).square().sum()


def graph_inputs(batch, height, width, lambd, layout):
    # No two sizes are equal at first: the compiler would take them for one and the same.
    generator = torch.Generator().manual_seed(0)
    x = lay_out(torch.randn(batch, 12, height, width, generator=generator), layout)
    vectors = [torch.randn(batch, 12, n, generator=generator) for n in (5, 4)]
    parameters = [torch.randn(1, 6, 1, 1, generator=generator) for _ in range(6)]
    return [t.requires_grad_() for t in (x, *vectors, *parameters)], torch.tensor(lambd)


def result_and_gradients(function, tensors, lambd):
    x, rows, columns, *parameters = tensors
    loss = function(x, rows, columns, parameters, lambd)
    return loss.detach(), torch.autograd.grad(loss, tensors)


@pytest.mark.parametrize("backend, layout", (("inductor", "channels_last"), ("aot_eager", "contiguous")))
def test_compiles_to_one_graph_that_serves_other_sizes(backend, layout):
    torch._dynamo.reset()
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(every_op, fullgraph=True, dynamic=True, backend=counter)
    compilations = []
    for size, lambd in (((7, 11, 13), 0.5), ((3, 9, 8), 0.25)):
        tensors, tensor_lambd = graph_inputs(*size, lambd, layout)
        given = result_and_gradients(compiled, tensors, tensor_lambd)
        expected = result_and_gradients(every_op, tensors, tensor_lambd)
        torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-4)
        compilations.append(counter.frame_count)
    assert compilations[0] == compilations[1]


@pytest.mark.parametrize("backend", ("native", "reference"))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
def test_autocast_keeps_the_dtype_of_the_map(dtype, backend):
    x, *parameters = leaves(CASES["shuffle_attention"].inputs(SAMPLE, torch.float32), "contiguous")
    with ops.use_backend(backend), torch.autocast("cpu", torch.bfloat16):
        y = ops.shuffle_attention(x.to(dtype), *parameters, SAMPLE.groups)
        z = ops.slice_pool_upsample(x.to(dtype), SAMPLE.slices)
        rows, columns = ops.slice_pool(x.to(dtype), SAMPLE.slices)
        mixed = ops.upsample_shuffle_attention(rows[:, :4], columns[:, 4:].float(), (5, 3), *parameters, SAMPLE.groups)
    assert y.dtype == z.dtype == rows.dtype == dtype and mixed.dtype == torch.float32
    gradients = torch.autograd.grad([y.float().sum(), z.float().sum(), mixed.sum()], [x, *parameters])
    assert all(g.dtype == torch.float32 for g in gradients)
    exact = ops.reference.shuffle_attention(x.to(dtype).float(), *parameters, SAMPLE.groups)
    torch.testing.assert_close(y.float(), exact, rtol=torch.finfo(dtype).eps, atol=1e-6)


def test_reversal_scales_the_gradient_and_nothing_else():
    x = torch.randn(3, 5, requires_grad=True)
    y = ops.gradient_reversal(x, 0.5)
    assert y.data_ptr() == x.data_ptr() and torch.equal(y, x)
    (dx,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(dx, torch.full_like(x, -0.5))
    with pytest.raises(InputError, match="lambd must be one value"):
        ops.gradient_reversal(x, torch.ones(2))


def attention_of(x, groups, parameters=None):
    parameters = [torch.zeros(1, 2, 1, 1)] * 6 if parameters is None else parameters
    return ops.shuffle_attention(x, *parameters, groups)


X = torch.zeros(2, 8, 5, 3)
V = torch.zeros(2, 4, 3)


@pytest.mark.parametrize(
    "call, message",
    (
        (lambda: attention_of(X, 3), "C = 8 and groups G = 3; the nearest valid G is 2"),
        (lambda: attention_of(torch.zeros(1, 7, 2, 2), 1), "C = 7 .* no G is valid"),
        (lambda: attention_of(X, 0), "G = 0; the nearest valid G is 1"),
        (lambda: attention_of(X, 4), r"channel_weight must have the shape \(1, 1, 1, 1\) .* got \(1, 2, 1, 1\)"),
        (lambda: attention_of(X, 2, [torch.zeros(1, 2, 1, 1, device="meta")] * 6), "be on cpu .* got .* on meta"),
        (lambda: attention_of(X[0], 2), r"x must be \(B, C, H, W\)"),
        (lambda: attention_of(X.long(), 2), "got torch.int64"),
        (lambda: ops.slice_pool(X, (0, 3)), "slices must be two whole numbers of at least 1"),
        (lambda: ops.slice_pool(X, (6.0, 3)), "slices must be two whole numbers of at least 1"),
        (lambda: ops.slice_pool_upsample(X, (2, 3, 4)), "slices must be two whole numbers of at least 1"),
        (lambda: ops.slice_pool(X[:, :, :0], (2, 3)), "height and width must be at least 1"),
        (lambda: ops.upsample_shuffle_attention(V, V[0], (5, 3), *[X] * 6, 2), r"columns must be \(B, C, slices\)"),
        (lambda: ops.upsample_shuffle_attention(V, V[:1], (5, 3), *[X] * 6, 2), "rows have 2 images, columns have 1"),
        (lambda: ops.upsample_shuffle_attention_pooled(V, V, (0, 3), *[X] * 6, 2), "at least 1, got"),
    ),
)
def test_wrong_use_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


P = [torch.zeros(1, 2, 1, 1)] * 6
TAIL = (2, 1e-5, True)


@pytest.mark.parametrize(
    "op, arguments, message",
    (
        ("slice_pool", (X[0], 2, 2), "x must be"),
        ("slice_pool", (X.int(), 2, 2), "expected float32"),
        ("slice_pool", (X, 2, 0), "slices must be at least 1"),
        ("slice_pool", (X[:, :, :, :0], 2, 2), "H >= 1"),
        ("slice_pool_backward", (V, V.double(), 5, 3, False), "grad_columns is Double"),
        ("slice_pool_backward", (V, V[:1], 5, 3, False), "grad_columns must have size 2 in dimension 0"),
        ("slice_pool_backward", (V, V, 0, 3, False), "size must be at least 1 x 1"),
        ("slice_pool_upsample_backward", (X[:, :3], 2, 2), "even number of channels"),
        ("shuffle_attention", (X, *P, 3, 1e-5, True), "C = 8 must be divisible by 2"),
        ("shuffle_attention", (X, *P, 0, 1e-5, True), "G = 0"),
        ("shuffle_attention", (X, *P, 4, 1e-5, True), "channel_weight must have size 1"),
        ("shuffle_attention", (X.half(), *[p.half() for p in P], *TAIL), "channel_weight must be Float"),
        ("shuffle_attention_backward", (X[:1], X, *P, *TAIL), "grad must have size 2"),
        ("shuffle_attention_backward", (X.double(), X, *P, *TAIL), "grad is Double"),
        ("upsample_shuffle_attention", (V, V[0], 5, 3, *P, *TAIL, False), "columns must be"),
        ("upsample_shuffle_attention", (V, V, -1, 3, *P, *TAIL, False), "size must be at least 1 x 1"),
        ("upsample_shuffle_attention_backward", (X[:, :4], V, V, *P, *TAIL), "grad must have size 8"),
        ("upsample_shuffle_attention_pooled_backward", (X, V, V, 5, 3, *P, *TAIL), "grad must have 2 dimensions"),
        ("gradient_reversal_backward", (X, torch.ones(2)), "lambd must be one value"),
        ("gradient_reversal_backward", (X, torch.ones((), dtype=torch.float64)), "lambd must be Float"),
    ),
)
def test_the_torch_ops_check_for_themselves(op, arguments, message):
    with pytest.raises(RuntimeError, match=message):
        getattr(torch.ops.toplight_ext, op)(*arguments)


@every_case
def test_transforms_of_functions_see_the_reference(case):
    """torch.func and forward-mode differentiation know no rules for our ops, and would drop a tangent silently."""
    inputs = [tensor.detach() for tensor in case.inputs(SAMPLE, torch.float64)]
    tangents = [torch.randn_like(tensor) for tensor in inputs]

    def total(*given):
        return sum(y.square().sum() for y in case.outputs(ops, list(given), SAMPLE))

    with ops.use_backend("reference"):
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        exact = torch.autograd.grad(total(*leaves), leaves)
    slope = sum((gradient * tangent).sum() for gradient, tangent in zip(exact, tangents, strict=True))
    every = tuple(range(len(inputs)))
    torch.testing.assert_close(torch.func.grad(total, argnums=every)(*inputs), exact)
    first, *others = inputs
    two = torch.stack([torch.zeros_like(first), first])
    each = torch.vmap(lambda given: torch.func.grad(total)(given, *others))(two)
    torch.testing.assert_close(each[1], exact[0])
    if case.op == "gradient_reversal":  # whose derivative depends on the direction
        with pytest.raises(RuntimeError, match="jvp"):
            torch.func.jvp(total, tuple(inputs), tuple(tangents))
        return
    torch.testing.assert_close(torch.func.jvp(total, tuple(inputs), tuple(tangents))[1], slope)
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(tensor, tangent) for tensor, tangent in zip(inputs, tangents, strict=True)]
        torch.testing.assert_close(forward_ad.unpack_dual(total(*duals)).tangent, slope)
    with ops.use_backend("native"), pytest.raises(RuntimeError, match="reference only"):
        torch.func.jvp(total, tuple(inputs), tuple(tangents))


def test_reversal_has_a_second_gradient():
    found = []
    for backend in ("native", "reference"):
        with ops.use_backend(backend):
            x = torch.arange(1.0, 5.0, requires_grad=True)
            (gradient,) = torch.autograd.grad(ops.gradient_reversal(x, 0.5).pow(3).sum(), x, create_graph=True)
            found.append(torch.autograd.grad(gradient.square().sum(), x)[0])
    assert torch.equal(*found)
    assert torch.equal(found[0], -4.5 * torch.arange(1.0, 5.0) ** 3)


def test_double_backward_is_refused():
    x = torch.randn(1, 4, 3, 3, requires_grad=True)
    (dx,) = torch.autograd.grad(ops.slice_pool_upsample(x, (2, 2)).square().sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="double backward"):
        dx.sum().backward()
