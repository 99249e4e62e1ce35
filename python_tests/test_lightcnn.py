"""LightCNN-29 against numbers made by its authors' code."""

import dataclasses
import math

import pytest
import torch
from filling import filled

from toplight_ext.models import BACKBONES, create_model
from toplight_ext.models.lightcnn import lightcnn29

# By https://github.com/AlfredXiangWu/LightCNN at 7b38a6f2d208, light_cnn.py, in evaluation mode and float64, with the
# weights and the gray face of the test: every 32nd of the 256 features.
PUBLIC = {
    "lightcnn29": [84.1811394, -40.8872966, 122.9235964, 105.4422638, 206.2327391, 13.3831961, 32.298324, 76.2530862],
    "lightcnn29_v2": [620.0058385, -654.5279237, -30.2468922, 333.1682461,
                      -1053.0712159, -402.8661594, 150.0342202, 1099.074966],
}  # fmt: skip
RESIDUAL_BLOCKS = (1, 2, 3, 4)
CHANNELS = (48, 96, 192, 128, 128)  # of conv1, then of group1 to group4


def public_shapes(name):
    """The tensors of the authors' network, with a classifier of 7 faces."""
    shapes = {"conv1.filter": (2 * 48, 1, 5, 5), "fc2": (7, 256)}
    for number, (count, channels, following) in enumerate(
        zip(RESIDUAL_BLOCKS, CHANNELS[:4], CHANNELS[1:], strict=True), start=1
    ):
        for index in range(count):
            for part in ("conv1", "conv2"):
                shapes[f"block{number}.{index}.{part}.filter"] = (2 * channels, channels, 3, 3)
        shapes[f"group{number}.conv_a.filter"] = (2 * channels, channels, 1, 1)
        shapes[f"group{number}.conv.filter"] = (2 * following, channels, 3, 3)
    if name == "lightcnn29":
        shapes["fc.filter"] = (2 * 256, 8 * 8 * 128)
    else:
        shapes["fc"] = (256, 8 * 8 * 128)
    biases = {f"{layer}.bias": shape[:1] for layer, shape in shapes.items()}
    return {f"{layer}.weight": shape for layer, shape in shapes.items()} | biases


def weights(name, shape):
    bound = math.sqrt(3 / math.prod(shape[1:])) if len(shape) > 1 else 0.1
    return filled(name, shape, -bound, bound, torch.float32)


@pytest.mark.parametrize("name", PUBLIC)
@torch.no_grad()
def test_public_checkpoint_gives_the_features_of_the_public_code(tmp_path, name):
    state = {f"module.{key}": weights(key, shape) for key, shape in public_shapes(name).items()}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "face.pth.tar")
    model = create_model(name, neck="gap", duplicated=0, pretrained=tmp_path / "face.pth.tar").eval()
    assert model.pretrained_report.left_out == ("fc2.weight", "fc2.bias")
    face = filled("face", (2, 1, 128, 128), 0, 1, torch.float32)[:1]
    features = model(face.expand(-1, 3, -1, -1)).features
    scale = max(map(abs, PUBLIC[name]))
    torch.testing.assert_close(features[0, ::32] / scale, torch.tensor(PUBLIC[name]) / scale, rtol=0, atol=1e-5)


def test_colour_is_weighed_by_its_brightness():
    gray = lightcnn29().gray
    image = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.5, 0.5, 0.5]]).reshape(4, 3, 1, 1)
    torch.testing.assert_close(gray(image).flatten(), torch.tensor([0.299, 0.587, 0.114, 0.5]))


@pytest.mark.parametrize("name", PUBLIC)
def test_fdr_takes_the_map_before_its_embedding(monkeypatch, name):
    torch.manual_seed(0)
    partition = BACKBONES[name]
    blocks = (*partition.blocks[:6], ("group4", "pool4"))
    monkeypatch.setitem(BACKBONES, "map", dataclasses.replace(partition, blocks=blocks, left_out=("fc", "fc2")))
    model = create_model("map", num_classes=3, slices=(4, 2), groups=8, duplicated=4).train()
    output = model(torch.rand(2, 3, 65, 49), torch.rand(2, 3, 65, 49), maps=True)
    assert output.final_maps[0].shape[2:] == {"lightcnn29": (5, 4), "lightcnn29_v2": (4, 3)}[name]
    assert output.features.shape == (4, 128)
    output.logits.square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)
