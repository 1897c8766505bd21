import copy

import numpy as np
import pytest
import torch
from torch import nn

from spiketrack.detector.decode import DecodeSettings, decode
from spiketrack.detector.spikeyolo import ModelSettings, Predictions, SpikeYOLO, count_parameters, locations
from spiketrack.detector.spikeyolo_tracker import SpikeYOLOTracker, TrackerModelSettings, decode_with_embeddings, unit
from spiketrack.events import Events, Window
from spiketrack.representations import InputSettings

POINTS, STRIDES = locations([(8, 8), (4, 4), (2, 2)], torch.device("cpu"))


@pytest.fixture(scope="module")
def pico():
    torch.manual_seed(0)
    model = SpikeYOLOTracker(TrackerModelSettings(scale="p", embedding_dim=12), in_channels=2, num_classes=3)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = 1.0  # one pass gives the statistics of its batch, with which neurons fire
    with torch.no_grad():
        model(random_input(3, 4, seed=1))
    return model.eval()


def random_input(steps, batch, seed, height=64, width=96):
    return torch.rand(steps, batch, 2, height, width, generator=torch.Generator().manual_seed(seed)) * 3


@pytest.mark.parametrize(("scale", "channels"), [("p", 32 + 64 + 80), ("s", 128 + 256 + 512)])
@pytest.mark.parametrize("dim", [32, 128])
def test_parameters_of_the_second_head_as_documented(scale, channels, dim):
    with torch.device("meta"):
        tracker = SpikeYOLOTracker(TrackerModelSettings(scale=scale, embedding_dim=dim), 2, 3)
        detector = SpikeYOLO(ModelSettings(scale=scale), 2, 3)
    own = (11 + dim) * channels + 3 * (dim**2 + 3 * dim)
    assert sum(p.numel() for p in tracker.embedding.parameters()) == own
    assert count_parameters(tracker) - count_parameters(detector) == own
    if dim == 128:
        assert own == {"p": 74_768, "s": 174_848}[scale]


def test_detections_are_those_of_the_detector_alone(pico):
    detector = SpikeYOLO(ModelSettings(scale="p"), 2, 3).eval()
    shared = {name: t for name, t in pico.state_dict().items() if not name.startswith("embedding.")}
    detector.load_state_dict(shared)
    x = random_input(2, 2, seed=2)
    with torch.no_grad():
        ours, state = pico(x)
        expected, shorter = detector(x)
        with pytest.raises(ValueError, match="the network has more"):
            pico(x, shorter)
        with pytest.raises(ValueError, match="neuron layers given"):
            detector(x, state)
    assert torch.equal(ours.features, expected.features)
    assert expected.embeddings is None
    assert len(state) - len(shorter) == 9  # three neuron layers on each of three levels


def test_a_sequence_equals_its_pieces(pico):
    x = random_input(5, 2, seed=3)
    with torch.no_grad():
        whole, end = pico(x)
        first, state = pico(x[:1])
        second, state = pico(x[1:3], state)
        third, state = pico(x[3:], state)
    assert whole.embeddings.std(dim=0).amin() > 1e-3  # the steps differ
    assert whole.embeddings.shape == (5, 2, 8 * 12 + 4 * 6 + 2 * 3, 12)
    pieces = torch.cat([piece.embeddings for piece in (first, second, third)])
    torch.testing.assert_close(pieces, whole.embeddings, rtol=1e-4, atol=1e-4)
    for ours, expected in zip(state, end, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_every_step_and_stream_has_embeddings_of_its_own(pico):
    """The published tracker averages over time: a change of one step would show in all."""
    x = random_input(3, 2, seed=4)
    changed = x.clone()
    changed[1, 1] = 0
    with torch.no_grad():
        before, after = pico(x)[0].embeddings, pico(changed)[0].embeddings
    difference = (before - after).abs().amax(dim=(2, 3))
    assert difference[0, 1] == 0
    assert (difference[1:, 1] > 1e-3).all()
    assert (difference[:, 0] < 1e-4).all()


class _Coordinates(nn.Module):
    """Stands in for the last layer of a level: every cell says where it is, and which image it belongs to."""

    def __init__(self, stride):
        super().__init__()
        self.stride = stride

    def forward(self, x, flow):
        n, _, height, width = x.shape
        image = torch.arange(n).view(n, 1, 1).expand(n, height, width)
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        centres = [((c + 0.5) * self.stride).expand(n, height, width) for c in (x, y)]
        return torch.stack([*centres, torch.full((n, height, width), self.stride), image], dim=1)


def test_an_embedding_belongs_to_the_cell_of_its_point(pico, monkeypatch):
    """The published loss takes rows of the map for locations, and guesses grids from their number of cells."""
    for level, stride in zip(pico.embedding.levels, (8.0, 16.0, 32.0), strict=True):
        monkeypatch.setitem(level._modules, "last", _Coordinates(stride))
    with torch.no_grad():
        predictions, _ = pico(random_input(3, 2, seed=5, height=72, width=104))
    a = 9 * 13 + 5 * 7 + 3 * 4
    assert predictions.embeddings.shape == (3, 2, a, 4)
    assert torch.equal(predictions.embeddings[..., :2], predictions.points.expand(3, 2, a, 2))
    assert torch.equal(predictions.embeddings[..., 2], predictions.strides.expand(3, 2, a))
    time_major = torch.arange(6.0).view(3, 2, 1).expand(3, 2, a)
    assert torch.equal(predictions.embeddings[..., 3], time_major)


def test_gradients_reach_every_parameter_of_the_second_head():
    torch.manual_seed(0)
    model = SpikeYOLOTracker(TrackerModelSettings(scale="p", embedding_dim=8), in_channels=2, num_classes=3)
    embeddings = model(random_input(2, 2, seed=6))[0].embeddings
    (unit(embeddings) * torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(7))).sum().backward()
    for name, parameter in model.embedding.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
    assert model.stem.conv.weight.grad.any()  # and the backbone


