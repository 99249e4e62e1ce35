"""Where features come from, and the guard that a network is judged on the split it was trained for."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import InputError
from ..text import plain

_LONGEST = 200  # characters of a name, which every result repeats
_MOST_SPLITS = 100  # as many as a weights file may name


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
    training: tuple[Split, ...] = ()  # all that the network's weights have seen, the last one last; none is unknown
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
        images = Split.from_json(fields["images"]) if fields.get("images") else None
        return cls(**{**fields, "images": images, "training": _read_training(fields.get("training"))})

    @property
    def trials_seen(self) -> tuple[Split, ...]:
        """The numbered trials of the images' data set among what the network was trained on."""
        dataset = self.images.dataset if self.images else None
        return tuple(split for split in self.training if split.dataset == dataset and split.trial is not None)

    @property
    def leaks(self) -> tuple[Split, ...]:
        """Those of other trials than that of the images, with identities that these perhaps ask for."""
        own = self.images.trial if self.images else None
        return tuple(split for split in self.trials_seen if own not in (None, split.trial))


def _read_training(value: Any) -> tuple[Split, ...]:
    """A list of splits; or one alone, as older files have it, or None."""
    if value and isinstance(value, list) and isinstance(value[0], str):
        value = [value]
    if not isinstance(value, list | None) or len(value or ()) > _MOST_SPLITS:
        raise TypeError(f"training must be a list of at most {_MOST_SPLITS} splits")
    return tuple(map(Split.from_json, value or ()))


def network_of(weights: str | Path) -> str:
    """The name of a weights file, which is the same in every run, and the beginning of its SHA-256."""
    return f"{plain(Path(weights).name)} {hashlib.sha256(Path(weights).read_bytes()).hexdigest()[:16]}"


def check_splits(origins: Sequence[Origin], any_split: bool = False) -> None:
    """Refuse a network on another trial than its own, unless told, and one trial twice.

    The numbered trials of a data set (RegDB has ten) share identities: what one trains on another asks for. Its own
    are all that its weights have seen: what it started from, and what all the networks of a soup were trained on.

    Raises:
        InputError: naming the splits.
    """
    for origin in origins:
        if origin.leaks and not any_split:
            own = {split.trial for split in origin.trials_seen}
            way = f"evaluate it on trial {min(own)}, or" if len(own) == 1 else "no trial is new to it,"
            raise InputError(
                f"the network was trained on {origin.leaks[0]}, whose identities {origin.images} may ask for: "
                f"{way} allow any split and expect flattering numbers"
            )
    trials = [origin.images for origin in origins if origin.images and origin.images.trial is not None]
    twice = [images for i, images in enumerate(trials) if images in trials[:i]]
    if twice and not any_split:
        raise InputError(f"{twice[0]} is given twice: every trial counts once, with its own network")


def warn_of_known_images(origins: Sequence[Origin]) -> None:
    """Say so where a network is evaluated on what it was trained on, as far as the names of the splits tell."""
    for origin in origins:
        if origin.images and origin.images.name and origin.images in origin.training:
            warnings.warn(
                f"the network was trained on {origin.images}, and is evaluated on it if that is the same folder: "
                "its figures say nothing of other identities",
                stacklevel=2,
            )
