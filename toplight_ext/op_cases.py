"""The ops with sample inputs, the ways one tensor can lie in memory, and the errors of a result beside float64.

What `python -m toplight_ext.verify` and the op tests share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from . import ops


@dataclass(frozen=True)
class Sample:
    """Shape of the map (B, C, H, W), slices (n_h, n_v), groups and eps of the attention."""

    shape: tuple[int, int, int, int]
    slices: tuple[int, int] = (6, 3)
    groups: int = 2
    eps: float = 1e-5


# Named by why it is there.
SAMPLES = {
    "toplight": Sample((2, 16, 9, 5)),
    "fewer_positions_than_slices": Sample((2, 8, 2, 1)),
    "one_position": Sample((3, 8, 1, 1)),
    "one_image_row": Sample((1, 8, 1, 7)),
    # Its profiles are constant: with a small eps their gradient is rounding, enlarged by 1 / sqrt(eps).
    "one_slice": Sample((2, 8, 4, 3), slices=(1, 1), eps=1e-2),
    "long_rows": Sample((1, 4, 7, 37), groups=1),
    "more_channels_than_a_block": Sample((2, 292, 3, 2)),
    "empty_batch": Sample((0, 8, 4, 3)),
}


@dataclass(frozen=True)
class Case:
    """One op: `make` draws its differentiable inputs, `call` runs it from a module of ops."""

    name: str
    make: Callable[[Sample, torch.Generator], list[Tensor]]
    call: Callable[..., Tensor | tuple[Tensor, ...]]

    @property
    def op(self) -> str:
        """The public function."""
        return self.name.removesuffix("_unshuffled")

    def inputs(
        self, sample: Sample, dtype: torch.dtype = torch.float64, seed: int = 0, device: str = "cpu"
    ) -> list[Tensor]:
        """The same values for every dtype and device, but for their rounding."""
        return [x.to(device, dtype) for x in self.make(sample, torch.Generator().manual_seed(seed))]

    def outputs(self, ops, inputs: list[Tensor], sample: Sample) -> tuple[Tensor, ...]:
        result = self.call(ops, inputs, sample)
        return result if isinstance(result, tuple) else (result,)


def draw(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _map(sample, generator):
    x = draw(sample.shape, generator)
    x[:, 0] = 0  # a dead channel has the variance 0
    return [x]


def _parameters(sample, generator):
    return [draw((1, sample.shape[1] // (2 * sample.groups), 1, 1), generator) for _ in range(6)]


def _map_and_parameters(sample, generator):
    return _map(sample, generator) + _parameters(sample, generator)


def _slices_and_parameters(sample, generator):
    batch, channels = sample.shape[:2]
    of_rows = channels // 4 + 1  # not half of them, so that a group spans rows and columns
    rows = draw((batch, of_rows, sample.slices[0]), generator)
    columns = draw((batch, channels - of_rows, sample.slices[1]), generator)
    return [rows, columns, *_parameters(sample, generator)]


def _attend(ops, inputs, sample, shuffle=True):
    return ops.shuffle_attention(*inputs, sample.groups, sample.eps, shuffle)


def _upsample_attend(ops, inputs, sample):
    rows, columns, *parameters = inputs
    size = sample.shape[2:]
    return ops.upsample_shuffle_attention(rows, columns, size, *parameters, sample.groups, sample.eps)


def _upsample_attend_pooled(ops, inputs, sample):
    rows, columns, *parameters = inputs
    size = sample.shape[2:]
    return ops.upsample_shuffle_attention_pooled(rows, columns, size, *parameters, sample.groups, sample.eps)


CASES = {
    case.name: case
    for case in (
        Case("slice_pool", _map, lambda ops, x, sample: ops.slice_pool(x[0], sample.slices)),
        Case("slice_pool_upsample", _map, lambda ops, x, sample: ops.slice_pool_upsample(x[0], sample.slices)),
        Case("shuffle_attention", _map_and_parameters, _attend),
        Case(
            "shuffle_attention_unshuffled",
            _map_and_parameters,
            lambda ops, x, sample: _attend(ops, x, sample, shuffle=False),
        ),
        Case("upsample_shuffle_attention", _slices_and_parameters, _upsample_attend),
        Case("upsample_shuffle_attention_pooled", _slices_and_parameters, _upsample_attend_pooled),
        Case(
            "gradient_reversal",
            _map,
            lambda ops, x, sample: ops.gradient_reversal(x[0], torch.tensor(0.75, dtype=x[0].dtype)),
        ),
    )
}


def _part_of_larger(x: Tensor, larger: tuple[int, ...], index: tuple[slice, ...], memory_format) -> Tensor:
    # The rest is NaN, so that reading beside the part shows.
    base = x.new_full(larger, float("nan")).contiguous(memory_format=memory_format)
    part = base[index]
    part.copy_(x)
    return part


def _sliced(x: Tensor) -> Tensor:
    larger = (x.shape[0] + 1, x.shape[1] + 2, x.shape[2] + 1, 2 * x.shape[3])
    index = (slice(1, None), slice(2, None), slice(1, None), slice(None, None, 2))
    return _part_of_larger(x, larger, index, torch.contiguous_format)


def _channels_last_sliced(x: Tensor) -> Tensor:
    larger = (x.shape[0], x.shape[1] + 3, x.shape[2], x.shape[3] + 1)
    index = (slice(None), slice(1, x.shape[1] + 1), slice(None), slice(1, None))
    return _part_of_larger(x, larger, index, torch.channels_last)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x.clone(memory_format=torch.contiguous_format),
    "channels_last": lambda x: x.clone(memory_format=torch.channels_last),
    "permuted": lambda x: x.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0),
    "sliced": _sliced,
    "channels_last_sliced": _channels_last_sliced,
    "image_repeated": lambda x: x[:1].expand(x.shape),
}
# Gradients also come as one value for all, from a sum or a mean.
GRADIENT_LAYOUTS = {**LAYOUTS, "value_repeated": lambda x: x.flatten()[:1].reshape(1, 1, 1, 1).expand(x.shape)}


def lay_out(x: Tensor, layout: str) -> Tensor:
    """`x` as the layout has it: the values change only where the layout repeats them. Vectors are permuted."""
    if x.numel() == 0 or layout == "contiguous":
        return x
    if x.dim() == 4:
        return GRADIENT_LAYOUTS[layout](x)
    if layout == "value_repeated":
        return x.flatten()[:1].reshape((1,) * x.dim()).expand(x.shape)
    return x.transpose(0, -1).contiguous().transpose(0, -1)


def leaves(inputs: list[Tensor], layout: str) -> list[Tensor]:
    """All inputs, the parameters too, in the layout and requiring gradients."""
    return [lay_out(x, layout).detach().requires_grad_() for x in inputs]


class Recorder(TorchDispatchMode):
    """Notes every torch op of ours that runs, with its arguments and results."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function.namespace == "toplight_ext":
            self.calls.append((function, args, result))
        return result


