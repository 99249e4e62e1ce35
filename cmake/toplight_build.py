"""Build backend: scikit-build-core, with torch asked for only where it is needed.

Listing torch under build-system.requires would make pip download the newest torch (gigabytes) for its isolated
build although another one is installed; leaving it out would leave a fresh machine without headers. A backend may
decide its requirements when asked (PEP 517), and inside an isolated build `sysconfig` still names the environment
that the package is installed into: if that one has a torch that is new enough, we build against it.
The result uses the LibTorch stable ABI, so it runs on every torch from 2.10 on, whichever it was built with.
"""

import importlib.metadata
import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path

from scikit_build_core import build as _base
from scikit_build_core.build import (
    build_sdist,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

OLDEST_TORCH = (2, 10)


def _installed_torch() -> Path | None:
    """Folder of the torch in the environment we install into, or in this one; None if there is none to build with."""
    paths = sysconfig.get_paths()
    for distribution in importlib.metadata.distributions(name="torch", path=[paths["purelib"], paths["platlib"]]):
        if tuple(int(part) for part in distribution.version.split(".")[:2]) >= OLDEST_TORCH:
            return Path(distribution.locate_file("torch"))
    spec = importlib.util.find_spec("torch")
    return Path(spec.origin).parent if spec and spec.origin else None


def _require_compiler() -> None:
    if not any(shutil.which(name) for name in (os.environ.get("CXX"), "c++", "g++", "clang++") if name):
        raise SystemExit(
            "toplight_ext compiles its kernels and found no C++ compiler: install one "
            "(Debian, Ubuntu: apt install g++; Fedora: dnf install gcc-c++; conda: gxx) or set CXX, and try again."
        )


def _requirements(from_base) -> list[str]:
    _require_compiler()  # before gigabytes are downloaded
    torch = [] if _installed_torch() else [f"torch>={'.'.join(map(str, OLDEST_TORCH))}"]
    return [*from_base, *torch]


def get_requires_for_build_wheel(config_settings=None):
    return _requirements(_base.get_requires_for_build_wheel(config_settings))


def get_requires_for_build_editable(config_settings=None):
    return _requirements(_base.get_requires_for_build_editable(config_settings))


def _point_cmake_at_torch() -> None:
    _require_compiler()
    torch = _installed_torch()
    if torch is None:
        raise SystemExit("toplight_ext builds against torch >= 2.10 and found none: pip install torch, and try again.")
    os.environ.setdefault("TOPLIGHT_TORCH_DIR", str(torch))


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    _point_cmake_at_torch()
    return _base.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    _point_cmake_at_torch()
    return _base.build_editable(wheel_directory, config_settings, metadata_directory)
