"""Mapping: what the keys of the guides mean, as an experiment.

Station: in come GuideSettings and the classes of the data set, out goes a TrackerExperiment, in which every key has
become a setting or was checked. docs/guide.md has the table.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from spiketrack.errors import SettingsError
from spiketrack.experiment import TrackerExperiment
from spiketrack.guide.settings import DataProcessingSection, GuideSettings

GROUPS = {
    "pedestrian": ("pedestrian",),
    "vehicle": ("car", "bus", "truck", "tram"),
    "micro-mobility": ("bicycle", "motorbike", "wheelchair"),
}
"""The three classes that eTraM's eight stand for."""

HIGH_FREQUENCY_US = 5_000
"""Of shorter time steps a recording has too many to run them all; only those before labels are evaluated."""

CACHE_MB, PRELOAD_MB = 2_000, 1_000_000


def experiment_of(
    guide: GuideSettings, data_classes: tuple[str, ...], class_weights: Sequence[float] = ()
) -> TrackerExperiment:
    """The experiment of a configuration. data_classes: those of the data set. class_weights: of the loss, or none.

    Raises SettingsError for classes that are not those of the data set, or values that do not go together.
    """
    processing, span_us = guide.data_processing, guide.time_steps * guide.slice_us
    tree = {
        "name": re.sub(r"[^A-Za-z0-9._-]+", "-", guide.model.name).strip("-.") or "guide",
        "seed": guide.training.seed,
        "data": {
            "root": guide.data.data_root,
            "labels_dir": guide.data.annotation_dir,
            "train_split": ",".join(guide.data.train_folders),
            "val_split": ",".join(guide.data.val_folders),
            "test_split": ",".join(guide.data.test_folders),
            "groups": class_groups(guide, data_classes),
            "filters": {"rate": _rate(processing.max_events_per_sample, span_us)},
            "cache_mb": _cache_mb(processing),
            "balance": 1.0 if processing.use_class_balanced_sampling else 0.0,
            "overlap": processing.overlap,
            "samples_per_recording": processing.max_samples_per_file,
            "label_reach_us": round(processing.temporal_buffer * span_us),
        },
        "input": {
            "representation": processing.representation,
            "slice_us": guide.slice_us,
            "width": _pixels("image_width", processing.image_width),
            "height": _pixels("image_height", processing.image_height),
        },
        "model": {"scale": guide.architecture.scale, "embedding_dim": guide.architecture.track_feature_dim},
        "decoding": {"score": guide.evaluation.confidence_threshold, "nms_iou": guide.evaluation.iou_threshold},
        "training": _training(guide, class_weights),
        "evaluation": evaluation_of(guide.slice_us, guide.time_steps),
    }
    try:
        return TrackerExperiment.model_validate(tree)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        raise SettingsError(f"the configuration makes no experiment: {'; '.join(faults)}") from error


def class_groups(guide: GuideSettings, data_classes: tuple[str, ...]) -> dict[str, tuple[str, ...]] | None:
    """The classes to learn with those of the data set that each stands for; None where they are the same."""
    wanted = guide.class_names
    counts = {guide.model.num_classes, guide.architecture.num_classes} - {None}
    if wanted is None or [name.lower() for name in wanted] == [name.lower() for name in data_classes]:
        if counts - {len(data_classes)}:
            raise SettingsError(
                f"num_classes is {', '.join(map(str, counts))}; {guide.data.data_root} has {len(data_classes)}: "
                f"{', '.join(data_classes)}"
            )
        return None
    own = {name.lower(): name for name in data_classes}
    groups = {
        name: tuple(own[part] for part in GROUPS.get(name.lower(), (name.lower(),)) if part in own) for name in wanted
    }
    missing = sorted({*data_classes} - {part for group in groups.values() for part in group})
    if missing or not all(groups.values()):
        raise SettingsError(
            f"classes: {', '.join(wanted)} do not cover those of {guide.data.data_root}, {', '.join(data_classes)}; "
            f"give these, or eTraM's three groups ({', '.join(GROUPS)}), or leave the key out"
        )
    return groups


def evaluation_of(slice_us: int, steps: int) -> dict[str, Any]:
    """How recordings are run: as streams, or in high frequency the samples that end at labels."""
    return {"reset_every": steps, "labelled_only": True} if slice_us < HIGH_FREQUENCY_US else {}


def _training(guide: GuideSettings, class_weights: Sequence[float]) -> dict[str, Any]:
    training, loss = guide.training, guide.yolo_loss
    return {
        "epochs": training.epochs,
        "optimizer": training.optimizer,
        "learning_rate": training.learning_rate,
        "schedule": training.lr_scheduler,
        "final_rate": min(1.0, training.min_learning_rate / training.learning_rate),
        # a run shorter than its warm-up would never reach the learning rate
        "warm_up": min(0.5, training.warmup_epochs / training.epochs),
        "decay_every": training.lr_decay_steps,
        "decay": training.lr_decay,
        "max_rate": max(training.max_learning_rate, training.learning_rate),
        "momentum": training.momentum,
        "weight_decay": training.weight_decay,
        "batch_size": training.batch_size,
        "steps": guide.time_steps,
        "accumulate": training.gradient_accumulation_steps,
        "validate_every": training.validation_frequency,
        "precision": "auto" if training.use_amp else "float16" if training.use_fp16 else "float32",
        "recompute": training.use_gradient_checkpointing,
        "read_ahead": guide.data_processing.prefetch_factor,
        "pin_memory": guide.data_processing.pin_memory,
        "device": "cpu" if guide.device.force_cpu else training.device,
        "loss": {
            "box_gain": loss.box_loss_weight,
            "box_overlap": loss.box_loss_type,
            "class_gain": loss.class_gain,
            "background_gain": loss.obj_loss_weight,
            "track_gain": loss.track_loss_weight,
            "class_loss": "focal" if loss.use_focal_loss else "bce",
            "focal_alpha": loss.focal_alpha,
            "focal_gamma": loss.focal_gamma,
            "label_smoothing": loss.label_smoothing,
            "class_weights": tuple(class_weights),
        },
    }


def _rate(most: int | None, span_us: int) -> dict[str, Any]:
    """Events per second that are `most` in the length of a sample."""
    if most is None:
        return {}
    limit = max(1, most * 1_000_000 // span_us)
    return {"limit": limit, "period_us": max(1_000, math.ceil(1_000_000 / limit))}


def _cache_mb(processing: DataProcessingSection) -> int:
    if processing.preload_all_samples:
        return PRELOAD_MB
    return CACHE_MB if processing.cache_samples else 0


def _pixels(key: str, size: float | None) -> int | None:
    if size is not None and size != int(size):
        raise SettingsError(f"data_processing.{key}: {size} is no number of pixels")
    return None if size is None else int(size)
