"""Settings: every section and key of the configuration that the guides of SpikeYoloV8-Tracker document.

Station: in comes `config/config.yaml`, out goes a frozen tree; mapping.py makes an experiment of it. A key that cannot
mean anything here stands in the tree with the only value that is true, and any other is refused with the reason.
Source: facts/promises.md (the guides) and facts/models.md, C.2 (the published file; keys that only it has).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

Share = Annotated[float, Field(ge=0, le=1)]
Names = Annotated[tuple[str, ...], Field(min_length=1)]


class Only(NamedTuple):
    """Refuses every value but one, with the reason."""

    value: Any
    reason: str

    def __call__(self, given: Any) -> Any:
        """The value that was given, if it is the one. Raises ValueError with the reason."""
        if given != self.value:
            said = {None: "null", True: "true", False: "false"}.get(self.value, self.value)
            raise ValueError(f"{self.reason}; leave it {said}")
        return given


def only(value: Any, reason: str) -> Any:
    """The validator of a key that has one value, and why."""
    return BeforeValidator(Only(value, reason))


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataSection(_Section):
    """Where recordings and labels are."""

    data_root: Path = Field(Path("data"), description="data set in eTraM's layout")
    annotation_dir: Path | None = Field(None, description="folder to look for labels in first; null: beside the files")
    train_folders: Names = Field(("train",), description="folders, or prefixes of folders, to train on")
    val_folders: Names = Field(("val",), description="folders to choose the best checkpoint on")
    test_folders: Names = Field(("test",), description="folders to evaluate on")


class ModelSection(_Section):
    """The name of the model and of its files."""

    name: str = Field("SpikeYoloV8-Tracker", description="names the experiment in reports")
    classes: Names | None = Field(None, description="class names; null: those of the data set's classes.txt")
    num_classes: PositiveInt | None = Field(None, description="must be as many as there are classes; null: not checked")
    checkpoint_dir: Path = Field(Path("checkpoints"), description="folder of the run's checkpoints")
    checkpoint_path: str = Field("final_comprehensive_model.pth", description="in it, the network after the last epoch")
    best_model_path: str = Field("best_model.pth", description="in it, the network of the best validation mAP")
    checkpoint_file: Annotated[
        None, only(None, "the published code reads it and writes nothing there; model.checkpoint_path is that file")
    ] = Field(None, description="refused: say model.checkpoint_path")
    results_dir: Path = Field(Path("results"), description="folder of evaluations")
    logs_dir: Path = Field(Path("logs"), description="folder of log files")
    log_file_name: str | None = Field(None, description="log file of training; null: training_{timestamp}.log")


class ArchitectureSection(_Section):
    """The network."""

    num_classes: PositiveInt | None = Field(None, description="as model.num_classes")
    scale: Literal["p", "n", "s", "m", "l"] = Field(
        "p", description="size of the network (ours); the guides' has as many parameters as m"
    )
    time_window_us: PositiveInt | None = Field(
        None, description="length of a whole sample (microseconds); another way to say slice_duration_us * time_steps"
    )
    time_steps: PositiveInt | None = Field(None, description="as data_processing.time_steps")
    track_feature_dim: int = Field(128, ge=2, le=1024, description="numbers that stand for the look of an object")


_TRAINING_ALIAS = "it is a key of another section: "
_ENGINE = "names an engine of torch's eager quantization, which knows no spiking neurons"


class TrainingSection(_Section):
    """The optimizer and its schedule."""

    epochs: PositiveInt = Field(25, description="passes over the training samples")
    warmup_epochs: NonNegativeFloat = Field(3, description="epochs in which the rate rises; cyclic ignores it")
    batch_size: PositiveInt = Field(25, description="samples per step; halved, with gradients of two steps averaged, "
                                    "where memory does not suffice")  # fmt: skip
    learning_rate: PositiveFloat = Field(1e-3, description="largest learning rate; of cyclic the one it rises from")
    min_learning_rate: PositiveFloat = Field(5e-5, description="last learning rate of cosine and cyclic")
    optimizer: Literal["sgd", "adamw"] = Field("adamw", description="update rule")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of sgd, first beta of adamw")
    weight_decay: NonNegativeFloat = Field(1.509e-5, description="decay of convolution weights")
    lr_scheduler: Literal["step", "cyclic", "cosine"] = Field(
        "cosine",
        description="step: times lr_decay every lr_decay_steps epochs; cyclic: one cycle, up for 30 %",
    )
    max_learning_rate: PositiveFloat = Field(2e-3, description="highest rate of cyclic")
    lr_decay_steps: PositiveInt = Field(2, description="of step: epochs between decays")
    lr_decay: float = Field(0.5, gt=0, le=1, description="of step: factor of the rate")
    device: str = Field("cuda", description="cuda, cuda:N or cpu; the CPU where there is no GPU")
    gradient_accumulation_steps: PositiveInt = Field(1, description="steps whose gradients are averaged for an update")
    use_gradient_checkpointing: bool = Field(
        False, description="compute activations a second time instead of keeping them: less memory, more time"
    )
    use_amp: bool = Field(False, description="bfloat16 in the network, where the processor has it")
    use_fp16: bool = Field(False, description="float16 in the network, with a scaled loss")
    use_quantization: Annotated[
        bool,
        only(False, "neurons send integers 0 .. 4 already, and weights are quantized after training (docs/deploy.md)"),
    ] = Field(False, description="refused: training is not quantized")
    quantization_backend: Annotated[None, only(None, _ENGINE)] = Field(None, description="refused")
    quantization_qconfig: Annotated[None, only(None, _ENGINE)] = Field(None, description="refused")
    checkpoint_frequency: PositiveInt = Field(5, description="epochs between files checkpoint_epoch_{n}.pth")
    validation_frequency: PositiveInt = Field(5, description="epochs between validations; the last epoch has one")
    checkpoint_file: Annotated[None, only(None, _TRAINING_ALIAS + "model.checkpoint_path")] = Field(
        None, description="refused: say model.checkpoint_path"
    )
    max_samples_per_file: Annotated[None, only(None, _TRAINING_ALIAS + "data_processing.max_samples_per_file")] = Field(
        None, description="refused: say data_processing.max_samples_per_file"
    )
    seed: NonNegativeInt = Field(0, description="of weights, order of samples and augmentation (ours)")


class PruningSection(_Section):
    """Weights set to zero in the course of training."""

    enabled: bool = Field(False, description="prune while training")
    type: Literal["unstructured", "structured"] = Field(
        "unstructured", description="the smallest single weights, or whole output channels of the smallest norm"
    )
    amount: Annotated[float, Field(gt=0, lt=1)] = Field(0.1, description="share of weights that one time takes at most")
    max_sparsity: Annotated[float, Field(gt=0, lt=1)] = Field(0.5, description="share of zeros at the end")
    schedule: Literal["linear", "cosine", "step"] = Field(
        "linear", description="how the share grows over the epochs; step: by amount each time"
    )
    frequency: PositiveInt = Field(1, description="epochs between times")


_ALIGNED = (
    "labels are assigned by score^0.5 * CIoU^6 (task alignment), which weighs by overlap itself; a least overlap "
    "leaves no positive location while boxes are not learnt yet, a cause of mAP 0.0"
)


class YoloLossSection(_Section):
    """The terms of the loss."""

    box_loss_weight: NonNegativeFloat = Field(5.0, description="factor of the CIoU term")
    class_loss_weight: NonNegativeFloat = Field(1.0, description="factor of the class term")
    cls_loss_weight: NonNegativeFloat | None = Field(None, description="another name of class_loss_weight")
    obj_loss_weight: NonNegativeFloat = Field(
        1.0, description="factor, within the class term, of logits that no object is the reason of"
    )
    track_loss_weight: NonNegativeFloat = Field(1.0, description="factor of the contrastive term of embeddings")
    box_loss_type: Literal["ciou", "iou", "giou", "diou"] = Field("ciou", description="overlap of the box term")
    iou_threshold: Annotated[float | None, only(None, _ALIGNED)] = Field(None, description="refused")
    use_adaptive_iou: Annotated[bool, only(False, _ALIGNED)] = Field(False, description="refused")
    adaptive_iou_start: Annotated[float | None, only(None, _ALIGNED)] = Field(None, description="refused")
    adaptive_iou_epochs: Annotated[int | None, only(None, _ALIGNED)] = Field(None, description="refused")
    use_focal_loss: bool = Field(True, description="focal class term instead of binary cross entropy")
    focal_alpha: Annotated[float, Field(gt=0, lt=1)] = Field(0.25, description="weight of positive targets")
    focal_gamma: NonNegativeFloat = Field(2.0, description="focusing exponent")
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1, description="e of y * (1 - e) + e / K, at the locations that have an object"
    )
    use_class_weights: bool = Field(False, description="weigh the class term of each class")
    class_weights: tuple[NonNegativeFloat, ...] | None = Field(
        None, description="factor of each class; null: from the training labels, as calculate_class_weights.py has them"
    )
    class_weight_calculation_samples: PositiveInt = Field(5000, description="labels that are counted at most for these")
    scale_weights: Annotated[
        None, only(None, "the loss is one mean over all locations, whatever their stride; there is none for each scale")
    ] = Field(None, description="refused")

    @property
    def class_gain(self) -> float:
        """Factor of the class term, by whichever name."""
        return self.class_loss_weight if self.cls_loss_weight is None else self.cls_loss_weight

    @model_validator(mode="after")
    def _one_class_weight(self) -> YoloLossSection:
        one, other = self.class_loss_weight, self.cls_loss_weight
        if "class_loss_weight" in self.model_fields_set and other is not None and one != other:
            raise ValueError(
                f"class_loss_weight and cls_loss_weight are two names of one factor, got {one} and {other}"
            )
        return self


_ALL_SCORED = "scores of a random part would not compare with those of another run; every label is scored"


class DataProcessingSection(_Section):
    """What a sample is, and how samples are read."""

    image_width: PositiveFloat | None = Field(None, description="columns of the network's input; null: the sensor's")
    image_height: PositiveFloat | None = Field(None, description="rows of the network's input; null: the sensor's")
    representation: Literal["stacked_histogram", "signed_difference"] = Field(
        "stacked_histogram", description="Histo3D (ON and OFF counts) or Diff3D (ON minus OFF) of every step (ours)"
    )
    slice_duration_us: PositiveInt = Field(100, description="length of one time step (microseconds)")
    time_steps: PositiveInt = Field(8, description="time steps of a sample, which spans time_steps * slice_duration_us")
    temporal_buffer: Annotated[float, Field(ge=0, le=1)] = Field(
        0.2, description="labels this share of a sample's length before or after a time step still belong to it"
    )
    overlap: Annotated[float, Field(ge=0, lt=1)] = Field(0.25, description="share of a sample that the next repeats")
    max_samples_per_file: PositiveInt | None = Field(50, description="most samples of a file in an epoch, drawn anew")
    max_events_per_sample: PositiveInt | None = Field(
        10_000, description="denser recordings are thinned to this many events in the length of a sample"
    )
    targeted_training: Annotated[
        bool, only(True, "a window without labels is no proof of an empty scene and teaches nothing")
    ] = Field(True, description="only windows with annotations are samples")
    use_class_balanced_sampling: bool = Field(False, description="draw samples with rare classes more often")
    min_samples_per_class: NonNegativeInt = Field(1, description="labels of a class below which training warns")
    max_annotations_per_class: Annotated[
        None, only(None, "an epoch is bounded by max_samples_per_file, classes balanced by use_class_balanced_sampling")
    ] = Field(None, description="refused")
    max_annotations_per_class_validation: Annotated[None, only(None, _ALL_SCORED)] = Field(None, description="refused")
    validation_annotation_ratio: Annotated[float, only(1.0, _ALL_SCORED)] = Field(1.0, description="every label")
    validation_min_annotations_per_class: Annotated[None, only(None, _ALL_SCORED)] = Field(None, description="refused")
    prefetch_factor: PositiveInt = Field(2, description="batches that are read while the network works on one")
    num_workers: Annotated[
        int | None, only(None, "one thread reads ahead; the kernels that count events leave the other cores to torch")
    ] = Field(None, description="refused")
    persistent_workers: Annotated[
        bool, only(True, "open files and events that were read are kept as long as the run lasts")
    ] = Field(True, description="what was opened stays open")
    pin_memory: bool = Field(True, description="with a GPU: batches in page-locked memory")
    cache_samples: bool = Field(True, description="keep events that were read, up to 2 GB")
    preload_all_samples: bool = Field(False, description="the same without a limit, for data that fit into memory")
    debug_sample_loading: bool = Field(False, description="log each sample that is read, whatever logging.level is")


class EvaluationSection(_Section):
    """From predictions to detections, in validation and evaluation."""

    iou_threshold: Annotated[float, Field(gt=0, le=1)] = Field(
        0.5, description="a detection that overlaps a better one of its class more is dropped"
    )
    confidence_threshold: Share = Field(0.01, description="least score; a high one cuts off the end of the AP curves")
    evaluation_annotation_ratio: Annotated[float, only(1.0, _ALL_SCORED)] = Field(1.0, description="every label")


class LoggingSection(_Section):
    """Log files and lines."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="least level of a line")
    format: str = Field("%(levelname)s: %(message)s", description="as Python's logging module has it")
    print_every: PositiveInt = Field(100, description="batches between lines")


