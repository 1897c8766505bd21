"""Pictures: labels and detections of an evaluation, side by side.

Station: the end of an evaluation. In come its sequences with what was found, out go PNG files under the published name
`eval_vis/vis_f{file}_{start}-{end}us.png`, labels on the left, detections on the right.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spiketrack.drawing import contact_sheet, draw_thumbnail, encode_png
from spiketrack.errors import RecordingError
from spiketrack.evaluation import EvaluationResult, SequenceResult
from spiketrack.recordings import windows
from spiketrack.replacing import write_whole

LEAST_SEEN_US = 10_000  # of shorter time steps a picture would be nearly empty


def write_pictures(
    folder: Path,
    result: EvaluationResult,
    class_names: tuple[str, ...],
    slice_us: int,
    *,
    files: int = 8,
    times: int = 3,
) -> int:
    """Write at most `times` pictures of each of the first `files` sequences; returns how many.

    Raises SettingsError where Pillow is missing, RecordingError where a file cannot be written.
    """
    written = 0
    for number, found in enumerate(result.sequences[:files]):
        labelled = np.unique(found.sequence.labels.t)
        for t in labelled[np.unique(np.linspace(0, len(labelled) - 1, times).round().astype(np.int64))].tolist():
            start = t - max(slice_us, LEAST_SEEN_US)
            png = _picture(found, start, t, class_names)
            write_whole(folder / f"vis_f{number:03d}_{start}-{t}us.png", png, RecordingError)
            written += 1
    return written


def _picture(found: SequenceResult, start: int, end: int, class_names: tuple[str, ...]) -> bytes:
    """The events of [start, end) with the labels at its end, and with the detections."""
    window = next(windows(found.sequence.open(), end - start, start_us=start, end_us=end))
    both = [draw_thumbnail(window, boxes.at(end), class_names) for boxes in (found.sequence.labels, found.detections)]
    return encode_png(contact_sheet(both, columns=2))
