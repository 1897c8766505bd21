"""The shared work list: nothing lost, nothing twice, whoever dies; also for workers of other machines."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest

from spiketrack import worklist
from spiketrack.errors import RecordingError, SettingsError
from spiketrack.launching import keep_at_work
from spiketrack.worklist import FOLDER, LIVES, WorkList

NAMES = [f"day/{i}.raw" for i in range(12)]

# argv: folder, seconds for a piece, what to do at the piece day/5.raw
WORKER = """
import os, signal, sys, time
from pathlib import Path
from spiketrack.worklist import WorkList
folder, seconds, at_five = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
for claim in WorkList(folder, [f"day/{i}.raw" for i in range(12)], {"k": 1}).claims(poll_s=0.02):
    with claim as results:
        (results / "half").write_text(str(os.getpid()))
        time.sleep(seconds)
        if claim.name == "day/5.raw":
            exec(at_five)
        (results / "whole").write_text(str(os.getpid()))
    if claim.published:
        with (folder / "published").open("a") as file:
            file.write(claim.name + "\\n")
"""


def start(folder, seconds=0.03, at_five="pass"):
    return subprocess.Popen([sys.executable, "-c", WORKER, str(folder), str(seconds), at_five])


def work_list(folder, names=NAMES, settings=None, **options):
    return WorkList(folder, names, settings or {"k": 1}, **options)


def all_there(folder):
    """Every result whole and published once, and nothing half made."""
    assert sorted((folder / "published").read_text().split()) == sorted(NAMES)
    for name in NAMES:
        results = folder / f"{name}_tracks"
        assert (results / "half").read_text() == (results / "whole").read_text()
    assert not list((folder / FOLDER).glob("*.results"))
    return work_list(folder).outcome() == (NAMES, {}, [])


def test_three_workers_share_a_list(tmp_path):
    workers = [start(tmp_path) for _ in range(3)]
    assert [worker.wait() for worker in workers] == [0, 0, 0]
    assert all_there(tmp_path)
    makers = {(tmp_path / f"{name}_tracks" / "whole").read_text() for name in NAMES}
    assert len(makers) > 1


def test_a_killed_worker_loses_nothing(tmp_path):
    """One dies in the middle of a piece; the other does it again, and nobody removes a lock by hand."""
    dying = start(tmp_path, at_five="os.kill(os.getpid(), signal.SIGKILL)")
    assert dying.wait() == -signal.SIGKILL
    (half,) = (tmp_path / FOLDER).glob("*.results")
    assert [path.name for path in half.iterdir()] == ["half"]
    assert len(work_list(tmp_path).outcome().done) == NAMES.index("day/5.raw")
    assert start(tmp_path).wait() == 0
    assert all_there(tmp_path)


KILLED_ONCE = """
mark = folder / "killed"
if not mark.exists():
    mark.touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_worker_is_replaced(tmp_path, capfd):
    command = [sys.executable, "-c", WORKER, str(tmp_path), "0.03", KILLED_ONCE]
    assert keep_at_work(command, 2, replacements=5) == 0
    assert capfd.readouterr().err == "a worker was killed by SIGKILL; another one starts\n"
    assert all_there(tmp_path)


def test_an_error_of_a_worker_is_the_code_of_the_run_and_nobody_replaces_it(tmp_path):
    command = [sys.executable, "-c", WORKER, str(tmp_path), "0.03", "sys.exit(3)"]
    assert keep_at_work(command, 2, replacements=5) == 3
    assert "day/5.raw" in work_list(tmp_path).outcome().open  # given back twice


def test_a_piece_that_kills_its_workers_is_given_up(tmp_path):
    for _ in range(LIVES):
        assert start(tmp_path, at_five="os._exit(9)").wait() == 9
    assert start(tmp_path, at_five="os._exit(9)").wait() == 0
    done, failed, left = work_list(tmp_path).outcome()
    assert (len(done), left) == (11, [])
    assert failed == {"day/5.raw": f"{LIVES} workers died at it"}
    work_list(tmp_path).give_failed_another_chance()
    assert work_list(tmp_path).outcome().open == ["day/5.raw"]
    assert start(tmp_path).wait() == 0
    assert all_there(tmp_path)


def interrupt(claim):
    with suppress(KeyboardInterrupt), claim as results:
        (results / "half").write_text("")
        raise KeyboardInterrupt


def test_a_stopped_worker_gives_its_piece_back(tmp_path):
    claim = next(work_list(tmp_path).claims())
    interrupt(claim)
    again = next(work_list(tmp_path).claims())
    assert (again.name, again.path.name.rpartition(".")[2]) == (NAMES[0], "2")
    assert not list((tmp_path / FOLDER).glob("*.results"))


