"""Attacks every parser of ours with bytes that coverage suggests (atheris), by the targets of attacks/fuzzing.py.

Kept in the folder, by target: `corpus`, from which a later call goes on, and `found`, one input for every place that
raised something else than InputError, with its traceback. What ends a process (a crash, two minutes without an answer,
memory beyond 4 GiB) is kept as libFuzzer keeps it, `crash-...`, `timeout-...`, `oom-...`.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

_INSTRUMENTED = ["toplight_ext", "tomllib"]
_LIMITS = ("-timeout=120", "-rss_limit_mb=4096", "-malloc_limit_mb=4096", "-max_len=20000", "-len_control=20")
_EXECUTIONS = re.compile(r"^stat::number_of_executed_units:\s*([0-9]+)", re.MULTILINE)
_COVERED = re.compile(r"cov: ([0-9]+)")


def main(arguments: list[str]) -> int:
    try:
        import atheris  # noqa: F401
    except ImportError:
        print("this needs atheris, which has wheels for Linux: pip install atheris", file=sys.stderr)
        return 2
    from attacks.fuzzing import TARGETS

    parser = argparse.ArgumentParser("python -m python_tests.soak fuzz", description=__doc__)
    parser.add_argument("--target", nargs="+", choices=TARGETS, default=list(TARGETS), metavar="NAME")
    parser.add_argument("--minutes", type=float, default=30.0, help="of processor time, for each target")
    parser.add_argument("--folder", type=Path, help="default: a new temporary one")
    options = parser.parse_args(arguments)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="fuzz-"))
    print(f"{folder}: what was found")
    return int(sum(_fuzz(name, folder.resolve() / name, options.minutes) for name in options.target) > 0)


def _fuzz(name: str, folder: Path, minutes: float) -> int:
    """Fuzz one target in processes of its own, the next one going on where one ended; how many inputs were found."""
    for kind in ("corpus", "found"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    before = _found(folder)
    executions, covered, began, used = 0, 0, time.monotonic(), _used()
    while (left := round(60 * minutes - (_used() - used))) > 0:
        command = [sys.executable, __file__, name, str(folder), str(left)]
        memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
        with tempfile.TemporaryDirectory(dir=memory) as room:  # libFuzzer ends a process without its clearing up
            environment = os.environ | {"TMPDIR": room}
            ended = subprocess.run(command, stderr=subprocess.PIPE, text=True, errors="replace", env=environment)
        (folder / "log").write_text(ended.stderr)
        executions += sum(map(int, _EXECUTIONS.findall(ended.stderr)))
        covered = max([covered, *map(int, _COVERED.findall(ended.stderr))])
        if not covered:
            raise SystemExit(f"{name}: the target did not start:\n{ended.stderr[-2000:]}")
    found = _found(folder) - before
    spent, worked = (time.monotonic() - began) / 60, (_used() - used) / 60
    print(
        f"{name}: {executions:,} executions, {spent:.1f} min ({worked:.1f} of a core), {covered} edges, {found} found",
        flush=True,
    )
    return found


def _used() -> float:
    """Processor seconds of the processes that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return children.ru_utime + children.ru_stime


def _found(folder: Path) -> int:
    return len([path for path in (folder / "found").iterdir() if path.suffix != ".txt"])


def _inside(name: str, folder: Path, seconds: str) -> None:
    """libFuzzer's loop on one target, which ends the process."""
    import atheris
    import safetensors.torch  # noqa: F401  with torch, whose own modules are not to be instrumented

    with atheris.instrument_imports(include=_INSTRUMENTED):
        from attacks import fuzzing
    known = set()

    def once(data: bytes) -> None:
        try:
            fuzzing.attempt(name, data)
        except Exception as error:
            place = _place(error)
            if place not in known:
                known.add(place)
                kept = folder / "found" / hashlib.sha256(repr(place).encode()).hexdigest()[:12]
                kept.write_bytes(data)
                kept.with_suffix(".txt").write_text("".join(traceback.format_exception(error)), errors="replace")

    seeds = folder / "seeds"
    seeds.mkdir(exist_ok=True)
    for number, seed in enumerate(fuzzing.TARGETS[name].seeds()):
        (seeds / str(number)).write_bytes(seed)
    kept = [str(path) for path in (folder / "corpus", seeds, fuzzing.CORPUS / name) if path.is_dir()]
    found = f"-artifact_prefix={folder / 'found'}/"
    atheris.Setup([name, f"-max_total_time={seconds}", "-print_final_stats=1", found, *_LIMITS, *kept], once)
    atheris.Fuzz()


def _place(error: BaseException) -> tuple:
    """Kind of error and the last line of ours that it came from: one defect, whatever the input."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "toplight_ext" in frame.filename]
    last = frames[-1] if frames else traceback.extract_tb(error.__traceback__)[-1]
    return type(error).__name__, last.filename, last.lineno


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the modules that tests share
    _inside(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
