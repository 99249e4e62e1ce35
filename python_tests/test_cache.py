"""The decoded cache: what it holds, when it is made anew, and what can happen while it is made."""

import os
import resource
import shutil
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from toplight_ext.data import (
    IMAGENET_STD,
    Augmentation,
    Colour,
    Erasing,
    Generic,
    ImagePipeline,
    Modality,
    Sample,
    SequentialSampler,
    ShuffledSampler,
    Stream,
    Texture,
    cache,
    cached_images,
    with_mirrored_identities,
)
from toplight_ext.errors import InputError

pytest.importorskip("nvidia.dali")
Image = pytest.importorskip("PIL.Image")

SIZE = (64, 48)
FULL = Augmentation(Generic(pad=0.1), colour=Colour(), texture=Texture(), erasing=Erasing())


@pytest.fixture
def samples(tmp_path) -> list[Sample]:
    """PNG images of many sizes, one of them of the cache's size."""
    draw, samples = np.random.default_rng(0), []
    for i, size in enumerate([SIZE, (90, 50), (150, 120), (40, 30), (64, 100), (33, 77)]):
        low = Image.fromarray(draw.integers(256, size=(9, 7, 3), dtype=np.uint8))
        low.resize(size[::-1], Image.Resampling.BICUBIC).save(tmp_path / f"{i}.png")
        samples.append(Sample(tmp_path / f"{i}.png", i, Modality.VISIBLE, 1))
    return samples


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "cache"


def only_file(folder: Path) -> Path:
    (path,) = folder.iterdir()  # hidden ones too: nothing half-written is left
    return path


def batches(samples, views, images, threads=2, steps=4):
    order = ShuffledSampler(samples, 4, seed=1)
    stream = Stream(samples, order.batch, views, images=images)
    return [batch.images[0] for batch in ImagePipeline([stream], SIZE, steps, seed=2, threads=threads)]


def test_holds_every_image_resized_and_other_programs_can_read_it(samples, folder):
    numpy_files = pytest.importorskip("safetensors.numpy")
    images = cached_images(samples, folder, SIZE)
    for sample, image in zip(samples, images, strict=True):
        expected = Image.open(sample.path).resize(SIZE[::-1], Image.Resampling.BILINEAR)
        assert np.abs(image.astype(int) - np.asarray(expected, int)).max() <= 1
    assert np.array_equal(numpy_files.load_file(only_file(folder))["images"], images)
    with pytest.raises(ValueError, match="read-only"):
        images[0] = 0


def test_batches_equal_those_from_the_files_but_for_the_crop(samples, folder):
    """Whole images at the network's size: bit-identical. Crops: cut from the resized image."""
    level = 1 / 255 / min(IMAGENET_STD)
    images = cached_images(samples, folder, SIZE)
    whole = (None, Augmentation(Generic((1, 1), (1, 1), 0, 0, 0, 0)))
    for kept, read in zip(batches(samples, whole, images), batches(samples, whole, None), strict=True):
        assert torch.equal(kept[0], read[0])
        assert (kept[1] - read[1]).abs().max() < 1.01 * level
    for (kept,), (read,) in zip(batches(samples, (FULL,), images), batches(samples, (FULL,), None), strict=True):
        assert 0 < (kept - read).abs().mean() < 0.3 * read.std()


def test_batches_are_bit_identical_for_any_thread_count_and_size_of_the_cache(samples, folder):
    for size in (SIZE, (80, 60)):
        first, *others = (
            batches(samples, (FULL, None), cached_images(samples, folder, size), threads) for threads in (1, 2, 4)
        )
        for other in others:
            assert all(torch.equal(a, b) for x, y in zip(first, other, strict=True) for a, b in zip(x, y, strict=True))
    assert len(list(folder.iterdir())) == 2


def test_mirrored_identities_are_cached_as_their_files_and_mirrored_in_training(samples, folder):
    doubled = with_mirrored_identities(samples)
    images = cached_images(doubled, folder, SIZE)
    plain, mirrored = images[: len(samples)], images[len(samples) :]
    np.testing.assert_array_equal(plain, mirrored)
    still = Augmentation(Generic((1, 1), (1, 1), 0, 0, 0, 0))
    order = SequentialSampler(doubled, len(doubled))
    stream = Stream(doubled, order.batch, (still,), images=images)
    (batch,) = ImagePipeline([stream], SIZE, steps=1)
    seen = batch.images[0][0]
    torch.testing.assert_close(seen[len(samples) :], seen[: len(samples)].flip(-1), atol=0.02, rtol=0)


