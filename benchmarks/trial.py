"""One case of benchmarks/ops.py: every variant checked against float64, then timed in turns."""

import contextlib
import math
import statistics
import time
from collections.abc import Callable

import torch
from cases import BACKENDS, COMPILED, GLOBAL_POOLS, Case, Truth
from measuring import (
    PATIENCE,
    Copy,
    Step,
    addresses,
    calls_per_sample,
    empty_call,
    kept_storages,
    peak_allocation,
    quartiles,
    relative_error,
    time_step,
)

from toplight_ext import ops

ROUNDS = 11
# Relative errors that pass, of ours and of plain PyTorch. They only tell a wrong result: the library's tests demand
# more. Plain PyTorch has wide limits because the maps of FDR's embedding are constant, and the attention's norm
# multiplies the rounding of their means by 1 / sqrt(eps): in eager bfloat16 half of a gradient can be noise.
RIGHT = {
    torch.float64: (1e-9, 1e-9),
    torch.float32: (1e-4, 1e-3),
    torch.float16: (1e-2, 1.0),
    torch.bfloat16: (5e-2, 1.0),
}
KINDS = ("forward", "both")


class Variant:
    """A variant of a case: its error and memory, found at once, and its times, taken sample by sample."""

    def __init__(self, case: Case, name: str, function: Callable, truth: Truth):
        self.name, self.device = name, case.device
        self.step = Step(function, case.tensors, case.leaves(name), truth.arriving)
        self.context = (lambda: ops.use_backend(name)) if name in BACKENDS else contextlib.nullcontext
        self.times: list[tuple[float, float]] = []  # seconds of forward, of forward + backward
        with self.context():
            outputs = self.step.lay_out_gradients()
            # Compiles, or sets up the libraries of the GPU; elsewhere the slowest variants are spared a call.
            if name in COMPILED or self.device == "cuda":
                self.step.backward(outputs)
            del outputs
            with peak_allocation(self.device) as peak:
                start = time.perf_counter()
                with kept_storages() as kept:
                    outputs = self.step.forward()
                middle = time.perf_counter()
                gradients = self.step.backward(outputs)
                self.first = (middle - start, time.perf_counter() - start)
        self.error = relative_error([*outputs, *gradients], truth.exact)
        inputs, parameters = addresses(case.tensors), addresses(case.parameters)
        self.memory = {
            "peak_bytes": peak[0],
            "kept_bytes": sum(size for address, size in kept.items() if address not in inputs | parameters),
            "kept_input_bytes": sum(size for address, size in kept.items() if address in inputs),
        }

    def calibrate(self) -> None:
        """Find the number of calls and samples. Where patience ends after one call, the first was it."""
        if self.first[1] > PATIENCE:
            self.calls, self.samples, self.times = 1, 1, [self.first]
            return
        with self.context():
            self.calls, self.samples = calls_per_sample(lambda calls: time_step(self.step, self.device, calls)[1])

    def sample(self) -> None:
        if len(self.times) < self.samples:
            with self.context():
                self.times.append(time_step(self.step, self.device, self.calls))

    def row(self, copying: tuple[float, float], native: "Variant | None") -> dict:
        """`copying`: seconds of copies that move the fewest bytes of forward, and of forward + backward."""
        found = {"variant": self.name, "error": self.error, "samples": len(self.times), **self.memory}
        for kind, times, copy in zip(KINDS, zip(*self.times, strict=True), copying, strict=True):
            low, median, high = (1e6 * seconds for seconds in quartiles(list(times)))
            found |= {f"{kind}_us": median, f"{kind}_low_us": low, f"{kind}_high_us": high}
            found[f"{kind}_of_copy"] = 1e6 * copy / median
        if native:
            rounds = zip(self.times, native.times, strict=False)
            found["over_native"] = statistics.median(mine[1] / theirs[1] for mine, theirs in rounds)
        return found


def measure(case: Case, wanted: list[str]) -> list[dict]:
    """A row per variant. One that fails or is wrong has a reason instead of times."""
    torch._dynamo.reset()
    functions = {name: function for name, function in case.variants().items() if name in wanted}
    truth = case.truth("eager")
    pools = {name: case.truth(name) for name in GLOBAL_POOLS if name in functions}
    variants, rows = [], []
    ours, plain = RIGHT[case.dtype]
    for name, function in functions.items():
        if name == "triton" and case.missing(name):
            continue
        try:
            variant = Variant(case, name, function, pools.get(name, truth))
        except Exception as error:  # one variant must not end a run of many
            rows.append({"variant": name, "failure": f"{type(error).__name__}: {error}".split("\n")[0]})
            continue
        if variant.error <= (ours if name in BACKENDS else plain):
            variants.append(variant)
        else:
            rows.append({"variant": name, "failure": "wrong", "error": variant.error})
    moved, call = case.moved(truth.arriving), empty_call(case.leaves("native"), truth.arriving)
    del truth, pools
    timed, floors = in_turns(variants, moved, call, case.device)
    return [row | floors for row in timed] + rows


def in_turns(variants: list[Variant], moved: tuple[int, int], call: Step, device: str) -> tuple[list[dict], dict]:
    """Time variants, copies and an empty call, round by round: rows of the variants, and what all share."""
    forward, both = (Copy(count, device) for count in moved)
    calls, _ = calls_per_sample(lambda calls: time_step(call, device, calls)[1])
    floors = (forward.seconds, both.seconds, both.seconds_fresh, lambda: time_step(call, device, calls)[1])
    seconds = [[] for _ in floors]
    for variant in variants:
        variant.calibrate()
    for _ in range(ROUNDS):
        for variant in variants:
            variant.sample()
        for floor, found in zip(floors, seconds, strict=True):
            if sum(found) < PATIENCE:
                found.append(floor())
    of_forward, of_both, fresh, empty = (statistics.median(found) for found in seconds)
    native = next((variant for variant in variants if variant.name == "native"), None)
    rows = [variant.row((of_forward if moved[0] else math.nan, of_both), native) for variant in variants]
    shared = dict(zip((f"{kind}_bytes" for kind in KINDS), moved, strict=True))
    return rows, shared | {"copy_us": 1e6 * of_both, "fresh_copy_us": 1e6 * fresh, "call_us": 1e6 * empty}
