"""`toplight data check`: count and cross-check a data set without changing anything."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from .datasets import list_dataset
from .header import read_image
from .pipeline import undecodable
from .samples import Modality, Problem, Sample

_SHOWN = 10  # findings of a kind that the text lists; the JSON has all


@dataclass(frozen=True)
class CheckReport:
    """What was found.

    Attributes:
        images: number of images by (modality, camera).
        identities: number of identities.
        one_modality: identities seen in one modality only; empty where the whole set has one modality.
        duplicates: groups of files with the same bytes.
        errors: rows and images that cannot be used.
        decoded: whether the images were decoded, or their headers read.
    """

    images: dict[tuple[str, int], int]
    identities: int
    one_modality: dict[str, list[int | str]]
    duplicates: list[list[str]]
    errors: list[Problem]
    decoded: bool

    @property
    def ok(self) -> bool:
        """No errors; one-sided identities and duplicates are warnings."""
        return not self.errors

    def to_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "identities": self.identities,
            "images": sum(self.images.values()),
            "by_camera": [
                {"modality": modality, "camera": camera, "images": count}
                for (modality, camera), count in self.images.items()
            ],
            "one_modality": self.one_modality,
            "duplicates": self.duplicates,
            "errors": [{"where": problem.where, "what": problem.what} for problem in self.errors],
            "decoded": self.decoded,
        }

    def table(self) -> str:
        """The report as text."""
        rows = [("modality", "camera", "images")]
        rows += [(modality, str(camera), str(count)) for (modality, camera), count in self.images.items()]
        rows += [("all", "", str(sum(self.images.values())))]
        lines = [f"{modality:<10}{camera:>7}{count:>9}" for modality, camera, count in rows]
        lines += [f"{self.identities} identities"]
        for modality, identities in self.one_modality.items():
            lines += _section(f"warning: {len(identities)} identities in {modality} only", map(str, identities))
        lines += _section(
            f"warning: {len(self.duplicates)} groups of identical files" if self.duplicates else "",
            (", ".join(group) for group in self.duplicates),
        )
        lines += _section(f"error: {len(self.errors)} rows or images cannot be used", map(str, self.errors))
        how = "decoded" if self.decoded else "headers read"
        lines += [f"{'ok' if self.ok else 'not ok'} ({how})"]
        return "\n".join(lines)


def check_dataset(name: str, root: str | Path, split: str | None = None, decode: bool = False) -> CheckReport:
    """Check a data set by name.

    Raises:
        InputError: as `list_dataset`: there is nothing to check.
    """
    listing = list_dataset(name, root, split)
    return check(listing.samples, listing.problems, decode)


def check(samples: Sequence[Sample], problems: Sequence[Problem] = (), decode: bool = False) -> CheckReport:
    """Read every image's bytes and header, and decode it if asked to.

    Args:
        samples: what is to be checked.
        problems: what the data set's reader refused; they are reported as errors.
        decode: decode every image fully (needs DALI).
    """
    by_bytes, broken = defaultdict(list), []
    for sample in samples:
        try:
            data = read_image(sample.path)
        except InputError as error:
            broken.append(Problem(str(sample.path), str(error).removeprefix(f"{sample.path}: ")))
        else:
            by_bytes[hashlib.blake2b(data, digest_size=16).digest()].append(sample.path)
    if decode:
        sound = [path for group in by_bytes.values() for path in group]
        broken += [Problem(str(path), "the image cannot be decoded") for path in undecodable(sound)]
    images = Counter((sample.modality.value, sample.camera) for sample in samples)
    return CheckReport(
        images=dict(sorted(images.items())),
        identities=len({sample.identity for sample in samples}),
        one_modality=_one_modality(samples),
        duplicates=[[str(path) for path in group] for group in by_bytes.values() if len(group) > 1],
        errors=[*problems, *broken],
        decoded=decode,
    )


def _one_modality(samples: Sequence[Sample]) -> dict[str, list[int | str]]:
    seen = {m: {s.identity for s in samples if s.modality is m} for m in Modality}
    visible, infrared = seen[Modality.VISIBLE], seen[Modality.INFRARED]
    if not visible or not infrared:
        return {}
    alone = {Modality.VISIBLE.value: sorted(visible - infrared), Modality.INFRARED.value: sorted(infrared - visible)}
    return {modality: identities for modality, identities in alone.items() if identities}


def _section(title: str, entries) -> list[str]:
    entries = list(entries)
    if not entries:
        return []
    more = [f"  ... and {len(entries) - _SHOWN} more"] if len(entries) > _SHOWN else []
    return [title, *(f"  {entry}" for entry in entries[:_SHOWN]), *more]
