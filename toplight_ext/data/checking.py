"""`toplight data check`: count and cross-check a data set without changing anything."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .datasets import Dataset, find_dataset
from .examination import examine, find_plain, find_undecodable
from .findings import Facts, Finding, count_images, find_all
from .samples import Listing, Modality, Published, Sample

_SHOWN = 10  # findings of a kind that the text lists; the JSON has all
_HEAD = ("split", "modality", "camera", "identities", "images", "published")


@dataclass(frozen=True)
class SplitCount:
    """What one split holds, beside what its authors say; `images` is as `findings.count_images` counts them."""

    identities: int
    images: Mapping[tuple[Modality, int | None], int]
    published: Published | None

    def to_json(self) -> dict[str, Any]:
        published = self.published.images if self.published else {}
        return {
            "identities": self.identities,
            "published_identities": self.published.identities if self.published else None,
            "images": _total(self.images),
            "by_camera": [
                {"modality": m.value, "camera": camera, "images": count, "published": published.get((m, camera))}
                for (m, camera), count in self.images.items()
            ],
        }

    def rows(self) -> Iterator[tuple[str, ...]]:
        """Cells of the table from the modality on; a modality's total goes without saying where it has one camera."""
        published = self.published.images if self.published else {}
        for (modality, camera), count in self.images.items():
            cameras = [key[1] for key in self.images if key[0] is modality and key[1] is not None]
            told = published.get((modality, camera))
            if camera is not None or len(cameras) > 1 or told is not None:
                name = "all" if camera is None else str(camera)
                yield modality.value, name, "", f"{count:,}", "" if told is None else f"{told:,}"
        people = f"{self.identities:,}" + (f" of {self.published.identities:,}" if self.published else "")
        yield "all", "all", people, f"{_total(self.images):,}", f"{_total(published):,}" if published else ""


def _total(images: Mapping[tuple[Modality, int | None], int]) -> int:
    """Of the modalities, or of their cameras where they have no rows of their own."""
    return sum(count for (_, camera), count in images.items() if camera is None) or sum(images.values())


@dataclass(frozen=True)
class CheckReport:
    """What was found.

    Attributes:
        root: of the data set; paths below it are shown without it.
        images: number of images by (modality, camera), every image once.
        identities: number of identities.
        splits: what each split holds.
        findings: errors, warnings and notes.
        decoded: whether the images were decoded, or their headers read.
    """

    name: str
    root: Path
    images: Mapping[tuple[Modality, int | None], int]
    identities: int
    splits: Mapping[str | None, SplitCount]
    findings: list[Finding]
    decoded: bool

    @property
    def ok(self) -> bool:
        """Nothing found that is an error."""
        return not any(finding.level == "error" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        total = SplitCount(self.identities, self.images, None).to_json()
        return {
            "ok": self.ok,
            "dataset": self.name,
            "root": str(self.root),
            "identities": total["identities"],
            "images": total["images"],
            "by_camera": [
                {key: row[key] for key in ("modality", "camera", "images")}
                for row in total["by_camera"]
                if row["camera"] is not None
            ],
            "splits": [{"split": split, **count.to_json()} for split, count in self.splits.items()],
            "findings": [
                {
                    "level": finding.level,
                    "kind": finding.kind,
                    "title": finding.title,
                    "entries": [{"where": entry.where, "what": entry.what} for entry in finding.entries],
                }
                for finding in self.findings
            ],
            "decoded": self.decoded,
        }

    def table(self) -> str:
        """The report as text."""
        lines = [f"{self.name}: {self.root}", *self._counts()]
        for finding in self.findings:
            lines += ["", f"{finding.level}: {finding.title} ({len(finding.entries):,})"]
            lines += [f"  {self._short(str(entry))}" for entry in finding.entries[:_SHOWN]]
            if len(finding.entries) > _SHOWN:
                lines += [f"  ... and {len(finding.entries) - _SHOWN:,} more (--json lists all)"]
        how = "every image decoded" if self.decoded else "headers read, not decoded"
        return "\n".join([*lines, "", f"{'ok' if self.ok else 'not ok'} ({how})"])

    def _counts(self) -> list[str]:
        """The table of numbers; neighbouring splits that hold the same share their rows."""
        rows = [_HEAD]
        for cells, group in itertools.groupby(self.splits.items(), key=lambda item: tuple(item[1].rows())):
            splits = [split or "" for split, _ in group]
            name = splits[0] if len(splits) == 1 else f"{splits[0]} to {splits[-1]}"
            rows += [(name if i == 0 else "", *row) for i, row in enumerate(cells)]
        if not any(row[-1] for row in rows[1:]):
            rows = [row[:-1] for row in rows]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        return ["  ".join(_aligned(row, widths)).rstrip() for row in rows]

    def _short(self, text: str) -> str:
        return text.replace(f"{self.root if self.root.is_dir() else self.root.parent}/", "")


def _aligned(row: tuple[str, ...], widths: list[int]) -> Iterator[str]:
    """Split and modality to the left, numbers to the right."""
    for i, (cell, width) in enumerate(zip(row, widths, strict=True)):
        yield cell.ljust(width) if i < 2 else cell.rjust(width)


def check_dataset(name: str, root: str | Path, split: str | None = None, decode: bool = False) -> CheckReport:
    """Check a data set by name: one split of it, or all that are there.

    Reads every image's bytes and header, and decodes it if asked to (which needs DALI and Pillow).

    Raises:
        InputError: no such data set, or its root or a list as a whole cannot be used: there is nothing to check.
    """
    dataset, root = find_dataset(name), Path(root)
    complete = split is None
    splits = [split] if not complete else dataset.splits(root) or [None]
    listings = {split: dataset.read(root, split) for split in splits}
    facts = _read(dataset, listings, complete, decode)
    counts = {
        split: SplitCount(_identities(listing.samples), count_images(listing.samples), dataset.published.get(split))
        for split, listing in listings.items()
    }
    samples = facts.samples.values()
    images = count_images(samples)
    return CheckReport(name, root.resolve(), images, _identities(samples), counts, find_all(facts), decode)


def _read(dataset: Dataset, listings: Mapping[str | None, Listing], complete: bool, decode: bool) -> Facts:
    samples = {sample.path: sample for listing in listings.values() for sample in listing.samples}
    images = examine(list(samples))
    sound = {path: image for path, image in images.items() if image.header is not None}
    undecodable = list(find_undecodable(list(sound))) if decode else []
    decoded = {path: sound[path] for path in sound.keys() - set(undecodable)} if decode else {}
    plain = sorted(find_plain(decoded))
    return Facts(dataset, listings, complete, samples, images, undecodable, plain)


def _identities(samples: Iterable[Sample]) -> int:
    return len({sample.identity for sample in samples})
