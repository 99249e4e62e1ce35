"""Attacks by arguments of the ops: each has to be refused by a clear error, in bounded memory and time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from toplight_ext import ops

from .confined import Attacks, Read

ATTACKS = Attacks()

RAW = torch.ops.toplight_ext
X = torch.zeros(2, 8, 5, 3)
V = torch.zeros(2, 4, 3)
P = [torch.zeros(1, 2, 1, 1)] * 6
HUGE = 1 << 40


def repeated(*shape: int) -> torch.Tensor:
    """A map of this size that takes four bytes."""
    return torch.zeros(1).expand(shape)


def attention(x: Any, groups: Any = 2, eps: Any = 1e-5, parameters: Any = P) -> torch.Tensor:
    return ops.shuffle_attention(x, *parameters, groups, eps)


def enlarged(rows: Any = V, columns: Any = V, size: Any = (5, 3), op: Any = ops.upsample_shuffle_attention):
    return op(rows, columns, size, *P, 2)


def pooled(rows: Any = V, columns: Any = V, size: Any = (5, 3)) -> torch.Tensor:
    return enlarged(rows, columns, size, ops.upsample_shuffle_attention_pooled)


def reversed_gradient(x: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(ops.gradient_reversal(x), x, gradient)[0]


# What is given -> the call, and how what is raised begins.
WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "None for a map": (lambda: ops.slice_pool(None, (2, 2)), "InputError: slice_pool: x must be a tensor"),
    "None for slices": (lambda: ops.slice_pool(X, None), "InputError: slice_pool: slices must be two whole"),
    "text for slices": (lambda: ops.slice_pool_upsample(X, "ab"), "InputError: slice_pool_upsample: slices must be"),
    "slices that are no whole numbers": (lambda: ops.slice_pool(X, (2.5, 1)), "InputError: slice_pool: slices must be"),
    "more slices than a number holds": (lambda: ops.slice_pool(X, (2**70, 1)), "RuntimeError"),
    "as many slices as numbers go": (lambda: ops.slice_pool(X, (2**63 - 1, 1)), "RuntimeError: check_slices"),
    "petabytes of slices": (lambda: ops.slice_pool(X, (HUGE, 1)), "RuntimeError: check_slices"),
    "petabytes of slices of no image": (lambda: ops.slice_pool(X[:0], (HUGE, 1)), "RuntimeError: check_slices"),
    "petabytes of slices to enlarge": (lambda: ops.slice_pool_upsample(X, (1, HUGE)), "RuntimeError: check_slices"),
    "a map of 2^62 values in four bytes": (
        lambda: ops.slice_pool(repeated(1, 1, 2**31, 2**31), (1, 1)),
        "RuntimeError: check_extent",
    ),
    "a row of 2^40 values in four bytes": (
        lambda: ops.slice_pool(repeated(1, 1, 1, HUGE), (1, 1)),
        "RuntimeError: check_extent",
    ),
    "2^62 channels of no image": (
        lambda: ops.slice_pool_upsample(torch.empty(0, 2**62, 1, 1), (1, 1)),
        "RuntimeError: check_channels",
    ),
    "attention over 32 TB in four bytes": (lambda: attention(repeated(1, 8, 2**20, 2**20)), "RuntimeError"),
    "2^40 channels that no groups fit": (
        lambda: attention(repeated(1, HUGE + 2, 1, 1), 5),
        "InputError: shuffle_attention halves the channels",
    ),
    "None for groups": (lambda: attention(X, None), "InputError: shuffle_attention: groups must be a whole number"),
    "None for a parameter": (
        lambda: attention(X, parameters=[*P[:2], None, *P[3:]]),
        "InputError: shuffle_attention: spatial_weight must be a tensor",
    ),
    "None for eps": (lambda: attention(X, eps=None), "RuntimeError"),
    "groups whose double overflows": (
        lambda: RAW.shuffle_attention(X, *P, 2**63 - 1, 1e-5, True),
        "RuntimeError: check_groups",
    ),
    "a map of 2^80 values": (lambda: enlarged(size=(HUGE, HUGE)), "RuntimeError: check_extent"),
    "a map of 2^80 values of no image": (
        lambda: enlarged(V[:0], V[:0], (HUGE, HUGE)),
        "RuntimeError: check_extent",
    ),
    "the mean of 2^80 values": (lambda: pooled(size=(HUGE, HUGE)), "RuntimeError: check_extent"),
    "the mean over a side of 2^63 - 1": (lambda: pooled(size=(2**63 - 1, 1)), "RuntimeError: check_extent"),
    "a negative side": (
        lambda: pooled(size=(-5, 3)),
        "InputError: upsample_shuffle_attention_pooled: height and width",
    ),
    "None for a size": (lambda: pooled(size=None), "InputError: upsample_shuffle_attention_pooled: height and width"),
    "None for rows": (lambda: pooled(None), "InputError: upsample_shuffle_attention_pooled: rows must be a tensor"),
    "rows on meta, columns on the CPU": (
        lambda: pooled(V.to("meta")),
        "InputError: upsample_shuffle_attention_pooled: rows are on meta, columns on cpu",
    ),
    "whole numbers for columns": (
        lambda: enlarged(columns=V.long()),
        "InputError: upsample_shuffle_attention: columns must be float32",
    ),
    "complex numbers": (lambda: ops.slice_pool(X.to(torch.complex64), (2, 2)), "InputError: slice_pool: x must be"),
    "numbers of eight bits": (
        lambda: ops.slice_pool(X.to(torch.float8_e4m3fn), (2, 2)),
        "InputError: slice_pool: x must be float32",
    ),
    "a sparse map": (lambda: ops.slice_pool(X.to_sparse(), (2, 2)), "NotImplementedError"),
    "a parameter on meta": (
        lambda: attention(X, parameters=[p.to("meta") for p in P]),
        "InputError: shuffle_attention: channel_weight must",
    ),
    "None to reverse": (lambda: ops.gradient_reversal(None), "InputError: gradient_reversal: x must be a tensor"),
    "None for lambda": (lambda: ops.gradient_reversal(X, None), "TypeError"),
    "two lambdas": (
        lambda: ops.gradient_reversal(X, torch.ones(2)),
        "InputError: gradient_reversal: lambd must be one",
    ),
    "a gradient of petabytes in four bytes": (
        lambda: RAW.gradient_reversal_backward(repeated(1 << 50), torch.ones(())),
        "RuntimeError",
    ),
}

# Empty maps are no mistake; without a channel they ended the process.
EMPTY: dict[str, tuple[Callable[[], Any]]] = {
    "slice_pool": (lambda: ops.slice_pool(X[:, :0], (2, 2)),),
    "slice_pool_backward": (lambda: RAW.slice_pool_backward(V[:, :0], V[:, :0], 5, 3, False),),
    "slice_pool_upsample": (lambda: ops.slice_pool_upsample(X[:, :0], (2, 2)),),
    "slice_pool_upsample_backward": (lambda: RAW.slice_pool_upsample_backward(X[:, :0], 2, 2),),
    "no rows": (lambda: enlarged(V[:, :0], torch.zeros(2, 8, 3)),),
    "no columns": (lambda: pooled(torch.zeros(2, 8, 3), V[:, :0]),),
    "gradient_reversal": (lambda: reversed_gradient(torch.zeros(0, 3, requires_grad=True), torch.zeros(0, 3)),),
}


def said_by(call: Callable[[], Any]) -> str:
    """What a call raises, in a line; "answered" if it returns."""
    torch.set_num_threads(1)  # OpenMP's threads do not live on in a forked process
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}".partition("\n")[0]
    return "answered"


@ATTACKS.each(WRONG)
def wrong(folder: Path, call: Callable[[], Any], raises: str) -> Read:
    """Gives an op {}."""

    def read() -> str:
        said = said_by(call)
        return "refused" if said.startswith(raises) else said

    return read


@ATTACKS.each(EMPTY)
def empty(folder: Path, call: Callable[[], Any]) -> Read:
    """Gives an op a map without channels: {}."""
    return lambda: said_by(call)
