"""The ops beside their references on drawn inputs: any size, layout, offset, type, value that is a number or none."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from toplight_ext import ops
from toplight_ext.op_cases import (
    CASES,
    GRADIENT_LAYOUTS,
    TOLERANCE,
    Case,
    Sample,
    draw_gradients,
    error,
    errors,
    lay_out,
    results_for,
    run,
)

HALF = (torch.bfloat16, torch.float16)
# Of half precision one rounding of the result.
ALLOWED = TOLERANCE | {dtype: torch.finfo(dtype).eps / 2 for dtype in HALF}
VALUES = ("plain", "constant", "scaled up", "subnormal", "not finite")


class Draw(NamedTuple):
    """One drawn case; the inputs follow from `seed`."""

    sample: Sample
    dtype: torch.dtype
    layout: str  # of GRADIENT_LAYOUTS, or "free"
    gradient_layout: str
    values: str  # of VALUES
    seed: int
    threads: int


def draw_case(seed: list[int]) -> Draw:
    rng = np.random.default_rng(seed)
    large = rng.random() < 0.05
    groups, half = rng.integers(1, 6), rng.integers(1, 40 if large else 12)
    side = 90 if large else 20
    batch, height, width = rng.integers(0, 4), rng.integers(1, side), rng.integers(1, side)
    layouts = [*GRADIENT_LAYOUTS, *["free"] * len(GRADIENT_LAYOUTS)]
    return Draw(
        Sample(
            tuple(int(n) for n in (batch, 2 * groups * half, height, width)),
            tuple(int(n) for n in rng.integers(1, 30, 2)),
            int(groups),
            eps=1e-2,
        ),
        [torch.float32, torch.float64, *HALF][rng.choice(4, p=(0.4, 0.2, 0.2, 0.2))],
        str(rng.choice(layouts)),
        str(rng.choice(layouts)),
        str(rng.choice(VALUES, p=(0.6, 0.1, 0.1, 0.1, 0.1))),
        int(rng.integers(2**31)),
        int(rng.choice((1, 2), p=(0.97, 0.03))),  # threads that wait for others cost most of the time
    )


def lay_freely(x: Tensor, rng: np.random.Generator) -> Tensor:
    """`x` with its dimensions in any order in memory, gaps between them and an offset that breaks alignment.

    One time in four a dimension is repeated, or two dimensions overlap: then the values are others.
    """
    strides, end = [0] * x.dim(), 1
    for dim in rng.permutation(x.dim()):
        strides[dim] = end * int(rng.choice((1, 1, 1, 2, 3)))
        end = strides[dim] * max(1, x.shape[dim]) + int(rng.integers(0, 3))
    offset, kind = int(rng.integers(0, 5)), rng.random()
    # What lies between is NaN, so that reading it shows.
    memory = x.new_full((offset + end,), float("nan"))
    view = memory.as_strided(x.shape, strides, offset)
    view.copy_(x)
    if kind < 0.125:
        strides[rng.integers(x.dim())] = 0
        return memory.as_strided(x.shape, strides, offset)
    if kind < 0.25 and x.numel():
        memory.copy_(x.flatten().repeat(-(-len(memory) // x.numel()))[: len(memory)])
        return memory.as_strided(x.shape, [1 if stride else 0 for stride in strides], offset)
    return view


# Quiet and signalling, with a payload as a file can have it.
NANS = (0x7FC00000, 0x7FC00001, 0xFFFFFFFF, 0x7F800001)


class Spoilt(NamedTuple):
    """Places of one of the inputs and gradients that are to hold a value."""

    tensor: int
    places: Tensor  # (N,) indices of the flattened tensor
    value: Tensor  # one, float32

    def put(self, tensors: list[Tensor], value: float | Tensor) -> None:
        if tensors[self.tensor].numel():
            tensors[self.tensor].view(-1)[self.places] = torch.as_tensor(value).to(tensors[self.tensor].dtype)


def draw_spoilt(tensors: list[Tensor], rng: np.random.Generator) -> Spoilt:
    tensor = int(rng.integers(len(tensors)))
    places = rng.integers(0, max(1, tensors[tensor].numel()), rng.integers(1, 4))
    bits = np.array(rng.choice(NANS), np.uint32).view(np.float32)[()]
    value = torch.from_numpy(np.array([np.inf, -np.inf, bits, bits], np.float32))[int(rng.integers(4))]
    return Spoilt(tensor, torch.from_numpy(places), value)


def smallest(dtype: torch.dtype) -> float:
    """The least number above zero, and the distance of subnormal numbers."""
    return torch.finfo(dtype).tiny * torch.finfo(dtype).eps


def inputs_of(case: Case, draw: Draw, instead: float | None = None) -> tuple[list[Tensor], list[Tensor], Spoilt]:
    """Inputs, which require gradients, and gradients of the outputs, all as they are to lie, and what is spoilt.

    `instead`: what stands in the spoilt places.
    """
    rng = np.random.default_rng(draw.seed)
    inputs = case.inputs(draw.sample, draw.dtype, draw.seed)
    gradients = draw_gradients(case, draw.sample, draw.dtype, "cpu", draw.seed + 1)
    for x in inputs[:-6] or inputs:  # the last six are parameters
        if draw.values == "constant" and x.numel():
            x.copy_(x.flatten(2)[..., :1].reshape(*x.shape[:2], *[1] * (x.dim() - 2)).expand(x.shape))
        elif draw.values == "scaled up":
            x.mul_(1000)
        elif draw.values == "subnormal":
            x.mul_(64 * smallest(draw.dtype))
    spoilt = draw_spoilt([*inputs, *gradients], rng)
    if draw.values == "not finite":
        spoilt.put([*inputs, *gradients], spoilt.value if instead is None else instead)

    def lie(x: Tensor, layout: str) -> Tensor:
        return lay_freely(x, rng) if layout == "free" else lay_out(x, layout)

    return (
        [lie(x, draw.layout).detach().requires_grad_() for x in inputs],
        [lie(g, draw.gradient_layout) for g in gradients],
        spoilt,
    )


def problems(case: Case, draw: Draw) -> Iterator[str]:
    """What the op gets wrong on the draw."""
    inputs, gradients, spoilt = inputs_of(case, draw)
    torch.set_num_threads(draw.threads)
    results = results_for(case, draw.sample, inputs, gradients)
    names = [f"output {i}" for i in range(len(results[0][0]))]
    names += ["all gradients", *(f"gradient {i}" for i in range(len(inputs)))]
    for given, expected in zip(sum(results[0], ()), sum(results[2], ()), strict=True):
        if given.dtype != draw.dtype or given.shape != expected.shape:
            yield f"{given.dtype} {tuple(given.shape)} for {draw.dtype} {tuple(expected.shape)}"
            return
    if draw.values == "not finite":
        yield from _problems_of_spoilt(case, draw, spoilt, results)
        return
    if draw.dtype == torch.float16 and draw.values == "scaled up":
        results = [tuple(tuple(x.detach().clone() for x in part) for part in result) for result in results]
        yield from _problems_of_overflow(results)
    # Rounding grows with what is added up.
    allowed = ALLOWED[draw.dtype] * (1000 if draw.values == "scaled up" else 1)
    zeros = _zeros(results, allowed) if draw.dtype == torch.float64 else ()
    for name, (found, most) in zip(names, errors(results, allowed), strict=True):
        if not found <= most and name not in zeros:
            yield f"{name} errs by {found:.3g}, at most {most:.3g} allowed"
    if draw.values == "subnormal":
        for given, eager, expected in zip(*(part[0] for part in results), strict=True):
            found, most = (_steps_apart(y, expected, draw.dtype) for y in (given, eager))
            if not found <= max(2 * most, 4):  # mean, slice, interpolation and result each round by half a step
                yield f"a subnormal output errs by {found:.3g} of the smallest number, eager by {most:.3g}"


def _zeros(results, allowed: float) -> set[str]:
    """Gradients that are 0 but for the rounding of the reference, which in float64 is no better than ours.

    Those of planes that do not vary. Both have to be as near to 0 as the gradients together may err.
    """
    given, _, expected = (gradients for _, gradients in results)
    scale = torch.cat([gradient.flatten() for gradient in expected]).norm()
    pairs = enumerate(zip(given, expected, strict=True))
    return {f"gradient {i}" for i, pair in pairs if all(g.norm() <= min(allowed, 1e-9) * scale for g in pair)}


def _steps_apart(given: Tensor, expected: Tensor, dtype: torch.dtype) -> float:
    """The largest difference, in smallest numbers of the type."""
    if not given.numel():
        return 0.0
    return ((given.double() - expected).abs().max() / smallest(dtype)).item()


def _problems_of_overflow(results) -> Iterator[str]:
    """What is too large for half precision is infinite, with its sign; then it is set to zero, in eager's too."""
    largest = torch.finfo(torch.float16).max
    for part, (given, eager, expected) in enumerate(
        zip(*(outputs + gradients for outputs, gradients in results), strict=True)
    ):
        beyond = expected.abs() > 0.99 * largest
        if not (given * expected.sign() > 0.98 * largest)[beyond].all():
            yield f"result {part} is {given[beyond]} for {expected[beyond]}"
        for tensor in (given, eager, expected):
            tensor[beyond] = 0


