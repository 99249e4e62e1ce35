"""Several processes on one batch: what they exchange, so that the result is that of one process.

Every process computes the losses of the whole batch from its own part's activations and the others'. With L the
loss, backward passes here give the gradient of the sum over processes, which is world * L, as the collectives of
torch do; DistributedDataParallel's mean over the processes then makes it that of L.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
import warnings
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch import distributed as dist

from ..extras import require
from ..inference import pick_device

_TIMEOUT = datetime.timedelta(minutes=30)  # of a wait, which may be for the first process's evaluation


def rank() -> int:
    """The number of this process, 0 for the only one."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this process is the one that reports, which it is also where the group has ended."""
    return int(os.environ.get("RANK", "0")) == 0


def wait_for_all() -> None:
    if dist.is_initialized():
        dist.barrier()


@contextlib.contextmanager
def joined(device_name: str) -> Iterator[torch.device]:
    """Inside, the processes that `torchrun` started are one group; yields this one's device.

    They may be one already, as in an ablation.
    """
    device = pick_device(device_name)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    if dist.is_initialized():
        yield device
        return
    # Weights of 1x1 convolutions are channels_last in name only; their gradients are copied as they are.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_TIMEOUT)
    yield device
    dist.destroy_process_group()  # not after an error: it would wait for a process that is gone


class Whole(nn.Module):
    """From a process's part of a batch to the whole batch, gradients included.

    Args:
        counts: rows of each process, in order.
    """

    def __init__(self, counts: Sequence[int]):
        super().__init__()
        self.counts = tuple(counts)

    def forward(self, part: Tensor) -> Tensor:
        """(B_rank, ...) -> (B, ...), the parts of all processes one after the other."""
        return part if len(self.counts) == 1 else _Gather.apply(part, self.counts)


class _Gather(torch.autograd.Function):
    """Every process has the same gradient of the whole, so the sum over processes needs no exchange."""

    @staticmethod
    def forward(ctx, part: Tensor, counts: tuple[int, ...]) -> Tensor:
        me = rank()
        ctx.first, ctx.count, ctx.world = sum(counts[:me]), counts[me], len(counts)
        # Padded to equal lengths, which collectives of gloo need.
        padded = part.new_zeros((max(counts), *part.shape[1:]))
        padded[: len(part)] = part
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([rows[:count] for rows, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.world * gradient[ctx.first : ctx.first + ctx.count], None


class _SumOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


def synchronise_norms(module: nn.Module, device: torch.device) -> nn.Module:
    """Let every BatchNorm take its statistics over all processes; parameters, buffers and their names stay."""
    if device.type == "cuda":  # torch's own, which has no CPU version; by timm, which knows its norms with activation
        return require("timm.layers", extra="train").convert_sync_batchnorm(module)
    for norm in module.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.__class__ = _synchronised(type(norm))
    return module


@functools.cache
def _synchronised(norm: type[nn.Module]) -> type[nn.Module]:
    return type(norm.__name__, (_Synchronised, norm), {})


class _Synchronised(nn.Module):
    """Mixed into a BatchNorm: the statistics of a training step are those of the whole batch."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        y = self._normalised(x)
        return self.act(self.drop(y)) if hasattr(self, "act") else y  # timm's norms with activation

    def _normalised(self, x: Tensor) -> Tensor:
        axes = [axis for axis in range(x.ndim) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(x.ndim)]
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        own = wide.new_full((1,), x.numel() / x.shape[1])
        sums = _SumOverProcesses.apply(torch.cat((wide.sum(axes), own)))
        count, mean = sums[-1].detach(), sums[:-1] / sums[-1]
        # About the mean, in a second exchange: a difference of large sums would lose the variance.
        apart = wide - mean.view(shape)
        variance = _SumOverProcesses.apply(apart.square().sum(axes)) / count
        self._track(mean.detach(), variance.detach() * count / (count - 1))
        scale = (variance + self.eps).rsqrt() * self.weight
        return (apart * scale.view(shape) + self.bias.view(shape)).to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
