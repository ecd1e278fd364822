"""Where recorded numbers of the reference implementations lie."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def parity_dir() -> Path:
    """The folder named by ITERCOMP_PARITY_DIR, or the recordings shipped with the tests."""
    folder = Path(os.environ.get("ITERCOMP_PARITY_DIR") or Path(__file__).parents[1] / "data" / "parity")
    assert folder.is_dir(), f"ITERCOMP_PARITY_DIR is {folder}: not a folder"
    return folder
