"""Fixtures of the whole suite."""

import os
from pathlib import Path

import pytest

REAL_DATA_VARIABLE = "SPIKETRACK_REAL_DATA"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real recordings: ../shared/data from the project's root, or where the variable points."""
    named = os.environ.get(REAL_DATA_VARIABLE)
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    if not (folder / "recordings").is_dir():
        if named:
            pytest.fail(f"{REAL_DATA_VARIABLE} names {folder}, which has no folder recordings/")
        pytest.skip(f"no real recordings at {folder} (set {REAL_DATA_VARIABLE}); a user's clone has none")
    return folder
