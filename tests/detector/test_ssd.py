import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from spiketrack.detector.ssd import SSD, SSDPredictions, SSDSettings
from spiketrack.detector.ssd_decode import SSDDecodeSettings, decode_ssd
from spiketrack.detector.ssd_loss import SSDLoss, SSDLossSettings, hardest
from spiketrack.detector.ssd_match import decode_boxes, encode_boxes, match_priors, prior_boxes
from spiketrack.detector.targets import LabelBatch
from spiketrack.spiking.lif import PLIF_NEURON, LIFSettings

GEN1_SHAPES = [(30, 38), (15, 19), (8, 10), (4, 5), (2, 3), (1, 2)]
GEN1_PRIORS = prior_boxes(GEN1_SHAPES, (240, 304), SSDSettings().aspect_ratios, (0.05, 0.8))
# four priors: two squares of 10 beside each other, a wide one over both, one far away
PRIORS = torch.tensor([[0.0, 0, 10, 10], [10, 0, 20, 10], [0, 0, 20, 10], [50, 50, 70, 70]])


def labels_of(*images):
    """Labels (boxes, classes) of every image, padded with a box that is none."""
    most = max(len(boxes) for boxes, _ in images)
    batch = LabelBatch(
        torch.full((len(images), most, 4), 7.0),
        torch.zeros(len(images), most, dtype=torch.int64),
        torch.zeros(len(images), most, dtype=torch.bool),
    )
    for n, (boxes, classes) in enumerate(images):
        if boxes:
            batch.boxes[n, : len(boxes)] = torch.tensor(boxes)
            batch.classes[n, : len(boxes)] = torch.tensor(classes)
            batch.valid[n, : len(boxes)] = True
    return batch


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = SSD(SSDSettings(backbone="16-ST-VGG", extras=(32, 16, 16)), 2, 2).double()
    x = (torch.rand(2, 2, 2, 64, 96, generator=torch.Generator().manual_seed(1)) < 0.3).double()
    for norm in (module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        norm.momentum = 0.5  # running statistics with which the neurons fire
    for _ in range(12):
        model(x)
    return model.eval()


def test_gen1_priors_by_hand():
    assert GEN1_PRIORS.shape == (6902, 4)
    # the first cell's centre is (4, 4): squares of .05 and of sqrt(.05 .2) = .1, then ratio 2 and its transpose
    sizes = GEN1_PRIORS[:4, 2:] - GEN1_PRIORS[:4, :2]
    long, short = 0.05 * math.sqrt(2), 0.05 / math.sqrt(2)
    wanted = [[15.2, 12], [30.4, 24], [long * 304, short * 240], [short * 304, long * 240]]
    torch.testing.assert_close(sizes, torch.tensor(wanted))
    torch.testing.assert_close(GEN1_PRIORS[0], torch.tensor([-3.6, -2, 11.6, 10]))
    # four priors on, the next cell of the row; 38 cells on, the next row
    torch.testing.assert_close(GEN1_PRIORS[4] - GEN1_PRIORS[0], torch.tensor([8.0, 0, 8, 0]))
    torch.testing.assert_close(GEN1_PRIORS[38 * 4] - GEN1_PRIORS[0], torch.tensor([0.0, 8, 0, 8]))
    # last level: 1 x 2 cells, square of .8 at (.75, .5), then of sqrt(.8), then .8 sqrt 2 clamped to the image's width
    last = GEN1_PRIORS[-4:]
    torch.testing.assert_close(last[0], torch.tensor([0.35 * 304, 0.1 * 240, 1.15 * 304, 0.9 * 240]))
    side = math.sqrt(0.8)
    torch.testing.assert_close(last[1, 2:] - last[1, :2], torch.tensor([side * 304, side * 240]))
    torch.testing.assert_close(last[2, 2:] - last[2, :2], torch.tensor([304, 0.8 / math.sqrt(2) * 240]))


def test_second_level_has_six_priors_of_each_cell():
    cell = GEN1_PRIORS[30 * 38 * 4 :][:6]
    size = (cell[:, 2:] - cell[:, :2]) / torch.tensor([304.0, 240])
    between = math.sqrt(0.2 * 0.35)
    by_ratio = [(0.2 * math.sqrt(r), 0.2 / math.sqrt(r)) for r in (2, 3)]
    wanted = [(0.2, 0.2), (between, between), *(pair for a, b in by_ratio for pair in ((a, b), (b, a)))]
    torch.testing.assert_close(size, torch.tensor(wanted))


def test_coder_by_hand():
    prior, box = torch.tensor([10.0, 20, 30, 60]), torch.tensor([15.0, 20, 55, 40])
    # prior: centre (20, 40), 20 x 40; box: centre (35, 30), 40 x 20
    offsets = encode_boxes(box, prior)
    wanted = [10 * 15 / 20, 10 * -10 / 40, 5 * math.log(2), -5 * math.log(2)]
    torch.testing.assert_close(offsets, torch.tensor(wanted))
    torch.testing.assert_close(decode_boxes(offsets, prior), box)
    huge = decode_boxes(torch.tensor([0.0, 0, 100, 0]), prior)
    torch.testing.assert_close(huge[2] - huge[0], torch.tensor(20 * 62.5))


def test_coding_and_decoding_cancel():
    corner = torch.rand(50, 2, generator=torch.Generator().manual_seed(0)) * 100
    boxes = torch.cat([corner, corner + 1 + torch.rand(50, 2, generator=torch.Generator().manual_seed(1)) * 50], dim=1)
    priors = GEN1_PRIORS[::139][:50]
    torch.testing.assert_close(decode_boxes(encode_boxes(boxes, priors), priors), boxes, rtol=1e-5, atol=1e-3)


def test_matching_by_hand():
    # prior 0 itself (IoU 1) and half of prior 2 (.5, which is enough)
    exact = ([[0.0, 0, 10, 10]], [1])
    # the first overlaps prior 3 by 4 / 400 only and is forced; the second prior 1 by .8, prior 2 by .4
    faint = ([[50.0, 50, 52, 52], [12.0, 0, 20, 10]], [0, 1])
    nothing = ([], [])
    targets = match_priors(PRIORS, labels_of(exact, faint, nothing), 0.5)
    assert targets.positive.tolist() == [[True, False, True, False], [False, True, False, True], [False] * 4]
    assert targets.classes[targets.positive].tolist() == [1, 1, 1, 0]
    assert targets.boxes[1, 3].tolist() == [50, 50, 52, 52]
    assert targets.boxes[1, 1].tolist() == [12, 0, 20, 10]


def test_a_label_takes_its_best_prior_from_another_label():
    # prior 3 overlaps label 0 by .81, but it is the best (and only) prior of label 1
    both = ([[50.0, 50, 68, 68], [66.0, 66, 80, 80]], [0, 1])
    targets = match_priors(PRIORS, labels_of(both), 0.5)
    assert targets.positive.tolist() == [[False, False, False, True]]
    assert targets.classes[0, 3] == 1  # the later one of two that force the same prior
    assert match_priors(PRIORS, labels_of((both[0][::-1], [1, 0])), 0.5).classes[0, 3] == 0
    # without any overlap a label is lost, and takes nothing from others
    lost = labels_of(([[0.0, 0, 10, 10], [30.0, 30, 35, 35]], [1, 0]))
    assert match_priors(PRIORS, lost, 0.6).positive.tolist() == [[True, False, False, False]]


def matched_one_by_one(priors, boxes, min_iou):
    """The definition in plain loops: label of every prior or -1."""

    def iou(a, b):
        width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        both = max(width, 0) * max(height, 0)
        return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)

    table = [[iou(box, prior) for prior in priors] for box in boxes]
    best = [max(range(len(boxes)), key=lambda m: table[m][a]) for a in range(len(priors))]
    owner = [m if table[m][a] >= min_iou else -1 for a, m in enumerate(best)]
    for m, row in enumerate(table):
        owner[max(range(len(priors)), key=row.__getitem__)] = m
    return owner


