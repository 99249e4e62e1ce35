"""Every augmentation against another definition, fed with the factors that the pipeline drew.

Oracles: Pillow, SciPy, torchvision, and the NTSC definition of chrominance.
"""

import dataclasses
import io

import numpy as np
import pytest
import torch
from image_cases import SEED, SIZE, STILL, Image, factors, pixels, show, smooth_image, write_images
from scipy import ndimage, stats

from toplight_ext.data import (
    Augmentation,
    Colour,
    Erasing,
    Generic,
    ImagePipeline,
    Modality,
    Sample,
    Stream,
    Texture,
    with_mirrored_identities,
)
from toplight_ext.data import parameters as draw
from toplight_ext.data.pixelwise import finish
from toplight_ext.data.randomness import generator
from toplight_ext.errors import InputError
from toplight_ext.training.recipe_files import recipe_from_dict

ImageEnhance = pytest.importorskip("PIL.ImageEnhance")
transforms = pytest.importorskip("torchvision.transforms.v2")

ONLY_GREY = Texture(0, (1, 1), 0, (1, 1), 0, (1, 1), 0.5)
NO_COLOUR = Colour(0, 0, 0, 0, 0, 0)


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> list[Sample]:
    return write_images(tmp_path_factory.mktemp("images"))


def resized(image: np.ndarray, start=(0, 0), end=(1, 1)) -> np.ndarray:
    """The window between two points (y, x as parts of the image), by Pillow, edge pixels repeated outside."""
    border = 60
    (top, left), (bottom, right) = (np.array(point) * image.shape[:2] + border for point in (start, end))
    padded = Image.fromarray(np.pad(image, [(border, border), (border, border), (0, 0)], mode="edge"))
    return np.asarray(padded.resize(SIZE[::-1], Image.Resampling.BILINEAR, (left, top, right, bottom)), dtype=float)


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


def test_a_mirrored_sample_is_the_mirror_image(samples):
    mirrored = with_mirrored_identities(samples)[len(samples) :]
    sometimes = Augmentation(dataclasses.replace(STILL, flip_probability=0.5))
    (images,), (others,) = show(samples, sometimes), show(mirrored, sometimes)
    assert np.abs(others - images[:, :, ::-1]).max() <= 1
    with pytest.raises(InputError, match="mirrored"):
        show(mirrored, None)


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


@pytest.mark.parametrize("factor", [0.6, 1.0, 1.2])
def test_window_flip_and_deformation_are_one_warp(tmp_path, factor):
    """Up to a shrinking by a quarter: SciPy's interpolation in the file's pixels, once."""
    size = (round(factor * SIZE[0]), round(factor * SIZE[1]))
    Image.fromarray(smooth_image(0, size)).save(tmp_path / "image.png")
    listed = [Sample(tmp_path / "image.png", 0, Modality.VISIBLE, 1)] * 12
    ranges = Generic((0.5, 1.0), (0.8, 1.25), 0.1, 0.6, 0.15, 0.5)
    (images,) = show(listed, Augmentation(ranges))
    drawn = factors("generic", ranges, len(listed))
    assert 0 < drawn.deform.sum() < 12 and 0 < drawn.flip.sum() < 12
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    for k, image in enumerate(images):
        (homography,) = draw.homographies(drawn.corners[k][None] * drawn.deform[k], SIZE)
        u, v, w = np.einsum("ij,jyx->iyx", homography, np.stack([x, y, np.ones(SIZE)]))
        across, down = u / w / SIZE[1], v / w / SIZE[0]
        across = 1 - across if drawn.flip[k] else across
        part = drawn.start[k][:, None, None] + (drawn.end - drawn.start)[k][:, None, None] * np.stack([down, across])
        place = part * np.reshape(size, (2, 1, 1)) - 0.5
        planes = np.moveaxis(pixels(listed[0]).astype(float), -1, 0)
        expected = np.stack([ndimage.map_coordinates(plane, place, order=1, mode="nearest") for plane in planes], -1)
        assert np.abs(image - expected).max() <= 1.5


