"""Attacks by files, each let loose in a process of its own, in which what it opens, runs, takes and says is measured.

An attack is a function that writes its files into a folder and returns what reads them, as a user would. Its
docstring is the sentence of what it tries. The folder lies beside a folder `outside`, which nothing may touch.
`python python_tests/attacks/confined.py MODULE [...] [--only=PART] [--most=VARIANTS]` lets the attacks of modules loose
and prints a line of JSON for each.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import os
import platform
import resource
import select
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

Read = Callable[[], Any]

MOST_SECONDS = 10.0
MOST_MIB = 1024
_BACKSTOP_SECONDS = 60  # for what waits without end
_BACKSTOP_BYTES = 6 << 30  # of address space beyond what the process had: the machine is not to be taken down
# What no file may bring about; a payload that got through starts with one of them.
_CODE = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.Popen", "socket.connect")
_SYSTEM = (
    "/proc/",
    "/sys/",
    "/usr/",
    "/lib/",
    "/dev/null",
    "/dev/zero",
    "/dev/urandom",
    "/etc/fonts/",
    "/etc/ld.so",
    "/etc/mime",
)


def lay_no_file(path: Path, kind: str) -> None:
    """In the place of a file: "pipe", "folder", or the device of that path."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(kind)


class Attack(NamedTuple):
    name: str
    tries: str
    lay: Callable[[Path], Read]


class Attacks(list):
    """The attacks of a module, in order: a function becomes one by `@ATTACKS`, several by `ATTACKS.each(...)`."""

    def __call__(self, lay: Callable[[Path], Read]) -> Callable[[Path], Read]:
        self.append(Attack(lay.__name__, lay.__doc__, lay))
        return lay

    def each(self, variants: dict[str, tuple]) -> Callable:
        """One attack for each of {name: arguments}; the docstring names the variant by {}."""

        def add(lay: Callable[..., Read]) -> Callable[..., Read]:
            for name, arguments in variants.items():
                bound = lambda folder, arguments=arguments: lay(folder, *arguments)  # noqa: E731
                self.append(Attack(f"{lay.__name__}[{name}]", lay.__doc__.format(name), bound))
            return lay

        return add

    def chosen(self, only: str, most: int) -> Iterator[Attack]:
        seen: Counter = Counter()
        for attack in self:
            family = attack.name.partition("[")[0]
            seen[family] += only in attack.name
            if only in attack.name and seen[family] <= most:
                yield attack


class Outcome(NamedTuple):
    """What came of an attack."""

    refused: bool  # an InputError, or the exit code 1 or 2
    said: str  # the error, or all that was written to standard output and error
    result: str  # repr of what reading gave, if nothing was refused
    seconds: float  # of the processor
    mib: float  # by which the largest resident memory exceeds that before
    touched: list[str]  # files opened or made where nothing belongs to the attack, and code run
    crash: str | None  # an exception that is no refusal, a signal, or no end
    named: bool = False  # what was said names a file of the attack


def let_loose(attack: Attack, folder: Path) -> Outcome:
    """Lay an attack below `folder` and read it in a forked process."""
    given, outside = folder / "given", folder / "outside"
    given.mkdir(parents=True)
    outside.mkdir()
    read = attack.lay(given)
    before = _tree(folder)
    receiver, sender = os.pipe()
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(receiver)
        with os.fdopen(sender, "w") as answer:
            answer.write(json.dumps(_outcome(read, given)))
        os._exit(0)
    os.close(sender)
    with os.fdopen(receiver) as answer:
        ended = bool(select.select([answer], [], [], _BACKSTOP_SECONDS)[0])
        if not ended:
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        text = answer.read()
    if not text:
        crash = f"no end after {_BACKSTOP_SECONDS} s" if not ended else f"ended with status {status}"
        return Outcome(False, "", "", time.monotonic() - began, 0.0, [], crash)
    outcome = Outcome(**json.loads(text))
    made = [path for path in _tree(folder) - before if not path.startswith(f"{given}/")]
    named = any(path.name in outcome.said for path in given.iterdir())
    return outcome._replace(touched=outcome.touched + made, named=named)


def _tree(folder: Path) -> set[str]:
    """What lies below a folder, files with their size and the time of their last change."""
    paths = (path for path in folder.rglob("*"))
    return {f"{path} {(s := path.lstat()).st_size} {s.st_mtime_ns}" if path.is_file() else str(path) for path in paths}