@pytest.mark.parametrize("slice_us", [100, 100_000])
def test_the_length_of_a_slice_is_a_matter_of_the_input(pico, slice_us):
    rng = np.random.default_rng(8)
    t = np.sort(rng.integers(0, 3 * slice_us, 5000)).astype(np.int64)
    x, y, p = (rng.integers(0, n, 5000) for n in (96, 64, 2))
    events = Events(t, x.astype(np.uint16), y.astype(np.uint16), p.astype(np.uint8), 96, 64)
    window = Window.of(events, 0, 3 * slice_us)
    planes = InputSettings(slice_us=slice_us).encode(window, window.end_us, 3)  # (3, 2, 64, 96)
    assert planes.sum() == 5000
    with torch.no_grad():
        predictions, _ = pico(torch.from_numpy(planes).float()[:, None])
    assert predictions.embeddings.shape[:2] == (3, 1)


def test_unit_length_and_nothing_stays_nothing():
    x = torch.tensor([[3.0, 4.0], [0.03, 0.04], [0.0, 0.0]], requires_grad=True)
    y = unit(x)
    torch.testing.assert_close(y, torch.tensor([[0.6, 0.8], [0.6, 0.8], [0.0, 0.0]]))
    y.sum().backward()
    assert x.grad[2].tolist() == [100, 100]  # bounded: 1 / LEAST_NORM


def random_predictions(seed):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(3, 2, len(POINTS), 64 + 3, generator=generator) * 2
    features[..., :64] -= torch.arange(16.0).repeat(4)  # sides of about a stride
    embeddings = torch.randn(3, 2, len(POINTS), 5, generator=generator)
    return Predictions(features, POINTS, STRIDES, embeddings)


@pytest.mark.parametrize("seed", range(3))
def test_decoding_gives_the_detections_of_decode_and_the_embeddings_of_their_locations(seed):
    predictions = random_predictions(seed)
    times = np.arange(6, dtype=np.int64).reshape(3, 2) * 1000
    settings = DecodeSettings(score=0.3, nms_iou=0.5, max_candidates=60, max_boxes=12)
    where = {"scale": (2.0, 1.5), "sensor": (120, 90)}
    found = decode_with_embeddings(predictions, times, settings, **where)
    expected = decode(predictions, times, settings, **where)
    for t, b in np.ndindex(3, 2):
        boxes, embeddings = found[t][b]
        assert len(boxes) == 12
        for name in ("t", "xyxy", "class_id", "score"):
            np.testing.assert_array_equal(getattr(boxes, name), getattr(expected[t][b], name))
        score = predictions.features[t, b, :, 64:].sigmoid()  # no two are equal: a score tells the location
        for i in range(len(boxes)):
            place, class_id = (score == float(boxes.score[i])).nonzero()[0].tolist()
            assert class_id == boxes.class_id[i]
            z = predictions.embeddings[t, b, place].numpy()
            np.testing.assert_allclose(embeddings[i], z / np.linalg.norm(z), rtol=1e-5)


def test_decoding_without_detections_or_without_embeddings():
    predictions = random_predictions(0)
    nothing = predictions._replace(features=torch.full_like(predictions.features, -20.0))
    times, where = np.zeros((3, 2), np.int64), {"scale": (1.0, 1.0), "sensor": (64, 64)}
    boxes, embeddings = decode_with_embeddings(nothing, times, DecodeSettings(), **where)[2][1]
    assert len(boxes) == 0
    assert embeddings.shape == (0, 5)
    assert embeddings.dtype == np.float32
    with pytest.raises(ValueError, match="carry no embeddings"):
        decode_with_embeddings(predictions._replace(embeddings=None), times, DecodeSettings(), **where)
    predictions.embeddings[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        decode_with_embeddings(predictions, times, DecodeSettings(), **where)


@pytest.mark.parametrize("carried", [False, True])
def test_recomputed_activations_give_the_same_gradients_norms_and_state(carried):
    torch.manual_seed(0)
    plain = SpikeYOLOTracker(TrackerModelSettings(embedding_dim=8), 2, 3).train()
    again = copy.deepcopy(plain)
    again.recompute = True
    x = torch.randint(0, 4, (2, 2, 2, 64, 64)).float()
    results = []
    for model in (plain, again):
        state = model(x)[1] if carried else None
        predictions, after = model(x, None if state is None else tuple(part.detach() for part in state))
        (predictions.features.square().mean() + predictions.embeddings.sum() * 1e-3).backward()
        results.append((after, [p.grad for p in model.parameters()], list(model.buffers())))
    for one, other in zip(*results, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert [norm.momentum for norm in again.modules() if isinstance(norm, torch.nn.BatchNorm2d)].count(0.0) == 0
