"""The door of the published detection command: its options, by their names, become an experiment.

Behind scripts/object_detection.py. In come the options of Cordone's training without reset (facts/models.md, A.4 to
A.6), out goes an SSD experiment, trained and tested; an option that cannot mean anything here is refused with a reason.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spiketrack.cli.app import options_as_settings, progress_line
from spiketrack.errors import SettingsError, SpiketrackError

if TYPE_CHECKING:
    from spiketrack.experiment import SSDExperiment
    from spiketrack.training import Trainer

log = logging.getLogger(__name__)

PRECISIONS = {"16": "float16", "bf16": "bfloat16", "32": "float32"}
CFGS = {"vgg": "32,64,64,64s2,64,128s2,128,128s2", "rescat": "32,64,64,128,128"}
RATIOS = "2;2,3;2,3;2,3;2;2"


def main(arguments: Sequence[str]) -> None:
    """Train and test as the options say; a SpiketrackError becomes one line on stderr and exit code 1."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s", stream=sys.stderr)
    options = _parser().parse_args(arguments)
    run_dir = Path(f"ckpt-cont-od-{options.dataset}-{options.backbone}{options.prefix and '-' + options.prefix}")
    try:
        experiment = experiment_of(options)
        weights = options.pretrained
        if options.train:
            if weights:
                raise SettingsError("-pretrained goes with -no_train -test: training starts from fresh weights")
            if not _train(experiment, run_dir, options):
                sys.stderr.write("stopped; continue with -resume\n")
                sys.exit(130)
            weights = run_dir / "best.pt"
        if options.test:
            _test(experiment, weights or run_dir / "best.pt")
    except SpiketrackError as error:
        sys.exit(f"object_detection.py: {error}")


def experiment_of(options: argparse.Namespace) -> SSDExperiment:
    """The experiment that the options describe. Raises SettingsError for one that cannot be."""
    from spiketrack.experiment import SSDExperiment

    _refuse(options)
    height, width = options.image_shape or (None, None)
    loss = {"match_iou": options.iou_threshold}
    with options_as_settings():
        return SSDExperiment.model_validate(
            {
                "name": f"{options.dataset}-{options.backbone}",
                "seed": options.seed,
                "data": {"root": options.path},
                "input": {
                    "representation": "binary_occupancy",
                    "slice_us": options.sample_size,
                    "bins": options.tbin,
                    "height": height,
                    "width": width,
                },
                "model": {
                    "backbone": (options.cfg or CFGS[options.backbone]).replace(" ", ""),
                    "extras": _numbers("-extras", options.extras),
                    "one_by_one_extras": options.one_one_extras,
                    "aspect_ratios": [_numbers("-aspect_ratios", part) for part in options.aspect_ratios.split(";")],
                    "least_scale": options.min_ratio,
                    "most_scale": options.max_ratio,
                },
                "decoding": {
                    "score": options.score_thresh,
                    "nms_iou": options.nms_thresh,
                    "candidates": options.topk_candidates,
                    "max_boxes": options.detections_per_img,
                },
                "training": {**_schedule(options), "loss": loss},
                "evaluation": {"protocol": "cordone"},
            }
        )


def _schedule(options: argparse.Namespace) -> dict[str, Any]:
    """Truncated back-propagation through a recording as a stream, an update at every window with labels."""
    return {
        "batch_size": options.b,
        "steps": options.T,
        "state": "carried",
        "detach": "label",
        "detach_after": 10,
        "epochs": options.epochs,
        "learning_rate": options.lr,
        "weight_decay": options.wd,
        "final_rate": 1e-4,
        "warm_up": 0.0,
        "clip_norm": 1.0,
        "ema": 0.0,
        "validate_every": 1 if options.val else options.epochs,
        "precision": PRECISIONS[options.precision],
        "device": _device(options.device),
    }


