"""What `toplight data check` looks for: every check is a function from the facts to what it found."""

from __future__ import annotations

import functools
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .datasets import Dataset
from .examination import Examined
from .samples import Listing, Modality, Problem, Sample
from .tree import natural_key

# Our choice of what is suspicious, in pixels: a shorter side below this, and an area that is this many times larger
# or smaller than the median.
SMALL_SIDE = 16
OUTLYING = 16

_ENDINGS = {"JPEG": (".jpg", ".jpeg"), "PNG": (".png",), "BMP": (".bmp",)}
_NAMED = 3  # images of equal bytes that are named; the rest of the group is counted


@dataclass(frozen=True)
class Finding:
    """One kind of thing that was found, with everything of that kind.

    level: an error makes the data set unfit; a warning wants a look; a note says what will happen.
    """

    level: Literal["error", "warning", "note"]
    kind: str
    title: str
    entries: list[Problem]


@dataclass(frozen=True)
class Facts:
    """What is known when everything was read once."""

    dataset: Dataset
    listings: Mapping[str | None, Listing]  # by split
    complete: bool  # all splits are there that were looked for, rather than the one that was asked for
    samples: Mapping[Path, Sample]  # every image once
    images: Mapping[Path, Examined]
    undecodable: list[Path]
    plain: list[Path]  # of one colour

    @functools.cached_property
    def sound(self) -> dict[Path, Examined]:
        return {path: image for path, image in self.images.items() if image.header is not None}

    @functools.cached_property
    def equal(self) -> list[list[Path]]:
        """Groups of two and more images with the same bytes."""
        groups = defaultdict(list)
        for path, image in self.sound.items():
            groups[image.digest].append(path)
        return [group for group in groups.values() if len(group) > 1]

    @functools.cached_property
    def splits(self) -> dict[Path, list[str | None]]:
        """The splits that an image is in."""
        found = defaultdict(list)
        for split, listing in self.listings.items():
            for sample in listing.samples:
                found[sample.path].append(split)
        return found


def find_all(facts: Facts) -> list[Finding]:
    """All findings that are not empty, errors first."""
    found = (Finding(level, kind, title, list(check(facts))) for level, kind, title, check in _CHECKS)
    return [finding for finding in found if finding.entries]


def count_images(samples: Iterable[Sample]) -> dict[tuple[Modality, int | None], int]:
    """Images by modality and camera; camera None is all of the modality, the first of its rows."""
    counts = Counter((sample.modality, sample.camera) for sample in samples)
    totals = Counter({(modality, None): 0 for modality in Modality})
    for (modality, _), count in counts.items():
        totals[modality, None] += count
    return {key: count for key, count in sorted((counts + totals).items(), key=_by_modality)}


def _by_modality(item) -> tuple:
    (modality, camera), _ = item
    return modality is Modality.INFRARED, camera is not None, camera or 0


def _unusable(facts: Facts) -> Iterator[Problem]:
    yield from dict.fromkeys(problem for listing in facts.listings.values() for problem in listing.problems)
    yield from (Problem(str(path), image.error) for path, image in facts.images.items() if image.header is None)
    yield from (Problem(str(path), "the image cannot be decoded") for path in facts.undecodable)


def _unpublished(facts: Facts) -> Iterator[Problem]:
    """Numbers that differ from the published ones."""
    for split, published in facts.dataset.published.items():
        if split not in facts.listings:
            if facts.complete:
                yield Problem(split, "this split is missing")
            continue
        samples = facts.listings[split].samples
        identities, images = len({sample.identity for sample in samples}), count_images(samples)
        if identities != published.identities:
            yield Problem(split, f"{identities:,} identities, published are {published.identities:,}")
        for (modality, camera), count in published.images.items():
            found = images.get((modality, camera), 0)
            if found != count:
                where = modality.value if camera is None else f"{modality.value}, camera {camera}"
                yield Problem(f"{split}, {where}", f"{found:,} images, published are {count:,}")


def _leaks(level: str) -> Callable[[Facts], Iterator[Problem]]:
    """Identities that a network is trained on and tested with, where that has this level."""

    def check(facts: Facts) -> Iterator[Problem]:
        # As text: a name that no number can be makes text of all in its list, and 7 is still the 7 of another one.
        identities = {split: {str(s.identity) for s in listing.samples} for split, listing in facts.listings.items()}
        for training, other in _pairs(facts) if facts.dataset.leak == level else ():
            for identity in sorted(identities[training] & identities[other], key=natural_key):
                yield Problem(f"identity {identity}", f"is in {training} and in {other}")

    return check


def _pairs(facts: Facts) -> list[tuple[str, str]]:
    """A training split and another one of the same trial, if there are trials."""
    named = [split for split in facts.listings if split is not None]
    training = [split for split in named if split.startswith("train")]
    return [
        (one, other) for one in training for other in named if other not in training and _trial(one) == _trial(other)
    ]


def _trial(split: str) -> str | None:
    number = re.search(r"[0-9]+$", split)
    return number[0] if number else None


def _one_modality(facts: Facts) -> Iterator[Problem]:
    """Identities that lack a modality in a split that has both."""
    found = []
    for listing in facts.listings.values():
        seen = {m: {s.identity for s in listing.samples if s.modality is m} for m in Modality}
        for modality, identities in seen.items():
            paired = set.intersection(*seen.values())
            if all(seen.values()):
                found += [Problem(f"identity {i}", f"has {modality.value} images only") for i in identities - paired]
    yield from sorted(dict.fromkeys(found), key=lambda problem: natural_key(problem.where))


