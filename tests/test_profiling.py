"""The bottleneck doctor: pipelines slowed on purpose are diagnosed, whatever else the machine does.

What is injected is far slower than the tiny network; nothing here asserts on seconds that were measured.
"""

import json
import threading
import time
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import torch
from loud_detector import loud_detector
from moving_squares import CLASS_NAMES
from test_training import SLICE_US, make_trainer

from spiketrack.datasets.etram import LabelledSequence, find_sequences
from spiketrack.detector.st_vgg import STVGG
from spiketrack.errors import SettingsError
from spiketrack.profiling import Part, Plan, diagnose_training
from spiketrack.profiling.doctor import try_remedies
from spiketrack.profiling.measuring import Measurement, Usage, measure_inference, measure_training
from spiketrack.profiling.probing import Probes, probe
from spiketrack.profiling.remedies import Present, Remedy, remedies
from spiketrack.profiling.sampling import StackSampler, StackTime
from spiketrack.profiling.tracing import LAYER, STATION, Node, Trace, layers_of
from spiketrack.profiling.verdict import judge
from spiketrack.profiling.watching import TRAINING, Stopwatch
from spiketrack.report.profile import flame, profile_values, write_profile
from spiketrack.representations import InputSettings
from spiketrack.tracking import ByteTrackSettings

PLAN = Plan(warm_up=1, steps=3, traced=1, interval_s=0.002)
SPIN_S = 0.3  # of the processor
SLOWER = 3  # times a step that nobody slowed


def trainer_of(squares, tmp_path, **settings):
    return make_trainer(squares, tmp_path, **{"epochs": 9, "validate_every": 99, "checkpoint_every": 99, **settings})


@pytest.fixture(scope="module")
def calm(squares, tmp_path_factory):
    """The diagnosis of a run that nobody slowed, and the folder of its trace."""
    folder = tmp_path_factory.mktemp("calm")

    def make(changes):
        assert not changes
        return trainer_of(squares, folder)

    return diagnose_training(make, PLAN, folder / "trace.json"), folder


def diagnosed(calm, trainer, on_step=lambda progress: None):
    """Verdict and remedies of a run; trace and probes are those of the calm one."""
    found, _ = calm
    measured = replace(measure_training(trainer, PLAN, on_step), trace=found.trace)
    verdict = judge(measured, found.probes)
    files = tuple(sequence.path for sequence in trainer.samples.sequences)
    return verdict, remedies(verdict, found.probes, Present(training=True, files=files))


def pause(calm):
    """Long enough to be what a step waits for, on a machine as busy as it is now."""
    found, _ = calm
    time.sleep(SLOWER * found.measured.seconds)


def on_a_slow_disk(sequence, change):
    """A sequence whose recordings are changed as they are opened."""

    class Slow(LabelledSequence):
        def open(self):
            recording = super().open()
            change(recording)
            return recording

    names = ("name", "path", "width", "height", "labels", "repairs", "filters", "annotated")
    return Slow(*(getattr(sequence, name) for name in names))


def slow_loss(trainer, how):
    loss = trainer.loss

    def slowly(*arguments):
        how()
        return loss(*arguments)

    trainer.loss = slowly
    return trainer


def test_a_slow_disk(calm, squares, tmp_path):
    def change(recording):
        read = recording.read

        def slowly(*place):
            pause(calm)
            return read(*place)

        recording.read = slowly

    trainer = trainer_of(squares, tmp_path)
    sequences = trainer.samples.sequences
    sequences[:] = [on_a_slow_disk(sequence, change) for sequence in sequences]
    verdict, advice = diagnosed(calm, trainer)
    assert (verdict.bound, verdict.worst.station) == ("storage", "waiting")
    assert "test_profiling.py:pause" in verdict.worst.where
    assert advice[0].settings.keys() == {"data.cache_mb"}
    reading = sum(part.seconds for part in verdict.parts if part.what in ("reading from storage", "decoding events"))
    assert advice[0].gain == pytest.approx(verdict.seconds / (verdict.seconds - reading))


