"""Build the wheel, look into it, install it, test it as installed, remove it, and look for what it left behind.

    python -m python_tests.soak package --python some/environment/bin/python
    python -m python_tests.soak package --floors > floors.txt

The environment of `--python` (default: this one) lends torch and everything else; the wheel itself goes into a fresh
one on top. `--floors` prints every dependency of the tests at the lowest version that pyproject.toml allows: with
`pip install -r floors.txt` in an environment of the oldest Python, what is promised there can be tested as well.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from package_checks import LIBRARY, ROOT, file_findings, library_findings

from toplight_ext.toml import read_toml

QUICK = ("test_ops.py", "test_nn.py", "test_recipe.py", "test_cli.py", "test_package.py")
REQUIREMENT = re.compile(r"(?P<name>[\w-]+)(\[[\w,]+\])?>=(?P<version>[\w.]+)(?P<marker>;.*)?")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m python_tests.soak package", description=__doc__.partition("\n")[0])
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="of the environment that lends torch")
    parser.add_argument("--floors", action="store_true", help="print the lowest versions allowed, and nothing else")
    given = parser.parse_args(arguments)
    if given.floors:
        print("\n".join(floors()))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        findings = list(attack(given.python.absolute(), Path(folder)))
    print(*(findings or ["nothing found"]), sep="\n")
    return 1 if findings else 0


def floors() -> Iterator[str]:
    """Requirements that pin every dependency of the tests to the lowest version that pyproject.toml allows."""
    project = read_toml(ROOT / "pyproject.toml")["project"]
    extras = project["optional-dependencies"]

    def listed(lines: list[str]) -> Iterator[str]:
        for line in lines:
            if ours := re.fullmatch(r"toplight_ext\[([\w,-]+)\]", line):
                for extra in ours[1].split(","):
                    yield from listed(extras[extra])
            else:
                yield line

    for line in listed([*project["dependencies"], *extras["test"]]):
        requirement = REQUIREMENT.fullmatch(line)
        yield f"{requirement['name']}=={requirement['version']}{requirement['marker'] or ''}"


def attack(python: Path, folder: Path) -> Iterator[str]:
    """All that is wrong with the wheel that this Python builds."""
    call(python, "-m", "venv", folder / "environment")
    fresh = folder / "environment" / "bin" / "python"
    call(fresh, "-m", "pip", f"--python={python}", "wheel", "--quiet", "--no-deps", f"--wheel-dir={folder}", ROOT)
    (wheel,) = folder.glob("*.whl")
    yield from wheel_findings(wheel, folder / "unpacked")
    lend_packages(python, fresh)
    before = files_of(fresh)
    # The one that is lent may have the package, too, which pip would be content with.
    call(fresh, "-m", "pip", "install", "--quiet", "--no-deps", "--ignore-installed", wheel)
    yield from use(fresh, folder / "home")
    call(fresh, "-m", "pip", "uninstall", "--quiet", "--yes", "toplight_ext")
    yield from (f"left behind: {path}" for path in sorted(files_of(fresh) - before))


def call(*command, **options) -> None:
    subprocess.run([str(part) for part in command], check=True, **options)


def wheel_findings(wheel: Path, folder: Path) -> Iterator[str]:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        archive.extractall(folder)
    print(f"{wheel.name}: {len(names)} files, {wheel.stat().st_size / 2**20:.1f} MiB")
    yield from file_findings(names)
    for name in filter(LIBRARY.fullmatch, names):
        print(f"  {name}: {(folder / name).stat().st_size / 2**10:.0f} KiB")
        yield from library_findings(folder / name)


def lend_packages(python: Path, fresh: Path) -> None:
    """Put the packages of one environment behind those of another; files that extend the path are not followed."""
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    lender, own = (subprocess.check_output([path, "-c", where], text=True).strip() for path in (python, fresh))
    (Path(own) / "lent.pth").write_text(lender, encoding="utf-8")


def use(fresh: Path, home: Path) -> Iterator[str]:
    """Test the package as it is installed, in folders that can be looked into afterwards."""
    work, temporary = home / "work", home / "temporary"
    for place in (work, temporary):
        place.mkdir(parents=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HOME": str(home), "XDG_CACHE_HOME": str(home)}
    environment |= {"TMPDIR": str(temporary), "HYPOTHESIS_STORAGE_DIRECTORY": str(temporary)}
    # The empty folder is first on the path, not the checkout with the sources.
    run = [fresh, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={ROOT}", "-c", ROOT / "pyproject.toml"]
    if subprocess.run([*run, *(ROOT / "python_tests" / name for name in QUICK)], cwd=work, env=environment).returncode:
        yield "the tests do not pass on what was installed"
    written = [*work.rglob("*"), *(path for path in home.glob("*") if "toplight" in path.name)]
    yield from (f"written unasked: {path.relative_to(home)}" for path in sorted(written))


def files_of(python: Path) -> set[Path]:
    return {path for path in python.parents[1].rglob("*") if "/pip/" not in str(path)}
