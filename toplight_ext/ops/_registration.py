"""What every op file needs to stand as a torch op: layout rule, dtypes, fakes and autograd if there is a library."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

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


def register_autograd(op: str, backward: Callable, setup_context: Callable) -> None:
    """Give the op its gradient, and its backward op, named so, the news that it has none."""
    if not _library.cpu.loaded:
        return
    torch.library.register_autograd(f"toplight_ext::{op}", backward, setup_context=setup_context)
    refuse_double_backward(f"{op}_backward")


def refuse_double_backward(op: str) -> None:
    """Differentiating the backward op raises, where without this its result would pass for a constant."""
    if not _library.cpu.loaded:
        return

    def backward(ctx, *grads):
        raise NotImplementedError(f"toplight_ext::{op} has no gradient: double backward is not implemented")

    torch.library.register_autograd(f"toplight_ext::{op}", backward)


def check_map(op: str, x: Tensor, name: str = "x") -> None:
    if x.dim() != 4:
        raise InputError(f"{op}: {name} must be (B, C, H, W), got a tensor of shape {tuple(x.shape)}")
    check_dtype(op, x, name)
    check_extent(op, (x.shape[2], x.shape[3]))


def check_dtype(op: str, x: Tensor, name: str) -> None:
    if x.dtype not in FLOATING:
        raise InputError(f"{op}: {name} must be float32, float64, bfloat16 or float16, got {x.dtype}")


def check_extent(op: str, size: tuple[int, int]) -> None:
    if len(size) != 2 or size[0] < 1 or size[1] < 1:
        raise InputError(f"{op}: height and width must be at least 1, got {tuple(size)}")


def check_slices(op: str, slices: tuple[int, int]) -> tuple[int, int]:
    if len(slices) != 2 or slices[0] < 1 or slices[1] < 1:
        raise InputError(f"{op}: slices must be two numbers of at least 1 (horizontal, vertical), got {slices}")
    return slices
