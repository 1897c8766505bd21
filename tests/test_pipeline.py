import numpy as np
import pytest
import torch
from loud_detector import DECODING, loud_detector
from moving_squares import CLASS_NAMES, SLICE_US, square_sequence, write_sequence

from spiketrack.boxes import Boxes
from spiketrack.detector.checkpoint import load_checkpoint, save_checkpoint
from spiketrack.detector.ssd import SSDSettings
from spiketrack.detector.ssd_decode import SSDDecodeSettings
from spiketrack.errors import CheckpointError, RecordingError, SettingsError
from spiketrack.events import Events
from spiketrack.pipeline import Detector, track
from spiketrack.recordings import open_recording
from spiketrack.representations import InputSettings
from spiketrack.tracking import ByteTrack


@pytest.fixture(scope="module")
def detector():
    return loud_detector()


@pytest.fixture(scope="module")
def recording(squares):
    """Eight slices, events from 354 us to 159.8 ms."""
    return squares / "HDF5" / "test" / "test_0_td.h5"


def assert_same_steps(one, other):
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        assert (a.window.start_us, a.window.end_us) == (b.window.start_us, b.window.end_us)
        assert_same_boxes(a.detections, b.detections)


def assert_same_boxes(a, b):
    assert len(a) == len(b) > 0
    np.testing.assert_array_equal(a.t, b.t)
    np.testing.assert_array_equal(a.class_id, b.class_id)
    np.testing.assert_allclose(a.score, b.score, atol=1e-5)
    np.testing.assert_allclose(a.xyxy, b.xyxy, atol=1e-3)


@pytest.mark.parametrize("overlap", [1, 3])
def test_the_result_does_not_depend_on_the_chunks(recording, overlap):
    detector = loud_detector(input=InputSettings(slice_us=SLICE_US, window_us=overlap * SLICE_US))
    one_by_one = list(detector.detect(recording, chunk_steps=1))
    for chunk_steps in (3, 8):
        assert_same_steps(one_by_one, list(detector.detect(recording, chunk_steps=chunk_steps)))


def test_the_state_goes_from_step_to_step(detector, recording):
    whole = list(detector.detect(recording))
    late = list(detector.detect(recording, start_us=whole[4].window.start_us))
    assert len(late) == 4
    assert late[0].window.t.tolist() == whole[4].window.t.tolist()
    # a fresh start sees other scores than a network that remembers four steps
    assert not np.allclose(late[0].detections.score, whole[4].detections.score, atol=1e-4)


def test_steps_are_slices_and_boxes_stand_at_their_ends(detector, recording):
    steps = list(detector.detect(recording))
    first = int(open_recording(recording).read(0, 10**9).t[0])
    assert [step.window.start_us for step in steps] == [first + k * SLICE_US for k in range(8)]
    for step in steps:
        assert step.window.end_us == step.window.start_us + SLICE_US
        assert set(step.detections.t.tolist()) == {step.window.end_us}
        assert (step.detections.track_id == -1).all()
    events, _ = square_sequence(200, 0, 8)
    seen = np.concatenate([step.window.t for step in steps])
    assert seen.tolist() == events.t.tolist()


def test_start_and_end(detector, recording):
    steps = list(detector.detect(recording, start_us=40_000, end_us=119_999))
    assert [(s.window.start_us, s.window.end_us) for s in steps] == [
        (40_000, 60_000),
        (60_000, 80_000),
        (80_000, 100_000),
    ]
    # steps are there where the recording has no events, before it and after it
    steps = list(detector.detect(recording, start_us=-20_000, end_us=240_000))
    assert [len(step.window) > 0 for step in steps] == [False] + 8 * [True] + 4 * [False]


def test_a_step_reports_its_slice_also_where_it_sees_more(recording):
    detector = loud_detector(input=InputSettings(slice_us=SLICE_US, window_us=4 * SLICE_US))
    short = loud_detector()
    for long_step, step in zip(detector.detect(recording), short.detect(recording), strict=True):
        assert long_step.window.t.tolist() == step.window.t.tolist()
        assert (long_step.window.start_us, long_step.window.end_us) == (step.window.start_us, step.window.end_us)


