"""Export: the operators against PyTorch's, the networks against theirs, the sample program, files of strangers."""

import copy
import importlib.util
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from toplight_ext import FDR, ShuffleAttention, ops
from toplight_ext.data import Modality
from toplight_ext.errors import InputError

onnx = pytest.importorskip("onnx", reason="the extra export is not installed")
pytest.importorskip("onnxscript", reason="the extra export is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra export is not installed")
pytest.importorskip("timm", reason="backbones come from timm, which is not installed")

from toplight_ext import deploy  # noqa: E402, after the skips
from toplight_ext.deploy.contract import ENTRY, Contract  # noqa: E402
from toplight_ext.deploy.export import onnx_model  # noqa: E402
from toplight_ext.deploy.runtimes import OnnxNetwork  # noqa: E402
from toplight_ext.deploy.translations import translation_table  # noqa: E402
from toplight_ext.inference import Preprocessing  # noqa: E402
from toplight_ext.models import create_model, save_weights  # noqa: E402

SIZE = (96, 48)
EXAMPLE = Path(__file__).parents[1] / "examples" / "onnx_features.py"


def filled(module: nn.Module) -> nn.Module:
    """Weights and statistics away from their starting values, which hide half of a formula."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in module.state_dict().items():
        if (tensor.is_floating_point() and tensor.dim() == 1) or (tensor.dim() == 4 and tensor.shape[0] == 1):
            values = 0.5 + torch.rand(tensor.shape, generator=generator)
            tensor.copy_(values if "var" in name or "norm" in name else values - 0.8)
    return module.eval()


class Pooled(nn.Module):
    def __init__(self, neck):
        super().__init__()
        self.neck = neck

    def forward(self, x):
        return self.neck.pooled(x)


class SlicePoolUpsample(nn.Module):
    def forward(self, x):
        return ops.slice_pool_upsample(x, (4, 3))


CASES = {
    "fdr, pooled": (Pooled(FDR(16, slices=(6, 3), groups=4)), (7, 5)),
    "fdr, map": (FDR(16, slices=(6, 3), groups=4), (7, 5)),
    "slices as they are: profiles that vary": (Pooled(FDR(16, slices=(4, 2), groups=4, embed=False)), (9, 5)),
    "more slices than positions": (Pooled(FDR(16, slices=(6, 7), groups=4, embed=False)), (5, 3)),
    "map of profiles that vary": (FDR(16, slices=(4, 2), groups=4, embed=False), (9, 5)),
    "one group across rows and columns": (Pooled(FDR(12, slices=(4, 2), groups=3, embed=False)), (9, 5)),
    "shuffle attention": (ShuffleAttention(16, 2), (5, 3)),
    "without the shuffle": (ShuffleAttention(16, 2, shuffle=False), (5, 3)),
    "slice_pool_upsample": (SlicePoolUpsample(), (7, 5)),
}


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_operators_agree_with_plain_pytorch(name):
    module, size = CASES[name]
    filled(module)
    torch.manual_seed(0)
    x = torch.randn(3, module.neck.channels if hasattr(module, "neck") else getattr(module, "channels", 8), *size)
    program = torch.onnx.export(
        module,
        (x[:2],),
        dynamo=True,
        verbose=False,
        input_names=["x"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        custom_translation_table=translation_table(),
    )
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    with ops.use_backend("reference"):  # in float64: of a plane that does not vary float32 enlarges what it rounds
        expected = copy.deepcopy(module).double()(x.double()).float()
    found = session.run(None, {"x": x.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return filled(create_model("mobilenetv3_small_100", num_classes=3, slices=(4, 2)))


@pytest.fixture(scope="module")
def exported(network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    save_weights(folder / "w.safetensors", network, size=list(SIZE), gray=True, stage="vi")
    deploy.export(folder / "w.safetensors", folder, stems=("infrared", "both"))
    return folder


@torch.no_grad()
def test_networks_give_the_embedding_that_is_evaluated(network, exported):
    images = torch.randn(3, 3, *SIZE)
    for modality in Modality:
        expected = network.embed(images, modality)
        found = deploy.load_exported(exported / "both.onnx").embed(images, modality)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    infrared = deploy.load_exported(exported / "infrared.onnx").embed(images, Modality.INFRARED)
    assert torch.allclose(infrared, expected, atol=1e-5 * float(expected.abs().max()))
    with pytest.raises(InputError, match="infrared stem alone, and was given visible"):
        deploy.load_exported(exported / "infrared.onnx").embed(images, Modality.VISIBLE)


def test_stems_of_two_networks_whose_weights_have_one_name_are_no_pair(network, exported, tmp_path, monkeypatch):
    other = copy.deepcopy(network)
    next(other.parameters()).data.add_(1)
    save_weights(tmp_path / "w.safetensors", other, size=list(SIZE), gray=True, stage="vi")
    contracts = []
    module = importlib.import_module("toplight_ext.deploy.export")  # `deploy.export` is the function
    monkeypatch.setattr(module, "_write_formats", lambda _, contract, *rest: contracts.append(contract) or [])
    for folder, stem in ((exported, "visible"), (exported, "infrared"), (tmp_path, "infrared")):
        deploy.export(folder / "w.safetensors", tmp_path, stems=(stem,))
    visible, infrared, foreign = (SimpleNamespace(file=c.source, contract=c) for c in contracts)
    assert deploy.Pair([visible, infrared]).modalities == tuple(Modality)
    with pytest.raises(InputError, match="not of the same network"):
        deploy.Pair([visible, foreign])


def test_graph_writes_no_map_for_fdr_and_holds_shared_weights_once(exported):
    graph = onnx.load(exported / "both.onnx").graph
    used = {node.op_type for node in graph.node}
    assert not used & {"Expand", "Resize", "Tile"}
    assert {node.domain for node in graph.node} == {""}
    single = (exported / "infrared.onnx").stat().st_size
    assert (exported / "both.onnx").stat().st_size < 1.05 * single


@pytest.mark.parametrize(
    ("name", "package", "threads"),
    [
        ("openvino", "openvino", lambda network: network._compiled.get_property("INFERENCE_NUM_THREADS")),
        ("executorch", "executorch.runtime", lambda network: 1),  # it takes no number
    ],
)
@torch.no_grad()
def test_other_runtimes_give_the_embedding_too(network, exported, tmp_path, name, package, threads):
    pytest.importorskip(package, reason=f"the extra {name} is not installed")
    (file,) = deploy.export(exported / "w.safetensors", tmp_path, formats=(name,), stems=("infrared",))
    images = torch.randn(3, 3, *SIZE)
    expected = network.embed(images, Modality.INFRARED)
    loaded = deploy.load_exported(file, threads=1)  # by itself OpenVINO takes every core
    found = loaded.embed(images, Modality.INFRARED)
    assert 0 < float((found - expected).abs().max() / expected.abs().max()) < 1e-5
    assert threads(loaded) == 1
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(InputError, match=file.name):
        deploy.load_exported(file)


def test_onnxruntime_gets_the_threads_that_are_asked_for(exported):
    session = deploy.load_exported(exported / "infrared.onnx", threads=3)._session
    assert session.get_session_options().intra_op_num_threads == 3


class Flat(nn.Module):
    def forward(self, images):
        return images.flatten(1)


def test_an_opset_that_the_exporter_does_not_write_is_refused():
    contract = Contract("visible", Preprocessing((2, 2)), 12, None, "w.safetensors")
    with pytest.raises(InputError, match=r"opset 99: .* write \d\d in its place"):
        onnx_model(Flat(), contract, opset=99)
    (entry,) = onnx_model(Flat(), contract).opset_import
    assert entry.version == 18


def test_sample_program_gives_the_features_of_embed(exported, tmp_path):
    """Photographs that shrink, grow and lie on their side, as PNG and JPEG, through Pillow and through DALI."""
    pytest.importorskip("nvidia.dali", reason="DALI, of the extra train, is not installed")
    image_module = pytest.importorskip("PIL.Image", reason="Pillow, of the extra train, is not installed")
    random = np.random.default_rng(0)
    for i, (height, width) in enumerate([(400, 170), (61, 33), (96, 48), (233, 111)]):
        coarse = image_module.fromarray(random.integers(0, 256, (12, 6, 3), dtype=np.uint8))
        image = coarse.resize((width, height), image_module.Resampling.BICUBIC)
        image.save(tmp_path / f"{i}.png")
        orientation = image_module.Exif()
        orientation[0x0112] = 6
        image.save(tmp_path / f"{i}.jpg", quality=92, subsampling=0, exif=orientation)
    spec = importlib.util.spec_from_file_location("onnx_features", EXAMPLE)
    sample = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sample)
    for modality in Modality:
        expected = deploy.embed([exported / "both.onnx"], deploy.find_samples(tmp_path, modality))
        found = sample.features(str(exported / "both.onnx"), list(expected.paths), modality.value)
        difference = np.abs(found - expected.features).max() / np.abs(expected.features).max()
        assert difference < 5e-3  # grey levels are rounded twice in Pillow's resize and once in DALI's


def test_metadata_and_every_file_tell_the_contract(exported):
    listed = json.loads((exported / "metadata.json").read_text())["files"]
    assert set(listed) == {"infrared.onnx", "both.onnx"}
    inside = OnnxNetwork(exported / "both.onnx").contract
    assert json.loads(json.dumps(inside.to_json())) == listed["both.onnx"]
    assert inside.preprocessing.size == SIZE and inside.preprocessing.gray
    assert listed["both.onnx"]["preprocessing"]["colour_order"] == "RGB"


DAMAGES = ("truncated", "text", "foreign", "other size", "other stem", "other colours", "no json", "future")


@pytest.mark.parametrize("damage", DAMAGES)
def test_files_of_strangers_are_named_and_refused(exported, tmp_path, damage):
    file = tmp_path / "network.onnx"
    shutil.copy(exported / "infrared.onnx", file)
    data = file.read_bytes()
    if damage == "truncated":
        file.write_bytes(data[: len(data) // 2])
    elif damage == "text":
        file.write_text("not a network")
    else:
        model = onnx.load(file)
        contract = json.loads(model.metadata_props[0].value)
        if damage == "other size":
            contract["preprocessing"]["size"] = [32, 32]
        if damage == "other stem":
            contract["stem"] = "thermal"
        if damage == "other colours":
            contract["preprocessing"]["colour_order"] = "BGR"
        if damage == "future":
            contract["format"] = 2
        text = "{" if damage == "no json" else json.dumps(contract)
        onnx.helper.set_model_props(model, {} if damage == "foreign" else {ENTRY: text})
        onnx.save(model, file)
    with pytest.raises(InputError, match=r"network\.onnx"):
        deploy.load_exported(file)


def test_arguments_out_of_range_are_refused(exported, tmp_path):
    weights = exported / "w.safetensors"
    for named, words in (
        ({"formats": ["tflite"]}, "tflite"),
        ({"stems": ["thermal"]}, "thermal"),
        ({"batch": 0}, "batch 0"),
        ({"opset": 11}, "opset 11"),
        ({"formats": ["executorch"], "calibration": []}, "add onnx"),
    ):
        with pytest.raises(InputError, match=words):
            deploy.export(weights, tmp_path, **named)
    assert not list(tmp_path.iterdir())


def test_parity_on_noise_is_measured(network, exported):
    files = [exported / "both.onnx", exported / "infrared.onnx"]
    whole, single = deploy.parity_on_noise(network, files)
    assert whole.images == "32 of noise" and single.images == "16 of noise"
    assert 0 < max(whole.max_difference, single.max_difference) < 1e-5
