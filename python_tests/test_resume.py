"""What a run survives: SIGKILL at any moment, damaged checkpoints, a full disk, a second process in its folder."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_run import assert_same_outcome, write_tiny_recipe

from toplight_ext import training
from toplight_ext.errors import InputError
from toplight_ext.training import loop
from toplight_ext.training.checkpoint import Checkpoints, load_checkpoint
from toplight_ext.training.run import Lines, sole_writer


def test_killed_at_random_moments_nothing_is_lost():
    """The short form; `python -m python_tests.soak kills --kills 200` is the long one."""
    command = [sys.executable, "-m", "python_tests.soak", "kills", "--kills", os.environ.get("TOPLIGHT_KILLS", "4")]
    root, environment = Path(__file__).parents[1], {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("nothing was lost\n")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Six steps of the last stage, with a checkpoint after each."""
    file = write_tiny_recipe(tmp_path_factory.mktemp("tiny")).with_name("vi.toml")
    return training.load_recipe(file, ["checkpoint.steps=1"])


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory):
    return training.start(recipe, tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture
def broken_off(recipe, tmp_path, monkeypatch):
    """A run that died after its fourth step, as a killed process would; its folder."""

    class Killed(BaseException):
        pass

    def dies(self, batch, stop=False):
        if self._step == 4:
            raise Killed
        take(self, batch, stop)

    take = loop.Training.take
    monkeypatch.setattr(loop.Training, "take", dies)
    with pytest.raises(Killed):
        training.start(recipe, tmp_path / "run")
    monkeypatch.setattr(loop.Training, "take", take)
    return tmp_path / "run"


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    place = len(content) // 3
    return content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]


def foreign(content: bytes) -> bytes:
    return b"PK\x03\x04 something else"


DAMAGES = {
    truncated: "truncated or not a checkpoint",
    flipped: "damaged",
    foreign: "truncated or not a checkpoint",
    lambda content: b"": "truncated or not a checkpoint",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_refused_with_the_reason_and_the_previous_one_taken(tmp_path, capsys, damage):
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save({"step": step, "weights": torch.arange(100)})
    newest = checkpoints.newest
    newest.write_bytes(damage(newest.read_bytes()))
    assert checkpoints.load()["step"] == 1
    said = capsys.readouterr().err
    assert f"{newest}: refused, it is {DAMAGES[damage]}" in said and "continuing from checkpoint.previous.pt" in said


def test_a_run_goes_on_from_the_previous_checkpoint_to_the_same_bits(broken_off, whole):
    newest = broken_off / "checkpoint.pt"
    newest.write_bytes(flipped(newest.read_bytes()))
    training.resume(broken_off)
    assert_same_outcome(broken_off, whole.folder)


def test_two_damaged_checkpoints_are_an_error_that_says_what_to_do(broken_off):
    for path in broken_off.glob("checkpoint*.pt"):
        path.write_bytes(truncated(path.read_bytes()))
    before = {path.name: path.read_bytes() for path in broken_off.iterdir()}
    with pytest.raises(InputError, match=r"checkpoint\.pt: refused.*checkpoint\.previous\.pt: refused.*Delete them"):
        training.resume(broken_off)
    assert {path.name: path.read_bytes() for path in broken_off.iterdir()} == before


def test_a_checkpoint_of_another_network_is_an_error(broken_off):
    checkpoints = Checkpoints(broken_off)
    state = checkpoints.load()
    state["trained"].popitem()
    checkpoints.save(state)
    with pytest.raises(InputError, match="does not fit its recipe"):
        training.resume(broken_off)


def test_a_file_that_runs_code_when_it_is_unpickled_does_not(tmp_path):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    checkpoints = Checkpoints(tmp_path)
    checkpoints.save({"stage": Attack()})  # with the right checksum
    with pytest.raises(InputError, match=r"checkpoint\.pt: refused.* calls posix\.mkdir, which was not run"):
        load_checkpoint(checkpoints.newest)
    assert not (tmp_path / "ran").exists()


def test_a_full_disk_leaves_the_last_state(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save({"step": step})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))  # the system refuses to write more to a file
    try:
        with pytest.raises(OSError):
            checkpoints.save({"step": 3, "large": torch.zeros(1 << 16)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert checkpoints.load() == {"step": 2}
    assert load_checkpoint(checkpoints.previous) == {"step": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.previous.pt", "checkpoint.pt"]


def test_a_second_process_in_the_folder_is_refused(broken_off, recipe, tmp_path):
    program = (
        "import sys; from pathlib import Path; from toplight_ext import training\n"
        "from toplight_ext.training.run import sole_writer\n"
        "with sole_writer(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(broken_off)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match="another process is at work"):
            training.resume(broken_off)
        other.kill()  # the system lets go of what it held
    with sole_writer(broken_off):
        pass


def test_what_a_killed_process_left_half_written_is_swept_up_and_no_run_is_mistaken_for_content(recipe, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in (".recipe.toml.123.tmp", "environment.json", ".lock"):  # killed before the recipe was written
        (folder / name).write_text("half")
    training.start(recipe, folder)
    assert not list(folder.glob(".*.tmp"))


def test_lines_that_a_checkpoint_knows_and_the_file_lacks_are_an_error(tmp_path):
    log = Lines(tmp_path / "metrics.jsonl")
    log.append({"step": 0})
    size = log.flushed_size()
    log.append({"step": 1})
    log.cut(size)
    assert log.flushed_size() == size
    with pytest.raises(InputError, match="put the lost lines back"):
        log.cut(size + 1)
