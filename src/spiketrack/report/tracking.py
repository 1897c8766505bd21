"""Tracking output: the steps of a run go in one by one, files that people and programs read come out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from spiketrack.drawing import (
    Frame,
    Playback,
    VideoWriter,
    draw_frame,
    draw_thumbnail,
    playback_rate,
    require_drawing,
)
from spiketrack.errors import RecordingError, SettingsError
from spiketrack.pipeline import Detector, TrackedStep, track
from spiketrack.recordings import LabelWriter, Recording
from spiketrack.replacing import make_folder, write_whole
from spiketrack.report.mot import MotWriter
from spiketrack.report.statistics import BestMoments, RunStatistics
from spiketrack.report.track_page import counted, track_page
from spiketrack.tracking import TrackerSettings, build_tracker

MOMENTS = 9


class TrackOutput:
    """Write a run of tracking into a folder, in memory that does not grow with the run.

        with TrackOutput("crossing_tracks", recording, class_names) as output:
            for step in track(detector.detect(recording), ByteTrack()):
                output.append(step)

    tracks.txt       MOTChallenge text (`MotWriter`); frame k is the k-th time step, counted from 1
    tracks_bbox.npy  the same boxes as label rows with time, class and identity (`spiketrack.recordings.LABEL_DTYPE`)
    video.mp4        events, boxes and time, one frame per step (`playback_rate`); not without steps
    report.html      what was found, in one file

    Each file takes its name when it is complete, the report last; after an exception none does, and what an earlier
    run left there stays. A complete run without a video removes the video of an earlier one. run: more facts about
    the run for the report. Raises SettingsError at once where a library for drawing is missing, RecordingError or
    LabelError naming the file that cannot be written.
    """

    def __init__(
        self,
        folder: str | Path,
        recording: Recording,
        class_names: Sequence[str],
        *,
        video: bool = True,
        run: Mapping[str, object] | None = None,
    ) -> None:
        require_drawing(video)
        self.folder, self.recording, self.class_names = Path(folder), recording, tuple(class_names)
        self.statistics = RunStatistics(recording.width, recording.height, len(self.class_names))
        self.computing_s = 0.0  # between steps: reading, detection and tracking, without drawing
        self.playback: Playback | None = None
        self._run, self._with_video = dict(run or {}), video
        self._moments: BestMoments[Frame] = BestMoments(MOMENTS)
        self._video: VideoWriter | None = None

    @property
    def video_path(self) -> Path:
        return self.folder / "video.mp4"

    @property
    def report_path(self) -> Path:
        return self.folder / "report.html"

    def __enter__(self) -> Self:
        make_folder(self.folder)
        with ExitStack() as stack:
            self._mot = stack.enter_context(MotWriter(self.folder / "tracks.txt"))
            self._labels = stack.enter_context(LabelWriter(self.folder / "tracks_bbox.npy"))
            self._files = stack.pop_all()
        self._resumed = time.perf_counter()
        return self

    def append(self, step: TrackedStep) -> None:
        """Write one step; the steps of a run follow each other without a gap."""
        self.computing_s += time.perf_counter() - self._resumed
        window, detections, tracks = step
        self.statistics.add(step)
        self._mot.append(self.statistics.steps, tracks)
        self._labels.append(tracks)
        if self._with_video:
            self._draw(step)
        self._moments.offer(
            (len(tracks), len(detections), len(window)), partial(draw_thumbnail, window, tracks, self.class_names)
        )
        self._resumed = time.perf_counter()

    def _draw(self, step: TrackedStep) -> None:
        if self._video is None or self.playback is None:
            self.playback = playback_rate(step.window.end_us - step.window.start_us)
            self._video = self._files.enter_context(VideoWriter(self.video_path, self.playback.fps))
        note = "" if self.playback.speed == 1 else str(self.playback)
        self._video.append(draw_frame(step.window, step.tracks, self.class_names, note=note))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.computing_s += time.perf_counter() - self._resumed
        self._files.__exit__(kind, error, traceback)
        if kind is None:
            if self._video is None:
                with suppress(OSError):
                    self.video_path.unlink()
            write_whole(self.report_path, self._page(), RecordingError)

    def _page(self) -> str:
        video = None
        if self._video is not None and self.playback is not None:
            video = f"{self._video.codec}, {self.playback.fps:.4g} frames/s, {self.playback}"
        return track_page(
            self.recording, self.statistics, self.class_names, self._moments.items(), self.computing_s, self._run, video
        )

    def summary(self) -> dict[str, str]:
        """The facts of a complete run as lines for a terminal."""
        statistics = self.statistics
        if self._video is not None:
            video = str(self.video_path)
        else:
            video = "none: the recording has no time step" if self._with_video else "none: not asked for"
        return {
            "steps": f"{statistics.steps:,} over {statistics.duration_us / 1e6:.3f} s",
            "events": f"{statistics.total('on') + statistics.total('off'):,}",
            "invalid": counted(self.recording.invalid, self.recording.first_invalid),
            "repaired": counted(self.recording.repaired),
            "found": f"{statistics.total('detections'):,} detections, {statistics.table.count:,} tracks",
            "speed": speed(statistics, self.computing_s),
            "tracks": f"{self.folder / 'tracks.txt'}, {self.folder / 'tracks_bbox.npy'}",
            "video": video,
            "report": str(self.report_path),
        }


def speed(statistics: RunStatistics, computing_s: float) -> str:
    """Steps per second of computing, and how that compares with the time the steps span."""
    if not statistics.steps:
        return "no time step"
    rate = statistics.steps / max(computing_s, 1e-9)
    return f"{rate:.1f} steps/s, {statistics.duration_us / 1e6 / max(computing_s, 1e-9):.2f}x real time"


def track_recording(
    recording: Recording,
    detector: Detector,
    tracking: TrackerSettings,
    folder: str | Path,
    *,
    weights: str,
    start_us: int | None = None,
    end_us: int | None = None,
    video: bool = True,
    on_step: Callable[[int, int | None, str], None] = lambda done, total, name: None,
) -> dict[str, str]:
    """Detect and track a recording, or the part [start_us, end_us) of it, into a folder (see `TrackOutput`).

    weights: how the report names the detector. on_step(done, total, name) is called after each step, with total None
    where the end is not known. Returns the facts of the run as printable lines.
    """
    slice_us = detector.input.slice_us
    if tracking.lost_us < slice_us:
        raise SettingsError(
            f"tracking.lost_us = {tracking.lost_us} is less than the time step of {slice_us} us: every track would end "
            "after one step"
        )
    total = (end_us - start_us) // slice_us if start_us is not None and end_us is not None else None
    height, width = detector.input.size(recording.height, recording.width)
    run = {
        "Weights": weights,
        "Network": f"{detector.name}, input {width} x {height} pixels",
        "Time step": f"{slice_us / 1000:g} ms, {detector.input.representation} of {detector.input.bins} bins",
        "Tracker": f"{tracking.method}, tracks end {tracking.lost_us / 1e6:g} s after their last detection",
    }
    with TrackOutput(folder, recording, detector.class_names, video=video, run=run) as output:
        steps = track(detector.detect(recording, start_us=start_us, end_us=end_us), build_tracker(tracking))
        for done, step in enumerate(steps, start=1):
            output.append(step)
            on_step(done, total, recording.path.name)
    return output.summary()
