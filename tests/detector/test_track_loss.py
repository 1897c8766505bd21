import math

import pytest
import torch

from spiketrack.detector.decode import DecodeSettings
from spiketrack.detector.loss import DetectionLoss
from spiketrack.detector.spikeyolo import Predictions, locations
from spiketrack.detector.spikeyolo_tracker import SpikeYOLOTracker, TrackerModelSettings, decode_with_embeddings, unit
from spiketrack.detector.targets import Assignment, LabelBatch
from spiketrack.detector.track_loss import (
    TrackLabels,
    TrackLoss,
    TrackLossSettings,
    contrastive_loss,
    identified_samples,
)

POINTS, STRIDES = locations([(8, 8), (4, 4), (2, 2)], torch.device("cpu"))
A = len(POINTS)
STEPS, BATCH = 3, 2


def cost_in_loops(embeddings, objects, temperature):
    """The definition, one sample after the other."""
    costs = []
    for i in range(len(objects)):
        partners = [p for p in range(len(objects)) if p != i and objects[p] == objects[i]]
        if partners:
            cosines = {a: float(embeddings[i] @ embeddings[a]) / temperature for a in range(len(objects)) if a != i}
            total = math.log(sum(math.exp(c) for c in cosines.values()))
            costs.append(total - sum(cosines[p] for p in partners) / len(partners))
    return (sum(costs) / len(costs) if costs else 0.0), len(costs)


def test_contrastive_loss_by_hand():
    z = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    cost, partnered = contrastive_loss(z, torch.tensor([4, 4, 2]), 0.5)
    # the pair's cosine is 0.6, those with the third 0 and 0.8; the third has no partner
    first = math.log(math.exp(1.2) + math.exp(0.0)) - 1.2
    second = math.log(math.exp(1.2) + math.exp(1.6)) - 1.2
    assert cost.item() == pytest.approx((first + second) / 2, rel=1e-6)
    assert int(partnered) == 2


def test_a_sample_is_not_compared_with_itself():
    """With its own cosine of 1 in the sum, as published, two perfect pairs would cost log 2."""
    z = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
    cost, _ = contrastive_loss(z, torch.tensor([0, 0, 1, 1]), 0.07)
    assert 0 <= cost.item() < 1e-6


