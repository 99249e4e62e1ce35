"""The DALI pipeline: every augmentation against another definition, exact resume, and named errors.

Oracles: Pillow, SciPy, colorsys and torchvision, fed with the factors the pipeline drew.
"""

import colorsys
import dataclasses
import gc
import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from toplight_ext.data import (
    Augmentation,
    Colour,
    Generic,
    ImagePipeline,
    Modality,
    Sample,
    SequentialSampler,
    ShuffledSampler,
    Stream,
    Texture,
)
from toplight_ext.data import parameters as draw
from toplight_ext.data.randomness import generator
from toplight_ext.errors import InputError

pytest.importorskip("nvidia.dali")
Image = pytest.importorskip("PIL.Image")
ImageEnhance = pytest.importorskip("PIL.ImageEnhance")

SIZE = (64, 48)
SEED = 3
RAW = {"mean": (0, 0, 0), "std": (1 / 255,) * 3}  # grey levels instead of normalised values
STILL = Generic((1, 1), (1, 1), 0, 0, 0, 0)


def smooth_image(seed: int, size: tuple[int, int]) -> np.ndarray:
    """Colours that vary over a few pixels, full range, uint8 (H, W, 3)."""
    noise = np.random.default_rng(seed).standard_normal((*size, 3))
    smooth = ndimage.gaussian_filter(noise, (2.5, 2.5, 0))
    return np.uint8(255 * (smooth - smooth.min()) / np.ptp(smooth))


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> list[Sample]:
    """PNG images, smaller than, equal to and larger than the network's size."""
    folder = tmp_path_factory.mktemp("images")
    sizes = [SIZE, (64, 48), (90, 50), (150, 120), (40, 30), (64, 100), (128, 96), (33, 77)]
    samples = []
    for i, size in enumerate(sizes):
        Image.fromarray(smooth_image(i, size)).save(folder / f"{i}.png")
        samples.append(Sample(folder / f"{i}.png", i, Modality.VISIBLE, 1))
    return samples


def pixels(sample: Sample) -> np.ndarray:
    return np.asarray(Image.open(sample.path).convert("RGB"))


def resized(image: np.ndarray, start=(0, 0), end=(1, 1)) -> np.ndarray:
    """The window between two points (y, x as parts of the image), by Pillow, edge pixels repeated outside."""
    border = 60
    (top, left), (bottom, right) = (np.array(point) * image.shape[:2] + border for point in (start, end))
    padded = Image.fromarray(np.pad(image, [(border, border), (border, border), (0, 0)], mode="edge"))
    return np.asarray(padded.resize(SIZE[::-1], Image.Resampling.BILINEAR, (left, top, right, bottom)), dtype=float)


def show(samples, *views, step=0, **options) -> list[np.ndarray]:
    """One batch of all samples: per view (N, H, W, 3) in grey levels."""
    stream = Stream(samples, lambda _: np.arange(len(samples)), views)
    with ImagePipeline([stream], SIZE, steps=1, seed=SEED, start_step=step, **RAW, **options) as batches:
        (batch,) = batches
    return [view.permute(0, 2, 3, 1).numpy() for view in batch.images[0]]


def factors(kind: str, ranges, count: int):
    return getattr(draw, f"draw_{kind}")(ranges, generator(SEED, kind, 0, 0, 0), count)


def test_evaluation_view_is_pillows_resize(samples):
    (images,) = show(samples, None)
    for sample, image in zip(samples, images, strict=True):
        assert np.abs(image - resized(pixels(sample))).max() <= 1
    assert np.array_equal(images[0], pixels(samples[0]))  # nothing to resize: nothing changes


@pytest.mark.parametrize("pad", [0.0, 0.2])
def test_crop_and_flip(samples, pad):
    ranges = Generic((0.3, 0.9), (0.6, 1.6), pad, 0, 0, 0.5)
    (images,) = show(samples, Augmentation(ranges))
    drawn = factors("generic", ranges, len(samples))
    assert drawn.flip.any() and not drawn.flip.all()
    assert ((drawn.start < 0) | (drawn.end > 1)).any() == (pad > 0)
    for sample, image, start, end, flip in zip(samples, images, *drawn[:3], strict=True):
        expected = resized(pixels(sample), start, end)
        assert np.abs(image - (expected[:, ::-1] if flip else expected)).max() <= 1


