import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from spiketrack.spiking import LIFSettings, team
from spiketrack.spiking.lif import lif
from spiketrack.spiking.team import in_region, openmp_region, python_region, shared

HALVES = [(0, 3), (3, 6)]

needs_openmp = pytest.mark.skipif(openmp_region() is None, reason="this torch has no OpenMP pool that can be called")


@pytest.fixture(autouse=True)
def two_threads(monkeypatch):
    monkeypatch.setenv("SPIKETRACK_THREADS", "torch")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["openmp", "python"])
def region(request):
    found = openmp_region() if request.param == "openmp" else python_region
    if found is None:
        pytest.skip("this torch has no OpenMP pool that can be called")
    return found


def test_pieces_run_at_once_and_come_in_order(region):
    meeting, threads = threading.Barrier(2), []

    def work(start, stop):
        meeting.wait(timeout=60)  # broken if one thread does both
        threads.append(threading.get_native_id())
        return list(range(start, stop))

    assert in_region(region, 2, HALVES, work) == [[0, 1, 2], [3, 4, 5]]
    assert len(set(threads)) == 2


def test_an_error_is_raised_where_the_work_was_given(region):
    def work(start, stop):
        if start:
            raise ValueError("the second half")
        return start

    for _ in range(2):  # the threads live on
        with pytest.raises(ValueError, match="the second half"):
            in_region(region, 2, HALVES, work)
        assert in_region(region, 2, HALVES, lambda start, stop: stop) == [3, 6]


def test_every_item_is_in_one_piece():
    for count, most in ((0, 5), (1, 5), (7, 3), (7, 100), (7, 0)):
        pieces = shared(count, most, lambda start, stop: list(range(start, stop)))
        assert [item for piece in pieces for item in piece] == list(range(count))
        assert len(pieces) <= max(1, min(count, most, 2 * team.PIECES_PER_THREAD))


def test_work_may_share_its_own_work():
    def inner(start, stop):
        return sum(shared(3, 3, lambda a, b: sum(range(a, b)))) * (stop - start)

    assert sum(shared(4, 4, inner)) == 3 * 4


@needs_openmp
@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads are listed there on Linux only")
def test_the_threads_are_those_of_torch():
    big = torch.ones(1 << 20)
    assert float((big + big).sum()) == 2 << 20  # torch has started its threads
    before = {int(task) for task in os.listdir("/proc/self/task")}
    meeting = threading.Barrier(2)

    def work(start, stop):
        meeting.wait(timeout=60)
        return threading.get_native_id()

    assert {*in_region(openmp_region(), 2, HALVES, work)} <= before


def test_without_such_a_pool_there_is_no_region(monkeypatch, tmp_path):
    monkeypatch.setattr(torch, "__file__", str(tmp_path / "__init__.py"))
    assert openmp_region.__wrapped__() is None
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libtorch_cpu.so").write_bytes(b"not a library")
    assert openmp_region.__wrapped__() is None


def neurons():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 3, 500, generator=generator).requires_grad_()
    rate = torch.tensor(0.4, requires_grad=True)
    spikes, rest = lif(x, None, rate, LIFSettings())
    (spikes.sum() + rest.square().sum()).backward()
    return spikes, rest, x.grad, rate.grad


def test_neurons_are_the_same_on_either_kind_of_threads(monkeypatch):
    one = neurons()
    monkeypatch.setattr("spiketrack.spiking.slabs.LEAST_PER_THREAD", 100)
    for forked in (False, True):
        monkeypatch.setattr(team, "_forked", forked)
        for ours, theirs in zip(neurons()[:3], one[:3], strict=True):
            assert torch.equal(ours, theirs)
        torch.testing.assert_close(neurons()[3], one[3], rtol=1e-6, atol=0)


def test_two_python_threads_at_once():
    def many(offset):
        torch.set_num_threads(2)
        return [sum(shared(100, 4, lambda a, b: sum(range(a + offset, b + offset)))) for _ in range(200)]

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(many, (0, 1000)))
    assert found == [[4950] * 200, [104950] * 200]


AFTER_FORK = """
import os, sys, torch
from torch.utils.data import DataLoader, Dataset
from spiketrack.spiking import team

def total():
    torch.set_num_threads(2)
    return sum(team.shared(100, 4, lambda a, b: sum(range(a, b))))

class Totals(Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, item):
        return total() + item

assert total() == 4950  # the pool is at work before the fork
child = os.fork()
if child == 0:
    os._exit(0 if total() == 4950 else 1)
assert os.waitpid(child, 0)[1] == 0
loader = DataLoader(Totals(), num_workers=2, multiprocessing_context="fork")
assert [int(found) for found in loader] == [4950, 4951, 4952, 4953]
assert total() == 4950
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_and_workers_of_a_loader_do_not_hang():
    done = subprocess.run([sys.executable, "-c", AFTER_FORK], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_threads_of_torchs_are_taken_only_where_they_are_asked_for(monkeypatch):
    def refuse():
        raise AssertionError("torch's threads were asked for")

    monkeypatch.setattr(team, "openmp_region", refuse)
    monkeypatch.delenv("SPIKETRACK_THREADS", raising=False)
    assert shared(6, 2, lambda start, stop: stop) == [3, 6]
    monkeypatch.setenv("SPIKETRACK_THREADS", "torch")
    with pytest.raises(AssertionError, match="asked for"):
        shared(6, 2, lambda start, stop: stop)
