"""What an exported network is fed and what it gives: written beside it and into it, and checked when it is read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..colour import LUMA
from ..data import Modality
from ..errors import InputError
from ..inference import AFTER_NECK, Preprocessing
from ..text import plain

FORMAT = 1
ENTRY = "toplight_ext"  # name of the contract among a file's own metadata
OUTPUT = "embedding"
_MOST_PIXELS = 1 << 26  # of a fixed batch, which is filled up to its size: our choice, 768 MiB

Stem = Literal["visible", "infrared", "both"]
STEMS: tuple[Stem, ...] = ("visible", "infrared", "both")

# The same for every export; what varies are the fields of `Preprocessing`.
_FIXED = {
    "decoding": "8-bit RGB, grey images as RGB; the EXIF orientation is applied",
    "resize": "to the size, aspect ratio not kept; bilinear, with a triangle filter where it shrinks",
    "gray_weights": list(LUMA),
    "colour_order": "RGB",
    "value_range": [0.0, 1.0],
    "normalisation": "(pixel / 255 - mean) / std per channel; with gray, visible pixels first become their luma",
    "layout": "NCHW, float32",
}


@dataclass(frozen=True)
class Contract:
    """Input and output of one exported file.

    stem: the modality it takes, in an input named "images"; or "both", with inputs "visible" and "infrared", whose
        embeddings come in this order, and of which either may be empty if the batch is dynamic.
    preprocessing: from an image file to the input.
    dimensions: D of the output "embedding", (B, D), after BNNeck and not normalised.
    batch: B of each input; None is dynamic.
    source: the weights file, as `evaluation.network_of` names it.
    """

    stem: Stem
    preprocessing: Preprocessing
    dimensions: int
    batch: int | None
    source: str

    @property
    def inputs(self) -> dict[str, Modality]:
        """Input name -> what it takes."""
        if self.stem == "both":
            return {modality.value: modality for modality in Modality}
        return {"images": Modality(self.stem)}

    def input_of(self, modality: Modality, file: str) -> str:
        """The input that takes images of this modality.

        Raises:
            InputError: the network has no such stem; `file` is named.
        """
        for name, taken in self.inputs.items():
            if taken is modality:
                return name
        raise InputError(f"{file}: has the {self.stem} stem alone, and was given {modality.value} images")

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "stem": self.stem,
            "preprocessing": {**self.preprocessing.metadata(), **_FIXED},
            "inputs": {name: [self.batch or "batch", 3, *self.preprocessing.size] for name in self.inputs},
            "output": {"name": OUTPUT, "feature": AFTER_NECK, "dimensions": self.dimensions},
            "batch": self.batch,
            "source": self.source,
        }

    @classmethod
    def from_json(cls, value: Any, file: str) -> Contract:
        """Raises InputError, naming `file`, unless `to_json` of this version made the value."""
        try:
            if value["format"] != FORMAT:
                raise InputError(
                    f"{file}: format {value['format']!r} of its metadata is not {FORMAT}: "
                    "another version of toplight_ext exported it, export it again"
                )
            contract = cls(
                stem=value["stem"],
                preprocessing=_preprocessing(value["preprocessing"], file),
                dimensions=_natural(value["output"]["dimensions"]),
                batch=None if value["batch"] is None else _natural(value["batch"]),
                source=str(value["source"]),
            )
            if contract.stem not in STEMS:
                raise ValueError(f"stem {contract.stem!r}")
            if (contract.batch or 0) * math.prod(contract.preprocessing.size) > _MOST_PIXELS:
                raise ValueError(f"batch {contract.batch}")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{file}: its metadata are damaged ({plain(repr(error))}); export it again") from error
        return contract

    @classmethod
    def from_entries(cls, entries: Mapping[str, str], file: str) -> Contract:
        """Read it among the metadata of a file.

        Raises:
            InputError: the file is not one of ours, or its contract is damaged.
        """
        if ENTRY not in entries:
            raise InputError(f"{file}: not exported by `toplight export`: no metadata entry {ENTRY!r}")
        try:
            value = json.loads(entries[ENTRY])
        except (ValueError, RecursionError) as error:
            raise InputError(f"{file}: its metadata entry {ENTRY!r} is not JSON ({error})") from error
        return cls.from_json(value, file)


def _preprocessing(value: Mapping[str, Any], file: str) -> Preprocessing:
    fields = Preprocessing.of({name: value[name] for name in ("size", "mean", "std", "gray")}, file)
    for name, expected in _FIXED.items():
        if value[name] != expected:
            raise ValueError(f"{name} {value[name]!r}")
    return fields


def _natural(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 1 << 31:
        raise ValueError(f"{value!r}: expected a whole number from 1")
    return value
