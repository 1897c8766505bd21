"""Running: the guides' training and evaluation, with the files where the guides say.

Station: in comes a configuration, out go checkpoints, a history, an evaluation with tables and pictures, and log lines.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from spiketrack.datasets.etram import read_class_names
from spiketrack.detector.decode import DecodeSettings
from spiketrack.errors import CheckpointError, SettingsError, TrainingError
from spiketrack.evaluation import EvaluationResult, EvaluationSettings, evaluate
from spiketrack.experiment import TrackerExperiment, dump_experiment, load_experiment, split_of, trainer_of
from spiketrack.guide.logs import TrainingLog, out_of_memory, samples_logged
from spiketrack.guide.mapping import evaluation_of, experiment_of
from spiketrack.guide.pruning import Pruner
from spiketrack.guide.settings import GuideSettings
from spiketrack.guide.weights import balanced_weights, count_labels
from spiketrack.history import EpochRecord
from spiketrack.pipeline import Detector
from spiketrack.replacing import write_whole
from spiketrack.report import write_evaluation
from spiketrack.report.score_tables import detection_rows, rows_by_class, tracking_rows
from spiketrack.training import Progress, Trainer

log = logging.getLogger(__name__)

_DENSE = 2_000_000  # events per second that traffic scenes reach


def train(guide: GuideSettings, resume: bool | Path = False) -> bool:
    """Train as configured, into `model.checkpoint_dir`. Returns False where SIGINT or SIGTERM asked to stop.

    resume: go on from last.pt there, or from a checkpoint file of the run. Where memory does not suffice in the first
    epoch the run begins anew with half the batch and gradients of twice the steps averaged. Raises SettingsError where
    a run would be overwritten, or there is none to resume.
    """
    run_dir = guide.model.checkpoint_dir
    _claim(run_dir, resume)
    experiment = _experiment(guide)
    if resume and (run_dir / "experiment.yaml").exists():
        experiment = _same_batch(experiment, run_dir / "experiment.yaml")
    while True:
        write_whole(run_dir / "experiment.yaml", dump_experiment(experiment), SettingsError)
        trainer = trainer_of(experiment, run_dir)
        try:
            return _run(guide, trainer, bool(resume))
        except (RuntimeError, MemoryError) as error:
            size = experiment.training.batch_size
            if not _is_out_of_memory(error):
                raise
            if size == 1 or trainer.epoch or resume:
                raise TrainingError(out_of_memory(size)) from error
        log.warning("%s; going on with batches of %d", out_of_memory(size), size // 2)
        experiment = _with_batch(experiment, size // 2, experiment.training.accumulate * size // (size // 2))
        del trainer  # its memory, before the next one is built
        torch.cuda.empty_cache()


def evaluate_checkpoint(guide: GuideSettings, checkpoint: Path, out: Path, batch_size: int | None) -> EvaluationResult:
    """Evaluate a checkpoint on `data.test_folders` and write into `out`: metrics.json, report.html (with the plots),
    per_class.csv, tracking.csv and, where Pillow is installed, eval_vis/*.png.

    batch_size: time steps that the network sees at once; the result does not depend on it.
    """
    experiment = experiment_of(guide, read_class_names(guide.data.data_root))
    detector = Detector.load(checkpoint, experiment.training.device)
    if isinstance(detector.decoding, DecodeSettings):
        thresholds = {"score": guide.evaluation.confidence_threshold, "nms_iou": guide.evaluation.iou_threshold}
        detector = replace(detector, decoding=detector.decoding.model_copy(update=thresholds))
    class_names, sequences = split_of(experiment.data, experiment.data.test_split)
    if detector.class_names != class_names:
        raise SettingsError(
            f"{checkpoint}: trained on the classes {', '.join(detector.class_names)}; the configuration and "
            f"{guide.data.data_root} give {', '.join(class_names)}"
        )
    log.info("evaluating %s on %d files of %s", checkpoint, len(sequences), ", ".join(guide.data.test_folders))
    rules = EvaluationSettings(**evaluation_of(detector.input.slice_us, guide.time_steps), chunk_steps=batch_size)
    with samples_logged(guide.data_processing.debug_sample_loading):
        result = evaluate(
            detector.fused(),
            sequences,
            rules,
            experiment.tracking,
            lambda done, total, name: log.info("Files processed: %d/%d (%s)", done, total, name),
        )
    facts = {
        "weights": str(checkpoint),
        "data": str(guide.data.data_root),
        "split": experiment.data.test_split,
        "sequences": len(sequences),
        "spiketrack": version("spiketrack"),
    }
    title = f"{guide.model.name}: {experiment.data.test_split}"
    write_evaluation(out, result, class_names, title=title, facts=facts)
    detection = [*result.detection.per_class.items(), ("mean", result.detection)]
    _write_table(out / "per_class.csv", *detection_rows("class", detection))
    _write_table(out / "tracking.csv", *tracking_rows("class", rows_by_class(result.tracking)))
    return result


def label_counts(guide: GuideSettings, most: int | None = None) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """The classes to learn, and the training labels of each; of more than `most` labels that many."""
    data = experiment_of(guide, read_class_names(guide.data.data_root)).data
    names, sequences = split_of(data, data.train_split)
    return names, count_labels([sequence.labels for sequence in sequences], len(names), most)


def _experiment(guide: GuideSettings) -> TrackerExperiment:
    """The experiment of a configuration, with the class weights that it asks for, and a word about rare classes."""
    data_classes, loss = read_class_names(guide.data.data_root), guide.yolo_loss
    experiment = experiment_of(guide, data_classes)
    names, counts = label_counts(guide)
    few = [name for name, n in zip(names, counts, strict=True) if n < guide.data_processing.min_samples_per_class]
    if few:
        log.warning(
            "poor convergence ahead: fewer than data_processing.min_samples_per_class = %d labels of %s",
            guide.data_processing.min_samples_per_class,
            ", ".join(few),
        )
    rate = experiment.data.filters.rate.limit
    if rate is not None and rate < _DENSE:
        log.warning(
            "data_processing.max_events_per_sample %s in samples of %d us: recordings with more than %s events per "
            "second are thinned; raise it, or set it to null",
            guide.data_processing.max_events_per_sample,
            guide.time_steps * guide.slice_us,
            f"{rate:,}",
        )
    if not loss.use_class_weights:
        return experiment
    weights = loss.class_weights
    if weights is None:
        weights = balanced_weights(label_counts(guide, loss.class_weight_calculation_samples)[1]).round(4).tolist()
    if len(weights) != len(names):
        raise SettingsError(f"yolo_loss.class_weights: {len(weights)} for the classes {', '.join(names)}")
    log.info("class weights: %s", ", ".join(f"{n} {w:g}" for n, w in zip(names, weights, strict=True)))
    return experiment_of(guide, data_classes, weights)


def _run(guide: GuideSettings, trainer: Trainer, resume: bool) -> bool:
    """One run to its end; the files of the guides beside those of the trainer."""
    model, training = guide.model, guide.training
    run_dir, began = trainer.run_dir, time.monotonic()
    lines = TrainingLog(guide.logging.print_every, trainer.settings.device)
    pruner = Pruner(guide.pruning, trainer) if guide.pruning.enabled else None
    if resume:
        trainer.resume()
        if pruner:
            pruner.resume()

    def on_step(progress: Progress) -> None:
        if pruner:
            pruner.on_step()
        lines.on_step(progress)

    def on_epoch(record: EpochRecord) -> None:
        lines.on_epoch(record)
        if pruner:
            pruner.on_epoch(record.epoch)
        if record.epoch % training.checkpoint_frequency == 0:
            _copy(run_dir / "last.pt", run_dir / f"checkpoint_epoch_{record.epoch}.pth")
        if (run_dir / "best.pt").is_file():
            _copy(run_dir / "best.pt", run_dir / model.best_model_path)

    with samples_logged(guide.data_processing.debug_sample_loading):
        finished = trainer.run(on_step, on_epoch)
    if finished:
        _copy(run_dir / "last.pt", run_dir / model.checkpoint_path)
        _write_history(guide, trainer, time.monotonic() - began)
        log.info("Best validation mAP: %.4f; %s", trainer.best_map, run_dir / model.best_model_path)
    return finished


def _write_history(guide: GuideSettings, trainer: Trainer, seconds: float) -> None:
    """training_history_{time}.json, with the fields of the published one."""
    history = {
        "train_losses": [record.loss for record in trainer.history],
        "val_maps": [record.val_map for record in trainer.history],
        "best_val_map": trainer.best_map,
        "total_time": seconds,
        "epochs": len(trainer.history),
        "batch_size": trainer.settings.batch_size,
        "learning_rate": trainer.settings.learning_rate,
    }
    path = guide.model.checkpoint_dir / f"training_history_{time.strftime('%Y%m%d_%H%M%S')}.json"
    write_whole(path, json.dumps(history, indent=1), CheckpointError)


def _claim(run_dir: Path, resume: bool | Path) -> None:
    """See that a run is begun or continued as asked; a checkpoint that is named becomes the last one."""
    last = run_dir / "last.pt"
    if isinstance(resume, Path):
        if not resume.is_file():
            raise SettingsError(f"--resume {resume}: no such checkpoint")
        if resume.resolve() != last.resolve():
            _copy(resume, last)
    elif resume and not last.exists():
        raise SettingsError(f"{run_dir} holds no run to resume")
    elif not resume and last.exists():
        raise SettingsError(
            f"{run_dir} holds a run; continue it with --resume, or name another folder in model.checkpoint_dir"
        )


def _same_batch(experiment: TrackerExperiment, path: Path) -> TrackerExperiment:
    """The experiment with the batch that the run to resume came down to, if it is a part of the configured one."""
    before, now = load_experiment(path).training, experiment.training
    if before.batch_size < now.batch_size and before.accumulate >= now.accumulate:
        return _with_batch(experiment, before.batch_size, before.accumulate)
    return experiment


def _with_batch(experiment: TrackerExperiment, batch_size: int, accumulate: int) -> TrackerExperiment:
    training = experiment.training.model_copy(update={"batch_size": batch_size, "accumulate": accumulate})
    return experiment.model_copy(update={"training": training})


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch says so; on the CPU it has no class of its own."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "not enough memory" in str(error)


def _copy(source: Path, target: Path) -> None:
    """A checkpoint under another name. Raises CheckpointError where it cannot be written."""
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, temporary)
        temporary.replace(target)
    except OSError as error:
        raise CheckpointError(f"{target}: cannot be written ({error.strerror})") from error


def _write_table(path: Path, head: list[str], rows: list[list[str]]) -> None:
    """Comma separated; numbers lose the commas between their thousands."""
    lines = [",".join(cell.replace(",", "") for cell in row) for row in (head, *rows)]
    write_whole(path, "\n".join(lines) + "\n", CheckpointError)