# Error in norm against float64, relative; of half precision nothing but what eager PyTorch errs.
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-11}

Result = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]  # outputs, gradients of the inputs


def run(module, case: Case, sample: Sample, inputs: list[Tensor], gradients: list[Tensor] | None = None) -> Result:
    """Outputs, and gradients of the inputs for `gradients` of the outputs."""
    outputs = case.outputs(module, inputs, sample)
    gradients = gradients if gradients is not None else [torch.ones_like(y) for y in outputs]
    return outputs, torch.autograd.grad(outputs, inputs, gradients)


def draw_gradients(case: Case, sample: Sample, dtype: torch.dtype, device: str, seed: int = 1) -> list[Tensor]:
    """One gradient per output."""
    outputs = case.outputs(ops.reference, case.inputs(sample), sample)
    generator = torch.Generator().manual_seed(seed)
    return [draw(tuple(y.shape), generator).to(device, dtype) for y in outputs]


def error(given: Tensor, expected: Tensor) -> float:
    """Norm of the difference, relative to that of `expected`; inputs are of order 1, so less than 0.1 has cancelled."""
    given, expected = given.double().cpu(), expected.double().cpu()
    return ((given - expected).norm() / expected.norm().clamp(min=0.1)).item()


def results(
    case: Case, sample: Sample, device: str, dtype: torch.dtype, layout: str, gradient_layout: str, seed: int = 0
) -> tuple[Result, Result, Result]:
    """Of the op, of the reference in the same dtype, and of the reference in float64."""
    inputs = leaves(case.inputs(sample, dtype, seed, device), layout)
    gradients = draw_gradients(case, sample, dtype, device, seed + 1)
    return results_for(case, sample, inputs, [lay_out(g, gradient_layout) for g in gradients])


def results_for(
    case: Case, sample: Sample, inputs: list[Tensor], gradients: list[Tensor]
) -> tuple[Result, Result, Result]:
    """As `results`, for inputs that require gradients and for gradients of the outputs, as they lie."""
    exact = [x.detach().double().requires_grad_() for x in inputs]
    given = run(ops, case, sample, inputs, gradients)
    eager = run(ops.reference, case, sample, inputs, gradients)
    expected = run(ops.reference, case, sample, exact, [g.double() for g in gradients])
    return given, eager, expected


def errors(results: tuple[Result, Result, Result], tolerance: float) -> Iterator[tuple[float, float]]:
    """Error and the largest allowed one, of every output, of the gradients of a call together, and of each of them.

    Allowed is the tolerance, or twice the error of the reference in the same dtype. A gradient of few values can
    cancel: by itself it may err a hundredfold.
    """

    def judge(tolerance, given, eager, expected):
        return error(given, expected), max(tolerance, 2 * error(eager, expected))

    outputs, gradients = (list(zip(*tensors, strict=True)) for tensors in zip(*results, strict=True))
    for tensors in outputs:
        yield judge(tolerance, *tensors)
    yield judge(tolerance, *(torch.cat([g.flatten() for g in part]) for part in zip(*gradients, strict=True)))
    for tensors in gradients:
        yield judge(100 * tolerance, *tensors)


def recorded(case: Case, sample: Sample, layout: str, gradient_layout: str, device: str = "cpu") -> list[tuple]:
    """The torch ops of one forward and backward in float64: function, arguments, results."""
    with Recorder() as recorder:
        outputs = case.outputs(ops, leaves(case.inputs(sample, device=device), layout), sample)
        gradients = [lay_out(torch.ones_like(y) if layout == "contiguous" else y, gradient_layout) for y in outputs]
        torch.autograd.backward(outputs, [g.detach() for g in gradients])
    return recorder.calls


# Layouts of inputs and gradients that show most of what torch.library.opcheck can find.
OPCHECK_LAYOUTS = (
    ("contiguous", "value_repeated"),
    ("channels_last", "channels_last"),
    ("permuted", "channels_last_sliced"),
    ("sliced", "permuted"),
)


def opcheck(case: Case, sample: Sample, layout: str, gradient_layout: str, device: str = "cpu") -> int:
    """torch.library.opcheck on the torch ops of the case, forward and backward; how many there are.

    Raises what opcheck raises.
    """
    calls = recorded(case, sample, layout, gradient_layout, device)
    for function, arguments, _ in calls:
        differentiable = not function.overloadpacket.__name__.endswith("backward")
        given = (a.detach().requires_grad_(differentiable) if isinstance(a, Tensor) else a for a in arguments)
        torch.library.opcheck(function, tuple(given))
    return len(calls)
