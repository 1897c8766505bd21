"""Classification: a spiking backbone learns to name the one object of a short recording.

Station: beside detection, on the same recordings, representations and networks. Samples (datasets/classified.py) ->
`ClassifierTrainer` -> checkpoint -> `classify` -> scores (metrics/classification.py) -> report.
"""

from spiketrack.classification.classifier import Classifier, ClassifierSettings
from spiketrack.classification.evaluation import Answers, classify
from spiketrack.classification.experiment import (
    ClassificationExperiment,
    classifier_trainer,
    classify_split,
    dump_classification,
    load_classification,
)
from spiketrack.classification.training import (
    ClassifierEpoch,
    ClassifierProgress,
    ClassifierTrainer,
    ClassifierTrainingSettings,
    read_classifier_history,
)

__all__ = [
    "Answers",
    "ClassificationExperiment",
    "Classifier",
    "ClassifierEpoch",
    "ClassifierProgress",
    "ClassifierSettings",
    "ClassifierTrainer",
    "ClassifierTrainingSettings",
    "classifier_trainer",
    "classify",
    "classify_split",
    "dump_classification",
    "load_classification",
    "read_classifier_history",
]
