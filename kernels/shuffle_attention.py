"""Shuffle attention (SA-Net): y = x * sigmoid(t), t one number per plane or one per value, then channel shuffle.

With mean, variance and rstd = 1 / sqrt(variance + eps) of a plane and xhat = (x - mean) * rstd,
  channel half: t = channel_weight * mean + channel_bias;
  spatial half: t = spatial_weight * (norm_weight * xhat + norm_bias) + spatial_bias.
Both are t = slope * (x - mean) + offset with slope = 0 in the channel half, so one tile holds planes of both.
A tile is (2, BLOCK_C, BLOCK_N): the same BLOCK_C channels of both halves of C, which the channel shuffle
interleaves, so that what a program writes lies together.

Bytes moved, per value of x: forward reads x and writes y; backward reads grad and x and writes dx.
Versions: a plane that fits in a tile is read once and kept in registers: its loops have one step, and the compiler
merges their equal loads. A larger plane is read twice forward and three times backward, from the caches where it
fits there.
Sums over a plane have a fixed order. Every plane leaves two sums for the gradients of the parameters, which a
second kernel adds over images and groups, again in a fixed order.
"""

import torch
import triton
import triton.language as tl

from .plane import (
    accumulate_type,
    device_of,
    empty_map,
    position_offset,
    strides_of,
    tile_shape,
    warps,
)

REDUCED_AT_ONCE = 1024  # planes whose sums one step of the second kernel adds


