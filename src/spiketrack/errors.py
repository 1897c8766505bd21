"""The exceptions of spiketrack, drawn as one tree.

    SpiketrackError (ValueError)
      RecordingError     a recording that cannot be read or written; names the file and, where known, the byte
      LabelError         labels that cannot be read or do not fit the recording or the class list
      SettingsError      an experiment file or a setting that cannot mean anything
      CheckpointError    a checkpoint that is broken, of another model, or cannot be written
      TrainingError      a run that must stop, such as a loss that is not finite
      WorkListError      a folder of shared work that cannot be read or written

The command line turns each into one line on stderr and exit code 1; anything else is a mistake of ours and
shows its traceback.
"""


class SpiketrackError(ValueError):
    """Base of every error that a user can cause and mend."""


class RecordingError(SpiketrackError):
    """A recording cannot be read or written."""


class LabelError(SpiketrackError):
    """Labels cannot be read, or do not fit the recording or the class list."""


class SettingsError(SpiketrackError):
    """An experiment file or a single setting is not usable."""


class CheckpointError(SpiketrackError):
    """A checkpoint is broken, belongs to another model, or could not be written."""


class TrainingError(SpiketrackError):
    """A training run must stop."""


class WorkListError(SpiketrackError):
    """A folder of shared work cannot be read or written."""
