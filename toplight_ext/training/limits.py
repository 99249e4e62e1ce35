"""What the numbers of a recipe may be: our choice, far beyond what anyone trains with, so that nonsense is named."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..data import Augmentation
from ..errors import InputError

_LIMITS = {  # smallest and largest value, ends included
    "seed": (0, 2**63 - 1),
    "threads": (1, 256),
    "epochs": (1, 100_000),
    "batch_size": (1, 65_536),
    "identities": (1, 65_536),
    "images_per_identity": (1, 65_536),
    "keep": (0, 7),
    "statistics_batches": (1, 1_000_000),
    "steps": (1, 10**9),
    "every_epochs": (0, 100_000),
    "slices": (1, 64),
    "groups": (1, 65_536),
    "last_stride": (1, 2),
    "shots": (1, 10),
    "label_smoothing": (0.0, 1.0),
    "temperature": (1e-4, 1e4),
    "circle_scale": (1e-4, 1e9),
    "momentum": (1e-6, 1.0),  # Nesterov's needs one
}
_ANY = (0.0, 1e9)  # of a rate, a weight, a margin, a time
_CHECKED_BY_OTHERS = ("mean", "std", "size", "ema_decay")


def check_limits(settings: Any, prefix: str = "") -> None:
    """Check the numbers of a dataclass and of those in it; augmentations have limits of their own.

    Raises:
        InputError: naming the dotted key.
    """
    for field in dataclasses.fields(settings):
        value, key = getattr(settings, field.name), prefix + field.name
        if isinstance(value, Augmentation):
            continue
        if dataclasses.is_dataclass(value):
            check_limits(value, f"{key}.")
        elif field.name not in _CHECKED_BY_OTHERS:
            low, high = _LIMITS.get(field.name, _ANY)
            for number in value if isinstance(value, tuple) else (value,):
                if _is_number(number) and not low <= number <= high:  # NaN is not either
                    raise InputError(f"{key} = {value!r}: expected {low:g} to {high:g}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