@pytest.mark.parametrize("seed", range(4))
def test_contrastive_loss_equals_the_definition_and_its_gradient(seed):
    generator = torch.Generator().manual_seed(seed)
    z = torch.nn.functional.normalize(torch.randn(9, 4, generator=generator, dtype=torch.float64), dim=1)
    objects = torch.randint(0, 4, (9,), generator=generator)
    cost, partnered = contrastive_loss(z, objects, 0.2)
    assert (cost.item(), int(partnered)) == pytest.approx(cost_in_loops(z, objects, 0.2), rel=1e-9)
    z.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: contrastive_loss(z, objects, 0.2)[0], z)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_without_partners_the_loss_is_zero_and_has_a_gradient_of_zero(count):
    """The published loss falls back to the norm of the features, and so pulls every embedding to nothing."""
    z = torch.randn(count, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    cost, partnered = contrastive_loss(unit(z), torch.arange(count), 0.07)
    assert cost.item() == 0
    assert int(partnered) == 0
    cost.backward()
    assert torch.equal(z.grad, torch.zeros(count, 4))


@pytest.mark.parametrize("z", [torch.zeros(4, 3), torch.ones(4, 3), torch.full((4, 3), 1e18), torch.eye(4, 3) * 1e-20])
def test_extreme_embeddings_have_a_finite_cost_and_gradient(z):
    z = z.clone().requires_grad_()
    cost, _ = contrastive_loss(unit(z), torch.tensor([0, 0, 1, 1]), 0.01)
    cost.backward()
    assert cost.isfinite()
    assert z.grad.isfinite().all()


def random_case(seed):
    """T = 3, B = 2, step 1 of stream 1 unlabelled; in every image three boxes apart from each other, one padding."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(STEPS, BATCH, A, 64 + 3, generator=generator)
    features[..., 64:] -= 3  # logits below 0, as those of a fresh network: they are not scores
    features.requires_grad_()
    embeddings = torch.randn(STEPS, BATCH, A, 6, generator=generator).requires_grad_()
    labelled = torch.tensor([[True, True], [True, False], [True, True]])
    n = 5
    corner = torch.tensor([[0.0, 0.0], [34.0, 0.0], [0.0, 34.0], [34.0, 34.0]]) + 4 * torch.rand(
        n, 4, 2, generator=generator
    )
    boxes = torch.cat([corner, corner + 20 + 5 * torch.rand(n, 4, 2, generator=generator)], dim=2)
    valid = torch.tensor([True, True, True, False]).expand(n, 4)
    classes = torch.randint(0, 3, (n, 4), generator=generator)
    track_ids = torch.tensor([[5, 7, 9, -1], [5, 7, 9, -1], [9, 5, 7, -1], [7, -1, 5, -1], [9, 7, 5, -1]])
    labels = TrackLabels.of_streams(LabelBatch(boxes, classes, valid), track_ids, labelled)
    return Predictions(features, POINTS, STRIDES, embeddings), labels, labelled


def samples_in_loops(predictions, labels, labelled, object_of):
    """Embedding and object of every positive location: that of the box which it lies in, as boxes are apart."""
    _, assigned = DetectionLoss(TrackLossSettings()).with_assignment(predictions, labels.detection, labelled)
    n, z, objects = 0, [], []
    for t in range(STEPS):
        for b in range(BATCH):
            if labelled[t, b]:
                for a in assigned.location[assigned.image == n].tolist():
                    inside = (POINTS[a] > labels.boxes[n, :, :2]).all(1) & (POINTS[a] < labels.boxes[n, :, 2:]).all(1)
                    (m,) = (inside & labels.valid[n]).nonzero().flatten().tolist()
                    if labels.track_ids[n, m] >= 0:
                        z.append(torch.nn.functional.normalize(predictions.embeddings[t, b, a].detach(), dim=0))
                        objects.append(object_of(b, int(labels.track_ids[n, m])))
                n += 1
    return z, objects


@pytest.mark.parametrize("seed", range(4))
def test_embeddings_are_grouped_by_stream_and_track_over_all_steps(seed):
    predictions, labels, labelled = random_case(seed)
    terms = TrackLoss(TrackLossSettings(track_gain=2.0))(predictions, labels, labelled)
    z, objects = samples_in_loops(predictions, labels, labelled, lambda b, track_id: (b, track_id))
    assert len(set(objects)) == 6
    cost, partnered = cost_in_loops(z, objects, 0.07)
    assert terms.track.item() == pytest.approx(2 * cost, rel=1e-4)
    assert int(terms.partnered) == partnered
    assert len(z) < int(terms.positives)  # one label has no track id
    alone = DetectionLoss(TrackLossSettings())(predictions, labels.detection, labelled)
    assert (terms.box, terms.classes, terms.dfl, terms.positives, terms.background) == alone[1:]
    torch.testing.assert_close(terms.total, alone.total + terms.track)
    terms.total.backward()
    grad = predictions.embeddings.grad
    assert grad.isfinite().all()
    assert int(grad.any(-1).sum()) == len(z)  # of these locations and no other
    assert not grad[1, 1].any()


def test_streams_of_one_recording_share_their_objects():
    predictions, labels, labelled = random_case(0)
    labels = labels._replace(recordings=torch.full((5,), 3))
    terms = TrackLoss(TrackLossSettings())(predictions, labels, labelled)
    z, objects = samples_in_loops(predictions, labels, labelled, lambda b, track_id: track_id)
    assert len(set(objects)) == 3
    assert terms.track.item() == pytest.approx(cost_in_loops(z, objects, 0.07)[0], rel=1e-4)


def test_images_without_labels_or_without_any_track_id_cost_nothing():
    predictions, labels, labelled = random_case(0)
    unknown = labels._replace(track_ids=torch.full_like(labels.track_ids, -1))
    empty = TrackLabels(*(tensor[:, :0] for tensor in labels[:4]), labels.recordings)
    for none in (unknown, empty):
        terms = TrackLoss(TrackLossSettings())(predictions, none, labelled)
        assert terms.track.item() == 0
        (grad,) = torch.autograd.grad(terms.total, predictions.embeddings)
        assert not grad.any()


def test_of_too_many_locations_the_best_of_every_label_are_compared():
    # image 0: label 0 has the locations 0 .. 3, label 1 the location 4; image 1: label 0 has 1 and 2
    assignment = Assignment(
        torch.tensor([0, 0, 0, 0, 0, 1, 1]),
        torch.tensor([0, 1, 2, 3, 4, 1, 2]),
        torch.tensor([0, 0, 0, 0, 1, 0, 0]),
        torch.tensor([0.2, 0.9, 0.4, 0.4, 0.1, 0.3, 0.8]),
    )
    labels = TrackLabels(
        torch.zeros(2, 2, 4),
        torch.zeros(2, 2, dtype=torch.int64),
        torch.tensor([[True, True], [True, False]]),
        torch.tensor([[11, 12], [11, -1]]),
        torch.tensor([0, 0]),
    )

    def chosen(most):
        samples = identified_samples(assignment, labels, most)
        return list(zip(samples.image.tolist(), samples.location.tolist(), strict=True)), samples.objects.tolist()

    everything = [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (1, 1), (1, 2)]
    assert chosen(7) == (everything, [0, 0, 0, 0, 1, 0, 0])
    assert chosen(3) == ([(0, 1), (0, 4), (1, 2)], [0, 1, 0])  # the best of each
    assert chosen(4) == ([(0, 1), (0, 2), (0, 4), (1, 2)], [0, 0, 1, 0])  # and a second one, the first of equals
    assert chosen(5)[0] == [(0, 1), (0, 2), (0, 4), (1, 1), (1, 2)]


def test_what_the_loss_asks_for_is_what_decoding_gives():
    """The published loss reads boxes as shares of the image, its decoding in strides."""
    features = torch.full((1, 1, A, 64 + 3), -20.0)
    place = 64 + 5  # row 1, column 1 of stride 16: centre (24, 24)
    for side in range(4):
        features[0, 0, place, side * 16 + 1] = 20.0  # one stride: 8, 8, 40, 40
    features[0, 0, place, 64 + 1] = 20.0
    embeddings = torch.zeros(1, 1, A, 2)
    embeddings[0, 0, place] = torch.tensor([3.0, -4.0])
    predictions = Predictions(features, POINTS, STRIDES, embeddings)
    times, settings = torch.zeros(1, 1).long().numpy(), DecodeSettings(score=0.5)
    ((found,),) = decode_with_embeddings(predictions, times, settings, scale=(1.0, 1.0), sensor=(64, 64))
    assert found.boxes.class_id.tolist() == [1]
    assert found.embeddings.tolist() == [pytest.approx([0.6, -0.8])]

    label = torch.tensor(found.boxes.xyxy)[None]
    ids, labelled = torch.tensor([[5]]), torch.ones(1, 1, dtype=torch.bool)
    labels = TrackLabels.of_streams(LabelBatch(label, ids * 0 + 1, ids > 0), ids, labelled)
    loss = TrackLoss(TrackLossSettings(topk=1))
    terms = loss(predictions, labels, labelled)
    assert [float(term) for term in terms[:5]] == pytest.approx([0.0] * 5, abs=1e-4)
    _, assignment = loss.detection.with_assignment(predictions, labels.detection, labelled)
    samples = identified_samples(assignment, labels, 10)
    assert (samples.image.tolist(), samples.location.tolist()) == ([0], [place])


def crossing(steps):
    """Two blobs of 16 x 16 pixels, one of ON and one of OFF events, that change sides: events (T, 1, 2, 64, 64), and
    boxes (T, 2, 4)."""
    generator = torch.Generator().manual_seed(0)
    events, boxes = torch.zeros(steps, 1, 2, 64, 64), torch.zeros(steps, 2, 4)
    for t in range(steps):
        way = 44 * t // (steps - 1)
        for k, (left, top) in enumerate([(2 + way, 24), (46 - way, 28)]):
            events[t, 0, k, top : top + 16, left : left + 16] = 2.0 * (torch.rand(16, 16, generator=generator) < 0.6)
            boxes[t, k] = torch.tensor([left, top, left + 16, top + 16])
    return events, boxes


def embeddings_at(model, events, boxes):
    """Those of the cell of stride 8 next to each box's centre: (T, 2, D)."""
    with torch.no_grad():
        predictions, _ = model.eval()(events)
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2  # (T, 2, 2)
    place = (predictions.points[:64] - centres[..., None, :]).square().sum(-1).argmin(-1)  # (T, 2)
    return unit(predictions.embeddings[:, 0].gather(1, place[..., None].expand(-1, -1, 16)))


def margin(embeddings):
    """How much more alike one object is at two times than two objects are, in means of cosines."""
    z, objects = embeddings.flatten(0, 1), torch.arange(2).repeat(len(embeddings))
    same = objects[:, None] == objects
    cosines = z @ z.T
    return float(cosines[same & ~torch.eye(len(z), dtype=torch.bool)].mean() - cosines[~same].mean())


def test_two_objects_whose_paths_cross_keep_their_looks():
    steps = 4
    events, boxes = crossing(steps)
    torch.manual_seed(0)
    model = SpikeYOLOTracker(TrackerModelSettings(scale="p", embedding_dim=16), in_channels=2, num_classes=1)
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.momentum = 0.5  # the statistics keep up with so few steps
    labelled = torch.ones(steps, 1, dtype=torch.bool)
    ids = torch.tensor([[7, 9]]).expand(steps, 2)
    labels = TrackLabels.of_streams(LabelBatch(boxes, ids * 0, ids > 0), ids, labelled)
    loss = TrackLoss(TrackLossSettings())
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3)
    model(events)
    assert margin(embeddings_at(model, events, boxes)) < 0.1
    for _ in range(40):
        terms = loss(model.train()(events)[0], labels, labelled)
        optimizer.zero_grad()
        terms.total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
    z = embeddings_at(model, events, boxes)
    assert margin(z) > 0.2
    cosines = z[0] @ z[-1].T  # the first step with the last, where they have changed places
    assert (cosines.diag() > cosines.fliplr().diag()).all()


def test_labels_that_do_not_fit_are_refused():
    predictions, labels, labelled = random_case(0)
    loss = TrackLoss(TrackLossSettings())
    with pytest.raises(ValueError, match="carry no embeddings"):
        loss(predictions._replace(embeddings=None), labels, labelled)
    with pytest.raises(ValueError, match="need track ids of that shape"):
        loss(predictions, labels._replace(track_ids=labels.track_ids[:, :2]), labelled)
    with pytest.raises(ValueError, match="need track ids of that shape"):
        loss(predictions, labels._replace(recordings=labels.recordings[:2]), labelled)
    with pytest.raises(ValueError, match="6 labelled steps, labels of 5"):
        loss(predictions, labels, torch.ones(STEPS, BATCH, dtype=torch.bool))