def _refuse(options: argparse.Namespace) -> None:
    """Raise SettingsError for the first option that cannot mean anything here, with the reason."""
    refusals = (
        (options.T != 1, "-T", "a window is one time step; the state goes on from window to window"),
        (not options.bn, "-no_bn", "these networks have no form without batch norm; convolutions carry no bias"),
        (options.dsod, "-dsod", "the published code reads it and never uses it"),
        (options.precision not in PRECISIONS, "-precision", f"expected {', '.join(PRECISIONS)}"),
        (tuple(options.spatial_q) != (1, 1), "-spatial_q", "the size of the input is -image_shape"),
        (options.beta != 1, "-beta", "the smooth L1 term has beta 1"),
        (
            tuple(options.box_coder_weights) != (10, 10, 5, 5),
            "-box_coder_weights",
            "offsets have the weights 10 10 5 5",
        ),
        (options.num_workers != 0, "-num_workers", "one thread reads ahead; there are no worker processes"),
        (options.loss_modes is not None, "-loss_modes", "the loss is taken in training"),
        (options.ap_modes is not None, "-ap_modes", "the mAP is taken of val while training, and of test by -test"),
        (options.comet_api is not None, "-comet_api", "nothing is sent elsewhere; history.json and report.html say it"),
    )
    for refused, name, reason in refusals:
        if refused:
            raise SettingsError(f"{name} cannot be here: {reason}")


def _train(experiment: SSDExperiment, run_dir: Path, options: argparse.Namespace) -> bool:
    """Train into run_dir; returns False where it was asked to stop."""
    from spiketrack.experiment import dump_experiment, trainer_of
    from spiketrack.guide.logs import TrainingLog
    from spiketrack.replacing import write_whole

    if (run_dir / "last.pt").exists() and not options.resume:
        raise SettingsError(f"{run_dir} holds a run; continue it with -resume, or give this one another -prefix")
    if options.resume and not (run_dir / "last.pt").exists():
        raise SettingsError(f"{run_dir} holds no run to resume")
    with progress_line("decoding", "recordings") as update:
        trainer = trainer_of(experiment, run_dir, on_build=update)
    _check_classes(trainer, options.num_classes)
    if options.pretrained_backbone:
        _load_backbone(trainer, options.pretrained_backbone)
    if options.resume:
        trainer.resume()
    write_whole(run_dir / "experiment.yaml", dump_experiment(experiment), SettingsError)
    lines = TrainingLog(100, trainer.settings.device)
    if not trainer.run(lines.on_step, lines.on_epoch):
        return False
    print(f"{run_dir / 'best.pt'}: best validation mAP {trainer.best_map:.3f}")
    return True


def _check_classes(trainer: Trainer, expected: int) -> None:
    names = trainer.detector.class_names
    if len(names) != expected:
        raise SettingsError(f"-num_classes {expected}: the data set has {len(names)}: {', '.join(names)}")


def _load_backbone(trainer: Trainer, path: Path) -> None:
    """The weights of a classifier (spiketrack classify) for the backbone of a detector and of its average."""
    from spiketrack.classification import Classifier
    from spiketrack.detector.checkpoint import load_weights

    weights = Classifier.load(path).model.state_dict()
    for model in (trainer.model, trainer.average):
        load_weights(model.backbone, weights, path)  # ty: ignore[invalid-argument-type]


def _test(experiment: SSDExperiment, weights: Path) -> None:
    """Scores of a checkpoint on the test split, printed and as files beside it."""
    from spiketrack.experiment import evaluate_split
    from spiketrack.report import format_scores, write_evaluation

    done = lambda number, total, name: log.info("Files processed: %d/%d (%s)", number, total, name)  # noqa: E731
    result = evaluate_split(experiment, weights, "test", done)
    facts = {"weights": str(weights), "data": str(experiment.data.root), "split": "test"}
    out = weights.parent / "detection_test"
    report = write_evaluation(out, result, tuple(result.detection.per_class), title=experiment.name, facts=facts)
    print(format_scores(result))
    print(f"\nmetrics  {report.with_name('metrics.json')}\nreport   {report}")


