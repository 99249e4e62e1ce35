"""What a run keeps for its report, against the network and the images it came from."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from toplight_ext import create_model, data, inference
from toplight_ext.data import Modality
from toplight_ext.inference import Preprocessing
from toplight_ext.training.records import slices_record


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    root = tmp_path_factory.mktemp("drawn")
    data.draw_synthetic(root, identities=3, dev_identities=7, views=2, size=(64, 32))
    return data.load_dataset("synthetic", root, "dev")


def test_slice_activations_are_those_of_the_map_that_the_neck_is_given(samples):
    torch.manual_seed(0)
    model = create_model("mobilenetv3_small_100", neck="fdr", slices=(2, 1)).eval()
    fed = Preprocessing((64, 32))
    rows, columns = inference.slice_activations(model, samples, fed, batch_size=100)
    assert rows.shape == (len(samples), 2) and columns.shape == (len(samples), 1)
    infrared = [i for i, sample in enumerate(samples) if sample.modality is Modality.INFRARED]
    pipeline = data.ImagePipeline(
        (data.Stream([samples[i] for i in infrared], lambda step: np.arange(len(infrared)), views=(None,)),),
        size=(64, 32),
        steps=1,
    )
    with pipeline as batches, torch.no_grad():
        images = next(iter(batches)).images[0][0]
        last = model.shared(model.infrared(images))
    expected = F.adaptive_avg_pool2d(last, (2, 1))[..., 0].square().mean(1).sqrt()
    np.testing.assert_allclose(rows[infrared], expected, rtol=1e-4)
    np.testing.assert_allclose(columns[infrared, 0], last.mean((2, 3)).square().mean(1).sqrt(), rtol=1e-4)


def test_slices_are_recorded_in_pairs_and_only_of_an_fdr(samples):
    fed, device = Preprocessing((64, 32)), torch.device("cpu")
    gap = create_model("mobilenetv3_small_100", neck="gap")
    assert slices_record(gap, samples, fed, device, threads=1) == {}
    fdr = create_model("mobilenetv3_small_100", neck="fdr", slices=(4, 2))
    found = slices_record(fdr, samples, fed, device, threads=1)["slices"]
    assert {name: len(values) for name, values in found["rows"].items()} == {"visible": 4, "infrared": 4}
    examples = [(example["identity"], example["modality"]) for example in found["examples"]]
    assert [modality for _, modality in examples] == ["visible", "infrared"] * 5
    assert len({identity for identity, _ in examples}) == 5
    assert all(one == other for (one, _), (other, _) in zip(examples[::2], examples[1::2], strict=True))
