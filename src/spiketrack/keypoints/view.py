"""View: joints as a person sees them, on crops side by side with the truth, or in a recording.

Station: in come crops with what was found in them, or a recording with boxes, out go RGB frames.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from spiketrack.boxes import Boxes
from spiketrack.drawing import BACKGROUND, OFF_COLOURS, ON_COLOURS, Frame, contact_sheet, default_scale, draw_frame
from spiketrack.drawing.skeletons import draw_skeletons, side_colour
from spiketrack.errors import SettingsError
from spiketrack.events import Window
from spiketrack.keypoints.crops import Crops
from spiketrack.keypoints.estimator import KeypointEstimator
from spiketrack.keypoints.joints import BONES, JOINTS
from spiketrack.recordings import Recording
from spiketrack.representations import polarity_histogram

TILE_HEIGHT = 240  # pixels
SHOWN_US = 33_333
LEAST_SCORE = 0.15
_COLOURS = [side_colour(name) for name in JOINTS]


def draw_crops(
    crops: Crops, found: NDArray[np.floating], score: NDArray[np.floating], count: int, duration_us: int
) -> Frame:
    """A sheet of `count` crops, spread evenly over all: left the truth (joints in sight), right what was found.

    found: (N, 15, 2) sensor pixels, score: (N, 15); joints below LEAST_SCORE are left out. Events are those of the last
    33 ms, or of duration_us where that is less.
    """
    chosen = np.unique(np.linspace(0, len(crops) - 1, min(count, len(crops))).round().astype(int))
    tiles = []
    for index in chosen.tolist():
        row = crops.rows[index]
        window = crops.window(index, min(SHOWN_US, duration_us))
        scale = max(1, round(TILE_HEIGHT / window.height))
        plain = _events(window).repeat(scale, axis=0).repeat(scale, axis=1)
        corner = np.array([row["left"], row["top"]])
        truth, seen = row["keypoints"][None, :, :2], row["keypoints"][None, :, 2] > 0
        left = draw_skeletons(plain, (truth - corner) * scale, seen, BONES, _COLOURS)
        sure = score[index][None] >= LEAST_SCORE
        right = draw_skeletons(plain, (found[index][None] - corner) * scale, sure, BONES, _COLOURS)
        tiles.append(np.concatenate([left, right], axis=1))
    return contact_sheet(tiles, 6)


def _events(window: Window) -> Frame:
    """(H, W, 3): where events fell, in the colour of the more frequent polarity, ON where even."""
    off, on = polarity_histogram(window, window.start_us, window.end_us)[0]
    frame = np.empty((*on.shape, 3), np.uint8)
    frame[:] = BACKGROUND
    frame[(on > 0) & (on >= off)] = ON_COLOURS[0]
    frame[off > on] = OFF_COLOURS[0]
    return frame


def draw_recording(
    estimator: KeypointEstimator,
    recording: Recording,
    boxes: Boxes,
    class_names: tuple[str, ...],
    frame_us: int = SHOWN_US,
) -> Iterator[Frame]:
    """A frame for every time that has boxes: events of frame_us, the boxes, and the joints of pedestrians.

    boxes: labels, detections or tracks. Before the recording there are no events. Raises SettingsError where no class
    is the estimator's, or no box has it.
    """
    wanted = estimator.crops.class_name
    if wanted not in class_names:
        raise SettingsError(f"the boxes have no class {wanted!r}: {', '.join(class_names)}")
    people = boxes.class_id == class_names.index(wanted)
    if not people.any():
        raise SettingsError(f"none of {len(boxes)} boxes is a {wanted}")
    reach_us, scale = max(frame_us, estimator.input.duration_us), default_scale(recording.width, recording.height)
    for t in np.unique(boxes.t).tolist():
        window = recording.read(t - reach_us, t)
        there = boxes[boxes.t == t]
        frame = draw_frame(Window.of(window, t - frame_us, t), there, class_names, scale=scale)
        found, score = estimator.find(window, there.xyxy[people[boxes.t == t]])
        yield draw_skeletons(frame, found * scale, score >= LEAST_SCORE, BONES, _COLOURS)
