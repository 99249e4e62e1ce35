"""Which code runs an op: the compiled kernels ("native"), Triton, or plain PyTorch ("reference").

"native" and "triton" are both dispatcher kernels of the same torch op, so choosing one costs nothing per call and
holds inside compiled graphs and on the backward thread. "reference" is chosen by the public functions, which then
trace into plain PyTorch; it is what transforms of torch.func and forward-mode differentiation see in any case. The
choice is one for the process, as the dispatcher is.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import torch

from toplight_ext import _library

from ._registration import is_transformed

NAMES = ("reference", "native", "triton")

# Public op -> the torch ops it is made of.
OPS = {
    "slice_pool": ("slice_pool", "slice_pool_backward"),
    "slice_pool_upsample": ("slice_pool_upsample", "slice_pool_upsample_backward"),
    "shuffle_attention": ("shuffle_attention", "shuffle_attention_backward"),
    "upsample_shuffle_attention": ("upsample_shuffle_attention", "upsample_shuffle_attention_backward"),
    "upsample_shuffle_attention_pooled": (
        "upsample_shuffle_attention_pooled",
        "upsample_shuffle_attention_pooled_backward",
    ),
    "gradient_reversal": ("gradient_reversal_backward",),
}
_KEYS = {"cpu": "CPU", "cuda": "CUDA"}


class Backend(NamedTuple):
    """What runs an op on a device (None: nothing, calling it raises), and why."""

    backend: str | None
    reason: str


Table = dict[str, dict[str, Backend]]


def _native_reason(op: str, device: str) -> str | None:
    """Why there is no compiled kernel; None if there is one."""
    library = _library.cpu if device == "cpu" else _library.cuda
    if not library.loaded:
        return library.error
    if device == "cuda" and _too_old:
        return _too_old
    if op not in _NATIVE[device]:
        return f"{library.path.name} has no {op}"
    return None


def _triton_reason(op: str, device: str) -> str | None:
    """Why Triton cannot run the op; None if it can."""
    if not _library.cpu.loaded:
        return _library.cpu.error
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if importlib.util.find_spec(f"toplight_ext.kernels.{op}") is None:
        return f"there is no Triton kernel for {op}"
    if device == "cuda":
        return None if torch.version.cuda else f"torch {torch.__version__} is built without CUDA"
    return None if _interpreted() else "Triton runs on CUDA, or on the CPU with TRITON_INTERPRET=1"


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def _compiled(device: str) -> frozenset[str]:
    """Ops whose torch ops all have a compiled kernel. Asked before anything of ours is registered from Python."""
    if not _library.cpu.loaded:
        return frozenset()
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    return frozenset(
        op for op, parts in OPS.items() if all(has_kernel(f"toplight_ext::{part}", _KEYS[device]) for part in parts)
    )


def _register_triton(op: str, device: str) -> torch.library.Library:
    """Make Triton the kernel of the op on the device for as long as the returned library lives."""
    library = torch.library.Library("toplight_ext", "IMPL")
    for part in OPS[op]:
        library.impl(part, _triton_kernel(op, part), _KEYS[device], allow_override=True)
    return library


def _triton_kernel(op: str, part: str):
    """The Triton function, imported when it first runs: importing triton takes longer than importing us."""

    def kernel(*arguments):
        return getattr(importlib.import_module(f"toplight_ext.kernels.{op}"), part)(*arguments)

    return kernel


_NATIVE = {device: _compiled(device) for device in _KEYS}


def _choose(op: str, device: str, name: str | None) -> Backend:
    """What runs the op on the device if the user asked for `name`, or for nothing."""
    if name == "reference":
        return Backend("reference", "chosen by use_backend")
    native, triton = _native_reason(op, device), _triton_reason(op, device)
    if name is not None:
        missing = native if name == "native" else triton
        return Backend(None, missing) if missing else Backend(name, "chosen by use_backend")
    if native is None:
        library = _library.cpu if device == "cpu" else _library.cuda
        return Backend("native", f"compiled kernel of {library.path.name}")
    # The interpreter is for tests: it is never taken unasked.
    if triton is None and device == "cuda":
        return Backend("triton", f"no compiled kernel: {native}")
    return Backend("reference", native)


def _table(name: str | None) -> Table:
    return {op: {device: _choose(op, device, name) for device in _KEYS} for op in OPS}


def _register_all_triton(table: Table) -> list[torch.library.Library]:
    return [
        _register_triton(op, device)
        for op, devices in table.items()
        for device, chosen in devices.items()
        if chosen.backend == "triton"
    ]


_too_old: str | None = None  # why a GPU that was met cannot run what the library was compiled for
_chosen: str | None = None
_active = _DEFAULT = _table(None)
_default_registrations = _register_all_triton(_DEFAULT)
_registrations: list[torch.library.Library] = []


def backends() -> Table:
    """What runs each op on each device at the moment: {op: {"cpu" | "cuda": (backend, reason)}}."""
    return {op: dict(devices) for op, devices in _active.items()}


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run all ops by one backend inside the context, in the whole process.

    An explicit choice is never exchanged for another: an op that this backend cannot run on the device of its
    input raises RuntimeError with the reason.

    Args:
        name: "reference" (plain PyTorch), "native" (compiled kernels) or "triton". On the CPU Triton runs in its
            interpreter, under the environment variable TRITON_INTERPRET=1.

    Raises:
        ValueError: there is no backend of that name.
    """
    if name not in NAMES:
        raise ValueError(f"backend must be one of {', '.join(NAMES)}, got {name!r}")
    previous = _chosen
    _select(name)
    try:
        yield
    finally:
        _select(previous)


