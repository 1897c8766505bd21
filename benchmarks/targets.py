"""Task-aligned targets and the whole loss beside their dense formulation, and where the time goes.

    python benchmarks/targets.py [ROUNDS] [--threads 1] [--classes 8] [--largest 200]      default 7 rounds

16 images of 1280 x 720 with 30 labels each, sides uniform from 8 to --largest pixels, on three levels (19,320
locations with 736 rows of pixels); predictions are random, those inside a label lean towards it (seed 0). The dense
formulation, `dense_targets` and `dense_loss` below, compares every label with every location, and takes every term over
all locations; the tests take it as the reference. CPU time of this one process, the least of the rounds, which take
turns. A result is let go before the next call.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import softplus

from spiketrack.detector.decode import expected_sides, sides_to_boxes
from spiketrack.detector.loss import (
    SIDES,
    DetectionLoss,
    LabelledSteps,
    LossSettings,
    LossTerms,
    boxes_inside,
    class_cost,
    distribution_focal_loss,
)
from spiketrack.detector.spikeyolo import REG_MAX, Predictions, locations
from spiketrack.detector.targets import Grid, LabelBatch, Targets, ciou, locations_inside, task_aligned_targets

IMAGES, LABELS, WIDTH, HEIGHT = 16, 30, 1280, 736
TARGETS_BAR, LOSS_BAR = 50, 5


@torch.no_grad()
def dense_targets(
    scores: Tensor, boxes: Tensor, points: Tensor, labels: LabelBatch, *, topk: int, alpha: float, beta: float
) -> Targets:
    """The definition, label by location: everything inside has N x M x A numbers.

    scores: (N, A, K) in [0, 1]. boxes: (N, A, 4) predicted xyxy. points: (A, 2). With float64 inputs it decides as
    `task_aligned_targets` does: metric and overlap are rounded to float32 once, equals go to the first location.
    """
    n, m = labels.valid.shape
    a = points.shape[0]
    if m == 0:
        positive = scores.new_zeros(n, a, dtype=torch.bool)
        return Targets(positive, torch.zeros_like(boxes).float(), torch.zeros_like(scores).float())
    corners = labels.boxes[:, :, None].to(boxes)  # (N, M, 1, 4)
    inside = torch.cat([points - corners[..., :2], corners[..., 2:] - points], dim=-1).amin(-1) > 0  # (N, M, A)
    inside &= labels.valid[..., None]
    class_scores = scores.gather(2, labels.classes[:, None].expand(n, a, m)).transpose(1, 2)  # (N, M, A)
    overlap = ciou(corners, boxes[:, None]).clamp_min(0).where(inside, 0)  # (N, M, A)
    metric = (class_scores.pow(alpha) * overlap.pow(beta)).where(inside, 0).float().nan_to_num()
    overlap = overlap.float().nan_to_num()

    best = _largest(metric, min(topk, a))
    chosen = torch.zeros_like(inside).scatter_(2, best, True) & (metric > 0)
    # several labels claim a location: the largest CIoU wins
    owner = overlap.masked_fill(~chosen, -1).argmax(1)  # (N, A)
    positive = chosen.any(1)
    chosen &= torch.nn.functional.one_hot(owner, m).transpose(1, 2).bool()

    metric = metric * chosen
    strongest = metric.amax(-1, keepdim=True)  # (N, M, 1)
    largest_overlap = (overlap * chosen).amax(-1, keepdim=True)
    strength = (metric * largest_overlap / (strongest + 1e-9)).amax(1)  # (N, A)
    target_boxes = labels.boxes.gather(1, owner[..., None].expand(n, a, 4))
    target_classes = labels.classes.gather(1, owner)
    target_scores = torch.zeros_like(scores, dtype=torch.float32)
    target_scores.scatter_(2, target_classes[..., None], (strength * positive)[..., None])
    return Targets(positive, target_boxes, target_scores)


def _largest(metric: Tensor, count: int) -> Tensor:
    """Indices of the largest along the last axis: the quick search, and where it cut through equals the first."""
    best = metric.topk(min(count + 1, metric.shape[-1]), dim=-1)
    values = best.values
    if values.shape[-1] > count and ((values[..., count] == values[..., count - 1]) & (values[..., count] > 0)).any():
        return metric.sort(dim=-1, descending=True, stable=True).indices[..., :count]
    return best.indices[..., :count]


def dense_loss(
    settings: LossSettings, predictions: Predictions, labels: LabelBatch, labelled: Tensor, precise: bool = False
) -> LossTerms:
    """The loss with every term over all locations. precise: decide on the targets in float64."""
    features = predictions.features[labelled]
    features = features.to(torch.promote_types(features.dtype, torch.float32))  # (N, A, 4 * 16 + K)
    side_logits, class_logits = features.split([SIDES, features.shape[-1] - SIDES], dim=-1)
    boxes = sides_to_boxes(expected_sides(side_logits), predictions.points, predictions.strides)
    dtype = torch.float64 if precise else boxes.dtype
    targets = dense_targets(
        class_logits.detach().to(dtype).sigmoid(),
        boxes.detach().to(dtype),
        predictions.points,
        labels,
        topk=settings.topk,
        alpha=settings.align_alpha,
        beta=settings.align_beta,
    )
    norm = targets.scores.sum().clamp_min(1)
    class_costs = class_cost(class_logits, targets.scores.to(class_logits), settings.focal)  # (N, A, K)
    classes = class_costs.sum() / norm
    positive = targets.positive
    background = class_costs.detach()[targets.scores == 0].sum() / norm * settings.class_gain
    weight = targets.scores.sum(-1)[positive]  # (P,)
    wanted = targets.boxes[positive]
    box = ((1 - ciou(boxes[positive], wanted)) * weight).sum() / norm
    place = positive.nonzero()[:, 1]
    points, strides = predictions.points[place], predictions.strides[place, None]
    sides = torch.cat([points - wanted[:, :2], wanted[:, 2:] - points], dim=-1) / strides
    cost = distribution_focal_loss(side_logits[positive].unflatten(-1, (4, REG_MAX)), sides)  # (P, 4)
    dfl = (cost.mean(-1) * weight).sum() / norm
    box, classes, dfl = box * settings.box_gain, classes * settings.class_gain, dfl * settings.dfl_gain
    return LossTerms(box + classes + dfl, box, classes, dfl, positive.sum(), background)


def scene(classes: int, largest: float, seed: int = 0) -> tuple[Predictions, LabelBatch]:
    """Predictions of one time step of 16 streams, and their labels."""
    torch.manual_seed(seed)
    points, strides = locations([(HEIGHT // s, WIDTH // s) for s in (8, 16, 32)], torch.device("cpu"))
    size = 8 + torch.rand(IMAGES, LABELS, 2) * (largest - 8)
    corner = torch.rand(IMAGES, LABELS, 2) * (torch.tensor([WIDTH, 720.0]) - size)
    corners = torch.cat([corner, corner + size], dim=-1)
    labels = LabelBatch(corners, torch.randint(classes, (IMAGES, LABELS)), torch.ones(IMAGES, LABELS, dtype=torch.bool))
    features = torch.randn(1, IMAGES, len(points), SIDES + classes)
    features[..., SIDES:] -= 5
    grid = Grid.of(points, strides)
    for n in range(IMAGES):
        for box in corners[n]:
            inside = LabelBatch(box.view(1, 1, 4), torch.zeros(1, 1).long(), torch.ones(1, 1, dtype=torch.bool))
            place = locations_inside(grid, inside, len(points))[1]
            sides = torch.cat([points[place] - box[:2], box[2:] - points[place]], dim=-1) / strides[place, None]
            bins = sides.clamp(0, REG_MAX - 1).round().long()  # (P, 4)
            rows = features[0, n, place]
            rows[:, :SIDES].unflatten(-1, (4, REG_MAX)).scatter_add_(
                2, bins[..., None], torch.full((*bins.shape, 1), 6.0)
            )
            features[0, n, place] = rows
    return Predictions(features, points, strides), labels


def milliseconds(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The least CPU time of each call; they take turns, the first turn does not count."""
    least = dict.fromkeys(calls, float("inf"))
    for turn in range(rounds + 1):
        for name, call in calls.items():
            begin = time.process_time()
            result = call()
            took = 1e3 * (time.process_time() - begin)
            del result
            if turn:
                least[name] = min(least[name], took)
    return least


