"""Every backbone: its blocks against the network of its own package, any input size, last stride 1."""

import pytest
import torch
from plain_networks import GRAPHS, NAMES, NARROW, last_map, narrowed, plain, settle, tail
from torch import nn

from toplight_ext.errors import InputError
from toplight_ext.models import (
    BACKBONES,
    Partition,
    create_model,
    cut,
    duplicate,
    load_weights,
    merge,
    save_weights,
)
from toplight_ext.models.blocks import block_sizes, set_last_stride, skeleton
from toplight_ext.models.create import create_backbone

timm = pytest.importorskip("timm", reason="backbones come from timm, which is not installed")
pytest.importorskip("torchvision", reason="ShuffleNetV2 comes from torchvision, which is not installed")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def hollow_blocks(name, last_stride=2):
    with torch.device("meta"):
        root = create_backbone(name, BACKBONES[name])
    set_last_stride(root, BACKBONES[name], last_stride)
    return cut(root, BACKBONES[name])


# --- the blocks are the network ---


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_both_paths_with_a_public_checkpoint_are_the_plain_network_bit_for_bit(name, tmp_path, monkeypatch):
    if name in NARROW:
        monkeypatch.setitem(BACKBONES, name, narrowed(name))
    root, images = plain(name), torch.randn(1, 3, 65, 35, dtype=torch.float64)
    torch.save(root.state_dict(), tmp_path / "public.pth")
    model = create_model(name, neck="gap", duplicated=4, pretrained=tmp_path / "public.pth").eval().double()
    features = last_map(name, root.double(), images)
    expected = tail(name, root, features)
    assert torch.equal(model(visible=images, maps=True).final_maps[0], expected)
    assert torch.equal(model(infrared=images, maps=True).final_maps[1], expected)
    state = model.state_dict()
    again = duplicate(merge(state, keep=0), 4)
    assert again.keys() == state.keys() and all(torch.equal(again[key], tensor) for key, tensor in state.items())
    report = model.pretrained_report
    assert all(report.loaded) and sum(report.loaded) + len(report.left_out) == len(root.state_dict())
    if hasattr(root, "forward_head") and not name.startswith("vit"):  # its head takes the class token
        pooled = tail(name, root, features.mean((2, 3), keepdim=True)).flatten(1)
        assert torch.equal(pooled, root.forward_head(root.forward_features(images), pre_logits=True))


@pytest.mark.parametrize("name", NAMES)
def test_blocks_hold_every_tensor_but_the_classifier_once(name):
    with torch.device("meta"):
        root = create_backbone(name, BACKBONES[name])
    tensors = {id(tensor): key for key, tensor in root.state_dict(keep_vars=True).items()}
    blocks = cut(root, BACKBONES[name])
    held = [id(tensor) for block in blocks for tensor in block.state_dict(keep_vars=True).values()]
    assert len(held) == len(set(held))
    missing = {key for identity, key in tensors.items() if identity not in held}
    assert missing == ({"fc.weight", "fc.bias"} if name.startswith("shufflenet") else set())


@pytest.mark.parametrize("name", GRAPHS)
def test_any_size_gives_a_map_of_its_proportions(name):
    body = skeleton(nn.Sequential(*hollow_blocks(name)))
    stride = 16 if name.startswith("vit") else 32
    for size in ((256, 128), (384, 192), (224, 224), (97, 65)):
        map_size = body(torch.empty(1, 3, *size, device="meta")).shape[2:]
        allowed = [{side // stride, -(-side // stride)} for side in size]
        if name.startswith("lightcnn"):  # its embedding ends the map
            allowed = [{1}, {1}]
        assert all(side in sides for side, sides in zip(map_size, allowed, strict=True)), (size, map_size)


@pytest.mark.parametrize("name", GRAPHS)
def test_last_stride_1_doubles_the_last_maps_and_nothing_else(name):
    if BACKBONES[name].strided is None:
        with pytest.raises(InputError, match=r"last_stride=1: .* has no strided convolution to set to 1; use 2"):
            hollow_blocks(name, last_stride=1)
        return
    two, one = (block_sizes(hollow_blocks(name, last_stride=stride), (288, 144)) for stride in (2, 1))
    assert one[:5] == two[:5]
    for before, after in zip(two[5:], one[5:], strict=True):
        assert before[1:] in ((9, 5), (9, 4))  # ConvNeXt's 2x2 convolution leaves out the odd column
        assert after == (before[0], 18, 9)


def test_mobilenetv3_large_has_the_block_outputs_of_the_paper():
    paper = [(16, 112), (24, 56), (24, 56), (40, 28), (112, 14), (160, 7), (1280, 7)]
    sizes = block_sizes(hollow_blocks("mobilenetv3_large_100"), (224, 224))
    assert sizes == [(channels, side, side) for channels, side in paper]


def test_class_token_rides_along_and_is_left_out_at_the_end():
    blocks = hollow_blocks("vit_base_patch16_224")
    assert block_sizes(blocks, (288, 144)) == [(768, 1 + 18, 9)] * 6 + [(768, 18, 9)]


@torch.no_grad()
def test_a_user_can_cut_another_network(monkeypatch, tmp_path):
    partition = Partition(
        blocks=(("conv1", "bn1", "act1", "maxpool"), ("layer1",), ("layer2.0",), ("layer2.1",), ("layer3",),
                ("layer4.0",), ("layer4.1",)),
        left_out=("global_pool", "fc"),
        strided="layer4.0",
    )  # fmt: skip
    monkeypatch.setitem(BACKBONES, "resnet18", partition)
    model = settle(create_model("resnet18", neck="gap", last_stride=1))
    save_weights(tmp_path / "weights.safetensors", model)
    loaded, _ = load_weights(tmp_path / "weights.safetensors")
    images = torch.randn(1, 3, 65, 64)
    output = loaded(images, maps=True)
    assert output.final_maps[0].shape == (1, 512, 5, 4)
    assert torch.equal(output.features, model(images).features)
