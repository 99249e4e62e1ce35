"""The package as it is installed: its files, and what its libraries ask for and export."""

import importlib.metadata
import shutil
from pathlib import Path

import pytest
import torch
from package_checks import CPU_LIBRARY, file_findings, library_findings

import toplight_ext

LIBRARIES = sorted(path for folder in toplight_ext.__path__ for path in Path(folder).glob("*.so"))
needs_nm = pytest.mark.skipif(shutil.which("nm") is None, reason="there is no nm, which comes with a compiler")


@needs_nm
@pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: path.name)
def test_a_library_asks_torch_for_its_stable_symbols_and_exports_no_more_than_its_entry(library):
    assert list(library_findings(library)) == []


@needs_nm
def test_a_library_of_torchs_own_is_found_out():
    """Which is built against the C++ symbols that change from one version to the next, and exports its own."""
    found = list(library_findings(Path(torch.__file__).parent / "lib" / "libshm.so"))
    assert any("asks for _ZN3c10" in finding for finding in found)
    assert any("exports " in finding for finding in found)


def test_the_installed_files_are_those_of_the_checkout():
    try:
        installed = importlib.metadata.distribution("toplight_ext")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("toplight_ext is not installed, only on the path")
    if '"editable": true' in (installed.read_text("direct_url.json") or ""):
        pytest.skip("toplight_ext is installed as a link to its checkout")
    assert list(file_findings(str(file) for file in installed.files)) == []


def test_a_file_too_many_or_too_few_is_found():
    found = set(file_findings(["toplight_ext/__init__.py", "toplight_ext/tests/a.py", "stray.py"]))
    assert {"not ours: toplight_ext/tests/a.py", "not ours: stray.py", f"missing: {CPU_LIBRARY}"} <= found
    assert "missing: toplight_ext/ops/slice_pool.py" in found
    assert "missing: toplight_ext/kernels/slice_pool.py" in found and "not one _core: []" in found
