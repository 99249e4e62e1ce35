"""slice_pool_upsample: slice means, interpolated back to the size of the map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from . import _registration as registration
from . import slice_pool as pooling
from .backends import use_reference


def slice_pool_upsample(x: Tensor, slices: tuple[int, int]) -> Tensor:
    """Average a map over slices and interpolate the means back to H x W (steps 1 and 3 of FDR in one).

    Args:
        x: map (B, C, H, W) of any strides.
        slices: (n_h, n_v) as for `slice_pool`.

    Returns:
        Map (B, 2C, H, W): C channels that vary along H only (horizontal slices), then C that vary along W only,
        each interpolated linearly with align_corners=False. channels_last if x is, else contiguous.

    Raises:
        InputError: wrong rank, dtype or number of slices.
    """
    registration.check_map("slice_pool_upsample", x)
    n_h, n_v = registration.check_slices("slice_pool_upsample", slices)
    if use_reference("slice_pool_upsample", x.device):
        return registration.run_reference(reference, x, slices)
    return _op(x, n_h, n_v)


def reference(x: Tensor, slices: tuple[int, int]) -> Tensor:
    """slice_pool_upsample in plain PyTorch."""
    rows, columns = pooling.reference(x, slices)
    return upsample_reference(rows, columns, x.shape[2:])


def upsample_reference(rows: Tensor, columns: Tensor, size: tuple[int, int]) -> Tensor:
    """Interpolate rows (B, C_r, n_h) and columns (B, C_c, n_v) to one map (B, C_r + C_c, H, W)."""
    size = tuple(size)
    of_rows = F.interpolate(rows.unsqueeze(3), size, mode="bilinear", align_corners=False)
    of_columns = F.interpolate(columns.unsqueeze(2), size, mode="bilinear", align_corners=False)
    return torch.cat((of_rows, of_columns), dim=1)


@registration.register_fake("slice_pool_upsample")
def _(x, n_h, n_v):
    batch, channels, height, width = x.shape
    return registration.empty_map(x, (batch, 2 * channels, height, width), registration.is_channels_last(x))


@registration.register_fake("slice_pool_upsample_backward")
def _(grad, n_h, n_v):
    batch, channels, height, width = grad.shape
    size = (batch, channels // 2, height, width)
    return registration.empty_map(grad, size, registration.is_channels_last(grad))


def _setup_context(ctx, inputs, output):
    (_, *ctx.slices) = inputs


def _backward(ctx, grad):
    return _backward_op(grad, *ctx.slices), None, None


_backward_op = registration.register_backward("slice_pool_upsample_backward")
_op = registration.register_autograd("slice_pool_upsample", _backward, _setup_context)