def test_a_quiet_network_finds_nothing_in_an_empty_window(recording):
    quiet = loud_detector(bias=-9.0)  # a score of sigmoid(-9) = 1e-4
    steps = list(quiet.detect(recording, start_us=1_000_000, end_us=1_060_000))
    assert [len(step.window) for step in steps] == [0, 0, 0]
    for step in steps:
        assert (len(step.detections), step.detections.xyxy.shape) == (0, (0, 4))
    (tracked, *_) = track(iter(steps), ByteTrack())
    assert len(tracked.tracks) == 0


def test_an_empty_recording_has_no_steps(detector, tmp_path):
    path = write_sequence(tmp_path, "empty", Events.empty(64, 64), None)
    assert list(detector.detect(path)) == []
    assert len(list(detector.detect(path, start_us=0, end_us=2 * SLICE_US))) == 2


def test_an_input_that_does_not_fit_is_refused(detector, recording, tmp_path):
    path = write_sequence(tmp_path, "strip", Events.empty(64, 31), None)
    with pytest.raises(SettingsError, match=r"strip_td.h5: an input of 64 x 31 pixels is smaller than a cell"):
        next(detector.detect(path))
    with pytest.raises(SettingsError, match=r"an input of 80 x 64 pixels is larger than the sensor, which has 64 x 64"):
        next(detector.resized(80, 64).detect(recording))
    with pytest.raises(RecordingError, match=r"absent\.raw: cannot be opened"):
        next(detector.detect(tmp_path / "absent.raw"))


def test_resized(detector, recording):
    small = detector.resized(32, 48)
    assert small.model is detector.model
    assert (small.input.width, small.input.height, small.input.slice_us) == (32, 48, SLICE_US)
    assert detector.input.width is None
    found = Boxes.concatenate([step.detections for step in small.detect(recording)])
    # boxes are in sensor pixels again; 32 columns of the input are 64 of the sensor
    assert found.xyxy[:, 2].max() > 48
    assert found.xyxy.min() >= 0
    assert found.xyxy.max() <= 64
    with pytest.raises(SettingsError, match="0 x 48"):
        detector.resized(0, 48)


def test_a_crop_is_detected_as_a_smaller_sensor_and_its_boxes_stand_on_the_whole_one(recording, tmp_path):
    cropped = loud_detector(input=InputSettings(slice_us=SLICE_US, crop=(24, 16, 40, 48), width=32))
    whole = open_recording(recording).read(0, 10**9)
    inside = (whole.x >= 24) & (whole.y >= 16)
    columns = (whole.t[inside], whole.x[inside] - 24, whole.y[inside] - 16, whole.p[inside])
    part = write_sequence(tmp_path, "part", Events.repaired(*columns, 40, 48)[0], None)
    smaller = loud_detector(input=InputSettings(slice_us=SLICE_US, width=32))
    start = int(whole.t[0])
    end = start + 8 * SLICE_US
    steps = cropped.detect(recording, start_us=start, end_us=end)
    for one, other in zip(steps, smaller.detect(part, start_us=start, end_us=end), strict=True):
        assert len(other.detections) > 0
        np.testing.assert_allclose(one.detections.xyxy, other.detections.xyxy + np.array([24, 16] * 2), atol=1e-5)
        np.testing.assert_array_equal(one.detections.score, other.detections.score)
    with pytest.raises(SettingsError, match="leaves the sensor"):
        next(cropped.detect(part))


