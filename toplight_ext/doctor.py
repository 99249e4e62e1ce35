"""What is installed, which backend serves each op on each device and why not a better one, and what is missing."""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
import re
import shutil
import subprocess
import sys
from typing import Any

import torch

from . import _library, ops

# Distribution, what it is for here, and the extra that brings it.
PACKAGES = (
    ("torch", "everything", None),
    ("numpy", "everything", None),
    ("triton", "Triton kernels on a GPU", None),
    ("timm", "backbones", "train"),
    ("torchvision", "backbones", "train"),
    ("nvidia-dali-cuda130", "image pipelines", "train"),
    ("nvidia-dali-cuda120", "image pipelines (CUDA 12)", "train-cuda12"),
    ("safetensors", "weights", "train"),
    ("pillow", "pictures", "train"),
    ("matplotlib", "curves of the report", "train"),
    ("rich", "progress", "train"),
    ("tensorboard", "live curves", "train"),
    ("tomli-w", "recipes of runs", "train"),
    *((("tomli", "recipes", "train"),) if sys.version_info < (3, 11) else ()),
    ("onnx", "export", "export"),
    ("onnxscript", "export", "export"),
    ("onnxruntime", "export", "export"),
    ("openvino", "export to OpenVINO", "openvino"),
    ("executorch", "export to ExecuTorch", "executorch"),
    ("faiss-cpu", "approximate matching", "faiss"),
)
_BEST_FIRST = ("native", "triton", "reference")
_REBUILD = "pip install --no-deps --force-reinstall ."


def diagnosis() -> dict[str, Any]:
    """The state of this installation as plain data; `diagnosis_text` prints it."""
    from . import __version__

    return {
        "toplight_ext": __version__,
        "build": _build_info(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name, _, _ in PACKAGES},
        "cpu": {"instructions": torch.backends.cpu.get_cpu_capability(), **_library_state(_library.cpu)},
        "cuda": {"torch": torch.version.cuda, "nvcc": _nvcc(), **_library_state(_library.cuda)},
        "gpus": _gpus(),
        "driver": _driver(),
        "backends": _backends(),
        "missing": [{"what": what, "get": get} for what, get in _missing()],
    }


def diagnosis_text(found: dict[str, Any]) -> str:
    """The diagnosis as lines for a person."""
    build = ", ".join(f"{key} {value}" for key, value in found["build"].items() if value)
    lines = [
        f"toplight_ext {found['toplight_ext']}, Python {found['python']}",
        f"  built with: {build or 'nothing compiled was found'}",
        f"  CPU: {found['cpu']['instructions']}, {found['cpu']['library'] or 'no compiled kernels'}",
        f"  GPU: {', '.join(found['gpus']) or 'none that torch sees'} (driver {found['driver'] or 'not found'}, "
        f"torch for CUDA {found['cuda']['torch'] or 'none'}, nvcc {found['cuda']['nvcc'] or 'not found'})",
        "",
        f"{'package':<22}{'version':<16}for",
    ]
    lines += [f"{name:<22}{found['packages'][name] or '-':<16}{use}" for name, use, _ in PACKAGES]
    lines += ["", f"{'op':<36}{'on cpu':<12}on cuda"]
    for op, devices in found["backends"].items():
        lines.append(f"{op:<36}{devices['cpu']['backend']:<12}{devices['cuda']['backend']}")
    lines += ["", *_reasons(found["backends"])]
    commands: dict[str, list[str]] = {}
    for lack in found["missing"]:
        commands.setdefault(lack["get"], []).append(lack["what"])
    lines += [f"missing: {', '.join(whats)}\n  {get}" for get, whats in commands.items()] or ["nothing is missing"]
    return "\n".join(lines)


def _backends() -> dict[str, dict[str, Any]]:
    """{op: {device: backend, reason, and under "better" why each better backend is not taken}}."""
    asked = {}
    for name in _BEST_FIRST:
        with ops.use_backend(name):
            asked[name] = ops.backends()
    return {
        op: {
            device: {
                "backend": chosen.backend,
                "reason": chosen.reason,
                "better": {
                    name: asked[name][op][device].reason for name in _BEST_FIRST[: _BEST_FIRST.index(chosen.backend)]
                },
            }
            for device, chosen in devices.items()
        }
        for op, devices in ops.backends().items()
    }


