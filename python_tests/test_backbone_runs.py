"""Every backbone with every neck: half precision, checkpointing, compilation, export."""

import warnings

import pytest
import torch
from plain_networks import GRAPHS, NARROW, narrowed
from torch import nn

from toplight_ext.models import BACKBONES, DualPathNetwork, create_model
from toplight_ext.nn import NECKS, Neck, create_neck

pytest.importorskip("timm", reason="backbones come from timm, which is not installed")
pytest.importorskip("torchvision", reason="ShuffleNetV2 comes from torchvision, which is not installed")

COMPILED_ELSEWHERE = ("mobilenetv3_small_100", "lightcnn29", "lightcnn29_v2")  # test_models.py, test_lightcnn.py


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _narrow(monkeypatch):
    for name in NARROW:
        monkeypatch.setitem(BACKBONES, name, narrowed(name))


class EveryNeck(Neck):
    """All necks on one map; of their pooled features each adds its mean to the global average pool."""

    def __init__(self, channels):
        super().__init__(channels)
        settings = {"slices": (2, 1), "groups": 8}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.necks = nn.ModuleDict({name: create_neck(name, channels, **settings) for name in NECKS})

    def pooled(self, x):
        means = [neck.pooled(x).float().mean(1, keepdim=True) for neck in self.necks.values()]
        return x.mean((2, 3)) + torch.stack(means).sum(0)


def gradients_of_a_step(model, images):
    """Gradients and running statistics after one step in bfloat16 from the state that the model has now."""
    torch.manual_seed(1)  # Swin drops paths at random
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(*images, maps=True)
    output.logits.float().logsumexp(1).sum().backward()
    gradients = {key: parameter.grad for key, parameter in model.named_parameters() if parameter.requires_grad}
    statistics = {key: buffer.clone() for key, buffer in model.named_buffers()}
    model.zero_grad(set_to_none=True)
    model.load_state_dict(before)
    return gradients, statistics, output


@pytest.mark.parametrize("name", GRAPHS)
def test_trains_with_every_neck_in_channels_last_bfloat16_and_with_checkpointing(name):
    model = create_model(name, num_classes=4, neck="gap", duplicated=1)
    model.neck = EveryNeck(model.channels[-1])
    model = model.to(memory_format=torch.channels_last)
    images = torch.randn(2, 2, 3, 64, 32)
    images = [batch.to(memory_format=torch.channels_last) for batch in images]
    gradients, statistics, output = gradients_of_a_step(model, images)
    assert output.final_maps[0].is_contiguous(memory_format=torch.channels_last)
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients.values())
    model.checkpointing = True
    again, same_statistics, _ = gradients_of_a_step(model, images)
    assert all(torch.equal(again[key], gradient) for key, gradient in gradients.items())
    assert all(torch.equal(same_statistics[key], buffer) for key, buffer in statistics.items())


@pytest.mark.parametrize("name", [name for name in GRAPHS if name not in COMPILED_ELSEWHERE])
@torch.no_grad()
def test_compiles_without_a_break(name):
    model = create_model(name, neck="gap", duplicated=0).eval()
    images = torch.randn(1, 3, 64, 32)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert torch.equal(compiled(images).features, model(images).features)


@pytest.mark.parametrize("name", GRAPHS)
@torch.no_grad()
def test_exports_to_onnx_with_equal_features(name):
    pytest.importorskip("onnxscript", reason="the extra export is not installed")
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra export is not installed")
    model, images = create_model(name, neck="gap", duplicated=0).eval(), torch.randn(1, 3, 64, 32)
    program = torch.onnx.export(model, (images,), dynamo=True, optimize=False, verbose=False)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    features, *_ = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    expected = model(images).features
    # Rounding of sums is relative to the largest of the numbers, not to each.
    torch.testing.assert_close(torch.from_numpy(features), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_checkpointing_keeps_less_and_compiles():
    widths = (3, *[8] * 7)
    blocks = [
        nn.Sequential(nn.Conv2d(before, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
        for before in widths[:-1]
    ]
    model = DualPathNetwork(blocks, widths[1:], 1, create_neck("gap", 8), num_classes=4)
    images = torch.randn(2, 3, 32, 32)

    def kept():
        """Bytes that a forward pass keeps for the backward pass, without parameters."""
        tensors = {}

        def keep(tensor):
            tensors[tensor.data_ptr()] = tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(images, images)
        parameters = {parameter.data_ptr() for parameter in model.parameters()}
        return sum(size for pointer, size in tensors.items() if pointer not in parameters)

    every = kept()
    model.checkpointing = True
    assert kept() < every / 3
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    results = []
    for run in (model, compiled):
        model.load_state_dict(before)
        run(images, images).logits.logsumexp(1).sum().backward()
        results.append(([p.grad for p in model.parameters() if p.requires_grad], [b.clone() for b in model.buffers()]))
        model.zero_grad(set_to_none=True)
    torch.testing.assert_close(*results)