def test_one_that_fits_is_used_as_it_is(samples, folder):
    cached_images(samples, folder, SIZE)
    path = only_file(folder)
    before = path.stat()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cached_images([Sample(s.path, "other", Modality.INFRARED, 3) for s in samples], folder, SIZE)
    assert path.stat() == before
    cached_images(samples[:3], folder, SIZE)
    assert len(list(folder.iterdir())) == 2


def change_an_image(samples, path):
    Image.new("RGB", (50, 50), "red").save(samples[2].path)


def cut_off(samples, path):
    os.truncate(path, path.stat().st_size - 1)


def cut_off_in_the_header(samples, path):
    os.truncate(path, 20)


def empty(samples, path):
    os.truncate(path, 0)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (change_an_image, "images that have changed"),
        (cut_off, r"damaged: \d+ bytes instead of \d+"),
        (cut_off_in_the_header, "damaged: 20 bytes"),
        (empty, "damaged: 0 bytes"),
    ],
)
def test_stale_or_damaged_is_noticed_and_made_anew(samples, folder, damage, reason):
    before = cached_images(samples, folder, SIZE).copy()
    damage(samples, only_file(folder))
    with pytest.warns(UserWarning, match=reason):
        after = cached_images(samples, folder, SIZE)
    only_file(folder)
    changed = [i for i in range(len(samples)) if not np.array_equal(before[i], after[i])]
    assert changed == ([2] if damage is change_an_image else [])


def test_a_foreign_file_is_named_and_kept(samples, folder):
    cached_images(samples, folder, SIZE)
    path = only_file(folder)
    path.write_bytes(b"somebody's letter" * 100)
    with pytest.raises(InputError, match=rf"{path}: not a cache of decoded images"):
        cached_images(samples, folder, SIZE)
    assert path.read_bytes() == b"somebody's letter" * 100


def test_a_bad_image_is_named_and_leaves_nothing(samples, folder):
    samples[4].path.write_bytes(samples[4].path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"4\.png: truncated PNG"):
        cached_images(samples, folder, SIZE)
    samples[1].path.unlink()
    with pytest.raises(InputError, match=r"1\.png: cannot read the image: No such file"):
        cached_images(samples, folder, SIZE)
    assert not list(folder.iterdir())


def test_no_room_is_said_and_leaves_nothing(samples, folder, monkeypatch):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, limits[1]))  # the file would have 55,000 bytes
    try:
        with pytest.raises(InputError, match=r"cannot write the decoded images.*File too large"):
            cached_images(samples, folder, SIZE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(folder.iterdir())
    little = shutil.disk_usage(folder)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: little)
    with pytest.raises(InputError, match=r"0\.1 MB: No space left on device; make room"):
        cached_images(samples, folder, SIZE)
    assert not list(folder.iterdir())


def test_several_at_once_build_one(samples, folder, monkeypatch):
    """The lock belongs to the open folder, so that threads exclude one another as processes do."""
    many, builds, build = samples * 50, [], cache._build
    monkeypatch.setattr(cache, "_build", lambda *arguments: [builds.append(arguments), build(*arguments)])
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: cached_images(many, folder, SIZE), range(3)))
    only_file(folder)
    assert all(np.array_equal(images[:6], images[-6:]) and np.array_equal(images, found[0]) for images in found)
    assert len(builds) == 1


def test_a_build_that_was_killed_is_never_believed_and_is_cleared_away(samples, folder):
    many = samples * 200
    script = (
        "import sys; from test_cache import *\n"
        "cached_images([Sample(Path(p), 0, Modality.VISIBLE, 1) for p in sys.argv[2:]] * 200, sys.argv[1], SIZE)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, folder, *(sample.path for sample in samples)], cwd=Path(__file__).parent
    )
    while not (folder.exists() and any(path.stat().st_size > 10_000 for path in folder.iterdir())):
        assert child.poll() is None
        time.sleep(0.001)
    child.kill()
    child.wait()
    assert only_file(folder).name.startswith(".")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = cached_images(many, folder, SIZE)
    assert not only_file(folder).name.startswith(".")
    assert np.array_equal(images[-6:], cached_images(samples, folder, SIZE))


def test_a_folder_that_cannot_be_one_is_named(samples, tmp_path):
    with pytest.raises(InputError, match=r"0\.png/\S+: cannot read the cache: Not a directory"):
        cached_images(samples, tmp_path / "0.png", SIZE)
    with pytest.raises(InputError, match=r"cannot write the decoded images.*(Permission denied|Read-only|No such)"):
        cached_images(samples, "/proc/cache", SIZE)
