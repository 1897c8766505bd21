"""Batch sizes from peaks worked out by hand, and from real steps in processes of their own."""

import os
import signal
from types import SimpleNamespace

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spiketrack.batch_size import (
    MOST,
    _peak_here,
    _peak_of_process,
    find_batch_size,
    free_memory,
    largest_batch,
    line_above,
)
from spiketrack.errors import SettingsError
from spiketrack.experiment import load_experiment, trainer_of

MB = 1_000_000


class Machine:
    """Peaks on a line, with a limit beyond which there is no answer; remembers what it was asked."""

    def __init__(self, fixed, per_sample, limit=float("inf")):
        self.fixed, self.per_sample, self.limit, self.asked = fixed, per_sample, limit, []

    def __call__(self, size):
        self.asked.append(size)
        peak = self.fixed + self.per_sample * size
        return None if peak > self.limit else peak


def test_a_line_by_hand():
    assert line_above({2: 140, 4: 180, 8: 260}) == (100.0, 20.0)
    assert line_above({2: 140, 4: 180, 8: 260, 16: None}) == (100.0, 20.0)
    assert line_above({4: 180}) == (180.0, 0.0)
    # least squares through (0, 0), (1, 4), (2, 2) is 1 + B; the second point lies 2 above it
    assert line_above({0: 0, 1: 4, 2: 2}) == (pytest.approx(3.0), pytest.approx(1.0))


def test_the_largest_batch_by_hand():
    machine = Machine(100 * MB, 20 * MB)
    found = largest_batch(machine, 1_000 * MB)
    assert machine.asked == [2, 4, 8, 45]
    assert found.size == 45  # 100 + 45 * 20 = 1000
    assert (found.fixed, found.per_sample) == (pytest.approx(100 * MB), pytest.approx(20 * MB))
    assert found.sentence.startswith("batches of 45: a step takes 100 MB and 20.0 MB a sample, 1000 MB may be used")


@given(fixed=st.integers(0, 500), per_sample=st.integers(1, 60), budget=st.integers(1, 5_000))
def test_no_larger_batch_fits_and_the_found_one_does(fixed, per_sample, budget):
    machine = Machine(fixed, per_sample)
    if fixed + per_sample > budget:
        with pytest.raises(SettingsError, match="not even a batch of 1 fits"):
            largest_batch(machine, budget)
        return
    size = largest_batch(machine, budget).size
    assert fixed + per_sample * size <= budget
    assert size == MOST or fixed + per_sample * (size + 1) > budget


def test_a_batch_that_cannot_be_made_bounds_the_search():
    machine = Machine(100, 20, limit=700)
    found = largest_batch(machine, 10_000)
    assert machine.asked == [2, 4, 8, 256, 45, 18]  # geometric means of what fitted and what did not
    assert found.size == 18  # 700 allow 30


def test_a_line_that_bends_upwards_is_corrected():
    asked = []

    def peak(size):
        asked.append(size)
        return 100 + 10 * size + (20 * (size - 8) if size > 8 else 0)

    found = largest_batch(peak, 1_000)
    assert asked[3] == 90  # by the first three
    assert found.measured[found.size] <= 1_000
    assert 8 < found.size <= 35  # 100 + 10 * 35 + 20 * 27 = 990


def test_sizes_that_cost_the_same():
    assert largest_batch(lambda size: 500, 1_000).size == MOST
    assert largest_batch(lambda size: 500, 1_000, most=6).size == 6


def test_never_more_than_the_most():
    assert largest_batch(Machine(0, 1), 10_000, most=16).size == 16
    assert largest_batch(Machine(0, 1), 10_000, most=1).size == 1


EXPERIMENT = """
name: small
data: {root: ROOT, cache_mb: 0}
input: {slice_us: 20000}
training: {epochs: 4, validate_every: 4, checkpoint_every: 1000}
"""


def small_run(config, folder, size):
    return trainer_of(load_experiment(config, [f"training.batch_size={size}"]), folder)


def test_two_real_steps_of_that_size(squares, tmp_path):
    config = tmp_path / "experiment.yaml"
    config.write_text(EXPERIMENT.replace("ROOT", str(squares)))
    made = []
    assert _peak_here(lambda size: made.append(small_run(config, tmp_path / "run", size)) or made[0], 3) > 100 * MB
    assert (made[0].step, made[0].samples.batch_size) == (2, 3)


class Hungry:
    """Stands for a trainer whose step takes 50 MB a sample; with 7 samples the system kills it."""

    def __init__(self, size):
        self.size = size

    def run(self, told):
        taken = bytearray(b"1" * (50 * MB * self.size))
        if self.size == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        told(SimpleNamespace(steps_done=2, size=len(taken)))
        raise AssertionError("the second step is the last")


@pytest.mark.slow
def test_peaks_are_those_of_a_process_of_its_own():
    small, large = (_peak_of_process(Hungry, size) for size in (1, 4))
    assert large - small == pytest.approx(300 * MB, rel=0.1)  # the text and its copy, three samples more
    assert _peak_of_process(Hungry, 7) is None


def test_the_share_of_the_free_memory_less_what_is_reserved(monkeypatch):
    monkeypatch.setattr("spiketrack.batch_size._peak_of_process", lambda make, size: 100 * MB + make(size))
    monkeypatch.setattr("spiketrack.batch_size.free_memory", lambda: 1_000 * MB)
    found = find_batch_size(lambda size: 10 * MB * size, torch.device("cpu"), 0.5, reserved=100 * MB)
    assert (found.size, found.budget) == (35, 450 * MB)


def test_free_memory_is_no_more_than_the_machine_has():
    assert 0 < free_memory() <= psutil.virtual_memory().total


def test_a_run_finds_its_batch_once_and_keeps_it(squares, tmp_path, run, monkeypatch):
    """The number stands in experiment.yaml; a run that is resumed with less memory goes on with it."""
    (tmp_path / "experiment.yaml").write_text(
        EXPERIMENT.replace("ROOT", str(squares)).replace("epochs: 4, validate_every: 4", "epochs: 1, batch_memory: 0.5")
    )
    monkeypatch.setattr(
        "spiketrack.batch_size._peak_of_process", lambda make, size: 100 * MB * make(size).samples.batch_size
    )
    monkeypatch.setattr("spiketrack.batch_size.free_memory", lambda: 1_300 * MB)
    code, _, err = run("train", "experiment.yaml", "--out", "out")
    assert code == 0, err
    assert "batches of 6: a step takes" in err
    written = load_experiment(tmp_path / "out" / "experiment.yaml").training
    assert (written.batch_size, written.batch_memory) == (6, None)

    monkeypatch.setattr("spiketrack.batch_size.free_memory", lambda: 500 * MB)
    code, _, err = run("train", "experiment.yaml", "--out", "out", "--resume")
    assert code == 0, err
    assert "batches of" not in err
    assert load_experiment(tmp_path / "out" / "experiment.yaml").training.batch_size == 6


def test_elsewhere_a_number_is_needed(squares, tmp_path):
    config = tmp_path / "experiment.yaml"
    config.write_text(EXPERIMENT.replace("ROOT", str(squares)))
    with pytest.raises(SettingsError, match="finds the batch size once for a whole run"):
        trainer_of(load_experiment(config, ["training.batch_memory=0.5"]), tmp_path)


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    def broken(size):
        raise RuntimeError("no such operator")

    with pytest.raises(RuntimeError, match="no such operator"):
        _peak_here(broken, 4)

    def full(size):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:118] data. DefaultCPUAllocator: not enough memory")

    assert _peak_here(full, 4) is None