def textbook_colour(image: np.ndarray, drawn: draw.ColourFactors, k: int) -> np.ndarray:
    """The drawn factors of sample k one after the other, each as its textbook form."""
    image = image * drawn.brightness[k]
    image = 127.5 + drawn.contrast[k] * (image - 127.5)
    grey = (image @ (0.299, 0.587, 0.114))[..., None]
    image = grey + drawn.saturation[k] * (image - grey)
    # NTSC: U and V are the scaled differences to luma, I and Q the same two axes turned by 33 degrees.
    luma = image @ (0.299, 0.587, 0.114)
    v, u = 0.877283 * (image[..., 0] - luma), 0.492111 * (image[..., 2] - luma)
    turned = (v + 1j * u) * np.exp(1j * np.deg2rad(drawn.hue[k]))
    red, blue = luma + turned.real / 0.877283, luma + turned.imag / 0.492111
    image = np.stack([red, (luma - 0.299 * red - 0.114 * blue) / 0.587, blue], axis=-1)
    return np.stack([image[..., c] + drawn.shift[k, j] for j, c in enumerate(drawn.channels[k])], axis=-1)


@pytest.mark.parametrize("texture", [None, ONLY_GREY], ids=["colour", "colour and grey"])
def test_colour(samples, texture):
    """Clamped once, at the end of the map; grey follows the colour."""
    ranges = Colour(0.3, 0.4, 0.5, 40, 0.7, 0.1)
    (images,) = show(samples, Augmentation(STILL, colour=ranges, texture=texture))
    (plain,) = show(samples, None)
    drawn = factors("colour", ranges, len(samples))
    gray = factors("texture", texture, len(samples)).gray if texture else np.zeros(len(samples), bool)
    assert len({tuple(row) for row in drawn.channels}) > 2
    for k, (before, after) in enumerate(zip(plain, images, strict=True)):
        expected = textbook_colour(before, drawn, k)
        if gray[k]:
            expected = np.repeat((expected @ (0.299, 0.587, 0.114))[..., None], 3, axis=-1)
        assert np.abs(after - np.clip(expected, 0, 255)).max() < 0.5


def test_channel_exchange_shows_one_channel_three_times(samples):
    (images,) = show(samples, Augmentation(STILL, colour=dataclasses.replace(NO_COLOUR, channel_exchange=0.7)))
    (plain,) = show(samples, None)
    chosen = set()
    for before, after in zip(plain, images, strict=True):
        if not np.allclose(before, after, atol=1e-3):
            assert np.allclose(after, after[..., :1], atol=1e-3)
            (source,) = (c for c in range(3) if np.allclose(before[..., c], after[..., 0], atol=1e-3))
            chosen.add(source)
        else:
            chosen.add(None)
    assert None in chosen and len(chosen) >= 3


def test_saturation_and_brightness_are_torchvisions(samples):
    (plain,) = show(samples, None)
    for name in ("brightness", "saturation"):
        ranges = dataclasses.replace(NO_COLOUR, **{name: 0.5})
        (images,) = show(samples, Augmentation(STILL, colour=ranges))
        drawn = getattr(factors("colour", ranges, len(samples)), name)
        for before, after, factor in zip(plain, images, drawn, strict=True):
            image = torch.from_numpy(before).permute(2, 0, 1) / 255
            expected = 255 * getattr(transforms.functional, f"adjust_{name}")(image, float(factor))
            assert np.abs(after - expected.permute(1, 2, 0).numpy()).max() < 0.05


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
        expected = compressed(before, quality)
        noise, loss = ((after - expected) ** 2).mean(), ((before - expected) ** 2).mean()
        assert 10 * np.log10(255**2 / max(noise, 1e-9)) > 40, quality
        assert noise < loss / 4


def test_gray_is_pillows(samples):
    (images,) = show(samples, Augmentation(STILL, texture=ONLY_GREY))
    (plain,) = show(samples, None)
    for before, after, chosen in zip(plain, images, factors("texture", ONLY_GREY, len(samples)).gray, strict=True):
        grey = np.asarray(Image.fromarray(np.uint8(before)).convert("L"), float)[..., None]
        assert np.abs(after - (grey if chosen else before)).max() <= 1


def test_normalisation_is_imagenets_by_default(samples):
    stream = Stream(samples[:2], lambda _: np.arange(2), (None,))
    (batch,) = ImagePipeline([stream], SIZE, steps=1)
    image = torch.from_numpy(np.array(pixels(samples[0]))).permute(2, 0, 1) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(batch.images[0][0][0], (image - mean[:, None, None]) / std[:, None, None])
    assert batch.images[0][0].is_contiguous()


def test_texture_is_jpeg_then_defocus_then_sharpening(samples):
    """All three on every sample, by Pillow and SciPy; one rounding after the two filters, which are one."""
    ranges = Texture(1, (30, 90), 1, (1.0, 2.0), 1, (0.5, 2.0), 0)
    (images,) = show(samples, Augmentation(STILL, texture=ranges))
    (plain,) = show(samples, None)
    drawn = factors("texture", ranges, len(samples))
    smooth = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]])[..., None] / 13
    for k, (before, after) in enumerate(zip(plain, images, strict=True)):
        image = compressed(before, drawn.quality[k])
        image = ndimage.correlate(image, draw.defocus_kernel(drawn.radius[k])[..., None], mode="mirror")
        image = image + drawn.strength[k] * (image - ndimage.correlate(image, smooth, mode="mirror"))
        difference = np.clip(image, 0, 255) - after
        assert 10 * np.log10(255**2 / (difference**2).mean()) > 38