def test_one_slow_loader(calm, squares, tmp_path):
    def slowly(*arguments):
        end = time.thread_time() + SPIN_S
        while time.thread_time() < end:
            np.arange(1000).sort()  # without a frame of its own
        return encode(*arguments)

    trainer = trainer_of(squares, tmp_path)
    encode, trainer.samples._maker.encode = trainer.samples._maker.encode, slowly
    verdict, advice = diagnosed(calm, trainer)
    assert (verdict.bound, verdict.worst.station) == ("CPU", "waiting")
    assert "slowly" in verdict.worst.where
    assert verdict.loading["batching"] > 0.5 * sum(verdict.loading.values())
    assert "Cheaper samples" in {remedy.what for remedy in advice}


def test_a_tiny_batch(calm):
    """Two samples of 64 x 64 pixels: a step costs what its calls cost."""
    found, _ = calm
    assert found.verdict.bound in ("Python", "memory")  # on a busy machine fresh pages cost as much as calls
    assert found.verdict.worst.station in ("forward", "backward")
    assert "Larger batches" in {remedy.what for remedy in found.remedies}


def test_a_loss_that_sleeps(calm, squares, tmp_path):
    verdict, advice = diagnosed(calm, slow_loss(trainer_of(squares, tmp_path), lambda: pause(calm)))
    worst = verdict.worst
    assert (verdict.bound, worst.station, worst.what) == ("Python", "loss", "loss: waits without computing")
    assert "test_profiling.py:pause" in worst.where
    assert worst.where in advice[0].setting


def test_a_loss_that_reads_numbers_one_by_one(calm, squares, tmp_path):
    def read():
        end = time.thread_time() + SPIN_S
        while time.thread_time() < end:
            sum(number.item() for number in numbers)

    numbers = torch.arange(1000)
    found, folder = calm
    trainer = slow_loss(trainer_of(squares, tmp_path), lambda: sum(number.item() for number in numbers))
    traced = measure_training(trainer, replace(PLAN, steps=1), trace=folder / "reads.json").trace
    assert traced.reads("loss") >= 1000 > 50 > found.trace.reads("loss")
    measured = replace(measure_training(slow_loss(trainer_of(squares, tmp_path), read), PLAN), trace=traced)
    verdict = judge(measured, found.probes)
    assert (verdict.bound, verdict.worst.station) == ("Python", "loss")
    assert "one by one" in verdict.worst.what


def test_slow_logging(calm, squares, tmp_path):
    def log(progress):
        pause(calm)

    verdict, advice = diagnosed(calm, trainer_of(squares, tmp_path), log)
    assert (verdict.bound, verdict.worst.station) == ("Python", "logging")
    assert verdict.worst.where in advice[0].setting
    assert advice[0].effect == "same losses"


def test_measuring_does_not_change_the_run(squares, tmp_path):
    losses = []
    trainer_of(squares, tmp_path, epochs=1).run(lambda progress: losses.append(progress.loss))
    measured = measure_training(trainer_of(squares, tmp_path, epochs=1), PLAN)
    assert measured.losses == losses[1:4]
    assert measured.samples == 3 * 2
    assert measured.rows.shape == (3, len(TRAINING))


def test_a_run_that_is_too_short_says_so(squares, tmp_path):
    with pytest.raises(SettingsError, match=r"has \d steps, 99 were to be looked at"):
        measure_training(trainer_of(squares, tmp_path, epochs=1), replace(PLAN, steps=98))
    with pytest.raises(SettingsError, match="at least 1"):
        Plan(steps=0)


def test_inference_has_its_stations(squares):
    sequence = find_sequences(squares, "test", CLASS_NAMES)[0]
    measured = measure_inference(loud_detector(), sequence.open(), ByteTrackSettings(), PLAN)
    assert measured.rows.shape == (3, 5)
    assert (measured.rows > 0).all()
    assert measured.samples == 3
    with pytest.raises(SettingsError, match="8 time steps"):
        measure_inference(loud_detector(), sequence.open(), ByteTrackSettings(), replace(PLAN, steps=50))


