"""Gradient reversal as a module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import ops


class GradientReversal(nn.Module):
    """The identity forward, -lambd times the gradient backward (Ganin and Lempitsky, 2015).

    `lambd` is a tensor, so that a schedule (`module.lambd.fill_(0.3)`) changes it without a new compilation.
    It is a function of the training step and not part of the state dict.
    """

    lambd: Tensor

    def __init__(self, lambd: float = 1.0):
        super().__init__()
        self.register_buffer("lambd", torch.tensor(float(lambd)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return ops.gradient_reversal(x, self.lambd)
