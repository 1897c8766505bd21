"""The configuration: every documented key is in config/config.yaml, means something, or is refused with a reason."""

from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from spiketrack.errors import SettingsError
from spiketrack.guide import ConfigLoader, GuideSettings, load_guide
from spiketrack.guide.mapping import experiment_of
from spiketrack.guide.settings import Only

CONFIG = Path(__file__).parents[2] / "config" / "config.yaml"

# promises.md, "Configuration", and models.md, C.2, with the keys that only the published code reads
DOCUMENTED = {
    "data": "data_root annotation_dir train_folders val_folders test_folders",
    "model": "name classes num_classes checkpoint_dir checkpoint_path best_model_path results_dir logs_dir "
    "log_file_name checkpoint_file",
    "architecture": "num_classes time_window_us time_steps track_feature_dim",
    "training": "epochs batch_size use_amp use_gradient_checkpointing use_quantization use_fp16 learning_rate "
    "min_learning_rate warmup_epochs optimizer momentum lr_scheduler max_learning_rate lr_decay_steps lr_decay "
    "weight_decay gradient_accumulation_steps checkpoint_frequency validation_frequency device checkpoint_file "
    "max_samples_per_file quantization_backend quantization_qconfig",
    "pruning": "enabled type amount max_sparsity schedule frequency",
    "yolo_loss": "box_loss_weight cls_loss_weight class_loss_weight obj_loss_weight track_loss_weight iou_threshold "
    "box_loss_type use_adaptive_iou adaptive_iou_start adaptive_iou_epochs use_focal_loss focal_alpha focal_gamma "
    "label_smoothing class_weights use_class_weights class_weight_calculation_samples scale_weights",
    "data_processing": "image_width image_height prefetch_factor persistent_workers pin_memory max_events_per_sample "
    "max_samples_per_file num_workers cache_samples preload_all_samples debug_sample_loading max_annotations_per_class "
    "max_annotations_per_class_validation validation_annotation_ratio validation_min_annotations_per_class "
    "targeted_training use_class_balanced_sampling min_samples_per_class temporal_buffer slice_duration_us time_steps "
    "overlap",
    "evaluation": "iou_threshold confidence_threshold evaluation_annotation_ratio",
    "logging": "level format print_every",
    "device": "force_cpu",
    "environments": "local vm docker",
}


