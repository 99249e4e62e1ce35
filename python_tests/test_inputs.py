"""Fixed first layers: unsigned gradients against SciPy and a plane of known slope."""

import numpy as np
import pytest
import torch
from scipy import ndimage

import toplight_ext as tl
from toplight_ext.errors import InputError
from toplight_ext.nn import create_input

LUMA = np.array([0.299, 0.587, 0.114])


def layer():
    return create_input("unsigned_gradients")


def test_unsigned_gradients_are_scipys():
    """The definition with angles, on SciPy's Sobel filter (8 times a slope) of SciPy's smoothing."""
    image = np.random.default_rng(0).standard_normal((2, 3, 11, 7))
    smooth = np.outer([1, 2, 1], [1, 2, 1]) / 16
    for pixels, found in zip(image, layer()(torch.from_numpy(image)).numpy(), strict=True):
        # Edge pixels are repeated before the first filter, once for both, as the layer does it.
        luma = ndimage.convolve(np.pad(np.tensordot(LUMA, pixels, 1), 2, mode="edge"), smooth)
        dx, dy = (ndimage.sobel(luma, axis=axis)[2:-2, 2:-2] / 8 for axis in (1, 0))
        length, angle = np.sqrt(dx**2 + dy**2 + layer().floor), np.arctan2(dy, dx)
        share = (dx**2 + dy**2) / length**2  # what the floor leaves of a direction
        root = np.sqrt(length) / layer().std
        expected = (
            root - layer().mean / layer().std,
            root * share * np.cos(2 * angle),
            root * share * np.sin(2 * angle),
        )
        np.testing.assert_allclose(found, np.stack(expected), atol=1e-10)


def test_contrast_may_be_reversed():
    image = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(layer()(-image), layer()(image))
    assert not torch.allclose(layer()(image.flip(1)), layer()(image))  # the channels are not alike


def test_both_paths_and_the_embedding_see_the_input_layer():
    torch.manual_seed(0)
    model = tl.create_model("mobilenetv3_small_100", neck="gap", input_layer="unsigned_gradients").eval()
    image = torch.randn(2, 3, 64, 32)
    seen = layer()(image)
    both = model(image, image).embedding
    for modality, rows in (("visible", both[:2]), ("infrared", both[2:])):
        torch.testing.assert_close(model.embed(image, modality), rows)
        path = getattr(model, modality)
        expected = model.head.norm(model.neck.pooled(model.shared(path(seen))))
        torch.testing.assert_close(rows, expected)


def test_unknown_input_is_refused():
    with pytest.raises(InputError, match="colour, unsigned_gradients"):
        create_input("color")
