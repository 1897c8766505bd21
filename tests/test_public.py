import subprocess
import sys

import pytest

import spiketrack


def test_the_public_face():
    assert spiketrack.__all__ == [
        *("Boxes", "ByteTrack", "Detector", "Events", "SpiketrackError", "Window"),
        *("binary_occupancy", "evaluate", "load_experiment", "load_labels", "open_recording", "signed_difference"),
        *("stacked_histogram", "track", "windows"),
    ]
    for name in spiketrack.__all__:
        assert getattr(spiketrack, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        spiketrack.nothing  # noqa: B018


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, spiketrack; print([m for m in ('numpy', 'torch', 'numba', 'h5py') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
