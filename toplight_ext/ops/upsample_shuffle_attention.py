"""upsample_shuffle_attention: interpolation, concatenation and shuffle attention in one write, or without any map."""

from __future__ import annotations

import torch
from torch import Tensor

from toplight_ext.errors import InputError

from . import _registration as registration
from . import shuffle_attention as attention
from .backends import use_reference
from .slice_pool_upsample import upsample_reference


def upsample_shuffle_attention(
    rows: Tensor,
    columns: Tensor,
    size: tuple[int, int],
    channel_weight: Tensor,
    channel_bias: Tensor,
    spatial_weight: Tensor,
    spatial_bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    groups: int,
    eps: float = 1e-5,
    shuffle: bool = True,
    channels_last: bool = False,
) -> Tensor:
    """Shuffle attention of re-enlarged slices (steps 3 and 4 of FDR in one); the map is only written.

    The same as interpolating rows along H and columns along W (linearly, align_corners=False), concatenating them
    on the channels and calling `shuffle_attention`. A row channel is constant along W and a column channel along
    H, so everything that the attention measures comes from H or W numbers; backward keeps the vectors only.

    Args:
        rows: (B, C_r, n_h), columns: (B, C_c, n_v), of any strides. Different dtypes are promoted.
        size: (H, W) of the map.
        channel_weight, channel_bias, spatial_weight, spatial_bias, norm_weight, norm_bias, groups, eps, shuffle:
            as for `shuffle_attention`, with C = C_r + C_c.
        channels_last: memory layout of the map.

    Returns:
        Map (B, C_r + C_c, H, W) in the dtype of rows and columns.

    Raises:
        InputError: wrong rank, shape, dtype or device, or C not divisible by 2 * groups.
    """
    given = (channel_weight, channel_bias, spatial_weight, spatial_bias, norm_weight, norm_bias)
    op = "upsample_shuffle_attention"
    rows, columns, parameters = _check(op, rows, columns, size, groups, given)
    if use_reference(op, rows.device):
        y = _precise(reference, rows, columns, size, *parameters, groups, eps, shuffle)
        return y.contiguous(memory_format=registration.memory_format(channels_last))
    height, width = size
    return _op(rows, columns, height, width, *parameters, groups, eps, shuffle, channels_last)


def upsample_shuffle_attention_pooled(
    rows: Tensor,
    columns: Tensor,
    size: tuple[int, int],
    channel_weight: Tensor,
    channel_bias: Tensor,
    spatial_weight: Tensor,
    spatial_bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    groups: int,
    eps: float = 1e-5,
    shuffle: bool = True,
) -> Tensor:
    """Global average pool of what `upsample_shuffle_attention` returns, without the map.

    Args and errors as there.

    Returns:
        (B, C_r + C_c): the mean over H x W.
    """
    given = (channel_weight, channel_bias, spatial_weight, spatial_bias, norm_weight, norm_bias)
    op = "upsample_shuffle_attention_pooled"
    rows, columns, parameters = _check(op, rows, columns, size, groups, given)
    if use_reference(op, rows.device):
        return _precise(pooled_reference, rows, columns, size, *parameters, groups, eps, shuffle)
    height, width = size
    return _pooled_op(rows, columns, height, width, *parameters, groups, eps, shuffle)


def _check(op: str, rows: Tensor, columns: Tensor, size: tuple[int, int], groups: int, given: tuple[Tensor, ...]):
    for name, vectors in (("rows", rows), ("columns", columns)):
        registration.check_tensor(op, vectors, name)
        if vectors.dim() != 3 or vectors.shape[2] < 1:
            raise InputError(f"{op}: {name} must be (B, C, slices), got a tensor of shape {tuple(vectors.shape)}")
        registration.check_dtype(op, vectors, name)
    if rows.shape[0] != columns.shape[0]:
        raise InputError(f"{op}: rows have {rows.shape[0]} images, columns have {columns.shape[0]}")
    if rows.device != columns.device:
        raise InputError(f"{op}: rows are on {rows.device}, columns on {columns.device}")
    registration.check_extent(op, size)
    if rows.dtype != columns.dtype:
        dtype = torch.promote_types(rows.dtype, columns.dtype)
        rows, columns = rows.to(dtype), columns.to(dtype)
    parameters = attention.check_parameters(op, rows, rows.shape[1] + columns.shape[1], groups, given)
    return rows, columns, parameters


def _precise(function, rows: Tensor, columns: Tensor, *arguments) -> Tensor:
    dtype = registration.accumulation_dtype(rows.dtype)
    return function(rows.to(dtype), columns.to(dtype), *arguments).to(rows.dtype)


def reference(
    rows: Tensor,
    columns: Tensor,
    size: tuple[int, int],
    channel_weight: Tensor,
    channel_bias: Tensor,
    spatial_weight: Tensor,
    spatial_bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    groups: int,
    eps: float = 1e-5,
    shuffle: bool = True,
) -> Tensor:
    """upsample_shuffle_attention in plain PyTorch; all tensors of one dtype."""
    x = upsample_reference(rows, columns, size)
    parameters = (channel_weight, channel_bias, spatial_weight, spatial_bias, norm_weight, norm_bias)
    return attention.reference(x, *parameters, groups, eps, shuffle)


def pooled_reference(rows: Tensor, columns: Tensor, size: tuple[int, int], *arguments) -> Tensor:
    """upsample_shuffle_attention_pooled in plain PyTorch; all tensors of one dtype."""
    return reference(rows, columns, size, *arguments).mean((2, 3))


@registration.register_fake("upsample_shuffle_attention")
def _(rows, columns, height, width, *arguments):
    *_, channels_last = arguments
    size = (rows.shape[0], rows.shape[1] + columns.shape[1], height, width)
    return registration.empty_map(rows, size, channels_last)


@registration.register_fake("upsample_shuffle_attention_pooled")
def _(rows, columns, *_):
    return rows.new_empty(rows.shape[0], rows.shape[1] + columns.shape[1])


def _fake_gradients(rows, columns, parameters):
    return tuple(tensor.new_empty(tensor.shape) for tensor in (rows, columns, *parameters))


@registration.register_fake("upsample_shuffle_attention_backward")
def _(grad, rows, columns, *arguments):
    return _fake_gradients(rows, columns, arguments[:6])


@registration.register_fake("upsample_shuffle_attention_pooled_backward")
def _(grad, rows, columns, height, width, *arguments):
    return _fake_gradients(rows, columns, arguments[:6])


def _setup_context(ctx, inputs, output):
    rows, columns, *ctx.size = inputs[:4]
    ctx.save_for_backward(rows, columns, *inputs[4:10])
    ctx.options = inputs[10:13]


def _backward(ctx, grad):
    d_rows, d_columns, *d_parameters = _backward_op(grad, *ctx.saved_tensors, *ctx.options)
    return d_rows, d_columns, None, None, *d_parameters, None, None, None, None


def _pooled_backward(ctx, grad):
    rows, columns, *parameters = ctx.saved_tensors
    d_rows, d_columns, *d_parameters = _pooled_backward_op(grad, rows, columns, *ctx.size, *parameters, *ctx.options)
    return d_rows, d_columns, None, None, *d_parameters, None, None, None


_backward_op = registration.register_backward("upsample_shuffle_attention_backward")
_op = registration.register_autograd("upsample_shuffle_attention", _backward, _setup_context)
_pooled_backward_op = registration.register_backward("upsample_shuffle_attention_pooled_backward")
_pooled_op = registration.register_autograd("upsample_shuffle_attention_pooled", _pooled_backward, _setup_context)
