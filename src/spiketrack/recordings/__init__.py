"""Recordings: files of events become `Events` and `Window`s, label files become `Boxes`.

Station: the start of the way of the data. `open_recording` recognises a format by content; the decoders (numba)
and HDF5 (h5py) are imported when a file of that kind is opened.
"""

from spiketrack.recordings.converting import ConvertSummary, Part, convert
from spiketrack.recordings.folders import Sample, samples
from spiketrack.recordings.labels import LABEL_DTYPE, LabelWriter, load_labels, save_labels
from spiketrack.recordings.opening import open_recording
from spiketrack.recordings.ordering import REORDER_US
from spiketrack.recordings.recording import ReadOptions, Recording
from spiketrack.recordings.summary import RecordingSummary, summarize
from spiketrack.recordings.windows import windows
from spiketrack.recordings.writer import EventWriter
from spiketrack.recordings.writing import Writer, create_recording

__all__ = [
    "LABEL_DTYPE",
    "REORDER_US",
    "ConvertSummary",
    "EventWriter",
    "LabelWriter",
    "Part",
    "ReadOptions",
    "Recording",
    "RecordingSummary",
    "Sample",
    "Writer",
    "convert",
    "create_recording",
    "load_labels",
    "open_recording",
    "samples",
    "save_labels",
    "summarize",
    "windows",
]
