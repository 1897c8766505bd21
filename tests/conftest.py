"""Fixtures of the whole suite."""

import os
import sys
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


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """A function that runs a command line in an empty folder: (exit code, stdout, stderr)."""
    from spiketrack.cli import main

    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["spiketrack", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        out, err = capsys.readouterr()
        # a text as exit code is printed to stderr by the interpreter, with code 1
        return (1, out, f"{err}{code}\n") if isinstance(code, str) else (code, out, err)

    return run