def test_inference_from_a_slow_disk(squares, calm):
    def change(recording):
        chunks = recording.chunks

        def slowly(*arguments, **options):
            for chunk in chunks(*arguments, **options):
                for start in range(0, len(chunk), 50):
                    pause(calm)
                    yield chunk[start : start + 50]

        recording.chunks = slowly

    slow = on_a_slow_disk(find_sequences(squares, "test", CLASS_NAMES)[0], change)
    found, _ = calm
    measured = measure_inference(loud_detector(), slow.open(), ByteTrackSettings(), PLAN)
    verdict = judge(replace(measured, trace=found.trace), found.probes)
    assert (verdict.bound, verdict.worst.station) == ("storage", "reading")
    assert "test_profiling.py:pause" in verdict.worst.where


def by_hand():
    """One step of 13 s: 4 of waiting, 1 copy, 2 forward, 1 loss, 4 backward, .5 update, .25 and .25 after it."""
    reading = ("spiketrack/datasets/samples.py:SampleMaker.read", "spiketrack/recordings/dat.py:_blocks")
    counting = ("spiketrack/datasets/samples.py:SampleMaker.encode", "spiketrack/representations/slices.py:count")
    first = ("spiketrack/datasets/cache.py:EventCache._load", *reading[1:])
    assigning = ("spiketrack/detector/target_kernels.py:assign",)
    stacks = [
        StackTime(False, "waiting", reading, 7, 3.0, 2.0),
        StackTime(False, "waiting", counting, 8, 1.0, 0.0),
        StackTime(False, "waiting", first, 7, 4.0, 4.0),
        StackTime(False, "backward", counting, 8, 2.0, 0.0),  # while nobody waited
        StackTime(True, "loss", assigning, 9, 1.0, 0.0),
        StackTime(True, "loss", ("spiketrack/detector/loss.py:DetectionLoss.terms",), 5, 3.0, 0.0),
    ]
    root = Node("all", 6.0, 1)
    for station, seconds in (("forward", 2.0), ("backward", 4.0)):
        node = root.child(STATION + station)
        node.seconds = seconds
        layer = node.child(LAYER + "stem")
        layer.seconds = seconds
        for name, share in (("aten::convolution", 0.75), ("aten::add", 0.25)):
            layer.child(name).seconds = share * seconds
    usage = Usage(1.0, 0.1, 0.0, 0.0, 0.0, 0.0, {}, {})
    rows = np.array([[4, 1, 2, 1, 4, 0.5, 0.25, 0.25]])
    trace = Trace(1, root, None)
    return Measurement(TRAINING, rows, 2, stacks, usage, [1.0], {}, "cpu", torch.empty(0), trace)


def test_the_parts_add_up_by_hand():
    verdict = judge(by_hand(), Probes(1.0, 1.5, None, {1: 1.0}))
    parts = {(part.station, part.what.split(": ")[-1]): (part.bound, part.seconds) for part in verdict.parts}
    assert parts == {
        ("waiting", "reading from storage"): ("storage", 1.0),  # 4 * 3/8 * 2/3
        ("waiting", "decoding events"): ("CPU", 0.5),
        ("waiting", "waiting for events to be counted"): ("CPU", 0.5),
        ("copy", "batch to the device"): ("copy", 1.0),
        ("forward", "calls of small operations"): ("Python", 1.0),  # half does not depend on the batch
        ("forward", "convolutions, products"): ("compute", 0.75),
        ("forward", "neurons, norms, copies"): ("memory", 0.25),
        ("targets", "target generation"): ("CPU", 0.25),
        ("loss", "loss"): ("compute", 0.75),
        ("backward", "calls of small operations"): ("Python", 2.0),
        ("backward", "convolutions, products"): ("compute", 1.5),
        ("backward", "neurons, norms, copies"): ("memory", 0.5),
        ("optimizer", "clipping and update"): ("memory", 0.5),
        ("bookkeeping", "averaged weights, sums, checkpoints"): ("Python", 0.25),
        ("logging", "logging"): ("Python", 0.25),
    }
    assert verdict.once == pytest.approx(2.0)
    assert verdict.seconds == pytest.approx(13 - 2)
    assert verdict.loading == {"reading": 3.0, "encoding": 3.0, "first read": 4.0}
    assert (verdict.bound, verdict.bounds["Python"]) == ("Python", pytest.approx(3.5 / 11))
    assert verdict.worst == Part("backward", "backward: calls of small operations", "Python", 2.0, "")


