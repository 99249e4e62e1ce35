"""The fused ops as standard ONNX operators: the translation table of the exporter.

A row channel of FDR is constant along W and a column channel along H, so all that its attention needs are profiles
(B, C, L) of L = H or W positions, and with FDR's own embedding of one. Only an op whose result is a map writes one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from ..extras import require

Value = Any  # a tensor of the graph that is being written: onnx_ir.Value


class Profile(NamedTuple):
    """Channels that vary along one direction: (B, channels, length). Of a whole map: length is H * W."""

    value: Value
    channels: int
    length: int


def translation_table() -> dict[Callable, Callable]:
    """Torch op -> the function that writes it as ONNX operators, as torch.onnx.export takes it.

    Of our ops, none where the compiled library is not installed: exported is then the reference in plain PyTorch.
    """
    written = {
        "slice_pool": _slice_pool,
        "slice_pool_upsample": _slice_pool_upsample,
        "shuffle_attention": _shuffle_attention,
        "upsample_shuffle_attention": _upsample_shuffle_attention,
        "upsample_shuffle_attention_pooled": _upsample_shuffle_attention_pooled,
    }
    ops = torch.ops.toplight_ext
    ours = {getattr(ops, name).default: function for name, function in written.items() if hasattr(ops, name)}
    return {torch.ops.aten.mean.dim: _mean_dim, **ours}


def _mean_dim(x: Value, dim: Sequence[int], keepdim: bool = False, dtype: int | None = None) -> Value:
    """As GlobalAveragePool where it is one: a ReduceMean makes onnxruntime leave its blocked layout and return to it.

    That would cost MobileNetV3-Large, with its squeeze-and-excitation, a twentieth of its time.
    """
    axes = sorted(axis % len(x.shape) for axis in dim)
    if len(x.shape) != 4 or axes != [2, 3] or dtype is not None:
        return _op().ReduceMean(x, _integers(*axes), keepdims=int(keepdim))
    pooled = _op().GlobalAveragePool(x)
    return pooled if keepdim else _op().Squeeze(pooled, _integers(2, 3))


def _slice_pool(x: Value, n_h: int, n_v: int) -> tuple[Value, Value]:
    """Every slice is a weighted sum of the H * W positions."""
    height, width = x.shape[2:]
    flat = _op().Reshape(x, _integers(0, x.shape[1], height * width))
    rows = np.repeat(_pooling(height, n_h), width, axis=0) / width
    columns = np.tile(_pooling(width, n_v), (height, 1)) / height
    return _op().MatMul(flat, _constant(rows)), _op().MatMul(flat, _constant(columns))


def _slice_pool_upsample(x: Value, n_h: int, n_v: int) -> Value:
    rows, columns = _slice_pool(x, n_h, n_v)
    channels, *size = x.shape[1:]
    return _map(_enlarged(Profile(rows, channels, n_h), Profile(columns, channels, n_v), size), size)


def _shuffle_attention(x: Value, *arguments) -> Value:
    *parameters, groups, eps, shuffle = arguments
    channels, height, width = x.shape[1:]
    whole = Profile(_op().Reshape(x, _integers(0, channels, height * width)), channels, height * width)
    (attended,) = _attend([whole], parameters, groups, eps)
    return _shuffled(_op().Reshape(attended.value, _integers(0, channels, height, width)), channels, shuffle)


def _upsample_shuffle_attention(rows: Value, columns: Value, height: int, width: int, *arguments) -> Value:
    *parameters, groups, eps, shuffle, _channels_last = arguments
    attended = _attend(_enlarged(_profile(rows), _profile(columns), (height, width)), parameters, groups, eps)
    return _shuffled(_map(attended, (height, width)), rows.shape[1] + columns.shape[1], shuffle)


def _upsample_shuffle_attention_pooled(rows: Value, columns: Value, height: int, width: int, *arguments) -> Value:
    *parameters, groups, eps, shuffle = arguments
    profiles = _enlarged(_profile(rows), _profile(columns), (height, width))
    channels = rows.shape[1] + columns.shape[1]
    if all(profile.length == 1 for profile in profiles):  # as FDR's own embedding gives them
        profiles = [Profile(_op().Concat(rows, columns, axis=1), channels, 1)]
    means = [_op().Squeeze(_mean(profile), _integers(2)) for profile in _attend(profiles, parameters, groups, eps)]
    return _shuffled(means[0] if len(means) == 1 else _op().Concat(*means, axis=1), channels, shuffle)


def _attend(profiles: Sequence[Profile], parameters: Sequence[Value], groups: int, eps: float) -> list[Profile]:
    """Shuffle attention, without the shuffle, of channels given as consecutive profiles.

    Both of its gates in one formula: x * sigmoid(a * GN(x) + b * mean(x) + c), where b is 0 in the channels of the
    spatial gate and a in those of the channel gate. GN is 0 where there is one position.
    """
    attended, first = [], 0
    constants = _channel_constants(sum(profile.channels for profile in profiles), groups, parameters)
    for profile in profiles:
        last = first + profile.channels
        of_norm, of_mean, offset = (
            _op().Slice(constant, _integers(first), _integers(last), _integers(1)) for constant in constants
        )
        mean = _mean(profile)
        argument = _op().Add(_op().Mul(of_mean, mean), offset)
        if profile.length > 1:
            argument = _op().Add(_op().Mul(of_norm, _normalised(profile, mean, eps)), argument)
        attended.append(profile._replace(value=_op().Mul(profile.value, _op().Sigmoid(argument))))
        first = last
    return attended


def _channel_constants(channels: int, groups: int, parameters: Sequence[Value]) -> list[Value]:
    """a, b and c of `_attend` for every channel, (1, C, 1) each: functions of parameters alone, so they fold."""
    channel_weight, channel_bias, spatial_weight, spatial_bias, norm_weight, norm_bias = (
        _op().Reshape(parameter, _integers(1, -1, 1)) for parameter in parameters
    )
    zero = _constant(np.zeros((1, channels // (2 * groups), 1)))
    of_norm = _op().Mul(spatial_weight, norm_weight)
    offset = _op().Add(_op().Mul(spatial_weight, norm_bias), spatial_bias)
    halves = ((zero, of_norm), (channel_weight, zero), (channel_bias, offset))
    return [_op().Tile(_op().Concat(*pair, axis=1), _integers(1, groups, 1)) for pair in halves]


def _normalised(profile: Profile, mean: Value, eps: float) -> Value:
    centred = _op().Sub(profile.value, mean)
    variance = _mean(profile._replace(value=_op().Mul(centred, centred)))
    return _op().Div(centred, _op().Sqrt(_op().Add(variance, _constant(eps))))


def _mean(profile: Profile) -> Value:
    """(B, C, 1)."""
    return profile.value if profile.length == 1 else _op().ReduceMean(profile.value, _integers(2))


def _enlarged(rows: Profile, columns: Profile, size: Sequence[int]) -> list[Profile]:
    """Slices interpolated to H and W positions; a single slice stands for all of them as it is."""
    return [
        profile
        if profile.length == 1
        else Profile(
            _op().MatMul(profile.value, _constant(_interpolation(profile.length, length))), profile.channels, length
        )
        for profile, length in zip((rows, columns), size, strict=True)
    ]


def _map(profiles: Sequence[Profile], size: Sequence[int]) -> Value:
    """(B, C_r + C_c, H, W) of row and column profiles."""
    expanded = [
        _op().Expand(_op().Unsqueeze(profile.value, _integers(axis)), _integers(1, 1, *size))
        for profile, axis in zip(profiles, (3, 2), strict=True)
    ]
    return _op().Concat(*expanded, axis=1)


def _shuffled(x: Value, channels: int, shuffle: bool) -> Value:
    """The channel shuffle with two groups, of (B, C) or (B, C, H, W)."""
    order = np.arange(channels).reshape(2, -1).T.flatten()
    return _op().Gather(x, _op().Constant(value=_tensor(order)), axis=1) if shuffle else x


def _pooling(length: int, slices: int) -> np.ndarray:
    """(length, slices): the weight of every position in every slice, by adaptive average pooling itself."""
    return F.adaptive_avg_pool1d(torch.eye(length)[:, None], slices)[:, 0].numpy()


def _interpolation(slices: int, length: int) -> np.ndarray:
    """(slices, length): the weight of every slice at every position."""
    return F.interpolate(torch.eye(slices)[:, None], length, mode="linear", align_corners=False)[:, 0].numpy()


def _profile(slices: Value) -> Profile:
    return Profile(slices, *slices.shape[1:])


def _op():
    return require("onnxscript", extra="export").opset18


def _constant(value: float | np.ndarray) -> Value:
    return _op().Constant(value=_tensor(np.asarray(value, dtype=np.float32)))


def _integers(*values: int) -> Value:
    return _op().Constant(value_ints=list(values))


def _tensor(array: np.ndarray):
    return require("onnx.numpy_helper", extra="export").from_array(array)
