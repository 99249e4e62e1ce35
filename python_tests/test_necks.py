"""The necks of the paper's ablations against their definitions on maps, timm, and numbers of SA-Net's own code."""

import warnings

import neck_definitions as on_maps
import pytest
import torch
from filling import filled
from neck_definitions import randomise
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import toplight_ext as tl
from toplight_ext.errors import InputError
from toplight_ext.nn import NECKS, create_neck

FDR_ARGUMENTS = {"slices": (4, 2), "groups": 4}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def build(name, channels=32, **settings):
    return randomise(create_neck(name, channels, **{**FDR_ARGUMENTS, **settings}))


def assert_equal_with_gradients(actual, expected, inputs):
    """Both are functions without arguments, whose results hang on `inputs`."""
    out, target = actual(), expected()
    torch.testing.assert_close(out, target)
    weight = torch.randn_like(target)
    torch.testing.assert_close(
        torch.autograd.grad((out * weight).sum(), inputs), torch.autograd.grad((target * weight).sum(), inputs)
    )


# --- the readings of FDR ---

READINGS = {
    "fdr_pointwise": on_maps.pointwise,
    "fdr_profile": on_maps.on_the_profile,
    "fdr": on_maps.side_by_side,
    "fdr_vector": on_maps.vector,
    "fdr_transposed": on_maps.transposed,
    "fdr_mixing": on_maps.mixing,
}
SHAPES = {
    "ReID, last stride 2": ((6, 3), (3, 8, 9, 5)),
    "map smaller than the slices": ((6, 3), (3, 8, 2, 1)),
    "odd sizes, one slice": ((1, 5), (2, 8, 7, 11)),
}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", READINGS)
def test_reading_is_its_definition_on_maps_with_gradients(name, shape, training):
    slices, size = SHAPES[shape]
    module = build(name, channels=8, slices=slices, groups=2, out_channels=12).double().train(training)
    x = torch.randn(size, dtype=torch.float64, requires_grad=True)
    inputs = [x, *module.parameters()]

    def definition():
        return on_maps.fdr_on_maps(x, module, READINGS[name])

    assert_equal_with_gradients(lambda: module(x), definition, inputs)
    assert_equal_with_gradients(lambda: module.pooled(x), lambda: definition().mean((2, 3)), inputs)


def test_fresh_transposed_reading_is_that_of_the_vector():
    module = create_neck("fdr_transposed", 8, groups=2).eval()
    vector = create_neck("fdr_vector", 8, groups=2).eval()
    vector.load_state_dict({key: value for key, value in module.state_dict().items() if not key.endswith("profile")})
    x = torch.randn(2, 8, 9, 5)
    torch.testing.assert_close(module(x), vector(x))


# --- FDR with a part left out or exchanged ---


def test_fdr_without_upsampling_attends_the_slices_where_they_are():
    module = build("fdr_without_upsampling", channels=8, groups=4).double()
    x = torch.randn(2, 8, 9, 5, dtype=torch.float64, requires_grad=True)

    def definition():
        rows, columns = F.adaptive_avg_pool2d(x, (4, 1)), F.adaptive_avg_pool2d(x, (1, 2))
        both = torch.cat((rows.expand(-1, -1, -1, 2), columns.expand(-1, -1, 4, -1)), dim=1)
        return on_maps.shuffle_attention_on_maps(both, module.attention)

    inputs = [x, *module.parameters()]
    assert_equal_with_gradients(lambda: module(x), definition, inputs)
    assert_equal_with_gradients(lambda: module.pooled(x), lambda: definition().mean((2, 3)), inputs)


def test_interpolation_alone_changes_nothing_of_what_fdr_pools():
    module = build("fdr", channels=8).double().eval()
    x = torch.randn(2, 8, 9, 5, dtype=torch.float64)
    rows, columns, _ = module.profiles(x)
    not_enlarged = tl.ops.upsample_shuffle_attention_pooled(rows, columns, (1, 1), *module.attention.op_arguments())
    torch.testing.assert_close(module.pooled(x), not_enlarged)


def test_horizontal_fdr_is_its_definition_on_maps():
    module = build("fdr_horizontal", channels=8).double()
    x = torch.randn(3, 8, 9, 5, dtype=torch.float64, requires_grad=True)

    def definition():
        rows = on_maps.side_by_side(F.adaptive_avg_pool2d(x, (4, 1)), module.embed_rows, "rows", x.shape[2:])
        return on_maps.shuffle_attention_on_maps(on_maps.enlarge(rows, x.shape[2:]), module.attention)

    inputs = [x, *module.parameters()]
    assert_equal_with_gradients(lambda: module(x), definition, inputs)
    assert_equal_with_gradients(lambda: module.pooled(x), lambda: definition().mean((2, 3)), inputs)