def test_gains_by_hand(monkeypatch, tmp_path):
    """A step of 11 s, 6 of them in the network."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    measured, probes = by_hand(), Probes(1.0, 1.5, 0.5, {2: 1.0, 1: 1.5})
    present = Present(training=True, batch_size=4, native=True, files=(tmp_path,))
    found = {remedy.what: remedy for remedy in remedies(judge(measured, probes), probes, present)}
    assert found["Half the bits"].gain == pytest.approx(11 / 8)  # 6 s of network become 3
    assert found["Half the bits"].setting == "training.precision: bfloat16"
    assert found["Larger batches"].gain == pytest.approx(11 / 9)  # network 4.5, what follows .5 instead of 1
    assert found["Larger batches"].settings == {"training.batch_size": 8}
    # two side by side in 1.25 s: the network takes 7.5 s instead of 6, for twice the samples
    side = replace(probes, copies=2, side_by_side=1.25)
    found_side = {remedy.what: remedy for remedy in remedies(judge(measured, side), side, present)}
    assert found_side["One process a core"].gain == pytest.approx(2 * 11 / 12.5)
    assert "spiketrack train --processes 2" in found_side["One process a core"].by_hand
    # three and no more: recordings in memory would gain 11 / 9.5, and one thread would be slower
    assert found.keys() == {"Half the bits", "Larger batches", "Batches further ahead"}


def test_an_accelerator_may_count():
    """Half a second of eleven waits for counting; on a CPU nobody else could do it."""
    measured, probes = by_hand(), Probes(1.0, 2.0, None, {torch.get_num_threads(): 1.0})
    verdict = judge(measured, probes)
    for countable in (True, False):
        found = [r for r in remedies(verdict, probes, Present(training=True, countable=countable)) if "moved" in r.why]
        assert [(r.settings, r.effect) for r in found] == [
            ({"training.encode_on": "device"}, "same losses")
        ] * countable
        assert all(r.gain == pytest.approx(11 / 10.5) for r in found)


@pytest.fixture
def large(monkeypatch, tmp_path):
    """A recording of 10 MB on a machine with 80 MB of free memory and disk_mb of free disk."""

    class Free:
        available = 80e6
        free = 0.0

    monkeypatch.setattr("psutil.virtual_memory", lambda: Free)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: Free if folder == tmp_path else None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "not yet"))
    (tmp_path / "a.h5").write_bytes(bytes(10_000_000))

    def advice(disk_mb, files=1, on_disk=False):
        Free.free = 1e6 * disk_mb
        measured, probes = by_hand(), Probes(1.0, 2.0, None, {torch.get_num_threads(): 1.0})
        present = Present(training=True, files=(tmp_path / "a.h5",) * files, on_disk=on_disk)
        found = [r for r in remedies(judge(measured, probes), probes, present) if "again" in r.why]
        assert [(r.gain, r.effect) for r in found] == [(pytest.approx(11 / 9.5), "same losses")]
        return found[0]

    return advice, tmp_path / "not yet" / "spiketrack"


def test_what_memory_cannot_hold_goes_to_a_disk(large):
    """5 x 10 MB decoded in memory, of which half may be used; 3 x 10 MB on the disk."""
    advice, folder = large
    assert advice(60).settings == {"data.cache_dir": str(folder)}
    assert advice(59).settings == {"data.cache_mb": 40}  # as much as goes
    assert "about 30 GB" in advice(1e6, files=1000).why
    assert (advice(1e6, files=1000).can_be_tried, str(folder) in advice(1e6, files=1000).setting) == (False, True)


def test_what_memory_holds_stays_there(large, monkeypatch):
    advice, _ = large
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Free", (), {"available": 100e6}))
    assert advice(1e6).settings == {"data.cache_mb": 50}


def test_what_is_on_a_disk_already_needs_a_faster_one(large):
    advice, _ = large
    assert "data.cache_dir on a faster disk" in advice(1e6, on_disk=True).setting


def test_networks_side_by_side(squares, tmp_path):
    """Two turns of two copies: each pass is one of the network itself or of its copy, on one thread of torch."""
    trainer, threads = make_trainer(squares, tmp_path), []
    before = [weights.clone() for weights in trainer.model.parameters()]
    trainer.model.register_forward_pre_hook(lambda *_: threads.append((torch.get_num_threads(), threading.get_ident())))
    events = torch.zeros(1, 1, InputSettings(slice_us=SLICE_US).channels, 64, 64)
    torch.set_num_threads(2)
    try:
        found = probe(trainer.model, events, torch.float32, train=True, copies=2)
    finally:
        torch.set_num_threads(1)
    assert (found.copies, found.side_by_side is not None) == (2, True)
    own = threading.get_ident()
    assert {count for count, thread in threads if thread == own} == {2}
    assert {count for count, thread in threads if thread != own} == {1}
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))


def test_batches_further_ahead_where_loading_is_uneven():
    """6 s of loading a step, 9.5 s of work: what is waited for is a matter of order."""
    measured, probes = by_hand(), Probes(1.0, 2.0, None, {torch.get_num_threads(): 1.0})
    verdict = judge(measured, probes)
    found = {r.what: r for r in remedies(verdict, probes, Present(training=True, read_ahead=2))}
    assert found["Batches further ahead"].gain == pytest.approx(11 / 9)
    assert found["Batches further ahead"].settings == {"training.read_ahead": 8}
    slow = replace(verdict, loading={"batching": 9.0, "first read": 1.0})
    assert "Batches further ahead" not in {r.what for r in remedies(slow, probes, Present(training=True, read_ahead=2))}


def test_remedies_are_tried_on_top_of_each_other(calm):
    found, _ = calm
    first, second = (Remedy(f"r{i}", "", 2.0, "same losses", {f"k{i}": i}) for i in range(2))
    by_hand_only = Remedy("r2", "", 2.0, "same losses", by_hand="think")
    third = Remedy("r3", "", 2.0, "same losses", threads=1)
    tried = []

    def attempt(taken):
        tried.append([remedy.what for remedy in taken])
        faster = {"r0": 2.0, "r1": 1.0, "r3": 1.5}
        speed = np.prod([faster[remedy.what] for remedy in taken])
        return replace(found.measured, rows=found.measured.rows / speed)

    after = try_remedies(replace(found, remedies=[first, second, by_hand_only, third]), attempt)
    assert tried == [["r0"], ["r0", "r1"], ["r0", "r3"], []]
    assert [(trial.remedy.what, trial.kept) for trial in after.trials] == [("r0", True), ("r1", False), ("r3", True)]
    assert after.trials[-1].rate == pytest.approx(3 * found.measured.rate)
    assert after.again == pytest.approx(found.measured.rate)
    assert after.trials[0].same_losses(found.measured.losses) == "same"
    assert after.trials[0].same_losses([1.1 * loss for loss in found.measured.losses]) == "within 0.09"


def test_the_stopwatch_by_a_clock_of_our_own():
    ticks = count()
    watch = Stopwatch(("waiting", "copy", "forward"), torch.device("cpu"), clock=lambda: float(next(ticks)))
    watch.enter("copy", at=0.25)  # the batch was ready a quarter after the begin
    watch.enter("forward")
    watch.step_done()
    np.testing.assert_allclose(watch.rows(), [[0.25, 1.75, 1.0]])
    watch.enter("copy", at=-5.0)  # ready long ago: nothing was waited for
    watch.step_done()
    np.testing.assert_allclose(watch.rows()[1], [0, 2, 0])
    watch.restart()
    assert watch.rows().shape == (0, 3)


def test_stacks_tell_waiting_from_working():
    done = threading.Event()

    def sleeps():
        done.wait()

    def works():
        while not done.is_set():
            sum(range(1000))

    threads = [threading.Thread(target=target) for target in (sleeps, works)]
    sampler = StackSampler(lambda: "here", 0.002)
    for thread in threads:
        thread.start()
    sampler.start()
    time.sleep(SPIN_S)
    stacks = sampler.stop()
    done.set()
    for thread in threads:
        thread.join()
    share = {}
    for name in ("sleeps", "works"):
        own = [stack for stack in stacks if any(name in frame for frame in stack.frames)]
        share[name] = sum(stack.waited for stack in own) / sum(stack.seconds for stack in own)
    assert share["sleeps"] > 0.8
    assert share["sleeps"] > 2 * share["works"]  # the worker waits for the interpreter's lock now and then
    assert {stack.station for stack in stacks} == {"here"}


def test_the_report(calm, tmp_path):
    found, folder = calm
    trace = json.loads((folder / "trace.json").read_text())
    assert {"station: forward", "layer: stem"} <= {event.get("name") for event in trace["traceEvents"]}
    report = write_profile(tmp_path, found, title="A <run>", facts={"of": "squares"})
    values = json.loads((tmp_path / "profile.json").read_text())
    assert values["bound"] == found.verdict.bound == profile_values(found)["bound"]
    assert sum(part["seconds"] for part in values["parts"]) + values["once"] == pytest.approx(found.measured.seconds)
    assert next(iter(values["layers"])) == "stem"
    html = report.read_text()
    assert "A &lt;run&gt;" in html
    assert all(remedy.setting in html for remedy in found.remedies)


def test_a_flame_is_as_wide_as_its_seconds():
    root = Node("all", 4.0, 1)
    root.child("left").seconds, root.child("right").seconds = 1.0, 3.0
    root.child("right").child("below").seconds = 1.5
    root.child("thin").seconds = 1e-6
    svg = flame(root)
    assert svg.count("<rect") == 4  # what is too thin to see is left out
    assert '<rect x="260.0" y="17" width="779.4"' in svg
    assert '<rect x="260.0" y="34" width="389.4"' in svg
    assert "Nothing" in flame(Node("all"))


CONFIG = """
name: squares
data: {{root: {root}}}
input: {{slice_us: 20000}}
training: {{batch_size: 2, steps: 2, epochs: 1}}
evaluation: {{warm_up_steps: 2}}
"""


def test_the_command(run, squares, tmp_path):
    (tmp_path / "squares.yaml").write_text(CONFIG.format(root=squares))
    code, out, err = run("profile", "squares.yaml", "--infer", "--steps", 2, "--warm-up", 1, "--json")
    assert code == 0, err
    values = json.loads(out)
    assert (values["kind"], values["steps"]) == ("infer", 2)
    files = {path.name for path in (tmp_path / "profile_squares").iterdir()}
    assert files == {"profile.html", "profile.json", "trace.json.gz"}
    code, _, err = run("profile", "squares.yaml", "--data", squares / "HDF5/test/test_0_td.h5")
    assert (code, "is for --infer" in err) == (1, True)
    code, _, err = run("profile", "best.pt")
    assert (code, "name one with --data" in err) == (1, True)


def test_a_norm_that_is_folded_into_its_convolution_is_one_layer_with_it():
    model = STVGG("16,16s2,16s2,128s2")  # the last layer has most of the weights and is shown by its parts
    names = [name for name, _ in layers_of(model)]
    assert names == ["stem", "layers.0", "layers.1", "layers.2.norm_conv", "layers.2.neuron", "classifier"]
