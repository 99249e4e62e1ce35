"""Fixtures that several test files share."""

import os
from pathlib import Path

import pytest

# Before torch is imported, and for the processes that tests start: on maps as small as these, threads wait for each
# other longer than they work. Tests of several threads ask for them.
os.environ.setdefault("OMP_NUM_THREADS", "1")

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with the real data and golden values, beside the checkout; tests skip where it is absent."""
    if not (SHARED / "DESIGN.md").is_file():
        pytest.skip("the folder shared/ with real data and golden values is not beside the checkout")
    return SHARED