def test_windows_fill_their_ranges():
    ranges = Generic((0.4, 0.8), (0.5, 2.0), 0.0, 0.5, 0.1, 0.25)
    drawn = factors("generic", ranges, 4000)
    extent = drawn.end - drawn.start
    assert drawn.start.min() >= 0 and drawn.end.max() <= 1 + 1e-9
    uncut = (extent < 1).all(axis=1)
    area, ratio = extent.prod(axis=1)[uncut], (extent[:, 1] / extent[:, 0])[uncut]
    assert 0.4 <= area.min() < 0.41 and 0.79 < area.max() <= 0.8
    assert 0.5 <= ratio.min() < 0.52 and 1.9 < ratio.max() <= 2
    assert abs(drawn.flip.mean() - 0.25) < 0.03 and abs(drawn.deform.mean() - 0.5) < 0.03
    assert 0.099 < np.abs(drawn.corners).max() <= 0.1


def test_deform(samples):
    """Against SciPy's interpolation at positions from the homography; the homography against the drawn corners."""
    ranges = Generic((1, 1), (1, 1), 0, 0.6, 0.15, 0)
    (images,) = show(samples, Augmentation(ranges))
    (plain,) = show(samples, None)
    drawn = factors("generic", ranges, len(samples))
    height, width = SIZE
    square = np.array([(0, 0, 1), (width, 0, 1), (width, height, 1), (0, height, 1)])
    y, x = np.mgrid[:height, :width] + 0.5
    for before, after, moved, corners in zip(plain, images, drawn.deform, drawn.corners, strict=True):
        if not moved:
            assert np.array_equal(before, after)
            continue
        (homography,) = draw.homographies(corners[None], SIZE)
        at = square @ homography.T
        assert np.allclose(at[:, :2] / at[:, 2:], square[:, :2] + corners * (width, height))
        at = np.stack([x, y, np.ones(SIZE)], axis=-1) @ homography.T
        place = (at[..., 1] / at[..., 2] - 0.5, at[..., 0] / at[..., 2] - 0.5)
        expected = np.stack([ndimage.map_coordinates(before[..., c], place, order=1, mode="nearest") for c in range(3)])
        assert np.abs(after - expected.transpose(1, 2, 0)).max() <= 2


def test_colour(samples):
    """Step by step, each as its textbook form, rounded and clamped once at the end."""
    ranges = Colour(0.3, 0.4, 0.5, 40, 0.7, 0.1)
    (images,) = show(samples, Augmentation(STILL, colour=ranges))
    (plain,) = show(samples, None)
    drawn = factors("colour", ranges, len(samples))
    assert len({tuple(row) for row in drawn.channels}) > 2
    for k, (before, after) in enumerate(zip(plain, images, strict=True)):
        image = before * drawn.brightness[k]
        image = 127.5 + drawn.contrast[k] * (image - 127.5)
        grey = (image @ (0.299, 0.587, 0.114))[..., None]
        image = grey + drawn.saturation[k] * (image - grey)
        luma, i, q = np.vectorize(colorsys.rgb_to_yiq)(*np.moveaxis(image / 255, -1, 0))
        turned = (i + 1j * q) * np.exp(1j * np.deg2rad(drawn.hue[k]))
        # Pixel by pixel through the inverse of colorsys, which clamps: invert its linear map instead.
        basis = np.array([colorsys.rgb_to_yiq(*row) for row in np.eye(3)]).T
        image = 255 * np.stack([luma, turned.real, turned.imag], axis=-1) @ np.linalg.inv(basis).T
        image = np.stack([image[..., c] + drawn.shift[k, j] for j, c in enumerate(drawn.channels[k])], axis=-1)
        assert np.abs(after - np.clip(np.rint(image), 0, 255)).max() <= 2


def test_channel_exchange_shows_one_channel_three_times(samples):
    ranges = Colour(0, 0, 0, 0, 0, 0, channel_exchange=0.7)
    (images,) = show(samples, Augmentation(STILL, colour=ranges))
    (plain,) = show(samples, None)
    chosen = set()
    for before, after in zip(plain, images, strict=True):
        if not np.array_equal(before, after):
            (source,) = (c for c in range(3) if all(np.array_equal(before[..., c], after[..., k]) for k in range(3)))
            chosen.add(source)
    assert len(chosen) >= 2 and any(map(np.array_equal, plain, images))


