"""What is installed, which backend serves each op on each device, and what is missing."""

from __future__ import annotations

import importlib.metadata
import shutil
from typing import Any

from . import ops
from .extras import require

# Distribution, what it is for here, and the extra that brings it.
_PACKAGES = (
    ("torch", "everything", None),
    ("numpy", "everything", None),
    ("triton", "Triton kernels on a GPU", None),
    ("timm", "backbones", "train"),
    ("torchvision", "backbones", "train"),
    ("nvidia-dali-cuda130", "image pipelines", "train"),
    ("nvidia-dali-cuda120", "image pipelines (CUDA 12)", "train-cuda12"),
    ("safetensors", "weights", "train"),
    ("matplotlib", "curves of the report", "train"),
    ("tensorboard", "live curves", "train"),
    ("onnxruntime", "export", "export"),
)


def diagnosis() -> dict[str, Any]:
    """The state of this installation as plain data; `diagnosis_text` prints it."""
    import torch

    from . import __version__

    return {
        "toplight_ext": __version__,
        "build": _build_info(),
        "packages": {name: _version(name) for name, _, _ in _PACKAGES},
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch_cuda": torch.version.cuda,
        "nvcc": shutil.which("nvcc"),
        "backends": {
            op: {device: {"backend": backend, "reason": reason} for device, (backend, reason) in devices.items()}
            for op, devices in ops.backends().items()
        },
        "missing": _missing(),
    }


def diagnosis_text(found: dict[str, Any]) -> str:
    """The diagnosis as lines for a person."""
    build = ", ".join(f"{key} {value}" for key, value in found["build"].items() if value)
    lines = [f"toplight_ext {found['toplight_ext']}", f"  built with: {build or 'nothing compiled was found'}"]
    lines += [f"  GPU: {found['gpu'] or 'none that torch sees'} (torch built for CUDA {found['torch_cuda']})", ""]
    lines += [f"{'package':<22}{'version':<16}for"]
    lines += [f"{name:<22}{found['packages'][name] or '-':<16}{use}" for name, use, _ in _PACKAGES]
    lines += ["", f"{'op':<36}{'device':<8}{'backend':<12}why"]
    for op, devices in found["backends"].items():
        lines += [f"{op:<36}{device:<8}{row['backend']:<12}{row['reason']}" for device, row in devices.items()]
    lines += ["", *(found["missing"] or ["nothing is missing"])]
    return "\n".join(lines)


def _build_info() -> dict[str, Any]:
    try:
        return require("toplight_ext._core", extra="train").build_info()
    except ImportError:
        return {}


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _missing() -> list[str]:
    lines = []
    for name, use, extra in _PACKAGES:
        if extra and _version(name) is None and not (name.startswith("nvidia-dali") and _has_dali()):
            lines.append(f"missing {name} ({use}): pip install 'toplight_ext[{extra}]'")
    return lines


def _has_dali() -> bool:
    return any(_version(name) for name, _, _ in _PACKAGES if name.startswith("nvidia-dali"))