@pytest.mark.parametrize("name", ["fdr_se", "fdr_cbam"])
def test_attention_of_fdr_can_be_another(name):
    module = build(name).double().eval()
    x = torch.randn(2, 32, 9, 5, dtype=torch.float64)
    expected = module.attention(on_maps.rebuilt_on_maps(x, module))
    assert type(module.attention) is type(create_neck(name.removeprefix("fdr_"), 32))
    torch.testing.assert_close(module(x), expected)
    torch.testing.assert_close(module.pooled(x), expected.mean((2, 3)))


def test_unshuffled_is_shuffle_attention_without_its_last_step():
    x = torch.randn(2, 32, 9, 5)
    for name in ("fdr", "shuffle_attention"):
        shuffled = build(name).eval()
        unshuffled = create_neck(f"{name}_unshuffled", 32, **FDR_ARGUMENTS).eval()
        unshuffled.load_state_dict(shuffled.state_dict())
        torch.testing.assert_close(F.channel_shuffle(unshuffled(x), 2), shuffled(x))


# --- attentions ---

# By https://github.com/wofmanaf/SA-Net at 00a676085e2a, models/sa_resnet.py, sa_layer(12, groups=3) in float64, with
# the parameters and the map of the test: the output of image 0 at row 1, column 0, the spatial mean of that of
# image 1, and of the gradient of (output * weight).sum() image 1 at row 2, column 1; one number per channel.
SA_NET = (
    [-1.044349788, -0.96574913, -0.149969976, -0.300644155, 1.357507354, -0.007299382, 0.027717884, 0.643999097,
     0.88676756, 1.238496205, -1.207229891, -0.340695508],
    [-0.129715166, -0.24373105, 0.115353444, -0.047247332, -0.464971744, 0.251196371, -0.00622253, -0.232630079,
     0.236291891, -0.043139831, -0.198706056, -0.245660938],
    [0.350844228, 0.409415972, 0.48509132, 0.315378706, -0.506147279, -0.341100573, -0.286938935, -0.206336419,
     0.637182454, 0.612094096, 0.463329683, -0.114296943],
)  # fmt: skip


def test_shuffle_attention_is_that_of_sa_net():
    module = tl.ShuffleAttention(12, groups=3).double()
    module.load_state_dict({name: filled(name, value.shape) for name, value in module.state_dict().items()})
    x = filled("map", (2, 12, 3, 2), -2, 2).requires_grad_()
    y = module(x)
    (gradient,) = torch.autograd.grad((y * filled("weight", y.shape)).sum(), x)
    for actual, golden in zip((y[0, :, 1, 0], y[1].mean((1, 2)), gradient[1, :, 2, 1]), SA_NET, strict=True):
        torch.testing.assert_close(actual, torch.tensor(golden, dtype=torch.float64), rtol=0, atol=1e-9)


def timm_twin(name):
    layers = pytest.importorskip("timm.layers", reason="timm is the independent implementation")
    if name == "se":
        return layers.SEModule(32, rd_channels=2)
    if name == "cbam":
        return layers.create_attn("cbam", 32, rd_channels=2)
    twin = layers.GlobalContext(32, fuse_add=True, fuse_scale=False, rd_channels=2)
    twin.mlp_add.norm.eps = 1e-5  # timm's 1e-6 is not that of GCNet's code
    return twin


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", ["se", "cbam", "context"])
def test_attention_is_that_of_timm_with_equal_weights(name, training):
    module, twin = build(name).double().train(training), timm_twin(name).double().train(training)
    state, names = module.state_dict(), twin.state_dict()
    assert len(state) == len(names)
    twin.load_state_dict(
        {key: value.reshape(old.shape) for (key, old), value in zip(names.items(), state.values(), strict=True)}
    )
    x = torch.randn(3, 32, 7, 5, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(module(x), twin(x))
    torch.testing.assert_close(module.pooled(x), twin(x).mean((2, 3)))
    for of_module, of_twin in zip(
        torch.autograd.grad(module(x).square().sum(), [x, *module.parameters()]),
        torch.autograd.grad(twin(x).square().sum(), [x, *twin.parameters()]),
        strict=True,
    ):
        torch.testing.assert_close(of_module, of_twin.reshape(of_module.shape))


def test_fresh_global_context_changes_nothing():
    x = torch.randn(2, 32, 4, 3)
    assert torch.equal(create_neck("context", 32)(x), x)


# --- pools ---


def test_gem_is_the_root_of_the_mean_power():
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 2.0, -5.0], [0.0, 0.0, 0.0, -1.0]]).reshape(1, 3, 2, 2)
    expected = torch.tensor([[(100 / 4) ** (1 / 3), 2 ** (1 / 3), 1e-4]])
    x.requires_grad_()
    pooled = create_neck("gem", 3).pooled(x)
    torch.testing.assert_close(pooled, expected)
    (gradient,) = torch.autograd.grad(pooled.sum(), x)
    assert torch.isfinite(gradient).all() and gradient[0, 0].all()


