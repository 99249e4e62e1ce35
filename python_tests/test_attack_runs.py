"""Attacks on runs: a disk that is full or lost, signals where they hurt, lost processes. Long forms: soak/."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import attacks.lost
import pytest
from soak import faults
from tiny_run import assert_same_outcome, write_tiny_recipe

from toplight_ext import cli
from toplight_ext.data import cache
from toplight_ext.deploy import latency
from toplight_ext.errors import InputError
from toplight_ext.report import page
from toplight_ext.training import Interrupted, ablate, runner, stages
from toplight_ext.training.run import sole_writer
from toplight_ext.training.stopping import stop_on_signal

ROOT = Path(__file__).parents[1]


def test_a_disk_that_fails_at_any_file_is_named_and_costs_nothing():
    if subprocess.run([*faults.NAMESPACE, "true"], capture_output=True).returncode:
        pytest.skip("needs a mount namespace of its own, which this system does not allow")
    command = [sys.executable, "-m", "python_tests.soak", "faults", "--times", "1", "--short"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("every error named its file\n")


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_nobody_takes_a_signal_for_a_failure():
    with pytest.raises(Interrupted, match="as told"), stop_on_signal() as stop:
        stop.message = "as told"
        with contextlib.suppress(Exception):
            terminate()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@contextlib.contextmanager
def terminated_in(module, name: str):
    """Inside, a call of that name is interrupted by SIGTERM when it begins."""
    function = getattr(module, name)

    def interrupted(*arguments, **named):
        terminate()
        return function(*arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, name, interrupted)
        yield


def test_sigterm_while_images_weights_and_the_report_are_written(tmp_path, capsys):
    """Exit code 1, the way to go on, nothing half written, nothing lost, and then the same bits."""
    file, run = write_tiny_recipe(tmp_path).with_name("vi.toml"), tmp_path / "run"

    def train(folder: Path) -> list[str]:
        return ["train", str(file), "--out", str(folder), "--set", f"data.cache='{folder}.cache'"]

    def stopped(module, name: str, *arguments: str) -> str:
        with terminated_in(module, name):
            assert cli.main(arguments) == 1
        assert not list(tmp_path.rglob(".*.tmp"))
        return capsys.readouterr().err.splitlines()[-1]

    go_on = f"stopped in stage vi: continue with toplight resume {run}"
    assert go_on in stopped(cache, "progress_bar", *train(run))  # the file is open by then
    assert go_on in stopped(stages, "save_weights", "resume", str(run))
    assert [entry["stage"] for entry in json.loads((run / "stages.json").read_text())] == ["vi"]  # it was finished
    assert go_on in stopped(runner, "ranked_record", "resume", str(run))
    assert f"toplight report {run}" in stopped(page, "page", "resume", str(run))
    assert not (run / "report.html").exists()
    assert cli.main(["resume", str(run)]) == cli.main(train(tmp_path / "undisturbed")) == 0
    assert_same_outcome(run, tmp_path / "undisturbed")


def test_a_second_ablation_in_the_folder_is_refused(tmp_path):
    table = tmp_path / "table"
    table.mkdir()
    write_tiny_recipe(tmp_path).with_name("vi.toml").rename(table / "row.toml")
    with sole_writer(tmp_path / "out"), pytest.raises(InputError, match="out: another process is at work"):
        ablate(str(table), tmp_path / "out")
    assert not (tmp_path / "out" / "row").exists()


def test_a_lost_process_ends_a_benchmark_with_the_reason(monkeypatch):
    monkeypatch.setattr(latency, "_added_memory", attacks.lost.killed)
    with pytest.raises(RuntimeError, match=r"net\.onnx: the process that measured its memory was killed"):
        latency._peak_memory(Path("net.onnx"), 1, 1)