def test_saturation_and_brightness_are_torchvisions(samples):
    functional = pytest.importorskip("torchvision.transforms.v2.functional")
    (plain,) = show(samples, None)
    for name in ("brightness", "saturation"):
        ranges = Colour(**{**dataclasses.asdict(Colour(0, 0, 0, 0, 0, 0)), name: 0.5})
        (images,) = show(samples, Augmentation(STILL, colour=ranges))
        drawn = getattr(factors("colour", ranges, len(samples)), name)
        for before, after, factor in zip(plain, images, drawn, strict=True):
            image = torch.from_numpy(before).permute(2, 0, 1).to(torch.uint8)
            expected = getattr(functional, f"adjust_{name}")(image, float(factor)).permute(1, 2, 0).numpy()
            assert np.abs(after - expected).max() <= 1


def test_defocus_and_sharpen(samples):
    """SciPy with a disc sampled 15 x 15 times per pixel; Pillow's sharpness enhancement inside the border."""
    ranges = Texture(0, (50, 50), 0.7, (1.0, 3.0), 0, (1, 1), 0)
    (images,) = show(samples, Augmentation(STILL, texture=ranges))
    (plain,) = show(samples, None)
    radii = factors("texture", ranges, len(samples)).radius
    assert (radii == 0).any() and (radii > 2).any()
    for before, after, radius in zip(plain, images, radii, strict=True):
        n, fine = 5, (np.arange(11 * 15) - 82) / 15
        disc = (np.hypot(fine[:, None], fine) <= radius).reshape(2 * n + 1, 15, 2 * n + 1, 15).mean((1, 3))
        expected = before if radius == 0 else ndimage.correlate(before, (disc / disc.sum())[..., None], mode="mirror")
        assert np.abs(after - expected).max() <= 2

    ranges = Texture(0, (50, 50), 0, (1, 1), 1, (0.5, 3.0), 0)
    (images,) = show(samples, Augmentation(STILL, texture=ranges))
    for before, after, strength in zip(plain, images, factors("texture", ranges, len(samples)).strength, strict=True):
        expected = np.asarray(ImageEnhance.Sharpness(Image.fromarray(np.uint8(before))).enhance(1 + strength), float)
        # Pillow cuts the smoothed image to whole numbers before it extrapolates from it.
        assert np.abs(after - expected)[1:-1, 1:-1].max() <= 1 + strength


def test_defocus_then_sharpen_is_one_filter():
    image = smooth_image(0, SIZE).astype(float)
    for radius, strength in ((2.3, 1.7), (0.0, 0.8), (1.2, 0.0)):
        disc, smooth = draw.defocus_kernel(radius), np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
        step1 = ndimage.convolve(image, disc[..., None])
        step2 = step1 + strength * (step1 - ndimage.convolve(step1, smooth[..., None]))
        once = ndimage.convolve(image, draw.filter_kernel(radius, strength)[..., None])
        assert np.allclose(once[5:-5, 5:-5], step2[5:-5, 5:-5])


def test_jpeg_compression(samples):
    ranges = Texture(0.6, (10, 90), 0, (1, 1), 0, (1, 1), 0)
    (images,) = show(samples, Augmentation(STILL, texture=ranges))
    (plain,) = show(samples, None)
    drawn = factors("texture", ranges, len(samples))
    assert drawn.compress.any() and not drawn.compress.all()
    for before, after, chosen, quality in zip(plain, images, drawn.compress, drawn.quality, strict=True):
        if not chosen:
            assert np.array_equal(before, after)
            continue
        stream = io.BytesIO()
        Image.fromarray(np.uint8(before)).save(stream, "JPEG", quality=int(quality))
        expected = np.asarray(Image.open(stream), float)
        noise, loss = ((after - expected) ** 2).mean(), ((before - expected) ** 2).mean()
        assert 10 * np.log10(255**2 / max(noise, 1e-9)) > 40, quality
        assert noise < loss / 4