@triton.jit
def _planes(blocks, C: tl.constexpr, BLOCK_C: tl.constexpr, SHUFFLE: tl.constexpr):
    """Of this program: image, input and output channels (2, BLOCK_C), and which of them exist."""
    program = tl.program_id(0)
    j = ((program % blocks) * BLOCK_C + tl.arange(0, BLOCK_C))[None, :]
    half = tl.arange(0, 2)[:, None]
    channel = half * (C // 2) + j
    output = channel
    if SHUFFLE:
        output = 2 * j + half
    return (program // blocks).to(tl.int64), channel.to(tl.int64), output.to(tl.int64), (half < 2) & (j < C // 2)


@triton.jit
def _load(planes, offsets, inside, ACC: tl.constexpr):
    return tl.load(planes[:, :, None] + offsets[None, None, :], mask=inside, other=0.0).to(ACC)


@triton.jit
def _moments(
    x,  # pointers to the planes, (2, BLOCK_C)
    exists,  # which planes exist, (2, BLOCK_C)
    N: tl.constexpr,  # positions
    W: tl.constexpr,  # width
    STRIDE_H: tl.constexpr,  # strides of x
    STRIDE_W: tl.constexpr,
    FLAT: tl.constexpr,  # whether position n lies at n * STRIDE_W
    ACC: tl.constexpr,  # type of the arithmetic
    BLOCK_C: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Mean and variance per plane, (2, BLOCK_C), x being read once: the moments of the tiles, merged."""
    mean = tl.zeros((2, BLOCK_C), ACC)
    squares = tl.zeros((2, BLOCK_C), ACC)
    before = tl.zeros((1, 1), ACC)
    for start in range(0, N, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        inside = exists[:, :, None] & (n < N)[None, None, :]
        values = _load(x, position_offset(n, W, STRIDE_H, STRIDE_W, FLAT), inside, ACC)
        count = tl.sum((n < N).to(ACC), 0)
        tile_mean = tl.sum(values, 2) / count
        centred = tl.where(inside, values - tile_mean[:, :, None], 0.0)
        # What the mean has lost to rounding; in a plane that hardly varies, rstd enlarges it.
        lost = tl.sum(centred, 2) / count
        share = count / (before + count)
        delta = tile_mean + lost - mean
        mean += delta * share
        squares += tl.sum(centred * centred, 2) - lost * lost * count + delta * delta * before * share
        before += count
    return mean, tl.maximum(squares, 0.0) / N


@triton.jit
def _gate(
    mean,
    variance,
    c,  # channels, (2, BLOCK_C)
    exists,  # which planes exist, (2, BLOCK_C)
    parameters,  # pointers to the six parameters, (K,) each
    K: tl.constexpr,  # values per parameter
    EPS: tl.constexpr,  # added to the variance
    ACC: tl.constexpr,  # type of the arithmetic
):
    """rstd, slope, offset of each plane, and channel_weight.

    rstd and slope are 0 in the channel half, channel_weight in the spatial half.
    """
    channel_weight, channel_bias, spatial_weight, spatial_bias, norm_weight, norm_bias = parameters
    k = c % K
    spatial = (c // K) % 2 == 1
    in_channel_half = exists & (spatial == 0)
    in_spatial_half = exists & spatial
    weight = tl.load(channel_weight + k, mask=in_channel_half, other=0.0).to(ACC)
    channel_offset = weight * mean + tl.load(channel_bias + k, mask=in_channel_half, other=0.0).to(ACC)
    scale = tl.load(spatial_weight + k, mask=in_spatial_half, other=0.0).to(ACC)
    spatial_offset = scale * tl.load(norm_bias + k, mask=in_spatial_half, other=0.0).to(ACC)
    spatial_offset += tl.load(spatial_bias + k, mask=in_spatial_half, other=0.0).to(ACC)
    rstd = tl.where(spatial, 1.0 / tl.sqrt(variance + EPS), 0.0)
    slope = scale * tl.load(norm_weight + k, mask=in_spatial_half, other=0.0).to(ACC) * rstd
    return rstd, slope, tl.where(spatial, spatial_offset, channel_offset), weight


@triton.jit
def _sigmoid(values, mean, slope, offset):
    return tl.sigmoid(slope[:, :, None] * (values - mean[:, :, None]) + offset[:, :, None])


@triton.jit
def _forward(
    x,  # input map, (B, C, H, W), any strides
    y,  # output map, (B, C, H, W), contiguous or channels_last
    parameters,  # the six parameters, (K,) each, in the order of the op's arguments
    blocks,  # programs per image, ceil(C / 2 / BLOCK_C)
    x_batch,  # stride of x, in elements, as all strides
    y_batch,  # stride of y
    X_CHANNEL: tl.constexpr,  # strides of x
    X_HEIGHT: tl.constexpr,
    X_WIDTH: tl.constexpr,
    X_FLAT: tl.constexpr,  # whether position n of x lies at n * X_WIDTH
    Y_CHANNEL: tl.constexpr,  # strides of y; position n lies at n * Y_WIDTH
    Y_WIDTH: tl.constexpr,
    C: tl.constexpr,  # channels
    K: tl.constexpr,  # values per parameter, C / (2 * groups)
    N: tl.constexpr,  # positions, H * W
    W: tl.constexpr,  # width
    EPS: tl.constexpr,  # added to the variance
    SHUFFLE: tl.constexpr,  # whether the channels are shuffled
    ACC: tl.constexpr,  # type of the arithmetic
    BLOCK_C: tl.constexpr,  # channels of each half of C in a tile
    BLOCK_N: tl.constexpr,  # positions in a tile
):
    b, c, output, exists = _planes(blocks, C, BLOCK_C, SHUFFLE)
    x += b * x_batch + c * X_CHANNEL
    y += b * y_batch + output * Y_CHANNEL
    mean, variance = _moments(x, exists, N, W, X_HEIGHT, X_WIDTH, X_FLAT, ACC, BLOCK_C, BLOCK_N)
    _, slope, offset, _ = _gate(mean, variance, c, exists, parameters, K, EPS, ACC)
    for start in range(0, N, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        inside = exists[:, :, None] & (n < N)[None, None, :]
        values = _load(x, position_offset(n, W, X_HEIGHT, X_WIDTH, X_FLAT), inside, ACC)
        values *= _sigmoid(values, mean, slope, offset)
        tl.store(y[:, :, None] + n.to(tl.int64)[None, None, :] * Y_WIDTH, values, mask=inside)


@triton.jit
def _backward(
    grad,  # gradient of the output map, (B, C, H, W), channels as the output has them, any strides
    x,  # input map, (B, C, H, W), any strides
    dx,  # gradient of x, (B, C, H, W), contiguous or channels_last
    sums,  # what each plane adds to the gradients of weight and bias of its half, (2, B, C)
    parameters,  # the six parameters, (K,) each, in the order of the op's arguments
    blocks,  # programs per image, ceil(C / 2 / BLOCK_C)
    planes,  # B * C
    grad_batch,  # stride of grad, in elements, as all strides
    x_batch,  # stride of x
    dx_batch,  # stride of dx
    GRAD_CHANNEL: tl.constexpr,  # strides of grad
    GRAD_HEIGHT: tl.constexpr,
    GRAD_WIDTH: tl.constexpr,
    GRAD_FLAT: tl.constexpr,  # whether position n of grad lies at n * GRAD_WIDTH
    X_CHANNEL: tl.constexpr,  # strides of x
    X_HEIGHT: tl.constexpr,
    X_WIDTH: tl.constexpr,
    X_FLAT: tl.constexpr,  # whether position n of x lies at n * X_WIDTH
    DX_CHANNEL: tl.constexpr,  # strides of dx; position n lies at n * DX_WIDTH
    DX_WIDTH: tl.constexpr,
    C: tl.constexpr,  # channels
    K: tl.constexpr,  # values per parameter, C / (2 * groups)
    N: tl.constexpr,  # positions, H * W
    W: tl.constexpr,  # width
    EPS: tl.constexpr,  # added to the variance
    SHUFFLE: tl.constexpr,  # whether the channels of the output are shuffled
    ACC: tl.constexpr,  # type of the arithmetic
    BLOCK_C: tl.constexpr,  # channels of each half of C in a tile
    BLOCK_N: tl.constexpr,  # positions in a tile
):
    b, c, output, exists = _planes(blocks, C, BLOCK_C, SHUFFLE)
    grad += b * grad_batch + output * GRAD_CHANNEL
    x += b * x_batch + c * X_CHANNEL
    dx += b * dx_batch + c * DX_CHANNEL
    mean, variance = _moments(x, exists, N, W, X_HEIGHT, X_WIDTH, X_FLAT, ACC, BLOCK_C, BLOCK_N)
    rstd, slope, offset, channel_weight = _gate(mean, variance, c, exists, parameters, K, EPS, ACC)

    # With s the gate, dt = grad * x * s * (1 - s) is the gradient of t, everywhere below.
    sum_dt = tl.zeros((2, BLOCK_C), ACC)
    sum_dt_centred = tl.zeros((2, BLOCK_C), ACC)
    for start in range(0, N, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        inside = exists[:, :, None] & (n < N)[None, None, :]
        values = _load(x, position_offset(n, W, X_HEIGHT, X_WIDTH, X_FLAT), inside, ACC)
        dy = _load(grad, position_offset(n, W, GRAD_HEIGHT, GRAD_WIDTH, GRAD_FLAT), inside, ACC)
        s = _sigmoid(values, mean, slope, offset)
        dt = dy * values * s * (1.0 - s)
        sum_dt += tl.sum(dt, 2)
        sum_dt_centred += tl.sum(dt * (values - mean[:, :, None]), 2)
    # What every value gets through the mean of the plane, and through its variance. The mean is taken off dt before
    # the slope, which is large where a plane hardly varies, comes in.
    dt_mean = sum_dt / N
    constant = channel_weight * dt_mean
    linear = rstd * rstd * sum_dt_centred / N
    for start in range(0, N, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        inside = exists[:, :, None] & (n < N)[None, None, :]
        values = _load(x, position_offset(n, W, X_HEIGHT, X_WIDTH, X_FLAT), inside, ACC)
        dy = _load(grad, position_offset(n, W, GRAD_HEIGHT, GRAD_WIDTH, GRAD_FLAT), inside, ACC)
        s = _sigmoid(values, mean, slope, offset)
        dt = dy * values * s * (1.0 - s)
        through_plane = dt - dt_mean[:, :, None] - linear[:, :, None] * (values - mean[:, :, None])
        dy = dy * s + constant[:, :, None] + slope[:, :, None] * through_plane
        tl.store(dx[:, :, None] + n.to(tl.int64)[None, None, :] * DX_WIDTH, dy, mask=inside)

    spatial = (c // K) % 2 == 1
    first = sums + b * C + c
    tl.store(first, tl.where(spatial, rstd * sum_dt_centred, mean * sum_dt), mask=exists)
    tl.store(first + planes, sum_dt, mask=exists)


@triton.jit
def _parameter_gradients(
    sums,  # what each plane adds to the gradients of weight and bias of its half, (2, B, C)
    spatial_weight,  # (K,)
    norm_weight,  # (K,)
    norm_bias,  # (K,)
    gradients,  # gradients of the six parameters, (K,) each, in the order of the op's arguments
    planes,  # B * C
    pairs,  # images times groups, planes / (2 * K)
    K: tl.constexpr,  # values per parameter
    ACC: tl.constexpr,  # type of the sums
    BLOCK: tl.constexpr,  # pairs per step
    STEPS: tl.constexpr,  # ceil(pairs / BLOCK)
):
    k = tl.program_id(0)
    channel_weight = tl.zeros((BLOCK,), ACC)
    channel_bias = tl.zeros((BLOCK,), ACC)
    spatial_dot = tl.zeros((BLOCK,), ACC)
    spatial_sum = tl.zeros((BLOCK,), ACC)
    for step in range(STEPS):
        pair = step * BLOCK + tl.arange(0, BLOCK)
        channel = sums + pair.to(tl.int64) * (2 * K) + k
        inside = pair < pairs
        channel_weight += tl.load(channel, mask=inside, other=0.0)
        channel_bias += tl.load(channel + planes, mask=inside, other=0.0)
        spatial_dot += tl.load(channel + K, mask=inside, other=0.0)
        spatial_sum += tl.load(channel + planes + K, mask=inside, other=0.0)
    dot = tl.sum(spatial_dot, 0)
    total = tl.sum(spatial_sum, 0)
    w_s = tl.load(spatial_weight + k).to(ACC)
    w_n = tl.load(norm_weight + k).to(ACC)
    tl.store(gradients[0] + k, tl.sum(channel_weight, 0))
    tl.store(gradients[1] + k, tl.sum(channel_bias, 0))
    tl.store(gradients[2] + k, w_n * dot + tl.load(norm_bias + k).to(ACC) * total)
    tl.store(gradients[3] + k, total)
    tl.store(gradients[4] + k, w_s * dot)
    tl.store(gradients[5] + k, w_s * total)


def _plan(x: torch.Tensor, maps: int, groups: int, eps: float, shuffle: bool) -> dict:
    """The constants and the warps of a launch that keeps tiles of `maps` maps, as keyword arguments."""
    channels, height, width = x.shape[1:]
    block_c, block_n = tile_shape(x, channels // 2, 2 * maps)
    return {
        "C": channels,
        "K": channels // (2 * groups),
        "N": height * width,
        "W": width,
        "EPS": eps,
        "SHUFFLE": shuffle,
        "ACC": accumulate_type(x),
        "BLOCK_C": block_c,
        "BLOCK_N": block_n,
        "num_warps": warps(maps * 2 * block_c * block_n),
    }


def shuffle_attention(
    x: torch.Tensor,
    channel_weight: torch.Tensor,
    channel_bias: torch.Tensor,
    spatial_weight: torch.Tensor,
    spatial_bias: torch.Tensor,
    norm_weight: torch.Tensor,
    norm_bias: torch.Tensor,
    groups: int,
    eps: float,
    shuffle: bool,
) -> torch.Tensor:
    """(B, C, H, W) -> (B, C, H, W); parameters (1, C / (2 * groups), 1, 1)."""
    parameters = (channel_weight, channel_bias, spatial_weight, spatial_bias, norm_weight, norm_bias)
    y = empty_map(x.shape, x)
    if x.numel() == 0:
        return y
    plan = _plan(x, 1, groups, eps, shuffle)
    blocks = triton.cdiv(x.shape[1] // 2, plan["BLOCK_C"])
    read, written = strides_of(x), strides_of(y)
    with device_of(x):
        _forward[(x.shape[0] * blocks,)](
            x, y, tuple(p.contiguous() for p in parameters), blocks, read.batch, written.batch,
            *read[1:], written.channel, written.width, **plan,
        )  # fmt: skip
    return y


def shuffle_attention_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    channel_weight: torch.Tensor,
    channel_bias: torch.Tensor,
    spatial_weight: torch.Tensor,
    spatial_bias: torch.Tensor,
    norm_weight: torch.Tensor,
    norm_bias: torch.Tensor,
    groups: int,
    eps: float,
    shuffle: bool,
) -> tuple[torch.Tensor, ...]:
    """Gradients of x and of the six parameters, each of the shape of what it belongs to."""
    parameters = (channel_weight, channel_bias, spatial_weight, spatial_bias, norm_weight, norm_bias)
    parameters = tuple(p.contiguous() for p in parameters)
    dx = empty_map(x.shape, x)
    if x.numel() == 0:
        return dx, *map(torch.zeros_like, parameters)
    gradients = tuple(map(torch.empty_like, parameters))
    plan = _plan(x, 2, groups, eps, shuffle)
    images, channels = x.shape[:2]
    blocks = triton.cdiv(channels // 2, plan["BLOCK_C"])
    sums = channel_weight.new_empty(2, images, channels)
    upstream, read, written = strides_of(grad), strides_of(x), strides_of(dx)
    with device_of(x):
        _backward[(images * blocks,)](
            grad, x, dx, sums, parameters, blocks, images * channels, upstream.batch, read.batch, written.batch,
            *upstream[1:], *read[1:], written.channel, written.width, **plan,
        )  # fmt: skip
        _parameter_gradients[(plan["K"],)](
            sums,
            parameters[2],
            parameters[4],
            parameters[5],
            gradients,
            images * channels,
            images * groups,
            K=plan["K"],
            ACC=plan["ACC"],
            BLOCK=REDUCED_AT_ONCE,
            STEPS=triton.cdiv(images * groups, REDUCED_AT_ONCE),
        )
    return dx, *gradients
