"""What the tests of distributed training run in each process: `rank_program.py SCENARIO SQUARES RUN_DIR [RANK STEP]`.

RANK and STEP: of the scenario kill, which process is killed after which step.

The functions run in one process, too, with ALONE. A rank leaves what it saw in RUN_DIR/<scenario>_<rank>.pt.
"""

import hashlib
import os
import shutil
import signal
import sys
from pathlib import Path

import torch
from loud_detector import loud_detector
from moving_squares import CLASS_NAMES, SLICE_US

from spiketrack.datasets.augment import AugmentSettings
from spiketrack.datasets.batches import Share
from spiketrack.datasets.etram import find_sequences
from spiketrack.datasets.sequences import TrainingSamples
from spiketrack.datasets.streams import StreamSamples
from spiketrack.detector.families import family_named
from spiketrack.distributed import joined, restarted
from spiketrack.evaluation import EvaluationSettings, evaluate_together
from spiketrack.launching import leave_with_launcher
from spiketrack.pipeline import Detector
from spiketrack.representations import InputSettings
from spiketrack.spiking.joint_norm import JointBatchNorm2d
from spiketrack.tracking import ByteTrackSettings
from spiketrack.training import Trainer, TrainingSettings

STRONG = AugmentSettings(flip=0.5, zoom=0.2, translate=0.1, drop=0.2)
JOINT = {"sync_batch_norm": True}
CARRIED = {**JOINT, "state": "carried", "detach": "label"}


def make_trainer(root, run_dir, ranks, model=None, **settings):
    """An epoch of nine samples (carried: ten windows) in batches of two."""
    torch.manual_seed(0)
    input = InputSettings(slice_us=SLICE_US)
    family = family_named((model or {}).get("family", "SpikeYOLO"))
    defaults = {"epochs": 1, "batch_size": 2, "steps": 2, "checkpoint_every": 2}
    loss = family.loss.model_validate(settings.pop("loss", {}))
    training = TrainingSettings.model_validate(defaults | settings).model_copy(update={"loss": loss})
    samples = (StreamSamples if training.state == "carried" else TrainingSamples)(
        find_sequences(root, "train", CLASS_NAMES)[:2],
        input,
        STRONG,
        steps=training.steps,
        batch_size=training.batch_size,
        seed=1,  # nine samples in each epoch: the last batch has one
        share=Share(ranks.rank, ranks.world),
    )
    network = family.model.model_validate(model or {})
    detector = Detector.build(network, input, family.decoding(), CLASS_NAMES)
    validation = find_sequences(root, "val", CLASS_NAMES)
    return Trainer(detector, samples, validation, training, EvaluationSettings(warm_up_steps=2), Path(run_dir), ranks)


def in_float64(trainer):
    """The same run in float64: in float32 a rounding error may decide which way a neuron rounds."""
    for model in (trainer.model, trainer.average):
        model.double().register_forward_pre_hook(lambda _, given: (given[0].double(), *given[1:]))
    return trainer


def followed(trainer, on_step=lambda progress: None):
    """Run to the end or a stop; what can be compared between processes and runs."""
    losses, samples, norms, exchanged, clip = [], [], [], [], torch.nn.utils.clip_grad_norm_

    def listen(*arguments):
        norms.append(float(clip(*arguments)))
        return torch.tensor(norms[-1])

    def told(progress):
        losses.append(progress.loss)
        samples.append(list(progress.samples))
        exchanged.append(trainer.exchanged)
        on_step(progress)

    torch.nn.utils.clip_grad_norm_ = listen
    first = trainer.step
    try:
        finished = trainer.run(told)
    finally:
        torch.nn.utils.clip_grad_norm_ = clip
    weights = b"".join(p.detach().numpy().tobytes() for p in trainer.model.parameters())
    return {
        "finished": finished,
        "steps": [first, trainer.step],
        "losses": losses,
        "samples": samples,
        "norms": norms,
        "exchanged": exchanged,
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "statistics": sum(b.numel() for b in trainer.model.buffers() if b.is_floating_point()),
        "maps": [(record.val_map, record.val_ap50) for record in trainer.history],
        "weights": hashlib.sha256(weights).hexdigest(),
        "running": {name: b.clone() for name, b in trainer.model.named_buffers() if "running" in name},
        "state": None if trainer.carried is None else [part.clone() for part in trainer.carried.content()],
    }


