"""What every op file needs to stand as a torch op: layout rule, dtypes, fakes and autograd if there is a library."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad

from toplight_ext import _library
from toplight_ext.errors import InputError

FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that sums and parameters are kept in for a map of `dtype`."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def is_channels_last(x: Tensor) -> bool:
    """The layout rule, as csrc/tensors.h has it: whether a map made from `x` is channels_last."""
    return not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def memory_format(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


def empty_map(like: Tensor, size: tuple[int, ...], channels_last: bool) -> Tensor:
    """A map of the dtype and device of `like`, for fakes."""
    return torch.empty(size, dtype=like.dtype, device=like.device, memory_format=memory_format(channels_last))


def run_reference(function: Callable, x: Tensor, *arguments) -> Tensor:
    """What the kernel would give, by the reference on one map: sums in the accumulation dtype, layout by the rule."""
    y = function(x.to(accumulation_dtype(x.dtype)), *arguments).to(x.dtype)
    return y.contiguous(memory_format=memory_format(is_channels_last(x)))


def register_fake(op: str) -> Callable:
    """Decorator: the function that gives the shapes and strides of the op."""
    if not _library.cpu.loaded:
        return lambda function: function
    return torch.library.register_fake(f"toplight_ext::{op}")


def register_autograd(op: str, backward: Callable, setup_context: Callable) -> Callable:
    """Give the op its gradient; return the function that calls it, with all its arguments by position.

    What torch.library registers is for whatever traces. Its Python takes 20 us a call, as long as a small kernel, so
    eager mode goes through an autograd.Function made of the same two functions, which takes 3.
    """
    if not _library.cpu.loaded:
        return _missing
    torch.library.register_autograd(f"toplight_ext::{op}", backward, setup_context=setup_context)
    call = _without_gradient(op)

    def forward(ctx, *inputs):  # in which autograd is off
        output = call(*inputs)
        setup_context(ctx, inputs, output)
        return output

    members = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    apply = type(op, (torch.autograd.Function,), members).apply

    def differentiable(*inputs):
        return call(*inputs) if _is_traced() or not torch.is_grad_enabled() else apply(*inputs)

    return differentiable


def register_backward(op: str) -> Callable:
    """Return the function that calls this op, the backward of another, with all its arguments by position.

    Differentiating it raises, where without this its result would pass for a constant.
    """
    if not _library.cpu.loaded:
        return _missing

    def backward(ctx, *grads):
        raise NotImplementedError(f"toplight_ext::{op} has no gradient: double backward is not implemented")

    torch.library.register_autograd(f"toplight_ext::{op}", backward)
    return _without_gradient(op)


def _missing(*inputs):
    """What stands for an op where there is no library; the public functions take the reference then."""
    raise RuntimeError(_library.cpu.error)


def _without_gradient(op: str) -> Callable:
    """The function that calls the op, past what is registered for its gradient where none can be asked for."""
    overload = getattr(torch.ops.toplight_ext, op).default

    def call(*inputs):
        if _is_traced() or torch.is_grad_enabled():
            return overload(*inputs)
        with torch._C._AutoDispatchBelowAutograd():
            return overload(*inputs)

    return call


def _is_traced() -> bool:
    """Whether the torch op itself has to be seen, by a compiler or an exporter."""
    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None


def is_transformed() -> bool:
    """Whether a transform of torch.func or forward-mode differentiation is at work.

    Our torch ops have no rules for these, and a tangent would be lost without a word.
    """
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def check_tensor(op: str, x: Tensor, name: str) -> None:
    if not isinstance(x, Tensor):
        raise InputError(f"{op}: {name} must be a tensor, got {type(x).__name__}")


def check_map(op: str, x: Tensor, name: str = "x") -> None:
    check_tensor(op, x, name)
    shape = x.shape
    if len(shape) != 4:
        raise InputError(f"{op}: {name} must be (B, C, H, W), got a tensor of shape {tuple(shape)}")
    check_dtype(op, x, name)
    check_extent(op, shape[2:])


def check_dtype(op: str, x: Tensor, name: str) -> None:
    if x.dtype not in FLOATING:
        raise InputError(f"{op}: {name} must be float32, float64, bfloat16 or float16, got {x.dtype}")


def check_extent(op: str, size: tuple[int, int]) -> None:
    if not _are_two(size):
        raise InputError(f"{op}: height and width must be at least 1, got {size}")


def check_slices(op: str, slices: tuple[int, int]) -> tuple[int, int]:
    if not _are_two(slices):
        raise InputError(f"{op}: slices must be two whole numbers of at least 1 (horizontal, vertical), got {slices}")
    return slices


def _are_two(numbers: tuple[int, int]) -> bool:
    """Whether these are two whole numbers of at least 1; a trace has types of its own for them."""
    try:
        return len(numbers) == 2 and numbers[0] >= 1 and numbers[1] >= 1 and float not in map(type, numbers)
    except TypeError:
        return False
