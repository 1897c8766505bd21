"""Fixtures of the whole suite."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# CI looks at the same examples each time, everybody else at new ones
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

# Losses and weights repeat to the bit only with a fixed number of threads, here and in every process a test starts;
# and the threads of torch wait busily for each other where other programs keep the cores.
os.environ["OMP_NUM_THREADS"] = "1"

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


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a tiny data set (tests/moving_squares.py); copy it to change it."""
    from moving_squares import write_squares

    return write_squares(tmp_path_factory.mktemp("squares"))
