"""Multiply-adds against torch's counter on real runs, torchvision's published figures, and the paper's."""

import copy
import json
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import toplight_ext as tl
from toplight_ext.cli import main
from toplight_ext.errors import InputError
from toplight_ext.models import BACKBONES, count_flops, count_paper_flops, create_model, table

pytest.importorskip("timm", reason="backbones come from timm, which is not installed")
torchvision = pytest.importorskip("torchvision", reason="its published figures are compared with")

PAPER = {
    "resnet50": 3562,
    "mobilenetv3_large_100": 250,
    "shufflenet_v2_x1_5": 265,
    "ghostnet_130": 281,
    "convnext_tiny": 3620,
}
DO_NOT_FIT = {"shufflenet_v2_x1_0", "ghostnet_100", "mobilenetv3_small_100"}
PAGE = Path(__file__).parents[1] / "docs" / "models.md"


@pytest.mark.parametrize("neck", ["gap", "fdr"])
@pytest.mark.parametrize("name", ["mobilenetv3_small_100", "swin_tiny_patch4_window7_224", "vit_base_patch16_224"])
def test_count_is_half_of_what_torch_counts_in_a_real_run(name, neck):
    model = create_model(name, num_classes=7, neck=neck, groups=8).train()
    images = torch.randn(1, 3, 64, 32)
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    count = count_flops(model, (64, 32))
    assert count_flops(copy.deepcopy(model).half(), (64, 32)) == count
    assert model.training
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())
    # torch has no formula for its fused attention on a CPU.
    counter = FlopCounterMode(display=False)
    with tl.ops.use_backend("reference"), sdpa_kernel(SDPBackend.MATH), torch.no_grad(), counter:
        model.eval()(images)
    assert 2 * count == counter.get_total_flops()


@pytest.mark.parametrize("name", ["resnet50", "convnext_tiny", "shufflenet_v2_x1_5", "mobilenet_v3_large"])
def test_count_is_the_published_one_of_torchvision(name):
    published = torchvision.models.get_model_weights(name).DEFAULT.meta["_ops"]  # thousands of millions
    with torch.device("meta"):
        network = torchvision.models.get_model(name)
    assert count_flops(network, (224, 224)) / 1e9 == pytest.approx(published, rel=0.005)


@pytest.mark.parametrize("name", PAPER)
def test_count_in_the_papers_way_is_the_papers(name):
    assert count_paper_flops(name) / 1e6 == pytest.approx(PAPER[name], rel=0.015)


@pytest.fixture(scope="module")
def rows():
    return table.model_rows()


def test_command_lists_every_backbone(rows, monkeypatch, capsys):
    monkeypatch.setattr(table, "model_rows", lambda: rows)
    assert main(["models", "--json"]) == 0
    listed = {row["name"]: row for row in json.loads(capsys.readouterr().out.splitlines()[-1])}
    assert list(listed) == list(BACKBONES)
    assert all(listed[name]["paper"] == figure * 1_000_000 for name, figure in PAPER.items())
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines if "does not fit" in line} == DO_NOT_FIT


def test_page_is_what_the_code_writes(rows):
    assert PAGE.read_text(encoding="utf-8") == table.models_page(rows)


def test_unknown_name_is_refused():
    with pytest.raises(InputError, match="unknown model 'resnet51'; known are: agw, convnext_tiny"):
        count_paper_flops("resnet51")
