"""The DALI pipeline: batches that do not depend on how they are made, every kind of file, and named errors."""

import gc
import io
import multiprocessing
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from image_cases import SEED, SIZE, STILL, Image, smooth_image, write_images

from toplight_ext.data import (
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
)
from toplight_ext.data.pipeline import GREY_LEVELS
from toplight_ext.errors import InputError

ImageOps = pytest.importorskip("PIL.ImageOps")

FULL = Augmentation(Generic(pad=0.1), texture=Texture(), colour=Colour(), erasing=Erasing())


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> list[Sample]:
    return write_images(tmp_path_factory.mktemp("images"))


def png_of_16_bits(image: np.ndarray) -> bytes:
    """uint16 (H, W) or (H, W, 3) as PNG, which Pillow writes for grey alone (ISO/IEC 15948)."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in image)
    header = struct.pack(">IIBBBBB", image.shape[1], image.shape[0], 16, 2 if image.ndim == 3 else 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def files_of_every_kind(folder: Path) -> dict[str, np.ndarray]:
    """File name -> the pixels to expect: Pillow's, alpha left out, 16 bits scaled to 8, EXIF orientation applied."""
    colours = smooth_image(0, SIZE)
    image, alpha = Image.fromarray(colours), np.linspace(0, 255, colours[..., 0].size).reshape(SIZE).astype(np.uint8)
    image.save(folder / "png named.jpg", "PNG")
    image.save(folder / "colour.bmp")
    image.save(folder / "progressive.jpg", quality=95, progressive=True)
    image.convert("CMYK").save(folder / "cmyk.jpg", quality=95)
    image.convert("L").save(folder / "grey.jpg", quality=95)
    image.convert("1").save(folder / "one bit.png")
    image.quantize(64).save(folder / "palette.png", transparency=3)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        image.save(folder / f"orientation {orientation}.jpg", quality=95, exif=exif)
    pillows = {
        path.name: np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"), float)
        for path in folder.iterdir()
    }
    Image.fromarray(np.dstack([colours, alpha])).save(folder / "alpha.png")
    Image.fromarray(np.dstack([colours[..., 0], alpha]), "LA").save(folder / "grey alpha.png")
    deep = np.minimum(colours.astype(np.uint32) * 257 + 100, 65535)
    (folder / "16 bit.png").write_bytes(png_of_16_bits(deep))
    (folder / "16 bit grey.png").write_bytes(png_of_16_bits(deep[..., 0]))
    grey = np.repeat(colours[..., :1], 3, axis=2)
    return pillows | {"alpha.png": colours, "grey alpha.png": grey, "16 bit.png": colours, "16 bit grey.png": grey}


def test_every_kind_of_file_is_decoded(tmp_path):
    files = files_of_every_kind(tmp_path)
    for upright in (True, False):  # a batch for each shape, so that nothing is resized
        expected = {name: image for name, image in files.items() if (image.shape[:2] == SIZE) is upright}
        listed = [Sample(tmp_path / name, 0, Modality.INFRARED, 1) for name in expected]
        stream = Stream(listed, SequentialSampler(listed, len(listed)).batch, (None,))
        (batch,) = ImagePipeline([stream], SIZE if upright else SIZE[::-1], steps=1, **GREY_LEVELS)
        for image, (name, pixels) in zip(batch.images[0][0], expected.items(), strict=True):
            assert np.abs(image.permute(1, 2, 0).numpy() - pixels).max() <= 1, name


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
    colour, texture = Augmentation(generic, colour=Colour()), Augmentation(generic, texture=Texture())
    views = (colour, texture, Augmentation(generic))

    def images(shared):
        stream = Stream(samples, lambda _: np.arange(len(samples)), views, share_geometry=shared)
        (batch,) = ImagePipeline([stream], SIZE, steps=1, **GREY_LEVELS)
        return batch.images[0]

    shared, apart = images(True), images(False)
    assert torch.equal(shared[0], apart[0])
    gray, plain = shared[1].mean(1), shared[2].mean(1)
    correlation = [torch.corrcoef(torch.stack([a.ravel(), b.ravel()]))[0, 1] for a, b in zip(gray, plain, strict=True)]
    assert min(correlation) > 0.8
    assert not torch.allclose(apart[1].mean((1, 2, 3)), shared[1].mean((1, 2, 3)))
    with pytest.raises(InputError, match="share_geometry"):
        Stream(samples, lambda _: np.arange(2), (colour, Augmentation(STILL)), share_geometry=True)


def damaged_files(folder: Path) -> dict[str, str]:
    """Files that exist at check-in and cannot be used, with what the error has to say."""
    image = Image.fromarray(smooth_image(0, SIZE))
    jpeg, png = io.BytesIO(), io.BytesIO()
    image.save(jpeg, "JPEG")
    image.save(png, "PNG")
    jpeg, png = jpeg.getvalue(), bytearray(png.getvalue())
    frame = jpeg.index(b"\xff\xc0") + 5
    huge_jpeg = jpeg[:frame] + struct.pack(">HH", 30_000, 30_000) + jpeg[frame + 4 :]
    huge_png = png[:16] + struct.pack(">II", 30_000, 30_000) + png[24:]
    png[60:90] = bytes(30)
    content = {
        "empty.jpg": (b"", "the file is empty"),
        "truncated.jpg": (jpeg[: len(jpeg) * 9 // 10], "truncated JPEG"),
        "header only.jpg": (jpeg[:30], "truncated image: the header is cut off"),
        "huge.jpg": (huge_jpeg, "30000x30000 pixels are more than the limit of 67108864"),
        "huge.png": (huge_png, "30000x30000 pixels are more than the limit of 67108864"),
        "text.jpg": (b"<html>not found</html>", "not a JPEG, PNG or BMP image"),
        "damaged.png": (png, "cannot be decoded"),
    }
    for name, (data, _) in content.items():
        (folder / name).write_bytes(data)
    return {"missing.jpg": "No such file", **{name: message for name, (_, message) in content.items()}}


def test_bad_image_is_named_at_its_batch(samples, tmp_path):
    """The batches before it arrive, the error names it, and no thread or process stays behind."""
    list(ImagePipeline([Stream(samples, lambda _: np.arange(4), (None,))], SIZE, steps=1))  # DALI's own threads
    threads = len(os.listdir("/proc/self/task"))
    for name, message in damaged_files(tmp_path).items():
        listed = [*samples, *samples, Sample(tmp_path / name, 0, Modality.VISIBLE, 1), *samples]
        order, good = SequentialSampler(listed, 4), 0
        batches = ImagePipeline([Stream(listed, order.batch, (FULL,))], SIZE, steps=order.steps_per_epoch)
        with pytest.raises(InputError, match=rf"{tmp_path / name}: .*{message}"):
            for _ in batches:
                good += 1
        assert good == 4, name
        assert len(os.listdir("/proc/self/task")) <= threads, name
    assert not multiprocessing.active_children()


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
    """The decoders and the JPEG round trip of CPU and GPU differ by rounding; everything else is the same."""
    images = []
    for device in ("cpu", "cuda"):
        stream = Stream(samples, lambda _: np.arange(len(samples)), (FULL, None))
        (batch,) = ImagePipeline([stream], SIZE, steps=1, seed=SEED, device=device, **GREY_LEVELS)
        images.append(batch.images[0])
    for cpu, gpu in zip(*images, strict=True):
        assert gpu.device.type == "cuda" and (cpu - gpu.cpu()).abs().mean() < 2
