"""Distributed training: two processes compute what one does, and go on where one of them dies."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from loud_detector import loud_detector
from moving_squares import CLASS_NAMES
from rank_program import CARRIED, comparisons, followed, in_float64, make_trainer
from test_training import assert_same

from spiketrack.datasets.batches import Share
from spiketrack.datasets.etram import find_sequences
from spiketrack.detector.checkpoint import load_checkpoint
from spiketrack.distributed import ALONE, Ranks
from spiketrack.errors import CheckpointError, SettingsError
from spiketrack.evaluation import EvaluationSettings, evaluate
from spiketrack.launching import launch, threads_per_process
from spiketrack.tracking import ByteTrackSettings

PROGRAM = Path(__file__).with_name("rank_program.py")


def run_ranks(scenario, squares, run_dir, *arguments, restarts=0):
    """Two processes; the exit code of the run, and what each rank saw last."""
    run_dir.mkdir(exist_ok=True)
    code = launch([sys.executable, *map(str, [PROGRAM, scenario, squares, run_dir, *arguments])], 2, restarts)
    return code, [torch.load(path) for path in sorted(run_dir.glob(f"{scenario}_?.pt"))]


@pytest.fixture(scope="module")
def alone(squares, tmp_path_factory):
    return dict(comparisons(squares, tmp_path_factory.mktemp("alone"), ALONE))


@pytest.fixture(scope="module")
def two(squares, tmp_path_factory):
    """The same in two processes: what the first and the second saw, and the folder of the runs."""
    run_dir = tmp_path_factory.mktemp("two")
    code, seen = run_ranks("compare", squares, run_dir)
    assert code == 0
    return *seen, run_dir


@pytest.mark.parametrize("case", ["norm", "norm_beside_an_empty_one"])
def test_norms_of_shares_are_the_norm_of_the_batch(alone, two, case):
    whole, first, second = alone[case], two[0][case], two[1][case]
    assert len(first["y"]) + len(second["y"]) == 7
    for name in ("y", "x"):
        torch.testing.assert_close(torch.cat([first[name], second[name]]), whole[name], rtol=1e-4, atol=2e-5)
    for name in ("weight", "bias", "mean", "var"):
        torch.testing.assert_close(first[name], whole[name], rtol=1e-5, atol=1e-4)
        assert torch.equal(first[name], second[name])


@pytest.mark.parametrize("case", ["joint", "carried", "scaled", "ssd"])
def test_two_processes_compute_what_one_does(alone, two, case):
    """Losses and norms of the gradients, of batches cut in half: the normaliser is of the whole batch."""
    whole, first, second = alone[case], two[0][case], two[1][case]
    assert [a + b for a, b in zip(first["samples"], second["samples"], strict=True)] == whole["samples"]
    if case != "carried":
        assert [] in second["samples"]  # of a batch of one sample
    assert first["losses"] == second["losses"]
    assert first["losses"] == pytest.approx(whole["losses"], rel=1e-6)
    assert first["norms"] == second["norms"]
    assert first["norms"] == pytest.approx(whole["norms"], rel=1e-6)
    for name, statistics in whole["running"].items():
        torch.testing.assert_close(first["running"][name], statistics, rtol=1e-6, atol=1e-6)
    assert first["maps"] == second["maps"] == whole["maps"]


def test_what_all_ranks_found_is_scored_together(alone, two, squares):
    """Each rank has run one of the two sequences; the mean of their scores would be another number."""
    mean_ap, hota, _ = alone["scores"]
    assert 0 < mean_ap < 1
    assert 0 < hota < 1
    assert two[0]["scores"] == (mean_ap, hota, ["val_0", "val_1"])
    assert two[1]["scores"] is None
    each = []
    for sequence in find_sequences(squares, "val", CLASS_NAMES):
        result = evaluate(loud_detector(), [sequence], EvaluationSettings(), ByteTrackSettings())
        each.append(result.detection.map)
    assert sum(each) / 2 != pytest.approx(mean_ap)


def test_the_state_of_all_streams_is_kept_together(alone, two):
    parts = list(zip(two[0]["carried"]["state"], two[1]["carried"]["state"], strict=True))
    saved = load_checkpoint(two[2] / "carried" / "last.pt")["run"]["state"]
    for (first, second), together, whole in zip(parts, saved, alone["carried"]["state"], strict=True):
        assert torch.equal(torch.cat([first, second]), together)
        assert together.shape == whole.shape


def test_weights_stay_the_same_on_all_ranks(two):
    first, second, _ = two
    assert first["own_norms"]["weights"] == second["own_norms"]["weights"]
    assert_same(first["own_norms"]["running"], second["own_norms"]["running"])
    assert first["own_norms"]["losses"] != first["joint"]["losses"]


def test_what_a_step_exchanges(alone, two):
    """Four bytes a weight (eight in float64), and as many for a running statistic of norms that are not joint."""
    joint, own = two[0]["joint"], two[0]["own_norms"]
    assert set(joint["exchanged"]) == {8 * joint["parameters"]}
    assert set(own["exchanged"]) == {4 * (own["parameters"] + own["statistics"])}
    assert set(alone["joint"]["exchanged"]) == {0}


def same_run(run_dir, whole_dir):
    for name in ("last.pt", "best.pt"):
        assert_same(load_checkpoint(run_dir / name), load_checkpoint(whole_dir / name))
    return (run_dir / "history.json").read_text() == (whole_dir / "history.json").read_text()


def test_a_run_one_of_whose_processes_is_killed_goes_on_from_the_last_checkpoint(squares, two, tmp_path, capfd):
    rank, step = random.choice([0, 1]), random.choice([1, 2, 3, 4])  # any will do
    code, seen = run_ranks("kill", squares, tmp_path, rank, step, restarts=1)
    assert code == 0
    assert "killed by SIGKILL; starting again from the last checkpoint, 1 of at most 1" in capfd.readouterr().err
    checkpoint = 2 * (step // 2)  # there is one every two steps
    assert [rank["steps"][0] for rank in seen] == [checkpoint, checkpoint], f"killed: rank {rank} after step {step}"
    assert same_run(tmp_path / "own_norms", two[2] / "own_norms")


def test_a_stop_reaches_all_ranks_at_the_same_step_and_every_state_comes_back(two):
    whole = [rank["carried"] for rank in two[:2]]
    for rank, before in zip(two[:2], whole, strict=True):
        first, second = rank["stopped"]
        assert (first["finished"], second["finished"]) == (False, True)
        assert (first["steps"], second["steps"]) == ([0, 3], [3, before["steps"][1]])  # one was asked after step 2
        assert before["steps"][1] > 3
        assert first["losses"] + second["losses"] == before["losses"]
        assert second["weights"] == before["weights"]
        assert all(torch.equal(a, b) for a, b in zip(second["state"], before["state"], strict=True))
    assert same_run(two[2] / "stopped", two[2] / "carried")


def test_one_process_goes_on_with_a_run_of_two(squares, alone, two, tmp_path):
    """It takes the carried state of all streams, in their order."""
    shutil.copy(two[2] / "stopped" / "stopped.pt", tmp_path / "last.pt")
    trainer = in_float64(make_trainer(squares, tmp_path, ALONE, **CARRIED))
    trainer.resume()
    seen = followed(trainer)
    assert seen["losses"] == pytest.approx(alone["carried"]["losses"][3:], rel=1e-6)
    assert seen["maps"] == alone["carried"]["maps"]
    other = make_trainer(squares, tmp_path, ALONE, **CARRIED | {"sync_batch_norm": False})
    with pytest.raises(CheckpointError, match=r"other settings \(training.sync_batch_norm\)"):
        other.resume()


@pytest.mark.parametrize("count", range(8))
def test_shares_are_the_batch_in_its_order(count):
    places = list(range(count))
    shares = [places[Share(number, 3).of(count)] for number in range(3)]
    assert [place for share in shares for place in share] == places
    assert sorted((len(share) for share in shares), reverse=True) == [len(share) for share in shares]
    assert len(shares[0]) - len(shares[2]) <= 1


def test_a_batch_too_small_for_the_processes_is_refused(squares, tmp_path):
    with pytest.raises(SettingsError, match="batch_size is 2, too few for 3 processes"):
        make_trainer(squares, tmp_path, Ranks(0, 3, 0, 3))


def test_every_process_takes_its_own_gpu():
    ranks = Ranks(5, 8, 1, 4)
    assert (ranks.device("cuda"), ranks.device("cpu"), ALONE.device("cuda")) == ("cuda:1", "cpu", "cuda")
    with pytest.raises(SettingsError, match="4 processes cannot share one GPU"):
        ranks.device("cuda:0")


COUNTING = "import os, signal, sys; open(sys.argv[1], 'a').write(os.environ['RANK']); "


@pytest.mark.parametrize(
    ("end", "code", "starts"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL) if os.environ['RANK'] == '1' else sys.exit(1)", 137, "000111"),
        ("sys.exit(3)", 3, "01"),  # its own error would come again
        ("sys.exit(0)", 0, "01"),
    ],
)
def test_only_killed_processes_are_started_again(tmp_path, end, code, starts):
    log = tmp_path / "log"
    assert launch([sys.executable, "-c", COUNTING + end, str(log)], 2, 2) == code
    assert "".join(sorted(log.read_text())) == starts


def test_a_stop_is_passed_on_once_and_nothing_starts_again(tmp_path):
    """As with Ctrl-C: the signal comes to the launcher; its children are in sessions of their own."""
    child = (
        "import os, signal, sys, time; "
        "signal.signal(signal.SIGINT, lambda *_: (open(sys.argv[1] + '/said', 'a').write('x'), time.sleep(0.2), "
        "sys.exit(130))); "
        "open(f'{sys.argv[1]}/{os.getpid()}', 'w').close(); time.sleep(60)"
    )
    program = (
        "import sys; from spiketrack.launching import launch; "
        "sys.exit(launch([sys.executable, '-c', *sys.argv[1:]], 2, 3))"
    )
    launcher = subprocess.Popen([sys.executable, "-c", program, child, str(tmp_path)], start_new_session=True)
    while len(list(tmp_path.iterdir())) < 2:
        time.sleep(0.02)
    os.killpg(launcher.pid, signal.SIGINT)
    assert launcher.wait() == 130
    assert (tmp_path / "said").read_text() == "xx"


def test_processes_do_not_outlive_their_launcher(tmp_path):
    child = (
        "import os, sys, time; from spiketrack.launching import leave_with_launcher; leave_with_launcher(); "
        "open(f'{sys.argv[1]}/{os.getpid()}', 'w'); time.sleep(60)"
    )
    program = "import sys; from spiketrack.launching import launch; launch([sys.executable, '-c', *sys.argv[1:]], 2, 0)"
    launcher = subprocess.Popen([sys.executable, "-c", program, child, str(tmp_path)])
    while len(list(tmp_path.iterdir())) < 2:
        time.sleep(0.02)
    launcher.kill()
    launcher.wait()
    for path in tmp_path.iterdir():
        while alive(int(path.name)):  # a test that hangs has failed
            time.sleep(0.02)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_threads_are_shared_out():
    own = len(os.sched_getaffinity(0))
    assert [threads_per_process(n) for n in (1, own, 2 * own)] == [own, 1, 1]


@pytest.mark.slow
def test_the_command_line_starts_the_processes(run, squares, tmp_path):
    config = tmp_path / "tiny.yaml"
    config.write_text(
        f"name: tiny\ndata: {{root: '{squares}'}}\ninput: {{slice_us: 20000}}\n"
        "training: {epochs: 1, batch_size: 4, steps: 2, sync_batch_norm: true}\n"
    )
    code, *_ = run("train", config, "--processes", 2)
    assert code == 0
    assert len(json.loads((tmp_path / "runs/tiny/history.json").read_text())) == 1
    assert load_checkpoint(tmp_path / "runs/tiny/last.pt")["run"]["settings"]["training"]["sync_batch_norm"] is True
    code, _, err = run("train", config, "--processes", 2)
    assert (code, "holds a run; continue it with --resume" in err) == (1, True)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def tiny_experiment(squares, tmp_path):
    """The path of an experiment of two epochs, with a checkpoint after every step."""
    config = tmp_path / "tiny.yaml"
    config.write_text(
        f"name: tiny\ndata: {{root: '{squares}'}}\ninput: {{slice_us: 20000}}\n"
        "training: {epochs: 2, batch_size: 4, steps: 2, checkpoint_every: 1}\n"
    )
    return config


@pytest.mark.slow
def test_torchrun_trains_what_processes_do_also_where_a_worker_is_killed(squares, tmp_path, run):
    config = tiny_experiment(squares, tmp_path)
    command = [*TORCHRUN, "--max-restarts", "1", "-m", "spiketrack.cli", "train", config, "--out"]
    assert run("train", config, "--out", tmp_path / "processes", "--processes", 2)[0] == 0
    assert subprocess.run([*command, tmp_path / "torchrun"], capture_output=True, check=False).returncode == 0
    assert same_run(tmp_path / "torchrun", tmp_path / "processes")
    with (tmp_path / "log").open("wb") as log:
        agent = subprocess.Popen([*command, tmp_path / "killed"], stderr=log, stdout=log)
    while not (tmp_path / "killed" / "last.pt").exists():
        assert agent.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.05)
    random.choice(psutil.Process(agent.pid).children()).kill()  # any will do
    assert agent.wait() == 0, (tmp_path / "log").read_text()
    assert same_run(tmp_path / "killed", tmp_path / "processes")
