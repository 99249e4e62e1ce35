"""shuffle_attention: the channel and spatial attention of SA-Net on a map."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from toplight_ext.errors import InputError

from . import _registration as registration
from .backends import use_reference

PARAMETERS = ("channel_weight", "channel_bias", "spatial_weight", "spatial_bias", "norm_weight", "norm_bias")


def shuffle_attention(
    x: Tensor,
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
    """Shuffle attention (Zhang and Yang, SA-Net, ICASSP 2021, equations 1 to 4).

    The channels are cut into `groups` groups, each into a first half x0 and a second half x1. With the mean over
    H x W and GN normalising every channel by itself (biased variance, then norm_weight and norm_bias):
        y0 = x0 * sigmoid(channel_weight * mean(x0) + channel_bias)
        y1 = x1 * sigmoid(spatial_weight * GN(x1) + spatial_bias)
    The halves are put together again, and a channel shuffle with two groups interleaves the first C/2 channels of
    the result with the last C/2.

    Args:
        x: map (B, C, H, W) of any strides; C divisible by 2 * groups.
        channel_weight, channel_bias, spatial_weight, spatial_bias, norm_weight, norm_bias: (1, C / (2 groups), 1, 1),
            shared by the groups. They may have another dtype than x: the sums run in float32 (float64 for
            float64), the result has the dtype of x.
        groups: number of groups G.
        eps: added to the variance.
        shuffle: whether the channels are shuffled.

    Returns:
        Map (B, C, H, W), channels_last if x is, else contiguous.

    Raises:
        InputError: wrong rank, shape, dtype or device, or C not divisible by 2 * groups.
    """
    given = (channel_weight, channel_bias, spatial_weight, spatial_bias, norm_weight, norm_bias)
    registration.check_map("shuffle_attention", x)
    parameters = check_parameters("shuffle_attention", x, x.shape[1], groups, given)
    if use_reference("shuffle_attention", x.device):
        return registration.run_reference(reference, x, *parameters, groups, eps, shuffle)
    return _op(x, *parameters, groups, eps, shuffle)


def check_parameters(op: str, x: Tensor, channels: int, groups: int, given: tuple[Tensor, ...]) -> list[Tensor]:
    """Check the six parameters for a map of `channels` channels; return them in its accumulation dtype."""
    check_groups(op, channels, groups)
    shape, device, dtype = (1, channels // (2 * groups), 1, 1), x.device, registration.accumulation_dtype(x.dtype)
    parameters = []
    for parameter in given:
        registration.check_tensor(op, parameter, PARAMETERS[len(parameters)])
        if parameter.shape != shape or parameter.device != device:
            name = PARAMETERS[len(parameters)]
            raise InputError(
                f"{op}: {name} must have the shape {shape} and be on {device} as the map is, "
                f"got {tuple(parameter.shape)} on {parameter.device}"
            )
        # To ask first costs a third of a conversion to the same type, and one image is a matter of microseconds.
        parameters.append(parameter if parameter.dtype == dtype else parameter.to(dtype))
    return parameters


def check_groups(op: str, channels: int, groups: int) -> None:
    """Raise InputError, with the nearest number of groups that fits, unless C is divisible by 2 * G."""
    if not isinstance(groups, int):
        raise InputError(f"{op}: groups must be a whole number, got {groups!r}")
    if groups < 1 or channels < 2 or channels % (2 * groups) != 0:
        valid = valid_groups(channels)
        nearest = min(valid, key=lambda g: (abs(g - groups), g), default=None)
        raise InputError(
            f"{op} halves the channels of every group, which must be divisible by 2 * groups: "
            f"got channels C = {channels} and groups G = {groups}; "
            + (f"the nearest valid G is {nearest}" if valid else "no G is valid")
        )


def valid_groups(channels: int) -> list[int]:
    """Every G for which `channels` is divisible by 2 * G; none where their number is odd."""
    half = 0 if channels % 2 else channels // 2
    # In pairs, since channels that are expanded can be more than can be counted.
    return [g for d in range(1, math.isqrt(half) + 1) if half % d == 0 for g in (d, half // d)]


def reference(
    x: Tensor,
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
    """shuffle_attention in plain PyTorch; all tensors of one dtype."""
    batch, channels, height, width = x.shape
    half = channels // (2 * groups)
    x0, x1 = x.reshape(batch, groups, 2, half, height, width).unbind(2)
    x0, x1 = x0.flatten(0, 1), x1.flatten(0, 1)
    y0 = x0 * torch.sigmoid(channel_weight * x0.mean((2, 3), keepdim=True) + channel_bias)
    normalised = torch.group_norm(x1, half, norm_weight.flatten(), norm_bias.flatten(), eps)
    y1 = x1 * torch.sigmoid(spatial_weight * normalised + spatial_bias)
    y = torch.cat((y0, y1), dim=1).reshape(batch, channels, height, width)
    if shuffle:
        y = y.reshape(batch, 2, channels // 2, height, width).transpose(1, 2).flatten(1, 2)
    return y


@registration.register_fake("shuffle_attention")
def _(x, *_):
    return registration.empty_map(x, x.shape, registration.is_channels_last(x))


@registration.register_fake("shuffle_attention_backward")
def _(grad, x, *arguments):
    dx = registration.empty_map(x, x.shape, registration.is_channels_last(x))
    return dx, *(parameter.new_empty(parameter.shape) for parameter in arguments[:6])


def _setup_context(ctx, inputs, output):
    *tensors, ctx.groups, ctx.eps, ctx.shuffle = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx, grad):
    grads = _backward_op(grad, *ctx.saved_tensors, ctx.groups, ctx.eps, ctx.shuffle)
    return *grads, None, None, None


_backward_op = registration.register_backward("shuffle_attention_backward")
_op = registration.register_autograd("shuffle_attention", _backward, _setup_context)