def test_matching_equals_the_definition_in_every_image():
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 200, (4, 6, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(8, 80, (4, 6, 2))], axis=2).astype(np.float32)
    priors = GEN1_PRIORS[4000::13]
    valid = torch.arange(6) < torch.tensor([6, 1, 3, 0])[:, None]
    labels = LabelBatch(torch.from_numpy(boxes), torch.arange(6).expand(4, 6), valid)
    targets = match_priors(priors, labels, 0.4)
    for n in range(3):
        wanted = matched_one_by_one(priors.tolist(), boxes[n][valid[n]].tolist(), 0.4)
        assert torch.where(targets.positive[n], targets.classes[n], -1).tolist() == wanted
    assert not targets.positive[3].any()


def predictions_of(offsets, logits, priors=PRIORS):
    return SSDPredictions(offsets, logits, priors)


def test_loss_by_hand():
    # step 0 has no label; step 1: label 1 is prior 0 itself. Offsets there .5 and 2 beside 0; logits 0
    offsets = torch.zeros(2, 1, 4, 4)
    offsets[1, 0, 0] = torch.tensor([0.5, -2.0, 0, 0])
    offsets[1, 0, 1] = 9.0  # background: no cost
    labels = labels_of(([[0.0, 0, 10, 10]], [1]))
    labelled = torch.tensor([[False], [True]])
    terms = SSDLoss(SSDLossSettings(match_iou=0.6))(predictions_of(offsets, torch.zeros(2, 1, 4, 2)), labels, labelled)
    assert terms.positives == 1
    assert terms.box.item() == pytest.approx(0.5 * 0.25 + (2 - 0.5))
    # p = .5 everywhere: .25 of ln 2 a logit, alpha .25 for the one positive, .75 for 7 others
    assert terms.classes.item() == pytest.approx((0.25 + 7 * 0.75) * 0.25 * math.log(2))
    assert terms.total.item() == pytest.approx(terms.box.item() + terms.classes.item())


