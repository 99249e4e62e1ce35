"""The AGW baseline against numbers made by its public code."""

import numpy as np
import pytest
import torch
from agw_state import agw_state
from filling import filled
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from toplight_ext.errors import InputError
from toplight_ext.models import create_agw, create_model, load_agw
from toplight_ext.models.agw import NonLocal

timm = pytest.importorskip("timm", reason="ResNet-50 comes from timm, which is not installed")

# By https://github.com/mangye16/Cross-Modal-Re-ID-baseline at e817a2672c1e, model.py, embed_net(5) in evaluation mode
# and float64, with the weights of agw_state.py, on the images of the test: every 256th of the 2048 normalised
# features before and after BNNeck, of visible image 0 and infrared image 0.
PUBLIC_FEATURES = [
    [0.01398154, 0.03026332, 0.00074696, 0.05078901, 0.03265596, 0.04420925, 0.01474029, 0.00863039],
    [0.01366062, 0.02961059, 0.00068941, 0.04914147, 0.03244509, 0.04228687, 0.01468401, 0.00910071],
]
PUBLIC_EMBEDDING = [
    [0.0109673, 0.0229807, 0.01272094, 0.07035301, 0.0157541, 0.04754968, -0.01207104, -0.00823547],
    [0.01072796, 0.02247562, 0.01259468, 0.0687701, 0.0158466, 0.0456617, -0.0118425, -0.00771647],
]
# The same of embed_net(5, no_local="off", gm_pool="off"), the baseline of that code.
BASELINE_FEATURES = [
    [0.01482095, 0.03260719, 0.00010224, 0.04657067, 0.03979824, 0.04606636, 0.01618435, 0.00816159],
    [0.01446283, 0.03105493, 0.00011445, 0.04412444, 0.03896926, 0.04435548, 0.01611255, 0.00815013],
]
BASELINE_EMBEDDING = [
    [0.01109309, 0.02354376, 0.01344044, 0.06650448, 0.02075971, 0.04801241, -0.0134852, -0.01010952],
    [0.01084365, 0.0221181, 0.01334844, 0.06421428, 0.02023165, 0.04646108, -0.01324425, -0.00996472],
]


def agw(duplicated=1):
    return create_model("agw", num_classes=5, neck="gem", last_stride=1, duplicated=duplicated)


@pytest.fixture(scope="module")
def public():
    return agw_state(timm.create_model("resnet50", num_classes=0).state_dict(), num_classes=5)


def save(path, state):
    """As its training script did under the torch and NumPy of its day, with scores that are NumPy numbers."""
    scores = {"acc": np.float64(0.5), "mAP": np.float64(0.4), "mINP": np.float32(0.3), "epoch": 7}
    torch.save({"net": state, **scores}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    return path


def assert_gives(model, features, embedding, public):
    visible = filled("visible", (2, 3, 64, 32), -2, 2, torch.float32)
    infrared = filled("infrared", (3, 3, 64, 32), -2, 2, torch.float32)
    with torch.no_grad():
        output = model(visible[:1], infrared[:1])
    for actual, golden in ((output.features, features), (output.embedding, embedding)):
        torch.testing.assert_close(F.normalize(actual)[:, ::256], torch.tensor(golden), rtol=0, atol=1e-6)
    torch.testing.assert_close(output.logits, output.embedding @ public["classifier.weight"].T)


def without_non_local(state):
    return {name: tensor for name, tensor in state.items() if not name.startswith("NL_")}


def test_public_checkpoint_gives_the_outputs_of_the_public_code(tmp_path, public):
    path = save(tmp_path / "agw.t", public)
    assert_gives(create_agw(path), PUBLIC_FEATURES, PUBLIC_EMBEDDING, public)
    model = agw(duplicated=4)
    load_agw(model, path)
    assert_gives(model.eval(), PUBLIC_FEATURES, PUBLIC_EMBEDDING, public)


def test_public_checkpoint_of_the_baseline_gives_the_outputs_of_the_public_code(tmp_path, public):
    state = {f"module.{name}": tensor for name, tensor in without_non_local(public).items()}  # by DataParallel
    assert_gives(create_agw(save(tmp_path / "base.t", state)), BASELINE_FEATURES, BASELINE_EMBEDDING, public)


def test_checkpoint_of_another_method_on_the_same_code_is_refused(tmp_path, public):
    deen = without_non_local(public) | {"DEE.FC11.weight": torch.zeros(256, 1024, 3, 3)}
    with pytest.raises(InputError, match=r"layers that the network has not, DEE\.FC11\.weight"):
        create_agw(save(tmp_path / "deen.t", deen))
    plain = create_model("resnet50", num_classes=5, neck="gap", last_stride=1)
    with pytest.raises(InputError, match=r"layers that the network has not, NL_2\.0\."):
        load_agw(plain, save(tmp_path / "agw.t", public))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("NL_3.2.phi.weight"), "lacks tensor .*non_local5.project.weight"),
        (lambda state: state.update({"bottleneck.bias": torch.zeros(7)}), r"head.norm.bias has shape \(7,\)"),
    ],
    ids=["a tensor is missing", "a tensor of another shape"],
)
def test_public_checkpoint_that_does_not_fit_is_refused(tmp_path, public, change, message):
    state = dict(public)
    change(state)
    with pytest.raises(InputError, match=message):
        load_agw(agw(), save(tmp_path / "agw.t", state))


