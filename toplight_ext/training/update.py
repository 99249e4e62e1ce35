"""One optimiser step, in which the host never waits for the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from .processes import world_size

Objective = Callable[[Sequence[Tensor], Sequence[Tensor]], dict[str, Tensor]]


class Update:
    """From images and labels to new weights.

    A step whose loss or gradient is not finite leaves weights and optimiser as they were: the device knows it, the
    host reads it later. With float16 a gradient that overflows is no error; the scale of the loss then falls.

    Attributes:
        names: of the loss terms, once a step was taken.
    """

    def __init__(
        self,
        objective: Objective,
        optimiser: torch.optim.Optimizer,
        precision: str,
        device: torch.device,
        clip_norm: float | None,
        graphed: bool = False,
    ):
        self.names: tuple[str, ...] = ()
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "float16")
        self._objective, self._optimiser, self._clip_norm = objective, optimiser, clip_norm
        self._parameters = [p for group in optimiser.param_groups for p in group["params"]]
        half = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]
        # A graph keeps what autocast computed; its cache of weights would be of the step that was recorded.
        self._autocast = torch.autocast(device.type, half, enabled=half is not None, cache_enabled=not graphed)

    def __call__(self, images: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor:
        """One step; returns float32 (2 + terms,): whether it was not taken for an error (1 or 0), loss, terms."""
        with self._autocast:
            terms = self._objective(images, labels)
        self.names = tuple(terms)
        values = torch.stack([term.float() for term in terms.values()])
        loss = values.sum()
        self._optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self._optimiser)
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = get_total_norm(gradients)
        if self._clip_norm is not None:
            clip_grads_with_norm_(self._parameters, self._clip_norm, norm)
        values, failed = values.detach(), ~loss.detach().isfinite()
        if not self.scaler.is_enabled():
            failed |= ~norm.isfinite()
            # What a GradScaler sets: fused optimisers leave everything as it was where this is 1.
            self._optimiser.grad_scale, self._optimiser.found_inf = None, failed.float()
        self.scaler.step(self._optimiser)
        self.scaler.update()
        return torch.cat((torch.stack((failed.float(), loss.detach())), values))


class GraphedUpdate:
    """The same step recorded once as a CUDA graph and replayed, which spares the host all launches.

    The first steps are taken as they are, on a stream of their own, so that everything that is made once is there
    when the graph is recorded. All batches have the shapes of the first.
    """

    _STEPS_BEFORE = 3

    def __init__(self, update: Update):
        self._update = update
        self._taken = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, images: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor:
        if self._graph is None and self._taken < self._STEPS_BEFORE:
            self._taken += 1
            return self._beside(images, labels)
        if self._graph is None:
            self._images, self._labels = [x.clone() for x in images], [y.clone() for y in labels]
            self._graph = torch.cuda.CUDAGraph()
            # Records, and computes nothing. The image pipeline's threads go on, and may allocate meanwhile.
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._record = self._update(self._images, self._labels)
        for kept, given in zip([*self._images, *self._labels], [*images, *labels], strict=True):
            kept.copy_(given, non_blocking=True)
        self._graph.replay()
        return self._record.clone()

    def _beside(self, images: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            record = self._update(images, labels)
        torch.cuda.current_stream().wait_stream(stream)
        return record


def agreed(record: Tensor, stop: bool) -> Tensor:
    """The record with, behind it, whether any process was asked to stop; the largest of all processes'."""
    record = torch.cat((record, record.new_full((1,), float(stop))))
    if world_size() > 1:
        dist.all_reduce(record, dist.ReduceOp.MAX)
    return record