def compressed(image: np.ndarray, quality: int) -> np.ndarray:
    """Through a JPEG of Pillow and back; its chroma is subsampled 4:2:0, as DALI's."""
    stream = io.BytesIO()
    Image.fromarray(np.uint8(image)).save(stream, "JPEG", quality=int(quality))
    return np.asarray(Image.open(stream), float)


@pytest.mark.parametrize("random_fill", [False, True])
def test_erasing(samples, random_fill):
    """Inside the box one value per channel, outside nothing changes; the mean is what the network sees as 0."""
    ranges = Erasing(0.7, (0.05, 0.4), (0.5, 2.0), random_fill)
    view = Augmentation(STILL, erasing=ranges)
    (images,), (plain,) = show(samples, view), show(samples, None)
    drawn = factors("erasing", ranges, len(samples), SIZE)
    erased = drawn.boxes.any(axis=1)
    assert erased.any() and not erased.all()
    for before, after, box, fill in zip(plain, images, drawn.boxes, drawn.fill, strict=True):
        expected = before.copy()
        expected[box[0] : box[2], box[1] : box[3]] = fill if random_fill else 0  # `show` has the mean 0
        assert np.abs(after - expected).max() < 1e-3
    if not random_fill:
        stream = Stream(samples, lambda _: np.arange(len(samples)), (view,))
        ((normalised,),) = (batch.images[0] for batch in ImagePipeline([stream], SIZE, steps=1, seed=SEED))
        for image, (top, left, bottom, right) in zip(normalised, drawn.boxes, strict=True):
            assert image[:, top:bottom, left:right].eq(0).all() and image.ne(0).any()


def test_erased_boxes_are_distributed_as_torchvisions():
    """Kolmogorov-Smirnov on size and place; a rectangle that does not fit is drawn again there too."""
    size, count = (288, 144), 1500
    drawn = draw.draw_erasing(Erasing(), generator(0, "erasing"), count, size).boxes
    ours = drawn[drawn.any(axis=1)]
    assert (ours[:, :2] >= 0).all() and (ours[:, 2:] <= size).all()
    assert abs(len(ours) / count - 0.5) < 0.04
    torch.manual_seed(0)
    erasing, image = transforms.RandomErasing(p=1, scale=(0.02, 0.4), ratio=(0.3, 3.33)), torch.empty(3, *size)
    found = [erasing.make_params([image]) for _ in range(count)]
    theirs = np.array([(p["i"], p["j"], p["i"] + p["h"], p["j"] + p["w"]) for p in found if p["v"] is not None])
    for side in range(4):
        assert stats.ks_2samp(ours[:, side], theirs[:, side]).pvalue > 0.01
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (ours, theirs)]
    assert stats.ks_2samp(*areas).pvalue > 0.01


def test_finish_does_not_depend_on_threads_neighbours_or_autocast():
    random = np.random.default_rng(0)
    images = torch.from_numpy(random.integers(0, 256, (7, 96, 48, 3), dtype=np.uint8))
    matrix = np.float32(draw.colour_matrices(draw.draw_colour(Colour(), random, 7)))

    def finished(rows):
        return finish(images[rows], {"matrix": matrix[rows]}, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))

    whole, threads = finished(slice(None)), torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(finished(slice(None)), whole)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(finished(slice(i, i + 1))[0], whole[i]) for i in range(7))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(finished(slice(None)), whole)


def test_erasing_in_a_recipe():
    data = {"name": "synthetic", "root": "nowhere"}
    table = {"name": "x", "data": data, "test": data}
    vi = {"visible": {"erasing": {"probability": 1, "area": [0.1, 0.2], "random_fill": True}}}
    recipe = recipe_from_dict(table | {"vi": vi}, "here")
    assert recipe.vi.visible.erasing == Erasing(1.0, (0.1, 0.2), random_fill=True)
    assert recipe.vi.infrared.erasing is None
    with pytest.raises(InputError, match=r"erasing\.area = \(0\.5, 0\.1\): expected two rising numbers"):
        recipe_from_dict(table | {"vi": {"visible": {"erasing": {"area": [0.5, 0.1]}}}}, "here")
