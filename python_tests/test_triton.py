"""The Triton kernels without a GPU: in Triton's interpreter."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


def test_values_in_the_interpreter():
    """In a process of its own: triton decides at its import whether it interprets."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", str(FOLDER / "triton_cases.py")]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    run = subprocess.run(command, env=environment, cwd=FOLDER.parent, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