def test_gray_is_pillows(samples):
    ranges = Texture(0, (1, 1), 0, (1, 1), 0, (1, 1), 0.5)
    (images,) = show(samples, Augmentation(STILL, texture=ranges))
    (plain,) = show(samples, None)
    for before, after, chosen in zip(plain, images, factors("texture", ranges, len(samples)).gray, strict=True):
        grey = np.asarray(Image.fromarray(np.uint8(before)).convert("L"), float)[..., None]
        assert np.abs(after - (grey if chosen else before)).max() <= 1


def test_normalisation_is_imagenets_by_default(samples):
    stream = Stream(samples[:2], lambda _: np.arange(2), (None,))
    (batch,) = ImagePipeline([stream], SIZE, steps=1)
    image = torch.from_numpy(np.array(pixels(samples[0]))).permute(2, 0, 1) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(batch.images[0][0][0], (image - mean[:, None, None]) / std[:, None, None])
    assert batch.images[0][0].is_contiguous()


def test_grey_and_rotated_files(tmp_path):
    """A grey JPEG becomes three equal channels; the EXIF orientation is applied."""
    image = Image.fromarray(smooth_image(0, SIZE))
    image.convert("L").save(tmp_path / "grey.jpg")
    orientation = Image.Exif()
    orientation[0x0112] = 6
    image.rotate(90, expand=True).save(tmp_path / "rotated.jpg", quality=100, subsampling=0, exif=orientation)
    files = [Sample(tmp_path / name, 0, Modality.INFRARED, 1) for name in ("grey.jpg", "rotated.jpg")]
    ((grey, rotated),) = show(files, None)
    assert np.array_equal(grey[..., 0], grey[..., 1]) and np.array_equal(grey[..., 0], grey[..., 2])
    assert np.abs(rotated - np.asarray(image, float)).mean() < 2


FULL = Augmentation(Generic(pad=0.1), Colour(), Texture())


def batches_of(samples, start, steps, threads):
    """Two streams, three views: everything a batch can hold."""
    order = ShuffledSampler(samples, 4, seed=1)
    streams = [Stream(samples, order.batch, (FULL, None)), Stream(samples[::-1], order.batch, (FULL,))]
    with ImagePipeline(streams, SIZE, steps, seed=7, start_step=start, threads=threads) as batches:
        return list(batches)


def equal(a, b) -> bool:
    pairs = zip((*a.images[0], *a.images[1]), (*b.images[0], *b.images[1]), strict=True)
    return all(torch.equal(x, y) for x, y in pairs) and all(map(np.array_equal, a.indices, b.indices))


def test_resume_is_bit_exact_for_any_thread_count(samples):
    whole = batches_of(samples, 0, 7, threads=1)
    assert len(whole) == 7 and not equal(whole[0], whole[1])
    assert not torch.equal(whole[0].images[0][0], whole[0].images[1][0])
    for start, threads in ((0, 2), (3, 1), (5, 2)):
        again = batches_of(samples, start, 7 - start, threads)
        assert all(equal(a, b) for a, b in zip(again, whole[start:], strict=True))


def test_a_batch_outlives_its_pipeline(samples):
    """Batches are DALI's memory: neither later batches nor the pipeline's end may change them."""
    order = ShuffledSampler(samples, 4, seed=1)
    kept, copies = [], []
    for batch in ImagePipeline([Stream(samples, order.batch, (FULL,))], SIZE, steps=12):
        kept.append(batch.images[0][0])
        copies.append(batch.images[0][0].clone())
    gc.collect()
    assert all(torch.equal(a, b) for a, b in zip(kept, copies, strict=True))


def test_last_batch_is_short_and_the_pipeline_can_be_iterated_again(samples):
    order = SequentialSampler(samples, 5)
    batches = ImagePipeline([Stream(samples, order.batch, (None,))], SIZE, steps=order.steps_per_epoch)
    for _ in range(2):
        assert [len(batch.indices[0]) for batch in batches] == [5, 3]
        assert len(batches) == 2
    assert [batch.images[0][0].shape[0] for batch in batches] == [5, 3]


