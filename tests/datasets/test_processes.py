"""Jobs in processes: what comes back, and how a run ends that something stops."""

import os
import signal
import subprocess
import sys
import time
from multiprocessing import active_children
from pathlib import Path
from typing import NamedTuple

import pytest

from spiketrack.datasets.processes import run_jobs
from spiketrack.errors import RecordingError, SettingsError


class Task(NamedTuple):
    name: str
    number: int
    folder: str = ""


def square(task, report):
    report(task.number)
    report(-task.number)
    return task.number**2


def misbehave(task, report):
    """Number 0 goes on for a minute; the others end as their name says."""
    note = Path(task.folder) / f"{task.name}.tmp"
    note.write_text(str(os.getpid()))
    try:
        report(task.name)
        if task.name == "killed":
            time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGKILL)
        if task.name == "broken":
            raise SettingsError("broken: it says so")
        if task.name == "mistaken":
            raise ZeroDivisionError("ours")
        if task.name == "greedy":
            raise MemoryError
        time.sleep(60)
    finally:
        note.unlink()


def run(work, tasks, processes, on_report=lambda *_: None):
    results = {}
    run_jobs(work, tasks, processes, lambda task, result: results.update({task.name: result}), on_report)
    return results


@pytest.mark.parametrize("processes", [1, 2])
def test_every_job_is_done_once_with_its_reports(processes):
    tasks, reports = [Task(f"task {k}", k) for k in range(5)], []
    results = run(square, tasks, processes, lambda task, value: reports.append((task.number, value)))
    assert results == {"task 0": 0, "task 1": 1, "task 2": 4, "task 3": 9, "task 4": 16}
    assert sorted(reports) == [(0, 0), (0, 0), (1, -1), (1, 1), (2, -2), (2, 2), (3, -3), (3, 3), (4, -4), (4, 4)]
    assert not active_children()


def test_no_jobs_are_no_work():
    assert run(square, [], 3) == {}


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("killed", RecordingError, "killed: its process was killed by SIGKILL, perhaps for want of memory"),
        ("broken", SettingsError, "^broken: it says so$"),
        ("mistaken", RuntimeError, "(?s)mistaken: .*ZeroDivisionError: ours"),
        ("greedy", RecordingError, "greedy: out of memory"),
    ],
)
def test_one_that_fails_ends_the_others(tmp_path, name, error, message):
    started = time.monotonic()
    with pytest.raises(error, match=message):
        run(misbehave, [Task("long", 0, str(tmp_path)), Task(name, 1, str(tmp_path))], 2)
    assert time.monotonic() - started < 20
    assert not active_children()
    left = [f"{name}.tmp"] if name == "killed" else []
    assert [path.name for path in tmp_path.iterdir()] == left, "what was stopped has cleaned up, what was killed cannot"


def test_ctrl_c_stops_the_children_and_they_clean_up(tmp_path):
    tasks, begun = [Task("one", 0, str(tmp_path)), Task("two", 0, str(tmp_path))], []

    def interrupt(task, _):
        begun.append(task.name)
        if len(begun) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(misbehave, tasks, 2, interrupt)
    assert sorted(begun) == ["one", "two"]
    assert not active_children()
    assert list(tmp_path.iterdir()) == []


def test_children_leave_when_the_parent_is_killed(tmp_path):
    script = (
        "from test_processes import Task, misbehave, run\n"
        "if __name__ == '__main__':\n"
        f"    run(misbehave, [Task(name, 0, {str(tmp_path)!r}) for name in ('one', 'two')], 2)\n"
    )
    (tmp_path / "parent.py").write_text(script)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    parent = subprocess.Popen([sys.executable, tmp_path / "parent.py"], env=environment)
    _wait_for(lambda: len(list(tmp_path.glob("*.tmp"))) == 2)
    parent.kill()
    parent.wait()
    _wait_for(lambda: not list(tmp_path.glob("*.tmp")))


def _wait_for(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_an_exit_asked_for_within_a_callback_of_a_weak_reference_is_not_forgotten():
    script = (
        "import os, signal, time, weakref\n"
        "from spiketrack.datasets.processes import leave_when_asked\n"
        "class Thing: pass\n"
        "leave_when_asked()\n"
        "thing = Thing()\n"
        "def called_back(_):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    sum(range(1000))\n"  # the handler runs here, and Python forgets what it raises
        "reference = weakref.ref(thing, called_back)\n"
        "try:\n"
        "    del thing\n"
        "    print('forgotten', flush=True)\n"
        "    time.sleep(20)\n"
        "finally:\n"
        "    print('cleaned up')\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "forgotten\ncleaned up\n", "")
