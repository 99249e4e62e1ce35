"""The ops, public ones and torch ops, under drawn wrong arguments, whatever they raise: no process may end."""

from __future__ import annotations

import argparse
import mmap
import os
import resource
import signal
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toplight_ext import ops
from toplight_ext.op_cases import CASES, Sample, recorded

_SECONDS = 60  # for one call
_BYTES = 4 << 30  # of address space beyond what the process has
_BATCH = 2000  # calls in one forked process
SAMPLE = Sample((2, 8, 5, 3), slices=(3, 2))

Call = tuple[Callable, tuple]


def valid_calls() -> list[Call]:
    """A right call of every public op and of every torch op."""
    calls: list[Call] = []
    for case in CASES.values():
        calls += [
            (function, arguments) for function, arguments, _ in recorded(case, SAMPLE, "contiguous", "contiguous")
        ]
    x, *parameters = CASES["shuffle_attention"].inputs(SAMPLE)
    rows, columns = CASES["upsample_shuffle_attention"].inputs(SAMPLE)[:2]
    attention = (*parameters, SAMPLE.groups, SAMPLE.eps, True)
    size = SAMPLE.shape[2:]
    return [
        *calls,
        (ops.slice_pool, (x, SAMPLE.slices)),
        (ops.slice_pool_upsample, (x, SAMPLE.slices)),
        (ops.shuffle_attention, (x, *attention)),
        (ops.upsample_shuffle_attention, (rows, columns, size, *attention, False)),
        (ops.upsample_shuffle_attention_pooled, (rows, columns, size, *attention)),
        (ops.gradient_reversal, (x, 0.5)),
    ]


NUMBERS = (0, -1, 1, 3, 64, (1 << 20) + 1, 1 << 31, 1 << 40, 1 << 62, (1 << 63) - 1, 1 << 63, -(1 << 63))
OTHERS = (None, "two", 2.5, float("nan"), float("inf"), 1e300, True, (), (1,), (1, 2, 3), object())
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.complex64)


def _spoilt_tensor(x: Tensor, rng: np.random.Generator) -> Any:
    dim = int(rng.integers(x.dim())) if x.dim() else 0
    kinds: list[Callable[[], Any]] = [
        lambda: OTHERS[rng.integers(len(OTHERS))],
        lambda: x.to("meta"),
        lambda: x.to(DTYPES[rng.integers(len(DTYPES))]),
        lambda: x.narrow(dim, 0, 0),
        lambda: x.narrow(dim, 0, 1),
        lambda: x.unsqueeze(dim),
        lambda: x.flatten(),
        lambda: x.select(dim, 0),
        lambda: x.select(dim, 0).unsqueeze(dim).expand(_with(x.shape, dim, int(rng.choice(NUMBERS[3:9])))),
        lambda: torch.empty(_with(_with(x.shape, 0, 0), dim, int(rng.choice(NUMBERS[:9])))),
        lambda: x.to_sparse(),
        lambda: x.transpose(0, dim),
        lambda: torch.cat((x, x), dim),
    ]
    return kinds[rng.integers(len(kinds))]()


def _with(shape: tuple[int, ...], dim: int, size: int) -> tuple[int, ...]:
    return (*shape[:dim], size, *shape[dim + 1 :])


def spoilt(argument: Any, rng: np.random.Generator) -> Any:
    """Another argument in the place of this one, mostly one that fits nowhere."""
    if isinstance(argument, Tensor):
        return _spoilt_tensor(argument, rng)
    if isinstance(argument, tuple) and rng.random() < 0.8:
        place = int(rng.integers(len(argument)))
        return _with(argument, place, NUMBERS[rng.integers(len(NUMBERS))])
    return (NUMBERS + OTHERS)[rng.integers(len(NUMBERS) + len(OTHERS))]


def call_wrongly(calls: list[Call], seed: list[int]) -> str:
    """One drawn call with one or two arguments exchanged, and its gradient; the class of what it raises."""
    rng = np.random.default_rng(seed)
    function, arguments = calls[rng.integers(len(calls))]
    arguments = list(arguments)
    try:
        for place in rng.choice(len(arguments), rng.integers(1, 3), replace=False):
            arguments[place] = spoilt(arguments[place], rng)
        result = function(*(_leaf(argument) for argument in arguments))
        for output in result if isinstance(result, tuple) else (result,):
            if output.requires_grad:
                # No sum: over an expanded map that is huge, PyTorch's own would take hours.
                output.backward(output.detach().new_ones(()).expand_as(output), retain_graph=True)
    except Exception as error:
        return type(error).__name__
    return "answered"


def _leaf(argument: Any) -> Any:
    return (
        argument.detach().requires_grad_()
        if isinstance(argument, Tensor) and argument.is_floating_point()
        else argument
    )


def attack(cases: int, seed: int = 0, first: int = 0) -> tuple[Counter, list[str]]:
    """How often what was raised, and the calls that ended their process."""
    raised, ended = Counter(), []
    shared = mmap.mmap(-1, 8)  # the number of the case at hand
    index, last = first, first + cases
    while index < last:
        receiver, sender = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(receiver)
            with os.fdopen(sender, "w") as answer:
                _run(range(index, min(index + _BATCH, last)), seed, shared, answer)
            os._exit(0)
        os.close(sender)
        with os.fdopen(receiver) as answer:
            for line in answer:
                raised[line.strip()] += 1
        _, status = os.waitpid(child, 0)
        (reached,) = struct.unpack("q", shared[:])
        if status:
            ended.append(f"op_arguments, --seed {seed} --first {reached}: ended with status {status}")
        index = reached + 1
    return raised, ended


def _run(cases: range, seed: int, shared: mmap.mmap, answer) -> None:
    # What libtorch writes on standard error to every error that it passes on.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    torch.set_num_threads(1)
    calls = valid_calls()
    for index in cases:
        shared[:] = struct.pack("q", index)
        signal.alarm(_SECONDS)
        print(call_wrongly(calls, [seed, index]), file=answer, flush=True)
    signal.alarm(0)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m python_tests.soak op_arguments", description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    given = parser.parse_args(arguments)
    raised, ended = attack(given.cases, given.seed, given.first)
    print(f"{sum(raised.values())} calls: {', '.join(f'{count} {name}' for name, count in raised.most_common())}")
    print(f"{len(ended)} ended their process", *ended, sep="\n")
    return 1 if ended else 0
