"""Several processes on CPU (gloo): the losses of one process, and what happens when one of them is lost."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_run import write_tiny_recipe
from torch import nn

from toplight_ext import training
from toplight_ext.training import processes

# Batches that two processes cannot divide evenly, and all losses. An optimiser that does not enlarge rounding, as Adam
# does where a gradient is near 0, and low rates: on so few images training itself enlarges it, step by step.
SGD = "{name='sgd', learning_rate=%s, momentum=0.5, backbone_factor=0.5, weight_decay=0.01, clip_norm=5.0}"
OVERRIDES = [
    "size=[64, 32]",
    "checkpoint.steps=1",
    "top.epochs=1",
    "vi.epochs=1",
    "pretrain.batch_size=7",
    f"pretrain.optimiser={SGD % 1e-3}",
    f"top.optimiser={SGD % 1e-3}",
    f"vi.optimiser={SGD % 2e-4}",
    "vi.identities=3",
    "vi.circle_weight=0.01",
    "vi.weighted_triplet_weight=0.5",
    "vi.centre_weight=0.001",
    "vi.hetero_centre_weight=0.1",
    "vi.hetero_centre_triplet_weight=0.1",
]


TINY_RUN = Path(__file__).with_name("tiny_run.py")


def run_both(*arguments: str | Path) -> list[subprocess.Popen]:
    """Two processes of Python with what torchrun gives its own; both have ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            env={**os.environ, **group, "RANK": rank, "LOCAL_RANK": rank},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    for process in started:
        process.errors = process.communicate(timeout=240)[1]
    return started


def test_two_processes_have_the_losses_of_one_and_one_goes_on_when_the_other_is_lost(tmp_path):
    recipe = write_tiny_recipe(tmp_path)
    whole = training.start(training.load_recipe(recipe, OVERRIDES), tmp_path / "one")
    first, second = run_both(TINY_RUN, recipe, tmp_path / "two", "vi", "2", *OVERRIDES)
    assert second.returncode == -9
    assert first.returncode == 1, first.errors
    assert "process 0 of 2 lost another one" in first.errors and "toplight resume" in first.errors
    assert sum(json.loads(line)["stage"] == "vi" for line in logged(tmp_path / "two")) >= 2  # by both
    training.resume(tmp_path / "two")  # in one process

    ours, theirs = (list(map(json.loads, logged(folder))) for folder in (tmp_path / "two", whole.folder))
    assert [line.keys() for line in ours] == [line.keys() for line in theirs]
    for line, expected in zip(ours, theirs, strict=True):
        stage = line.pop("stage")
        assert stage == expected.pop("stage")
        assert line == pytest.approx(expected, rel=1e-5), stage


def test_two_processes_train_the_rows_of_an_ablation_and_go_on_after_one_that_diverges(tmp_path):
    base, table, out = write_tiny_recipe(tmp_path).with_name("vi.toml"), tmp_path / "table", tmp_path / "out"
    table.mkdir()
    for row, rate in (("1", 1e9), ("2", 1e-3)):
        (table / f"{row}.toml").write_text(
            f'base = "base"\nname = "{row}"\nvi = {{ epochs = 1, optimiser = {{ learning_rate = {rate} }} }}\n'
        )
    ablate = ["-m", "toplight_ext.cli", "ablate", table, "--base", base, "--out", out, "--seeds", "1"]
    assert [process.returncode for process in run_both(*ablate)] == [1, 1]
    first, second = (out / "table.md").read_text().splitlines()[2:]
    assert "0; seed 0 failed: stage vi, step " in first and second.endswith(" | 1 |")


def logged(folder):
    return (folder / "metrics.jsonl").read_text().splitlines()


def test_a_gathered_batch_sends_every_process_the_gradient_of_its_part():
    """Two processes in turns, on a collective that is replaced by what the other one holds."""
    torch.manual_seed(0)
    whole = torch.randn(5, 3, dtype=torch.float64)
    counts, target = (3, 2), torch.randn(5, 3, dtype=torch.float64)
    for rank in (0, 1):
        part = whole.split(counts)[rank].clone().requires_grad_()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(processes, "rank", lambda rank=rank: rank)
            patch.setattr(processes.dist, "all_gather", fill_from(whole, counts))
            gathered = processes.Whole(counts)(part)
        assert torch.equal(gathered, whole)
        (gathered * target).sum().backward()
        assert torch.equal(part.grad, 2 * target.split(counts)[rank])


def fill_from(whole, counts):
    def all_gather(parts, mine):
        for slot, rows in zip(parts, whole.split(counts), strict=True):
            slot[: len(rows)] = rows

    return all_gather


def test_a_synchronised_norm_alone_is_a_batch_norm(monkeypatch):
    """With one process there is nothing to add: torch's own norm gives values, gradients and statistics."""
    torch.manual_seed(0)
    monkeypatch.setattr(processes.dist, "all_reduce", lambda tensor: None)
    plain, ours = nn.BatchNorm2d(4), nn.Sequential(nn.BatchNorm2d(4))
    processes.synchronise_norms(ours, torch.device("cpu"))
    assert ours[0].state_dict().keys() == plain.state_dict().keys()
    x = 100 + torch.randn(3, 4, 5, 2)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    gradient = torch.randn_like(x)
    plain(a).backward(gradient)
    ours(b).backward(gradient)
    torch.testing.assert_close(b.grad, a.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours[0].state_dict(), plain.state_dict())
    assert torch.equal(ours.eval()(x), nn.Sequential(ours[0]).eval()(x))
