"""The arithmetic of shuffle attention (SA-Net), for a tile (P, N) of N values of each of P planes.

y = x * s with the gate s = sigmoid(t). With mean, variance and rstd = 1 / sqrt(variance + eps) of a plane and
xhat = (x - mean) * rstd,
  channel half: t = channel_weight * mean + channel_bias, one number per plane;
  spatial half: t = spatial_weight * (norm_weight * xhat + norm_bias) + spatial_bias.
Both are t = slope * (x - mean) + offset with slope = 0 in the channel half, so one tile holds planes of both.
Every plane leaves two sums for the gradients of the parameters, which a second kernel adds over images and groups.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from .plane import accumulate_type, device_of

REDUCED_AT_ONCE = 1024  # planes whose sums one step of the second kernel adds


class Attention(NamedTuple):
    """Channels, values per parameter (C / (2 * groups)), what is added to the variance, whether channels shuffle."""

    channels: int
    half: int
    eps: float
    shuffle: bool


def attention_of(channels: int, groups: int, eps: float, shuffle: bool) -> Attention:
    return Attention(channels, channels // (2 * groups), eps, shuffle)


@triton.jit
def unshuffled_channel(output, A: tl.constexpr):
    """The input channel that an output channel shows: the channel shuffle interleaves the halves of C."""
    if A.shuffle:
        return output % 2 * (A.channels // 2) + output // 2
    return output


@triton.jit
def moments(
    values,  # (P, N), 0 outside
    inside,  # (P, N)
    count,  # how many are inside, (P,) or one number
):
    """Mean and biased variance per plane, (P,)."""
    first = tl.sum(values, 1) / count
    centred = tl.where(inside, values - first[:, None], 0.0)
    # What the mean has lost to rounding; in a plane that hardly varies, rstd enlarges it.
    lost = tl.sum(centred, 1) / count
    variance = tl.sum(centred * centred, 1) / count - lost * lost
    return first + lost, tl.maximum(variance, 0.0)


@triton.jit
def plane_gate(
    mean,  # (P,)
    variance,  # (P,)
    c,  # channels, (P,)
    exists,  # which planes exist, (P,)
    parameters,  # pointers to the six parameters, (half,) each, in the order of the op's arguments
    A: tl.constexpr,  # Attention
    ACC: tl.constexpr,  # type of the arithmetic
):
    """mean, rstd, slope, offset and channel_weight of each plane, (P,).

    rstd and slope are 0 in the channel half, channel_weight in the spatial half.
    """
    channel_weight, channel_bias, spatial_weight, spatial_bias, norm_weight, norm_bias = parameters
    k = c % A.half
    spatial = (c // A.half) % 2 == 1
    weight = tl.load(tl.where(spatial, spatial_weight + k, channel_weight + k), mask=exists, other=0.0).to(ACC)
    bias = tl.load(tl.where(spatial, spatial_bias + k, channel_bias + k), mask=exists, other=0.0).to(ACC)
    scale = tl.load(norm_weight + k, mask=exists & spatial, other=0.0).to(ACC)
    shift = tl.load(norm_bias + k, mask=exists & spatial, other=0.0).to(ACC)
    rstd = tl.where(spatial, 1.0 / tl.sqrt(variance + A.eps), 0.0)
    offset = weight * tl.where(spatial, shift, mean) + bias
    return mean, rstd, weight * scale * rstd, offset, tl.where(spatial, 0.0, weight)


@triton.jit
def gate_at(values, gate):
    """s at each value, (P, N)."""
    mean, _, slope, offset, _ = gate
    return tl.sigmoid(slope[:, None] * (values - mean[:, None]) + offset[:, None])


@triton.jit
def logit_gradient(dy, values, gate):
    """Gradient of the loss to t at each value, (P, N)."""
    s = gate_at(values, gate)
    return dy * values * s * (1.0 - s)


@triton.jit
def input_gradient(
    dy,  # (P, N)
    values,  # x, (P, N)
    gate,  # of plane_gate
    sum_dt,  # of logit_gradient over the planes, (P,)
    sum_dt_centred,  # of its products with x - mean
    count,  # values per plane, (P,) or one number
):
    """Gradient of x, (P, N).

    The mean is taken off dt before the slope, which is large where a plane hardly varies, comes in.
    """
    mean, rstd, slope, _, channel_weight = gate
    dt_mean = sum_dt / count
    constant = channel_weight * dt_mean
    linear = rstd * rstd * sum_dt_centred / count
    through_plane = logit_gradient(dy, values, gate) - dt_mean[:, None] - linear[:, None] * (values - mean[:, None])
    return dy * gate_at(values, gate) + constant[:, None] + slope[:, None] * through_plane


@triton.jit
def store_plane_sums(
    sums,  # (2, 2 * half, B * groups)
    b,  # image
    c,  # channels, (P,)
    exists,  # which planes exist, (P,)
    pairs,  # B * groups
    gate,  # of plane_gate
    sum_dt,  # of logit_gradient over the planes, (P,)
    sum_dt_centred,  # of its products with x - mean
    A: tl.constexpr,  # Attention
):
    """What each plane adds to the gradients of weight and bias of its half, where `parameter_gradients` wants it."""
    mean, rstd, _, _, _ = gate
    spatial = (c // A.half) % 2 == 1
    groups: tl.constexpr = A.channels // (2 * A.half)
    within = (c % (2 * A.half)).to(tl.int64)
    pair = b * groups + c // (2 * A.half)
    tl.store(sums + within * pairs + pair, tl.where(spatial, rstd * sum_dt_centred, mean * sum_dt), mask=exists)
    tl.store(sums + (within + 2 * A.half) * pairs + pair, sum_dt, mask=exists)


@triton.jit
def _parameter_gradients(
    sums,  # what each plane adds to the gradients of weight and bias of its half, (2, 2 * half, pairs)
    parameters,  # the six parameters, (half,) each, in the order of the op's arguments
    gradients,  # their gradients, likewise
    pairs,  # images times groups
    HALF: tl.constexpr,  # values per parameter
    ACC: tl.constexpr,  # type of the sums
    BLOCK: tl.constexpr,  # pairs per step
    STEPS: tl.constexpr,  # ceil(pairs / BLOCK)
):
    k = tl.program_id(0).to(tl.int64)
    weight = tl.zeros((BLOCK,), ACC)
    bias = tl.zeros((BLOCK,), ACC)
    spatial_weight_sum = tl.zeros((BLOCK,), ACC)
    spatial_bias_sum = tl.zeros((BLOCK,), ACC)
    for step in range(STEPS):
        pair = step * BLOCK + tl.arange(0, BLOCK)
        inside = pair < pairs
        weight += tl.load(sums + k * pairs + pair, mask=inside, other=0.0)
        spatial_weight_sum += tl.load(sums + (k + HALF) * pairs + pair, mask=inside, other=0.0)
        bias += tl.load(sums + (k + 2 * HALF) * pairs + pair, mask=inside, other=0.0)
        spatial_bias_sum += tl.load(sums + (k + 3 * HALF) * pairs + pair, mask=inside, other=0.0)
    dot = tl.sum(spatial_weight_sum, 0)
    total = tl.sum(spatial_bias_sum, 0)
    spatial_weight = tl.load(parameters[2] + k).to(ACC)
    norm_weight = tl.load(parameters[4] + k).to(ACC)
    norm_bias = tl.load(parameters[5] + k).to(ACC)
    tl.store(gradients[0] + k, tl.sum(weight, 0))
    tl.store(gradients[1] + k, tl.sum(bias, 0))
    tl.store(gradients[2] + k, norm_weight * dot + norm_bias * total)
    tl.store(gradients[3] + k, total)
    tl.store(gradients[4] + k, spatial_weight * dot)
    tl.store(gradients[5] + k, spatial_weight * total)


def empty_plane_sums(images: int, attention: Attention, like: torch.Tensor) -> torch.Tensor:
    """Memory for what `store_plane_sums` writes."""
    groups = attention.channels // (2 * attention.half)
    return like.new_empty(2, 2 * attention.half, images * groups)


def parameter_gradients(sums: torch.Tensor, parameters: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Gradients of the six parameters, by one launch that adds the sums of all planes in a fixed order."""
    gradients = tuple(parameter.new_empty(parameter.shape) for parameter in parameters)
    half, pairs = sums.shape[1] // 2, sums.shape[2]
    with device_of(sums):
        _parameter_gradients[(half,)](
            sums,
            parameters,
            gradients,
            pairs,
            HALF=half,
            ACC=accumulate_type(sums),
            BLOCK=REDUCED_AT_ONCE,
            STEPS=triton.cdiv(pairs, REDUCED_AT_ONCE),
        )
    return gradients
