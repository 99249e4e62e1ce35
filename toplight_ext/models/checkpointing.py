"""Gradient checkpointing of blocks whose BatchNorms must not see the recomputation."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def recomputed(blocks: Iterable[nn.Module], x: Tensor) -> Tensor:
    """Run the blocks one after the other, keeping for the backward pass only what goes in and out of each.

    The backward pass computes the rest again: the same gradients, random numbers and running statistics as
    without, to the bit.
    """
    for block in blocks:
        if torch.compiler.is_compiling():  # compiled, statistics are written once by themselves
            x = checkpoint(block, x, use_reentrant=False)
        else:
            contexts = lambda block=block: (contextlib.nullcontext(), _statistics_kept(block))  # noqa: E731
            x = checkpoint(block, x, use_reentrant=False, context_fn=contexts)
    return x


@contextlib.contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Inside, BatchNorms normalise as ever and leave their running statistics and counts as they are."""
    norms = [layer for layer in block.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, batches