def report(title: str, took: dict[str, float], dense: str, bar: float) -> None:
    print(title)
    for name, duration in took.items():
        print(f"  {name:<44}{duration:>9.2f} ms{took[dense] / duration:>8.1f} x   (bar {bar} x)")


def measure_targets(predictions: Predictions, labels: LabelBatch, rounds: int) -> None:
    settings = LossSettings()
    constants = {"topk": settings.topk, "alpha": settings.align_alpha, "beta": settings.align_beta}
    logits = predictions.features[0, ..., SIDES:].contiguous()
    scores = logits.sigmoid()
    sides = expected_sides(predictions.features[0, ..., :SIDES])
    boxes = sides_to_boxes(sides, predictions.points, predictions.strides)
    grid = Grid.of(predictions.points, predictions.strides)

    def dense() -> Targets:
        return dense_targets(scores, boxes, predictions.points, labels, **constants)

    def sparse() -> object:
        return task_aligned_targets(
            logits, boxes, Grid.of(predictions.points, predictions.strides), labels, **constants
        )

    def pairs() -> object:
        from spiketrack.detector.target_pairs import assign

        return assign(logits, boxes, grid, labels, tuple(constants.values()))

    took = milliseconds({"dense": dense, "sparse (target_kernels)": sparse, "on pairs (target_pairs)": pairs}, rounds)
    report(
        f"targets: {IMAGES} images, {LABELS} labels each, {len(predictions.points)} locations",
        took,
        "dense",
        TARGETS_BAR,
    )


