"""Fine-tuning: what is taken stays away, a teacher is heard, and a run that was stopped is the whole one."""

from dataclasses import replace

import pytest
import torch
from loud_detector import loud_detector
from moving_squares import CLASS_NAMES

from spiketrack.datasets.augment import AugmentSettings
from spiketrack.datasets.etram import find_sequences
from spiketrack.datasets.sequences import TrainingSamples
from spiketrack.deploy import fuse, unroll
from spiketrack.deploy.distill import DistillationSettings, distillation_loss
from spiketrack.deploy.integers import bits_of
from spiketrack.deploy.masks import prunable, sparsity
from spiketrack.deploy.prune import fused_weights, is_pruned
from spiketrack.detector.checkpoint import load_checkpoint, save_checkpoint
from spiketrack.detector.decode import DecodeSettings
from spiketrack.detector.shipped import write_shipped
from spiketrack.errors import CheckpointError, SettingsError
from spiketrack.evaluation import EvaluationSettings
from spiketrack.fine_tuning import FineTuner, FineTuningSettings, fine_tune, quantized, rounds_like
from spiketrack.pipeline import Detector
from spiketrack.training import Trainer, TrainingSettings


def plain_run(root, run_dir, detector=None, **settings):
    """One epoch of four steps of two samples."""
    detector = detector or loud_detector(decoding=DecodeSettings())
    training = TrainingSettings.model_validate(
        {"epochs": 1, "batch_size": 2, "steps": 2, "checkpoint_every": 1, "learning_rate": 1e-3, **settings}
    )
    samples = TrainingSamples(
        find_sequences(root, "train", CLASS_NAMES)[:2],
        detector.input,
        AugmentSettings(),
        steps=2,
        batch_size=2,
        seed=0,
    )
    validation = find_sequences(root, "val", CLASS_NAMES)[:1]
    return Trainer(detector, samples, validation, training, EvaluationSettings(warm_up_steps=1), run_dir)


CHANNELS = FineTuningSettings(share=0.6, rounds=2, batches=2)


@pytest.fixture(scope="module")
def thinned(squares, tmp_path_factory):
    """The folder of two rounds that took channels."""
    out = tmp_path_factory.mktemp("channels")
    detector = loud_detector(decoding=DecodeSettings())
    assert fine_tune(detector, rounds_like(plain_run(squares, out)), CHANNELS, out)
    assert not is_pruned(detector.model)
    return out


