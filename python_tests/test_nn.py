"""The modules against their definition on maps, written here step by step in plain PyTorch."""

import copy
import pickle
import warnings

import pytest
import torch
from neck_definitions import fdr_on_maps, left_out, randomise, shuffle_attention_on_maps, side_by_side
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn import functional as F

import toplight_ext as tl
from toplight_ext.errors import InputError
from toplight_ext.nn import BNNeck, DomainHead, GlobalAveragePool


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


FDRS = {
    "as in the network": ({"channels": 16, "slices": (6, 3), "groups": 4}, (3, 16, 9, 5)),
    "fewer channels out": ({"channels": 12, "out_channels": 8, "slices": (4, 2), "groups": 2}, (2, 12, 8, 4)),
    "map smaller than the slices": ({"channels": 8, "slices": (6, 3), "groups": 2}, (3, 8, 2, 1)),
    "odd sizes, one slice": ({"channels": 8, "slices": (1, 5), "groups": 1}, (2, 8, 7, 11)),
    "no embedding": ({"channels": 8, "slices": (6, 3), "groups": 4, "embed": False}, (2, 8, 9, 5)),
    "no embedding, smaller map": (
        {"channels": 6, "slices": (4, 3), "groups": 3, "embed": False},
        (2, 6, 3, 2),
    ),
}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("case", FDRS)
def test_fdr_is_its_definition_on_maps_with_gradients(case, training):
    arguments, shape = FDRS[case]
    module = randomise(tl.FDR(**arguments)).double().train(training)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    inputs = [x, *module.parameters()]
    expected = fdr_on_maps(x, module, side_by_side if module.embed else left_out)
    assert expected.shape == (shape[0], module.out_channels, *shape[2:])
    weights = torch.randn_like(expected)
    for actual, target, weight in (
        (module(x), expected, weights),
        (module.pooled(x), expected.mean((2, 3)), weights[:, :, 0, 0]),
    ):
        torch.testing.assert_close(actual, target)
        torch.testing.assert_close(
            torch.autograd.grad((actual * weight).sum(), inputs),
            torch.autograd.grad((target * weight).sum(), inputs, retain_graph=True),
        )


@pytest.mark.parametrize("shuffle", [True, False])
def test_shuffle_attention_is_its_definition(shuffle):
    module = randomise(tl.ShuffleAttention(24, groups=3, shuffle=shuffle)).double()
    x = torch.randn(2, 24, 5, 3, dtype=torch.float64, requires_grad=True)
    inputs, expected = [x, *module.parameters()], shuffle_attention_on_maps(x, module)
    weight = torch.randn_like(expected)
    torch.testing.assert_close(module(x), expected)
    torch.testing.assert_close(
        torch.autograd.grad((module(x) * weight).sum(), inputs),
        torch.autograd.grad((expected * weight).sum(), inputs),
    )


def test_fresh_shuffle_attention_scales_everything_alike():
    x = torch.randn(2, 128, 4, 4)
    out = tl.ShuffleAttention(128)(x)
    torch.testing.assert_close(out, F.channel_shuffle(x, 2) * torch.sigmoid(torch.tensor(1.0)))


@pytest.mark.parametrize("embed", [True, False])
@pytest.mark.parametrize("method", ["forward", "pooled"])
def test_fdr_compiles_once_for_every_batch_and_map_size(method, embed):
    torch._dynamo.reset()
    module = randomise(tl.FDR(16, slices=(4, 2), groups=4, embed=embed)).double().train()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(getattr(module, method), fullgraph=True, dynamic=True, backend=counter)
    counts = []
    for shape in ((3, 16, 9, 5), (4, 16, 7, 6), (5, 16, 12, 8)):
        x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        reference = copy.deepcopy(module)
        out, expected = compiled(x), getattr(reference, method)(x)
        torch.testing.assert_close(out, expected)
        torch.testing.assert_close(
            torch.autograd.grad(out.square().sum(), [x, *module.parameters()]),
            torch.autograd.grad(expected.square().sum(), [x, *reference.parameters()]),
        )
        counts.append(counter.frame_count)
    assert counts[0] == counts[-1]


def test_fdr_follows_the_layout_of_its_input():
    module = randomise(tl.FDR(16, slices=(4, 2), groups=4)).eval()
    x = torch.randn(2, 16, 9, 5)
    out, last = module(x), module(x.to(memory_format=torch.channels_last))
    assert out.is_contiguous() and last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, out)


