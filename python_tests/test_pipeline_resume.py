"""A batch is a function of (streams, size, seed, step) alone: over processes, threads, and a run that was killed."""

import collections
import hashlib
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from toplight_ext.data import (
    Augmentation,
    Colour,
    CrossModalitySampler,
    Erasing,
    Generic,
    ImagePipeline,
    Modality,
    Sample,
    Stream,
    Texture,
    cached_images,
)
from toplight_ext.files import write_text

pytest.importorskip("nvidia.dali")
Image = pytest.importorskip("PIL.Image")

SIZE = (48, 32)
STEPS = 250
FULL = Augmentation(
    Generic(pad=0.1),
    colour=Colour(channel_exchange=0.3),
    texture=Texture(),
    erasing=Erasing(random_fill=True),
)


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> list[Sample]:
    """Six identities with four images of each modality, of many sizes, as JPEG."""
    folder, draw = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for sample in listed(folder):
        low = draw.integers(256, size=(5, 4, 3), dtype=np.uint8)
        size = tuple(int(n) for n in draw.integers(30, 90, 2))
        Image.fromarray(low).resize(size, Image.Resampling.BICUBIC).save(sample.path)
    return listed(folder)


def listed(folder: Path) -> list[Sample]:
    return [
        Sample(folder / f"{modality.value}{identity}{view}.jpg", identity, modality, 1)
        for identity in range(6)
        for modality in Modality
        for view in range(4)
    ]


def batches(samples, threads=2, start=0, steps=STEPS, rank=0, world=1) -> ImagePipeline:
    """What the stages train on: pairs of modalities; two views that share their geometry; decoded images too."""
    pairs = CrossModalitySampler(samples, 5, 2, seed=1)
    rows = pairs.rows(rank, world)
    images = cached_images(samples, samples[0].path.parent / "cache", (60, 40))
    streams = [
        Stream(samples, lambda step: pairs.batch(step)[0], (FULL, FULL), share_geometry=True, rows=rows),
        Stream(samples, lambda step: pairs.batch(step)[1], (FULL,), rows=rows, images=images),
    ]
    return ImagePipeline(streams, SIZE, steps, seed=5, start_step=start, threads=threads)


@pytest.mark.parametrize("world", [2, 3, 4])
def test_the_parts_of_all_processes_are_the_batch_of_one(samples, world):
    parts = [list(batches(samples, start=3, steps=2, rank=rank, world=world)) for rank in range(world)]
    for step, whole in enumerate(batches(samples, start=3, steps=2)):
        for stream in range(2):
            joined = np.concatenate([part[step].indices[stream] for part in parts])
            assert np.array_equal(joined, whole.indices[stream])
            for view, images in enumerate(whole.images[stream]):
                assert torch.equal(torch.cat([part[step].images[stream][view] for part in parts]), images)


def digest(batch) -> str:
    found = hashlib.sha256()
    for part in (*batch.images[0], *batch.images[1]):
        found.update(part.numpy())
    for rows in batch.indices:
        found.update(rows.tobytes())
    return found.hexdigest()


def test_killed_and_resumed_runs_are_the_run_that_was_not(samples, tmp_path):
    """SIGKILL at a random moment with one thread, then with two; four threads go on to the end."""
    moment = random.Random()
    log, lines = tmp_path / "log", 0
    for threads in (1, 2, 4):
        child = subprocess.Popen([sys.executable, __file__, samples[0].path.parent, tmp_path, str(threads)])
        if threads < 4:
            enough = lines + moment.randint(2, 40)
            while lines < enough and child.poll() is None:
                time.sleep(moment.uniform(0, 0.02))
                lines = len(log.read_bytes().splitlines()) if log.exists() else 0
            child.kill()
            assert child.wait() == -9
            assert 0 < int((tmp_path / "step").read_text()) < STEPS - 1
        else:
            assert child.wait() == 0
    found = collections.defaultdict(set)
    for line in log.read_text().splitlines():
        step, hashed = line.split()
        found[int(step)].add(hashed)
    assert dict(found) == {step: {digest(batch)} for step, batch in enumerate(batches(samples))}
    assert len(set.union(*found.values())) == STEPS


def run_and_log(images: str, folder: str, threads: str) -> None:
    """From the step that is saved on: hash every batch, then save the number of the next one."""
    saved = Path(folder, "step")
    start = int(saved.read_text()) if saved.exists() else 0
    with Path(folder, "log").open("a") as log:
        for step, batch in enumerate(batches(listed(Path(images)), int(threads), start, STEPS - start), start):
            print(step, digest(batch), file=log, flush=True)
            write_text(saved, str(step + 1))


if __name__ == "__main__":
    run_and_log(*sys.argv[1:])
