"""Reading and writing of tensor files; nothing here runs code from a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..extras import require
from ..files import replacing


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a safetensors file, on the CPU, and its metadata.

    Raises:
        InputError: the file is absent or not a whole safetensors file.
    """
    safetensors = require("safetensors", extra="train")
    _check_exists(path)
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise InputError(f"{path}: not a whole safetensors file ({error})") from error


# What a NumPy number in a checkpoint, such as the score of its epoch, is made by; NumPy 2 moved the function.
_scalar = np.float64(0).__reduce__()[0]
_NUMPY_NUMBERS = [
    (_scalar, "numpy.core.multiarray.scalar"),
    (_scalar, "numpy._core.multiarray.scalar"),
    np.dtype,
    type(np.dtype(np.float64)),
    type(np.dtype(np.float32)),
]


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The state dict in a .safetensors file or a torch checkpoint, which is read with weights_only=True.

    Of a training checkpoint the entry `state_dict_ema`, `state_dict`, `model` or `net` is taken; a prefix `module.`
    that data-parallel training left is dropped.

    Raises:
        InputError: the file is absent, broken, holds more than tensors, numbers and plain containers, or holds
            no state dict.
    """
    if path.suffix == ".safetensors":
        return read_safetensors(path)[0]
    _check_exists(path)
    try:
        with torch.serialization.safe_globals(_NUMPY_NUMBERS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds on foreign files; its text advises to load unsafely
        raise InputError(
            f"{path}: damaged, or not a torch checkpoint of tensors and numbers alone ({type(error).__name__}); "
            "if you trust it, save its state dict as .safetensors and give that"
        ) from error
    if isinstance(content, dict):
        inner = (content[key] for key in ("state_dict_ema", "state_dict", "model", "net") if key in content)
        content = next(inner, content)
    if not isinstance(content, dict) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise InputError(f"{path}: holds no state dict (names and tensors)")
    return {key.removeprefix("module."): tensor for key, tensor in content.items()}


def write_safetensors(path: Path, state: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write all tensors or, on any failure, leave what was at `path` as it was."""
    save_file = require("safetensors.torch", extra="train").save_file
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}
    with replacing(path) as temporary:
        save_file(tensors, str(temporary), metadata=metadata)


def _check_exists(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
