"""Features with what is known of every image: the input of an evaluation, in memory and as a file."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import extras
from ..errors import InputError
from ..files import check_file, replacing
from ..text import plain
from .origin import Origin

MODALITIES = ("visible", "infrared")

# NumPy kinds that each array may have, and the same in words.
_KINDS = {
    "identity": ("iuU", "integers or text"),
    "camera": ("iu", "integers"),
    "modality": ("U", "text"),
    "stem": ("U", "text"),
    "index": ("iu", "integers"),
    "paths": ("U", "text"),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
    """N images. Arrays are checked and brought to these types when the object is made.

    Raises:
        InputError: an array has a wrong shape or type, a feature is not finite, or an image went through the
            stem of the other modality; the message names the row.
    """

    features: np.ndarray  # (N, D) float32 or float64
    identity: np.ndarray  # (N,) integers or text
    camera: np.ndarray  # (N,) integers
    modality: np.ndarray | None = None  # (N,) "visible" or "infrared": of the image
    index: np.ndarray | None = None  # (N,) number of the image within its modality, camera and identity, from 1
    paths: np.ndarray | None = None  # (N,) text
    stem: np.ndarray | None = None  # (N,) "visible" or "infrared": which of the network's stems the image went through
    origin: Origin = dataclasses.field(default_factory=Origin)

    def __post_init__(self):
        features = _matrix(self.features)
        object.__setattr__(self, "features", features)
        for name, (kinds, words) in _KINDS.items():
            if getattr(self, name) is not None:
                array = np.asarray(getattr(self, name))
                if array.shape != (len(features),):
                    raise InputError(
                        f"{name}: expected shape ({len(features)},) as features has rows, got {array.shape}"
                    )
                if array.dtype.kind not in kinds:
                    raise InputError(f"{name}: expected {words}, got {array.dtype}")
                object.__setattr__(self, name, array)
        for name in ("modality", "stem"):
            self._check_modalities(name)
        if self.modality is not None:
            self.check_stems(np.arange(len(features)), self.modality)

    def __len__(self) -> int:
        return len(self.features)

    def check_stems(self, rows: np.ndarray, modality: np.ndarray | str) -> None:
        """Refuse rows whose image of this modality is known to have gone through the other stem.

        Raises:
            InputError: naming the first such row.
        """
        if self.stem is None:
            return
        wrong = np.flatnonzero(self.stem[rows] != modality)
        if len(wrong):
            row, right = rows[wrong[0]], np.broadcast_to(modality, len(rows))[wrong[0]]
            raise InputError(
                f"features: {len(wrong)} of {len(rows)} {right} images went through the stem of the other modality, "
                f"the first is row {row}: extract them again with each image in the stem of its own modality"
            )

    def _check_modalities(self, name: str) -> None:
        array = getattr(self, name)
        wrong = np.flatnonzero(~np.isin(array, MODALITIES)) if array is not None else ()
        if len(wrong):
            raise InputError(f"{name} of image {wrong[0]} is {str(array[wrong[0]])!r}: expected visible or infrared")


def _matrix(value) -> np.ndarray:
    features = np.asarray(value)
    if features.dtype.kind != "f" or features.ndim != 2 or 0 in features.shape:
        raise InputError(f"features: expected floating-point (N, D), got {features.dtype} {features.shape}")
    if features.dtype not in (np.float32, np.float64):
        features = features.astype(np.float32 if features.dtype.itemsize <= 4 else np.float64)
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise InputError(f"features: {len(bad)} of {len(features)} rows hold NaN or infinity, the first is {bad[0]}")
    return features


_ARRAYS = ("features", *_KINDS)
_FIELDS = (*_ARRAYS, "origin")
_REQUIRED = ("features", "identity", "camera")


def save_features(path: str | Path, features: Features) -> None:
    """Write an .npz or .safetensors file, atomically. See `load_features` for its arrays.

    Raises:
        InputError: another ending.
    """
    arrays = {name: getattr(features, name) for name in _ARRAYS if getattr(features, name) is not None}
    origin = json.dumps(features.origin.to_json())
    ending = check_ending(path)
    with replacing(path) as temporary:
        if ending == ".npz":
            with open(temporary, "wb") as file:
                np.savez(file, **arrays, origin=np.array(origin))
        else:
            # The format has no text tensors: text goes into its metadata, as JSON.
            text = {name: json.dumps(array.tolist()) for name, array in arrays.items() if array.dtype.kind == "U"}
            numbers = {name: np.ascontiguousarray(array) for name, array in arrays.items() if name not in text}
            metadata = {**text, "origin": origin}
            save = extras.require("safetensors.numpy", extra="train").save
            temporary.write_bytes(save(numbers, metadata))  # not save_file, whose errors are not the system's


def load_features(path: str | Path) -> Features:
    """Read features saved as .npz or .safetensors.

    Arrays: `features` (N, D), `identity` (N,), `camera` (N,); for some protocols `modality` (N,) or `index`
    (N,); `stem` (N,) and `paths` (N,) if known; `origin`, JSON text, as `save_features` writes it. In
    safetensors, text is JSON in the metadata.

    Raises:
        InputError: the file cannot be read, an array is missing or is not as `Features` says. Pickled
            objects are refused, never loaded.
    """
    read = _read_npz if check_ending(path) == ".npz" else _read_safetensors
    try:
        check_file(path)
        fields = read(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    missing = [name for name in _REQUIRED if name not in fields]
    if missing:
        found = ", ".join(sorted(fields)) or "none of ours"
        raise InputError(f"{path}: no array {', '.join(missing)} (found: {found}); save it under this name")
    try:
        return Features(**fields)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def check_ending(path: str | Path, also: Sequence[str] = ()) -> str:
    """The ending of a file of features; raises InputError unless it is one of ours, or of those named."""
    ending, known = Path(path).suffix, (".npz", ".safetensors", *also)
    if ending not in known:
        raise InputError(f"{path}: expected a file ending in {', '.join(known[:-1])} or {known[-1]}")
    return ending


def _most_bytes(path: str | Path) -> int:
    """What the arrays of a file may take in memory: our choice, more than compressed features and paths ever did."""
    return (64 << 20) + 32 * os.path.getsize(path)


def _read_npz(path: str | Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as file:
            if sum(entry.file_size for entry in file.zip.infolist()) > _most_bytes(path):
                raise ValueError("its arrays are many times as large as the file")
            fields = {name: file[name] for name in _FIELDS if name in file}
        return fields | {"origin": Origin.from_json(json.loads(str(fields.get("origin", "{}"))))}
    except OSError:
        raise
    except Exception as error:  # of many kinds on foreign files; a second sentence advises to load unsafely
        reason = plain(str(error).partition(". ")[0], 200)
        raise InputError(f"{path}: not an .npz of plain arrays ({reason})") from error


def _read_safetensors(path: str | Path) -> dict[str, Any]:
    safetensors = extras.require("safetensors", extra="train")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys() if name in _ARRAYS}  # noqa: SIM118
            text = {name: json.loads(value) for name, value in (file.metadata() or {}).items() if name in _FIELDS}
        origin = Origin.from_json(text.pop("origin", {}))
        texts = {name: _text_array(name, value, _most_bytes(path)) for name, value in text.items()}
    except OSError:
        raise
    except Exception as error:  # of many kinds on foreign files
        raise InputError(f"{path}: not a safetensors file of features ({plain(error, 200)})") from error
    return {**arrays, **texts, "origin": origin}


def _text_array(name: str, value: Any, most: int) -> np.ndarray:
    """(N,) text. Raises ValueError if it is none, or takes more than `most` bytes: each row as many as the longest."""
    if not isinstance(value, list) or not all(isinstance(row, str) for row in value):
        raise ValueError(f"{name}: expected a list of texts")
    if len(value) * max(map(len, value), default=0) * 4 > most:
        raise ValueError(f"{name}: a text is far longer than the others")
    return np.array(value, dtype=str)
