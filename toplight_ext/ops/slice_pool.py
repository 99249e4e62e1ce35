"""slice_pool: the means of horizontal and vertical slices of a map."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from . import _registration as registration
from .backends import use_reference


def slice_pool(x: Tensor, slices: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Average a map over `n_h` horizontal and over `n_v` vertical slices (step 1 of FDR).

    Slices are cut as adaptive average pooling cuts them: slice i of n on a side of L positions covers
    floor(i L / n) up to ceil((i + 1) L / n), so neighbours overlap where n does not divide L.

    Args:
        x: map (B, C, H, W) of any strides.
        slices: (n_h, n_v), each at least 1; more than H or W is allowed.

    Returns:
        rows (B, C, n_h) and columns (B, C, n_v), in the dtype of x, summed in float32 (float64 for float64).

    Raises:
        InputError: wrong rank, dtype or number of slices.
    """
    registration.check_map("slice_pool", x)
    n_h, n_v = registration.check_slices("slice_pool", slices)
    if use_reference("slice_pool", x.device):
        return reference(x, slices)
    return _op(x, n_h, n_v)


def reference(x: Tensor, slices: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """slice_pool in plain PyTorch."""
    rows = F.adaptive_avg_pool2d(x, (slices[0], 1)).squeeze(3)
    columns = F.adaptive_avg_pool2d(x, (1, slices[1])).squeeze(2)
    return rows, columns


@registration.register_fake("slice_pool")
def _(x, n_h, n_v):
    batch, channels = x.shape[:2]
    return x.new_empty(batch, channels, n_h), x.new_empty(batch, channels, n_v)


@registration.register_fake("slice_pool_backward")
def _(grad_rows, grad_columns, height, width, channels_last):
    batch, channels = grad_rows.shape[:2]
    return registration.empty_map(grad_rows, (batch, channels, height, width), channels_last)


def _setup_context(ctx, inputs, output):
    (x, *_) = inputs
    ctx.size = x.shape[2:]
    ctx.channels_last = registration.is_channels_last(x)


def _backward(ctx, grad_rows, grad_columns):
    height, width = ctx.size
    return _backward_op(grad_rows, grad_columns, height, width, ctx.channels_last), None, None


_backward_op = registration.register_backward("slice_pool_backward")
_op = registration.register_autograd("slice_pool", _backward, _setup_context)