class DeviceSection(_Section):
    """The processor."""

    force_cpu: bool = Field(False, description="the CPU, whatever training.device says")


class EnvironmentSection(_Section):
    """Folders of one machine; what is given takes the place of the key of that name."""

    data_root: Path | None = Field(None, description="for data.data_root")
    annotation_dir: Path | None = Field(None, description="for data.annotation_dir")
    checkpoint_dir: Path | None = Field(None, description="for model.checkpoint_dir")
    results_dir: Path | None = Field(None, description="for model.results_dir")
    logs_dir: Path | None = Field(None, description="for model.logs_dir")


class EnvironmentsSection(_Section):
    """Folders of several machines."""

    local: EnvironmentSection = Field(EnvironmentSection(), description="folders of this machine")
    vm: EnvironmentSection = Field(EnvironmentSection(), description="folders of a virtual machine")
    docker: EnvironmentSection = Field(EnvironmentSection(), description="folders of a container")


class GuideSettings(_Section):
    """The whole configuration."""

    data: DataSection = Field(DataSection(), description="where recordings and labels are")
    model: ModelSection = Field(ModelSection(), description="the name of the model and of its files")
    classes: Names | None = Field(None, description="as model.classes")
    architecture: ArchitectureSection = Field(ArchitectureSection(), description="the network")
    training: TrainingSection = Field(TrainingSection(), description="the optimizer and its schedule")
    pruning: PruningSection = Field(PruningSection(), description="weights set to zero in the course of training")
    yolo_loss: YoloLossSection = Field(YoloLossSection(), description="the terms of the loss")
    data_processing: DataProcessingSection = Field(DataProcessingSection(), description="what a sample is")
    evaluation: EvaluationSection = Field(EvaluationSection(), description="from predictions to detections")
    logging: LoggingSection = Field(LoggingSection(), description="log files and lines")
    device: DeviceSection = Field(DeviceSection(), description="the processor")
    environments: EnvironmentsSection = Field(EnvironmentsSection(), description="folders of several machines")
    current_environment: Literal["local", "vm", "docker"] | None = Field(
        None, description="whose folders to take; null: those of data and model"
    )

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The classes to learn, wherever they are given."""
        return self.model.classes or self.classes

    @model_validator(mode="after")
    def _agrees(self) -> GuideSettings:
        one, other = self.model.classes, self.classes
        if one and other and one != other:
            raise ValueError(f"model.classes and classes differ: {list(one)} and {list(other)}")
        for count in (self.model.num_classes, self.architecture.num_classes):
            if count is not None and self.class_names is not None and count != len(self.class_names):
                raise ValueError(f"num_classes is {count}, the list of classes has {len(self.class_names)}")
        if self.training.use_amp and self.training.use_fp16:
            raise ValueError("training.use_amp is bfloat16, use_fp16 is float16; set one of the two")
        _sample_shape(self)
        return self

    @property
    def time_steps(self) -> int:
        """T, time steps of a sample."""
        return _sample_shape(self)[0]

    @property
    def slice_us(self) -> int:
        """Length of a time step, microseconds."""
        return _sample_shape(self)[1]


def _sample_shape(settings: GuideSettings) -> tuple[int, int]:
    """Time steps and microseconds of each, of the two sections that can say it. Raises ValueError where they differ."""
    other, own = settings.architecture, settings.data_processing
    steps = own.time_steps
    if other.time_steps is not None:
        if "time_steps" in own.model_fields_set and other.time_steps != steps:
            raise ValueError(f"architecture.time_steps is {other.time_steps}, data_processing.time_steps is {steps}")
        steps = other.time_steps
    slice_us = own.slice_duration_us
    if other.time_window_us is not None:
        if "slice_duration_us" in own.model_fields_set and other.time_window_us != steps * slice_us:
            raise ValueError(
                f"architecture.time_window_us is {other.time_window_us}, but {steps} steps of "
                f"data_processing.slice_duration_us {slice_us} are {steps * slice_us}; leave one of the two out"
            )
        slice_us = max(1, other.time_window_us // steps)
    return steps, slice_us