def test_gem_does_not_overflow_in_half_precision():
    x = torch.full((1, 2, 3, 3), 100.0, dtype=torch.float16)
    assert torch.equal(create_neck("gem", 2).pooled(x), torch.full((1, 2), 100.0, dtype=torch.float16))


def test_parts_are_the_means_of_the_reduced_map():
    module = build("parts", channels=8, slices=(3, 2), part_channels=5)
    x = torch.randn(2, 8, 6, 4)
    parts = module.reduce(x).unflatten(3, (2, 2)).unflatten(2, (3, 2)).mean((3, 5))
    torch.testing.assert_close(module.pooled(x), parts.flatten(1))
    assert module.out_channels == module.pooled(x).shape[1] == 30
    with pytest.raises(InputError, match="positive"):
        build("parts", slices=(0, 2))


def test_horizontal_average_pool_concatenates_the_means_of_overlapping_bands():
    x = torch.randn(2, 3, 9, 5)
    bands = [x[:, :, start:end].mean((2, 3)) for start, end in ((0, 3), (2, 5), (4, 7), (6, 9))]
    neck = create_neck("hap", 3, slices=(4, 2))
    assert neck.out_channels == 12
    torch.testing.assert_close(neck.pooled(x), torch.stack(bands, dim=2).flatten(1))


# --- every neck ---


def pooled_with_gradients(run, neck, x):
    pooled = run(x)
    return pooled, torch.autograd.grad(pooled.square().sum(), [x, *neck.parameters()])


@pytest.mark.parametrize("name", NECKS)
def test_neck_keeps_its_interface_in_every_mode(name):
    neck = build(name).train()
    x = torch.randn(4, 32, 9, 5, requires_grad=True)
    pooled = neck.pooled(x)
    assert pooled.shape == (4, neck.out_channels) and neck.channels == 32
    last = x.detach().to(memory_format=torch.channels_last).requires_grad_()
    assert neck(last).is_contiguous(memory_format=torch.channels_last)

    # A BatchNorm in training mode normalises by the batch, so its running statistics do not tell these runs apart.
    expected = pooled_with_gradients(neck.pooled, neck, x)
    torch._dynamo.reset()
    compiled = torch.compile(neck.pooled, fullgraph=True, backend="aot_eager")
    for run, image in (
        (neck.pooled, last),
        (compiled, x),
        (lambda x: checkpoint(neck.pooled, x, use_reentrant=False), x),
    ):
        torch.testing.assert_close(pooled_with_gradients(run, neck, image), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NECKS)
def test_neck_is_traced_symbolically(name):
    neck, x = build(name).eval(), torch.randn(4, 32, 9, 5)
    assert torch.equal(torch.fx.symbolic_trace(neck)(x), neck(x))


@pytest.mark.parametrize("name", NECKS)
def test_neck_under_autocast_stays_near_full_precision(name):
    neck = build(name).eval()
    x = torch.randn(4, 32, 9, 5, requires_grad=True)
    exact = neck.pooled(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pooled = neck.pooled(x.bfloat16())
    scale = exact.detach().abs().max()
    assert (pooled - exact).abs().max() <= 0.05 * scale
    pooled.float().square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in neck.parameters())


def test_necks_take_the_settings_they_have():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert create_neck("fdr", 8, slices=(4, 2), groups=2, embed=False).out_channels == 16
        assert create_neck("gap", 8, slices=(4, 2), groups=2, embed=False).out_channels == 8


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: create_neck("gp", 8), "unknown neck 'gp'; known are: .*gap"),
        (lambda: create_neck("gap", 8, slice=(4, 2)), "no neck has the setting slice$"),
        (lambda: create_neck("hap", 8, slices=(0, 2)), "at least one band, got 0"),
        (lambda: create_neck("fdr_mixing", 8, groups=3), "G = 3; the nearest valid G is [24]"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()
