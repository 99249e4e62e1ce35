"""Time, memory and error, measured alike for every variant."""

import contextlib
import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

SAMPLE = 0.02  # seconds that a sample lasts at least, unless it is one call
PATIENCE = 4.0  # seconds that one variant may take in all its samples, unless that is one sample

# The profiler, which counts the allocations on a CPU, reports its start and stop on standard error otherwise.
os.environ.setdefault("KINETO_LOG_LEVEL", "6")


class Step:
    """Forward and backward of one variant: a function of tensors, the leaves, and a dense gradient that arrives."""

    def __init__(self, function: Callable, tensors: Iterable[Tensor], leaves: list[Tensor], arriving: list[Tensor]):
        self.function, self.tensors, self.leaves, self.arriving = function, tuple(tensors), leaves, arriving

    def forward(self) -> tuple[Tensor, ...]:
        outputs = self.function(*self.tensors)
        return outputs if isinstance(outputs, tuple) else (outputs,)

    def backward(self, outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The gradients of the leaves, dense: one that repeats a value in memory is written out, as the layer before
        would have to."""
        gradients = torch.autograd.grad(outputs, self.leaves, self.arriving)
        return tuple(
            torch.empty_like(leaf).copy_(grad) if 0 in grad.stride() and grad.numel() > 1 else grad
            for leaf, grad in zip(self.leaves, gradients, strict=True)
        )

    def lay_out_gradients(self) -> tuple[Tensor, ...]:
        """Give the arriving gradients the strides of the outputs, as a following layer would; return the outputs."""
        outputs = self.forward()
        self.arriving = [torch.empty_like(y).copy_(grad) for y, grad in zip(outputs, self.arriving, strict=True)]
        return outputs


def time_step(step: Step, device: str, calls: int) -> tuple[float, float]:
    """Seconds per forward, and per forward + backward, over so many calls in a row."""
    if device == "cuda":  # a mark between forward and backward would wait for the device, so each has a loop
        both = elapsed(lambda: step.backward(step.forward()), device, calls)
        return elapsed(step.forward, device, calls), both
    forward = total = 0.0
    for _ in range(calls):
        start = time.perf_counter()
        outputs = step.forward()
        middle = time.perf_counter()
        step.backward(outputs)
        total += time.perf_counter() - start
        forward += middle - start
    return forward / calls, total / calls


def elapsed(call: Callable[[], object], device: str, calls: int) -> float:
    """Seconds per call: on a GPU between two events of its stream, so that waiting for launches counts."""
    if device == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        for _ in range(calls):
            call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / calls
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls


def calls_per_sample(sample: Callable[[int], float]) -> tuple[int, int]:
    """How many calls make a sample and how many samples one may take, from `sample` (calls -> seconds per call)."""
    calls, seconds = 1, sample(1)
    while calls * seconds < SAMPLE / 2:
        calls = max(2 * calls, min(10 * calls, int(SAMPLE / 2 / seconds)))
        seconds = sample(calls)
    calls = max(1, round(SAMPLE / seconds))
    return calls, max(1, int(PATIENCE / (calls * seconds)))


def quartiles(values: list[float]) -> tuple[float, float, float]:
    return tuple(statistics.quantiles(values, n=4, method="inclusive")) if len(values) > 1 else (values[0],) * 3


@contextlib.contextmanager
def peak_allocation(device: str) -> Iterator[list[int]]:
    """Bytes of tensors and scratch at their most, above what was there before; appended to the list at the end.

    What PyTorch's allocators hand out, rounded by them. On a CPU the profiler's record of every allocation is added
    up; memory that a library takes past PyTorch's allocator is not seen.
    """
    found = []
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield found
        found.append(torch.cuda.max_memory_allocated() - before)
        return
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        yield found
    events = (event for event in profile.kineto_results.events() if event.name() == "[memory]")
    sizes = (event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    found.append(max(itertools.accumulate(sizes), default=0))


@contextlib.contextmanager
def kept_storages() -> Iterator[dict[int, int]]:
    """Address -> bytes of every storage that a forward in the context keeps for its backward."""
    kept = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def addresses(tensors: Iterable[Tensor]) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


def relative_error(given: Iterable[Tensor], exact: list[Tensor]) -> float:
    """The largest |given - exact| / |exact| of all tensors, in the 2-norm; not a number if any value is none.

    A tensor that is zero but for rounding is seen beside the largest one: FDR's embedding, for one, gives maps
    constant along an axis, on which the weight of the attention's norm has no gradient.
    """
    norms = [tensor.norm().item() for tensor in exact]
    scales = [norm if norm > 1e-12 * max(norms) else max(*norms, 1e-300) for norm in norms]
    errors = [_distance(a.detach(), b) / scale for a, b, scale in zip(given, exact, scales, strict=True)]
    return max(errors, key=lambda error: (error != error, error))


def _distance(given: Tensor, exact: Tensor) -> float:
    """2-norm of the difference in float64, part by part: fresh memory for all of a map takes longer than the sum."""
    rows = max(1, (1 << 18) * len(given) // given.numel())
    parts = zip(given.split(rows), exact.split(rows), strict=True)
    return torch.stack([torch.linalg.vector_norm(a.to(b.dtype, copy=True).sub_(b)) for a, b in parts]).norm().item()


def empty_call(leaves: list[Tensor], arriving: list[Tensor]) -> Step:
    """An autograd.Function with these inputs and outputs that computes nothing: what PyTorch takes for a call."""

    class Empty(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *inputs):
            ctx.save_for_backward(*inputs)
            return tuple(map(torch.empty_like, arriving))

        @staticmethod
        def backward(ctx, *grads):
            return tuple(map(torch.empty_like, ctx.saved_tensors))

    return Step(Empty.apply, leaves, leaves, arriving)


class Copy:
    """A copy between two buffers that moves (reads plus writes) so many bytes, and one into fresh memory."""

    def __init__(self, moved: int, device: str):
        self.device = device
        self.source = torch.ones(max(1, moved // 8), device=device)
        self.target = torch.empty_like(self.source)
        self.moved = 2 * self.source.nbytes
        self.calls, self.samples = calls_per_sample(self.seconds)

    def seconds(self, calls: int | None = None) -> float:
        return elapsed(lambda: self.target.copy_(self.source), self.device, calls or self.calls)

    def seconds_fresh(self) -> float:
        """As `seconds`, the target allocated each time, as an op has to allocate its output."""
        return elapsed(self.source.clone, self.device, self.calls)

    @classmethod
    def bandwidth(cls, device: str) -> float:
        """Bytes per second of a copy far larger than any cache: 4 GiB moved on a GPU, 1 GiB on a CPU."""
        copy = cls(1 << (32 if device == "cuda" else 30), device)
        return copy.moved / statistics.median(copy.seconds() for _ in range(5))