def test_a_failed_piece_is_said_once_and_stops_nobody(tmp_path):
    tried = []
    for claim in work_list(tmp_path, NAMES[:3]).claims():
        tried.append(claim.name)
        with claim as results:
            if claim.name == NAMES[1]:
                raise RecordingError("cut off at byte 7")
            (results / "whole").write_text("")
    assert tried == NAMES[:3]
    outcome = work_list(tmp_path, NAMES[:3]).outcome()
    assert outcome == ([NAMES[0], NAMES[2]], {NAMES[1]: "cut off at byte 7"}, [])
    assert list(work_list(tmp_path, NAMES[:3]).claims()) == []
    retried = work_list(tmp_path, NAMES[:3])
    retried.give_failed_another_chance()
    assert [claim.name for claim in retried.claims() if claim.let_go("still") is None] == [NAMES[1]]


@pytest.fixture
def elsewhere(monkeypatch):
    """A function that claims as a worker of another machine, whose processes nobody here can ask for."""

    def claim(folder, **options):
        with monkeypatch.context() as other:
            other.setattr(worklist, "_machine", lambda: "another one")
            return next(work_list(folder, NAMES[:1], **options).claims())

    return claim


def test_a_worker_of_another_machine_is_waited_for_while_its_claim_is_touched(tmp_path, elsewhere):
    claim = elsewhere(tmp_path, beat_s=0.02)
    own = work_list(tmp_path, NAMES[:1], patience_s=1.0)
    found = []
    waiting = threading.Thread(target=lambda: found.extend(own.claims(poll_s=0.02)))
    with claim as results:
        (results / "whole").write_text("there")
        waiting.start()
        time.sleep(1.5)  # more than the patience
        assert waiting.is_alive()
    waiting.join()
    assert found == []
    assert (claim.result / "whole").read_text() == "there"


def test_a_claim_of_another_machine_that_nobody_touches_is_taken_over_and_its_results_do_not_count(tmp_path, elsewhere):
    """The other one is not dead but cut off for a while; both finish."""
    theirs = elsewhere(tmp_path, beat_s=1000)
    with theirs as their_results:
        (their_results / "whole").write_text("theirs")
        own = work_list(tmp_path, NAMES[:1], patience_s=0.1)
        (claim,) = [claim for claim in own.claims(poll_s=0.02) if finish(claim, "own")]
        assert claim.published
    assert not theirs.published
    assert (claim.result / "whole").read_text() == "own"
    assert work_list(tmp_path, NAMES[:1]).outcome().done == NAMES[:1]


def finish(claim, text):
    with claim as results:
        (results / "whole").write_text(text)
    return True


def test_the_first_of_two_results_counts(tmp_path, elsewhere):
    theirs = elsewhere(tmp_path, beat_s=1000)
    with theirs as their_results:
        own = work_list(tmp_path, NAMES[:1], patience_s=0.1)
        claim = next(own.claims(poll_s=0.02))
        their_results.mkdir(exist_ok=True)
        (their_results / "whole").write_text("theirs")
        claim.__enter__()
        their_results.mkdir(exist_ok=True)  # a network file system may bring it back
        (their_results / "whole").write_text("theirs")
    assert theirs.published
    claim.__exit__(None, None, None)
    assert not claim.published
    assert (claim.result / "whole").read_text() == "theirs"


def test_many_threads_make_one_claim(tmp_path):
    lists = [work_list(tmp_path, NAMES[:1]) for _ in range(8)]
    barrier, made = threading.Barrier(8), []

    def claim(own):
        barrier.wait()
        made.append(own._claim(NAMES[0], 1))

    threads = [threading.Thread(target=claim, args=(own,)) for own in lists]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(claim is not None for claim in made) == 1


def test_a_process_number_used_again_is_another_process(tmp_path):
    claim = next(work_list(tmp_path, NAMES[:1]).claims())
    machine, pid, began = json.loads(claim.path.read_text())
    assert pid == os.getpid()
    assert work_list(tmp_path, NAMES[:1]).outcome().open == NAMES[:1]
    claim.path.write_text(json.dumps([machine, pid, str(int(began) - 1)]))
    assert next(work_list(tmp_path, NAMES[:1]).claims()).path.name.endswith(".2")


def test_results_of_other_settings_are_not_mixed(tmp_path):
    work_list(tmp_path)
    with pytest.raises(
        SettingsError, match=r"holds results of other settings \(k 1 instead of 2\); take another --out"
    ):
        work_list(tmp_path, settings={"k": 2})


def test_names_that_look_alike_are_different_pieces(tmp_path):
    names = ["a/b.raw", "a_b.raw", "c/b.raw", "b[1].raw", "b(1).raw"]
    claims = list(_finished(work_list(tmp_path, names)))
    assert sorted(claims) == sorted(names)
    assert work_list(tmp_path, names).outcome() == (names, {}, [])


def _finished(own):
    for claim in own.claims():
        finish(claim, "x")
        yield claim.name


def test_an_empty_list_is_done(tmp_path):
    assert list(work_list(tmp_path, []).claims()) == []
    assert work_list(tmp_path, []).outcome() == ([], {}, [])
