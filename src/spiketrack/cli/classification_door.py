"""The door of the published classification command: its options, by their names, become an experiment.

Behind scripts/classification.py. In come the options of Cordone et al., IJCNN 2022 (facts/models.md, A.4 to A.6), out
goes what `spiketrack classify` makes of them; an option that cannot mean anything here is refused with a reason.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spiketrack.cli.app import options_as_settings
from spiketrack.errors import SettingsError, SpiketrackError

if TYPE_CHECKING:
    from spiketrack.classification import ClassificationExperiment

_PRECISIONS = {16: "auto", 32: "float32"}


def main(arguments: Sequence[str]) -> None:
    """Train and test as the options say; a SpiketrackError becomes one line on stderr and exit code 1."""
    from spiketrack.cli.classification import evaluate_classifier, train_classifier, weights_of

    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s", stream=sys.stderr)
    options = _parser().parse_args(arguments)
    try:
        experiment = experiment_of(options)
        run_dir = Path("runs") / experiment.name
        weights = options.pretrained
        if options.train:
            if options.pretrained:
                raise SettingsError("-pretrained goes with -no_train -test: training starts from fresh weights")
            train_classifier(experiment, run_dir, options.resume)
            weights = weights_of(run_dir)
        if options.test:
            weights = weights or weights_of(run_dir)
            evaluate_classifier(experiment, weights, "test", weights.parent / "classification_test")
    except SpiketrackError as error:
        sys.exit(f"classification.py: {error}")


def experiment_of(options: argparse.Namespace) -> ClassificationExperiment:
    """The experiment that the options describe. Raises SettingsError for one that cannot be."""
    from spiketrack.classification import ClassificationExperiment

    if not options.bn:
        raise SettingsError("-no_bn: these networks have no form without batch norm; convolutions carry no bias")
    if options.precision not in _PRECISIONS:
        raise SettingsError(f"-precision {options.precision}: expected 16 (bfloat16 where it is native) or 32")
    height, width = options.image_shape
    keep = {"car": options.undersample_cars_percent} if options.dataset == "gen1" else {}
    with options_as_settings():
        return ClassificationExperiment.model_validate(
            {
                "name": f"{options.dataset}-{options.model}".replace(",", "-"),
                "seed": options.seed,
                "data": {"root": options.path, "keep": keep},
                "input": {
                    "duration_us": options.sample_size,
                    "steps": options.T,
                    "bins": options.tbin,
                    "height": height,
                    "width": width,
                    "fit": "events" if options.dataset == "ncars" else "sensor",
                },
                "model": {"backbone": options.model},
                "training": {
                    "batch_size": options.b,
                    "epochs": options.epochs,
                    "learning_rate": options.lr,
                    "precision": _PRECISIONS[options.precision],
                    "device": _device(options.device),
                },
            }
        )


def _device(name: str) -> str:
    """cpu, or the GPU of that number; cpu with one line on stderr where there is none."""
    import torch

    if name == "cpu" or torch.cuda.is_available():
        return name if not name.isdecimal() else f"cuda:{name}"
    sys.stderr.write(f"-device {name}: no GPU here, running on the CPU\n")
    return "cpu"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="classification.py", description="Train and test a spiking classifier.")

    def add(name: str, kind: Any, default: Any, text: str, **more: Any) -> None:
        parser.add_argument(name, type=kind, default=default, help=f"{text} (default {default})", **more)

    add("-device", str, "0", "number of the GPU, or cpu")
    add("-precision", int, 16, "16 or 32 bits")
    add("-b", int, 64, "batch size")
    add("-sample_size", int, 100_000, "duration of a sample, microseconds")
    add("-T", int, 5, "time steps")
    add("-tbin", int, 2, "bins of a time step, as channels")
    add("-image_shape", int, (64, 64), "rows and columns of the input", nargs=2, metavar=("H", "W"))
    add("-dataset", str, "ncars", "ncars, gen1 (its boxes), or nmnist", choices=("ncars", "gen1", "nmnist"))
    add("-path", Path, Path("PropheseeNCARS"), "folder of the data set")
    add("-undersample_cars_percent", float, 0.24, "share of the cars of gen1 that is trained on, 0 .. 1")
    add("-model", str, "32-ST-VGG", "16-, 32-, 64-ST-VGG, 16-, 32-, 64-ResCat-SNN, or a cfg string")
    parser.add_argument("-no_bn", action="store_false", dest="bn", help="refused: every convolution has a norm")
    add("-pretrained", Path, None, "checkpoint to test, with -no_train -test")
    add("-lr", float, 5e-3, "largest learning rate")
    add("-epochs", int, 30, "passes over the training samples")
    parser.add_argument("-no_train", action="store_false", dest="train", help="do not train")
    parser.add_argument("-test", action="store_true", help="evaluate on the test split")
    parser.add_argument("-save_ckpt", action="store_true", help="accepted: checkpoints are always saved")
    add("-seed", int, 0, "of weights and order; ours")
    parser.add_argument("-resume", action="store_true", help="continue a run that was stopped; ours")
    return parser
