"""Which samples make up batch k: a pure function of the seed and k, so that any step can be the first one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from ..errors import InputError
from .randomness import generator, permutation
from .samples import Modality, Sample

_ORDER, _CHOICE = "order", "choice"


class CrossModalitySampler:
    """P identities x K images of each modality per batch; an identity is in a batch once.

    An epoch draws as many images as the larger modality has: ceil(max(visible, infrared) / (P * K)) steps, images
    of unpaired identities left out. The identities are gone through in random order, all of them (but for a last
    incomplete batch) before any comes again. An identity with fewer than K images in a modality repeats them.

    Args:
        samples: both modalities, N samples in all.
        identities: P.
        images_per_identity: K.

    Attributes:
        steps_per_epoch: number of batches in an epoch.
        unpaired: identities that lack a modality and are never drawn, sorted.
        repeating: how many of the drawn identities have fewer than K images in a modality.

    Raises:
        InputError: fewer than P identities have both modalities.
    """

    def __init__(self, samples: Sequence[Sample], identities: int, images_per_identity: int, seed: int):
        by_identity = {modality: defaultdict(list) for modality in Modality}
        for i, sample in enumerate(samples):
            by_identity[sample.modality][sample.identity].append(i)
        visible, infrared = by_identity[Modality.VISIBLE], by_identity[Modality.INFRARED]
        paired = sorted(visible.keys() & infrared.keys())
        self.unpaired = sorted(visible.keys() ^ infrared.keys())
        if len(paired) < identities or min(identities, images_per_identity) < 1:
            raise InputError(
                f"a batch of {identities} identities x {images_per_identity} images cannot be drawn: {len(paired)} "
                f"identities have both a visible and an infrared image, {len(self.unpaired)} have one modality "
                "only; lower the number of identities per batch"
            )
        self._visible = [np.array(visible[i]) for i in paired]
        self._infrared = [np.array(infrared[i]) for i in paired]
        self._identities, self._images, self._seed = identities, images_per_identity, seed
        larger = max(sum(map(len, self._visible)), sum(map(len, self._infrared)))
        self.steps_per_epoch = -(-larger // (identities * images_per_identity))
        self.repeating = sum(
            min(len(v), len(r)) < images_per_identity for v, r in zip(self._visible, self._infrared, strict=True)
        )

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the visible and of the infrared images, (P * K,) each, aligned by identity."""
        steps_per_round = len(self._visible) // self._identities
        turn, place = divmod(step, steps_per_round)
        order = permutation(self._seed, _ORDER, turn, len(self._visible))
        chosen = order[place * self._identities :][: self._identities]
        random = generator(self._seed, _CHOICE, step)
        # np.resize cuts a permutation to K images, or goes through it again where there are fewer.
        pick = [
            [np.resize(random.permutation(images[i]), self._images) for i in chosen]
            for images in (self._visible, self._infrared)
        ]
        return np.concatenate(pick[0]), np.concatenate(pick[1])

    def rows(self, rank: int, world: int) -> slice:
        """The part of every batch that process `rank` of `world` takes: all K images of its identities.

        Raises:
            InputError: there are more processes than identities in a batch.
        """
        part = _share(self._identities, rank, world, "identities")
        return slice(part.start * self._images, part.stop * self._images)

    def describe(self) -> str:
        """An epoch in one sentence, with what is repeated and what is left out."""
        said = f"an epoch is {self.steps_per_epoch} steps of {self._identities} identities x {self._images} images "
        said += "per modality"
        if self.repeating:
            said += f"; {self.repeating} of {len(self._visible)} identities have fewer images and repeat them"
        if self.unpaired:
            said += f"; {len(self.unpaired)} identities lack a modality and are never drawn"
        return said


class ShuffledSampler:
    """Every sample once per epoch in random order; the last, incomplete batch of an epoch is left out.

    Raises:
        InputError: there are fewer samples than `batch_size`.
    """

    def __init__(self, samples: Sequence[Sample], batch_size: int, seed: int):
        if not 1 <= batch_size <= len(samples):
            raise InputError(f"a batch of {batch_size} cannot be drawn from {len(samples)} samples; change batch_size")
        self._count, self._batch_size, self._seed = len(samples), batch_size, seed
        self.steps_per_epoch = len(samples) // batch_size

    def batch(self, step: int) -> np.ndarray:
        """Indices of the batch, (batch_size,)."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = permutation(self._seed, _ORDER, epoch, self._count)
        return order[place * self._batch_size :][: self._batch_size]

    def rows(self, rank: int, world: int) -> slice:
        """The part of every batch that process `rank` of `world` takes.

        Raises:
            InputError: there are more processes than images in a batch.
        """
        return _share(self._batch_size, rank, world, "images")

    def describe(self) -> str:
        """An epoch in one sentence, with what is left out."""
        left = self._count % self._batch_size
        said = f"an epoch is {self.steps_per_epoch} steps of {self._batch_size} images"
        return f"{said}; {left} others are left out" if left else said


class SequentialSampler:
    """Every sample once, in order; the last batch may be short. For evaluation."""

    def __init__(self, samples: Sequence[Sample], batch_size: int):
        if batch_size < 1:
            raise InputError(f"batch_size {batch_size}: expected at least 1")
        self._count, self._batch_size = len(samples), batch_size
        self.steps_per_epoch = -(-len(samples) // batch_size)

    def batch(self, step: int) -> np.ndarray:
        """Indices of the batch, (batch_size,) or fewer."""
        return np.arange(step * self._batch_size, min((step + 1) * self._batch_size, self._count))


def _share(count: int, rank: int, world: int, what: str) -> slice:
    """One of `world` contiguous parts of a batch, whose sizes differ by one at most."""
    if world > count:
        raise InputError(
            f"a batch of {count} {what} cannot be divided among {world} processes: some would get none; "
            "start fewer processes or enlarge the batch"
        )
    return slice(count * rank // world, count * (rank + 1) // world)