def test_channels_go_in_rounds_and_the_result_is_a_detector(thinned):
    whole = fused_weights(loud_detector().model)
    for number, share in ((1, 0.3), (2, 0.6)):
        for name in ("start.pt", "best.pt"):
            left = fused_weights(Detector.load(thinned / f"round_{number}" / name).model) / whole
            assert left == pytest.approx(1 - share, abs=0.03)
    detector = Detector.load(thinned / "best.pt")
    assert load_checkpoint(thinned / "best.pt")["pruned"] is True
    assert "pruned" not in loud_detector().content()
    x = torch.poisson(torch.full((3, 1, 2, 64, 64), 0.3), torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        network = detector.model.double()
        expected, _ = network(x)
        for form in (fuse(network), unroll(network)):
            torch.testing.assert_close(form(x)[0].features, expected.features, rtol=0, atol=1e-9)


def test_pruned_checkpoints_travel_and_others_are_refused(thinned, tmp_path):
    content = load_checkpoint(thinned / "best.pt")
    write_shipped(thinned / "best.pt", tmp_path / "half.pt", {})
    small = Detector.load(tmp_path / "half.pt").model
    assert fused_weights(small) == fused_weights(Detector.load(thinned / "best.pt").model)
    del content["pruned"]
    save_checkpoint(tmp_path / "unsaid.pt", content)
    with pytest.raises(CheckpointError, match="weights are of another model"):
        Detector.load(tmp_path / "unsaid.pt")


@pytest.mark.slow
def test_rounds_that_were_stopped_are_the_whole_ones(thinned, squares, tmp_path):
    run_of = rounds_like(plain_run(squares, tmp_path))
    steps = 0

    def die(progress):
        nonlocal steps
        steps += 1
        if steps == 6:  # in the second round
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fine_tune(loud_detector(decoding=DecodeSettings()), run_of, CHANNELS, tmp_path, on_step=die)
    assert (tmp_path / "round_2" / "last.pt").exists()
    assert not (tmp_path / "best.pt").exists()
    assert fine_tune(loud_detector(decoding=DecodeSettings()), run_of, CHANNELS, tmp_path)
    ours, theirs = (load_checkpoint(folder / "best.pt")["weights"] for folder in (tmp_path, thinned))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    other = CHANNELS.model_copy(update={"growth": "cubic"})
    with pytest.raises(CheckpointError, match=r"other settings \(fine_tuning.growth\)"):
        fine_tune(loud_detector(decoding=DecodeSettings()), run_of, other, tmp_path)


def test_weights_that_went_stay_zero(squares, tmp_path):
    settings = FineTuningSettings(share=0.4, kind="weights", rounds=2)
    assert fine_tune(
        loud_detector(decoding=DecodeSettings()), rounds_like(plain_run(squares, tmp_path)), settings, tmp_path
    )
    before, first, last = (
        prunable(Detector.load(tmp_path / name).model) for name in ("round_1/start.pt", "round_1/best.pt", "best.pt")
    )
    assert (sparsity(first), sparsity(last)) == pytest.approx((0.2, 0.4), abs=1e-3)
    moved = False
    for name, weight in first.items():
        zeros = before[name] == 0
        assert torch.equal(zeros, weight == 0)
        assert (last[name][zeros] == 0).all()
        moved |= not torch.equal(before[name], weight)
    assert moved
    assert not is_pruned(Detector.load(tmp_path / "best.pt").model)


def test_a_teacher_is_heard_beside_the_labels(squares, tmp_path):
    torch.manual_seed(1)
    learner = Detector.build(
        loud_detector().model.settings, loud_detector().input, DecodeSettings(), CLASS_NAMES
    )  # other weights
    distillation = DistillationSettings(class_gain=2, box_gain=1)
    settings = FineTuningSettings(distillation=distillation)
    teacher = loud_detector()
    plain = plain_run(squares, tmp_path, learner)
    batch = next(plain.samples.epoch(0, 0))
    tuner = FineTuner(plain, settings, teacher)
    with torch.no_grad():
        tuner.model.train()
        predictions, _ = tuner.model(batch.events.float())
        wanted, _ = teacher.fused().model(batch.events.float())
        alone = plain.loss(predictions, batch.labels, batch.labelled)
        both = tuner.loss(predictions, batch.labels, batch.labelled)
        taught = distillation_loss(predictions, wanted, distillation)
    assert float(both.total) == pytest.approx(float(alone.total) + float(taught), rel=1e-5)
    assert float(taught) > 0.1
    assert float(both.box) == float(alone.box)


QUANTISED = FineTuningSettings(share=0.4, batches=2, quantize="int8")


@pytest.fixture(scope="module")
def in_integers(squares, tmp_path_factory):
    """The folder of a round that took channels and trained with whole weights, taught by the whole network."""
    out = tmp_path_factory.mktemp("integers")
    run_of = rounds_like(plain_run(squares, out, precision="bfloat16"))
    assert fine_tune(loud_detector(decoding=DecodeSettings()), run_of, QUANTISED, out, teacher=loud_detector())
    return out


def test_a_pruned_network_learns_in_the_integers_that_will_run(in_integers, run):
    start, best = (Detector.load(in_integers / name) for name in ("round_1/start.pt", "best.pt"))
    assert (bits_of(best.model), load_checkpoint(in_integers / "best.pt")["pruned"]) == (8, True)
    assert fused_weights(best.model) == pytest.approx(0.6 * fused_weights(loud_detector().model), rel=0.03)
    before, after = start.model.state_dict(), best.model.state_dict()
    assert not torch.equal(before["stem.conv.weight"], after["stem.conv.weight"])
    code, *_ = run("export", in_integers / "best.pt", "--out", "network.onnx")
    assert code == 0
    exported = Detector.load("network.onnx").model
    x = torch.poisson(torch.full((3, 1, 2, 64, 64), 0.3), torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(exported(x)[0].features, best.fused().model(x)[0].features)


def test_rounds_in_integers_that_were_stopped_are_the_whole_ones(in_integers, squares, tmp_path):
    run_of = rounds_like(plain_run(squares, tmp_path, precision="bfloat16"))

    def die(progress):
        if progress.step == 2:
            raise KeyboardInterrupt

    def tune(settings, on_step=lambda progress: None):
        detector = loud_detector(decoding=DecodeSettings())
        return fine_tune(detector, run_of, settings, tmp_path, teacher=loud_detector(), on_step=on_step)

    with pytest.raises(KeyboardInterrupt):
        tune(QUANTISED, die)
    assert tune(QUANTISED)
    ours, theirs = (load_checkpoint(folder / "best.pt")["weights"] for folder in (tmp_path, in_integers))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    with pytest.raises(SettingsError, match="quantised to int8 already; begin with it as trained"):
        quantized(Detector.load(tmp_path / "best.pt"), "int4", [])
    with pytest.raises(SettingsError, match=r"zeros of re-parameterised convolutions are lost; take channels"):
        tune(QUANTISED.model_copy(update={"kind": "weights"}))


def test_what_cannot_be_taught_or_taken_is_said(squares, tmp_path):
    plain = plain_run(squares, tmp_path)
    other = replace(loud_detector(), class_names=("a", "b"))
    with pytest.raises(SettingsError, match="knows other classes than SpikeYOLO-p: class_names"):
        FineTuner(plain, FineTuningSettings(), other)
    with pytest.raises(SettingsError, match="of another experiment: other class_names"):
        rounds_like(plain)(other, tmp_path)
    carried = plain_run(squares, tmp_path, state="carried")
    with pytest.raises(SettingsError, match=r"a teacher needs training\.state reset"):
        FineTuner(carried, FineTuningSettings(), loud_detector())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--share", "1.5"), "--share 1.5: Input should be less than 1"),
        (("--temperature", "0"), "--temperature 0.0: Input should be greater than 0"),
        (("--resume",), "o holds no rounds to resume"),
    ],
)
def test_mistakes_are_one_line(run, arguments, said):
    code, out, err = run("fine-tune", "none.yaml", "--out", "o", *arguments)
    assert (code, out) == (1, "")
    assert said in err
