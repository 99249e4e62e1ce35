"""Features with what is known of every image: the input of an evaluation, in memory and as a file."""

from __future__ import annotations

import dataclasses
import json
import zipfile
import zlib
from pathlib import Path

import numpy as np

from .. import extras
from ..errors import InputError
from ..files import replacing

MODALITIES = ("visible", "infrared")

# NumPy kinds that each array may have, and the same in words.
_KINDS = {
    "identity": ("iuU", "integers or text"),
    "camera": ("iu", "integers"),
    "modality": ("U", "text"),
    "index": ("iu", "integers"),
    "paths": ("U", "text"),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
    """N images. Arrays are checked and brought to these types when the object is made.

    Raises:
        InputError: an array has a wrong shape or type, or a feature is not finite.
    """

    features: np.ndarray  # (N, D) float32 or float64
    identity: np.ndarray  # (N,) integers or text
    camera: np.ndarray  # (N,) integers
    modality: np.ndarray | None = None  # (N,) "visible" or "infrared"
    index: np.ndarray | None = None  # (N,) number of the image within its camera and identity, from 1
    paths: np.ndarray | None = None  # (N,) text

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
        if self.modality is not None:
            wrong = np.flatnonzero(~np.isin(self.modality, MODALITIES))
            if len(wrong):
                raise InputError(
                    f"modality of image {wrong[0]} is {str(self.modality[wrong[0]])!r}: expected visible or infrared"
                )

    def __len__(self) -> int:
        return len(self.features)


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


_FIELDS = ("features", *_KINDS)
_REQUIRED = ("features", "identity", "camera")


def save_features(path: str | Path, features: Features) -> None:
    """Write an .npz or .safetensors file, atomically. See `load_features` for its arrays.

    Raises:
        InputError: another ending.
    """
    arrays = {name: getattr(features, name) for name in _FIELDS if getattr(features, name) is not None}
    ending = _ending(path)
    with replacing(path) as temporary:
        if ending == ".npz":
            with open(temporary, "wb") as file:
                np.savez(file, **arrays)
        else:
            # The format has no text tensors: text goes into its metadata, as JSON lists.
            text = {name: json.dumps(array.tolist()) for name, array in arrays.items() if array.dtype.kind == "U"}
            numbers = {name: np.ascontiguousarray(array) for name, array in arrays.items() if name not in text}
            extras.require("safetensors.numpy", extra="train").save_file(numbers, temporary, metadata=text)


def load_features(path: str | Path) -> Features:
    """Read features saved as .npz or .safetensors.

    Arrays: `features` (N, D), `identity` (N,), `camera` (N,); for some protocols `modality` (N,) or `index`
    (N,); `paths` (N,) if known. In safetensors, text is a JSON list in the metadata.

    Raises:
        InputError: the file cannot be read, an array is missing or is not as `Features` says. Pickled
            objects are refused, never loaded.
    """
    read = _read_npz if _ending(path) == ".npz" else _read_safetensors
    try:
        arrays = read(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    missing = [name for name in _REQUIRED if name not in arrays]
    if missing:
        found = ", ".join(sorted(arrays)) or "none of ours"
        raise InputError(f"{path}: no array {', '.join(missing)} (found: {found}); save it under this name")
    try:
        return Features(**arrays)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _ending(path: str | Path) -> str:
    ending = Path(path).suffix
    if ending not in (".npz", ".safetensors"):
        raise InputError(f"{path}: expected a file ending in .npz or .safetensors")
    return ending


# What NumPy and zipfile raise for files that are damaged, hostile, pickled, or no .npz at all.
_NPZ_ERRORS = (ValueError, TypeError, EOFError, RuntimeError, MemoryError, zlib.error, zipfile.BadZipFile)


def _read_npz(path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in _FIELDS if name in file}
    except _NPZ_ERRORS as error:
        raise InputError(f"{path}: not an .npz of plain arrays ({error})") from error


def _read_safetensors(path) -> dict[str, np.ndarray]:
    safetensors = extras.require("safetensors", extra="train")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys() if name in _FIELDS}  # noqa: SIM118
            text = {name: json.loads(value) for name, value in (file.metadata() or {}).items() if name in _FIELDS}
    except (safetensors.SafetensorError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: not a safetensors file of features ({error})") from error
    return arrays | {name: np.array(value, dtype=str) for name, value in text.items()}