def test_a_large_sensor_is_detected_as_its_binned_picture_and_its_boxes_stand_on_the_large_one(tmp_path):
    rng, n = np.random.default_rng(4), 6_000
    t, x, y = np.sort(rng.integers(0, 4 * SLICE_US, n)), rng.integers(0, 131, n), rng.integers(0, 129, n)
    large = write_sequence(tmp_path, "large", Events(t, *np.uint16([x, y]), np.uint8(x % 2), 131, 129), None)
    kept = (x < 129) & (y < 129)  # f = 3: columns 129 and 130 are left over
    columns = (t[kept], *np.uint16([x[kept] // 3, y[kept] // 3]), np.uint8(x[kept] % 2))
    small = write_sequence(tmp_path, "small", Events(*columns, 43, 43), None)
    scaled = loud_detector(input=InputSettings(slice_us=SLICE_US, shortest_side=60))
    plain = loud_detector(input=InputSettings(slice_us=SLICE_US))
    span = {"start_us": 0, "end_us": 4 * SLICE_US}
    for one, other in zip(scaled.detect(large, **span), plain.detect(small, **span), strict=True):
        assert len(other.detections) > 0
        np.testing.assert_allclose(one.detections.xyxy, 3 * other.detections.xyxy, atol=1e-3)
        np.testing.assert_array_equal(one.detections.score, other.detections.score)
    # the same network sees the small sensor pixel by pixel
    for one, other in zip(scaled.detect(small, **span), plain.detect(small, **span), strict=True):
        np.testing.assert_array_equal(one.detections.xyxy, other.detections.xyxy)
    resized = scaled.resized(48, 40)
    assert (resized.input.size(129, 131), resized.input.shortest_side) == ((40, 48), None)
    with pytest.raises(SettingsError, match=r"an input of 26 x 25 pixels is smaller than a cell"):
        next(loud_detector(input=InputSettings(slice_us=SLICE_US, shortest_side=26)).detect(large))


def test_a_checkpoint_gives_the_same_detector_back(detector, recording, tmp_path):
    path = tmp_path / "detector.pt"
    settings = InputSettings(slice_us=SLICE_US, limit=3, bins=2)
    original = loud_detector(("cat", "dog", "eel"), settings)
    save_checkpoint(path, original.content())
    loaded = Detector.load(path)
    assert loaded.class_names == ("cat", "dog", "eel")
    assert (loaded.input, loaded.decoding, loaded.model.settings) == (settings, DECODING, original.model.settings)
    assert not loaded.model.training
    for a, b in zip(original.detect(recording), loaded.detect(recording), strict=True):
        for name in ("t", "xyxy", "class_id", "score"):
            np.testing.assert_array_equal(getattr(a.detections, name), getattr(b.detections, name))


def test_a_checkpoint_of_before_there_were_families_is_of_spikeyolo(detector, tmp_path):
    content = detector.content()
    del content["model"]["family"]
    save_checkpoint(tmp_path / "old.pt", content)
    old = Detector.load(tmp_path / "old.pt")
    assert (old.name, old.model.settings) == ("SpikeYOLO-p", detector.model.settings)


def loud_ssd():
    """A small SSD whose neurons fire and that finds something in every step."""
    torch.manual_seed(0)
    model = SSDSettings(backbone="4,8,8s2,8s2,8s2", extras=(8, 8, 8))
    decoding = SSDDecodeSettings(score=0.05, max_boxes=10)
    detector = Detector.build(model, InputSettings(slice_us=SLICE_US), decoding, CLASS_NAMES)
    norms = [module for module in detector.model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0  # one pass gives the statistics of its batch
    with torch.no_grad():
        detector.model(torch.poisson(torch.full((4, 2, 2, 64, 64), 0.2)))
    detector.model.eval()
    return detector


def test_an_ssd_goes_through_the_same_pipeline(recording, tmp_path):
    detector = loud_ssd()
    save_checkpoint(tmp_path / "ssd.pt", detector.content())
    loaded = Detector.load(tmp_path / "ssd.pt")
    assert loaded.name == "4,8,8s2,8s2,8s2+SSD"
    whole = list(loaded.detect(recording))
    assert_same_steps(list(detector.detect(recording, chunk_steps=3)), whole)
    late = next(detector.detect(recording, start_us=whole[4].window.start_us))
    assert not np.allclose(late.detections.score, whole[4].detections.score, atol=1e-4)
    small = write_sequence(tmp_path, "strip", Events.empty(64, 31), None)
    with pytest.raises(SettingsError, match=r"an input of 64 x 31 pixels is smaller than a cell"):
        next(detector.detect(small))


@pytest.mark.parametrize("build", [loud_detector, loud_ssd])
def test_a_state_that_is_forgotten_every_three_steps(recording, build):
    """The same as single windows of three steps, each from a fresh state; the last one is shorter."""
    detector = build()
    steps = list(detector.detect(recording, reset_every=3, chunk_steps=2))
    start = steps[0].window.start_us
    pieces = [
        step
        for first in (0, 3, 6)
        for step in detector.detect(
            recording, start_us=start + first * SLICE_US, end_us=start + min(first + 3, 8) * SLICE_US
        )
    ]
    assert_same_steps(steps, pieces)
    carried = list(detector.detect(recording))
    assert_same_steps(steps[:3], carried[:3])
    assert not np.allclose(steps[3].detections.score, carried[3].detections.score, atol=1e-4)


def test_detecting_changes_no_weight(detector, recording):
    before = {name: tensor.clone() for name, tensor in detector.model.state_dict().items()}
    list(detector.detect(recording))
    assert all(torch.equal(tensor, before[name]) for name, tensor in detector.model.state_dict().items())


def test_a_checkpoint_of_something_else_is_refused(detector, tmp_path):
    path = tmp_path / "other.pt"
    save_checkpoint(path, {"weights": {"w": torch.zeros(1)}})
    with pytest.raises(CheckpointError, match=r"other.pt: the checkpoint does not describe a detector \(no 'model'\)"):
        Detector.load(path)
    content = detector.content()
    save_checkpoint(path, {**content, "model": {"scale": "xxl"}})
    with pytest.raises(CheckpointError, match=r"does not describe a detector .*xxl"):
        Detector.load(path)
    save_checkpoint(path, {**content, "model": {"family": "YOLO"}})
    with pytest.raises(CheckpointError, match=r"does not describe a detector .*'YOLO' is not known"):
        Detector.load(path)
    save_checkpoint(path, {**content, "class_names": ["one", "two", "three"]})
    with pytest.raises(CheckpointError, match=r"other.pt: the weights are of another model: head.classes"):
        Detector.load(path)
    save_checkpoint(path, {**content, "model": {"scale": "n"}})
    with pytest.raises(CheckpointError, match=r"is missing; .* and \d+ more; build the model with"):
        Detector.load(path)


def test_weights_that_are_not_finite_are_refused(detector, tmp_path):
    weights = {name: tensor.clone() for name, tensor in detector.model.state_dict().items()}
    weights["stem.conv.weight"][0, 0, 0, 0] = torch.nan
    save_checkpoint(tmp_path / "nan.pt", {**detector.content(), "weights": weights})
    with pytest.raises(CheckpointError, match=r"nan.pt: 1 of \d+ tensors are not finite, first stem.conv.weight"):
        Detector.load(tmp_path / "nan.pt")


def test_predictions_that_are_not_finite_give_an_error_and_no_boxes(recording):
    broken = loud_detector()
    with torch.no_grad():
        broken.model.head.box[0].last.conv.bias[3] = torch.nan
    with pytest.raises(ValueError, match="predictions are not finite"):
        next(broken.detect(recording))


def test_tracks_follow_the_steps(detector, recording):
    steps = list(detector.detect(recording))
    tracked = list(track(iter(steps), ByteTrack()))
    assert [t.window.end_us for t in tracked] == [s.window.end_us for s in steps]
    for step, result in zip(steps, tracked, strict=True):
        assert result.detections is step.detections
        assert set(result.tracks.t.tolist()) == {step.window.end_us}
        assert (result.tracks.track_id >= 1).all()
    # the network sees the same square in every step, so identities go on
    assert len(set(tracked[0].tracks.track_id.tolist()) & set(tracked[-1].tracks.track_id.tolist())) >= 3


def test_the_checkpoint_holds_what_rebuilding_needs(detector, tmp_path):
    save_checkpoint(tmp_path / "d.pt", detector.content())
    content = load_checkpoint(tmp_path / "d.pt")
    assert content["class_names"] == list(CLASS_NAMES)
    assert content["input"]["slice_us"] == SLICE_US
