"""The benchmark of the ops: its peers compute what ours do, its figures are true, and nothing wrong gets a time."""

import csv
import importlib
import sys
from pathlib import Path

import pytest
import torch

from toplight_ext import FDR, ops

FOLDER = Path(__file__).parents[1] / "benchmarks"
pytestmark = pytest.mark.skipif(not (FOLDER / "ops.py").is_file(), reason="benchmarks/ is not beside the tests")
SIZE = (3, 8, 5, 4)


def module(name: str):
    """A module of benchmarks/, which is no package."""
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    return importlib.import_module(name)


@pytest.fixture
def tiny(monkeypatch):
    """Cases of a shape that takes no time."""
    cases = module("cases")
    for shapes in (cases.SHAPES, cases.MAPS):
        monkeypatch.setitem(shapes, "small", SIZE)
    return cases


def randomised_fdr() -> FDR:
    torch.manual_seed(0)
    fdr = FDR(SIZE[1], slices=(3, 2), groups=2).double()
    for parameter in fdr.parameters():
        torch.nn.init.normal_(parameter)
    return fdr.train()


@pytest.mark.parametrize("layout", (torch.contiguous_format, torch.channels_last), ids=str)
@pytest.mark.parametrize("peer", ("fdr_on_maps", "fdr_on_vectors"))
def test_the_peers_of_fdr_are_fdr(peer, layout):
    fdr = randomised_fdr()
    x = torch.randn(SIZE, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    leaves = [x, *fdr.parameters()]
    arriving = torch.randn(SIZE, dtype=torch.float64)
    with ops.use_backend("reference"):
        expected = fdr(x)
    y = getattr(module("compositions"), peer)(fdr, x)
    torch.testing.assert_close(y, expected)
    gradients = torch.autograd.grad(y, leaves, arriving)
    for given, true in zip(gradients, torch.autograd.grad(expected, leaves, arriving), strict=True):
        torch.testing.assert_close(given, true, rtol=1e-9, atol=1e-9)


def test_memory_is_that_of_a_known_graph():
    measuring = module("measuring")
    x = torch.randn(4096, 256, requires_grad=True)
    with measuring.peak_allocation("cpu") as peak:
        with measuring.kept_storages() as kept:
            y = (2 * x).exp() * x  # keeps the exponential, and x
        torch.autograd.grad(y, x, y.detach())
    assert set(kept.values()) == {x.nbytes} and len(kept) == 2
    assert measuring.addresses([x]) < set(kept)
    # y, the exponential, both gradients of the product, and what the first of them becomes; scalars come on top.
    assert 4 * x.nbytes <= peak[0] <= 5 * x.nbytes + 1024


def test_a_gradient_is_laid_out_as_the_output():
    x = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last).requires_grad_()
    arriving = torch.randn(2, 3, 4, 5)
    step = module("measuring").Step(torch.sigmoid, [x], [x], [arriving])
    step.lay_out_gradients()
    assert step.arriving[0].stride() == x.stride()
    assert torch.equal(step.arriving[0], arriving)


def test_a_zero_gradient_is_seen_beside_the_largest():
    error = module("measuring").relative_error
    large, zero = torch.full((4,), 100.0).double(), torch.zeros(4).double()
    assert error([large, zero + 1e-3], [large, zero]) == pytest.approx(1e-5)
    assert error([large + 1, zero], [large, zero]) == pytest.approx(1e-2)
    assert not error([large, zero * torch.nan], [large, zero]) <= 1.0


@pytest.mark.parametrize("op", module("cases").DEFINITIONS if (FOLDER / "ops.py").is_file() else ())
def test_every_variant_is_right(tiny, op, monkeypatch):
    trial = module("trial")
    monkeypatch.setattr(trial, "ROUNDS", 2)
    layout = tiny.DEFINITIONS[op].layouts[-1]
    case = tiny.Case(tiny.Key(op, "small", (3, 2), layout, "float32", "cpu"))
    rows = trial.measure(case, [*tiny.PLAIN, "native"])
    wanted = {*tiny.DEFINITIONS[op].plain, "native"}
    assert {row["variant"] for row in rows if row.get("both_us")} == wanted, rows
    assert all(row["forward_us"] < row["both_us"] for row in rows)


def test_a_wrong_result_gets_no_time(tiny, monkeypatch):
    trial = module("trial")
    monkeypatch.setattr(trial, "ROUNDS", 1)

    def wrong(case, module, x):
        """Right forward, wrong gradient."""
        rows, columns = ops.slice_pool(x, case.slices)
        return rows, columns + 0.01 * (columns - columns.detach())

    definition = tiny.DEFINITIONS["slice_pool"]._replace(ours=wrong)
    monkeypatch.setitem(tiny.DEFINITIONS, "slice_pool", definition)
    case = tiny.Case(tiny.Key("slice_pool", "small", (3, 2), "NCHW", "float32", "cpu"))
    rows = {row["variant"]: row for row in trial.measure(case, ["eager", "native"])}
    assert rows["native"]["failure"] == "wrong" and "both_us" not in rows["native"]
    assert "both_us" in rows["eager"]


def test_missed_demands_are_named():
    demands, key = (
        module("demands"),
        module("cases").Key("slice_pool_upsample", "small", (6, 3), "NCHW", "float32", "cpu"),
    )
    native = {"both_us": 1.0, "both_of_copy": 0.5}
    rows = {"native": native, "eager": {"both_us": 9.0}, "compile": {"both_us": 2.0}}
    (words,) = demands.missed(key, rows)
    assert words == "9x as fast as eager, at least 10 is demanded"
    assert demands.missed(key, rows | {"eager": {"both_us": 10.0}}) == []
    assert demands.missed(key, {"native": native}) == []


def test_rows_have_their_provenance_and_can_be_drawn(tiny, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(module("trial"), "ROUNDS", 2)
    benchmark, plot = module("ops"), module("plot")
    out = tmp_path / "ops.csv"
    given = ["--op", "slice_pool", "--shape", "small", "--slices", "3,2", "--variant", "eager", "native"]
    assert benchmark.run(benchmark.arguments(["--device", "cpu", *given, "--out", str(out)])) == 0
    rows = list(csv.DictReader(out.open()))
    assert [(row["layout"], row["variant"]) for row in rows] == [
        (layout, variant) for layout in ("NCHW", "NHWC") for variant in ("eager", "native")
    ]
    assert all(row[name] for row in rows for name in ("date", "commit", "device", "threads", "torch", "python"))
    assert rows[0]["size"] == "3x8x5x4" and rows[0]["slices"] == "3x2"
    ((picture, cases),) = plot.read([out]).items()
    ((shape, layout, speed, low, high), _) = plot.points(cases, "slice_pool", "native", "speed")
    assert (shape, layout) == ("small", "NCHW") and low <= speed <= high
    assert speed == pytest.approx(float(rows[0]["both_us"]) / float(rows[1]["both_us"]), rel=1e-3)
    plot.draw(picture, cases).savefig(tmp_path / "ops.png")
    assert (tmp_path / "ops.png").stat().st_size > 10_000
