"""Reading and writing of tensor files; nothing here runs code from a file."""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ..errors import InputError
from ..extras import require
from ..files import replacing
from ..text import plain


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
        raise InputError(f"{path}: not a whole safetensors file ({plain(error, 200)})") from error


class _Unused:
    """Stands for a NumPy number in a checkpoint, such as the score of its epoch: NumPy would trust what it is told."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


# NumPy 2 moved the function.
_NUMPY_NUMBERS = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype")
# What a state dict is made by, beside the types of numbers and storages. Torch allows more, with which a pickle of a
# hundred bytes takes gigabytes: bytearray, or a tensor of some size.
_MAKERS = {
    *_NUMPY_NUMBERS,
    "collections.Counter",
    "collections.OrderedDict",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch.nn.parameter.Parameter",
    "torch.Size",
    "torch.device",
    "_codecs.encode",
    "__builtin__.set",
}
_TYPES = re.compile(r"torch\.([A-Z][A-Za-z0-9]*Storage|(u?int|b?float|complex)[0-9]+|bool)")
_ARCHIVE = b"PK\x03\x04"
_LEGACY_PICKLES = 5  # of a checkpoint that is no archive, before its numbers


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The state dict in a .safetensors file or a torch checkpoint, which is read with weights_only=True.

    Of a training checkpoint the entry `state_dict_ema`, `state_dict`, `model` or `net` is taken; a prefix `module.`
    that data-parallel training left is dropped.

    Raises:
        InputError: the file is absent, broken, compressed, holds more than tensors, numbers and plain containers, or
            holds no state dict of plain tensors.
    """
    if path.suffix == ".safetensors":
        return read_safetensors(path)[0]
    _check_exists(path)
    try:
        with open(path, "rb") as file:
            content = load_pickled(file)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: damaged, or not a torch checkpoint of tensors and numbers alone ({error}); "
            "if you trust it, save its state dict as .safetensors and give that"
        ) from error
    if isinstance(content, dict):
        inner = (content[key] for key in ("state_dict_ema", "state_dict", "model", "net") if key in content)
        content = next(inner, content)
    if not isinstance(content, dict) or not all(
        isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in content.items()
    ):
        raise InputError(f"{path}: holds no state dict (names and tensors)")
    odd = next((key for key, tensor in content.items() if not _is_plain(tensor)), None)
    if odd is not None:
        raise InputError(f"{path}: tensor {plain(odd)} is sparse, quantised or without memory; save it as a plain one")
    # A tensor may be a view that repeats few numbers many times.
    if sum(tensor.numel() * tensor.element_size() for tensor in content.values()) > _most_bytes(path):
        raise InputError(f"{path}: its tensors are many times as large as the file; save their numbers in full")
    return {key.removeprefix("module."): tensor for key, tensor in content.items()}


class _Refused(ValueError):
    """Says why what torch would load is not loaded."""


def load_pickled(file: BinaryIO) -> Any:
    """What torch.save wrote, read with weights_only=True, if it takes no more memory than the file has bytes.

    Raises:
        ValueError: it is damaged or refused; the text says in a few words why.
    """
    try:
        _check_pickles(file)
        file.seek(0)
        with torch.serialization.safe_globals([(_Unused, name) for name in _NUMPY_NUMBERS]):
            return torch.load(file, map_location="cpu", weights_only=True)
    except _Refused:
        raise
    except Exception as error:  # of many kinds on foreign files; torch's text advises to load unsafely
        raise ValueError(type(error).__name__) from error


def _check_pickles(file: BinaryIO) -> None:
    """Raises _Refused for what torch would take, and errors of many kinds."""
    if file.read(len(_ARCHIVE)) == _ARCHIVE:  # as torch decides; a pickle may have an archive behind it
        with zipfile.ZipFile(file) as archive:
            parts = archive.infolist()  # each of them, where a name is there twice
            if sum(part.file_size for part in parts) > file.seek(0, io.SEEK_END):
                raise _Refused("a compressed archive, which torch.save does not write")
            pickles = [archive.read(part) for part in parts if part.filename.lower().endswith(".pkl")]
        called = set().union(*(_called(io.BytesIO(content)) for content in pickles))
    else:
        file.seek(0)
        called = set().union(*(_called(file) for _ in range(_LEGACY_PICKLES)))
    foreign = sorted(name for name in called - _MAKERS if not _TYPES.fullmatch(name))
    if foreign:
        raise _Refused(f"it calls {', '.join(map(plain, foreign[:3]))}, which was not run")


def _called(file: BinaryIO) -> set[str]:
    """The names of all that the next pickle of a file can call; in protocol 2, which torch reads, they are GLOBAL."""
    found = ((opcode.name, argument) for opcode, argument, _ in pickletools.genops(file))
    return {argument.replace(" ", ".") for name, argument in found if name == "GLOBAL"}


def _is_plain(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized


def _most_bytes(path: Path) -> int:
    """What the tensors of a file may take in memory, our choice."""
    return (64 << 20) + 8 * path.stat().st_size


def write_safetensors(path: Path, state: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write all tensors or, on any failure, leave what was at `path` as it was."""
    save = require("safetensors.torch", extra="train").save
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}
    with replacing(path) as temporary:
        # Not its save_file, whose errors are not those of the system.
        temporary.write_bytes(save(tensors, metadata))


def _check_exists(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
