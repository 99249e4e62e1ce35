"""`python -m toplight_ext.verify`: right ops pass, each kind of wrong one is found and named."""

import json

import pytest
import torch

from toplight_ext import ops, verify
from toplight_ext.op_cases import CASES


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """One shape for all: the op tests have the others."""
    monkeypatch.setattr(verify, "TIMED_QUICKLY", verify.SMALL)
    monkeypatch.setattr(verify, "SAMPLES", {"toplight": verify.SAMPLES["toplight"]})


def no_json(constant):
    raise AssertionError(f"{constant} is not JSON")


def run(capsys, *arguments):
    code = verify.main(["--device", "cpu", "--quick", "--json", *arguments])
    return code, json.loads(capsys.readouterr().out.splitlines()[-1], parse_constant=no_json)


@pytest.fixture
def slice_pool_alone(monkeypatch):
    monkeypatch.setattr(verify, "CASES", {"slice_pool": CASES["slice_pool"]})


def test_every_op_is_checked_in_every_way(capsys):
    code, found = run(capsys)
    assert code == 0 and found["right"] and found["device"] == "cpu"
    checks = {"float32", "float64", "bfloat16", "float16", "gradcheck", "opcheck"}
    for op, devices in ops.backends().items():
        rows = {row["check"]: row for row in found["rows"] if row["op"] == op}
        assert rows.keys() == (checks - {"gradcheck"} if op == "gradient_reversal" else checks)
        assert {row["backend"] for row in rows.values()} == {devices["cpu"].backend}
        assert all(row["milliseconds"] > 0 for check, row in rows.items() if row["error"] is not None), rows
        assert 0 < rows["float32"]["error"] < 1e-5


def wrong_value(x, slices):
    rows, columns = ops.reference.slice_pool(x, slices)
    return rows, columns * (1 + 1e-4)


def wrong_gradient(x, slices):
    rows, columns = ops.reference.slice_pool(x, slices)
    return rows, columns + 0.1 * (columns - columns.detach())


def unwritten(x, slices):
    rows, columns = ops.reference.slice_pool(x, slices)
    return rows, columns + 0 * torch.empty_like(columns)


def raising(x, slices):
    raise RuntimeError("no kernel image\nand more")


@pytest.mark.parametrize(
    "op, check, verdict",
    (
        (wrong_value, "float32", "WRONG: slice_pool, toplight, contiguous: "),
        (wrong_gradient, "float64", "WRONG: slice_pool, toplight, contiguous: "),
        (wrong_gradient, "gradcheck", "GradcheckError: "),
        (unwritten, "float16", "WRONG: slice_pool, many_channels, contiguous: nan"),
        (raising, "bfloat16", "RuntimeError: no kernel image"),
    ),
)
def test_what_is_wrong_is_named(op, check, verdict, monkeypatch, capsys, slice_pool_alone):
    monkeypatch.setattr(ops, "slice_pool", op)
    code, found = run(capsys)
    (row,) = (row for row in found["rows"] if row["check"] == check)
    assert code == 1 and not found["right"] and row["verdict"].startswith(verdict)
    assert row["milliseconds"] is None, "nothing wrong gets a time"


def test_a_wrong_registration_is_found(monkeypatch, slice_pool_alone, capsys):
    def refuse(*arguments):
        raise torch.testing._internal.optests.generate_tests.OpCheckError("the fake has other strides")

    monkeypatch.setattr(torch.library, "opcheck", refuse)
    code, found = run(capsys)
    wrong = {row["check"]: row["verdict"] for row in found["rows"] if row["verdict"] != verify.RIGHT}
    assert code == 1 and wrong == {"opcheck": "OpCheckError: the fake has other strides"}


def test_where_nothing_is_compiled_plain_pytorch_is_checked(monkeypatch, slice_pool_alone, capsys):
    monkeypatch.setattr(verify, "usable_backends", lambda device: ["reference"])
    assert verify.main(["--device", "cpu", "--quick"]) == 0
    _, head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["op", "backend", "check"]
    assert [row.split()[:3] for row in rows] == [
        ["slice_pool", "reference", check] for check in ("float32", "float64", "bfloat16", "float16", "gradcheck")
    ]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_wrong_use(capsys):
    with pytest.raises(SystemExit) as stop:
        verify.main(["--device", "cuda"])
    assert stop.value.code == 2 and "sees no CUDA device" in capsys.readouterr().err
