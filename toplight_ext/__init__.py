"""Visible-infrared recognition with lightweight networks: fused ops, modules and a thin training layer.

The ops and modules below need torch alone. Everything else (`create_model`, `evaluation`, `training`, ...)
is imported when it is first named, and says which extra to install if a package of it is missing.
"""

import importlib
import pkgutil

# A checkout's Python finds the compiled libraries of the installed package.
__path__ = pkgutil.extend_path(__path__, __name__)

from . import ops
from .nn import FDR, GradientReversal, ShuffleAttention

__version__ = "0.1.0"

_LAZY_MODULES = ("data", "deploy", "evaluation", "losses", "models", "report", "training")
_LAZY_NAMES = {"create_model": "models", "soup": "models", "load_weights": "models", "save_weights": "models"}

__all__ = ["FDR", "GradientReversal", "ShuffleAttention", "ops", *_LAZY_MODULES, *_LAZY_NAMES]


def __getattr__(name: str):
    if name in _LAZY_MODULES:
        return importlib.import_module(f".{name}", __name__)
    if name in _LAZY_NAMES:
        return getattr(importlib.import_module(f".{_LAZY_NAMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