def norm_of(share, ranks):
    """Output, gradients and running statistics of a norm on a share of seven images, for a loss over all of them."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(7, 5, 4, 3, generator=generator) * 2 + 3
    aims = torch.randn(7, 5, 4, 3, generator=generator)[share]
    norm = torch.nn.BatchNorm2d(5, eps=1e-3, momentum=0.3)
    torch.nn.init.uniform_(norm.weight, generator=generator)
    norm = norm if ranks.world == 1 else JointBatchNorm2d(norm, ranks)
    own = x[share].contiguous(memory_format=torch.channels_last).requires_grad_()
    y = norm(own)
    ((y - aims) ** 2 * (y + 3)).sum().backward()
    ranks.add_gradients(norm.parameters())
    return {
        "y": y.detach(),
        "x": own.grad,
        "weight": norm.weight.grad,
        "bias": norm.bias.grad,
        "mean": norm.running_mean,
        "var": norm.running_var,
    }


def scores(root, ranks):
    """mAP, HOTA and the order of the sequences, of a network that finds something; None but on the first rank."""
    validation = find_sequences(root, "val", CLASS_NAMES)
    result = evaluate_together(loud_detector(), validation, EvaluationSettings(), ByteTrackSettings(), ranks)
    if result is None:
        return None
    return (
        result.detection.map,
        result.tracking.detection_average.hota,
        [part.sequence.name for part in result.sequences],
    )


def stopped_and_resumed(root, run_dir, ranks):
    """A run with carried state that one rank asks to stop, and the rest of it; `stopped.pt` is what it left between."""

    def on_step(progress):
        if ranks.rank == 1 and progress.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    first = followed(in_float64(make_trainer(root, run_dir, ranks, **CARRIED)), on_step)
    if ranks.first:
        shutil.copy(run_dir / "last.pt", run_dir / "stopped.pt")
    trainer = in_float64(make_trainer(root, run_dir, ranks, **CARRIED))
    trainer.resume()
    return first, followed(trainer)


def comparisons(root, run_dir, ranks):
    """Everything that is compared with one process, or between ranks, in one go: starting processes takes seconds."""
    seven = Share(ranks.rank, ranks.world).of(7)
    empty = slice(0, 7) if ranks.first else slice(7, 7)
    yield "norm", norm_of(seven, ranks)
    yield "norm_beside_an_empty_one", norm_of(empty, ranks)
    yield "scores", scores(root, ranks)
    cases = {
        "joint": JOINT,
        "carried": CARRIED,
        "scaled": {**JOINT, "multi_scale": 0.5},
        "ssd": {**JOINT, "recompute": True, "model": {"family": "SSD"}},
    }
    for name, options in cases.items():
        yield name, followed(in_float64(make_trainer(root, run_dir / name, ranks, **options)))
    yield "own_norms", followed(make_trainer(root, run_dir / "own_norms", ranks))
    if ranks.world > 1:
        yield "stopped", stopped_and_resumed(root, run_dir / "stopped", ranks)


def main():
    scenario, root, run_dir = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    leave_with_launcher()
    with joined() as ranks:
        if scenario == "compare":
            seen = dict(comparisons(root, run_dir, ranks))
        else:
            trainer = make_trainer(root, run_dir / "own_norms", ranks)
            if restarted() and (trainer.run_dir / "last.pt").exists():
                trainer.resume()

            def on_step(progress):
                if not restarted() and [ranks.rank, progress.step] == [*map(int, sys.argv[4:])]:
                    os.kill(os.getpid(), signal.SIGKILL)

            seen = followed(trainer, on_step)
        torch.save(seen, run_dir / f"{scenario}_{ranks.rank}.pt")


if __name__ == "__main__":
    main()
