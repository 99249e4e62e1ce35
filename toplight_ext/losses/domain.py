"""L_fd of TOP: early features tell their path, final features must not."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

Module = Callable[[Tensor], Tensor]


def feature_domain(
    path_maps: Sequence[Tensor],
    final_maps: Sequence[Tensor],
    path_head: Module,
    final_head: Module,
    reverse: Module,
) -> Tensor:
    """L_fd = sum over k of CE(path_head(GAP(x_k)), d_k) + CE(final_head(GRL(GAP(xh_k))), d_k).

    d_k is 0 for the visible path, 1 for the infrared one. The gradient is reversed after pooling, which
    equals reversing the map's and costs nothing. Cross entropy and the equal weights are our choice.

    Args:
        path_maps: (x_1, x_2), each (B_k, C, H, W), after the duplicated blocks of the path.
        final_maps: (xh_1, xh_2), each (B_k, C', H', W'), after Block7.
        path_head, final_head: pooled (B, channels) -> domain logits (B, 2), one for each place.
        reverse: gradient reversal, `toplight_ext.GradientReversal`.
    """
    early = (_domain_error(path_head(x.mean((2, 3))), domain) for domain, x in enumerate(path_maps))
    late = (_domain_error(final_head(reverse(x.mean((2, 3)))), domain) for domain, x in enumerate(final_maps))
    return sum(early) + sum(late)


def _domain_error(logits: Tensor, domain: int) -> Tensor:
    return F.cross_entropy(logits, torch.full((len(logits),), domain, device=logits.device))