def _outcome(read: Read, given: Path) -> dict[str, Any]:
    """Runs in the child: reads, in the attack's folder, and says what came of it."""
    os.chdir(given)
    tempfile.tempdir = str(given)
    used = _status_kib("VmSize") << 10
    resource.setrlimit(resource.RLIMIT_AS, (used + _BACKSTOP_BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    peak = _status_kib("VmHWM")
    touched: list[str] = []
    _watch(given, touched)
    began, refused, crash, result = time.process_time(), False, None, ""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            result = read()
        refused = isinstance(result, Exit) and result.code in (1, 2)
    except SystemExit as end:
        refused = end.code in (1, 2)
    except BaseException as error:
        from toplight_ext.errors import InputError

        refused = isinstance(error, InputError)
        said.write(str(error))
        crash = None if refused else traceback.format_exc()[-3000:]
    return {
        "refused": refused,
        "said": said.getvalue()[:20_000],
        "result": repr(result)[:200],
        "seconds": time.process_time() - began,
        "mib": (_status_kib("VmHWM") - peak) / 1024,
        "touched": touched,
        "crash": crash,
    }


def _watch(given: Path, touched: list[str]) -> None:
    """From here on whatever Python opens outside of the attack's folder and of the installation is noted."""
    places = {sys.prefix, sys.base_prefix, str(Path(__file__).parents[2]), tempfile.gettempdir() + "/torch"}
    places |= {path for path in (*sysconfig.get_paths().values(), *sys.path) if path}
    import toplight_ext

    places |= {os.path.realpath(place) for place in places} | {str(Path(toplight_ext.__file__).parents[1])}
    home = os.path.realpath(given)
    allowed = (*_SYSTEM, home, *(place.rstrip("/") + "/" for place in places if len(place) > 1))

    def hook(event: str, arguments: tuple) -> None:
        if event in _CODE:
            touched.append(f"{event} {arguments!r}"[:300])
        elif event == "open" and isinstance(arguments[0], (str, bytes)):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            if not path.startswith(allowed):
                touched.append(f"open {path}")

    sys.addaudithook(hook)


def _status_kib(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


class Exit(NamedTuple):
    """The exit code of a command."""

    code: int


def command(*arguments: str | Path) -> Read:
    """What `toplight ARGUMENTS` does."""
    from toplight_ext import cli

    return lambda: Exit(cli.main([str(argument) for argument in arguments]))


def all_outcomes(modules: list[str], only: str = "", most: int = 1000) -> Iterator[tuple[str, Attack, Outcome]]:
    """Let loose what the modules of this folder hold, one after the other; what they share is imported before.

    Args:
        only: a part of the names of those that are wanted.
        most: variants of one attack.
    """
    import torch

    torch.set_num_threads(1)
    platform.processor()  # which starts a program, once
    for module in modules:
        room = importlib.import_module(f"attacks.{module}")
        with tempfile.TemporaryDirectory() as folder:
            room.warm(Path(folder))
            for number, attack in enumerate(room.ATTACKS.chosen(only, most)):
                yield module, attack, let_loose(attack, Path(folder).resolve() / str(number))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("modules", nargs="+")
    parser.add_argument("--only", default="")
    parser.add_argument("--most", type=int, default=1000)
    options = parser.parse_args(arguments)
    for module, attack, outcome in all_outcomes(options.modules, options.only, options.most):
        found = {"module": module, "name": attack.name, "tries": attack.tries, **outcome._asdict()}
        print(json.dumps(found), flush=True)
    return 0


def outcomes(modules: list[str], *options: str) -> dict[str, list[tuple[Attack, Outcome]]]:
    """What came of the attacks of modules, in a fresh process, which no thread of this one can disturb."""
    done = subprocess.run(
        [sys.executable, __file__, *modules, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    found: dict[str, list[tuple[Attack, Outcome]]] = {module: [] for module in modules}
    for line in done.stdout.splitlines():
        if line.startswith('{"module"'):
            fields = json.loads(line)
            attack = Attack(fields["name"], fields["tries"], None)
            found[fields["module"]].append((attack, Outcome(*(fields[name] for name in Outcome._fields))))
    return found


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    sys.exit(importlib.import_module("attacks.confined").main(sys.argv[1:]))  # the classes of the attacks' own module
