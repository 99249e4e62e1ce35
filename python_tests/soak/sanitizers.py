"""The op and ranking tests on the C++ built with AddressSanitizer and UndefinedBehaviorSanitizer, and ThreadSanitizer.

gcc and its sanitizer libraries are needed, on Linux. Built is the library without vector instructions, in which the
sanitizers see every access; masked vector loads are no memory accesses to them (`--instructions avx512` runs that
one all the same). What they see is our code: of torch's and NumPy's, which are not built with them, allocations only.
ThreadSanitizer does not know torch's OpenMP threads, so the ops run their loops on std::thread here
(csrc/sanitized/parallel_for.cpp): the same division of the work, but not torch's own handing over.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "python_tests"


class Sanitizer(NamedTuple):
    flag: str  # of CMake's TOPLIGHT_SANITIZE
    library: str
    options: dict[str, str]
    runs: tuple[tuple[str, ...], ...]  # arguments of Python


def _pytest(*arguments: str) -> tuple[str, ...]:
    # Nothing captured: what a sanitizer reports would end with the process.
    return ("-m", "pytest", "-s", "-q", "-x", "-p", "no:cacheprovider", *arguments)


RANKING = ("test_ranking.py", "test_reranking.py")
SANITIZERS = {
    "address": Sanitizer(
        "address,undefined",
        "libasan.so",
        # Python and torch leave to the system what they have at the end. Absurd sizes have to raise.
        {
            "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:detect_stack_use_after_return=1",
            "UBSAN_OPTIONS": "print_stacktrace=1",
        },
        (
            _pytest(*RANKING),
            _pytest("test_ops.py", "-k", "cpu-native"),
            _pytest("test_ops_torch.py", "-k", "wrong_use or check_for_themselves or layout"),
            _pytest("test_attack_ops.py"),
        ),
    ),
    "thread": Sanitizer(
        "thread",
        "libtsan.so",
        {"TSAN_OPTIONS": "ignore_noninstrumented_modules=1:halt_on_error=1:second_deadlock_stack=1"},
        (
            _pytest(*RANKING),
            _pytest("test_ops.py", "-k", "cpu-native and (same_bits or drawn_shapes)"),
            _pytest("test_attack_ops.py", "-k", "drawn_inputs or threads"),
        ),
    ),
}


def build(sanitizer: Sanitizer, folder: Path, instructions: str) -> Path:
    """The package with its libraries built anew, in a folder below `folder`."""
    target = f"toplight_ops{f'_{instructions}' if instructions else ''}"
    settings = [f"-DTOPLIGHT_SANITIZE={sanitizer.flag}", "-DTOPLIGHT_CUDA=OFF", f"-DPython_EXECUTABLE={sys.executable}"]
    built, package = folder / "build", folder / "package" / "toplight_ext"
    subprocess.run(["cmake", "-S", ROOT, "-B", built, "-G", "Ninja", *settings], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", built, "--target", target, "_core"], check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(package, ignore_errors=True)
    package.mkdir(parents=True)
    for path in (ROOT / "toplight_ext").iterdir():
        if path.suffix != ".so":
            (package / path.name).symlink_to(path.resolve())
    for path in (built / f"lib{target}.so", *built.glob("_core*.so")):
        shutil.copy(path, package)
    return package.parent


def _library(name: str) -> str:
    compiler = os.environ.get("CXX", "g++")
    return subprocess.run(
        [compiler, f"-print-file-name={name}"], check=True, capture_output=True, text=True
    ).stdout.strip()


def run(sanitizer: Sanitizer, package: Path, arguments: tuple[str, ...]) -> int:
    """One run of Python, in the folder of the tests, on the sanitized package."""
    environment = os.environ | sanitizer.options
    environment |= {
        # The sanitizer looks up what it wraps when it starts, of the C++ library too, which Python does not load.
        "LD_PRELOAD": f"{_library(sanitizer.library)} {_library('libstdc++.so')}",
        "PYTHONPATH": str(package),
        "OMP_NUM_THREADS": "1" if sanitizer.flag == "thread" else "2",
        "TOPLIGHT_EXAMPLES": "25",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    # Where the kernel spreads addresses widely, ThreadSanitizer of older compilers does not find its own.
    command = ["setarch", "-R", sys.executable, *arguments]
    return subprocess.run(command, cwd=TESTS, env=environment).returncode


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("python -m python_tests.soak sanitizers", description=__doc__)
    parser.add_argument("--sanitizer", nargs="+", choices=SANITIZERS, default=list(SANITIZERS))
    parser.add_argument("--instructions", choices=("", "avx2", "avx512"), default="")
    parser.add_argument("--folder", type=Path, help="where to build; default: a new temporary one")
    given = parser.parse_args(arguments)
    folder = (given.folder or Path(tempfile.mkdtemp(prefix="sanitizers-"))).resolve()
    failed = 0
    for name in given.sanitizer:
        sanitizer, start = SANITIZERS[name], time.monotonic()
        package = build(sanitizer, folder / f"{name}{given.instructions}", given.instructions)
        print(f"{name}: built in {time.monotonic() - start:.0f} s", flush=True)
        for tests in sanitizer.runs:
            start = time.monotonic()
            code = run(sanitizer, package, tests)
            failed += code != 0
            print(f"{name}: exit code {code} after {time.monotonic() - start:.0f} s: {' '.join(tests)}", flush=True)
    return 1 if failed else 0
