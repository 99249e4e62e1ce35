"""What moves the weights: optimisers, learning rates, and the moving average of the weights."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..models import DualPathNetwork
from .recipe import Optimiser


def build_optimiser(
    trained: nn.Module, model: DualPathNetwork, settings: Optimiser, graphed: bool = False
) -> torch.optim.Optimizer:
    """AdamW or SGD with Nesterov momentum, in one fused kernel; vectors (biases, norm parameters) are not decayed.

    Args:
        trained: all that is trained; `model` is the network in it, whose blocks are the backbone.
        graphed: whether a CUDA graph will hold the step, which then reads each group's rate from the device.
    """
    blocks = {id(p) for part in (model.visible, model.infrared, model.shared) for p in part.parameters()}
    groups = []
    for factor, backbone in ((settings.backbone_factor, True), (1.0, False)):
        parameters = [p for p in trained.parameters() if p.requires_grad and (id(p) in blocks) == backbone]
        matrices = [p for p in parameters if p.squeeze().ndim > 1]
        vectors = [p for p in parameters if p.squeeze().ndim <= 1]
        groups += [
            {"params": matrices, "weight_decay": settings.weight_decay, "factor": factor},
            {"params": vectors, "weight_decay": 0.0, "factor": factor},
        ]
    groups = [group for group in groups if group["params"]]
    for group in groups:
        rate = settings.learning_rate * group["factor"]
        group["lr"] = torch.tensor(rate, device=group["params"][0].device) if graphed else rate
    if settings.name == "adamw":
        optimiser = torch.optim.AdamW(groups, fused=True, capturable=graphed)
    else:
        optimiser = torch.optim.SGD(groups, momentum=settings.momentum, nesterov=True, fused=True)
        # Made here: a first step that is skipped because it is not finite would leave them uninitialised.
        for group in groups:
            for parameter in group["params"]:
                optimiser.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    if graphed:
        _keep_rates(optimiser)
    return optimiser


def _keep_rates(optimiser: torch.optim.Optimizer) -> None:
    """Let the tensors of the rates outlive `load_state_dict`, which would put the checkpoint's in their place."""
    rates = [group["lr"] for group in optimiser.param_groups]

    def put_back(loaded: torch.optim.Optimizer) -> None:
        for group, rate in zip(loaded.param_groups, rates, strict=True):
            group["lr"] = rate.fill_(group["lr"])

    optimiser.register_load_state_dict_post_hook(put_back)


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its part of the rate."""
    for group in optimiser.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate * group["factor"])
        else:
            group["lr"] = rate * group["factor"]


def learning_rate(settings: Optimiser, step: int, steps_per_epoch: int, steps: int) -> float:
    """Linear warm-up over `warmup_epochs`, then the schedule; a function of the step alone."""
    warmup = settings.warmup_epochs * steps_per_epoch
    if step < warmup:
        return settings.learning_rate * (step + 1) / (warmup + 1)
    if settings.schedule == "step":
        passed = sum(step >= milestone * steps_per_epoch for milestone in settings.milestones)
        return settings.learning_rate * 0.1**passed
    return settings.learning_rate * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1))) / 2


class Average:
    """Exponential moving average of a network's weights and BatchNorm statistics.

    After step k (from 0) the average moves by 1 - min(decay, (1 + k) / (10 + k)) towards the network: quickly at
    first, when there is little to remember (the rule of TensorFlow's ExponentialMovingAverage).
    """

    def __init__(self, model: nn.Module, decay: float):
        self._decay = decay
        self._live = [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]
        self.values = [tensor.clone() for tensor in self._live]

    @torch.no_grad()
    def update(self, step: int) -> None:
        torch._foreach_lerp_(self.values, self._live, 1 - min(self._decay, (1 + step) / (10 + step)))

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Inside, the network holds the average."""
        self.exchange()
        try:
            yield
        finally:
            self.exchange()

    def exchange(self) -> None:
        """The network takes the average's values, and the average the network's."""
        for live, value in zip(self._live, self.values, strict=True):
            kept = live.clone()
            live.copy_(value)
            value.copy_(kept)

    def load(self, values: list[Tensor]) -> None:
        for own, value in zip(self.values, values, strict=True):
            own.copy_(value)