def keys_of(model, prefix=""):
    """Every key of a tree with its field, by its place."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from keys_of(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


FIELDS = dict(keys_of(GuideSettings))
REFUSED = {
    key: next(part.func for part in field.metadata if isinstance(getattr(part, "func", None), Only))
    for key, field in FIELDS.items()
    if any(isinstance(getattr(part, "func", None), Only) for part in field.metadata)
}

# a value other than the default of every key that is not refused, and where in the experiment it shows
CHANGES = {
    "data.data_root": ("elsewhere", "data.root"),
    "data.annotation_dir": ("labels", "data.labels_dir"),
    "data.train_folders": (["train_h5_1", "train_h5_2"], "data.train_split"),
    "data.val_folders": (["val_h5_1"], "data.val_split"),
    "data.test_folders": (["test_h5_1"], "data.test_split"),
    "model.name": ("other", "name"),
    "model.classes": (["one", "two"], "data.groups"),
    "classes": (["one", "two"], "data.groups"),
    "architecture.scale": ("n", "model.scale"),
    "architecture.track_feature_dim": (16, "model.embedding_dim"),
    "training.epochs": (7, "training.epochs"),
    "training.warmup_epochs": (1, "training.warm_up"),
    "training.batch_size": (3, "training.batch_size"),
    "training.learning_rate": (5e-4, "training.learning_rate"),
    "training.min_learning_rate": (1e-5, "training.final_rate"),
    "training.optimizer": ("sgd", "training.optimizer"),
    "training.momentum": (0.8, "training.momentum"),
    "training.weight_decay": (0.1, "training.weight_decay"),
    "training.lr_scheduler": ("step", "training.schedule"),
    "training.max_learning_rate": (3e-3, "training.max_rate"),
    "training.lr_decay_steps": (4, "training.decay_every"),
    "training.lr_decay": (0.25, "training.decay"),
    "training.device": ("cpu", "training.device"),
    "training.gradient_accumulation_steps": (5, "training.accumulate"),
    "training.use_gradient_checkpointing": (True, "training.recompute"),
    "training.use_amp": (True, "training.precision"),
    "training.use_fp16": (True, "training.precision"),
    "training.validation_frequency": (2, "training.validate_every"),
    "training.seed": (9, "seed"),
    "yolo_loss.box_loss_weight": (7.5, "training.loss.box_gain"),
    "yolo_loss.class_loss_weight": (10.0, "training.loss.class_gain"),
    "yolo_loss.obj_loss_weight": (0.5, "training.loss.background_gain"),
    "yolo_loss.track_loss_weight": (0.2, "training.loss.track_gain"),
    "yolo_loss.box_loss_type": ("giou", "training.loss.box_overlap"),
    "yolo_loss.use_focal_loss": (False, "training.loss.class_loss"),
    "yolo_loss.focal_alpha": (0.5, "training.loss.focal_alpha"),
    "yolo_loss.focal_gamma": (1.0, "training.loss.focal_gamma"),
    "yolo_loss.label_smoothing": (0.0, "training.loss.label_smoothing"),
    "data_processing.image_width": (640.0, "input.width"),
    "data_processing.image_height": (360.0, "input.height"),
    "data_processing.representation": ("signed_difference", "input.representation"),
    "data_processing.slice_duration_us": (100_000, "input.slice_us"),
    "data_processing.time_steps": (4, "training.steps"),
    "data_processing.temporal_buffer": (0.1, "data.label_reach_us"),
    "data_processing.overlap": (0.5, "data.overlap"),
    "data_processing.max_samples_per_file": (10, "data.samples_per_recording"),
    "data_processing.max_events_per_sample": (None, "data.filters.rate.limit"),
    "data_processing.use_class_balanced_sampling": (True, "data.balance"),
    "data_processing.prefetch_factor": (4, "training.read_ahead"),
    "data_processing.pin_memory": (False, "training.pin_memory"),
    "data_processing.cache_samples": (False, "data.cache_mb"),
    "data_processing.preload_all_samples": (True, "data.cache_mb"),
    "evaluation.iou_threshold": (0.3, "decoding.nms_iou"),
    "evaluation.confidence_threshold": (0.2, "decoding.score"),
    "device.force_cpu": (True, "training.device"),
}
# keys that do something else than changing the experiment; the tests of the commands and those below look at them
ELSEWHERE = {
    *(f"model.{name}" for name in ("checkpoint_dir", "checkpoint_path", "best_model_path", "results_dir", "logs_dir")),
    *("model.log_file_name", "model.num_classes", "architecture.num_classes"),
    *("architecture.time_window_us", "architecture.time_steps", "training.checkpoint_frequency"),
    *(key for key in FIELDS if key.startswith(("pruning.", "logging.", "environments."))),
    *("yolo_loss.cls_loss_weight", "yolo_loss.use_class_weights", "yolo_loss.class_weights"),
    *("yolo_loss.class_weight_calculation_samples", "current_environment"),
    *("data_processing.min_samples_per_class", "data_processing.debug_sample_loading"),
}
DATA_CLASSES = ("ONE", "two")


def at(tree, place):
    for part in place.split("."):
        tree = getattr(tree, part)
    return tree


def loaded(tmp_path, *changes):
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.read_text())
    return load_guide(path, [f"{key}={yaml.safe_dump(value, default_flow_style=True)}" for key, value in changes])


def test_the_file_has_every_documented_key_and_every_default():
    tree = yaml.safe_load(CONFIG.read_text())
    for section, names in DOCUMENTED.items():
        assert set(names.split()) <= tree[section].keys(), section
    in_file = {f"{a}.{b}" for a, part in tree.items() if isinstance(part, dict) and a != "environments" for b in part}
    assert in_file == {key for key in FIELDS if "." in key and not key.startswith("environments")}
    assert load_guide(CONFIG) == GuideSettings()
    promised = {"training.epochs": 25, "training.batch_size": 25, "data_processing.max_samples_per_file": 50}
    promised |= {"data_processing.slice_duration_us": 100, "yolo_loss.box_loss_weight": 5.0, "training.device": "cuda"}
    assert {key: ConfigLoader(CONFIG).get(key) for key in promised} == promised


def test_every_key_is_mapped_refused_or_used_elsewhere():
    assert not set(CHANGES) & set(REFUSED)
    assert set(CHANGES) | set(REFUSED) | ELSEWHERE == set(FIELDS)


@pytest.mark.parametrize("key", CHANGES)
def test_a_key_changes_its_setting_and_no_other_section(key, tmp_path):
    value, place = CHANGES[key]
    names = ("car", "pedestrian") if "classes" in key else DATA_CLASSES
    value = ["Pedestrian", "Vehicle"] if "classes" in key else value
    before = experiment_of(loaded(tmp_path), names)
    after = experiment_of(loaded(tmp_path, (key, value)), names)
    assert at(before, place) != at(after, place)
    if not isinstance(value, list | str | float) and value is not None and not isinstance(value, bool):
        assert value == at(after, place) or "buffer" in key or "warmup" in key


@pytest.mark.parametrize("key", REFUSED)
def test_a_refused_key_names_itself_and_the_reason(key, tmp_path):
    refused = REFUSED[key]
    other = not refused.value if isinstance(refused.value, bool) else 0.2
    with pytest.raises(SettingsError) as caught:
        loaded(tmp_path, (key, other))
    assert f"{key}: " in str(caught.value)
    assert refused.reason in str(caught.value)


def test_an_unknown_key_names_the_nearest(tmp_path):
    with pytest.raises(SettingsError, match=r"unknown key training\.epoch; the nearest known is epochs"):
        loaded(tmp_path, ("training.epoch", 3))


def test_values_of_the_mapping_by_hand(tmp_path):
    guide = loaded(tmp_path, ("data_processing.slice_duration_us", 100), ("data_processing.time_steps", 8))
    experiment = experiment_of(guide, DATA_CLASSES)
    assert experiment.data.label_reach_us == 160  # 0.2 of 800 us
    assert experiment.data.filters.rate.limit == 12_500_000  # 10000 events in 800 us
    assert experiment.training.warm_up == 3 / 25
    assert experiment.training.final_rate == pytest.approx(0.05)  # 5e-5 of 1e-3
    assert (experiment.evaluation.reset_every, experiment.evaluation.labelled_only) == (8, True)
    slow = experiment_of(loaded(tmp_path, ("data_processing.slice_duration_us", 100_000)), DATA_CLASSES)
    assert (slow.evaluation.reset_every, slow.evaluation.labelled_only) == (None, False)
    assert experiment_of(loaded(tmp_path, ("training.epochs", 1)), DATA_CLASSES).training.warm_up == 0.5


def test_a_sample_can_be_given_as_a_whole(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("architecture: {time_window_us: 100000, time_steps: 4}\n")
    guide = load_guide(path)
    assert (guide.time_steps, guide.slice_us) == (4, 25_000)
    with pytest.raises(SettingsError, match=r"time_window_us is 100000, but 8 steps of .* 100 are 800"):
        loaded(tmp_path, ("architecture.time_window_us", 100_000))
    with pytest.raises(SettingsError, match=r"architecture\.time_steps is 4, data_processing\.time_steps is 8"):
        loaded(tmp_path, ("architecture.time_steps", 4))


def test_one_factor_has_two_names(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("yolo_loss: {cls_loss_weight: 10}\n")
    assert experiment_of(load_guide(path), DATA_CLASSES).training.loss.class_gain == 10
    with pytest.raises(SettingsError, match=r"two names of one factor, got 1\.0 and 3\.0"):
        loaded(tmp_path, ("yolo_loss.cls_loss_weight", 3))


def test_the_current_environment_takes_the_place_of_folders(tmp_path):
    guide = loaded(
        tmp_path, ("environments.vm.data_root", "/vm"), ("environments.vm.logs_dir", "l"), ("current_environment", "vm")
    )
    assert (str(guide.data.data_root), str(guide.model.logs_dir), str(guide.model.results_dir)) == (
        "/vm",
        "l",
        "results",
    )


def test_eight_classes_become_the_three_of_the_list(tmp_path):
    eight = ("pedestrian", "car", "bicycle", "bus", "motorbike", "truck", "tram", "wheelchair")
    guide = loaded(tmp_path, ("classes", ["Pedestrian", "Vehicle", "Micro-mobility"]))
    assert experiment_of(guide, eight).data.groups == {
        "Pedestrian": ("pedestrian",),
        "Vehicle": ("car", "bus", "truck", "tram"),
        "Micro-mobility": ("bicycle", "motorbike", "wheelchair"),
    }
    assert experiment_of(guide, ("pedestrian", "vehicle", "micro-mobility")).data.groups is None
    with pytest.raises(SettingsError, match=r"do not cover those of data, pedestrian, kite"):
        experiment_of(guide, ("pedestrian", "kite"))
    with pytest.raises(SettingsError, match="num_classes is 3, the list of classes has 2"):
        loaded(tmp_path, ("model.num_classes", 3), ("model.classes", ["a", "b"]))
    with pytest.raises(SettingsError, match="num_classes is 3; data has 2: ONE, two"):
        experiment_of(loaded(tmp_path, ("model.num_classes", 3)), DATA_CLASSES)


def test_the_documented_access(tmp_path):
    loader = ConfigLoader(CONFIG)
    assert loader.get("training.batch_size") == 25
    assert loader.get("data.annotation_dir", "beside") == "beside"
    assert loader.get("logging")["level"] == "INFO"
    with pytest.raises(SettingsError, match=r"no key 'training\.batch'; where 'batch' was looked for there is epochs"):
        loader.get("training.batch")