def test_loss_without_labels_pushes_every_score_down():
    logits = torch.randn(1, 2, 4, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    offsets = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    labels = LabelBatch(torch.zeros(1, 0, 4), torch.zeros(1, 0, dtype=torch.int64), torch.zeros(1, 0, dtype=torch.bool))
    terms = SSDLoss(SSDLossSettings())(predictions_of(offsets, logits), labels, torch.tensor([[False, True]]))
    assert (terms.positives, terms.box) == (0, 0)
    terms.total.backward()
    assert not logits.grad[0, 0].any()
    assert (logits.grad[0, 1] > 0).all()
    with pytest.raises(ValueError, match="2 labelled steps, labels of 1"):
        SSDLoss(SSDLossSettings())(predictions_of(offsets, logits), labels, torch.tensor([[True, True]]))


def test_hard_negatives_by_hand():
    cost = torch.tensor([[9.0, 1, 4, 3, 2], [5, 5, 1, 0, 9]])
    positive = torch.tensor([[True, False, False, False, False], [False] * 5])
    assert hardest(cost, positive, 2).tolist() == [[False, False, True, True, False], [True, False, False, False, True]]
    # more wanted than there are: all of the background
    assert hardest(cost, positive, 9).tolist() == [[False, True, True, True, True], [True] * 5]
    logits = torch.tensor([[0.0, 0], [1, -1], [3, 0], [-2, -2]])[None, None]
    labels = labels_of(([[0.0, 0, 10, 10]], [1]))
    settings = SSDLossSettings(match_iou=0.6, class_loss="bce", hard_negatives=1)
    terms = SSDLoss(settings)(
        predictions_of(torch.zeros(1, 1, 4, 4), logits), labels, torch.ones(1, 1, dtype=torch.bool)
    )
    # the positive prior: 2 ln 2; of the others prior 2 costs most: ln(1 + e^3) + ln 2
    assert terms.classes.item() == pytest.approx(3 * math.log(2) + math.log1p(math.e**3))


def test_decoding_by_hand():
    # step 0: prior 0 as class 0 (.9), prior 2 moved onto it (.8, gone), the same place as class 1 (.7), one too faint
    logits = torch.full((2, 1, 4, 2), -9.0)
    offsets = torch.zeros(2, 1, 4, 4)
    offsets[0, 0, 2] = encode_boxes(torch.tensor([0.0, 0, 10, 11]), PRIORS[2])
    for place, class_id, score in ((0, 0, 0.9), (2, 0, 0.8), (2, 1, 0.7), (1, 0, 0.005), (3, 1, 0.5)):
        logits[0, 0, place, class_id] = math.log(score / (1 - score))
    settings = SSDDecodeSettings()
    times = np.array([[50_000], [100_000]])
    found = decode_ssd(predictions_of(offsets, logits), times, settings, scale=(2, 1), sensor=(120, 60))
    (boxes,), (none,) = found
    np.testing.assert_allclose(boxes.xyxy, [[0, 0, 20, 10], [0, 0, 20, 11], [100, 50, 120, 60]], atol=1e-4)
    assert boxes.class_id.tolist() == [0, 1, 1]
    np.testing.assert_allclose(boxes.score, [0.9, 0.7, 0.5], atol=1e-6)
    assert boxes.t.tolist() == [50_000] * 3
    assert len(none) == 0
    few = decode_ssd(
        predictions_of(offsets, logits),
        times,
        SSDDecodeSettings(candidates=1, max_boxes=1),
        scale=(1, 1),
        sensor=(99, 99),
    )
    assert few[0][0].score.tolist() == pytest.approx([0.9])
    with pytest.raises(ValueError, match="not finite"):
        decode_ssd(predictions_of(offsets * torch.nan, logits), times, settings, scale=(1, 1), sensor=(9, 9))


def test_predictions_are_in_the_order_of_the_priors(model):
    # one spike on the second map changes what the priors of 3 x 3 cells around it say, and nothing else
    channels = (32, 64, 64, 32, 16, 16)
    maps = [torch.zeros(1, 1, c, *hw, dtype=torch.float64) for c, hw in zip(channels, GEN1_SHAPES, strict=True)]
    base = model.predict(maps, (240, 304))
    assert base.priors.shape == (6902, 4)
    torch.testing.assert_close(base.priors, GEN1_PRIORS)
    assert (base.offsets.shape, base.logits.shape) == ((1, 1, 6902, 4), (1, 1, 6902, 2))
    maps[1][0, 0, :, 7, 11] = 1
    changed = model.predict(maps, (240, 304)).logits != base.logits
    centres = (GEN1_PRIORS[changed[0, 0].any(-1)].reshape(-1, 2, 2)).mean(1)
    cells = torch.stack([centres[:, 0] / 16 - 0.5, centres[:, 1] / 16 - 0.5], dim=1).round().unique(dim=0).tolist()
    assert cells == [[x, y] for x in (10, 11, 12) for y in (6, 7, 8)]
    # prior p, class k is channel p * K + k of the head
    conv = model.head.classes[1](maps[1][0])[0, :, 7, 11]
    place = 30 * 38 * 4 + (7 * 19 + 11) * 6
    torch.testing.assert_close(model.predict(maps, (240, 304)).logits[0, 0, place : place + 6].flatten(), conv)


def test_a_sequence_equals_its_pieces(model):
    x = (torch.rand(5, 2, 2, 64, 96, generator=torch.Generator().manual_seed(2)) < 0.3).double()
    with torch.no_grad():
        whole, end = model(x)
        first, state = model(x[:2])
        maps, state = model.maps(x[2:], state)
        second = model.predict([m[1:, :1] for m in maps], (64, 96))  # heads on some steps alone
    torch.testing.assert_close(first.logits, whole.logits[:2])
    torch.testing.assert_close(second.logits, whole.logits[3:, :1])
    torch.testing.assert_close(second.offsets, whole.offsets[3:, :1])
    for ours, expected in zip(state, end, strict=True):
        torch.testing.assert_close(ours, expected)
    assert len(end) == 8 + 3
    assert maps[2].any()


def test_it_learns_to_find_a_square():
    torch.manual_seed(4)
    model = SSD(SSDSettings(backbone="4,8,8,8s2,8,8s2,8,8s2", extras=(8, 8, 8), one_by_one_extras=True), 2, 2)
    x = torch.zeros(2, 2, 2, 64, 64)
    labels = labels_of(*[([[20.0, 24, 44, 48]], [1])] * 2, *[([[4.0, 8, 20, 20]], [0])] * 2)
    for t, (box, _) in enumerate([((20, 24, 44, 48), 1), ((4, 8, 20, 20), 0)]):
        x[t, :, :, box[1] : box[3], box[0] : box[2]] = 1
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    loss, everywhere = SSDLoss(SSDLossSettings()), torch.ones(2, 2, dtype=torch.bool)
    costs = []
    for _ in range(60):
        terms = loss(model(x)[0], labels, everywhere)
        optimizer.zero_grad()
        terms.total.backward()
        optimizer.step()
        costs.append(terms.total.item())
    assert costs[-1] < 0.2 * costs[0]
    unused = {name for name, p in model.named_parameters() if p.grad is None}
    assert unused == {name for name, _ in model.named_parameters() if name.startswith("backbone.classifier")}


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(ValidationError, match=r"6 lists of aspect ratios for 5 maps"):
        SSDSettings(extras=(128, 128))


def test_one_constant_of_the_neuron_leaves_the_others():
    assert SSDSettings.model_validate({"neuron": {"slope": 2.0}}).neuron == PLIF_NEURON.model_copy(update={"slope": 2})
    assert SSDSettings(neuron=LIFSettings(tau=3)).neuron == LIFSettings(tau=3)
    assert not SSDSettings.model_validate({"neuron": {"learn_tau": False}}).neuron.learn_tau
    with pytest.raises(ValidationError, match=r"neuron.slop\n"):
        SSDSettings.model_validate({"neuron": {"slop": 2.0}})