def test_public_checkpoint_has_no_stem_for_a_single_path(tmp_path, public):
    with pytest.raises(InputError, match=r"lacks tensor shared\.block1\.conv1\.weight"):
        load_agw(agw(duplicated=0), save(tmp_path / "agw.t", public))


class Harmful:
    def __reduce__(self):
        return (print, ("code from a file",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"net": {"a": torch.zeros(1)}, "acc": Harmful()}, "not a torch checkpoint of tensors and numbers alone"),
        ({"net": [torch.zeros(1)]}, "holds no state dict"),
        ({"model": {"a": torch.zeros(1)}}, "no tensor classifier.weight"),
    ],
)
def test_foreign_file_is_refused_and_runs_no_code(tmp_path, capsys, content, message):
    torch.save(content, tmp_path / "agw.t")
    with pytest.raises(InputError, match=message):
        create_agw(tmp_path / "agw.t")
    assert not capsys.readouterr().out
    with pytest.raises(InputError, match="no such file"):
        create_agw(tmp_path / "absent.t")


def test_non_local_block_is_its_definition_over_all_pairs_of_positions():
    torch.manual_seed(0)
    block = NonLocal(6).double()
    nn.init.normal_(block.norm.weight)
    x = torch.randn(3, 6, 4, 5, dtype=torch.float64, requires_grad=True)

    def definition():
        theta, phi, g = block.project(x).flatten(2).split(1, dim=1)
        pairs = theta.mT @ phi / 20
        mixed = (pairs @ g.mT).mT.unflatten(2, (4, 5))
        return x + block.norm(block.expand(mixed))

    weight, inputs = torch.randn_like(x), [x, *block.parameters()]
    torch.testing.assert_close(block(x), definition())
    torch.testing.assert_close(
        torch.autograd.grad((block(x) * weight).sum(), inputs),
        torch.autograd.grad((definition() * weight).sum(), inputs),
    )


def test_non_local_block_compiles_checkpoints_and_keeps_the_layout():
    torch.manual_seed(0)
    block = NonLocal(8).train()
    x = torch.randn(2, 8, 5, 3).to(memory_format=torch.channels_last)
    assert torch.equal(block(x), x)  # fresh
    nn.init.normal_(block.norm.weight)
    expected = block(x)
    torch._dynamo.reset()
    for run in (
        torch.compile(block, fullgraph=True, backend="aot_eager"),
        lambda x: checkpoint(block, x, use_reentrant=False),
    ):
        out = run(x)
        torch.testing.assert_close(out, expected)
        assert out.is_contiguous(memory_format=torch.channels_last)
    exact = block.eval()(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = block(x)
    assert (half - exact).abs().max() <= 0.01 * exact.abs().max()
