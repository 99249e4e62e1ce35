"""What the op tests share: the ops with their sample inputs, and the ways one tensor can lie in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from toplight_ext import ops


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

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


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

every_layout = pytest.mark.parametrize("layout", LAYOUTS)


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


def skip_without_kernel(case: Case, device: str) -> None:
    backend, reason = ops.backends()[case.name.removesuffix("_unshuffled")][device]
    if backend is None:
        pytest.skip(reason)


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