def _reasons(backends: dict[str, dict[str, Any]]) -> list[str]:
    """Why each backend was chosen, and not a better one: a paragraph for all ops of which the same is true."""
    paragraphs: dict[str, list[str]] = {}
    for op, devices in backends.items():
        for device, row in devices.items():
            others = {name: reason for name, reason in row["better"].items() if reason not in row["reason"]}
            lines = [f"on {device} {row['backend']}: {row['reason']}"]
            lines += [f"  not {name}: {reason}" for name, reason in others.items()]
            paragraphs.setdefault("\n".join(lines), []).append(op)
    shown = [text if len(of) == len(backends) else f"{', '.join(of)}: {text}" for text, of in paragraphs.items()]
    return [*shown, ""]


def _build_info() -> dict[str, Any]:
    try:
        return importlib.import_module("toplight_ext._core").build_info()
    except ImportError:
        return {}


def _library_state(library: _library.Library) -> dict[str, str | None]:
    return {"library": library.path.name if library.loaded else None, "error": library.error}


def _gpus() -> list[str]:
    """Those that torch sees, with their compute capability."""
    if not torch.cuda.is_available():
        return []
    return [
        f"{torch.cuda.get_device_name(i)} (sm_{''.join(map(str, torch.cuda.get_device_capability(i)))})"
        for i in range(torch.cuda.device_count())
    ]


def _driver() -> str | None:
    """Version of the NVIDIA driver; None where there is none."""
    versions = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return versions and versions.partition("\n")[0]  # a line for each GPU


def _nvcc() -> str | None:
    release = re.search(r"release ([\d.]+)", _output("nvcc", "--version") or "")
    return release and release[1]


def _output(program: str, *arguments: str) -> str | None:
    """What a program prints; None if it is not there or fails."""
    if shutil.which(program) is None:
        return None
    try:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _missing() -> list[tuple[str, str]]:
    """What is not there, and the command that brings it."""
    return [*_missing_kernels(), *_missing_packages()]


def _missing_kernels() -> list[tuple[str, str]]:
    lacks = []
    if not _library.cpu.loaded:
        lacks.append((f"the compiled kernels for the CPU: {_library.cpu.error}", f"in the checkout: {_REBUILD}"))
    if torch.version.cuda is None:
        if _driver():
            lacks.append(("a torch with CUDA, for the GPU of this machine", "pip install --force-reinstall torch"))
    elif torch.cuda.is_available():
        if not _library.cuda.loaded:
            command = f"with nvcc of CUDA {torch.version.cuda} on PATH, in the checkout: TOPLIGHT_CUDA=ON {_REBUILD}"
            lacks.append((f"the compiled kernels for the GPU: {_library.cuda.error}", command))
        if _version("triton") is None:
            lacks.append(("triton (Triton kernels on a GPU)", "pip install triton"))
    elif _driver():
        lacks.append(
            (f"a driver for CUDA {torch.version.cuda}: torch sees no GPU under driver {_driver()}", "update it")
        )
    return lacks


def _missing_packages() -> list[tuple[str, str]]:
    extra_of_dali = "train-cuda12" if (torch.version.cuda or "").startswith("12") else "train"
    has_dali = any(_version(name) for name, _, _ in PACKAGES if name.startswith("nvidia-dali"))
    lacks = []
    for name, use, extra in PACKAGES:
        dali = name.startswith("nvidia-dali")
        if extra is None or _version(name) or (dali and (has_dali or extra != extra_of_dali)):
            continue
        lacks.append((f"{name} ({use})", f"pip install 'toplight_ext[{extra}]'"))
    if _version("torchvision"):
        try:
            importlib.import_module("torchvision")
        except Exception as error:  # of another torch than ours, it fails in many ways
            told = str(error).partition("\n")[0]
            lacks.append((f"a torchvision that fits torch {torch.__version__}: {told}", "pip install -U torchvision"))
    return lacks
