"""Take the disk away from whatever writes: full, forbidden or read-only at every file that is opened to be written.

    python -m python_tests.soak faults --times 4

In a mount namespace of its own, on a small tmpfs. When a command opens a file of the disk to write it, the disk becomes
full up to a few pages, or all that lies on it loses its write permission. The command has to end with an error that
names the file and the reason; what was there before has to be there unchanged, and nothing half written. When the disk
is mended a run is resumed, until it is done with the bits of one that nobody disturbed; other commands are repeated.
`--times` is how often each file is struck.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from tiny_run import assert_same_outcome, write_tiny_recipe

from toplight_ext import cli

_ALONE = "TOPLIGHT_FAULTS_ALONE"
_PAGE = 4096
_SPACE = 256 << 20
REASONS = {"full": "No space left on device", "forbidden": "Permission denied", "read-only": "Read-only file system"}

# Root of a user namespace may mount; without these capabilities it heeds permissions as everybody does.
NAMESPACE = ["unshare", "-rm", "setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]


class Disk:
    """A tmpfs that fails when it is told to; `strike` is called with the name of each file that is to be written."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.strike: Callable[[str], None] | None = None
        self._filler, self._lock = folder / "filler", folder / "run" / ".lock"
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_SPACE}", "tmpfs", str(folder)], check=True)
        sys.addaudithook(self._heard)

    def _heard(self, event: str, arguments: tuple) -> None:
        if event != "open" or self.strike is None or isinstance(arguments[0], int):
            return
        path = Path(os.fsdecode(arguments[0]))
        if arguments[2] & (os.O_WRONLY | os.O_RDWR) and path.is_relative_to(self.folder):
            strike, self.strike = self.strike, None  # what it opens itself is not heard
            strike(final_name(path))
            self.strike = strike

    def fill(self, pages: int) -> None:
        """Leave room for so many pages."""
        with open(self._filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(1 << 16))
        with open(self._filler, "r+b") as file:
            file.truncate(max(0, self._filler.stat().st_size // _PAGE - pages) * _PAGE)

    def forbid(self) -> None:
        for path in [*self.folder.rglob("*"), self.folder]:
            path.chmod(0o555 if path.is_dir() else 0o444)

    def read_only(self) -> None:
        gc.collect()  # a removed file that is still mapped would forbid it
        subprocess.run(["mount", "-o", "remount,ro", str(self.folder)], check=True)

    def mend(self) -> None:
        subprocess.run(["mount", "-o", "remount,rw", str(self.folder)], check=True)
        for path in [self.folder, *self.folder.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        self._filler.unlink(missing_ok=True)

    def content(self) -> dict[str, bytes]:
        """Every file; not logs, which grow line by line, nor checkpoints, which a stage removes at its end."""
        files = (path for path in self.folder.rglob("*") if path.is_file() and path not in (self._filler, self._lock))
        return {str(path): path.read_bytes() for path in files if path.suffix not in (".jsonl", ".pt")}


def final_name(path: Path) -> str:
    """The name a file gets when it is whole."""
    found = re.fullmatch(r"\.(.+)\.\d+\.tmp", path.name)
    return found[1] if found else path.name


class Attack:
    """Strikes every file `times` times, by a full disk and by lost permissions in turns, and once in a command."""

    def __init__(self, disk: Disk, times: int, seed: int):
        self._disk, self._times, self._draw = disk, times, random.Random(seed)
        self._struck: Counter[str] = Counter()
        self.named: Counter[str] = Counter()  # files that errors name, and why

    def command(self, *arguments: str | Path) -> bool:
        """Run a command; whether it was struck. Then its error was right, and the disk is mended."""
        kind, before, room = "", {}, 0

        def strike(name: str) -> None:
            nonlocal kind, before, room
            if kind or self._struck[name] >= self._times:
                return
            before = self._disk.content()
            kind = ("full", "forbidden")[self._struck.total() % 2]
            self._struck[name] += 1
            if kind == "full":
                room = self._draw.choice((0, 0, 1, 20))
                self._disk.fill(room)
            else:
                self._disk.forbid()

        self._disk.strike = strike
        try:
            code, said = run(*arguments)
        finally:
            self._disk.strike = None
            self._disk.mend()
        if kind and not (code == 0 and room):  # a little room was enough for all that was left to write
            self._judge(kind, before, code, said)
        else:
            assert code == 0, said
        return bool(kind)

    def read_only(self, *arguments: str | Path) -> None:
        """Run a command on a disk that cannot be written from the beginning."""
        before = self._disk.content()
        self._disk.read_only()
        code, said = run(*arguments)
        self._disk.mend()
        self._judge("read-only", before, code, said)
        assert self._disk.content() == before, arguments

    def _judge(self, kind: str, before: dict[str, bytes], code: int, said: str) -> None:
        """The error names a file of the disk, or the folder where it was to be made, and the reason."""
        assert code in (1, 2) and REASONS[kind] in said, (kind, code, said)
        found = re.search(rf"{re.escape(str(self._disk.folder))}[^':;]*", said)
        assert found and not found[0].endswith(".tmp"), (kind, said)
        present = self._disk.content()
        assert present.get(found[0]) == before.get(found[0]), said
        assert not [name for name in present if name.endswith(".tmp")], (said, sorted(present))
        self.named[f"{Path(found[0]).name} {kind}"] += 1


def run(*arguments: str | Path) -> tuple[int, str]:
    """A command's exit code, and its standard error from where it says `toplight`."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = cli.main([str(argument) for argument in arguments])
    return code, said.getvalue()[said.getvalue().find("toplight") :]


def attack_runs(attack: Attack, disk: Disk, file: Path, most: int) -> int:
    """Runs of a recipe until one is done without being struck; how many were made."""

    def train(folder: Path) -> list[str | Path]:
        dev = f"dev={{name='synthetic', root='{file.parent / 'drawn'}', split='train'}}"
        caches = [f"{table}.cache='{folder.with_name('cache')}'" for table in ("data", "pretraining_data")]
        changes = ["checkpoint.steps=2", "evaluation.every_epochs=1", dev, *caches]
        return ["train", file, "--out", folder, *(part for change in changes for part in ("--set", change))]

    whole, folder = file.parent / "undisturbed" / "run", disk.folder / "run"
    assert run(*train(whole))[0] == 0
    for runs in range(1, most + 1):
        attack.read_only(*train(folder))
        strikes = 0
        while attack.command(*(["resume", folder] if (folder / "recipe.toml").is_file() else train(folder))):
            strikes += 1
        attack.read_only("resume", folder)
        assert_same_outcome(folder, whole)
        shutil.rmtree(folder)
        shutil.rmtree(folder.with_name("cache"))
        if not strikes:
            return runs
    return most


def attack_commands(attack: Attack, disk: Disk, file: Path, short: bool) -> int:
    """Every other command that writes, over what it wrote before; how many there are."""
    run_folder, drawn, out = file.parent / "undisturbed" / "run", file.parent / "drawn", disk.folder
    weights = ["--weights", run_folder / "vi.safetensors"]
    evaluate = ["evaluate", *weights, "--dataset", "synthetic", "--root", drawn, "--save-features"]
    commands: list[list[str | Path]] = [
        ["soup", weights[1], "--out", out / "soup.safetensors"],
        ["embed", drawn / "dev" / "manifest.csv", *weights, "--out", out / "faces.index"],
    ]
    if not short:
        match = ["match", out / "features.npz", out / "features.npz", "--picture", out / "match.png"]
        int8 = ["--int8", "--calibration", drawn / "train"]
        commands += [
            [*evaluate, out / "features.npz"],
            [*evaluate, out / "features.safetensors"],
            match,
            ["report", run_folder, "--out", out / "report.html"],
            ["data", "preview", file, "--out", out / "preview.png"],
            ["export", *weights, "--stem", "visible", *int8, "--out", out / "export"],
            ["benchmark", out / "export", "--threads", "1", "--repeats", "10", "--csv", out / "latency.csv"],
            ["ablate", rows(file), "--seeds", "1", "--out", out / "ablation"],
        ]
    for command in commands:
        code, said = run(*command)
        assert code == 0, said
        attack.read_only(*command)
        while attack.command(*command):
            pass
    return len(commands)


def rows(file: Path) -> Path:
    """A table of one row."""
    folder = file.parent / "rows"
    folder.mkdir()
    shutil.copyfile(file.with_name("vi.toml"), folder / "row.toml")
    return folder


def main(arguments: list[str]) -> int:
    if _ALONE not in os.environ:
        again = [sys.executable, "-m", "python_tests.soak", "faults", *arguments]
        return subprocess.run([*NAMESPACE, *again], env={**os.environ, _ALONE: "1"}, check=False).returncode
    parser = argparse.ArgumentParser(
        prog="soak faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--short", action="store_true", help="the last stage alone, and few other commands")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="faults.", ignore_cleanup_errors=True) as scratch:
        file, disk = write_tiny_recipe(Path(scratch)), Disk(Path(scratch, "disk"))
        attack = Attack(disk, given.times, given.seed)
        runs = attack_runs(attack, disk, file.with_name("vi.toml") if given.short else file, 1 if given.short else 99)
        commands = attack_commands(attack, disk, file, given.short)
        subprocess.run(["umount", str(disk.folder)], check=True)
    for name, count in sorted(attack.named.items()):
        print(f"{count:4} {name}")
    print(f"{attack.named.total()} faults in {runs} runs and {commands} commands: every error named its file")
    return 0