def _one_identity(facts: Facts, group: list[Path]) -> bool:
    return len({facts.samples[path].identity for path in group}) == 1


def _one_side(facts: Facts, group: list[Path]) -> bool:
    """No image of the group is trained on while another one is tested with."""
    for training, other in _pairs(facts):
        trained = {path for path in group if training in facts.splits[path]}
        tested = {path for path in group if other in facts.splits[path]}
        if trained and tested and len(trained | tested) > 1:
            return False
    return True


def _mislabelled(facts: Facts) -> Iterator[Problem]:
    groups = (group for group in facts.equal if not _one_identity(facts, group))
    yield from (_named(_varied(facts, group), _place(facts)) for group in groups)


def _leaked(facts: Facts) -> Iterator[Problem]:
    groups = (group for group in facts.equal if _one_identity(facts, group))
    yield from (_named(_varied(facts, group), _place(facts)) for group in groups if not _one_side(facts, group))


def _repeated(facts: Facts) -> Iterator[Problem]:
    groups = (group for group in facts.equal if _one_identity(facts, group))
    yield from (_named(group, str) for group in groups if _one_side(facts, group))


def _varied(facts: Facts, group: list[Path]) -> list[Path]:
    """The group with one image of every identity and split first, so that a few names tell what is wrong."""
    firsts = {(facts.samples[path].identity, *facts.splits[path]): path for path in reversed(group)}
    chosen = set(firsts.values())
    return sorted(group, key=lambda path: path not in chosen)


def _named(group: list[Path], place: Callable[[Path], str]) -> Problem:
    first, *others = map(place, group)
    more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
    return Problem(first, f"same bytes as {', '.join(others[:_NAMED])}{more}")


def _place(facts: Facts) -> Callable[[Path], str]:
    """An image with its identity and, if it is in one alone, its split."""

    def place(path: Path) -> str:
        splits = facts.splits[path]
        split = f", {splits[0]}" if len(splits) == 1 and splits[0] else ""
        return f"{path} (identity {facts.samples[path].identity}{split})"

    return place


def _misnamed(facts: Facts) -> Iterator[Problem]:
    for path, image in facts.sound.items():
        if path.suffix.lower() not in _ENDINGS[image.header.format]:
            yield Problem(str(path), f"is a {image.header.format}")


def _small(facts: Facts) -> Iterator[Problem]:
    for path, image in facts.sound.items():
        if min(image.header.width, image.header.height) < SMALL_SIDE:
            yield Problem(str(path), _size(image))


def _outlying(facts: Facts) -> Iterator[Problem]:
    areas = {path: image.header.width * image.header.height for path, image in facts.sound.items()}
    median = statistics.median(areas.values()) if areas else 0
    for path, area in areas.items():
        if not median / OUTLYING <= area <= median * OUTLYING:
            yield Problem(str(path), _size(facts.images[path]))


def _size(image: Examined) -> str:
    return f"{image.header.width}x{image.header.height} pixels"


def _plain(facts: Facts) -> Iterator[Problem]:
    yield from (Problem(str(path), "one colour") for path in facts.plain)


def _deep(facts: Facts) -> Iterator[Problem]:
    for path, image in facts.sound.items():
        if image.header.bits > 8:
            yield Problem(str(path), f"{image.header.bits} bits")


def _cmyk(facts: Facts) -> Iterator[Problem]:
    yield from (Problem(str(path), "four channels") for path, image in facts.sound.items() if image.header.cmyk)


def _rotated(facts: Facts) -> Iterator[Problem]:
    for path, image in facts.sound.items():
        if image.header.orientation != 1:
            yield Problem(str(path), f"EXIF orientation {image.header.orientation}")


_CHECKS: tuple[tuple[Literal["error", "warning", "note"], str, str, Callable[[Facts], Iterator[Problem]]], ...] = (
    ("error", "unusable", "rows, files or images that cannot be used", _unusable),
    ("error", "unpublished", "numbers that differ from the published ones", _unpublished),
    ("error", "leak", "identities in training and test", _leaks("error")),
    ("warning", "leak", "identities of one name in training and test: a leak if it is one person", _leaks("warning")),
    ("warning", "mislabelled", "groups of images with the same bytes under several identities", _mislabelled),
    ("warning", "leaked image", "groups of images with the same bytes in training and test", _leaked),
    ("warning", "repeated", "groups of images with the same bytes, of one identity and split", _repeated),
    ("warning", "one modality", "identities in one modality only, which training leaves out", _one_modality),
    ("warning", "misnamed", "images whose ending lies; they are read as what they are", _misnamed),
    ("warning", "small", f"images with a side below {SMALL_SIDE} pixels", _small),
    ("warning", "one colour", "images of one colour", _plain),
    ("note", "outlying", f"images {OUTLYING} times larger or smaller than the median", _outlying),
    ("note", "deep", "images of more than 8 bits a sample, which are reduced to 8", _deep),
    ("note", "cmyk", "images in CMYK, which become RGB", _cmyk),
    ("note", "rotated", "images with an EXIF rotation, which are turned upright", _rotated),
)
