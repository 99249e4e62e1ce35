"""Where features come from, and the guard that a network is judged on the split it was trained for."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import InputError
from ..text import plain

_LONGEST = 200  # characters of a name, which every result repeats


def _check_words(*words: str | None) -> None:
    if not all(len(word) <= _LONGEST and word.isprintable() for word in words if word):
        raise ValueError(f"a name is longer than {_LONGEST} characters, or has some that are not printable")


class Split(NamedTuple):
    """A part of a data set. Where it comes in numbered trials, the name ends in the number: `train_3`, `test_3`."""

    dataset: str
    name: str | None

    @classmethod
    def from_json(cls, value: Any) -> Split:
        dataset, name = value
        if not isinstance(value, list) or not isinstance(dataset, str) or not isinstance(name, str | None):
            raise TypeError("a split must be the name of a data set and that of its part, or null")
        _check_words(dataset, name)
        return cls(dataset, name)

    @property
    def trial(self) -> int | None:
        number = re.search(r"(?<![0-9])[0-9]{1,9}$", self.name or "")
        return int(number[0]) if number else None

    def __str__(self) -> str:
        return f"{self.dataset} {self.name}" if self.name else self.dataset


@dataclasses.dataclass(frozen=True)
class Origin:
    """How features came about, as far as it is known; None is unknown. Every result repeats it."""

    feature: str | None = None  # "before BNNeck" or "after BNNeck"
    flip: bool | None = None  # True: the mean of an image's feature and its mirror image's
    images: Split | None = None  # what the features are of
    training: Split | None = None  # what the network was trained on
    network: str | None = None  # as `network_of` names its weights

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Origin:
        """Raises TypeError, ValueError or AttributeError unless `to_json` made the fields."""
        if not isinstance(fields.get("feature"), str | None) or not isinstance(fields.get("flip"), bool | None):
            raise TypeError("feature must be text, flip true or false")
        if not isinstance(fields.get("network"), str | None):
            raise TypeError("network must be text")
        _check_words(fields.get("feature"), fields.get("network"))
        splits = {name: Split.from_json(fields[name]) for name in ("images", "training") if fields.get(name)}
        return cls(**{**fields, **splits})

    @property
    def leaks(self) -> bool:
        """The network saw another trial of this data set, and so perhaps the identities it is asked for."""
        if self.images is None or self.training is None or self.images.dataset != self.training.dataset:
            return False
        trials = self.images.trial, self.training.trial
        return None not in trials and trials[0] != trials[1]


def network_of(weights: str | Path) -> str:
    """The name of a weights file, which is the same in every run, and the beginning of its SHA-256."""
    return f"{plain(Path(weights).name)} {hashlib.sha256(Path(weights).read_bytes()).hexdigest()[:16]}"


def check_splits(origins: Sequence[Origin], any_split: bool = False) -> None:
    """Refuse a network on another trial than its own, unless told, and one trial twice.

    The numbered trials of a data set (RegDB has ten) share identities: what one trains on another asks for.

    Raises:
        InputError: naming the splits.
    """
    for origin in origins:
        if origin.leaks and not any_split:
            raise InputError(
                f"the network was trained on {origin.training}, whose identities {origin.images} may ask for: "
                f"evaluate it on trial {origin.training.trial}, or allow any split and expect flattering numbers"
            )
    trials = [origin.images for origin in origins if origin.images and origin.images.trial is not None]
    twice = [images for i, images in enumerate(trials) if images in trials[:i]]
    if twice and not any_split:
        raise InputError(f"{twice[0]} is given twice: every trial counts once, with its own network")
