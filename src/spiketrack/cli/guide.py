"""The doors of the guides' commands: training, evaluation, class weights, with their flags.

Behind scripts/training/comprehensive_training.py, scripts/evaluation/targeted_model_evaluation.py and
scripts/utils/calculate_class_weights.py. Flags take the place of keys of the configuration (docs/guide.md).
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spiketrack.errors import SettingsError, SpiketrackError

if TYPE_CHECKING:
    from spiketrack.guide import GuideSettings

log = logging.getLogger(__name__)

_KEYS = {
    "slice_duration_us": "data_processing.slice_duration_us",
    "time_steps": "data_processing.time_steps",
    "max_epochs": "training.epochs",
    "batch_size": "training.batch_size",
    "learning_rate": "training.learning_rate",
    "device": "training.device",
    "data_root": "data.data_root",
    "log_level": "logging.level",
}
_REPLACED = {"slice_duration_us": "architecture.time_window_us", "time_steps": "architecture.time_steps"}
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


def train(arguments: Sequence[str]) -> None:
    """comprehensive_training.py: exit code 0 at the end, 130 where the run was asked to stop."""
    parser = _parser("comprehensive_training.py", "Train a SpikeYOLOTracker on a data set in eTraM's layout.")
    parser.add_argument("--slice_duration_us", type=int, help="length of one time step, microseconds")
    parser.add_argument("--time_steps", type=int, help="time steps of a sample")
    parser.add_argument("--batch_size", type=int, help="samples per step")
    parser.add_argument(
        "--max_epochs", "--epochs", type=int, dest="max_epochs", help="passes over the training samples"
    )
    parser.add_argument("--learning_rate", type=float, help="largest learning rate")
    parser.add_argument(
        "--resume",
        nargs="?",
        type=Path,
        const=True,
        default=False,
        help="go on with the run in model.checkpoint_dir, or from a checkpoint of it",
    )
    options = parser.parse_args(arguments)

    def run(guide: GuideSettings) -> int:
        from spiketrack.guide.logs import log_to
        from spiketrack.guide.running import train as run_training

        name = guide.model.log_file_name or f"training_{time.strftime('%Y%m%d_%H%M%S')}.log"
        with log_to(guide.model.logs_dir / name, guide.logging.level, guide.logging.format):
            guide = _on_a_device(guide)
            finished = run_training(guide, options.resume)
        if finished:
            print(f"{guide.model.checkpoint_dir / guide.model.checkpoint_path}: the network after the last epoch")
            print(f"{guide.model.checkpoint_dir / guide.model.best_model_path}: the network of the best validation mAP")
            return 0
        sys.stderr.write("stopped; continue with --resume\n")
        return 130

    _run(options, run, "comprehensive_training.py")


def evaluate(arguments: Sequence[str]) -> None:
    """targeted_model_evaluation.py: prints the scores, writes tables, plots and a log."""
    parser = _parser("targeted_model_evaluation.py", "Evaluate a checkpoint: detection and tracking scores.")
    parser.add_argument("--checkpoint_path", type=Path, required=True, help="checkpoint to evaluate")
    parser.add_argument("--batch_size", type=int, dest="chunk_steps", help="time steps that the network sees at once")
    parser.add_argument("--output_dir", type=Path, help="folder of the results; default model.results_dir")
    options = parser.parse_args(arguments)

    def run(guide: GuideSettings) -> int:
        from spiketrack.drawing import require_drawing
        from spiketrack.guide.logs import log_to
        from spiketrack.guide.pictures import write_pictures
        from spiketrack.guide.running import evaluate_checkpoint
        from spiketrack.report import format_scores

        out = options.output_dir or guide.model.results_dir
        log_file = guide.model.logs_dir / f"evaluation_{options.checkpoint_path.stem}.log"
        with log_to(log_file, guide.logging.level, guide.logging.format):
            guide = _on_a_device(guide)
            result = evaluate_checkpoint(guide, options.checkpoint_path, out, options.chunk_steps)
            scores = format_scores(result)
            log.info("scores\n%s", scores)
            try:
                require_drawing()
            except SettingsError as error:
                log.warning("no pictures: %s", error)
            else:
                names = tuple(result.detection.per_class)
                count = write_pictures(out / "eval_vis", result, names, guide.slice_us)
                log.info("%d pictures in %s", count, out / "eval_vis")
        print(scores)
        print(f"\nresults {out}: metrics.json, per_class.csv, tracking.csv, report.html, eval_vis\nlog     {log_file}")
        return 0

    _run(options, run, "targeted_model_evaluation.py")


def class_weights(arguments: Sequence[str]) -> None:
    """calculate_class_weights.py: prints a table, and the lines for the configuration."""
    parser = _parser("calculate_class_weights.py", "Class weights from the labels of the training folders.")
    parser.add_argument("--max_samples", type=int, help="labels that are counted at most; default all")
    options = parser.parse_args(arguments)

    def run(guide: GuideSettings) -> int:
        from spiketrack.guide.running import label_counts
        from spiketrack.guide.weights import balanced_weights, weights_table

        names, counts = label_counts(guide, options.max_samples)
        weights = balanced_weights(counts)
        print("\n".join(weights_table(names, counts, weights)))
        listed = ", ".join(f"{weight:.4f}" for weight in weights.tolist())
        print(f"\nyolo_loss:\n  use_class_weights: true\n  class_weights: [{listed}]  # {', '.join(names)}")
        return 0

    _run(options, run, "calculate_class_weights.py")


def guide_of(options: argparse.Namespace) -> GuideSettings:
    """The configuration with the flags that were given in place."""
    from spiketrack.guide import DEFAULT_CONFIG, load_guide

    overrides = list(options.overrides or [])
    for flag, key in _KEYS.items():
        value = getattr(options, flag, None)
        if value is not None:
            overrides.append(f"{key}={value}")
            overrides += [f"{_REPLACED[flag]}=null"] if flag in _REPLACED else []
    path = options.config or DEFAULT_CONFIG
    if options.config is None and not path.is_file():
        raise SettingsError(f"{path}: no such file; run from the project's root, or name one with --config")
    return load_guide(path, overrides)


def _parser(name: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=name, description=description)
    parser.add_argument("--config", type=Path, help="configuration; default config/config.yaml")
    parser.add_argument("--device", help="cuda, cuda:N or cpu; the CPU where there is no GPU")
    parser.add_argument("--data_root", type=Path, help="data set, for data.data_root (ours)")
    parser.add_argument("--log_level", type=str.upper, choices=LEVELS, help="least level of a line in the log")
    parser.add_argument("--set", action="append", dest="overrides", metavar="section.key=value", help="any key (ours)")
    return parser


def _run(options: argparse.Namespace, run: Any, name: str) -> None:
    """Load the configuration and run; a SpiketrackError becomes one line on stderr and exit code 1."""
    try:
        guide = guide_of(options)
        logging.basicConfig(level=logging.INFO, format=guide.logging.format, stream=sys.stderr)
        code = run(guide)
    except SpiketrackError as error:
        sys.exit(f"{name}: {error}")
    if code:
        sys.exit(code)


def _on_a_device(guide: GuideSettings) -> GuideSettings:
    """The configuration with a device that is there: the CPU for a GPU that is not, said in one line."""
    import torch

    wanted = guide.training.device
    if guide.device.force_cpu or not wanted.startswith("cuda") or torch.cuda.is_available():
        return guide
    log.warning("device %s: no GPU here, running on the CPU", wanted)
    return guide.model_copy(update={"training": guide.training.model_copy(update={"device": "cpu"})})