def _numbers(name: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise SettingsError(f"{name} {text}: expected whole numbers with commas between") from error


def _device(name: str) -> str:
    """cpu, or the GPU of that number; cpu with one line on stderr where there is none."""
    import torch

    if name == "cpu" or torch.cuda.is_available():
        return name if not name.isdecimal() else f"cuda:{name}"
    sys.stderr.write(f"-device {name}: no GPU here, running on the CPU\n")
    return "cpu"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="object_detection.py", description="Train and test an SSD on spiking VGG.")

    def add(name: str, kind: Any, default: Any, text: str, **more: Any) -> None:
        parser.add_argument(name, type=kind, default=default, help=f"{text} (default {default})", **more)

    def flag(name: str, text: str, **more: Any) -> None:
        parser.add_argument(name, action=more.pop("action", "store_true"), help=text, **more)

    _add_data(add)
    _add_training(add, flag)
    _add_network(add, flag)
    return parser


def _add_data(add: Any) -> None:
    add("-dataset", str, "gen1", "gen1, or etram: the layout is found by itself", choices=("gen1", "etram"))
    add("-path", Path, Path("../PropheseeGEN1"), "folder of the data set")
    add("-prefix", str, "", "ends the name of the run's folder")
    add("-num_classes", int, 2, "must be as many as the data set has")
    add("-b", int, 32, "recordings side by side")
    add("-sample_size", int, 50_000, "length of a window, microseconds")
    add("-T", int, 1, "time steps of a window; 1")
    add("-tbin", int, 1, "bins of a window, as channels")
    add("-image_shape", int, None, "rows and columns of the input; none: the sensor's", nargs=2, metavar=("H", "W"))
    add("-spatial_q", int, (1, 1), "refused but for 1 1", nargs=2, metavar=("X", "Y"))


def _add_training(add: Any, flag: Any) -> None:
    add("-epochs", int, 50, "passes over the training recordings")
    add("-lr", float, 5e-3, "largest learning rate")
    add("-wd", float, 1e-2, "weight decay")
    add("-beta", float, 1.0, "refused but for 1")
    add("-num_workers", int, 0, "refused but for 0")
    add("-loss_modes", str, None, "refused", nargs="+")
    add("-ap_modes", str, None, "refused", nargs="+")
    flag("-no_train", "do not train", action="store_false", dest="train")
    flag("-no_val", "validate after the last epoch only", action="store_false", dest="val")
    flag("-test", "evaluate on the test split")
    add("-device", str, "0", "number of the GPU, or cpu")
    add("-precision", str, "32", "16, bf16 or 32 bits")
    flag("-save_ckpt", "accepted: checkpoints are always saved")
    add("-comet_api", str, None, "refused")
    add("-seed", int, 0, "of weights and order; ours")
    flag("-resume", "continue a run that was stopped; ours")


def _add_network(add: Any, flag: Any) -> None:
    add("-backbone", str, "vgg", "vgg (ST-VGG) or rescat (ResCat-SNN)", choices=tuple(CFGS))
    add("-cfg", str, None, "channels of the backbone's layers; none: those of width 32")
    flag("-no_bn", "refused: every convolution has a norm", action="store_false", dest="bn")
    add("-pretrained_backbone", Path, None, "checkpoint of a classifier whose weights the backbone begins with")
    add("-pretrained", Path, None, "checkpoint to test, with -no_train -test")
    add("-extras", str, "256,128,128", "channels of the layers behind the backbone; published results have 128,128,128")
    flag("-one_one_extras", "a 1x1 layer before each of them")
    flag("-dsod", "refused: never used")
    add("-min_ratio", float, 0.05, "side of the smallest priors, as share of the image")
    add("-max_ratio", float, 0.80, "side of the largest priors")
    add("-aspect_ratios", str, RATIOS, "ratios of every map's priors")
    add("-box_coder_weights", float, (10.0, 10.0, 5.0, 5.0), "refused but for these", nargs=4, metavar="W")
    add("-iou_threshold", float, 0.50, "least overlap at which a prior takes a label")
    add("-score_thresh", float, 0.01, "least score")
    add("-nms_thresh", float, 0.45, "overlap above which the lower score goes")
    add("-topk_candidates", int, 200, "highest scores of a class before suppression")
    add("-detections_per_img", int, 100, "most detections of a time step")