@pytest.mark.parametrize("embed", [True, False])
def test_fdr_under_autocast_stays_near_full_precision(embed):
    module = randomise(tl.FDR(64, slices=(4, 2), groups=4, embed=embed)).eval()
    embedding = side_by_side if embed else left_out
    x = torch.randn(4, 64, 9, 5, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, pooled = module(x.bfloat16()), module.pooled(x.bfloat16())
        definition = fdr_on_maps(x.bfloat16(), module, embedding)
    exact = fdr_on_maps(x, module, embedding)
    assert out.dtype == pooled.dtype == torch.bfloat16
    error, plain_error = (out - exact).abs().max(), (definition - exact).abs().max()
    assert error <= 2 * plain_error
    assert (pooled - exact.mean((2, 3))).abs().max() <= 2 * plain_error
    out.float().square().sum().backward()
    assert all(p.grad.dtype == torch.float32 and torch.isfinite(p.grad).all() for p in module.parameters())


def test_fdr_copies_pickles_and_loads():
    module = randomise(tl.FDR(16, slices=(4, 2), groups=4)).eval()
    x = torch.randn(2, 16, 9, 5)
    fresh = tl.FDR(16, slices=(4, 2), groups=4).eval()
    fresh.load_state_dict(module.state_dict())
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), fresh):
        assert torch.equal(twin(x), module(x))


def test_fdr_has_the_documented_number_of_parameters():
    module = tl.FDR(1280, slices=(6, 3))
    count = sum(parameter.numel() for parameter in module.parameters())
    assert count == 1280 * (107 + 214) + 2 * 1280 + 3 * 1280 // 64  # 640 / 6 and 640 / 3, rounded up


@pytest.mark.parametrize(("channels", "used"), [(1280, 64), (100, 50), (960, 60), (40, 20), (2, 1), (194, 1)])
def test_groups_left_out_fall_back_with_a_warning_that_names_them(channels, used):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert tl.ShuffleAttention(channels).groups == used
    assert [f"using {used} groups" in str(warning.message) for warning in caught] == [True] * (used != 64)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tl.ShuffleAttention(100, groups=64), "C = 100 and groups G = 64; the nearest valid G is 50"),
        (
            lambda: tl.ShuffleAttention(96, groups=20),
            "C = 96 and groups G = 20; the nearest valid G is 16|24",
        ),
        (lambda: tl.ShuffleAttention(96, groups=0), "G = 0; the nearest valid G is 1"),
        (lambda: tl.FDR(30, groups=4), "C = 30 and groups G = 4; the nearest valid G is [35]"),
        (lambda: tl.ShuffleAttention(7), "C = 7 .* no G is valid"),
        (lambda: tl.FDR(8, slices=(0, 3)), r"two whole numbers of at least 1 \(horizontal, vertical\), got \(0, 3\)"),
        (lambda: tl.FDR(8, slices=6), "slices must be two whole numbers .*, got 6"),
        (lambda: tl.FDR(8, out_channels=8, embed=False), "2 \\* channels = 16, got 8"),
        (lambda: tl.FDR(8, out_channels=0), "must be at least 1, got 8 and 0"),
        (lambda: tl.FDR(8, groups=2)(torch.zeros(2, 16, 3, 3)), r"made for 8 channels, .* \(2, 16, 3, 3\)"),
        (lambda: tl.ShuffleAttention(8, 2)(torch.zeros(2, 6, 3, 3)), r"made for 8 channels, .* \(2, 6, 3, 3\)"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_gradient_reversal_scales_by_a_lambda_that_changes_without_recompiling():
    torch._dynamo.reset()
    module = tl.GradientReversal(0.5)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(module, fullgraph=True, backend=counter)
    x, weight = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4)
    for lambd in (0.5, 0.125, 0.0):
        module.lambd.fill_(lambd)
        for run in (module, compiled):
            out = run(x)
            assert torch.equal(out, x)
            (grad,) = torch.autograd.grad((out * weight).sum(), x)
            torch.testing.assert_close(grad, -lambd * weight)
    assert counter.frame_count == 1
    assert not module.state_dict()


def test_bnneck_trains_all_but_its_bias():
    head = BNNeck(6, num_classes=3)
    features = torch.randn(5, 6)
    embedding, logits = head(features)
    normalised = (features - features.mean(0)) / (features.var(0, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(embedding, normalised)
    torch.testing.assert_close(logits, normalised @ head.classifier.weight.T)
    frozen = [name for name, parameter in head.named_parameters() if not parameter.requires_grad]
    assert frozen == ["norm.bias"]
    assert set(head.state_dict()) - set(BNNeck(6).state_dict()) == {"classifier.weight"}
    assert BNNeck(6)(features)[1] is None


def test_domain_head_and_plain_neck():
    x = torch.randn(3, 8, 4, 5)
    neck = GlobalAveragePool(8)
    assert neck(x) is x and neck.out_channels == 8
    torch.testing.assert_close(neck.pooled(x), x.flatten(2).mean(2))
    # One image's verdict must not depend on the rest of its batch, which comes from one path.
    head = DomainHead(8).train()
    torch.testing.assert_close(head(neck.pooled(x))[:1], head(neck.pooled(x[:1])))
    assert head(neck.pooled(x)).shape == (3, 2)