def _problems_of_spoilt(case: Case, draw: Draw, spoilt: Spoilt, results) -> Iterator[str]:
    """NaN and infinity show in all that depends on them, and in nothing else.

    What depends on them is what changes with another number in their place.
    """

    def with_instead(value: float) -> list[Tensor]:
        inputs, gradients, _ = inputs_of(case, draw, value)
        inputs = [x.detach().double().requires_grad_() for x in inputs]
        return sum(run(ops.reference, case, draw.sample, inputs, [g.double() for g in gradients]), ())

    alternatives = with_instead(1.0), with_instead(2.0), with_instead(float("nan"))
    tensors = zip(sum(results[0], ()), sum(results[2], ()), *alternatives, strict=True)
    for part, (given, expected, one, two, nan) in enumerate(tensors):
        finite, reached = given.isfinite(), nan.isnan()
        depends = (one - two).abs() > 1e-9 * one.norm()  # less is rounding
        if given.dim() > 2:  # a neighbour of weight 0 may or may not come in
            reached = reached.flatten(2).any(2).reshape(*given.shape[:2], *[1] * (given.dim() - 2))
        if (~finite & ~reached).any():
            yield f"result {part} is not finite where nothing is that it is made of"
        if spoilt.value.isnan() and (finite & depends).any():
            yield f"result {part} is finite where NaN goes into it"
        # With infinity the order of the steps decides what is NaN: right is what is no NaN, and what it makes of a
        # number that is zero but for rounding.
        untouched = ~depends & (~reached if spoilt.value.isinf() else True)
        for places, right in ((finite & untouched, one), (finite & depends & expected.isfinite(), expected)):
            found = error(given[places], right[places])
            if not found <= 100 * ALLOWED[draw.dtype]:
                yield f"result {part} errs by {found:.3g} where it is finite"


@contextlib.contextmanager
def unwritten_memory_is_nan() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(threads)


def attack(name: str, cases: int, seed: int = 0, first: int = 0) -> list[str]:
    """What is wrong with the op on so many drawn cases, each line with how to repeat it."""
    case, found = CASES[name], []
    number = list(CASES).index(name)
    with unwritten_memory_is_nan(), ops.use_backend("native"):
        for index in range(first, first + cases):
            draw = draw_case([seed, number, index])
            for problem in problems(case, draw):
                found.append(f"{name}, --seed {seed} --first {index}: {problem}; {draw}")
    return found


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m python_tests.soak ops", description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000, help="of each op")
    parser.add_argument("--op", choices=CASES, action="append", help="only this one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    given = parser.parse_args(arguments)
    wrong = 0
    for name in given.op or CASES:
        start = time.monotonic()
        found = attack(name, given.cases, given.seed, given.first)
        wrong += len(found)
        print(f"{name}: {given.cases} cases in {time.monotonic() - start:.0f} s, {len(found)} wrong", flush=True)
        print(*found[:20], sep="\n", end="\n" if found else "", flush=True)
    return 1 if wrong else 0