def measure_loss(predictions: Predictions, labels: LabelBatch, rounds: int) -> None:
    loss, labelled = DetectionLoss(LossSettings()), torch.ones(1, IMAGES, dtype=torch.bool)

    def through(features: Tensor, call: Callable[[Predictions], LossTerms]) -> Tensor | None:
        features = features.detach().requires_grad_()
        call(predictions._replace(features=features)).total.backward()
        return features.grad

    wide, narrow = predictions.features, predictions.features.bfloat16()
    calls: dict[str, Callable[[], object]] = {
        "dense": lambda: through(wide, lambda p: dense_loss(loss.settings, p, labels, labelled)),
        "sparse": lambda: through(wide, lambda p: loss(p, labels, labelled)),
        "sparse, bfloat16 features": lambda: through(narrow, lambda p: loss(p, labels, labelled)),
    }
    report(
        f"loss, forward and backward, {wide.shape[-1] - SIDES} classes", milliseconds(calls, rounds), "dense", LOSS_BAR
    )

    steps = LabelledSteps.of(wide.detach().requires_grad_(), labelled)
    grid = Grid.of(predictions.points, predictions.strides)
    boxes = boxes_inside(steps, predictions, labels, grid)
    assignment = loss.assign(steps, boxes, labels, grid)
    inside = locations_inside(grid, labels, len(predictions.points))
    print(f"  {len(inside[0])} locations inside a label, {len(assignment.image)} positive; parts:")
    kept = torch.empty_like(wide)
    parts: dict[str, Callable[[], object]] = {
        "class logits, gathered": lambda: LabelledSteps.of(wide, labelled),
        "which locations are inside": lambda: locations_inside(grid, labels, len(predictions.points)),
        "these, and their boxes": lambda: boxes_inside(steps, predictions, labels, grid),
        "assignment": lambda: loss.assign(steps, boxes, labels, grid),
        "terms, forward": lambda: loss.terms(steps, predictions, labels, assignment),
        "  of it softplus of all class logits, and sum": lambda: softplus(steps.class_logits).sum(),
        "zeros of the size of the gradient": lambda: torch.zeros_like(wide),
        "  the same to memory that is there": lambda: kept.zero_(),
        "class part into the gradient": lambda: kept[0, ..., SIDES:].copy_(steps.class_logits.sigmoid()),
    }
    for name, duration in milliseconds(parts, rounds).items():
        print(f"    {name:<46}{duration:>9.2f} ms")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("rounds", type=int, nargs="?", default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--classes", type=int, default=8)
    parser.add_argument("--largest", type=float, default=200)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    predictions, labels = scene(arguments.classes, arguments.largest)
    measure_targets(predictions, labels, arguments.rounds)
    measure_loss(predictions, labels, arguments.rounds)


if __name__ == "__main__":
    main()