def _select(name: str | None) -> None:
    global _chosen, _active
    for library in _registrations:
        # The only way to take a kernel back, so that the one below it serves again.
        library._destroy()
    _registrations.clear()
    _chosen, _active = name, _DEFAULT if name is None else _table(name)
    if name == "triton":
        _registrations.extend(_register_all_triton(_active))


_ELSEWHERE = Backend("reference", "there are no kernels for this kind of device")


def use_reference(op: str, device: torch.device) -> bool:
    """Whether the public function of `op` takes the plain PyTorch path for a tensor on `device`.

    Warns once for a kind of device where the ops have no kernels; raises RuntimeError where use_backend asked for
    a backend that cannot run the op there.
    """
    if is_transformed():
        if _chosen in ("native", "triton"):
            raise RuntimeError(f"use_backend({_chosen!r}): {op} runs as the reference only under torch.func and jvp")
        return True
    # Meta tensors have no values to compute, so they follow what the CPU would do.
    kind = "cpu" if device.type == "meta" else device.type
    if kind == "cuda":
        _meet(device.index)
    backend, reason = _active[op].get(kind, _ELSEWHERE)
    if backend is None:
        raise RuntimeError(f"use_backend({_chosen!r}): {op} cannot run on {kind}: {reason}")
    if backend == "reference" and _chosen is None:
        _warn_once(op, kind, reason)
    return backend == "reference"


_met: set[int] = set()


def _meet(index: int) -> None:
    """See, when a GPU is first used, whether the compiled kernels run on it; from then on Triton serves where not.

    Not when the package is imported: to ask would start CUDA, after which a process cannot fork.
    """
    global _too_old, _DEFAULT, _active
    if index in _met or not _library.cuda.loaded:
        return
    _met.add(index)
    capability, oldest = torch.cuda.get_device_capability(index), _library.oldest_gpu()
    if capability < oldest:
        given, needed = ("sm_{}{}".format(*numbers) for numbers in (capability, oldest))
        name = torch.cuda.get_device_name(index)
        _too_old = f"the compiled kernels are for GPUs from {needed} on, and the {name} is {given}"
        _DEFAULT = _table(None)
        _default_registrations.extend(_register_all_triton(_DEFAULT))
        _active = _DEFAULT if _chosen is None else _table(_chosen)


_meet._dynamo_marked_constant = True  # see below
_warned: set[str] = set()


def _warn_once(op: str, kind: str, reason: str) -> None:
    if kind not in _warned:
        _warned.add(kind)
        warnings.warn(f"toplight_ext runs {op} on {kind} in plain PyTorch, which is slower: {reason}", stacklevel=4)


# A warning is no part of a compiled graph: it is given while the graph is made. This is all that
# torch.compiler.assume_constant_result does, but for importing the compiler, which takes a second.
_warn_once._dynamo_marked_constant = True
