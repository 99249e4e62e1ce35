"""Fixtures that several test files share."""

from pathlib import Path

import pytest

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with the real data and golden values, beside the checkout; tests skip where it is absent."""
    if not (SHARED / "DESIGN.md").is_file():
        pytest.skip("the folder shared/ with real data and golden values is not beside the checkout")
    return SHARED
