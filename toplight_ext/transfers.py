"""Copies between host and device that the host does not wait for, nor for anything that the device still has to do."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on a device; to a GPU from pinned memory, as a copy from other memory is waited for."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


class HostCopy:
    """A tensor on its way to the host. Reading it waits for what it depends on, not for what came after it."""

    def __init__(self, tensor: Tensor):
        self._values, self._arrived = tensor, None
        if tensor.is_cuda:
            self._values = torch.empty_like(tensor, device="cpu", pin_memory=True)
            self._values.copy_(tensor, non_blocking=True)
            self._arrived = torch.cuda.current_stream(tensor.device).record_event()

    def tolist(self) -> list:
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._values.tolist()
