"""Optional packages: imported at first use, and named together with the extra that brings them."""

from __future__ import annotations

import importlib
from types import ModuleType

from .errors import MissingExtra


def require(module: str, extra: str) -> ModuleType:
    """Import and return `module`, or say which extra of this package installs it.

    Raises:
        MissingExtra: the package that `module` belongs to is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        raise MissingExtra(
            f"this needs the package {package!r}, which is not installed: pip install 'toplight_ext[{extra}]'"
        ) from error
