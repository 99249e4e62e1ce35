"""The documentation builds without a warning, its Python runs, and its commands are ones that `toplight` takes."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from toplight_ext.cli import parser

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
CODE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, *languages: str) -> list[str]:
    return [code for language, code in CODE.findall(page.read_text(encoding="utf-8")) if language in languages]


def commands(page: Path) -> list[str]:
    """Command lines that begin with `toplight`, in blocks of the shell and in indented ones."""
    text = "\n".join(blocks(page, "sh", "console"))
    indented = re.findall(r"^    (toplight .*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    lines = [part for line in text.splitlines() for part in line.partition("#")[0].split("&&")] + indented
    return [line.strip() for line in lines if line.strip().startswith("toplight ")]


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install '.[docs]'")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}  # a notice that has no level of its own
    found = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, env=quiet)
    assert found.returncode == 0, found.stderr
    page = (tmp_path / "api" / "ops" / "index.html").read_text(encoding="utf-8")
    assert "slice_pool_upsample" in page


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=lambda p: p.name)
def test_the_python_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile("\n".join(blocks(page, "python")), str(page), "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)], ids=lambda p: p.name)
def test_the_commands_of_a_page_are_ones_that_toplight_takes(page, capsys):
    for line in commands(page):
        try:
            parser().parse_args(shlex.split(line)[1:])
        except SystemExit:
            pytest.fail(f"{page.name}: {line}\n{capsys.readouterr().err}")