def test_views_share_geometry_on_request(samples):
    generic = Generic(pad=0.1)
    colour, texture = Augmentation(generic, Colour()), Augmentation(generic, texture=Texture())
    views = (colour, texture, Augmentation(generic))

    def images(shared):
        stream = Stream(samples, lambda _: np.arange(len(samples)), views, share_geometry=shared)
        (batch,) = ImagePipeline([stream], SIZE, steps=1, **RAW)
        return batch.images[0]

    shared, apart = images(True), images(False)
    assert torch.equal(shared[0], apart[0])
    gray, plain = shared[1].mean(1), shared[2].mean(1)
    correlation = [torch.corrcoef(torch.stack([a.ravel(), b.ravel()]))[0, 1] for a, b in zip(gray, plain, strict=True)]
    assert min(correlation) > 0.8
    assert not torch.allclose(apart[1].mean((1, 2, 3)), shared[1].mean((1, 2, 3)))
    with pytest.raises(InputError, match="share_geometry"):
        Stream(samples, lambda _: np.arange(2), (colour, Augmentation(STILL)), share_geometry=True)


def damaged_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """Files that exist at check-in and cannot be used, with what the error has to say."""
    stream = io.BytesIO()
    Image.fromarray(smooth_image(0, SIZE)).save(stream, "JPEG")
    jpeg = stream.getvalue()
    stream = io.BytesIO()
    Image.fromarray(smooth_image(0, SIZE)).save(stream, "PNG")
    png = bytearray(stream.getvalue())
    png[60:90] = bytes(30)
    content = {
        "empty.jpg": (b"", "the file is empty"),
        "truncated.jpg": (jpeg[: len(jpeg) * 9 // 10], "truncated JPEG"),
        "text.jpg": (b"<html>not found</html>", "not a JPEG, PNG or BMP image"),
        "damaged.png": (bytes(png), "cannot be decoded"),
    }
    for name, (data, _) in content.items():
        (folder / name).write_bytes(data)
    return {"missing.jpg": "No such file", **{name: message for name, (_, message) in content.items()}}


@pytest.mark.parametrize("name", ["missing.jpg", "empty.jpg", "truncated.jpg", "text.jpg", "damaged.png"])
def test_bad_image_is_named_at_its_batch(samples, tmp_path, name):
    """The batches before it arrive, the error names it, and no thread stays behind."""
    message = damaged_files(tmp_path)[name]
    listed = [*samples, *samples, Sample(tmp_path / name, 0, Modality.VISIBLE, 1), *samples]
    order = SequentialSampler(listed, 4)
    batches = ImagePipeline([Stream(listed, order.batch, (FULL,))], SIZE, steps=order.steps_per_epoch)
    list(ImagePipeline([Stream(samples, lambda _: np.arange(4), (None,))], SIZE, steps=1))  # DALI's own threads
    threads, good = len(os.listdir("/proc/self/task")), 0
    with pytest.raises(InputError, match=rf"{tmp_path / name}: .*{message}"):
        for _ in batches:
            good += 1
    assert good == 4
    assert len(os.listdir("/proc/self/task")) <= threads


def test_leaving_early_stops_the_threads_and_nothing_is_printed(samples, capfd):
    stream = Stream(samples, ShuffledSampler(samples, 4, seed=1).batch, (FULL,))
    list(ImagePipeline([stream], SIZE, steps=2))
    threads = len(os.listdir("/proc/self/task"))
    for _ in range(3):
        with ImagePipeline([stream], SIZE, steps=1000) as batches:
            next(iter(batches))
            assert len(os.listdir("/proc/self/task")) > threads
        assert len(os.listdir("/proc/self/task")) <= threads
    assert capfd.readouterr() == ("", "")


def test_streams_of_different_length_are_refused(samples):
    streams = [Stream(samples, lambda _, n=n: np.arange(n), (None,)) for n in (3, 4)]
    with pytest.raises(ValueError, match=r"different length: \[3, 4\]"):
        list(ImagePipeline(streams, SIZE, steps=1))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
def test_gpu_gives_the_same_images(samples):
    cpu, gpu = (show(samples, Augmentation(Generic(), Colour()), device=device) for device in ("cpu", "cuda"))
    assert np.abs(cpu[0] - gpu[0]).mean() < 1
